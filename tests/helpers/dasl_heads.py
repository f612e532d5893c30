"""Heads for the tests of 2DASL: random coefficients, their points by an independent path, toys.

The path from labels to points goes through `FaceModel.forward` and `graphics.camera.project`, in
px, so that it shares nothing with the code under test.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from helpers.face_model_files import COLUMNS, ROWS, face_mask, landmark_vertices, modes
from lifemask.facemodel import load_face_model
from lifemask.facemodel.base import FaceModel, LandmarkEmbedding, Topology
from lifemask.facemodel.landmarks import flip_table
from lifemask.facemodel.linear import LinearFaceModel
from lifemask.graphics.camera import orthographic_camera, project, rotation_from_euler_deg
from lifemask.methods._coefficients import CoefficientHead, PoseKind
from lifemask.methods._targets import HeadLabels
from lifemask.types import Camera

SIZE = 120  # px of the crops that distances are told in


def crop_px(points: Tensor, size: int = SIZE) -> Tensor:
    """(u, v) or (u, v, w) in crop px of half-crops."""
    px = points * (size / 2)
    shift = px.new_tensor([size / 2 - 0.5, size / 2 - 0.5, 0.0])
    return px + shift[: points.shape[-1]]


def half_crops(points_px: Tensor, size: int = SIZE) -> Tensor:
    """Inverse of `crop_px`."""
    shift = points_px.new_tensor([size / 2 - 0.5, size / 2 - 0.5, 0.0])
    return (points_px - shift[: points_px.shape[-1]]) / (size / 2)


def camera_of(labels: HeadLabels, size: int = SIZE) -> Camera:
    """The camera to crop px that labels describe; model points in mm."""
    shift = (labels.shift + 1) * (size / 2) - 0.5
    return orthographic_camera(labels.rotation, labels.scale * (size / 2) / 100, shift)


def points_px(
    model: FaceModel, labels: HeadLabels, convention: str | None = None, size: int = SIZE
) -> Tensor:
    """Where the camera of labels puts a landmark set, or all vertices: (b, n, 3) crop px."""
    vertices = model(labels.identity, labels.expression)
    chosen = vertices if convention is None else model.landmarks(vertices, convention)
    return project(chosen, camera_of(labels, size))


def random_labels(
    model: FaceModel,
    count: int,
    seed: int = 0,
    yaw_deg: float = 40.0,
    spread: float = 1.0,
    dtype: torch.dtype = torch.float32,
) -> HeadLabels:
    """Heads about in the middle of the crop; a few expressions each."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=dtype)

    angles = normal(count, 3) * 8
    angles[:, 1] = (torch.rand(count, generator=generator, dtype=dtype) * 2 - 1) * yaw_deg
    expressions = len(model.expression_names)
    level = torch.rand(count, expressions, generator=generator, dtype=dtype)
    shown = torch.rand(count, expressions, generator=generator) < 6 / max(expressions, 1)
    return HeadLabels(
        rotation_from_euler_deg(angles),
        1.1 * (0.1 * normal(count)).exp(),
        0.1 * normal(count, 2),
        spread * normal(count, model.identity_size),
        level * shown,
    )


def turned(labels: HeadLabels, pitch_yaw_roll_deg: tuple[float, float, float]) -> HeadLabels:
    """The same heads, each turned by a fixed rotation in the camera frame."""
    turn = rotation_from_euler_deg(labels.rotation.new_tensor([pitch_yaw_roll_deg]))
    return HeadLabels(
        turn @ labels.rotation, labels.scale, labels.shift, labels.identity, labels.expression
    )


def whitened_head(pose: PoseKind = "rot6d", model: FaceModel | None = None) -> CoefficientHead:
    """A head with the whitening of random labels; of the default model if none is given."""
    model = load_face_model() if model is None else model
    head = CoefficientHead(model, pose)
    head.set_whitening(head.pack(random_labels(model, 400, seed=99)))
    return head


def mask_model(
    identities: int = 4, expressions: int = 2, convention: str = "ibug68-3d-bfm"
) -> LinearFaceModel:
    """A strictly linear face of 143 vertices in BFM's shape: signed expressions, no gains."""
    points, faces = face_mask()
    ids = torch.from_numpy(landmark_vertices(points))
    count = len(points)
    grid = torch.arange(count).view(ROWS, COLUMNS)
    topology = Topology(
        faces=torch.from_numpy(faces),
        uvs=torch.zeros(count, 2),
        faces_uv=torch.from_numpy(faces),
        face_part=torch.zeros(len(faces), dtype=torch.int64),
        part_names=("skin",),
        mirror=grid.flip(1).reshape(-1),
        regions={"face": torch.ones(count, dtype=torch.bool)},
    )
    embedding = LandmarkEmbedding(
        ids[:, None].repeat(1, 3), torch.full((68, 3), 1 / 3), flip_table(convention)
    )
    tensor = functools.partial(torch.tensor, dtype=torch.float32)
    return LinearFaceModel(
        "mask",
        tensor(points),
        tensor(modes(identities, points, 1)),
        tensor(modes(expressions, points, 2)),
        tuple(f"expression{k}" for k in range(expressions)),
        topology,
        {convention: embedding},
        expression_range=((-3.0, 3.0),) * expressions,
    )
