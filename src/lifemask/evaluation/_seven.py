"""The seven points that NoW and the FG2018 challenge align with, from what a system gives."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from lifemask.assets import UserError
from lifemask.data._scan_files import checked_points, read_number_rows
from lifemask.evaluation.meshes import MeshPredictions

SEVEN_FROM_68 = (36, 39, 42, 45, 33, 48, 54)
"""Rows of an iBUG-68 set: eye corners from image left to right, nose bottom, mouth corners."""


def seven_landmarks(
    predictions: MeshPredictions, name: str, convention: str
) -> Float[ndarray, "7 3"] | None:
    """The seven points of a predicted mesh, in its frame; None if the system gave none.

    Looked for in this order: the set `convention` of `NAME.landmarks.json`; the benchmark's own
    `NAME.npy` or `NAME.txt` beside the mesh; an iBUG-68 set of the JSON.

    Raises:
        UserError: a file is there but does not hold seven points.
    """
    own = predictions.landmarks(name, convention)
    if own is not None:
        return checked_points(own, 7, predictions.folder / name)
    official = _official(predictions.folder, name)
    if official is not None:
        return official
    for whole in ("ict68", "ibug68-3d-bfm"):
        points = predictions.landmarks(name, whole)
        if points is not None:
            return checked_points(points, 68, predictions.folder / name)[list(SEVEN_FROM_68)]
    return None


def _official(folder: Path, name: str) -> ndarray | None:
    """`NAME.npy`, (7, 3) or (1, 7, 3), or `NAME.txt`, seven rows of three numbers."""
    array = folder / f"{name}.npy"
    if array.is_file():
        try:
            points = np.load(array, allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise UserError(f"{array} is not an array of points: {error}") from error
        points = points[0] if points.ndim == 3 and len(points) == 1 else points
        return checked_points(points.astype(np.float64), 7, array)
    text = folder / f"{name}.txt"
    return checked_points(read_number_rows(text), 7, text) if text.is_file() else None
