"""Moving a surface onto scan points that stay: the alignment of scan-to-mesh benchmarks.

`surface.icp` moves points onto a surface. With scale that is another problem: shrinking the points
shortens the distances, whereas benchmarks scale the prediction and measure in the scan's mm.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from numpy import ndarray

from lifemask.assets import UserError
from lifemask.evaluation.surface import Closest, Similarity, SurfaceTree

_MAX_STEPS = 100
_SCALE_RANGE = (0.2, 5.0)
_COARSE = 3000
_MIN_POINTS = 50
_EXACT = 1e-16  # squared distance below which the surface lies on the points


@dataclass(frozen=True)
class Motion:
    """A surface laid on points.

    Attributes:
        similarity: surface to the points' frame.
        distance: (n,) from each point to the moved surface, in the points' unit.
        converged: False where the step limit came first or the scale ran away.
    """

    similarity: Similarity
    distance: Float[ndarray, "n"]
    converged: bool


def closest_on_moved(
    points: Float[ndarray, "n 3"], tree: SurfaceTree, motion: Similarity
) -> Closest:
    """Nearest points of the moved surface; distances and points in the frame of `points`."""
    found = tree.closest(motion.inverse().apply(points))
    return Closest(motion.scale * found.distance, motion.apply(found.point), found.face)


def in_ball(
    points: Float[ndarray, "n 3"], center: Float[ndarray, "3"], radius: float, what: str
) -> Bool[ndarray, "n"]:
    """Points (n,) that a benchmark's crop keeps.

    Raises:
        UserError: next to none: landmarks and scan do not belong together, or differ in unit.
    """
    inside = np.linalg.norm(points - center, axis=1) <= radius
    if inside.sum() < _MIN_POINTS:
        raise UserError(
            f"{what}: only {int(inside.sum())} of {len(points)} vertices lie within {radius:.0f} mm"
            " of the face; are scan and landmarks in millimetres and in one frame?"
        )
    return inside


def lay_surface(
    points: Float[ndarray, "n 3"],
    tree: SurfaceTree,
    start: Similarity,
    *,
    scale: bool,
    tolerance: float = 1e-6,
) -> Motion:
    """Minimise the sum of squared distances from points to a surface that moves.

    Levenberg-Marquardt on the distances themselves, closest points sought anew in each step: the
    problem that NoW's code hands to a dogleg solver. Many points are first replaced by a part of
    them, which brings the surface near.

    Args:
        points: (n, 3), fixed.
        tree: the surface in its own frame.
        start: first motion of the surface, from landmarks.
        scale: also solve for the surface's size.
        tolerance: stop when the sum falls by less than this fraction.
    """
    if len(points) > 2 * _COARSE:
        part = points[:: len(points) // _COARSE]
        start = lay_surface(part, tree, start, scale=scale, tolerance=1e-4).similarity
    current, found = start, closest_on_moved(points, tree, start)
    cost, damping = float((found.distance**2).sum()), 1e-3
    normals = tree.normals()
    for _ in range(_MAX_STEPS):
        turned = normals[found.face] @ current.rotation.T
        step, gain = _step(points, found, turned, scale, damping)
        if gain <= 0.1 * tolerance * cost or cost <= _EXACT * len(points):
            return Motion(current, found.distance, True)
        moved = step.compose(current)
        trial = closest_on_moved(points, tree, moved)
        new_cost = float((trial.distance**2).sum())
        if new_cost >= cost:
            damping *= 10.0
            continue
        if not _SCALE_RANGE[0] < moved.scale / start.scale < _SCALE_RANGE[1]:
            return Motion(current, found.distance, False)
        small = cost - new_cost <= tolerance * cost
        current, found, cost, damping = moved, trial, new_cost, max(damping / 10.0, 1e-9)
        if small:
            return Motion(current, found.distance, True)
    return Motion(current, found.distance, False)


def _step(
    points: ndarray, found: Closest, normals: ndarray, scale: bool, damping: float
) -> tuple[Similarity, float]:
    """One damped Gauss-Newton motion about the centroid, and the fall of the sum it foresees."""
    import roma
    import torch

    offset = points - found.point
    touching = found.distance < 1e-9
    direction = offset / np.maximum(found.distance, 1e-12)[:, None]
    direction[touching] = normals[touching]
    center = found.point.mean(0)
    arm = found.point - center
    size = max(float(np.sqrt((arm**2).sum(1).mean())), 1e-9)
    columns = [np.cross(arm, direction) / size, direction]
    if scale:
        columns.append((arm * direction).sum(1, keepdims=True) / size)
    jacobian = np.concatenate(columns, axis=1)
    normal_matrix = jacobian.T @ jacobian
    normal_matrix += (
        damping * np.trace(normal_matrix) / len(normal_matrix) * np.eye(len(normal_matrix))
    )
    slope = jacobian.T @ found.distance
    x = np.linalg.solve(normal_matrix, slope)
    gain = float(2 * x @ slope - np.sum((jacobian @ x) ** 2))
    rotation = roma.rotvec_to_rotmat(torch.from_numpy(x[:3] / size)).numpy()
    factor = float(np.exp(x[6] / size)) if scale else 1.0
    motion = Similarity(factor, rotation, center + x[3:6] - factor * rotation @ center)
    return motion, gain
