"""Two surfaces on a cylinder about the head: how much they share, and how far apart they are.

Definitions of the FaceScape benchmark (Zhu et al., "FaceScape: 3D facial dataset and benchmark for
single-view 3D face reconstruction", TPAMI 2023, section 6, and its evaluation code). Frame: the
head's own, millimetres, x to the viewer's right, y up along the axis, z out of the face.

Rays leave the axis at 256 heights in 256 directions and take the farthest triangle they meet. They
are intersected with triangles exactly: a triangle is no triangle in (angle, height), so a
rasteriser would only approximate it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy import ndarray

from lifemask.evaluation.surface import unit_face_normals, vertex_to_surface

SIZE = 256
HALF_HEIGHT_MM = 150.0
MAX_STEP_MM = 15.0  # a larger step in radius between neighbours is a gap, not a surface
_CHUNK = 1_000_000  # ray-triangle pairs at once
_EDGE = 1e-9  # barycentric tolerance, so that shared edges leave no hole


@dataclass(frozen=True)
class CylinderMap:
    """The outermost surface around the head's axis.

    Attributes:
        radius_mm: (256, 256); row i is height 150 - 300 i / 255 mm, column j the direction
            (-sin, -cos) in (x, z) of 2 pi j / 255, so the face is in the middle and the first and
            last columns are the same line at the back; 0 where there is no surface.
        normals: (256, 256, 3), unit normal of the triangle that was hit; 0 where there is none.
    """

    radius_mm: Float[ndarray, "256 256"]
    normals: Float[ndarray, "256 256 3"]

    @property
    def mask(self) -> Bool[ndarray, "256 256"]:
        """Where there is a surface."""
        return self.radius_mm > 0


@dataclass(frozen=True)
class OverlapScores:
    """How two surfaces agree where both exist; NaN without overlap.

    Attributes:
        cd_mm: mean of the concatenated distances, A's vertices to B and B's to A, between the
            overlap of both maps meshed again.
        mne_facescape_rad: mean angle between normals that were shifted by +1 and scaled to length
            1 again, as the published code does: about 0.4 times the true angle near the front.
        normal_angle_deg: mean angle between the normals.
        completeness: share of the truth that the prediction covers, in [0, 1].
        inside_out: the predicted normals point away from the true ones on the whole.
    """

    cd_mm: float
    mne_facescape_rad: float
    normal_angle_deg: float
    completeness: float
    inside_out: bool

    @property
    def found(self) -> bool:
        """Whether the surfaces overlap enough to be compared."""
        return bool(np.isfinite(self.cd_mm))


NO_OVERLAP = OverlapScores(float("nan"), float("nan"), float("nan"), 0.0, False)


def cylinder_map(vertices: Float[ndarray, "v 3"], faces: Int[ndarray, "f 3"]) -> CylinderMap:
    """The farthest intersection of each ray with a mesh.

    Args:
        vertices: (v, 3) mm, head frame, axis through the origin.
        faces: (f, 3), counter-clockwise from outside.
    """
    vertices = np.asarray(vertices, np.float64)
    radius = np.zeros(SIZE * SIZE)
    owner = np.full(SIZE * SIZE, -1)
    for pixel, face, distance in _hits(vertices[faces]):
        order = np.lexsort((-face, distance))  # the farthest, and among equals the first face
        pixel, face, distance = pixel[order], face[order], distance[order]
        last = len(pixel) - 1 - np.unique(pixel[::-1], return_index=True)[1]
        last = last[distance[last] > radius[pixel[last]]]
        radius[pixel[last]], owner[pixel[last]] = distance[last], face[last]
    normals = np.concatenate([unit_face_normals(vertices, faces), np.zeros((1, 3))])[owner]
    return CylinderMap(radius.reshape(SIZE, SIZE), normals.reshape(SIZE, SIZE, 3))


def _hits(corners: ndarray) -> Iterator[tuple[ndarray, ndarray, ndarray]]:
    """Pixel, face and radius of all intersections, in chunks; corners are (f, 3, 3)."""
    low, count = _candidate_boxes(corners)
    pairs = count[:, 0] * count[:, 1]
    ends = np.cumsum(pairs)
    first = 0
    while first < len(corners):
        done = ends[first] - pairs[first]
        last = max(int(np.searchsorted(ends, done + _CHUNK, side="right")), first + 1)
        yield _hits_of(corners, np.arange(first, last), low, count)
        first = last


def _candidate_boxes(corners: ndarray) -> tuple[ndarray, ndarray]:
    """First (row, column) and number of (rows, columns) per face; columns may pass 255."""
    row = (HALF_HEIGHT_MM - corners[..., 1]) * (SIZE - 1) / (2 * HALF_HEIGHT_MM)
    top = np.maximum(np.ceil(row.min(1) - 1e-6), 0)
    rows = np.minimum(np.floor(row.max(1) + 1e-6), SIZE - 1) - top + 1
    angle = np.arctan2(-corners[..., 0], -corners[..., 2])
    step = np.mod(np.diff(angle, axis=1, append=angle[:, :1]) + np.pi, 2 * np.pi) - np.pi
    turn = np.concatenate([np.zeros((len(angle), 1)), np.cumsum(step[:, :2], axis=1)], axis=1)
    around = np.abs(step.sum(1)) > 1.0  # the axis passes through the face
    to_column = (SIZE - 1) / (2 * np.pi)
    start = (angle[:, :1] + turn).min(1) * to_column
    end = (angle[:, :1] + turn).max(1) * to_column
    left = np.where(around, 0, np.ceil(start - 1e-6))
    columns = np.where(around, SIZE - 1, np.floor(end + 1e-6) - left + 1)
    low = np.stack([top, left], 1).astype(np.int64)
    return low, np.maximum(np.stack([rows, columns], 1), 0).astype(np.int64)


def _hits_of(
    corners: ndarray, faces: ndarray, low: ndarray, count: ndarray
) -> tuple[ndarray, ndarray, ndarray]:
    """Intersections of some faces with the rays of their boxes."""
    pairs = count[faces, 0] * count[faces, 1]
    face = np.repeat(faces, pairs)
    offset = np.arange(len(face)) - np.repeat(np.cumsum(pairs) - pairs, pairs)
    row = low[face, 0] + offset // np.maximum(count[face, 1], 1)
    column = np.mod(low[face, 1] + offset % np.maximum(count[face, 1], 1), SIZE - 1)
    distance = _distance_along_ray(corners[face], row, column)
    hit = np.isfinite(distance)
    row, column, face, distance = row[hit], column[hit], face[hit], distance[hit]
    twin = column == 0  # the first and the last column are the same line
    pixel = np.concatenate([row * SIZE + column, row[twin] * SIZE + SIZE - 1])
    return pixel, np.concatenate([face, face[twin]]), np.concatenate([distance, distance[twin]])


def _distance_along_ray(corners: ndarray, row: ndarray, column: ndarray) -> ndarray:
    """Distance from the axis to triangles (n, 3, 3) along n rays; NaN for a miss.

    Moeller and Trumbore, "Fast, minimum storage ray/triangle intersection", 1997.
    """
    phi = column * (2 * np.pi / (SIZE - 1))
    direction = np.stack([-np.sin(phi), np.zeros(len(phi)), -np.cos(phi)], 1)
    origin = np.zeros((len(phi), 3))
    origin[:, 1] = HALF_HEIGHT_MM - row * (2 * HALF_HEIGHT_MM / (SIZE - 1))
    a, ab, ac = corners[:, 0], corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    p = np.cross(direction, ac)
    determinant = (ab * p).sum(1)
    with np.errstate(divide="ignore", invalid="ignore"):
        inverse = 1.0 / determinant
        t = origin - a
        q = np.cross(t, ab)
        u, v = (t * p).sum(1) * inverse, (direction * q).sum(1) * inverse
        distance = (ac * q).sum(1) * inverse
        inside = (u >= -_EDGE) & (v >= -_EDGE) & (u + v <= 1 + _EDGE) & (distance > 0)
    return np.where(inside & np.isfinite(distance), distance, np.nan)


def cylinder_mesh(
    radius_mm: Float[ndarray, "256 256"],
) -> tuple[Float[ndarray, "n 3"], Int[ndarray, "m 3"]]:
    """The surface of a cylinder map: vertices, and faces counter-clockwise from outside.

    Two triangles per cell. A cell counts where all four corners have a surface and its first corner
    differs from the other three by less than `MAX_STEP_MM` in radius. The published code also joins
    the last column to the first of the next row, at the back of the head where scans of faces are
    empty; this does not.
    """
    here = radius_mm[:-1, :-1]
    others = (radius_mm[1:, :-1], radius_mm[:-1, 1:], radius_mm[1:, 1:])
    valid = (here > 0) & np.logical_and.reduce(
        [(other > 0) & (np.abs(other - here) < MAX_STEP_MM) for other in others]
    )
    phi = np.arange(SIZE) * (2 * np.pi / (SIZE - 1))
    height = np.linspace(HALF_HEIGHT_MM, -HALF_HEIGHT_MM, SIZE)
    y = np.repeat(height[:, None], SIZE, axis=1)
    vertices = np.stack([-radius_mm * np.sin(phi), y, -radius_mm * np.cos(phi)], -1).reshape(-1, 3)
    row, column = np.nonzero(valid)
    a = row * SIZE + column
    upper, lower = np.stack([a, a + SIZE, a + 1], 1), np.stack([a + SIZE + 1, a + 1, a + SIZE], 1)
    used, faces = np.unique(np.concatenate([upper, lower]), return_inverse=True)
    return vertices[used], faces.reshape(-1, 3)


def overlap_scores(truth: CylinderMap, predicted: CylinderMap) -> OverlapScores:
    """Compare a prediction with the truth, both in the head's frame."""
    both = truth.mask & predicted.mask
    meshes = [cylinder_mesh(np.where(both, m.radius_mm, 0.0)) for m in (truth, predicted)]
    if not truth.mask.any() or any(len(faces) == 0 for _, faces in meshes):
        return NO_OVERLAP
    distances = vertex_to_surface(*meshes[0], *meshes[1])
    a, b = truth.normals[both], predicted.normals[both]
    cosine = (a * b).sum(1)
    return OverlapScores(
        float(distances.mean()),
        float(_angle(_shifted(a), _shifted(b)).mean()),
        float(np.degrees(_angle(a, b)).mean()),
        float(both.sum() / truth.mask.sum()),
        bool(cosine.mean() < 0),
    )


def _shifted(normals: ndarray) -> ndarray:
    """Normals + 1, scaled to length 1 again: a step of the published code."""
    moved = normals + 1.0
    return moved / np.linalg.norm(moved, axis=1, keepdims=True)


def _angle(a: ndarray, b: ndarray) -> ndarray:
    """Angles in radians between unit vectors; accurate also for small ones, unlike arccos."""
    return 2.0 * np.arctan2(np.linalg.norm(a - b, axis=1), np.linalg.norm(a + b, axis=1))
