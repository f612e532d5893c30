"""What a face model's files leave out: mirror table, outward faces, uvs, parts, regions."""

from __future__ import annotations

import numpy as np

FACE_RADIUS_MM = 95.0
"""The crop sphere of the NoW challenge around the nose tip, which bounds the region "face"."""


def mirror_table(points: np.ndarray) -> np.ndarray:
    """Partner (v,) of each vertex under x -> -x; an involution.

    Mutually nearest pairs of vertex and reflected vertex, round by round among those without a
    partner, so that a nearly symmetric mean (BFM) works too; a vertex may be its own partner.
    Distances are returned by `mirror_residual`.

    Args:
        points: (v, 3) mean shape whose plane of symmetry is x = 0.
    """
    from scipy.spatial import KDTree

    points = np.asarray(points, dtype=np.float64)
    reflected = points * np.array([-1.0, 1.0, 1.0])
    out = np.arange(len(points))
    left = np.arange(len(points))
    while len(left):
        partner = np.asarray(KDTree(points[left]).query(reflected[left])[1])
        mutual = partner[partner] == np.arange(len(left))
        if not mutual.any():
            break
        out[left[mutual]] = left[partner[mutual]]
        left = left[~mutual]
    return out


def mirror_residual(points: np.ndarray, mirror: np.ndarray) -> np.ndarray:
    """Distance (v,) between each reflected vertex and its partner, in the points' unit."""
    return np.linalg.norm(points * np.array([-1.0, 1.0, 1.0]) - points[mirror], axis=1)


def outward_faces(points: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """The triangles, all turned over if that makes them counter-clockwise from outside.

    The sign is that of the volume between the surface and its centroid: BFM's own triangles are
    clockwise. Works for a closed head and for an open mask.
    """
    a, b, c = (points - points.mean(0))[faces].transpose(1, 0, 2)
    volume = np.einsum("fc,fc->", a, np.cross(b, c))
    return faces if volume >= 0 else faces[:, [0, 2, 1]]


def cylinder_uvs(points: np.ndarray, faces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A cylindrical unwrap for models without texture coordinates: uvs (t, 2), faces_uv (f, 3).

    `u = 1/2 + atan2(x, z - z0) / (2 pi)` and `v = (y - min y) / (max y - min y)`; the axis is
    parallel to y, through the middle of the depth range. Triangles across the seam behind the
    head get copies of their corners with u = 1.
    """
    z_axis = (points[:, 2].min() + points[:, 2].max()) / 2
    u = 0.5 + np.arctan2(points[:, 0], points[:, 2] - z_axis) / (2 * np.pi)
    low, high = points[:, 1].min(), points[:, 1].max()
    uvs = np.stack((u, (points[:, 1] - low) / max(high - low, 1e-9)), 1)
    faces_uv = faces.copy()
    across = np.ptp(u[faces], axis=1) > 0.5
    moved = across[:, None] & (u[faces] < 0.5)
    copies, index = np.unique(faces[moved], return_inverse=True)
    faces_uv[moved] = len(points) + index
    extra = np.stack((np.ones(len(copies)), uvs[copies, 1]), 1)
    return np.concatenate((uvs, extra)), faces_uv


def components(count: int, faces: np.ndarray) -> np.ndarray:
    """Label (v,) of the connected piece of each vertex; 0 is the largest piece."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    edges = np.concatenate((faces[:, [0, 1]], faces[:, [1, 2]]))
    graph = coo_matrix((np.ones(len(edges)), (edges[:, 0], edges[:, 1])), shape=(count, count))
    label = connected_components(graph, directed=False)[1]
    order = np.argsort(-np.bincount(label), kind="stable")
    rank = np.empty(len(order), dtype=np.int64)
    rank[order] = np.arange(len(order))
    return rank[label]


def near(points: np.ndarray, center: np.ndarray, radius: float = FACE_RADIUS_MM) -> np.ndarray:
    """Mask (v,) of the vertices within a sphere."""
    return np.linalg.norm(points - center, axis=1) <= radius


def closest_corners(
    points: np.ndarray, vertices: np.ndarray, faces: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Triangle corners (n, 3) and barycentric weights (n, 3) of the closest surface points.

    Searches the triangles at the 12 vertices that are nearest to each point.
    """
    corners = np.empty((len(points), 3), dtype=np.int64)
    weights = np.empty((len(points), 3))
    for i, point in enumerate(points):
        order = np.argpartition(((vertices - point) ** 2).sum(1), min(12, len(vertices) - 1))[:12]
        candidates = faces[np.isin(faces, order).any(1)]
        bary = _closest_barycentric(point, vertices[candidates])
        there = np.einsum("fkc,fk->fc", vertices[candidates], bary)
        best = np.argmin(((there - point) ** 2).sum(1))
        corners[i], weights[i] = candidates[best], bary[best]
    return corners, weights


def _closest_barycentric(point: np.ndarray, triangles: np.ndarray) -> np.ndarray:
    """Barycentric weights (f, 3) of the closest point of each triangle (f, 3, 3)."""
    a, b, c = triangles.transpose(1, 0, 2)
    ab, ac, ap = b - a, c - a, point - a
    d00, d01, d11 = (ab * ab).sum(1), (ab * ac).sum(1), (ac * ac).sum(1)
    d20, d21 = (ap * ab).sum(1), (ap * ac).sum(1)
    area = np.maximum(d00 * d11 - d01**2, 1e-12)
    v, w = (d11 * d20 - d01 * d21) / area, (d00 * d21 - d01 * d20) / area
    inside = np.stack((1 - v - w, v, w), 1)
    choices = [inside]
    for i, j in ((0, 1), (1, 2), (2, 0)):
        start, along = triangles[:, i], triangles[:, j] - triangles[:, i]
        t = ((point - start) * along).sum(1) / np.maximum((along**2).sum(1), 1e-12)
        edge = np.zeros((len(triangles), 3))
        edge[:, i], edge[:, j] = 1 - t.clip(0, 1), t.clip(0, 1)
        choices.append(edge)
    stack = np.stack(choices)
    there = np.einsum("kfi,fic->kfc", stack, triangles)
    distance = ((there - point) ** 2).sum(-1)
    distance[0, (inside < 0).any(1)] = np.inf
    return stack[distance.argmin(0), np.arange(len(triangles))]
