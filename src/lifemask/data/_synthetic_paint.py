"""What skins are painted with: noise, pores, and colours laid over colours."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def noise_field(rng: np.random.Generator, shape: tuple[int, int], cell: float) -> NDArray:
    """Smooth noise (rows, columns), about standard normal, with features of `cell` texels."""
    from skimage.transform import resize

    small = (max(2, round(shape[0] / cell)) + 3, max(2, round(shape[1] / cell)) + 3)
    return np.asarray(
        resize(rng.standard_normal(small).astype(np.float32), shape, order=1), np.float32
    )


def gaussian_grain(rng: np.random.Generator, shape: tuple[int, int]) -> NDArray[np.float32]:
    """White noise (rows, columns) smoothed to about two texels: pores."""
    grain = rng.standard_normal(shape, dtype=np.float32)
    grain = grain + np.roll(grain, 1, 0)
    return (0.5 * (grain + np.roll(grain, 1, 1))).astype(np.float32)


def blend(log: NDArray, mask: NDArray, colour: NDArray, amount: float) -> NDArray:
    """Log linear colours (rows, columns, 3) with a linear colour (3,) laid over them.

    Args:
        log: what is painted on.
        mask: (rows, columns) in [0, 1].
        colour: (3,) or (rows, columns, 3).
        amount: what the mask is multiplied by.
    """
    k = np.clip(mask * amount, 0, 1)[..., None]
    return log * (1 - k) + k * np.log(np.maximum(colour, 0.004)).astype(np.float32)
