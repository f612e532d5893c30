"""Brows, stubble and beards painted on skins, and where a texture of a photo shows its brows."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lifemask.data._synthetic_masks import SkinMasks, as_float
from lifemask.data._synthetic_paint import blend, noise_field

BROW_REACH_MM = 8.5
FAINTEST_BROW = 0.08
"""Where brows of photo textures are looked for, and how much darker (log) they are at least."""
_FARTHEST_MM = 12.0
"""No brow grows farther from its line."""
_LIFT_MM = -8.0, 4.0
"""How far above their usual line brows grow; those of portraits mostly lie below it."""
_MEET = 0.05
"""Share of the brows that meet above the nose."""
_DARKEST, _BLOND, _FAIREST = 0.006, 0.3, 0.75
"""Linear red of black and of blond hair, and how fair hair is of the skin's own colour."""


def facial_hair(
    log: NDArray[np.float32],
    masks: SkinMasks,
    rng: np.random.Generator,
    age: float,
    strength: float,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Brows, stubble or a painted beard, a shaved scalp's shadow; also: the brows' soft mask.

    Args:
        log: (rows, columns, 3) log linear colour.
        masks: of the same layout.
        rng: decides everything.
        age: in [0, 1]; greys the hair.
        strength: 1 for plain skins; below, few get brows and the rest is rarer.
    """
    shape = log.shape[:2]
    skin = np.exp(np.median(log[masks.brow > 0.5], axis=0))
    colour = _painted_colour(rng, age, skin)
    grain = rng.random(shape).astype(np.float32)
    mask = np.zeros(shape, np.float32)
    if strength >= 1 or rng.random() < 0.1:
        mask, cover = _brows(masks, rng, grain)
        log = blend(log, mask * cover, colour, rng.uniform(0.25, 1.0))
    if rng.random() < 0.35 * strength:
        cut = rng.choice(["full", "goatee", "moustache"], p=[0.6, 0.2, 0.2])
        clumps = rng.uniform(0, 0.25) * noise_field(rng, shape, rng.uniform(3, 9))
        dense = masks.beard[cut] * rng.uniform(0.3, 1.8) - rng.uniform(0.1, 0.4) * grain - clumps
        own = colour * rng.uniform(0.6, 1.4)
        log = blend(log, np.clip(dense, 0, 1), own, rng.uniform(0.2, 1.0))
    if rng.random() < 0.5 * strength:
        dense = np.clip(masks.scalp * rng.uniform(0.3, 1.3) - 0.3 * grain, 0, 1)
        log = blend(log, dense, colour, rng.uniform(0.1, 0.8))
    return log, mask


def _painted_colour(rng: np.random.Generator, age: float, skin: NDArray) -> NDArray[np.float64]:
    """Linear colour (3,): black to fair, never fairer than the skin unless grey with age."""
    fairest = np.clip(_FAIREST * skin.max(), _DARKEST, _BLOND)
    shade = _DARKEST * (fairest / _DARKEST) ** (rng.random() ** 1.3)
    warm = np.array([1.0, rng.uniform(0.55, 0.9), rng.uniform(0.3, 0.75)])
    colour = np.minimum(shade * warm, _FAIREST * skin)
    grey = np.clip((age - 0.5) * 2.4, 0, 1) * rng.uniform(0, 1)
    return colour * (1 - grey) + grey * rng.uniform(0.15, 0.45)


def _brows(masks: SkinMasks, rng: np.random.Generator, grain: NDArray[np.float32]):
    """Soft mask of brows, and how much of the skin their hairs cover there, (rows, columns) each.

    Thin to bushy, sharp to soft, low to high, with tails of all lengths, a few grown together; the
    hairs fan out from upright at the nose to flat at the temple, and thin out towards the nose.
    """
    along, shape = masks.brow_along, grain.shape
    width = rng.uniform(1.6, 6.0)
    lift = rng.uniform(*_LIFT_MM) + rng.normal(0, 1) * np.sin(along / 17)
    lift = lift + rng.normal(0, 2) * (along / masks.brow_length - 0.5)
    meeting = rng.random() < _MEET
    mask = drawn_brows(masks, width, lift, rng.uniform(4, 28), rng.uniform(0.5, 2.0), meeting)
    upright = np.deg2rad(15 + 60 * np.clip(along / masks.brow_length, 0, 1) ** 2)
    over = along * np.sin(upright) + masks.brow_across * np.cos(upright)
    wave = 2 * np.pi * over / rng.uniform(2.8, 5.5) + 1.5 * noise_field(rng, shape, 6)
    bare = np.clip(0.35 + 0.35 * np.sin(wave) + 0.8 * grain - 0.35, 0, 1)
    inner = np.clip((masks.brow_length - along) / rng.uniform(1, 16), 0, 1)
    least = rng.uniform(0.4, 1.0)
    return mask, (1 - rng.uniform(0, 0.9) * bare) * (least + (1 - least) * inner)


def drawn_brows(
    masks: SkinMasks,
    width: float,
    lift: NDArray | float,
    tail: float = 5.0,
    soft: float = 1.0,
    meeting: bool = False,
) -> NDArray[np.float32]:
    """Soft mask (rows, columns) of brows; half-way down its border is where a brow ends.

    Args:
        masks: of the layout.
        width: half-height in mm.
        lift: mm above the brow's line, one number or (rows, columns).
        tail: mm from the temple over which a brow grows to its height.
        soft: width of the border, 1 for the half-height.
        meeting: above the nose.
    """
    along = masks.brow_along
    taper = np.clip(along / tail + 0.2, 0, 1)
    if not meeting:
        taper = taper * np.clip((masks.brow_length - along) / 2 + 1, 0, 1)
    half = width * taper + 0.4
    away = np.abs(masks.brow_across - lift)
    mask = np.clip(0.5 + (0.9 * half - away) / (soft * half), 0, 1)
    return as_float(np.where((taper > 0) & (masks.brow_away < _FARTHEST_MM), mask, 0))


def seen_brows(log: NDArray[np.float32], masks: SkinMasks) -> NDArray[np.float32]:
    """Soft mask (rows, columns) of a texture's brows; the usual place if none stands out.

    A brow is what differs from the skin above it, near the brow's line: the threshold between two
    classes of brightness (Otsu 1979), one piece a side.

    Args:
        log: (rows, columns, 3) log linear colour.
        masks: of the same layout.
    """
    usual = drawn_brows(masks, 3.3, 0.5)
    bright = log.mean(-1)
    out = np.zeros_like(usual)
    for left in (False, True):
        side = masks.left == left
        own = side & (usual > 0.5)
        near = side & (masks.brow_away < BROW_REACH_MM) & (masks.brow_across > -4.5)
        above = side & (np.abs(masks.brow_away - 11) < 2.5) & (masks.brow_across > 5)
        found = _standing_out(bright, near, above, own) if above.any() and own.any() else None
        if found is not None and _length(masks, found > 0.5) < 0.75 * _length(masks, own):
            found = None
        out = np.where(side, usual if found is None else found, out)
    return as_float(out)


def _length(masks: SkinMasks, brow: NDArray[np.bool_]) -> float:
    """Extent of a mask in mm along the brow's line."""
    return float(np.ptp(masks.brow_along[brow])) if brow.any() else 0.0


def _standing_out(bright, near, above, own) -> NDArray[np.float32] | None:
    """The piece of `near` that differs most from `above`; None if it is none or no brow's size."""
    from scipy.ndimage import gaussian_filter
    from skimage.filters import threshold_otsu
    from skimage.measure import label

    differs = np.median(bright[above]) - gaussian_filter(bright, 0.7)
    differs = differs if np.median(differs[own]) >= 0 else -differs
    threshold = threshold_otsu(differs[near])
    pieces = np.asarray(label(near & (differs > threshold), connectivity=1))
    if not pieces.any() or threshold < FAINTEST_BROW:
        return None
    found = pieces == 1 + np.argmax(np.bincount(pieces[own], minlength=2)[1:])
    if not 0.5 * own.sum() < found.sum() < 3 * own.sum() or not (found & own).any():
        return None
    return as_float(np.clip(gaussian_filter(found.astype(np.float32), 0.6), 0, 1))
