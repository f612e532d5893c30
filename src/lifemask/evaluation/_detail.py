"""The detail score: whether the small forms of two surfaces agree, and are equally strong.

`docs/evaluation-meshes.md` has the definition. Displacements along the normals of a smooth base
are taken of both surfaces; from each its own Gaussian mean (standard deviation 6 mm) is taken away;
what is left is compared by Pearson's r and by the ratio of energies (prediction / truth), weighted
by area.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from lifemask.evaluation.surface import SurfaceTree

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

SMOOTH_MM = 6.0
REACH_MM = 10.0
_CUT = 2.5  # standard deviations at which the Gaussian ends
_BEHIND_MM = 1e-3
_MAX_OFFSET = 0.25  # of the Gaussian's standard deviation; about 1.2 of it from a border


@dataclass(frozen=True)
class Base:
    """A smooth surface that displacements are measured from.

    Attributes:
        points: (n, 3) mm.
        normals: (n, 3) unit.
        areas: (n,) mm^2 that each point stands for.
    """

    points: Float[ndarray, "n 3"]
    normals: Float[ndarray, "n 3"]
    areas: Float[ndarray, "n"]


@dataclass(frozen=True)
class Detail:
    """Agreement of small forms.

    Attributes:
        r: Pearson correlation of the high-passed displacements; NaN where one of them is flat.
        energy_ratio: mean square of the prediction's over the truth's; NaN for a flat truth.
        cover: share of the base's area where both surfaces were hit.
    """

    r: float
    energy_ratio: float
    cover: float


def smooth_base(
    points: Float[ndarray, "n 3"], normals: Float[ndarray, "n 3"], areas: Float[ndarray, "n"]
) -> Base:
    """The Gaussian mean (6 mm) of a surface's points and normals."""
    kernel = _kernel(points, normals, areas)
    mean = kernel @ normals
    return Base(
        kernel @ points, mean / np.maximum(np.linalg.norm(mean, axis=1, keepdims=True), 1e-9), areas
    )


def displacement(base: Base, surface: SurfaceTree, reach_mm: float = REACH_MM) -> ndarray:
    """Signed distance (n,) mm along the base's normals to the nearest crossing of a surface.

    Positive is outward; NaN where the surface is not met within the reach.
    """
    best = np.full(len(base.points), np.nan)
    for sign in (1.0, -1.0):
        direction = np.ascontiguousarray(sign * base.normals)
        origin = np.ascontiguousarray(base.points - _BEHIND_MM * direction)
        face, distance = surface_hits(surface, origin, direction)
        reached = (face >= 0) & (distance <= reach_mm + _BEHIND_MM)
        value = sign * (distance - _BEHIND_MM)
        better = reached & ~(np.abs(best) <= np.abs(value))
        best[better] = value[better]
    return best


def surface_hits(
    surface: SurfaceTree, origin: Float[ndarray, "n 3"], direction: Float[ndarray, "n 3"]
) -> tuple[ndarray, ndarray]:
    """First face (n,) hit by each ray, -1 for none, and the distance (n,) to it."""
    import igl

    tree = igl.AABB()
    tree.init(surface.vertices, surface.faces)
    face, distance, _ = tree.intersect_ray_first(surface.vertices, surface.faces, origin, direction)
    return np.asarray(face).reshape(-1), np.asarray(distance).reshape(-1)


def detail_score(
    base: Base, truth_mm: Float[ndarray, "n"], predicted_mm: Float[ndarray, "n"]
) -> Detail:
    """Compare displacements (n,) of truth and prediction over one base; NaN is left out."""
    both = np.isfinite(truth_mm) & np.isfinite(predicted_mm)
    cover = float(base.areas[both].sum() / max(base.areas.sum(), 1e-12))
    if both.sum() < 3:
        return Detail(float("nan"), float("nan"), cover)
    kernel = _kernel(base.points[both], base.normals[both], base.areas[both])
    weight = base.areas[both] * _inner(base, both, kernel)
    if not weight.any():
        return Detail(float("nan"), float("nan"), cover)
    weight = weight / weight.sum()
    t, p = (d[both] - kernel @ d[both] for d in (truth_mm, predicted_mm))
    t, p = t - weight @ t, p - weight @ p
    energy_t, energy_p = float(weight @ t**2), float(weight @ p**2)
    if energy_t < 1e-12:
        return Detail(float("nan"), float("nan"), cover)
    r = float(weight @ (t * p)) / np.sqrt(energy_t * energy_p) if energy_p > 1e-12 else np.nan
    return Detail(float(r), energy_p / energy_t, cover)


def _inner(base: Base, both: ndarray, kernel: csr_matrix) -> ndarray:
    """Points (k,) far enough from any border that the Gaussian's mean lies where they do.

    Next to a border the mean is one-sided and a slope would look like detail.
    """
    offset = kernel @ base.points[both] - base.points[both]
    normal = base.normals[both]
    along = offset - (offset * normal).sum(axis=1, keepdims=True) * normal
    return np.linalg.norm(along, axis=1) <= _MAX_OFFSET * SMOOTH_MM


def _kernel(points: ndarray, normals: ndarray, areas: ndarray) -> csr_matrix:
    """Row-normalised Gaussian weights between points whose normals do not turn away."""
    from scipy.sparse import csr_matrix
    from scipy.spatial import KDTree

    pairs = KDTree(points).query_pairs(_CUT * SMOOTH_MM, output_type="ndarray")
    own = np.arange(len(points))
    i = np.concatenate([pairs[:, 0], pairs[:, 1], own])
    j = np.concatenate([pairs[:, 1], pairs[:, 0], own])
    squared = ((points[i] - points[j]) ** 2).sum(axis=1)
    facing = np.clip((normals[i] * normals[j]).sum(axis=1), 0.0, None)
    weight = np.exp(-squared / (2 * SMOOTH_MM**2)) * facing * areas[j]
    weight = np.maximum(weight, np.where(i == j, 1e-12, 0.0))
    kernel = csr_matrix((weight, (i, j)), shape=(len(points), len(points)))
    total = np.asarray(kernel.sum(axis=1)).reshape(-1)
    return csr_matrix(kernel.multiply(1.0 / total[:, None]))
