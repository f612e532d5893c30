"""A predicted mesh laid on a cropped scan, and every distance that protocols read from it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy import ndarray

from lifemask.assets import UserError
from lifemask.data._nose import nose_tip
from lifemask.evaluation._cylinder import OverlapScores, cylinder_map, overlap_scores
from lifemask.evaluation._surface_motion import Motion, closest_on_moved
from lifemask.evaluation.meshes import MeshPredictions, Triangles
from lifemask.evaluation.surface import Similarity, SurfaceTree, similarity_from_points
from lifemask.facemodel.landmarks import convert
from lifemask.graphics.mesh import face_neighbors

Start = Literal["landmarks", "nose tips"]
SETS_51 = ("ibug51", "ibug68", "ibug68-3d-bfm", "ict68")
AXIS_BEHIND_NOSE_MM = 95.0
_BORDER = 1e-6  # barycentric weight below which a point lies on an edge


@dataclass(frozen=True)
class Distances:
    """From each point of the crop to the aligned prediction, in the scan's millimetres.

    Attributes:
        surface_mm: (n,) to the nearest point of the prediction.
        plane_mm: (n,) to the plane of the nearest triangle, which is smaller, most of all where
            the prediction ends: a plane has no end.
        covered: (n,) whether the nearest point is inside the prediction, not on its border.
        landmark_mm: mean distance of the inner 51 points, NaN without them.
        motion: prediction to scan.
    """

    surface_mm: Float[ndarray, "n"]
    plane_mm: Float[ndarray, "n"]
    covered: Bool[ndarray, "n"]
    landmark_mm: float
    motion: Motion


@dataclass(frozen=True)
class Prediction:
    """A predicted mesh, ready to be laid on scans.

    Attributes:
        mesh: vertices (v, 3) and faces (f, 3).
        tree: search tree of the mesh.
        points: landmarks of the mesh that correspond to the scan's, or None.
        border: (f, 3), whether the edge opposite to each corner belongs to one face only.
        rim: (v,), vertices of such edges.
    """

    mesh: Triangles
    tree: SurfaceTree
    points: Float[ndarray, "k 3"] | None
    border: Bool[ndarray, "f 3"]
    rim: Bool[ndarray, "v"]

    @cached_property
    def tip(self) -> Float[ndarray, "3"]:
        """Nose tip by the rule of `data._nose`; sought once.

        Raises:
            UserError: nothing looks like one.
        """
        return nose_tip(*self.mesh)[0]


def prepare(mesh: Triangles, points: Float[ndarray, "k 3"] | None) -> Prediction:
    """A predicted mesh with its tree and borders."""
    neighbors = face_neighbors(torch.from_numpy(np.ascontiguousarray(mesh[1]))).numpy()
    border = np.roll(neighbors < 0, -1, axis=1)  # column k was the edge k to k + 1
    rim = np.zeros(len(mesh[0]), bool)
    for k in range(3):
        rim[mesh[1][border[:, k]][:, [(k + 1) % 3, (k + 2) % 3]]] = True
    return Prediction(mesh, SurfaceTree(*mesh), points, border, rim)


def landmarks51(predictions: MeshPredictions, name: str) -> Float[ndarray, "51 3"] | None:
    """The inner 51 points of a prediction, from whichever set the system gives.

    Raises:
        UserError: a set with the wrong number of points.
    """
    for convention in SETS_51:
        points = predictions.landmarks(name, convention)
        if points is not None:
            try:
                return convert(torch.from_numpy(points), convention, "ibug51").numpy()
            except ValueError as error:
                raise UserError(f"landmarks of {name}: {error}") from error
    return None


def starting_motion(
    prediction: Prediction,
    points: Float[ndarray, "k 3"] | None,
    tip: Float[ndarray, "3"],
    *,
    scale: bool,
) -> tuple[Similarity, Start]:
    """Prediction to scan by corresponding points, or by laying nose tip on nose tip.

    Args:
        prediction: its `points` correspond to `points`.
        points: (k, 3) of the scan, k >= 3, or None.
        tip: of the scan's nose.
        scale: also from the points; nose tips say nothing about size.
    """
    if points is not None and prediction.points is not None:
        return similarity_from_points(prediction.points, points, scale=scale), "landmarks"
    return Similarity(1.0, np.eye(3), tip - prediction.tip), "nose tips"


def stay(prediction: Prediction, crop: Float[ndarray, "n 3"], start: Similarity) -> Motion:
    """No ICP: the start as it is."""
    found = closest_on_moved(crop, prediction.tree, start)
    return Motion(start, found.distance, True)


def measure(
    prediction: Prediction,
    crop: Float[ndarray, "n 3"],
    points: Float[ndarray, "k 3"] | None,
    motion: Motion,
) -> Distances:
    """All distances from the crop to the prediction where a motion puts it."""
    tree = prediction.tree
    found = closest_on_moved(crop, tree, motion.similarity)
    normals = tree.normals()[found.face] @ motion.similarity.rotation.T
    plane = np.abs(((crop - found.point) * normals).sum(1))
    own = motion.similarity.inverse().apply(found.point)
    weights = _barycentric(own, tree.vertices[tree.faces[found.face]])
    at_rim = (weights > 1 - _BORDER) & prediction.rim[tree.faces[found.face]]
    on_border = np.any(at_rim | ((weights < _BORDER) & prediction.border[found.face]), axis=1)
    landmark = float("nan")
    if points is not None and prediction.points is not None:
        gap = motion.similarity.apply(prediction.points) - points
        landmark = float(np.linalg.norm(gap, axis=1).mean())
    return Distances(found.distance, plane, np.logical_not(on_border), landmark, motion)


def _barycentric(points: ndarray, corners: ndarray) -> ndarray:
    """Weights (n, 3) of points in their triangles (n, 3, 3); 0 for degenerate ones."""
    a, b, c = corners[:, 0], corners[:, 1], corners[:, 2]
    normal = np.cross(b - a, c - a)
    area = np.maximum((normal**2).sum(1), 1e-300)
    opposite = ((b, c), (c, a), (a, b))
    parts = [(np.cross(q - p, points - p) * normal).sum(1) / area for p, q in opposite]
    return np.stack(parts, 1)


def head_rotation(landmarks51_mm: Float[ndarray, "51 3"] | None) -> Float[ndarray, "3 3"]:
    """Head frame to scan frame: x through the eyes, y from mouth to brows, z out of the face.

    The scan's own axes without landmarks.
    """
    if landmarks51_mm is None:
        return np.eye(3)
    brows, eyes, mouth = landmarks51_mm[:10], landmarks51_mm[19:31], landmarks51_mm[31:]
    x = _unit(eyes[6:].mean(0) - eyes[:6].mean(0))
    up = brows.mean(0) - mouth.mean(0)
    y = _unit(up - (up @ x) * x)
    return np.stack([x, y, np.cross(x, y)], 1)


def overlap(
    crop: Triangles, prediction: Prediction, motion: Motion, tip: ndarray, rotation: ndarray
) -> OverlapScores:
    """FaceScape's scores on cylinder maps about an axis 95 mm behind the nose tip."""
    center = tip - AXIS_BEHIND_NOSE_MM * rotation[:, 2]
    moved = motion.similarity.apply(prediction.mesh[0])
    maps = [
        cylinder_map((vertices - center) @ rotation, faces)
        for vertices, faces in (crop, (moved, prediction.mesh[1]))
    ]
    return overlap_scores(*maps)


def cropped(mesh: Triangles, keep: Bool[ndarray, "v"]) -> Triangles:
    """The faces of which all corners are kept, with the vertices that they use.

    Raises:
        UserError: none is left.
    """
    faces = mesh[1][keep[mesh[1]].all(1)]
    if len(faces) == 0:
        raise UserError(
            "the crop holds no face: is the scan in millimetres, y up, z to the viewer?"
        )
    used, renumbered = np.unique(faces, return_inverse=True)
    return mesh[0][used], renumbered.reshape(-1, 3)


def _unit(vector: Float[ndarray, "3"]) -> Float[ndarray, "3"]:
    return vector / np.linalg.norm(vector)
