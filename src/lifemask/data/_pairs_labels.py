"""What a pair says about its solid: distances on the lattice of the cube, and points of the face.

Lattice of n^3 voxel centres `(i + 0.5) 2 / n - 1`, indexed [ix, iy, iz]. The fine label is
`r = 1000 (d - box_k(d))` with the mean over a box of k^3 voxels (RAFaRe, published code).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lifemask.data import _pairs_kernels as kernels
from lifemask.data._pairs_solid import Solid

FINE_SCALE = 1e-3


@dataclass(frozen=True)
class Band:
    """Distances of the voxels near a solid, on the lattice and beyond it to all sides.

    Attributes:
        n: voxels of the lattice per side.
        corner: (3,) index, on the lattice, of the arrays' first voxel.
        distance: (n0, n1, n2) float32 signed distance, half-crops; +-infinity outside the band.
        owner: (n0, n1, n2) int32 nearest triangle, -1 outside the band.
        near: (m, 3) int64 indices on the lattice where |distance| <= band.
    """

    n: int
    corner: NDArray[np.int64]
    distance: NDArray[np.float32]
    owner: NDArray[np.int32]
    near: NDArray[np.int64]

    @property
    def low(self) -> NDArray[np.float64]:
        """(3,) place of the arrays' first voxel in the cube."""
        return lattice_points(self.corner, self.n)

    def smoothed(self, indices: NDArray[np.int64], box: int) -> NDArray[np.float64]:
        """Mean distance (k,) over a box of voxels about lattice voxels (k, 3)."""
        place, reach = indices - self.corner, np.arange(box) - box // 2
        total = np.zeros(len(indices))
        for a in reach:
            for b in reach:
                for c in reach:
                    total += self.distance[place[:, 0] + a, place[:, 1] + b, place[:, 2] + c]
        return total / box**3


def lattice_points(indices: NDArray, n: int) -> NDArray[np.float64]:
    """Places (k, 3) in the cube of lattice voxels (k, 3)."""
    return (np.asarray(indices, np.float64) + 0.5) * (2 / n) - 1


def measure_band(solid: Solid, n: int, band: float, rim: int) -> Band:
    """Distances near a solid: every lattice voxel within `band`, and its box of `rim` voxels.

    The nearest triangle of a voxel is looked for among those of the voxels around it, so a few
    distances are too large, by far less than a voxel (see the tests).

    Args:
        solid: in the cube.
        n: voxels per side.
        band: half width, half-crops.
        rim: voxels to all sides.
    """
    step = 2 / n
    margin = int(np.ceil(band / step)) + 2 + rim
    low, high = solid.vertices.min(0), solid.vertices.max(0)
    first = np.maximum(np.floor((low + 1) / step), 0).astype(np.int64) - margin
    last = np.minimum(np.ceil((high + 1) / step), n).astype(np.int64) + margin
    shape = tuple((last - first).tolist())
    origin = lattice_points(first, n)
    best, owner = np.empty(shape, np.float32), np.empty(shape, np.int32)
    queue = np.empty(int(np.prod(shape)), np.int64)
    corners, balls = solid.corners, solid.balls
    end = kernels.fill_band(corners, solid.beside, balls, origin, step, band, best, owner, queue)
    distance = np.empty(shape, np.float32)
    mesh = (solid.vertices, solid.faces, balls, origin, step, best, owner)
    kernels.sign_band(*mesh, distance)
    inner = tuple(slice(max(0, -a), n - a) for a in first.tolist())
    index = np.argwhere(np.abs(distance[inner]) <= band) + np.maximum(-first, 0)
    near = np.ravel_multi_index(tuple(index.T), shape)
    kernels.grow_rim(corners, solid.beside, origin, step, best, owner, queue, near, end, rim)
    kernels.sign_band(*mesh, distance)
    return Band(n, first, distance, owner, index + first)


@dataclass(frozen=True)
class Labels:
    """The numbers of a pair that a field is trained with; see `pairs.Pair`."""

    points: NDArray[np.int16]
    sdf: NDArray[np.float16]
    fine: NDArray[np.float16]
    uniform: NDArray[np.float16]
    uniform_sdf: NDArray[np.float16]
    surface: NDArray[np.float16]
    surface_normals: NDArray[np.float16]


def create_labels(
    solid: Solid,
    depth: NDArray[np.float32],
    normals: NDArray[np.float32],
    n: int,
    box: int,
    near: int,
    rng: np.random.Generator,
    band: float = 0.04,
    front_share: float = 0.6,
    surface: int = 2000,
) -> Labels:
    """Draw the points of a pair and measure them.

    Args:
        solid: truth.
        depth: (S, S) of its front where the picture shows the face, NaN elsewhere.
        normals: (S, S, 3) of the same.
        n: voxels of the lattice per side.
        box: side of the box in voxels, odd.
        near: most points to keep.
        rng: decides.
        band: half width of the band that points are drawn from.
        front_share: share of the points that lie at the front of the face, as far as there are so
            many; the picture says most about those.
        surface: points of the face's front.
    """
    found = measure_band(solid, n, band, box // 2)
    chosen = found.near[_choose(found.near, depth, n, near, band, front_share, rng)]
    place = chosen - found.corner
    sdf = found.distance[place[:, 0], place[:, 1], place[:, 2]].astype(np.float64)
    fine = (sdf - found.smoothed(chosen, box)) / FINE_SCALE
    uniform = rng.uniform(-1, 1, (near // 10, 3)).astype(np.float16)
    return Labels(
        chosen.astype(np.int16), sdf.astype(np.float16), fine.astype(np.float16),
        uniform, _uniform_distances(solid, found, uniform.astype(np.float64), band),
        *_front_points(depth, normals, surface, rng),
    )  # fmt: skip


def _choose(points, depth, n, count, band, share, rng) -> NDArray[np.int64]:
    """Rows (<= count,) of points (m, 3) in random order, most of them at the front of the face."""
    size = len(depth)
    place = lattice_points(points, n)
    column = np.clip(((place[:, 0] + 1) * size / 2).astype(int), 0, size - 1)
    row = np.clip(((1 - place[:, 1]) * size / 2).astype(int), 0, size - 1)
    front = np.abs(place[:, 2] - np.nan_to_num(depth[row, column], nan=np.inf)) <= 2 * band
    order = rng.permutation(len(points))
    first = order[front[order]][: round(count * share)]
    rest = np.setdiff1d(order, first, assume_unique=True)
    chosen = np.concatenate([first, rng.permutation(rest)[: count - len(first)]])
    return rng.permutation(chosen)


def _uniform_distances(solid: Solid, found: Band, points, band) -> NDArray[np.float16]:
    """Distances (m,) of any points in the cube, cut at +-band."""
    out = np.empty(len(points))
    kernels.point_distances(
        solid.corners, solid.beside, found.low, 2 / found.n, found.owner, points, out
    )  # fmt: skip
    signed = np.where(solid.winding(points) > 0.5, -out, out)
    signed = np.minimum(signed, solid.ball_distance(points))
    return np.clip(signed, -band, band).astype(np.float16)


def _front_points(depth, normals, count, rng):
    """Points (count, 3) of the front, evenly over its area, and their normals."""
    size = len(depth)
    rows, columns = np.nonzero(np.isfinite(depth) & (normals[..., 2] > 0.05))
    if len(rows) == 0:
        empty = np.zeros((0, 3), np.float16)
        return empty, empty
    normal = normals[rows, columns]
    weight = 1 / np.maximum(normal[:, 2].astype(np.float64), 0.2)
    pick = rng.choice(len(rows), count, replace=len(rows) < count, p=weight / weight.sum())
    rows, columns = rows[pick], columns[pick]
    k = 2 / size
    points = np.stack([(columns + 0.5) * k - 1, 1 - (rows + 0.5) * k, depth[rows, columns]], 1)
    return points.astype(np.float16), normal[pick].astype(np.float16)
