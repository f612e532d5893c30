"""Pictures with holes: what the inpainting network learns from, as a function of the step number.

Renders bring region maps, which say where the face is. Photos of AFLW have none; their face is
taken to be an ellipse in the middle of the crop, which shapes holes and nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from numpy import ndarray
from torch import Tensor

from lifemask.assets import UserError
from lifemask.data.base import CropSet
from lifemask.data.region_augment import NO_REGION_AUGMENTATION, RegionAugmentConfig, draw_batch
from lifemask.data.regions import IGNORE, RegionSet, load_region_cache, merged, split_glasses
from lifemask.training.crop_sources import renders_tag
from lifemask.training.inpaint_masks import draw_hole
from lifemask.training.inpaint_recipes import HoleConfig, InpaintRecipe
from lifemask.types import FACE_CLASSES, REGION_NAMES

_SKIN, _BACKGROUND = REGION_NAMES.index("skin"), REGION_NAMES.index("background")
_OVAL = (0.36, 0.46)
"""Half axes of the face that a photo without regions is taken to have, in crops."""


@dataclass(frozen=True)
class InpaintBatch:
    """Pictures with holes.

    Attributes:
        picture: (b, 3, s, s) whole, sRGB in [0, 1].
        known: (b, 1, s, s) 1 where it may be looked at.
        hole: (b, 1, s, s) 1 where it is to be filled; never where it is known.
    """

    picture: Float[Tensor, "b 3 s s"]
    known: Float[Tensor, "b 1 s s"]
    hole: Float[Tensor, "b 1 s s"]


@dataclass(frozen=True)
class Corpus:
    """Pictures by source ("renders", "photos"): to train on, and held out."""

    training: dict[str, RegionSet]
    held_out: dict[str, RegionSet]


def load_corpus(recipe: InpaintRecipe, caches: Sequence[Path], data: Path | None = None) -> Corpus:
    """Everything that the recipe's family may see.

    Args:
        recipe: decides the sources.
        caches: folders of renders with region maps.
        data: folder with `aflw21/`; needed by "research" recipes with a share of photos.

    Raises:
        UserError: data are missing, or research data are offered to "open".
    """
    keep = recipe.held_out_renders
    training: dict[str, RegionSet] = {}
    held_out: dict[str, RegionSet] = {}
    for folder in caches:
        renders_tag(folder, recipe.family)
        parts = slice(keep, None), slice(0, max(keep, 1))
        for sets, part in zip((training, held_out), parts, strict=True):
            found = load_region_cache(folder, part)
            sets["renders"] = merged(sets["renders"], found) if "renders" in sets else found
    if recipe.family == "research" and recipe.photos:
        if data is None:
            raise UserError("the research family needs --data with aflw21/, or --set photos=0")
        from lifemask.data.aflw21 import load_aflw21

        photos = load_aflw21(data / "aflw21")
        training["photos"], held_out["photos"] = (with_oval(crops) for crops in photos)
    return Corpus(training, held_out)


def with_oval(crops: CropSet) -> RegionSet:
    """Photos with the same simple map each: an oval of skin before a background."""
    side = crops.images[0].shape[1]
    steps = (np.arange(side) + 0.5) / side - 0.5
    inside = (steps / _OVAL[0]) ** 2 + (steps[:, None] / _OVAL[1]) ** 2 < 1
    oval = np.where(inside, np.uint8(_SKIN), np.uint8(_BACKGROUND))
    maps = tuple(np.broadcast_to(oval, (len(shard), side, side)) for shard in crops.images)
    return RegionSet("photos", crops.images, maps, crops.nominal_side_px)


class BatchMaker:
    """Batches by step number; each row is drawn by its own, so shares make no difference.

    Args:
        training: pictures by source.
        recipe: batch, share of photos, holes, augmentation, seed.
    """

    def __init__(self, training: dict[str, RegionSet], recipe: InpaintRecipe) -> None:
        self._training, self._recipe = training, recipe

    def __call__(self, step: int, share: int = 0, shares: int = 1) -> InpaintBatch:
        """Share `share` of `shares` of a step's batch."""
        recipe = self._recipe
        count = recipe.optim.batch // shares
        rows = []
        for row in range(share * count, (share + 1) * count):
            rng = np.random.default_rng([recipe.seed, step, row])
            photo = "photos" in self._training and rng.random() < recipe.photos
            source = self._training["photos" if photo else "renders"]
            number = int(rng.integers(len(source)))
            rows.append(cut_out(rng, source, number, recipe.net.size, recipe.holes, recipe.augment))
        return joined(rows)


def cut_out(
    rng: np.random.Generator,
    source: RegionSet,
    number: int,
    size: int,
    holes: HoleConfig,
    augment: RegionAugmentConfig = NO_REGION_AUGMENTATION,
) -> InpaintBatch:
    """One picture of a set with a hole, as a batch of one."""
    crops, maps = draw_batch(rng, source, np.array([number]), augment, size)
    region: UInt8[ndarray, "s s"] = split_glasses(maps[0])[0]
    hole, known = draw_hole(rng, region < FACE_CLASSES, region == IGNORE, holes)
    masks = (torch.from_numpy(m[None, None].astype(np.float32)) for m in (known, hole))
    return InpaintBatch(torch.from_numpy(crops).permute(0, 3, 1, 2).contiguous(), *masks)


def joined(rows: Sequence[InpaintBatch]) -> InpaintBatch:
    """Batches one after the other as one."""
    names = ("picture", "known", "hole")
    return InpaintBatch(*(torch.cat([getattr(row, name) for row in rows]) for name in names))


def held_out_rows(recipe: InpaintRecipe, source: RegionSet) -> list[InpaintBatch]:
    """The holes that a held-out set is scored on: the same at every evaluation."""
    count = min(recipe.evaluated, len(source))
    plain = RegionAugmentConfig(NO_REGION_AUGMENTATION.view, recipe.augment.zoom, 0.0, 0.0, 0.0)
    return [
        cut_out(np.random.default_rng([9, k]), source, k, recipe.net.size, recipe.holes, plain)
        for k in range(count)
    ]
