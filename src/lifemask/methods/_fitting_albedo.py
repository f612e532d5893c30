"""Low-dimensional skin albedo per vertex for photometric fits: a prior plus smooth fields."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from lifemask.facemodel.base import FaceModel
from lifemask.methods._fitting_surface import vertex_basis

# Linear RGB of average skin and its main directions of variation (luminance by melanin, redness by
# blood), from the 20 CC0 MakeHuman skins; used where no prior over the surface is given.
_SKIN_MEAN = (0.436, 0.233, 0.160)
_SKIN_MODES = ((0.21, 0.15, 0.12), (0.035, -0.02, -0.02), (0.03, 0.01, -0.02))
_BUMPS, _BUMP_WIDTH_MM = 40, 18.0
_BRIGHT_SIGMA, _RED_SIGMA = 0.08, 0.05  # of the mean colour, per bump


@dataclass(frozen=True)
class AlbedoModel:
    """Albedo per vertex, linear in coefficients that are standard normal under the prior.

    Attributes:
        mean: (v, 3) linear RGB.
        basis: (v, 3, k).
    """

    mean: Float[Tensor, "v 3"]
    basis: Float[Tensor, "v 3 k"]

    def at(self, coefficients: Float[Tensor, " k"]) -> Float[Tensor, "v 3"]:
        """Albedo (v, 3), clamped to [0.01, 1]."""
        return (self.mean + self.basis @ coefficients).clamp(0.01, 1)


def skin_albedo(model: FaceModel) -> AlbedoModel:
    """Uniform skin of unknown tone plus smooth fields: needs no data, fits every face model."""
    position = vertex_basis(model).mean
    mean = position.new_tensor(_SKIN_MEAN).expand(len(position), 3)
    modes = position.new_tensor(_SKIN_MODES).T.expand(len(position), 3, 3)
    return with_smooth_fields(AlbedoModel(mean, modes), model)


def with_smooth_fields(albedo: AlbedoModel, model: FaceModel) -> AlbedoModel:
    """Adds slow changes over the face that the prior does not know: beards, blush, soft shadows.

    Gaussian bumps around points spread over the face region, in brightness and in redness. Without
    them such changes would be explained by bending the shape.

    Args:
        albedo: what to add to.
        model: the face model; bumps are placed on its mean head.
    """
    position = vertex_basis(model).mean
    region = model.topology.regions["face"].nonzero()[:, 0]
    centres = position[region[_spread(position[region], _BUMPS)]]
    bump = torch.exp(-0.5 * (torch.cdist(position, centres) / _BUMP_WIDTH_MM) ** 2)
    tint = position.new_tensor([0.5, -0.5, -0.5])
    bright = _BRIGHT_SIGMA * albedo.mean[..., None] * bump[:, None, :]
    red = _RED_SIGMA * (albedo.mean * tint)[..., None] * bump[:, None, :]
    return AlbedoModel(albedo.mean, torch.cat((albedo.basis, bright, red), -1))


def _spread(points: Tensor, count: int) -> Tensor:
    """Indices of points that lie far from each other (farthest-point sampling)."""
    chosen = [int((points - points.mean(0)).norm(dim=-1).argmin())]
    distance = torch.full_like(points[:, 0], torch.inf)
    for _ in range(count - 1):
        distance = torch.minimum(distance, (points - points[chosen[-1]]).norm(dim=-1))
        chosen.append(int(distance.argmax()))
    return torch.tensor(chosen, device=points.device)
