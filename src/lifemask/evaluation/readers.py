"""Predictions in the forms other systems write them, read into `Predictions`; each step recorded.

- "npz": our file (`evaluation.predictions`), or one with `landmarks` (n, k, 2 or 3), k = 68, 468
  or 478, in place of `landmarks68`.
- "array": one `.npy` or `.mat` for the whole set, in the data set's order, (n, 68, 2 or 3) or
  (n, 2 or 3, 68), as 3DDFA's and 2DASL's scripts keep them; rows of NaN or zeros are misses.
- "pts": a folder with `NAME.pts`, `.txt` or `.json` per photo, also `NAME_kpt.txt` as PRNet writes
  it; an absent file is a miss.

Points of MediaPipe's 478 (or the first 468) are brought to 68 by `facemodel.landmarks`.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray

from lifemask.assets import UserError
from lifemask.data.npz import read_npz
from lifemask.data.points_file import SUFFIXES, read_points
from lifemask.evaluation.predictions import Predictions, load_predictions
from lifemask.facemodel.landmarks import MEDIAPIPE_TO_68, convert

Form = Literal["auto", "npz", "array", "pts"]
FORMS: tuple[Form, ...] = ("auto", "npz", "array", "pts")


@dataclass(frozen=True)
class PointOptions:
    """How predictions are read and which part of a protocol is scored.

    Attributes:
        form: a key of `FORMS`; "auto" goes by the path: a folder is "pts", `.npz` is "npz",
            `.npy` and `.mat` are "array".
        one_based: the predictions count pixels from 1; 1 is subtracted from u and v.
        per_image: keep the errors of single images in the result, for curves and comparisons.
        subset: part of the data set that is scored; "all" unless a published number needs another.
        dense: dense predictions (AFLW2000-3D): npz or folder, see `evaluation.aflw2000_dense`.
        basis: face model of the dense truth, see `aflw2000_dense.load_dense_basis`.
    """

    form: Form = "auto"
    one_based: bool = False
    per_image: bool = True
    subset: str = "all"
    dense: Path | None = None
    basis: Path | None = None


def read_predictions(
    path: str | Path, names: tuple[str, ...], options: PointOptions = PointOptions()
) -> tuple[Predictions, dict[str, Any]]:
    """Predictions in any known form, and how they were read.

    Args:
        path: file or folder.
        names: the data set's images; the order of "array", the file names of "pts".
        options: form and pixel origin.

    Returns:
        The predictions, and a JSON-ready dict: file, sha256, meta and "read_as" with every
        conversion that was made.

    Raises:
        UserError: an unknown form, or content that does not fit it; the message says what is
            expected.
    """
    path = Path(path)
    form = _form(path, options.form)
    read = {"npz": _from_npz, "array": _from_array, "pts": _from_folder}[form]
    predictions, steps = read(path, names)
    if options.one_based:
        points = predictions.landmarks68 - [1.0, 1.0, 0.0]
        predictions = _with_points(predictions, points)
        steps = [*steps, "1 subtracted from u and v"]
    origin = {
        "file": path.name,
        "sha256": _digest(path),
        "meta": dict(predictions.meta),
        "read_as": {"form": form, "one_based": options.one_based, "conversions": steps},
    }
    return predictions, origin


def to_68(points: Float[ndarray, "n k d"]) -> tuple[Float[ndarray, "n 68 3"], list[str]]:
    """68 points (n, 68, 3) from 68, 468 or 478, with NaN for a missing w; and the steps taken.

    Raises:
        ValueError: another number of points or coordinates.
    """
    steps = []
    if points.ndim != 3 or points.shape[-1] not in (2, 3):
        raise ValueError(f"expected (n, points, 2 or 3), got {points.shape}")
    count = points.shape[1]
    if count == 478:
        points = convert(torch.from_numpy(points), "mediapipe478", "ict68").numpy()
    elif count == 468:  # the mesh without irises, which the table does not use
        points = points[:, list(MEDIAPIPE_TO_68)]
    elif count != 68:
        raise ValueError(f"expected 68 points (or MediaPipe's 468 or 478), got {count}")
    if count != 68:
        steps.append(f"68 of MediaPipe's {count} points; its contour has another definition")
    if points.shape[-1] == 2:
        points = np.concatenate([points, np.full_like(points[..., :1], np.nan)], axis=-1)
    return points, steps


def _form(path: Path, form: str) -> Form:
    if form not in FORMS:
        raise UserError(f"unknown form {form!r}; valid: {', '.join(FORMS)}")
    if not path.exists():
        raise UserError(f"{path} does not exist")
    if form != "auto":
        if (form == "pts") != path.is_dir():
            what = "a folder" if form == "pts" else "a file"
            raise UserError(f"form {form!r} reads {what}, and {path} is not one")
        return form  # pyright: ignore[reportReturnType]
    if path.is_dir():
        return "pts"
    return "array" if path.suffix in (".npy", ".mat") else "npz"


def _from_npz(path: Path, names: tuple[str, ...]) -> tuple[Predictions, list[str]]:
    arrays = read_npz(path)
    if "landmarks68" in arrays or "landmarks" not in arrays:
        return load_predictions(path), []
    try:
        points, steps = to_68(np.asarray(arrays["landmarks"], np.float64))
        found = np.asarray(arrays.get("found", ~np.isnan(points[..., :2]).any((1, 2))), bool)
        listed = tuple(str(name) for name in arrays["names"])
        pose = np.full((len(listed), 3), np.nan)
        meta = json.loads(str(arrays["meta"])) if "meta" in arrays else {}
        return Predictions(listed, found, points, pose, meta), steps
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(f"{path} is not a prediction file: {error}") from error


def _from_array(path: Path, names: tuple[str, ...]) -> tuple[Predictions, list[str]]:
    stored = _array(path)
    steps: list[str] = []
    if stored.ndim == 3 and stored.shape[1] in (2, 3) and stored.shape[2] > 3:
        stored = np.swapaxes(stored, 1, 2)
        steps.append("(n, coordinates, points) transposed")
    if len(stored) != len(names):
        raise UserError(
            f"{path} has {len(stored)} rows and the data set {len(names)} images: an array must"
            " have one row per image, in name order"
        )
    try:
        points, more = to_68(stored.astype(np.float64))
    except ValueError as error:
        raise UserError(f"{path} does not hold landmarks: {error}") from error
    missing = np.isnan(points[..., :2]).any(axis=(1, 2)) | (points[..., :2] == 0).all(axis=(1, 2))
    if missing.any():
        steps.append(f"{int(missing.sum())} rows of NaN or zeros counted as misses")
    pose = np.full((len(names), 3), np.nan)
    return Predictions(names, ~missing, points, pose, {"source": path.name}), steps + more


def _array(path: Path) -> ndarray:
    """The numbers of a `.npy`, or the one three-dimensional array of a `.mat`."""
    try:
        if path.suffix == ".mat":
            from scipy.io import loadmat

            found = {k: v for k, v in loadmat(str(path)).items() if np.ndim(v) == 3}
            if len(found) != 1:
                raise ValueError(f"{len(found)} arrays have three dimensions, not one")
            stored = next(iter(found.values()))
        else:
            stored = np.load(path, allow_pickle=False)
        if stored.dtype.kind not in "fiu":
            raise ValueError(f"it holds {stored.dtype}, not numbers")
    except Exception as error:  # scipy and numpy raise many kinds on broken files
        raise UserError(f"{path} is not an array of landmarks: {error}") from error
    if stored.ndim != 3:
        raise UserError(f"{path} must have shape (n, 68, 2 or 3) or (n, 2 or 3, 68), not"
                        f" {stored.shape}")  # fmt: skip
    return stored


def _from_folder(path: Path, names: tuple[str, ...]) -> tuple[Predictions, list[str]]:
    points = np.full((len(names), 68, 3), np.nan)
    found = np.zeros(len(names), bool)
    steps: list[str] = []
    for row, name in enumerate(names):
        file = _point_file(path, name)
        if file is None:
            continue
        try:
            converted, more = to_68(read_points(file)[None])
        except ValueError as error:
            raise UserError(f"{file} does not hold landmarks: {error}") from error
        points[row], found[row] = converted[0], True
        steps = more or steps
    if not found.any():
        raise UserError(
            f"{path} has no point file for any of the {len(names)} images, e.g. {names[0]}.pts"
        )
    pose = np.full((len(names), 3), np.nan)
    return Predictions(names, found, points, pose, {"source": path.name}), steps


def _point_file(folder: Path, name: str) -> Path | None:
    options = [folder / f"{name}{suffix}" for suffix in SUFFIXES] + [folder / f"{name}_kpt.txt"]
    return next((path for path in options if path.is_file()), None)


def _with_points(predictions: Predictions, points: ndarray) -> Predictions:
    return Predictions(
        predictions.names, predictions.found, points, predictions.pose_deg, predictions.meta
    )


def _digest(path: Path) -> str:
    """sha256 of a file, or of the names and contents of a folder's files."""
    if path.is_file():
        return hashlib.sha256(path.read_bytes()).hexdigest()
    digest = hashlib.sha256()
    for file in sorted(p for p in path.rglob("*") if p.is_file()):
        digest.update(file.relative_to(path).as_posix().encode() + b"\0")
        digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()
