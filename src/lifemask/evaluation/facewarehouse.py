"""The FaceWarehouse protocol: mean distance in mm over people and expressions.

Published (Tewari et al., "MoFA", ICCV 2017, and systems that follow it, such as Deng et al., CVPRW
2019): 9 people x 20 expressions = 180 meshes, predictions aligned, mean distance per vertex over
the face. The nine people, the face region and the redistributed vertices of the original are not
public, so this is the protocol with our choices, which its flags name: the crop is what looks
forward within 95 mm of the vertex under the nose; the alignment starts at four points (inner eye
corners, under the nose, between the lips) and goes on with ICP, with and without scale; distances
go from the crop's vertices to the predicted surface. Where a prediction has FaceWarehouse's own
11,510 vertices, corresponding vertices are compared too, the only number without a nearest point.

A prediction is a mesh with its expression, `Tester_1/pose_0.ply`, in mm in any frame with
landmarks ("ibug51" or a 68 set in `NAME.landmarks.json`), else y up, z out of the face.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray

from lifemask.data._nose import nose_tip
from lifemask.data.facewarehouse import (
    INNER_EYE_CORNERS,
    LIPS,
    NOSE_BASE,
    VERTICES,
    FaceWarehouse,
)
from lifemask.evaluation._scan_fit import Distances, landmarks51, prepare
from lifemask.evaluation._scan_report import Outcome, Target, column, fit, report
from lifemask.evaluation.meshes import MeshPredictions, Triangles, check_names
from lifemask.evaluation.surface import similarity_from_points
from lifemask.graphics.mesh import vertex_normals

RADIUS_MM = 95.0
FOUR_FROM_51 = ((22,), (25,), (16,), (45, 49))
"""Rows of the inner 51 points for inner eye corners, under the nose, between the lips."""


def score_facewarehouse(data: FaceWarehouse, predictions: MeshPredictions) -> dict[str, Any]:
    """All numbers of the protocol as plain, JSON-ready values.

    Returns:
        "meshes", "complete", "unit_mm" of the files, "misses", "numbers", "not_scored", "checks",
        "per_item".

    Raises:
        UserError: predictions of another data set, or a file that cannot be read.
    """
    check_names(predictions, data.names)
    similar: list[Outcome] = []
    rigid: list[Outcome] = []
    same: list[float] = []
    for name in data.names:
        target, mesh = target_of(data.truth(name)), predictions.mesh(name)
        guess = None if mesh is None else prepare(mesh, _four(landmarks51(predictions, name)))
        similar.append(fit(guess, target, scale=True))
        rigid.append(fit(guess, target, scale=False))
        same.append(float("nan") if mesh is None else per_vertex_mm(target, mesh))
    columns = _columns(similar, rigid, np.array(same))
    flags = {"crop": "95 mm around the nose base, facing forward"}
    poses = [name.partition("/")[2] for name in data.names]
    groups = {"subject": data.subjects, "pose": poses}
    head = {"complete": data.complete, "unit_mm": data.unit_mm}
    return head | report(data.names, groups, similar, columns, flags)


def target_of(mesh: Triangles) -> Target:
    """The face of a FaceWarehouse mesh: what looks forward within 95 mm of the nose base."""
    vertices, faces = mesh
    points = _truth_points(vertices)
    tip = nose_tip(vertices, faces)[0] if points is None else points[2]
    near = np.linalg.norm(vertices - tip, axis=1) <= RADIUS_MM
    normals = vertex_normals(torch.from_numpy(vertices), torch.from_numpy(faces)).numpy()
    return Target(mesh, near & (normals[:, 2] > 0), tip, np.eye(3), points)


def per_vertex_mm(target: Target, mesh: Triangles) -> float:
    """Mean distance of corresponding vertices after their own similarity; NaN in other topologies.

    Args:
        target: the truth.
        mesh: a prediction.
    """
    if mesh[0].shape != target.whole[0].shape or not np.array_equal(mesh[1], target.whole[1]):
        return float("nan")
    guess, truth = mesh[0][target.keep], target.whole[0][target.keep]
    moved = similarity_from_points(guess, truth).apply(guess)
    return float(np.linalg.norm(moved - truth, axis=1).mean())


def _truth_points(vertices: Float[ndarray, "v 3"]) -> Float[ndarray, "4 3"] | None:
    """The four points by vertex number; None in another topology."""
    if len(vertices) != VERTICES:
        return None
    return vertices[[*INNER_EYE_CORNERS, NOSE_BASE, LIPS]]


def _four(points: Float[ndarray, "51 3"] | None) -> Float[ndarray, "4 3"] | None:
    if points is None:
        return None
    return np.stack([points[list(rows)].mean(0) for rows in FOUR_FROM_51])


def _columns(
    similar: Sequence[Outcome], rigid: Sequence[Outcome], same: Float[ndarray, "n"]
) -> list[tuple[str, dict[str, Any], Float[ndarray, "n"]]]:
    """The main number first: with scale, as most published ones."""
    metric = "point_to_surface_mean_mm"
    rows = []
    for outcomes, align in ((similar, "similarity ICP"), (rigid, "rigid ICP")):
        rows.append((metric, {"align": align}, column(outcomes, lambda d: d.surface_mm.mean())))
    for outcomes, align in ((similar, "with scale"), (rigid, "rigid")):
        values = column(outcomes, lambda d: d.surface_mm.mean(), fitted=False)
        rows.append((metric, {"align": f"4 landmarks only, {align}"}, values))
    rows.append(("landmark4_mm", {"align": "similarity ICP"}, column(similar, _landmark)))
    covered = column(similar, lambda d: 100.0 * d.covered.mean())
    rows.append(("covered_percent", {"align": "similarity ICP"}, covered))
    if not np.isnan(same).all():
        rows.append(("per_vertex_mm", {"align": "similarity of corresponding vertices"}, same))
    return rows


def _landmark(distances: Distances) -> float:
    return distances.landmark_mm
