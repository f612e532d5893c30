"""Putting one picture into another: membranes, Poisson blending, colour statistics."""

from __future__ import annotations

import warnings

import numpy as np
from numpy.typing import NDArray

from lifemask.data._pairs_masks import Mask, beside, from_nearest, parts_of

MIN_GAIN, MAX_GAIN = 0.65, 1.2
"""Bounds of the change of contrast when colours are matched."""
FEWEST = 20
"""Pixels that colour statistics need."""


def membrane(
    inside: Mask, values: NDArray[np.floating], known: Mask, pull: float = 0.0
) -> NDArray[np.float64]:
    """Solution of `lap e = pull e` inside, with `e = values` at known pixels beside it.

    Neighbours that are neither inside nor known, and the picture's edge, count for nothing: no
    gradient goes across them. Parts of the inside that touch nothing known are 0.

    Args:
        inside: (h, w) pixels to find.
        values: (h, w, c) of known pixels.
        known: (h, w) pixels that are fixed; those inside do not count.
        pull: towards 0, per px^2.

    Returns:
        (h, w, c), 0 outside.
    """
    from scipy.sparse import coo_matrix
    from scipy.sparse.linalg import splu

    out = np.zeros(values.shape, np.float64)
    solvable = inside if pull > 0 else touching(inside, known)
    count = int(solvable.sum())
    if count == 0:
        return out
    ids = np.full(inside.shape, -1)
    ids[solvable] = np.arange(count)
    diagonal, right = np.full(count, float(pull)), np.zeros((count, values.shape[-1]))
    rows, columns = [np.arange(count)], [np.arange(count)]
    for here, there in beside():
        joined = solvable[here] & solvable[there]
        rows.append(ids[here][joined])
        columns.append(ids[there][joined])
        held = solvable[here] & known[there] & ~inside[there]
        diagonal[ids[here][joined]] += 1
        diagonal[ids[here][held]] += 1
        right[ids[here][held]] += values[there][held]
    entries = np.full(sum(map(len, rows)), -1.0)
    entries[:count] = diagonal
    place = np.concatenate(rows), np.concatenate(columns)
    matrix = coo_matrix((entries, place), shape=(count, count)).tocsc()
    solver = splu(matrix, permc_spec="MMD_AT_PLUS_A", options={"SymmetricMode": True})
    out[solvable] = solver.solve(right)
    return out


def touching(inside: Mask, known: Mask) -> Mask:
    """The parts of the inside that have a known pixel beside them."""
    parts = parts_of(inside)
    held = np.zeros(parts.count + 1, bool)
    for here, there in beside():
        held[parts.number[here][inside[here] & known[there] & ~inside[there]]] = True
    return parts.only(held)


def poisson_blend(
    base: NDArray[np.floating],
    over: NDArray[np.floating],
    inside: Mask,
    held: Mask,
    pull: float = 0.0,
    reach: float | None = None,
) -> NDArray[np.float64]:
    """The picture `f` with `lap f = lap over` inside and `f = base` elsewhere (Perez et al. 2003).

    `f = over + e` with a membrane e that is `base - over` on the border, so that the inside keeps
    the gradients of `over` and joins `base` without a seam.

    Args:
        base: (h, w, c) what is around.
        over: (h, w, c) what goes inside; its values beside the inside count, too.
        inside: (h, w).
        held: (h, w) border pixels where f joins `base`; across others nothing is said, so that hair
            or a dark background does not bleed into the inside.
        pull: of e towards 0, per px^2; 0 is Poisson's equation itself.
        reach: most that e is on the border; None for no limit.
    """
    difference = np.asarray(base - over, np.float64)
    if reach is not None:
        difference = np.clip(difference, -reach, reach)
    joined = over + membrane(inside, difference, held, pull)
    return np.where(inside[..., None], joined, base)


def harmonic_fill(image: NDArray[np.floating], hole: Mask, known: Mask) -> NDArray[np.float64]:
    """The picture with a hole filled by Laplace's equation from known pixels beside it.

    Args:
        image: (h, w, c).
        hole: (h, w) pixels to fill.
        known: (h, w) pixels that may be looked at; parts of the hole that touch none of them take
            the colour of the nearest.
    """
    image = np.asarray(image, np.float64)
    source = known & ~hole
    if not source.any() or not hole.any():
        return image
    filled = membrane(hole, image, source)
    filled = np.where(touching(hole, source)[..., None], filled, from_nearest(image, source))
    return np.where(hole[..., None], filled, image)


def match_lab(
    image: NDArray[np.floating], of: Mask, target: NDArray[np.floating], at: Mask
) -> NDArray[np.float64]:
    """A picture with the Lab middle and spread of another's pixels (Reinhard et al. 2001).

    Medians and the distance of the 16th and 84th percentiles stand for mean and deviation: beards,
    glasses and highlights of either picture do not count.

    Args:
        image: (h, w, 3) sRGB in [0, 1].
        of: (h, w) its pixels that are measured; all are changed.
        target: (h, w, 3) sRGB in [0, 1].
        at: (h, w) its pixels that are measured.
    """
    from skimage.color import lab2rgb, rgb2lab

    if of.sum() < FEWEST or at.sum() < FEWEST:
        return np.asarray(image, np.float64)
    own, other = rgb2lab(image), rgb2lab(target)
    low, middle, high = np.percentile(own[of], (16, 50, 84), axis=0)
    other_low, other_middle, other_high = np.percentile(other[at], (16, 50, 84), axis=0)
    gain = np.clip((other_high - other_low) / np.maximum(high - low, 1e-3), MIN_GAIN, MAX_GAIN)
    moved = (own - middle) * gain + other_middle
    moved[..., 0] = np.clip(moved[..., 0], 0, 100)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # colours out of gamut are clipped
        return np.clip(lab2rgb(moved), 0, 1)
