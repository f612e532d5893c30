"""Landmarks that a user brings: arrays and files, checked, with one clear line where they fail."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike

from lifemask.assets import UserError
from lifemask.types import Landmarks

CONVENTION_BY_COUNT = {
    21: "aflw21",
    68: "ict68",
    392: "lifemask392",
    468: "mediapipe478",
    478: "mediapipe478",
}
_SIGMA_SHARE = 0.012  # of the landmark box's size: what careful clicks on a face scatter by


def load_landmarks(
    path: str | Path,
    convention: str | None = None,
    image_size: tuple[int, int] | None = None,
) -> Landmarks:
    """Landmarks of one face from a file.

    `.npz`: `points` or `landmarks` (n, 2 or 3), optionally `sigma_px` (n,), `visible` (n,) and
    `convention`. `.json`: the same keys in an object, or the bare list of points. `.pts`: the
    iBUG format, whose pixels count from 1. `.csv`: a row `u,v` or `u,v,w` per point, with or
    without a line of names above. Other coordinates are photo px as everywhere: 0-based,
    u right, v down, w nearness.

    Args:
        path: the file.
        convention: landmark set; None takes the file's own, else the one with that many points.
        image_size: (width, height) of the photo in px, to check that the points lie in it.

    Raises:
        UserError: the file cannot be read or its points cannot be landmarks of a face.
    """
    path = Path(path)
    readers = {".npz": _read_npz, ".json": _read_json, ".csv": _read_csv, ".pts": _read_pts}
    if path.suffix.lower() not in readers:
        known = ", ".join(readers)
        raise UserError(f"{path}: unknown landmark format {path.suffix!r}; known: {known}")
    try:
        content = readers[path.suffix.lower()](path)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from error
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: not a landmark file ({error})") from error
    points = content.get("points", content.get("landmarks"))
    if points is None:
        raise UserError(f"{path}: has neither 'points' nor 'landmarks'")
    convention = convention or (str(content["convention"]) if "convention" in content else None)
    return landmarks_from_points(
        points,
        convention,
        content.get("sigma_px"),
        content.get("visible"),
        image_size,
        str(path),
    )


def landmarks_from_points(
    points: ArrayLike,
    convention: str | None = None,
    sigma_px: ArrayLike | None = None,
    visible: ArrayLike | None = None,
    image_size: tuple[int, int] | None = None,
    source: str = "landmarks",
) -> Landmarks:
    """Checked `Landmarks` from any array of points.

    Args:
        points: (n, 2 or 3) photo px.
        convention: landmark set; None takes the one with n points.
        sigma_px: (n,) or one number, > 0; None for 1.2 % of the size of the points' box.
        visible: (n,) False where a point is not known; its coordinates may be anything.
        image_size: (width, height) of the photo in px.
        source: what an error message calls the points.

    Raises:
        UserError: wrong shape or count, points that are not finite, all in one place, or outside
            the photo.
    """
    xy = _array(points, source)
    if xy.ndim != 2 or xy.shape[1] not in (2, 3):
        raise UserError(f"{source}: expected points of shape (n, 2) or (n, 3), got {xy.shape}")
    n = len(xy)
    seen = np.ones(n, bool) if visible is None else _array(visible, source).astype(bool)
    if seen.shape != (n,):
        raise UserError(f"{source}: 'visible' has shape {seen.shape}, expected ({n},)")
    if convention is None:
        if n not in CONVENTION_BY_COUNT:
            known = ", ".join(f"{k} ({v})" for k, v in CONVENTION_BY_COUNT.items())
            raise UserError(f"{source}: {n} points fit no landmark set; known counts: {known}")
        convention = CONVENTION_BY_COUNT[n]
    _check_points(xy, seen, image_size, source)
    size = float(np.sqrt(np.prod(np.ptp(xy[seen, :2], axis=0))))
    sigma = np.full(n, max(_SIGMA_SHARE * size, 0.5))
    if sigma_px is not None:
        given = _array(sigma_px, source)
        if given.shape not in ((), (n,)) or not (np.broadcast_to(given, (n,))[seen] > 0).all():
            raise UserError(f"{source}: 'sigma_px' must hold {n} positive numbers")
        sigma = np.broadcast_to(given, (n,)).copy()
    sigma[~seen] = np.inf
    depth = np.full((n, 1), np.nan)
    return Landmarks(
        torch.tensor(np.concatenate((xy, depth), 1)[:, :3], dtype=torch.float32),
        torch.tensor(sigma, dtype=torch.float32),
        convention,
    )


def _array(values: ArrayLike, source: str) -> np.ndarray:
    try:
        return np.asarray(values, dtype=np.float64)
    except (ValueError, TypeError) as error:
        raise UserError(f"{source}: not a table of numbers ({error})") from error


def _check_points(
    points: np.ndarray, seen: np.ndarray, image_size: tuple[int, int] | None, source: str
) -> None:
    bad = np.flatnonzero(seen & ~np.isfinite(points).all(1))
    if len(bad):
        raise UserError(f"{source}: point {bad[0]} is not finite ({len(bad)} such points)")
    xy = points[seen, :2]
    if len(xy) < 6:
        raise UserError(f"{source}: a fit needs at least 6 visible points, got {len(xy)}")
    if np.ptp(xy, axis=0).min() < 1:
        raise UserError(f"{source}: all points lie on one line; are the columns (u, v) in px?")
    if image_size is None:
        return
    size = np.array(image_size)
    outside = ((xy < -0.5) | (xy > size - 0.5)).any(1)
    far = ((xy < -size) | (xy > 2 * size)).any()
    if far or outside.mean() > 0.5:
        raise UserError(
            f"{source}: {int(outside.sum())} of {len(xy)} points lie outside the photo "
            f"({size[0]} x {size[1]} px)"
        )


def _read_npz(path: Path) -> dict[str, Any]:
    import zipfile

    try:
        with np.load(path, allow_pickle=False) as archive:
            return {key: archive[key] for key in archive.files}
    except (zipfile.BadZipFile, EOFError, AttributeError) as error:
        raise ValueError(f"no npz archive: {error}") from error


def _read_json(path: Path) -> dict[str, Any]:
    content = json.loads(path.read_text(encoding="utf-8"))
    return content if isinstance(content, dict) else {"points": content}


def _read_pts(path: Path) -> dict[str, Any]:
    text = path.read_text(encoding="utf-8")
    if "{" not in text or "}" not in text:
        raise ValueError("a .pts file lists its points between braces")
    rows = [line.split() for line in text[text.index("{") + 1 : text.index("}")].splitlines()]
    points = np.array([[float(x) for x in row] for row in rows if row])
    return {"points": points - 1 if points.size else points}


def _read_csv(path: Path) -> dict[str, Any]:
    lines = path.read_text(encoding="utf-8-sig").splitlines()
    rows = [line.split(",") for line in lines if line.strip()]
    if rows and not _is_number(rows[0][0]):
        rows = rows[1:]
    return {"points": np.array([[float(x) for x in row] for row in rows])}


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
