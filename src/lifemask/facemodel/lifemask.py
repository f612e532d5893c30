"""The default head model of lifemask, from its committed asset `weights/head_model.safetensors`."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from lifemask import assets
from lifemask.facemodel.linear import LinearFaceModel, load_linear_model

ASSET = "head_model"


@lru_cache(maxsize=2)
def load(path: Path | None = None) -> LinearFaceModel:
    """The head model; loaded once per process, in float32 on the CPU.

    Args:
        path: another safetensors file of the same layout; None for the committed one.

    Raises:
        AssetError: the file is missing or damaged.
    """
    if path is not None and not Path(path).is_file():
        raise assets.AssetError(f"no head model at {path}; leave the path out for the built-in one")
    return load_linear_model(Path(path) if path else assets.weights_path(ASSET), "lifemask")
