"""Where a network looks in a photo, and how what it says of a crop becomes a head in the photo."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from lifemask.facemodel.base import FaceModel
from lifemask.facemodel.landmarks import convert
from lifemask.faces.crop import Box, square_box
from lifemask.faces.landmarker import face_square, quarter_turns
from lifemask.graphics.camera import camera_from_crop, camera_turned_back
from lifemask.methods._coefficients import CoefficientHead
from lifemask.methods._targets import HeadLabels
from lifemask.nn.parametric import LENGTH_MM
from lifemask.types import Camera, Crop, Face, Geometry, Landmarks, ModelParams


class Place(NamedTuple):
    """A square in a photo.

    Attributes:
        center: (u, v) photo px; side: px.
        turns: counter-clockwise quarter turns that bring the face upright.
        guess: it follows from a detector's box alone, so a second look pays.
    """

    center: tuple[float, float]
    side: float
    turns: int = 0
    guess: bool = False

    def moved(self, points: Float[Tensor, "68 d"]) -> Place:
        """The square of these landmarks, turned as this one."""
        return Place(*square_box(points), self.turns)


def first_place(face: Face | Box, points: Float[Tensor, "68 d"] | None) -> Place:
    """Where to look first.

    Args:
        face: a detected face, or the landmark square itself as a box in photo px. A face that lies
            on its side, by its five points, is turned upright.
        points: landmarks in photo px that place the crop of a detected face; None: its box does.
    """
    if not isinstance(face, Face):
        x0, y0, x1, y1 = face
        return Place(((x0 + x1) / 2, (y0 + y1) / 2), max(x1 - x0, y1 - y0))
    turns = quarter_turns(face.points5) if face.points5 is not None else 0
    if points is not None:
        return Place(*square_box(points), turns)
    return Place(*face_square(face.box, turns), turns, True)


def scored_points(landmarks: Landmarks, head: CoefficientHead) -> Float[Tensor, "68 d"] | None:
    """The 68 points that maps and crops are made from, None where they do not follow."""
    points = landmarks.points.detach().cpu().float()
    for name in (head.scored, *head.sets68):
        try:
            return convert(points, landmarks.convention, name)
        except (KeyError, ValueError):
            continue
    return points if landmarks.convention.startswith("ibug68") else None


def head_geometry(
    model: FaceModel, labels: HeadLabels, row: int, crop: Crop, turns: int
) -> Geometry:
    """The head in the photo that labels of an upright crop describe.

    Args:
        model: the face model.
        labels: of some crops.
        row: which of them.
        crop: as it was cut from the photo, before it was turned.
        turns: quarter turns that brought it upright.
    """
    camera = camera_turned_back(crop_camera(labels, row, crop.size), turns, crop.size)
    camera = camera_from_crop(camera, crop.center_px, crop.side_px, crop.size)
    expression = _within_range(labels.expression[row], model)
    with torch.no_grad():
        vertices = model(labels.identity[row], expression)
    has68 = "ict68" in model.landmark_embeddings
    return Geometry(
        vertices_mm=vertices,
        faces=model.topology.faces,
        camera=camera,
        model=model.name,
        params=ModelParams(labels.identity[row], expression),
        landmarks68_mm=model.landmarks(vertices, "ict68") if has68 else None,
    )


def crop_camera(labels: HeadLabels, row: int, size: int) -> Camera:
    """Orthographic camera to crop px of some labels' head."""
    half = size / 2
    shift = (labels.shift[row] + 1) * half - 0.5
    zero = shift.new_zeros(1)
    return Camera(
        "orthographic",
        labels.rotation[row],
        torch.cat((shift, zero)),
        labels.scale[row] * half / LENGTH_MM,
        shift.new_zeros(2),
    )


def _within_range(expression: Tensor, model: FaceModel) -> Tensor:
    if model.expression_range is None:
        return expression.clamp(0, 1)
    low, high = expression.new_tensor(model.expression_range).T
    return torch.minimum(torch.maximum(expression, low), high)
