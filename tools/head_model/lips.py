"""Lips: the curves that bound them, closed at rest, and closed in every neutral head."""

from __future__ import annotations

import numpy as np

from head_model import carry
from head_model.lids import margin, on_curve
from head_model.skin import Skin, adjacency, grow

# Right half, from the corner to the midline (`curves.json`, guiding points of the study).
OUTER_UPPER = (425, 1337, 424, 408, 411, 410, 1709, 451, 457, 460, 463, 466)
OUTER_LOWER = (425, 426, 1304, 441, 405, 406, 480, 486, 492)
INNER_UPPER = (428, 430, 418, 1717, 470, 472, 474)
INNER_LOWER = (428, 446, 437, 475, 517, 523)
REACH_MM = 7.0
OVERLAP_MM = 0.15


def lip_mask(skin: Skin, mouth: np.ndarray, mirror: np.ndarray) -> np.ndarray:
    """Vertices (v,) of the red of the lips: from the mouth's cavity out to the outer curves."""
    right = np.concatenate(
        [margin(curve, skin.mean, skin.faces) for curve in (OUTER_UPPER, OUTER_LOWER)]
    )
    border = np.zeros(len(mouth), bool)
    border[right] = True
    border |= border[mirror]
    graph = adjacency(skin.faces, len(mouth))
    inside = grow(skin.mouth_cavity, graph, 1) & ~border
    while True:
        more = grow(inside, graph, 1) & ~border & (mouth | skin.mouth_cavity)
        if (more == inside).all():
            return (inside | border) & ~skin.mouth_cavity
        inside = more


class LipSeal:
    """Moves the two inner lip rims together, in the mean and in each identity mode.

    The rims meet half-way (`OVERLAP_MM` over each other in the mean; modes move both rims alike),
    and a membrane that ends `REACH_MM` away spreads the correction. ICT's people were scanned
    with lips more or less parted; here parting is left to the expressions.
    """

    def __init__(self, skin: Skin, mean: np.ndarray, mirror: np.ndarray):
        self.mean = mean
        self.rims = []
        for flip in (False, True):
            upper = margin(INNER_UPPER, mean, skin.faces)[1:]
            lower = margin(INNER_LOWER, mean, skin.faces)[1:]
            self.rims.append((mirror[upper], mirror[lower]) if flip else (upper, lower))
        every = np.concatenate([np.concatenate(pair) for pair in self.rims])
        gap = np.linalg.norm(mean[:, None] - mean[every], axis=-1).min(1)
        known = gap > REACH_MM
        known[every] = True
        self.fill = carry.membrane(mean, skin.faces, known)

    def correction(self, field: np.ndarray, overlap_mm: float = 0.0) -> np.ndarray:
        """What to add to a field (v, 3) (the mean itself, or a mode) to close the rims."""
        values = np.zeros_like(self.mean)
        for upper, lower in self.rims:
            fade = np.clip(np.arange(len(upper)) / 2.0, 0.0, 1.0)
            self._one(values, field, upper, lower, fade, overlap_mm / 2)
            fade = np.clip(np.arange(len(lower)) / 2.0, 0.0, 1.0)
            self._one(values, field, lower, upper, fade, -overlap_mm / 2)
        return self.fill(values)

    def _one(self, values, field, own, other, fade, shift) -> None:
        x = self.mean[own, 0]
        curve = np.concatenate([self.mean[other, :1], field[other, 1:]], 1)
        middle = (field[own, 1] + on_curve(curve, x)[:, 1]) / 2
        values[own, 1] = fade * (middle - field[own, 1] - shift)
