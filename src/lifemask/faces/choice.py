"""Which faces of a photo are reconstructed, and faces from what a user gives in their place."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import UInt8

from lifemask.assets import UserError
from lifemask.types import Face, Landmarks

log = logging.getLogger(__name__)

MIN_FACE_PX = 32


class NoFaceError(UserError):
    """The photo shows no face that can be reconstructed."""


def largest_first(faces: Sequence[Face]) -> list[Face]:
    """Faces by the area of their box; those half as sure as the surest come last."""
    best = max((face.score for face in faces), default=0.0)
    return sorted(faces, key=lambda f: (f.score < best / 2, -(side_px(f) ** 2)))


def usable_faces(faces: Sequence[Face], image: UInt8[np.ndarray, "h w 3"]) -> list[Face]:
    """Faces that are large enough.

    Raises:
        NoFaceError: there is none.
    """
    if not faces:
        raise NoFaceError(
            "no face found; if there is one, give its box or landmarks, or a larger photo"
        )
    large = [face for face in faces if side_px(face) >= MIN_FACE_PX]
    if not large:
        raise NoFaceError(
            f"the largest face is only {max(map(side_px, faces)):.0f} px wide; "
            f"a reconstruction needs {MIN_FACE_PX} px"
        )
    if len(large) < len(faces):
        log.warning("%d faces under %d px left out", len(faces) - len(large), MIN_FACE_PX)
    return large


def side_px(face: Face) -> float:
    """Geometric mean of the box's sides."""
    x0, y0, x1, y1 = face.box
    return float(np.sqrt(max(x1 - x0, 0) * max(y1 - y0, 0)))


def face_of_box(box: Sequence[float]) -> Face:
    """A face from a box (x0, y0, x1, y1) in photo px that a user gives.

    Raises:
        UserError: not four finite numbers, or a box without extent.
    """
    values = [float(v) for v in box]
    if len(values) != 4 or not np.isfinite(values).all():
        raise UserError(f"a box is four numbers x0, y0, x1, y1 in photo px, not {list(box)}")
    x0, y0, x1, y1 = values
    if x1 <= x0 or y1 <= y0:
        raise UserError(f"box {list(box)} is empty: x0 < x1 and y0 < y1 are needed")
    return Face((x0, y0, x1, y1), 1.0)


def face_of_landmarks(landmarks: Landmarks) -> Face:
    """A face whose box holds the seen landmarks exactly; a point without a finite sigma is unseen.

    Raises:
        UserError: no landmark is seen.
    """
    seen = landmarks.points[torch.isfinite(landmarks.sigma_px), :2]
    seen = seen[seen.isfinite().all(-1)]
    if len(seen) == 0:
        raise UserError("none of the landmarks is visible")
    low, high = seen.amin(0).tolist(), seen.amax(0).tolist()
    return Face((low[0], low[1], high[0], high[1]), 1.0)
