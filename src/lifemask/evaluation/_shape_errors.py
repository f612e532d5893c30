"""Shape errors of a predicted mesh against a true one with regions, for any topology."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy import ndarray

from lifemask.evaluation._detail import (
    Base,
    Detail,
    detail_score,
    displacement,
    smooth_base,
)
from lifemask.evaluation._surface_motion import closest_on_moved, lay_surface
from lifemask.evaluation.meshes import Triangles
from lifemask.evaluation.metrics import angles_deg
from lifemask.evaluation.surface import (
    Closest,
    Similarity,
    SurfaceTree,
    similarity_from_points,
)
from lifemask.graphics.mesh import vertex_areas, vertex_normals

Align = Literal["rigid", "similarity"]
Correspond = Literal["vertex", "surface"]
ALIGNS: tuple[Align, ...] = ("rigid", "similarity")
FACE = "face"


@dataclass(frozen=True)
class TrueShape:
    """A true head: the skin's mesh, its regions and its 68 landmarks.

    Attributes:
        vertices: (v, 3) mm.
        faces: (f, 3) all triangles of the topology; a prediction with equal ones corresponds
            vertex by vertex.
        skin: (f,) triangles that surfaces are compared on; eyes and teeth are left out.
        regions: vertex masks (v,) by name; "face" is what alignments use.
        landmarks68: (68, 3) mm, the start of alignments of other topologies.
    """

    vertices: Float[ndarray, "v 3"]
    faces: Int[ndarray, "f 3"]
    skin: Bool[ndarray, "f"]
    regions: Mapping[str, Bool[ndarray, "v"]]
    landmarks68: Float[ndarray, "68 3"]


@dataclass(frozen=True)
class Aligned:
    """A predicted mesh laid on the truth.

    Attributes:
        motion: prediction's frame to the truth's.
        same: the topology is the truth's.
        vertices: (w, 3) after the motion; faces: (g, 3).
        closest: nearest points of the prediction for the truth's vertices that lie in a region.
    """

    motion: Similarity
    same: bool
    vertices: Float[ndarray, "w 3"]
    faces: Int[ndarray, "g 3"]
    closest: Closest


def in_regions(truth: TrueShape) -> Int[ndarray, "k"]:
    """Ids (k,) of the vertices that lie in any region."""
    return np.flatnonzero(np.any(list(truth.regions.values()), axis=0))


def align(
    truth: TrueShape, mesh: Triangles, landmarks68: Float[ndarray, "68 3"] | None, how: Align
) -> Aligned | None:
    """Lay a prediction on the truth: vertices on vertices, or landmarks and then closest points.

    Args:
        truth: what it should look like.
        mesh: predicted vertices and faces, mm.
        landmarks68: iBUG-68 points on the prediction; needed by other topologies only.
        how: "similarity" also fits the size.

    Returns:
        None for another topology without landmarks.
    """
    vertices, faces = mesh
    same = vertices.shape == truth.vertices.shape and np.array_equal(faces, truth.faces)
    face, scale = truth.regions[FACE], how == "similarity"
    if same:
        motion = similarity_from_points(vertices[face], truth.vertices[face], scale=scale)
        tree = SurfaceTree(vertices, faces[truth.skin])
    elif landmarks68 is not None:
        inner = slice(17, 68)
        start = similarity_from_points(landmarks68[inner], truth.landmarks68[inner], scale=scale)
        tree = SurfaceTree(vertices, faces)
        motion = lay_surface(truth.vertices[face], tree, start, scale=scale).similarity
    else:
        return None
    closest = closest_on_moved(truth.vertices[in_regions(truth)], tree, motion)
    return Aligned(motion, same, motion.apply(vertices), tree.faces, closest)


def region_errors(truth: TrueShape, found: Aligned) -> dict[tuple[str, Correspond], float]:
    """Mean distance in mm by region and correspondence; "vertex" for the same topology only."""
    ids = in_regions(truth)
    out: dict[tuple[str, Correspond], float] = {}
    for name, mask in truth.regions.items():
        out[name, "surface"] = float(found.closest.distance[mask[ids]].mean())
        if found.same:
            offset = found.vertices[mask] - truth.vertices[mask]
            out[name, "vertex"] = float(np.linalg.norm(offset, axis=1).mean())
    return out


def normal_angle_deg(truth: TrueShape, found: Aligned) -> float:
    """Mean angle in degrees between the normals of truth and prediction over the face.

    At equal vertices for the same topology, else at the closest points; area-weighted vertex
    normals on both sides.
    """
    ids = in_regions(truth)
    face = truth.regions[FACE]
    true_normals = normals_of(truth.vertices, truth.faces[truth.skin])[face]
    predicted = normals_of(found.vertices, found.faces)
    if found.same:
        guess = predicted[face]
    else:
        guess = at_closest(found, predicted)[face[ids]]
    return float(angles_deg(true_normals, guess).mean())


def detail_of(truth: TrueShape, base: Base, true_mm: ndarray, found: Aligned) -> Detail:
    """Detail score of an aligned prediction over the face; see `_detail`."""
    surface = SurfaceTree(found.vertices, found.faces)
    return detail_score(base, true_mm, displacement(base, surface))


def face_base(truth: TrueShape) -> tuple[Base, Float[ndarray, "n"]]:
    """Smooth base of the true face and the truth's displacements (n,) from it."""
    face, skin = truth.regions[FACE], truth.faces[truth.skin]
    points = torch.from_numpy(truth.vertices)
    areas = vertex_areas(points, torch.from_numpy(skin)).numpy()
    normals = normals_of(truth.vertices, skin)
    base = smooth_base(truth.vertices[face], normals[face], areas[face])
    return base, displacement(base, SurfaceTree(truth.vertices, skin))


def normals_of(
    vertices: Float[ndarray, "v 3"], faces: Int[ndarray, "f 3"]
) -> Float[ndarray, "v 3"]:
    """Unit vertex normals (v, 3)."""
    points = torch.from_numpy(np.ascontiguousarray(vertices, np.float64))
    return vertex_normals(points, torch.from_numpy(np.ascontiguousarray(faces, np.int64))).numpy()


def at_closest(found: Aligned, rows: Float[ndarray, "w 3"]) -> Float[ndarray, "k 3"]:
    """Unit vectors interpolated at the closest points."""
    corner = found.faces[found.closest.face]
    a, b, c = (found.vertices[corner[:, k]] for k in range(3))
    weights = _barycentric(found.closest.point, a, b, c)
    value = np.einsum("nk,nkc->nc", weights, rows[corner])
    return value / np.maximum(np.linalg.norm(value, axis=1, keepdims=True), 1e-12)


def _barycentric(p: ndarray, a: ndarray, b: ndarray, c: ndarray) -> ndarray:
    """Weights (n, 3) of points in the planes of triangles."""
    u, v, w = b - a, c - a, p - a
    uu, uv, vv = (u * u).sum(1), (u * v).sum(1), (v * v).sum(1)
    wu, wv = (w * u).sum(1), (w * v).sum(1)
    area = np.maximum(uu * vv - uv**2, 1e-18)
    second, third = (vv * wu - uv * wv) / area, (uu * wv - uv * wu) / area
    return np.clip(np.stack([1 - second - third, second, third], axis=1), 0.0, 1.0)
