"""Skin textures of the generator: CC0 skins varied by masks, tones, noise, make-up and hair."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lifemask.assets import UserError
from lifemask.data._synthetic_facial_hair import facial_hair, seen_brows
from lifemask.data._synthetic_lips import paint_lips, usual_lips
from lifemask.data._synthetic_masks import SkinMasks
from lifemask.data._synthetic_paint import blend, gaussian_grain, noise_field
from lifemask.data._synthetic_rig import HeadRig

MELANIN = np.array([0.42, 0.72, 1.0], np.float32)
BLOOD = np.array([0.12, 0.9, 0.75], np.float32)
"""Directions of the two tone axes as optical density per channel (log of linear albedo)."""


@dataclass(frozen=True)
class Skin:
    """A skin's texture.

    Attributes:
        srgb: (rows, columns, 3) uint8.
        marks: (2, rows, columns) uint8, above 127 where the texture shows a brow, and lips.
    """

    srgb: NDArray[np.uint8]
    marks: NDArray[np.uint8]


def load_skins(folder: Path, rig: HeadRig) -> NDArray[np.float32]:
    """CC0 skins of a folder on a native texture layout: (n, rows, columns, 3) sRGB in [0, 1].

    Raises:
        UserError: the folder holds no `*_diffuse*.jpg`.
    """
    from PIL import Image

    files = sorted(Path(folder).glob("*_diffuse*.jpg"))
    if not files:
        raise UserError(f"no *_diffuse*.jpg skins in {folder}: put MakeHuman skins there (CC0)")
    u0, v0, u1, v1 = rig.uv_box
    rows, columns = rig.texture_shape
    skins = []
    for file in files:
        with Image.open(file) as image:
            w, h = image.size
            box = (u0 * w, (1 - v1) * h, u1 * w, (1 - v0) * h)
            part = image.convert("RGB").resize((columns, rows), Image.Resampling.BOX, box)
        skins.append(np.asarray(part, np.float32) / 255)
    return np.stack(skins)


def vary_skin(
    skins: NDArray[np.float32],
    masks: SkinMasks,
    rng: np.random.Generator,
    age: float,
    strength: float = 1.0,
) -> Skin:
    """One new skin: mixed from several, re-toned, aged and painted.

    Args:
        skins: (n, rows, columns, 3) sRGB in [0, 1] to draw from.
        masks: of the same layout.
        rng: decides everything.
        age: in [0, 1]: wrinkles, blotches, age spots, grey brows and beard.
        strength: 1 for plain skins; less for photo textures that bring their own brows and beard.
    """
    from scipy.ndimage import gaussian_filter

    shape = skins.shape[1:3]
    a, b = rng.integers(len(skins), size=2)
    log = np.log(np.clip(skins[a], 0.02, 1) ** 2.2)
    if strength >= 1:
        other = np.log(np.clip(skins[b], 0.02, 1) ** 2.2)
        sigma = rng.choice([3.0, 6.0, 14.0])
        fine = other - gaussian_filter(other, (sigma, sigma, 0))
        low = gaussian_filter(log, (sigma, sigma, 0))
        log = low + rng.uniform(0.4, 1.9) * fine + rng.uniform(0, 0.6) * (log - low)
    blotchy = 0.6 + age
    patches = noise_field(rng, shape, 60) * rng.uniform(0, 0.14) * blotchy
    patches += noise_field(rng, shape, 14) * rng.uniform(0, 0.07) * blotchy
    log -= (strength * patches)[..., None] * BLOOD
    log -= noise_field(rng, shape, 90)[..., None] * (rng.uniform(0, 0.18) * strength) * MELANIN
    blush = rng.uniform(-0.1, 0.35) * masks.cheeks + rng.uniform(-0.1, 0.3) * masks.nose
    log -= (strength * blush)[..., None] * BLOOD
    log = _age(log, masks, rng, age, strength)
    log = _spots(log, masks, rng, age, strength)
    if masks.eyes is not None:
        log = _paint_eyes(log, masks.eyes, rng)
    if strength >= 1:
        log, lips = paint_lips(log, masks, rng)
    else:
        lips = usual_lips(masks)
    log = _make_up(log, masks, lips, rng, strength)
    log, brows = facial_hair(log, masks, rng, age, strength)
    if strength < 1:
        brows = np.maximum(brows, seen_brows(log, masks))
    marks = np.stack([brows, lips])
    if rng.random() < 0.04 * strength:
        paint = np.clip(noise_field(rng, shape, rng.uniform(20, 90)) * 3, 0, 1)[..., None]
        log = log * (1 - paint) + paint * np.log(rng.uniform(0.02, 0.9, 3)).astype(np.float32)
        marks[0] *= 1 - paint[..., 0]
    srgb = np.clip(np.exp(log), 0, 1) ** (1 / 2.2)
    return Skin((srgb * 255 + 0.5).astype(np.uint8), (marks * 255 + 0.5).astype(np.uint8))


def _age(log, masks, rng, age, strength):
    """Folds that deepen with age, darker below the eyes; redder than shadow, as scans show them."""
    shape = log.shape[:2]
    deep = float(np.clip((age - 0.25) * 1.5, 0, 1) * rng.uniform(0.35, 1.0))
    broken = np.clip(0.7 + 0.5 * noise_field(rng, shape, 24), 0, 1.3)
    groups = (rng.uniform(0.1, 0.42, 3) * deep * strength).astype(np.float32)
    depth = np.einsum("khw,k->hw", masks.wrinkles, groups)
    grain = gaussian_grain(rng, shape) * (0.02 + 0.07 * deep) * strength
    fold = (depth * broken + grain)[..., None]
    return log - fold * np.array([0.8, 1.0, 1.05], np.float32)


def _spots(log, masks, rng, age, strength):
    """Freckles on cheeks and nose, a few moles anywhere, and the spots of age."""
    shape = log.shape[:2]
    if rng.random() < 0.25 * strength:
        seeds = rng.random(shape) < rng.uniform(0.004, 0.03)
        grain = seeds.astype(np.float32)
        grain = np.maximum(grain, 0.6 * np.roll(grain, 1, 0)) + 0.5 * np.roll(grain, 1, 1)
        area = 0.3 + masks.cheeks + masks.nose
        log = log - (grain * area * rng.uniform(0.1, 0.45))[..., None] * MELANIN
    moles = rng.poisson(3 * strength)
    for k in range(moles + rng.poisson(40 * max(age - 0.55, 0) * strength)):
        y, x = rng.integers(shape[0]), rng.integers(shape[1])
        r, reach = (rng.uniform(0.8, 2.6), (0.2, 1.3)) if k < moles else (
            rng.uniform(1.5, 4.5), (0.08, 0.4))  # fmt: skip
        y0, y1, x0, x1 = max(y - 8, 0), y + 9, max(x - 8, 0), x + 9
        yy, xx = np.mgrid[y0 : min(y1, shape[0]), x0 : min(x1, shape[1])]
        dot = np.exp(-(((yy - y) ** 2 + (xx - x) ** 2) / r**2))
        log[y0:y1, x0:x1] -= (rng.uniform(*reach) * dot)[..., None].astype(np.float32) * MELANIN
    return log


def _paint_eyes(log, eyes, rng):
    """White, iris and pupil on the skin of a model that has no eyeballs."""
    opening, away = eyes
    iris = rng.uniform(0.02, 0.2) * np.array([1.0, rng.uniform(0.5, 1.4), rng.uniform(0.3, 1.6)])
    log = blend(log, opening, rng.uniform(0.45, 0.75) * np.array([1, 0.96, 0.92]), 1.0)
    log = blend(log, opening * np.clip(6.5 - away, 0, 1), iris, 1.0)
    return blend(log, opening * np.clip(2.8 - away, 0, 1), np.full(3, 0.008), 1.0)


def _make_up(log, masks, lips, rng, strength):
    if rng.random() < 0.75 * strength + 0.05:
        hue = np.array([rng.uniform(0.1, 0.6), rng.uniform(0.02, 0.2), rng.uniform(0.03, 0.22)])
        if rng.random() < 0.08:
            hue = rng.uniform(0.01, 0.7, 3)
        log = blend(log, lips, hue, rng.uniform(0, 0.75) ** 1.3)
    if rng.random() < 0.35 * strength:
        log = blend(log, masks.lid, rng.uniform(0.01, 0.35, 3), rng.uniform(0.05, 0.6))
    elif rng.random() < 0.4 * strength:
        log = log - (masks.lid * rng.uniform(0, 0.5))[..., None] * MELANIN
    dark = rng.uniform(0.01, 0.06) * np.ones(3)
    return blend(log, masks.lashes, dark, rng.uniform(0.15, 0.95) * (0.3 + 0.7 * strength))
