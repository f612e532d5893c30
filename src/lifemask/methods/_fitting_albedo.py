"""Low-dimensional skin albedo per vertex for photometric fits: a prior plus smooth fields."""

from __future__ import annotations

import logging
import weakref
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from lifemask.assets import weights_path
from lifemask.facemodel.base import FaceModel
from lifemask.methods._fitting_surface import vertex_basis

# Linear RGB of average skin and its tone, from the 20 CC0 MakeHuman skins, and two tints (redder,
# yellower); used where no prior over the surface is given.
_SKIN_MEAN = (0.456, 0.226, 0.143)
_SKIN_MODES = ((0.237, 0.135, 0.090), (0.035, -0.02, -0.02), (0.02, 0.01, -0.02))
_BUMPS, _BUMP_WIDTH_MM = 40, 18.0
_BRIGHT_SIGMA, _RED_SIGMA = 0.08, 0.05  # of the mean colour, per bump


_logger = logging.getLogger(__name__)


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


_CACHE: weakref.WeakKeyDictionary[FaceModel, AlbedoModel] = weakref.WeakKeyDictionary()


def skin_albedo(model: FaceModel) -> AlbedoModel:
    """Skin of the model with smooth fields; kept until the model is freed.

    The head model of lifemask has a prior from CC0 skins (`weights/skin_albedo`); any other model
    gets uniform skin of unknown tone.

    Raises:
        AssetError: the prior's file is missing or damaged.
    """
    if model not in _CACHE:
        known = model.name == "lifemask"
        _CACHE[model] = with_smooth_fields(_load(model) if known else _uniform(model), model)
    return _CACHE[model]


def _load(model: FaceModel) -> AlbedoModel:
    from safetensors.torch import load_file

    like = vertex_basis(model).mean
    tensors = load_file(str(weights_path("skin_albedo")))
    if len(tensors["mean"]) != len(like):
        _logger.warning("skin_albedo is for another head model: uniform skin is used instead")
        return _uniform(model)
    return AlbedoModel(tensors["mean"].to(like), tensors["basis"].to(like))


def _uniform(model: FaceModel) -> AlbedoModel:
    like = vertex_basis(model).mean
    mean = like.new_tensor(_SKIN_MEAN).expand(len(like), 3)
    return AlbedoModel(mean, like.new_tensor(_SKIN_MODES).T.expand(len(like), 3, 3))


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
