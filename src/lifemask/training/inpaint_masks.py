"""Holes to cut out of pictures: the crescents that a swapped face leaves, strokes, ellipses."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool
from numpy import ndarray

from lifemask.data._pairs_compose import OUTLINE
from lifemask.data._pairs_masks import grown
from lifemask.training.inpaint_recipes import HoleConfig

FEWEST = 12
"""Pixels of a hole."""
LEAST_KNOWN = 0.2
"""Share of the picture that may be looked at."""
TRIES = 8
_TURN_DEG = 6.0


def draw_hole(
    rng: np.random.Generator,
    face: Bool[ndarray, "s s"],
    outside: Bool[ndarray, "s s"],
    config: HoleConfig,
) -> tuple[Bool[ndarray, "s s"], Bool[ndarray, "s s"]]:
    """A hole, and what may be looked at to fill it.

    Args:
        rng: source of randomness.
        face: the picture's face.
        outside: pixels without a picture: neither known nor hole.
        config: kinds of holes.

    Returns:
        (hole, known): they have no pixel in common; the rest is hidden.
    """
    for _ in range(TRIES):
        if face.any() and rng.random() < config.gap:
            hole, hidden = gap_beside(rng, face, config)
        else:
            hole = strokes(rng, len(face), config)
            hidden = face if rng.random() < config.hidden else np.zeros_like(face)
        hole = hole & ~hidden & ~outside
        known = ~hole & ~hidden & ~outside
        if hole.sum() >= FEWEST and known.mean() >= LEAST_KNOWN:
            return hole, known
    hole = np.zeros_like(face)
    middle, reach = len(face) // 2, max(2, len(face) // 16)
    hole[middle - reach : middle + reach, middle - reach : middle + reach] = True
    return hole & ~outside, ~hole & ~outside


def gap_beside(
    rng: np.random.Generator, face: Bool[ndarray, "s s"], config: HoleConfig
) -> tuple[Bool[ndarray, "s s"], Bool[ndarray, "s s"]]:
    """What an old face leaves that lay a little beside the face: (hole, hidden).

    As `data._pairs_compose.choose_layers` makes gaps: the old face where the new one is not, with
    the old one's blurred outline; the new face is drawn later, so it is no source. In training
    the picture's face is the new one, and a displaced copy the old one: beside the face lies what
    a picture has there.
    """
    size = len(face)
    new = grown(face, int(rng.integers(0, 3))) if rng.random() < 0.7 else face
    old = moved(
        face,
        1 + rng.normal(0.05, config.scale, 2).clip(-0.4, 0.4),
        np.deg2rad(rng.normal(0, _TURN_DEG)),
        rng.normal(0, config.shift, 2) * size,
    )
    bare = old & ~new
    return grown(bare, max(1, round(OUTLINE * size)), ~new), new


def moved(
    mask: Bool[ndarray, "s s"], scale: ndarray, turn: float, shift_px: ndarray
) -> Bool[ndarray, "s s"]:
    """A mask scaled (x, y) and turned (radians) about its middle, then shifted (x, y) px."""
    v, u = np.nonzero(mask)
    centre = np.array([u.mean(), v.mean()])
    y, x = np.mgrid[: len(mask), : len(mask)].astype(np.float64)
    x, y = x - centre[0] - shift_px[0], y - centre[1] - shift_px[1]
    c, s = np.cos(turn), np.sin(turn)
    column = np.rint((c * x + s * y) / scale[0] + centre[0]).astype(np.int64)
    row = np.rint((c * y - s * x) / scale[1] + centre[1]).astype(np.int64)
    there = (np.minimum(column, row) >= 0) & (np.maximum(column, row) < len(mask))
    last = len(mask) - 1
    return mask[row.clip(0, last), column.clip(0, last)] & there


def strokes(rng: np.random.Generator, size: int, config: HoleConfig) -> Bool[ndarray, "s s"]:
    """One to three bent strokes (free-form masks of Yu et al., ICCV 2019), or one ellipse."""
    y, x = np.mgrid[:size, :size].astype(np.float64)
    if rng.random() < config.ellipse:
        radii = rng.uniform(0.04, max(config.widest, 0.05), 2) * size
        angle, (cx, cy) = rng.uniform(0, np.pi), rng.uniform(0.1, 0.9, 2) * size
        c, s = np.cos(angle), np.sin(angle)
        along, across = c * (x - cx) + s * (y - cy), c * (y - cy) - s * (x - cx)
        return (along / radii[0]) ** 2 + (across / radii[1]) ** 2 < 1
    hole = np.zeros((size, size), bool)
    for _ in range(int(rng.integers(1, 4))):
        width = rng.uniform(0.02, max(config.widest, 0.03)) * size
        place, angle = rng.uniform(0, size, 2), rng.uniform(0, 2 * np.pi)
        for _ in range(int(rng.integers(1, 5))):
            angle += rng.normal(0, 0.7)
            step = rng.uniform(0.05, 0.25) * size * np.array([np.cos(angle), np.sin(angle)])
            t = ((x - place[0]) * step[0] + (y - place[1]) * step[1]) / (step @ step)
            t = t.clip(0, 1)
            away = np.hypot(x - place[0] - t * step[0], y - place[1] - t * step[1])
            hole |= away < width / 2
            place = place + step
    return hole
