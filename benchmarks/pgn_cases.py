"""Pictures of heads of which everything is known, and what our systems say of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import roma
import torch
from numpy import ndarray
from torch import Tensor

from lifemask.data.synthetic_heads import SyntheticHeads
from lifemask.facemodel.base import FaceModel
from lifemask.faces.crop import Box, crop_square
from lifemask.faces.image import load_image
from lifemask.graphics.camera import project
from lifemask.methods._targets import HeadLabels
from lifemask.methods.pgn import PgnPredictor
from lifemask.nn.parametric import LENGTH_MM
from lifemask.training.dasl_labels import NEARNESS_WEIGHT, fit_orthographic, landmark_function
from lifemask.training.pgn_data import PgnFaces
from lifemask.types import Camera, Geometry

SCORED = "ibug68-3d-bfm"
LABEL_SET = "lifemask392"


@dataclass(frozen=True)
class Answers:
    """Heads of n pictures under scaled orthographic cameras, in photo px.

    Attributes:
        identity: (n, i).
        expression: (n, e).
        camera: batched.
    """

    identity: Tensor
    expression: Tensor
    camera: Camera


@dataclass(frozen=True)
class Cases:
    """n pictures with the same square in each.

    Attributes:
        name: of the set.
        image: a picture (h, w, 3) uint8 by number.
        box: the landmark square, edges in px.
        person: (n,).
        truth: coefficients and the best orthographic cameras.
        cameras: the true cameras, one by one.
        model: the face model of all of them.
        width_px: of the pictures.
    """

    name: str
    image: Callable[[int], ndarray]
    box: Box
    person: ndarray
    truth: Answers
    cameras: Sequence[Camera]
    model: FaceModel
    width_px: int

    def __len__(self) -> int:
        """Number of pictures."""
        return len(self.person)

    @cached_property
    def rotation(self) -> Tensor:
        """(n, 3, 3) of the true cameras."""
        return torch.stack([camera.rotation for camera in self.cameras])

    @cached_property
    def sight(self) -> Tensor:
        """(n, 3, 3) the turn from the optical axis to the line of sight to the face."""
        shape = landmark_function(self.model, LABEL_SET)(
            torch.zeros(1, self.model.identity_size),
            torch.zeros(1, len(self.model.expression_names)),
        )
        place = shape.mean(1)[0]
        ahead = torch.tensor([0.0, 0.0, -1.0])
        return turn_to_sight(
            torch.stack(
                [c.rotation @ place + c.translation if c.model == "pinhole" else ahead
                 for c in self.cameras]
            )
        )  # fmt: skip

    @cached_property
    def rotation_seen(self) -> Tensor:
        """(n, 3, 3) against the line of sight, which is all that a crop shows."""
        return self.sight.transpose(1, 2) @ self.rotation

    @property
    def focal_widths(self) -> ndarray:
        """(n,) focal length in image widths; infinite for orthographic cameras."""
        pinhole = np.array([camera.model == "pinhole" for camera in self.cameras])
        focal = np.array([float(camera.scale) for camera in self.cameras])
        return np.where(pinhole, focal / self.width_px, np.inf)

    def points(self, convention: str = SCORED) -> Tensor:
        """(n, k, 3) true landmarks in px, see `project`."""
        shape = landmark_function(self.model, convention)(
            self.truth.identity, self.truth.expression
        )
        return self.project(shape, range(len(self)))

    def project(self, points_mm: Tensor, rows: Sequence[int]) -> Tensor:
        """(b, k, 3) px of points (b, k, 3) in the model frames of some pictures.

        w is nearness along the line of sight, in px at the best orthographic camera's scale.
        """
        seen = torch.stack(
            [project(x, self.cameras[k]) for x, k in zip(points_mm, rows, strict=True)]
        )
        index = list(rows)
        toward = self.truth.camera.scale[index, None] * self.rotation_seen[index, 2]
        return torch.cat((seen[..., :2], points_mm @ toward[..., None]), -1)

    def crops(self, size: int) -> Tensor:
        """(n, 3, size, size) the squares, as a predictor cuts them."""
        center, side = square_of(self.box)
        return torch.stack(
            [crop_square(self.image(k), center, side, size).image for k in range(len(self))]
        )


def turn_to_sight(direction: Tensor) -> Tensor:
    """The smallest turns (n, 3, 3) from a camera's optical axis, -z, to directions (n, 3)."""
    unit = direction / direction.norm(dim=-1, keepdim=True)
    axis = torch.linalg.cross(unit.new_tensor([0.0, 0.0, -1.0]).expand_as(unit), unit)
    sine = axis.norm(dim=-1, keepdim=True)
    angle = torch.atan2(sine, -unit[:, 2:])
    return roma.rotvec_to_rotmat(axis / sine.clamp_min(1e-12) * angle)


def square_of(box: Box) -> tuple[tuple[float, float], float]:
    """Centre and side of a square box."""
    return ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2), box[2] - box[0]


def central_square(width_px: int, side_px: float) -> Box:
    """A square in the middle of a square picture, edges in px."""
    low, high = (width_px - 1 - side_px) / 2, (width_px - 1 + side_px) / 2
    return (low, low, high, high)


def renders(name: str, faces: PgnFaces, model: FaceModel) -> Cases:
    """Held-out renders as cases; one person each where the cache does not tell."""
    labels, seen, crops = faces.faces.labels, faces.cameras, faces.crops
    if labels is None or seen is None:
        raise ValueError(f"{name} does not say everything")
    cameras = []
    for k in range(len(faces)):
        rotation, shift, zoom, center = (
            torch.from_numpy(np.asarray(values[k], np.float32))
            for values in (seen.rotation, seen.translation_mm, seen.zoom, seen.center_px)
        )
        if seen.pinhole[k]:
            cameras.append(Camera("pinhole", rotation, shift, zoom, center))
        else:
            place = torch.cat((center, center.new_zeros(1)))
            cameras.append(Camera("orthographic", rotation, place, zoom, torch.zeros(2)))
    rows = (labels.rotation, labels.scale_px_per_mm, labels.shift_px)
    truth = Answers(
        torch.from_numpy(labels.identity),
        torch.from_numpy(labels.expression),
        orthographic(*(torch.from_numpy(np.asarray(x, np.float32)) for x in rows)),
    )
    person = np.arange(len(faces)) if crops.person is None else crops.person
    width = crops.images[0].shape[1]
    box = central_square(width, crops.nominal_side_px)
    return Cases(
        name, lambda k: crops.gather(np.array([k]))[0], box, person, truth, cameras, model, width
    )


def synthetic_heads(data: SyntheticHeads) -> Cases:
    """Held-out synthetic heads as cases."""
    identity, expression = (torch.from_numpy(data.labels[k]) for k in ("identity", "expression"))
    cameras = [data.camera(k) for k in range(len(data))]
    shape = landmark_function(data.model, LABEL_SET)(identity, expression)
    image = torch.stack([project(x, c) for x, c in zip(shape, cameras, strict=True)])
    fitted = fit_orthographic(shape, image, NEARNESS_WEIGHT)
    truth = Answers(
        identity, expression, orthographic(fitted.rotation, fitted.scale, fitted.translation[:, :2])
    )
    box = tuple(float(edge) for edge in data.boxes[0])
    paths = data.image_paths
    return Cases(
        "synthetic heads", lambda k: load_image(paths[k]), box, data.person, truth, cameras,
        data.model, int(data.header["image_size"]),
    )  # fmt: skip


def orthographic(rotation: Tensor, scale: Tensor, shift: Tensor) -> Camera:
    """A batch of scaled orthographic cameras."""
    translation = torch.cat((shift, torch.zeros_like(shift[:, :1])), 1)
    return Camera("orthographic", rotation, translation, scale, torch.zeros_like(shift))


def camera_of_labels(labels: HeadLabels, box: Box) -> Camera:
    """Cameras in photo px of labels in the half-crops of a square."""
    (u, v), side = square_of(box)
    shift = labels.shift * (side / 2) + labels.shift.new_tensor([u, v])
    return orthographic(labels.rotation, labels.scale * (side / 2) / LENGTH_MM, shift)


def pgn_answers(predictor: PgnPredictor, cases: Cases, crops: Tensor, config: Any) -> Answers:
    """What PGN says of each picture by itself, as its predictor does for a box."""
    parts = []
    for some in crops.split(64):
        labels = predictor.predict_crops(some, None, config).labels
        parts.append((labels.rotation, labels.scale, labels.shift, *coefficients(labels)))
    rotation, scale, shift, identity, expression = (
        torch.cat(column) for column in zip(*parts, strict=True)
    )
    labels = HeadLabels(rotation, scale, shift, identity, expression)
    return Answers(identity, expression, camera_of_labels(labels, cases.box))


def coefficients(labels: HeadLabels) -> tuple[Tensor, Tensor]:
    """Identity and expression."""
    return labels.identity, labels.expression


def pipeline_answers(method: str, weights: str, cases: Cases) -> Answers:
    """What a method of the pipeline says of each picture, without refinement."""
    from lifemask.pipeline import Pipeline, PipelineConfig

    config = PipelineConfig(weights=weights, method=method, refine=False, threads=1)  # type: ignore[arg-type]
    pipeline = Pipeline(config)
    return joined(
        [
            pipeline.find_geometry(pipeline.look(cases.image(k), cases.box))
            for k in range(len(cases))
        ]
    )


def joined(heads: Sequence[Geometry]) -> Answers:
    """Heads of the face model as one batch.

    Raises:
        ValueError: a head without parameters, or with another camera.
    """
    identity, expression, rotation, scale, shift = [], [], [], [], []
    for head in heads:
        if head.params is None or head.camera.model != "orthographic":
            raise ValueError("only heads of the face model under orthographic cameras compare")
        identity.append(head.params.identity)
        expression.append(head.params.expression)
        rotation.append(head.camera.rotation)
        scale.append(head.camera.scale)
        shift.append(head.camera.translation[:2])
    stacked = [torch.stack(x).float() for x in (identity, expression, rotation, scale, shift)]
    return Answers(stacked[0], stacked[1], orthographic(*stacked[2:]))
