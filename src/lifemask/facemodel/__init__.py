"""Parametric face models: parameters to vertices, landmarks and regions."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

from lifemask.facemodel.base import FaceModel

FACE_MODELS: dict[str, str] = {
    "lifemask": "lifemask.facemodel.lifemask:load",
    "ict": "lifemask.facemodel.ict:load",
    "flame2020": "lifemask.facemodel.flame:load_2020",
    "flame2023": "lifemask.facemodel.flame:load_2023",
    "bfm2009": "lifemask.facemodel.bfm:load_2009",
    "bfm2017": "lifemask.facemodel.bfm:load_2017",
    "sfm": "lifemask.facemodel.sfm:load",
}


def load_face_model(name: str = "lifemask", path: str | Path | None = None) -> FaceModel:
    """A face model by name.

    Args:
        name: key of `FACE_MODELS`.
        path: where its file is; the default model brings its own, the others are looked for in
            `lifemask.assets.models_folder()`.

    Raises:
        KeyError: unknown name; the message lists those that exist.
        lifemask.assets.AssetError: files are missing or damaged.
    """
    if name not in FACE_MODELS:
        raise KeyError(f"unknown face model {name!r}; known: {', '.join(FACE_MODELS)}")
    module, function = FACE_MODELS[name].split(":")
    return getattr(import_module(module), function)(None if path is None else Path(path))
