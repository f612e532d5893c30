"""The scan protocol: reconstructed heads against real scans, in both directions.

A prediction is laid on the scan's face by seven points, then by closest points (similarity, or
rigid where the scan's unit is trusted). Only outer skin counts, on both sides: triangles whose
normals see the open, so no inner mouth, teeth or sockets. The face is NoW's ball, in the scan. Scan
to mesh: area-weighted mean distance of the scan's vertices there to the prediction. Mesh to scan:
the same for the prediction's vertices in the ball. Chamfer: the mean of the two. Normal angle:
between the scan's vertex normals and the prediction's at the closest points. Detail: as in
`_detail`, on a base made from the scan.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy import ndarray

from lifemask.data.now import face_disc
from lifemask.data.scans import HeadScan, Scans
from lifemask.evaluation._detail import (
    Base,
    detail_score,
    displacement,
    smooth_base,
    surface_hits,
)
from lifemask.evaluation._pooled import rounded
from lifemask.evaluation._seven import seven_landmarks
from lifemask.evaluation._shape_errors import at_closest, normals_of
from lifemask.evaluation._surface_motion import closest_on_moved, in_ball, lay_surface
from lifemask.evaluation.meshes import MeshPredictions, Triangles, check_names
from lifemask.evaluation.metrics import angles_deg, bootstrap_ci95
from lifemask.evaluation.surface import (
    Closest,
    Similarity,
    SurfaceTree,
    similarity_from_points,
)
from lifemask.graphics.mesh import vertex_areas

Align = Literal["landmarks similarity", "icp similarity", "icp rigid"]
ALIGNS: tuple[Align, ...] = ("icp similarity", "icp rigid", "landmarks similarity")
LANDMARK_SET = "now7"
_ESCAPES = 2  # of twelve rays
_HEMISPHERE = tuple(
    (np.sqrt(1 - z * z) * np.cos(2.4 * k), np.sqrt(1 - z * z) * np.sin(2.4 * k), z)
    for k, z in enumerate(np.linspace(0.97, 0.2, 12))
)
"""Directions around +z, spread by the golden angle."""


@dataclass(frozen=True)
class TrueFace:
    """What is compared of a scan.

    Attributes:
        scan: all of it.
        outer: (f, 3) triangles of its outer skin.
        ids: (k,) vertices of the face.
        weights: (k,) share of the face's area.
        normals: (k, 3) unit.
        base: smooth base for the detail score; true_mm: (k,) the scan's displacements from it.
    """

    scan: HeadScan
    outer: Int[ndarray, "f 3"]
    ids: Int[ndarray, "k"]
    weights: Float[ndarray, "k"]
    normals: Float[ndarray, "k 3"]
    base: Base
    true_mm: Float[ndarray, "k"]

    @property
    def points(self) -> Float[ndarray, "k 3"]:
        """(k, 3) mm."""
        return self.scan.vertices_mm[self.ids]


@dataclass(frozen=True)
class Laid:
    """A prediction laid on a scan.

    Attributes:
        vertices: (v, 3) mm, the scan's frame; faces: (f, 3) of its outer skin.
        closest: its nearest points for the vertices of the scan's face.
    """

    vertices: Float[ndarray, "v 3"]
    faces: Int[ndarray, "f 3"]
    closest: Closest


def score_scans(data: Scans, predictions: MeshPredictions) -> dict[str, Any]:
    """All numbers of the protocol as plain, JSON-ready values.

    Args:
        data: photos and scans.
        predictions: a mesh per photo in mm with seven points ("now7" or an iBUG-68 set).

    Returns:
        "images", "misses", "numbers": each a mean over photos with interval and the value of every
        photo, per alignment; "scans" with their units.

    Raises:
        UserError: predictions of another data set, or broken files.
    """
    check_names(predictions, data.names)
    faces: dict[str, TrueFace] = {}
    rows: list[dict[tuple[str, Align], float]] = []
    for name, shown in zip(data.names, data.shown, strict=True):
        mesh = predictions.mesh(name)
        seven = seven_landmarks(predictions, name, LANDMARK_SET) if mesh else None
        if mesh is None or seven is None:
            rows.append({})
            continue
        skin = mesh[0], outer_faces(*mesh)
        if shown not in faces:
            faces[shown] = true_face(data.scan(shown))
        rows.append(
            {
                (metric, how): value
                for how in ALIGNS
                for metric, value in errors(
                    faces[shown], lay(faces[shown], skin, seven, how)
                ).items()
            }
        )
    return _report(data, rows)


def true_face(scan: HeadScan, factor: float = 0.7) -> TrueFace:
    """The part of a scan that counts.

    Args:
        scan: the truth.
        factor: size of the ball, see `data.now.face_disc`.
    """
    center, radius = face_disc(scan.landmarks7_mm, factor)
    near = in_ball(scan.vertices_mm, center, radius, f"scan {scan.name!r}")
    outer = outer_faces(scan.vertices_mm, scan.faces)
    normals = normals_of(scan.vertices_mm, outer)
    areas = _areas(scan.vertices_mm, outer)
    ids = np.flatnonzero(near & (areas > 0))
    base = smooth_base(scan.vertices_mm[ids], normals[ids], areas[ids])
    return TrueFace(
        scan, outer, ids, areas[ids] / areas[ids].sum(), normals[ids], base,
        displacement(base, SurfaceTree(scan.vertices_mm, outer)),
    )  # fmt: skip


def lay(face: TrueFace, mesh: Triangles, landmarks7: Float[ndarray, "7 3"], how: Align) -> Laid:
    """Lay a prediction on a scan.

    Args:
        face: of the scan.
        mesh: predicted vertices (v, 3) and faces (f, 3) of the outer skin, see `outer_faces`.
        landmarks7: the seven points on the prediction.
        how: by landmarks alone, or then by closest points.
    """
    scale = how != "icp rigid"
    tree = SurfaceTree(*mesh)
    motion = similarity_from_points(landmarks7, face.scan.landmarks7_mm, scale=scale)
    if how != "landmarks similarity":
        motion = lay_surface(face.points, tree, motion, scale=scale).similarity
    closest = closest_on_moved(face.points, tree, motion)
    return Laid(motion.apply(tree.vertices), tree.faces, closest)


def errors(face: TrueFace, laid: Laid) -> dict[str, float]:
    """The protocol's values of one photo, in mm and degrees."""
    scan_to_mesh = float(face.weights @ laid.closest.distance)
    mesh_to_scan = _mesh_to_scan(face, laid)
    guess = at_closest(_as_aligned(laid), normals_of(laid.vertices, laid.faces))
    detail = detail_score(
        face.base, face.true_mm, displacement(face.base, SurfaceTree(laid.vertices, laid.faces))
    )
    return {
        "scan_to_mesh_mm": scan_to_mesh,
        "mesh_to_scan_mm": mesh_to_scan,
        "chamfer_mm": (scan_to_mesh + mesh_to_scan) / 2,
        "normal_angle_deg": float(face.weights @ angles_deg(face.normals, guess)),
        "detail_r": detail.r,
        "detail_energy_ratio": detail.energy_ratio,
    }


def open_vertices(
    vertices: Float[ndarray, "v 3"], faces: Int[ndarray, "f 3"]
) -> Bool[ndarray, "v"]:
    """Vertices (v,) from which at least two of twelve rays around the normal leave the mesh.

    Walls of the mouth, sockets and nostrils, and surfaces inside the head, see other walls only.
    """
    normals = normals_of(vertices, faces)
    tree = SurfaceTree(vertices, faces)
    origin = np.ascontiguousarray(vertices + 1e-2 * normals)
    across = np.cross(normals, np.where(np.abs(normals[:, :1]) < 0.7, [1.0, 0, 0], [0, 1.0, 0]))
    across /= np.maximum(np.linalg.norm(across, axis=1, keepdims=True), 1e-12)
    upright = np.cross(normals, across)
    escaped = np.zeros(len(vertices), int)
    for x, y, z in _HEMISPHERE:
        direction = np.ascontiguousarray(x * across + y * upright + z * normals)
        escaped += surface_hits(tree, origin, direction)[0] < 0
    used = np.zeros(len(vertices), bool)
    used[faces.reshape(-1)] = True
    return used & (escaped >= _ESCAPES)


def outer_faces(vertices: Float[ndarray, "v 3"], faces: Int[ndarray, "f 3"]) -> Int[ndarray, "g 3"]:
    """The triangles (g, 3) between open vertices; all of them where that would leave next to none.

    A mesh whose normals look inwards has no open vertices; its distances are still fair.
    """
    kept = faces[open_vertices(vertices, faces)[faces].all(axis=1)]
    return kept if len(kept) > 0.05 * len(faces) else faces


def _mesh_to_scan(face: TrueFace, laid: Laid) -> float:
    """Area-weighted mean distance of the prediction's outer face to the scan; NaN without any."""
    center, radius = face_disc(face.scan.landmarks7_mm)
    areas = _areas(laid.vertices, laid.faces)
    near = (np.linalg.norm(laid.vertices - center, axis=1) <= radius) & (areas > 0)
    if not near.any():
        return float("nan")
    scan = SurfaceTree(face.scan.vertices_mm, face.outer)
    return float(areas[near] @ scan.closest(laid.vertices[near]).distance / areas[near].sum())


def _as_aligned(laid: Laid):
    """The same as the other protocols' helper wants it."""
    from lifemask.evaluation._shape_errors import Aligned

    return Aligned(Similarity.identity(), False, laid.vertices, laid.faces, laid.closest)


def _areas(vertices: ndarray, faces: ndarray) -> ndarray:
    points = torch.from_numpy(np.ascontiguousarray(vertices, np.float64))
    return vertex_areas(points, torch.from_numpy(np.ascontiguousarray(faces, np.int64))).numpy()


def _report(data: Scans, rows: list[dict[tuple[str, Align], float]]) -> dict[str, Any]:
    keys = list(dict.fromkeys(key for row in rows for key in row))
    missed = np.array([not row for row in rows])
    numbers = []
    for metric, how in keys:
        values = np.array([row.get((metric, how), np.nan) for row in rows])
        kept = values[~np.isnan(values)]
        low, high = bootstrap_ci95(values, np.zeros(len(values), int), "images")
        numbers.append(
            {
                "metric": metric,
                "flags": {"align": how, "crop": "ball 0.7 (outer eyes + nose)", "pool": "images"},
                "value": rounded(kept.mean() if len(kept) else np.nan),
                "ci95": [rounded(low), rounded(high)],
                "images": len(kept),
                "by_photo": {n: rounded(v) for n, v in zip(data.names, values, strict=True)},
            }
        )
    units = {name: entry["mm_per_unit"] for name, entry in data.entries.items()}
    return {
        "images": len(data),
        "scans": {name: {"mm_per_unit": unit} for name, unit in units.items()},
        "misses": {
            "total": int(missed.sum()),
            "done_rate": rounded(1.0 - missed.mean()),
            "scored_as": "left out; read every value with the done rate",
        },
        "numbers": numbers,
        "not_scored": [],
    }
