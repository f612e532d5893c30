"""Small stand-ins for the stages of the pipeline: an egg-shaped head model and its landmarker."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from lifemask.facemodel.base import FaceModel, LandmarkEmbedding, Topology
from lifemask.graphics.camera import orthographic_camera, project, rotation_from_euler_deg
from lifemask.types import Face, Landmarks

ROWS, COLUMNS = 24, 36
RADII_MM = (75.0, 110.0, 95.0)


class EggModel(FaceModel):
    """An ellipsoid with latitude-longitude UVs, 6 identity and 5 expression coefficients."""

    def __init__(self) -> None:
        super().__init__()
        self.name = "egg"
        self.identity_size = 6
        self.expression_names = ("jawOpen", "eyeBlinkLeft", "mouthSmileLeft", "browInnerUp", "puff")
        rng = np.random.default_rng(0)
        vertices, uvs, faces = _ellipsoid()
        normal = torch.nn.functional.normalize(vertices, dim=-1)
        waves = torch.from_numpy(rng.normal(size=(11, 3))).float()
        bumps = torch.stack([(normal @ w).cos()[:, None] * normal for w in waves])
        self.mean = vertices
        self.identity_basis = 3.0 * bumps[:6]
        self.expression_basis = 4.0 * bumps[6:]
        part = (vertices[faces].mean(1)[:, 1] > 70).long()
        front = vertices[:, 2] > 0
        self.topology = Topology(
            faces=faces,
            uvs=uvs,
            faces_uv=faces,
            face_part=part,
            part_names=("skin", "cap"),
            mirror=torch.arange(len(vertices)),
            regions={"face": front, "skin": torch.ones_like(front)},
        )
        chosen = torch.nonzero(front)[:, 0]
        chosen = chosen[torch.linspace(0, len(chosen) - 1, 68).long()]
        self.landmark_embeddings = {
            "ict68": LandmarkEmbedding(
                chosen[:, None].repeat(1, 3), torch.full((68, 3), 1 / 3), torch.arange(68)
            )
        }

    def forward(self, identity: Tensor, expression: Tensor) -> Tensor:
        shape = torch.einsum("...i,ivc->...vc", identity, self.identity_basis[: identity.shape[-1]])
        move = torch.einsum("...e,evc->...vc", expression, self.expression_basis)
        return self.mean + shape + move


def _ellipsoid() -> tuple[Tensor, Tensor, Tensor]:
    """Vertices, UVs and triangles; a column of vertices is doubled at the back seam."""
    v, u = torch.meshgrid(torch.linspace(0, 1, ROWS), torch.linspace(0, 1, COLUMNS), indexing="ij")
    latitude, longitude = (v - 0.5) * 0.98 * math.pi, (u - 0.5) * 2 * math.pi
    unit = torch.stack(
        [latitude.cos() * longitude.sin(), latitude.sin(), latitude.cos() * longitude.cos()], -1
    )
    vertices = (unit * torch.tensor(RADII_MM)).reshape(-1, 3)
    i = torch.arange((ROWS - 1) * COLUMNS).reshape(ROWS - 1, COLUMNS)[:, :-1].reshape(-1)
    lower = torch.stack([i, i + 1, i + COLUMNS + 1], -1)
    upper = torch.stack([i, i + COLUMNS + 1, i + COLUMNS], -1)
    return vertices, torch.stack([u, v], -1).reshape(-1, 2), torch.cat([lower, upper])


class EggLandmarker:
    """Landmarks of an egg that fills the box, turned by a fixed pose."""

    def __init__(self, pose_deg: tuple[float, float, float] = (5.0, 20.0, -4.0)) -> None:
        self.model = EggModel()
        self.pose_deg = pose_deg
        self.calls: list[Face | tuple[float, ...]] = []

    def __call__(self, image: np.ndarray, face: Face | tuple[float, ...]) -> Landmarks:
        self.calls.append(face)
        box = face.box if isinstance(face, Face) else face
        width, height = box[2] - box[0], box[3] - box[1]
        center = torch.tensor([(box[0] + box[2]) / 2, (box[1] + box[3]) / 2])
        rotation = rotation_from_euler_deg(torch.tensor(self.pose_deg))
        scale = max(width, height) / 2.4 / max(RADII_MM)
        camera = orthographic_camera(rotation, scale, center)
        points = project(self.model.landmarks(self.model.mean, "ict68"), camera)
        return Landmarks(points, torch.full((68,), 0.01 * height), "ict68")


def one_face(image: np.ndarray) -> list[Face]:
    """A detector that sees one face in the middle of any picture."""
    height, width = image.shape[:2]
    side = min(height, width) / 2
    u, v = (width - 1) / 2, (height - 1) / 2
    return [Face((u - side / 2, v - side / 2, u + side / 2, v + side / 2), 0.9)]


def no_face(image: np.ndarray) -> list[Face]:
    """A detector that sees nothing."""
    return []


def textures(n: int = 64) -> tuple[Tensor, Tensor]:
    """A skin with stripes and a blue cap, (3, n, n) linear RGB."""
    v, u = torch.meshgrid(torch.linspace(0, 1, n), torch.linspace(0, 1, n), indexing="ij")
    skin = torch.stack([0.5 + 0.1 * (20 * u).sin(), 0.3 + 0.05 * (14 * v).sin(), 0.25 + 0 * u])
    cap = torch.tensor([0.05, 0.1, 0.4])[:, None, None].expand(3, n, n).clone()
    return skin, cap
