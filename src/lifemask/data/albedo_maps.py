"""Albedo maps of faces on the texture chart, made from the CC0 MakeHuman skins.

They are what the albedo prior learns from, and what its samples should look like. Per map: two
skins without their painted shading, brought to a natural tone between very pale and very dark;
one with the other's wrinkles and pores, aged, with brows, lips, freckles, moles, beards and
stubble (`vary_skin`, make-up mostly taken back); and a small warp.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float, Num, UInt8
from numpy import ndarray

from lifemask.data._synthetic_lips import usual_lips
from lifemask.data._synthetic_look import random_skin_tone
from lifemask.data._synthetic_masks import SkinMasks
from lifemask.data._synthetic_paint import noise_field
from lifemask.data._synthetic_rig import HeadRig
from lifemask.data._synthetic_skins import vary_skin
from lifemask.data._synthetic_surroundings import SRGB_TO_LINEAR
from lifemask.graphics.lighting import linear_to_srgb

if TYPE_CHECKING:
    from lifemask.data.synthetic import Generator
    from lifemask.methods._retexture_chart import TextureChart

LUMINANCE = np.array([0.2126, 0.7152, 0.0722], np.float32)
SHADING_SIGMA = 24.0
"""Of the low band that counts as shading, in texels of the skins' layout (40 of 256 on a chart)."""
WARP_TEXELS, WARP_WAVES = 1.8, 5
"""Largest standard deviation of a warp, texels of the layout; its waves along a chart's side."""
DRAWING = 0.1
"""A colour matrix farther than this from the identity makes a drawing's colours."""
PAINT = (1.3, 0.5)
"""Spread of log(green / red) or log(blue / green) over bare skin, and its change, by paint only."""
PALER, DARKER = 0.5, 1.2
"""How far (log luminance, standard deviation) a skin's tone is moved; grey hair turns blue on
skins that become much paler."""
PALE_HAIR, GREY_AGE = 0.15, 0.5
"""Brows paler than the skin by this (log luminance) are drawn again below this age."""
DARKEST = 0.003


@dataclass(frozen=True)
class MapMaker:
    """What all maps share; makes each from its number.

    Attributes:
        skins: (k, rows, columns, 3) uint8 sRGB without shading, to draw from.
        masks: of the layout.
        cheek: (c, 2) rows and columns on the cheeks.
        bare: (b, 2) rows and columns of skin without hair, lips or make-up.
        brow: (r, 2) rows and columns on the brows.
        places: (2, n, n) row and column of each texel of the chart in the layout.
        seed: of every draw.
    """

    skins: UInt8[ndarray, "k h w 3"]
    masks: SkinMasks
    cheek: ndarray
    bare: ndarray
    brow: ndarray
    places: Float[ndarray, "2 n n"]
    seed: int

    def make(self, index: int) -> UInt8[ndarray, "3 n n"]:
        """Map number `index`, sRGB-coded."""
        from scipy.ndimage import map_coordinates

        rng = np.random.default_rng([self.seed, 11, index])
        skin = self._skin(rng)
        places = self.places + self._warp(rng)
        linear = [map_coordinates(SRGB_TO_LINEAR[skin[..., c]], places, order=1, mode="nearest")
                  for c in range(3)]  # fmt: skip
        return _coded(np.stack(linear))

    def _skin(self, rng: np.random.Generator) -> UInt8[ndarray, "h w 3"]:
        """Two skins of one tone mixed, aged and painted; drawn again if no face looks so."""
        toned = self._toned_pair(rng)
        plain = toned[0] * 255
        while True:
            age = float(rng.beta(1.1, 1.4))
            drawn = vary_skin(toned, self.masks, rng, age)
            skin = drawn.srgb
            if is_painted(skin[tuple(self.bare.T)], plain[tuple(self.bare.T)]):
                continue
            lips = drawn.marks[1] / np.float32(255)
            own = (lips + self.masks.lid).clip(0, 1)[..., None]
            own = own * np.float32(1 - rng.random() ** 2)
            skin = (skin + own * (plain - skin)).astype(np.uint8)
            brow, cheek = (_luminance(skin[tuple(ids.T)]) for ids in (self.brow, self.cheek))
            if age > GREY_AGE or np.log(brow / cheek) < PALE_HAIR:
                return skin

    def _toned_pair(self, rng: np.random.Generator) -> Float[ndarray, "2 h w 3"]:
        """Two skins brought to the same random tone, not from too far; sRGB in [0, 1]."""
        tone_seed, found = rng.integers(2**32), []
        while len(found) < 2:
            skin = self.skins[rng.integers(len(self.skins))]
            cheek = skin[tuple(self.cheek.T)]
            lut, mix = natural_tone(np.random.default_rng(tone_seed), cheek)
            colour = np.array([lut[cheek[:, c], c].mean() for c in range(3)])
            moved = np.log((LUMINANCE @ mix @ colour) / _luminance(cheek))
            if rng.random() < np.exp(-0.5 * (moved / (PALER if moved > 0 else DARKER)) ** 2):
                linear = np.stack([lut[skin[..., c], c] for c in range(3)], -1) @ mix.T
                found.append(np.clip(linear, DARKEST, 1) ** np.float32(1 / 2.2))
        return np.stack(found).astype(np.float32)

    def _warp(self, rng: np.random.Generator) -> Float[ndarray, "2 n n"]:
        """Offsets of the places, layout texels."""
        shape = self.places.shape[1:]
        size = WARP_TEXELS * rng.uniform(0, 1)
        return np.stack([noise_field(rng, shape, shape[0] / WARP_WAVES) * size for _ in range(2)])


def create_map_maker(
    generator: Generator, chart: TextureChart, seed: int, skins: Sequence[int] | None = None
) -> MapMaker:
    """Prepare to make maps.

    Args:
        generator: of the default head, with its skins and masks.
        chart: of the same head.
        seed: of every draw.
        skins: which of the generator's skins to draw from; None for all.
    """
    rig, masks = generator.rig, generator.masks
    chosen = generator.skins if skins is None else generator.skins[list(skins)]
    painted = usual_lips(masks) + masks.lid + masks.lashes + masks.brow + masks.scalp + masks.nose
    bare = (painted + sum(masks.beard.values()) < 0.05) & (masks.cheeks > 0.02)
    return MapMaker(
        (without_shading(chosen) * 255 + 0.5).astype(np.uint8), masks, rig.cheek_texels,
        np.argwhere(bare), np.argwhere(masks.brow > 0.8), chart_places(rig, chart), seed,
    )  # fmt: skip


def albedo_maps(
    generator: Generator,
    chart: TextureChart,
    count: int,
    seed: int,
    skins: Sequence[int] | None = None,
) -> UInt8[ndarray, "count 3 n n"]:
    """Albedo maps (count, 3, n, n), sRGB-coded; texels outside the face repeat the nearest one.

    The first maps of a longer run with the same seed are the same. Args: see `create_map_maker`.
    """
    maker = create_map_maker(generator, chart, seed, skins)
    return np.stack([maker.make(index) for index in range(count)])


def without_shading(skins: Float[ndarray, "k h w 3"]) -> Float[ndarray, "k h w 3"]:
    """Skins whose low band of luminance is its mean with that of the mirrored face.

    Light that was painted or photographed into a skin comes from one side; skin does not. The
    layout's mirror image is its rows in reverse.
    """
    from scipy.ndimage import gaussian_filter

    log = np.log(np.clip(skins, 0.02, 1) ** 2.2)
    low = gaussian_filter(log @ LUMINANCE, (0, SHADING_SIGMA, SHADING_SIGMA), mode="nearest")
    level = (low[:, ::-1] - low) / 2
    return np.clip(np.exp(log + level[..., None]), 0, 1).astype(np.float32) ** np.float32(1 / 2.2)


def natural_tone(
    rng: np.random.Generator, cheek: UInt8[ndarray, "c 3"]
) -> tuple[Float[ndarray, "256 3"], Float[ndarray, "3 3"]]:
    """`random_skin_tone` without the colours of drawings and masks."""
    while True:
        lut, mix = random_skin_tone(rng, 1.0, cheek)
        if np.abs(mix - np.eye(3)).max() < DRAWING:
            return lut, mix


def is_painted(bare: Num[ndarray, "b 3"], plain: Num[ndarray, "b 3"]) -> bool:
    """Whether bare skin has colours that no skin has.

    Args:
        bare: (b, 3) sRGB in [0, 255] of skin without hair, lips and make-up.
        plain: (b, 3) the same texels before anything was painted.
    """
    hue, before = (
        np.diff(np.log(np.clip(part / 255.0, 0.02, 1) ** 2.2), axis=1) for part in (bare, plain)
    )
    low, high = np.percentile(hue, [1, 99], axis=0)
    change = np.median(np.abs(hue - before), axis=0)
    return bool((high - low).max() > PAINT[0] or change.max() > PAINT[1])


def chart_places(rig: HeadRig, chart: TextureChart) -> Float[ndarray, "2 n n"]:
    """Row and column in the layout of each texel of the chart.

    The chart's last rows, on the throat, have no skin in the layout; they repeat the nearest
    texels that do.
    """
    from scipy.ndimage import distance_transform_edt

    rows, columns = rig.texture_shape
    u0, v0, u1, v1 = rig.uv_box
    uv = chart.spread(chart.model_uv).numpy()
    places = np.stack([
        (v1 - uv[1]) / (v1 - v0) * rows - 0.5, (uv[0] - u0) / (u1 - u0) * columns - 0.5,
    ])  # fmt: skip
    last = np.array([rows - 1, columns - 1])[:, None, None]
    missing = ((places < 0) | (places > last)).any(0)
    _, (i, j) = distance_transform_edt(missing, return_indices=True)  # type: ignore[misc]
    return places[:, i, j].astype(np.float32)


def cheek_luminance(maps: UInt8[ndarray, "b 3 n n"]) -> Float[ndarray, "b"]:
    """Linear luminance of the cheeks of sRGB-coded maps: their tone."""
    n = maps.shape[-1]
    rows = slice(n * 9 // 20, n * 13 // 20)
    sides = (slice(n // 8, n // 5), slice(n - n // 5, n - n // 8))
    patches = np.concatenate([maps[..., rows, side] for side in sides], -1)
    colour = np.median(SRGB_TO_LINEAR[patches].reshape(*maps.shape[:2], -1), -1)
    return colour @ LUMINANCE


def _luminance(texels: UInt8[ndarray, "c 3"]) -> float:
    """Linear luminance of sRGB texels' mean."""
    return float(SRGB_TO_LINEAR[texels].mean(0) @ LUMINANCE)


def _coded(linear: Float[ndarray, "3 n n"]) -> UInt8[ndarray, "3 n n"]:
    coded = linear_to_srgb(torch.from_numpy(np.clip(linear, DARKEST, 1)))
    return (coded * 255 + 0.5).byte().numpy()
