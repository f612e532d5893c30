"""Skin of the upper lids, which open eyes fold away: a photo of them says nothing about it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from lifemask.facemodel.base import FaceModel, Topology
from lifemask.graphics.uv import UvAtlas
from lifemask.types import Geometry

BLINKS = ("eyeBlinkLeft", "eyeBlinkRight")
_MOVES_MM = 1.5
"""How far a blink moves a face that belongs to a lid."""
_UNFOLDS = 1.15, 1.8
"""Growth of a face's area, seen from the front, from and up to which it counts as folded."""


@dataclass(frozen=True)
class Lids:
    """Where a texture shows skin of the lids.

    Attributes:
        folds: (t, 2) in [0, 1], how far each texel belongs to skin that unfolds when the person's
            left and right eye close.
        blinks: places of both blinks among the model's expressions; None for a model without them.
    """

    folds: Float[Tensor, "t 2"]
    blinks: tuple[int, int] | None

    def folded(self, geometry: Geometry) -> Float[Tensor, "t"]:
        """How far the eyes of a photo fold each texel's skin away, in [0, 1]."""
        if geometry.params is None or self.blinks is None:
            return self.folds.amax(1)
        closed = geometry.params.expression[list(self.blinks)].detach().to(self.folds)
        return (self.folds * (1 - closed.clamp(0, 1))).amax(1)


@torch.no_grad()
def create_lids(model: FaceModel, mean_mm: Float[Tensor, "v 3"], atlas: UvAtlas) -> Lids:
    """The lids of a model's mean head on the texels of an atlas."""
    names = model.expression_names
    if not set(BLINKS) <= set(names):
        return Lids(torch.zeros(len(atlas), 2), None)
    left, right = (names.index(name) for name in BLINKS)
    folds = torch.zeros(len(mean_mm), 2)
    for column, place in enumerate((left, right)):
        closed = torch.zeros(len(names))
        closed[place] = 1
        shut = model(torch.zeros(model.identity_size), closed).float().cpu()
        folds[:, column] = _unfolding(mean_mm, shut, model.topology)
    return Lids(atlas.interpolate(folds).clamp(0, 1), (left, right))


def _unfolding(opened: Tensor, shut: Tensor, topology: Topology) -> Float[Tensor, "v"]:
    faces = topology.faces.long()
    before, after = _front_area(opened[faces]), _front_area(shut[faces])
    growth = after / before.clamp(min=0.05 * after.clamp(min=1e-3))
    t = ((growth - _UNFOLDS[0]) / (_UNFOLDS[1] - _UNFOLDS[0])).clamp(0, 1)
    moved = (shut - opened).norm(dim=1)[faces].amax(1) > _MOVES_MM
    skin = topology.face_part == topology.part_names.index("skin")
    share = t * t * (3 - 2 * t) * (moved & skin & (after > 0))
    total, count = torch.zeros(len(opened)), torch.zeros(len(opened))
    for corner in faces.unbind(1):
        total.index_add_(0, corner, share)
        count.index_add_(0, corner, torch.ones_like(share))
    return total / count.clamp(min=1)


def _front_area(corners: Float[Tensor, "f 3 3"]) -> Float[Tensor, "f"]:
    """Signed area (f,) of faces seen along z, positive where they show their outside."""
    (ax, ay), (bx, by) = ((corners[:, k, :2] - corners[:, 0, :2]).unbind(1) for k in (1, 2))
    return 0.5 * (ax * by - ay * bx)
