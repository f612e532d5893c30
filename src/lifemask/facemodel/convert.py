"""Face models from their authors' files to one npz each, once: `lifemask assets convert MODEL`.

The authors' files are pickles, .mat, .h5, .bin and .obj; they are read by code that executes
nothing in them (`_pickle`, `_readers`, `_cereal`), and the loaders read only the npz.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from lifemask.assets import AssetError, external, models_folder, sha256
from lifemask.facemodel import _geometry as geometry
from lifemask.facemodel._container import ModelArrays, write_model
from lifemask.facemodel._readers import source_files

VERSION = 1
SUFFIXES = (".pkl", ".npy", ".npz", ".mat", ".bin", ".txt", ".h5", ".hdf5", ".obj", ".json")

READERS: dict[str, str] = {
    "flame2020": "lifemask.facemodel._flame_files:read_files",
    "flame2023": "lifemask.facemodel._flame_files:read_files",
    "bfm2009": "lifemask.facemodel.bfm:read_2009",
    "bfm2017": "lifemask.facemodel.bfm:read_2017",
    "sfm": "lifemask.facemodel.sfm:read_files",
}
"""Functions from source files to (arrays, variant), by model."""


def convert(model: str, sources: Sequence[Path], out: Path | None = None) -> Path:
    """Writes a face model as one npz; the file appears whole or not at all.

    Args:
        model: a key of `READERS`, or "ict".
        sources: files and folders from the model's authors; `docs/face-models.md` lists them.
        out: the npz; None for `NAME.npz` in `lifemask.assets.models_folder()`.

    Returns:
        The file's path. Its header says model, variant, licence, the converter's version, the
        sha256 of each source file, and how far the mirror table is from a perfect mirror.

    Raises:
        AssetError: unknown model, files that are missing, damaged or not harmless.
    """
    if model != "ict" and model not in READERS:
        raise AssetError(f"cannot convert {model!r}; known: {', '.join(('ict', *READERS))}")
    asset = external(model)
    if not sources:
        raise AssetError(f"no files of {model} are given: {asset.remedy}")
    if out is None:
        out = models_folder() / f"{model}.npz"
        out.parent.mkdir(parents=True, exist_ok=True)
    header: dict[str, Any] = {
        "model": model,
        "licence": asset.licence,
        "page": asset.sources[0],
        "converter": VERSION,
        "sources": {p.name: sha256(p) for p in source_files(sources) if p.suffix in SUFFIXES},
    }
    if model == "ict":
        from lifemask.facemodel import ict

        if len(sources) != 1 or not sources[0].is_dir():
            raise AssetError(f"ict is converted from one folder: {ict.REMEDY}")
        return ict.convert(sources[0], out, header)
    module, function = READERS[model].split(":")
    read: Callable[[Sequence[Path]], tuple[ModelArrays, str]]
    read = getattr(import_module(module), function)
    arrays, header["variant"] = read(sources)
    residual = geometry.mirror_residual(arrays.mean, arrays.mirror)
    header["mirror_residual_mm"] = {"mean": float(residual.mean()), "max": float(residual.max())}
    return write_model(arrays, header, out)
