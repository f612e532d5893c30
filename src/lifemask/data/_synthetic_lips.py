"""Lips painted on skins: thin to full, pale to made up."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lifemask.data._synthetic_masks import SkinMasks, as_float
from lifemask.data._synthetic_paint import noise_field

_CORE_MM, _NEAR_MM, _RING_MM = 3.0, 6.0, 9.0
"""Surely lip this far inside the usual outline; looked for as far outside; surely skin beyond."""
_GROWTH_MM = -1.6, 1.8
"""How much thinner or fuller than the usual outline lips are."""
_BORDER_MM = 0.7, 3.5
_PALEST = 0.1
"""Difference from the skin (log colour) of lips that a texture has none of."""


def usual_lips(masks: SkinMasks) -> NDArray[np.float32]:
    """Soft mask (rows, columns) of the mean head's lips; half-way down its border they end.

    Textures unwrapped from photos have theirs there: landmarks laid them out.
    """
    return drawn_lips(masks, 0.0, 1.5)


def drawn_lips(masks: SkinMasks, growth: NDArray | float, border: float) -> NDArray[np.float32]:
    """Soft mask (rows, columns) of lips.

    Args:
        masks: of the layout.
        growth: mm beyond the mean head's outline, one number or (rows, columns).
        border: mm over which they fade into skin.
    """
    return as_float(np.clip(0.5 + (masks.lip_depth + growth) / border, 0, 1))


def paint_lips(
    log: NDArray[np.float32], masks: SkinMasks, rng: np.random.Generator
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """A skin with other lips than it had, in about their colour; also: their soft mask.

    What the skin has of its own is taken back to the colour of the skin around, its fine detail
    kept, and lips with an outline and a border of their own are laid over that.

    Args:
        log: (rows, columns, 3) log linear colour.
        masks: of the same layout.
        rng: decides everything.
    """
    membership, differs = _own_lips(log, masks)
    bare = log - membership[..., None] * differs
    grain = noise_field(rng, log.shape[:2], 5)
    growth = rng.uniform(*_GROWTH_MM) + rng.uniform(0, 0.8) * noise_field(rng, log.shape[:2], 16)
    mask = drawn_lips(masks, np.clip(growth, -2.8, 2.8), rng.uniform(*_BORDER_MM))
    redder = np.array([0.1, 1.0, 0.8]) * -rng.uniform(_PALEST, 0.5)
    hue = np.where(np.abs(differs).max() > _PALEST, differs, redder) * rng.uniform(0.5, 1.6)
    hue = hue + rng.normal(0, 0.06, 3) - rng.uniform(0, 0.25) ** 1.5
    uneven = 1 + rng.uniform(0, 0.25) * grain
    return as_float(bare + (mask * uneven)[..., None] * hue), mask


def _own_lips(log, masks: SkinMasks) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """How much of lips a texture has where, (rows, columns) in [0, 1], and their colour (3,).

    The colour is the difference (log) from the skin around; a place's share of it is the
    projection of its own difference, clipped, which leaves shine and stubble where they are.
    """
    from scipy.ndimage import gaussian_filter

    depth = masks.lip_depth
    core, near = depth > _CORE_MM, depth > -_NEAR_MM
    ring = (depth > -_RING_MM) & ~near
    skin = np.median(log[ring], axis=0)
    differs = np.median(log[core], axis=0) - skin
    smooth = gaussian_filter(log, (1.0, 1.0, 0))
    share = (smooth - skin) @ differs / max(float(differs @ differs), 1e-6)
    return as_float(np.clip(share, 0, 1) * near), as_float(differs)
