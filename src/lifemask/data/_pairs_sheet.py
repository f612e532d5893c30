"""Contact sheet of pairs: picture, classes, true and guide normals, true and guide depth."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from lifemask.data._pairs_types import Pair
from lifemask.data._sample_codec import PALETTE

DEPTHS = (-0.6, 0.6)


def sheet(pairs: Iterable[Pair], columns: int = 2) -> NDArray[np.uint8]:
    """Pairs side by side, `columns` to a row: (h, w, 3) uint8."""
    tiles = [row(pair) for pair in pairs]
    tiles += [np.zeros_like(tiles[0])] * (-len(tiles) % columns)
    lines = [np.concatenate(tiles[i : i + columns], 1) for i in range(0, len(tiles), columns)]
    return np.concatenate(lines)


def row(pair: Pair) -> NDArray[np.uint8]:
    """One pair: (S, 6 S, 3) uint8."""
    colours = np.array(PALETTE, np.uint8)
    return np.concatenate(
        [
            pair.image, colours[pair.region], _normals(pair.normals), _normals(pair.guide_normals),
            _depth(pair.depth), _depth(pair.guide_depth),
        ],
        1,
    )  # fmt: skip


def _normals(normals: NDArray[np.float32]) -> NDArray[np.uint8]:
    shown = np.abs(normals).sum(-1, keepdims=True) > 0
    return ((normals * 0.5 + 0.5) * 255 * shown).astype(np.uint8)


def _depth(depth: NDArray[np.float32]) -> NDArray[np.uint8]:
    low, high = DEPTHS
    grey = np.clip((np.nan_to_num(depth, nan=low) - low) / (high - low), 0, 1) * 255
    return np.repeat(grey.astype(np.uint8)[..., None], 3, -1)
