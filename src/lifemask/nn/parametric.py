"""Landmarks of a linear face model under a scaled orthographic camera, from raw network outputs."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from lifemask.facemodel.base import FaceModel

LENGTH_MM = 100.0  # unit in which the model's points are stored, so that numbers are near one
CLOSE_CROP = 1.1  # scale of an average head in half-crops per LENGTH_MM


@dataclass(frozen=True)
class PosedModel:
    """A batch of posed face models; lengths in half-crops.

    Attributes:
        points: (b, n, 3) landmarks (u, v, w), w with mean 0.
        rotation: (b, 3, 3) model frame to camera frame.
        scale: (b,) half-crops per `LENGTH_MM`.
        identity: (b, i) coefficients.
        expression: (b, e) coefficients.
    """

    points: Float[Tensor, "b n 3"]
    rotation: Float[Tensor, "b 3 3"]
    scale: Float[Tensor, "b"]
    identity: Float[Tensor, "b i"]
    expression: Float[Tensor, "b e"]


class LandmarkModel(nn.Module):
    """The landmarks of a linear face model as mean and basis; buffers, nothing learned.

    Args:
        mean_mm: (n, 3) landmarks of the mean face.
        basis_mm: (i + e, n, 3) change per unit of each coefficient, identity first.
        identity_size: i.
    """

    def __init__(
        self,
        mean_mm: Float[Tensor, "n 3"],
        basis_mm: Float[Tensor, "p n 3"],
        identity_size: int,
    ) -> None:
        super().__init__()
        self.identity_size = identity_size
        self.register_buffer("mean", (mean_mm - mean_mm.mean(0)) / LENGTH_MM, persistent=False)
        self.register_buffer("basis", basis_mm.flatten(1) / LENGTH_MM, persistent=False)

    def forward(self, raw: Float[Tensor, "b p"]) -> PosedModel:
        """Pose the model.

        Args:
            raw: (b, 9 + i + e): rotation 6D as offset from the identity, log scale, shift (u, v),
                coefficients. All zero is the mean face, frontal, filling the nominal crop.
        """
        rotation = rotation_from_6d(raw[:, :6] + raw.new_tensor([1.0, 0, 0, 0, 1.0, 0]))
        scale = CLOSE_CROP * raw[:, 6].exp()
        coefficients = raw[:, 9:]
        mean = self.get_buffer("mean")
        shape = mean + (coefficients @ self.get_buffer("basis")).view(-1, *mean.shape)
        turned = scale[:, None, None] * (shape @ rotation.transpose(1, 2))
        shift = raw[:, None, 7:9]
        nearness = turned[..., 2:] - turned[..., 2:].mean(1, keepdim=True)
        points = torch.cat(
            (turned[..., :1] + shift[..., :1], shift[..., 1:] - turned[..., 1:2], nearness), -1
        )
        i = self.identity_size
        return PosedModel(points, rotation, scale, coefficients[:, :i], coefficients[:, i:])


def landmark_model(model: FaceModel, convention: str) -> LandmarkModel:
    """Mean and basis of a linear face model's landmarks.

    Raises:
        KeyError: the model lacks the landmark set.
    """
    i, e = model.identity_size, len(model.expression_names)
    with torch.no_grad():
        mean = model.landmarks(model(torch.zeros(i), torch.zeros(e)), convention)
        rows = []
        for k in range(i + e):
            unit = torch.zeros(i + e)
            unit[k] = 1
            rows.append(model.landmarks(model(unit[:i], unit[i:]), convention) - mean)
    return LandmarkModel(mean, torch.stack(rows), i)


def rotation_from_6d(columns: Float[Tensor, "b 6"]) -> Float[Tensor, "b 3 3"]:
    """Rotation from its first two columns, made orthonormal (Zhou et al., CVPR 2019)."""
    first = functional.normalize(columns[:, :3], dim=-1, eps=1e-6)
    second = columns[:, 3:] - (first * columns[:, 3:]).sum(-1, keepdim=True) * first
    second = functional.normalize(second, dim=-1, eps=1e-6)
    return torch.stack((first, second, torch.linalg.cross(first, second)), -1)


def symmetric_offset(
    raw: Float[Tensor, "n 3"], flip: Tensor, posed: PosedModel
) -> Float[Tensor, "b n 3"]:
    """A fixed 3D offset per landmark, carried by each head's pose, in half-crops (u, v, w).

    The offset between two definitions of a landmark belongs to the head: it turns and scales with
    it. It is the same on both sides of the face, mirrored in x.

    Args:
        raw: (n, 3) offsets in `LENGTH_MM`, model frame, before symmetry is imposed.
        flip: (n,) flip table of the landmark set.
        posed: poses; their gradient is not used.
    """
    mirror = raw.new_tensor([-1.0, 1.0, 1.0])
    offset = (raw + raw[flip] * mirror) / 2
    frame = (posed.scale[:, None, None] * posed.rotation).detach()
    return (offset @ frame.transpose(1, 2)) * raw.new_tensor([1.0, -1.0, 1.0])
