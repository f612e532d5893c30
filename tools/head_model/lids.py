"""Eyelids: outside the ball in every head, and a blink that closes on eyes of any size."""

from __future__ import annotations

import numpy as np
from scipy.sparse.csgraph import dijkstra

from head_model import carry, eyes

# Vertices along the lid margins of the right half, outer to inner corner (`curves.json`).
UPPER = (21, 18, 15, 12, 9, 6, 1, 57, 60, 63, 66, 67, 68)
OVERLAP_MM = 0.6  # of the upper margin over the lower one in a blink of the mean head
LOWER = (21, 24, 27, 30, 33, 36, 41, 44, 47, 50, 53, 72, 70, 71, 68)


def margin(via: tuple[int, ...], points: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """All vertices along a margin, by shortest edge paths between the via vertices."""
    graph = carry.edge_weights(points, faces)
    graph.data = 1.0 / graph.data
    path = [via[0]]
    for a, b in zip(via, via[1:], strict=False):
        _, previous = dijkstra(graph, indices=a, return_predecessors=True, limit=30.0)
        step = [b]
        while step[-1] != a:
            step.append(int(previous[step[-1]]))
        path += step[-2::-1]
    return np.array(path)


def on_curve(curve: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Points (n, 3) of a margin curve (m, 3) at given x."""
    order = np.argsort(curve[:, 0])
    sorted_curve = curve[order]
    return np.stack([np.interp(x, sorted_curve[:, 0], sorted_curve[:, c]) for c in range(3)], 1)


def push_out(
    points: np.ndarray, region: np.ndarray, centre: np.ndarray, clearance: float, axis=None
) -> np.ndarray:
    """Moves region vertices (v,) that are inside the eyeball to `clearance` mm outside it."""
    out = points.copy()
    offset = points[region] - centre
    length = np.linalg.norm(offset, axis=1)
    floor = eyes.profile_mm(offset, axis) + clearance
    out[region] = centre + offset * (np.maximum(length, floor) / length)[:, None]
    return out


def close_blink(
    mean: np.ndarray, faces: np.ndarray, blink: np.ndarray, upper: np.ndarray, lower: np.ndarray
) -> np.ndarray:
    """Corrects a blink (v, 3) so that the upper margin meets the lower one, a little over it.

    The correction of the margin spreads over the lid as a membrane that ends 9 mm away.
    """
    blink = _smooth_near(mean, faces, blink, mean[upper[-1]])
    closed = mean + blink
    target = on_curve(closed[lower], closed[upper, 0])
    target[:, 1] -= OVERLAP_MM
    target[:, 2] += 0.35
    from_corner = np.minimum(np.arange(len(upper)), np.arange(len(upper))[::-1])
    fade = np.clip(from_corner / 1.5, 0.0, 1.0)[:, None]
    gap = np.linalg.norm(mean[:, None] - mean[upper], axis=-1).min(1)
    known = (gap > 9.0) | (mean[:, 0] * mean[upper[0], 0] < 0)
    known[upper] = True
    known[lower] = True
    values = np.zeros_like(mean)
    correction = (target - closed[upper]) * fade
    correction[:, 0] = 0.0
    values[upper] = correction
    values[lower] = 0.0
    return blink + carry.membrane(mean, faces, known)(values)


def _smooth_near(
    mean: np.ndarray, faces: np.ndarray, delta: np.ndarray, corner: np.ndarray
) -> np.ndarray:
    """Replaces a shape within 4.5 mm of the inner corner, where ICT's folds, by a membrane."""
    free = np.linalg.norm(mean - corner, axis=1) < 4.5
    return carry.membrane(mean, faces, ~free)(delta)


def aperture_gain(
    mean: np.ndarray, modes: np.ndarray, upper: np.ndarray, lower: np.ndarray
) -> np.ndarray:
    """How much each mode opens the eye, as a share of the mean head's aperture: (k,)."""
    middle = upper[len(upper) // 4 : -len(upper) // 4]
    x = mean[middle, 0]

    def height(curve_u: np.ndarray, curve_l: np.ndarray) -> float:
        return float((on_curve(curve_u, x)[:, 1] - on_curve(curve_l, x)[:, 1]).mean())

    rest = height(mean[upper], mean[lower])
    return (
        np.array([height(mean[upper] + m[upper], mean[lower] + m[lower]) for m in modes]) / rest - 1
    )


def keep_clearance(
    mean: np.ndarray,
    faces: np.ndarray,
    modes: np.ndarray,
    ball: np.ndarray,
    ids: np.ndarray,
    centre: np.ndarray,
) -> np.ndarray:
    """Modes (k, v, 3) whose lids keep their distance to the moving eyeball to first order.

    At the lid vertices `ids` the part of a mode along the ball's normal becomes that of the ball's
    own motion (k, 4); a membrane that ends 8 mm away spreads the small correction.
    """
    offsets = mean[ids] - centre
    normal = offsets / np.linalg.norm(offsets, axis=1, keepdims=True)
    wanted = ball[:, None, :3] + ball[:, None, 3:] * offsets
    error = ((wanted - modes[:, ids]) * normal).sum(-1)
    gap = np.linalg.norm(mean[:, None] - mean[ids], axis=-1).min(1)
    known = (gap > 8.0) | (mean[:, 0] * centre[0] < 0)
    known[ids] = True
    values = np.zeros_like(modes)
    values[:, ids] = error[..., None] * normal
    return modes + carry.membrane(mean, faces, known)(values)
