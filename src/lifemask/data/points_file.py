"""Points of one photo as text: iBUG's `.pts`, plain rows of numbers, JSON."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from lifemask.assets import UserError

SUFFIXES = (".pts", ".txt", ".json")
_BODY = re.compile(r"\{(.*)\}", re.DOTALL)
_DECLARED = re.compile(r"n_points\s*:\s*(\d+)")


def read_points(path: Path) -> Float[ndarray, "n d"]:
    """Points (n, 2 or 3) of one photo, as stored: whether they count from 0 or 1 is not converted.

    `.pts` is iBUG's format, `version: 1`, `n_points: 68`, then rows of numbers in braces; by its
    definition it counts pixels from 1 (Matlab). `.txt` has one point per row, or one coordinate
    per row if there are two or three rows. `.json` is a list of points or {"landmarks": [...]}.

    Raises:
        UserError: the file cannot be read or does not hold points.
    """
    text = _text(path)
    try:
        if path.suffix == ".json":
            content = json.loads(text)
            rows = content["landmarks"] if isinstance(content, dict) else content
            points = np.array(rows, dtype=np.float64)
        else:
            body = _BODY.search(text)
            if path.suffix == ".pts" and body is None:
                raise ValueError("no braces")
            points = _rows(body.group(1) if body else text)
            declared = _DECLARED.search(text)
            if declared and int(declared.group(1)) != len(points):
                raise ValueError(f"says {declared.group(1)} points and has {len(points)}")
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(f"{path} does not hold points: {error}") from error
    if points.ndim == 2 and points.shape[0] in (2, 3) and points.shape[1] > 3:
        points = points.T
    if points.ndim != 2 or points.shape[1] not in (2, 3) or not np.isfinite(points).all():
        raise UserError(f"{path} does not hold finite points x y or x y z; shape {points.shape}")
    return points


def _rows(text: str) -> ndarray:
    rows = [line.replace(",", " ").split() for line in text.splitlines()]
    return np.array([[float(word) for word in row] for row in rows if row], dtype=np.float64)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {path}: {error}") from error
