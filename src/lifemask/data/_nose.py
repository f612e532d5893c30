"""The tip of the nose on a face scan without landmarks, by a stated rule."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy import ndarray

from lifemask.assets import UserError
from lifemask.graphics.mesh import vertex_normals

CELL_MM = 4.0
REACH_MM = 22.0
_FACING = 0.4  # least z of a normal: the tip looks towards the viewer
_ONE_SIDED = 0.2  # of the reach; at an open border the neighbours lie on one side
_MIN_CELLS = 12


def nose_tip(
    vertices: Float[ndarray, "v 3"], faces: Int[ndarray, "f 3"]
) -> tuple[Float[ndarray, "3"], float]:
    """The most pointed place of a face scan, and its curvature in 1 / mm.

    The surface is averaged in cells of 4 mm. Where it looks towards the viewer, a paraboloid is
    fitted to the cells within 22 mm; the tip is where its smaller curvature is largest, that is
    where the surface falls off in every direction. A scan's most forward point is often a brow or
    the chin; this rule does not depend on how the head is inclined, as long as the face looks
    roughly along +z.

    Args:
        vertices: (v, 3) mm, y up, z towards the viewer.
        faces: (f, 3), counter-clockwise from outside.

    Raises:
        UserError: nothing there that looks towards the viewer and is convex.
    """
    from scipy.spatial import KDTree

    points, normals = _cells(np.asarray(vertices, np.float64), faces)
    candidates = np.flatnonzero(normals[:, 2] > _FACING)
    tree = KDTree(points)
    best, tip, outward = 0.0, None, None
    for k, ids in zip(candidates, tree.query_ball_point(points[candidates], REACH_MM), strict=True):
        peak = _peak(points[ids] - points[k], normals[k])
        if peak > best:
            best, tip, outward = peak, points[k], normals[k]
    if tip is None or outward is None:
        raise UserError("no convex part of the scan looks along +z: is y up and z to the viewer?")
    around = vertices[np.linalg.norm(vertices - tip, axis=1) <= 1.5 * CELL_MM]
    around = around if len(around) else tip[None]
    return around[int(np.argmax(around @ outward))], best


def _peak(offsets: ndarray, normal: ndarray) -> float:
    """Smaller curvature of a peak, positive where the surface falls off everywhere, else 0."""
    along = offsets @ normal
    flat = offsets - along[:, None] * normal
    if len(offsets) < _MIN_CELLS or np.linalg.norm(flat.mean(0)) > _ONE_SIDED * REACH_MM:
        return 0.0
    across = np.cross(normal, np.eye(3)[np.argmin(np.abs(normal))])
    across /= np.linalg.norm(across)
    x, y = flat @ across, flat @ np.cross(normal, across)
    columns = np.stack([x * x / 2, x * y, y * y / 2, x, y, np.ones(len(x))], 1)
    columns[:, :3] /= REACH_MM  # columns of like size: the normal equations are safe then
    columns[:, 5] *= REACH_MM
    gram = columns.T @ columns
    gram[np.diag_indices(6)] += 1e-9 * np.trace(gram)
    a, b, c = np.linalg.solve(gram, columns.T @ along)[:3] / REACH_MM
    return max(0.0, -float((a + c) / 2 + np.hypot((a - c) / 2, b)))


def _cells(vertices: ndarray, faces: ndarray) -> tuple[ndarray, ndarray]:
    """Mean position (c, 3) and unit normal (c, 3) of the used vertices in each cell."""
    used = np.unique(faces)
    normals = vertex_normals(torch.from_numpy(vertices), torch.from_numpy(faces)).numpy()[used]
    points = vertices[used]
    keys = np.floor((points - points.min(0)) / CELL_MM).astype(np.int64)
    _, cell, count = np.unique(keys, axis=0, return_inverse=True, return_counts=True)
    cell = cell.reshape(-1)
    sums = np.zeros((len(count), 6))
    np.add.at(sums, cell, np.concatenate([points, normals], 1))
    direction = sums[:, 3:] / np.maximum(np.linalg.norm(sums[:, 3:], axis=1, keepdims=True), 1e-12)
    return sums[:, :3] / count[:, None], direction
