"""Where skin is smooth, oily, hairy or wet: soft fields over a face model's texels."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from lifemask.facemodel.base import FaceModel, Topology
from lifemask.graphics.mesh import vertex_adjacency
from lifemask.graphics.uv import UvAtlas
from lifemask.methods._texture_regions import chart_roles, skin_chart_faces

_SKIN = 0.57
_REGION_ROUGHNESS = (
    ("neck", 0.60), ("ears", 0.52), ("cheeks", 0.57), ("forehead", 0.53), ("scalp", 0.55),
    ("chin", 0.53),
)  # fmt: skip
"""Perceptual roughness by region: oily skin is smoother (after the lobes that Weyrich et al. 2006
measured per region of the face, as one GGX lobe with glTF's reflectance of 0.04)."""
_OILY = (
    ((27, 28, 29, 30), 9.0, 0.42), ((31, 32, 33, 34, 35), 8.0, 0.44), ((8, 57), 10.0, 0.51),
    ((36, 37, 38, 39, 40, 41, 42, 43, 44, 45, 46, 47), 6.0, 0.46),
)  # fmt: skip
"""Landmarks ("ict68"), reach in mm, roughness: nose, its wings, the chin, the lids."""
_FOREHEAD = 26.0, 22.0, 0.46
"""Half width and half height in mm of the forehead's oily middle, and its roughness."""
_LIPS, _BROWS = 0.38, 0.62
_WET = 0.28


@dataclass(frozen=True)
class SkinRegions:
    """Fields over t texels of the skin, in [0, 1] where nothing else is said.

    Attributes:
        points_mm: (t, 3) on the mean head.
        roughness: (t,) of the region.
        open_skin: (t,) skin whose dark spots may be folds and pores: no hair, lips, lids, cavities.
        pores: (t,) strength of the grain, up to 1.3.
        hair: (t,) scalp and brows.
        scalp: (t,) where the hair of the head grows.
        lips: (t,) the red of the lips.
        beard: (t,) where beards grow.
        dry: (t,) 0 in mouth and eye sockets.
    """

    points_mm: Float[Tensor, "t 3"]
    roughness: Float[Tensor, "t"]
    open_skin: Float[Tensor, "t"]
    pores: Float[Tensor, "t"]
    hair: Float[Tensor, "t"]
    scalp: Float[Tensor, "t"]
    lips: Float[Tensor, "t"]
    beard: Float[Tensor, "t"]
    dry: Float[Tensor, "t"]


@torch.no_grad()
def skin_regions(model: FaceModel, atlas: UvAtlas) -> SkinRegions:
    """The fields of a model with landmarks "ict68" and a region "face".

    Args:
        model: measured on its neutral mean head.
        atlas: texels of its skin.
    """
    topology = model.topology
    zero = torch.zeros(model.identity_size), torch.zeros(len(model.expression_names))
    mean = model(*zero).float().cpu()
    lm = model.landmarks(mean, "ict68")
    soft = _SoftRegions(topology, mean)
    lips, brows, scalp = soft("lips", 1), soft("brows", 1), soft("scalp", 3)
    lids, nose = _near(mean, lm[36:48], 5.0), _near(mean, lm[27:36], 12.0)
    nostrils = _near(mean, lm[31:36], 4.0)
    busy = torch.stack((lips, brows, scalp, lids, nostrils)).amax(0)
    front = _ramp(mean[:, 2] - (lm[36, 2] - 45), 12.0)
    beard = _ramp(lm[33, 1] - 2 - mean[:, 1], 8.0) * front * (1 - lips)
    pores = (0.75 + 0.55 * torch.maximum(nose, soft("cheeks", 3))) * (1 - 0.6 * lids)
    fields = (
        mean[:, 0], mean[:, 1], mean[:, 2], _roughness(soft, mean, lm, lips, brows),
        (1 - busy).clamp(0, 1) * soft("face", 3), pores, torch.maximum(brows, scalp), scalp, lips,
        beard,
    )  # fmt: skip
    values = atlas.interpolate(torch.stack(fields, dim=-1))
    points, rough, rest = values[:, :3].contiguous(), values[:, 3], values[:, 4:]
    # mouth and eye sockets have charts of their own
    inside = (chart_roles(topology, mean, lm).amax(1) > 0) & ~skin_chart_faces(
        topology, mean, lm[30]
    )
    dry = 1 - inside[atlas.face_ids.long()].float()
    open_skin, pores, hair, scalp, lips, beard = (rest * dry[:, None]).unbind(-1)
    rough = torch.where(dry > 0, rough, _WET)
    return SkinRegions(points, rough, open_skin, pores, hair, scalp, lips, beard, dry)


class _SoftRegions:
    """A model's vertex masks, blurred over the mesh."""

    def __init__(self, topology: Topology, mean: Tensor) -> None:
        self.regions, self.like = topology.regions, mean[:, 0]
        links = vertex_adjacency(topology.faces, len(mean))
        self.links = links
        self.count = torch.sparse.mm(links, torch.ones(len(mean), 1)).clamp(min=1)

    def __call__(self, name: str, rounds: int) -> Tensor:
        """The mask (v,), blurred by some rounds of means over neighbours; 0 for no such region."""
        if name not in self.regions:
            return torch.zeros_like(self.like)
        mask = self.regions[name].float().cpu()[:, None]
        for _ in range(rounds):
            mask = (mask + torch.sparse.mm(self.links, mask) / self.count) / 2
        return mask[:, 0]


def _roughness(soft: _SoftRegions, mean: Tensor, lm: Tensor, lips: Tensor, brows: Tensor) -> Tensor:
    """Roughness (v,) by region, one laid over the other."""
    rough = torch.full_like(mean[:, 0], _SKIN)
    for name, value in _REGION_ROUGHNESS:
        rough = rough + soft(name, 4) * (value - rough)
    half_width, half_height, value = _FOREHEAD
    middle = lm[[19, 24]].mean(0) + lm.new_tensor([0.0, 24.0, 0.0])
    away = ((mean - middle) / lm.new_tensor([half_width, half_height, 40.0])).square().sum(-1)
    rough = rough + torch.exp(-away) * (value - rough)
    for ids, reach, value in _OILY:
        rough = rough + _near(mean, lm[list(ids)], reach) * (value - rough)
    for share, value in ((lips, _LIPS), (brows, _BROWS)):
        rough = rough + share * (value - rough)
    return rough


def _near(mean: Tensor, points: Tensor, reach_mm: float) -> Tensor:
    """A bell (v,) around points, of some reach."""
    return torch.exp(-((torch.cdist(mean, points).amin(1) / reach_mm) ** 2))


def _ramp(distance: Tensor, width: float) -> Tensor:
    """0 below 0, 1 above `width`, smooth between."""
    t = (distance / width).clamp(0, 1)
    return t * t * (3 - 2 * t)
