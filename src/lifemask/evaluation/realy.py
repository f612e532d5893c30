"""The REALY protocol: four face regions, each aligned by itself, compared in both directions.

After Chai et al., "REALY: rethinking the evaluation of 3D face reconstruction" (ECCV 2022) and its
MIT-licensed code. Per region of the scan: the prediction is laid on it by seven key points with
scale, then rigidly by the region's closest points and key points together; the scan's region is
deformed onto it (non-rigid ICP) to find out which point of the prediction each scan vertex
corresponds to; the error is the mean distance between corresponding points in mm, which the authors
call NMSE. `correspondence: nearest` skips the deformation and takes the closest point, as plain
scan-to-mesh errors do. Ours differs in using proper rotations (the code permits reflections),
float64, and a sparse LU in place of CHOLMOD; it was not compared on the official scans.
"""

from __future__ import annotations

import json
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray

from lifemask.assets import UserError
from lifemask.data._scan_files import checked_points
from lifemask.data.realy import KEYPOINTS, REGIONS, Realy, RealyScan, Region
from lifemask.evaluation._nonrigid import Keys, deform
from lifemask.evaluation._pooled import rounded
from lifemask.evaluation._seven import SEVEN_FROM_68
from lifemask.evaluation._surface_motion import closest_on_moved
from lifemask.evaluation.meshes import MeshPredictions, Triangles, check_names
from lifemask.evaluation.metrics import bootstrap_ci95
from lifemask.evaluation.surface import Similarity, SurfaceTree, similarity_from_points

Correspondence = Literal["nonrigid", "nearest"]
CORRESPONDENCES: tuple[Correspondence, ...] = ("nonrigid", "nearest")
LANDMARK_SET = "realy85"
BARYCENTRIC_FILE = "realy85.json"

_MOUTH = (*range(48, 61), 64)
ALIGN_KEYS: dict[Region, tuple[int, ...]] = {
    "nose": (*range(27, 36), 70, 71),
    "mouth": _MOUTH,
    "forehead": (*range(36, 48), *range(17, 27)),
    "cheek": (*_MOUTH, 76, 77, 36, 41, 40, 39, 42, 47, 46, 45, 7, 8, 9),
}
"""Key points of a region's rigid alignment."""
DEFORM_KEYS: dict[Region, tuple[int, ...] | None] = {
    "nose": tuple(range(27, 36)),
    "mouth": _MOUTH,
    "forehead": ALIGN_KEYS["forehead"],
    "cheek": None,
}
"""Key points of its deformation; the cheek has none."""
_KEY_SHARE: dict[Region, float] = {"nose": 1.0, "mouth": 1.0, "forehead": 1.0, "cheek": 0.25}
_ITERATIONS = 100
_TOLERANCE = 1e-6  # change of the mean squared distance, in the scans' unit squared


def score_realy(data: Realy, predictions: MeshPredictions) -> dict[str, Any]:
    """All numbers of the protocol as plain, JSON-ready values.

    Args:
        data: scans and the photos' names.
        predictions: a mesh per photo in any unit, with 85 key points: `NAME.landmarks.json` with
            "realy85"; or the benchmark's barycentric list for the meshes' topology,
            `realy85.json`, in the folder; or an iBUG-68 set, which lacks the 17 cheek points.

    Returns:
        "images", "misses", "numbers": mean and (n - 1) std over photos in mm per region, their mean
        "all", for frontal and other views, per kind of correspondence.

    Raises:
        UserError: predictions of another data set, or broken files.
    """
    check_names(predictions, data.names)
    shape = (len(data), len(REGIONS), len(CORRESPONDENCES))
    values, keypoints = np.full(shape, np.nan), 0
    subject, scan = -1, None
    for row, (name, number) in enumerate(zip(data.names, data.subjects, strict=True)):
        mesh = predictions.mesh(name)
        keys = realy_keypoints(predictions, name, mesh) if mesh else None
        if mesh is None or keys is None:
            continue
        if number != subject or scan is None:
            subject, scan = number, data.scan(number)
        keypoints = max(keypoints, int(np.isfinite(keys).all(axis=1).sum()))
        for k, region in enumerate(REGIONS):
            for c, correspondence in enumerate(CORRESPONDENCES):
                values[row, k, c] = region_error_mm(scan, mesh, keys, region, correspondence)
    return _report(data, values, keypoints)


def realy_keypoints(
    predictions: MeshPredictions, name: str, mesh: Triangles
) -> Float[ndarray, "85 3"] | None:
    """Key points (85, 3) of a prediction, NaN where unknown; None if the system gave none.

    Raises:
        UserError: a file is there but does not hold what it should.
    """
    own = predictions.landmarks(name, LANDMARK_SET)
    if own is not None:
        return checked_points(own, KEYPOINTS, predictions.folder / name)
    table = predictions.folder / BARYCENTRIC_FILE
    if table.is_file():
        return _on_triangles(table, mesh)
    for whole in ("ict68", "ibug68-3d-bfm"):
        points = predictions.landmarks(name, whole)
        if points is not None:
            known = checked_points(points, 68, predictions.folder / name)
            return np.concatenate([known, np.full((KEYPOINTS - 68, 3), np.nan)])
    return None


def region_error_mm(
    scan: RealyScan,
    mesh: Triangles,
    keypoints: Float[ndarray, "85 3"],
    region: Region,
    correspondence: Correspondence = "nonrigid",
) -> float:
    """Mean distance in mm between corresponding points of a region.

    Args:
        scan: the truth.
        mesh: predicted vertices (v, 3), any unit, and faces (f, 3).
        keypoints: (85, 3) on the prediction, NaN where unknown.
        region: which.
        correspondence: how the prediction's point for each scan vertex is found.
    """
    vertices, faces = used_once(*scan.regions[region])
    tree = SurfaceTree(*mesh)
    motion = align_region(scan, tree, keypoints, region)
    points = vertices
    if correspondence == "nonrigid":
        targets = closest_on_moved(vertices, tree, motion).point
        points = deform(vertices, faces, targets, _keys(scan, vertices, keypoints, motion, region))
    found = closest_on_moved(points, tree, motion).point
    return float(np.linalg.norm(found - vertices, axis=1).mean() * scan.mm_per_unit)


def align_region(
    scan: RealyScan, tree: SurfaceTree, keypoints: Float[ndarray, "85 3"], region: Region
) -> Similarity:
    """Motion of the prediction onto the scan: seven points with scale, then the region, rigid.

    Closest points of the region's vertices and its key points are matched together; key points
    weigh as much as all vertices (on the cheek a quarter). The last update is not applied, as in
    the benchmark's loop.
    """
    points = scan.regions[region][0]
    motion = _seven_point_motion(keypoints, scan.keypoints)
    keys = [k for k in ALIGN_KEYS[region] if np.isfinite(keypoints[k]).all()]
    copies = int(_KEY_SHARE[region] * len(points) / len(keys))
    weights = np.concatenate([np.ones(len(points)), np.full(len(keys), float(copies))])
    target = np.concatenate([points, scan.keypoints[keys]])
    before = 0.0
    for _ in range(_ITERATIONS + 1):
        found = closest_on_moved(points, tree, motion).point
        source = np.concatenate([found, motion.apply(keypoints[keys])])
        update = similarity_from_points(source, target, scale=False, weights=weights)
        squared = ((update.apply(source) - target) ** 2).sum(axis=1)
        error = float(weights @ squared / weights.sum())
        if abs(error - before) < _TOLERANCE:
            break
        before, motion = error, update.compose(motion)
    return motion


def used_once(
    vertices: Float[ndarray, "v 3"], faces: Int[ndarray, "f 3"]
) -> tuple[Float[ndarray, "w 3"], Int[ndarray, "f 3"]]:
    """The mesh with equal vertices merged and unused ones left out."""
    kept, place = np.unique(vertices[faces.reshape(-1)], axis=0, return_inverse=True)
    return kept, place.reshape(faces.shape)


def _seven_point_motion(source85: ndarray, target85: ndarray) -> Similarity:
    """Rotation by least squares; scale as the ratio of summed absolute coordinates (the code's)."""
    x, y = source85[list(SEVEN_FROM_68)], target85[list(SEVEN_FROM_68)]
    rotation = similarity_from_points(x, y, scale=False).rotation
    turned = (x - x.mean(axis=0)) @ rotation.T
    scale = float(np.abs(y - y.mean(axis=0)).sum() / np.abs(turned).sum())
    return Similarity(scale, rotation, y.mean(axis=0) - scale * rotation @ x.mean(axis=0))


def _keys(
    scan: RealyScan, vertices: ndarray, keypoints: ndarray, motion: Similarity, region: Region
) -> Keys | None:
    """Scan vertices nearest to the region's key points, and the prediction's key points."""
    from scipy.spatial import KDTree

    wanted = DEFORM_KEYS[region]
    if wanted is None:
        return None
    known = [k for k in wanted if np.isfinite(keypoints[k]).all()]
    _, ids = KDTree(vertices).query(scan.keypoints[known])
    return Keys(np.atleast_1d(ids), motion.apply(keypoints[known]))


def _on_triangles(table: Any, mesh: Triangles) -> Float[ndarray, "85 3"]:
    """Points from the benchmark's list of [triangle, weight of corner 0, weight of corner 1]."""
    vertices, faces = mesh
    try:
        rows = np.array(json.loads(table.read_text(encoding="utf-8")), dtype=np.float64)
        triangle, a, b = rows[:, 0].astype(int), rows[:, 1], rows[:, 2]
        corner = vertices[faces[triangle]]
    except (OSError, ValueError, IndexError) as error:
        raise UserError(f"{table} does not fit the predicted meshes: {error}") from error
    weights = np.stack([a, b, 1 - a - b], axis=1)
    return checked_points(np.einsum("nk,nkc->nc", weights, corner), KEYPOINTS, table)


def _report(data: Realy, values: ndarray, keypoints: int) -> dict[str, Any]:
    missed = np.isnan(values).any(axis=(1, 2))
    frontal = np.array(["_" not in name.rsplit("/", 1)[-1] for name in data.names])
    numbers = []
    for view, chosen in (("frontal", frontal), ("other views", ~frontal)):
        for c, correspondence in enumerate(CORRESPONDENCES):
            if chosen.any():
                table = values[chosen][:, :, c]
                flags = {"view": view, "correspondence": correspondence, "keypoints": keypoints}
                numbers += _entries(table, flags)
    return {
        "images": len(data),
        "misses": {
            "total": int(missed.sum()),
            "done_rate": rounded(1.0 - missed.mean()),
            "scored_as": "left out; read every value with the done rate",
        },
        "numbers": numbers,
        "not_scored": [],
    }


def _entries(table: Float[ndarray, "n 4"], flags: dict[str, Any]) -> list[dict[str, Any]]:
    """Mean per region, and "all": the mean of the four."""
    out = []
    for region, column in (*zip(REGIONS, table.T, strict=True), ("all", table.mean(axis=1))):
        kept = column[~np.isnan(column)]
        low, high = bootstrap_ci95(column, np.zeros(len(column), int), "images")
        out.append(
            {
                "metric": "nmse_mm",
                "flags": flags | {"region": region, "pool": "images"},
                "value": rounded(kept.mean() if len(kept) else np.nan),
                "std": rounded(kept.std(ddof=1) if len(kept) > 1 else np.nan),
                "ci95": [rounded(low), rounded(high)],
                "images": len(kept),
            }
        )
    return out
