"""The FG2018 challenge on Stirling/ESRC scans: 3D-RMSE of the inner face, HQ and LQ photos.

After Feng et al., "Evaluation of dense 3D reconstruction from 2D face images in the wild" (FG 2018)
and the challenge's script: the predicted *neutral* mesh is laid on the scan by seven points with
scale; each scan vertex of the inner face has a distance to its surface; 3D-RMSE is their root mean
square per photo. The paper's inner face is a ball of radius 1.2 x (outer eyes + nose) / 2; the
published script uses 1.5 and *adds* the positions of the outer eye corners where it should subtract
them, so its radius depends on the scan's origin. Both crops are scored and flagged, the paper's
first. Beyond the challenge, `align: icp` refines the alignment by closest points, since seven
clicked points alone cost a few tenths of a millimetre.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from lifemask.data._scan_files import LandmarkedScan
from lifemask.data.now import face_disc
from lifemask.data.stirling import QUALITIES, Stirling
from lifemask.evaluation._pooled import rounded
from lifemask.evaluation._seven import seven_landmarks
from lifemask.evaluation._surface_motion import closest_on_moved, in_ball, lay_surface
from lifemask.evaluation.meshes import MeshPredictions, Triangles, check_names
from lifemask.evaluation.metrics import bootstrap_ci95
from lifemask.evaluation.surface import SurfaceTree, similarity_from_points

Crop = Literal["paper", "script"]
Align = Literal["landmarks", "icp"]
VARIANTS: tuple[tuple[Align, Crop], ...] = (
    ("landmarks", "paper"),
    ("landmarks", "script"),
    ("icp", "paper"),
)
"""(alignment, crop) of the numbers; the first is the challenge's."""
LANDMARK_SET = "stirling7"
PAPER_FACTOR, SCRIPT_FACTOR = 0.6, 0.75
STATISTICS = ("rmse_mm", "mean_mm")


def score_stirling(data: Stirling, predictions: MeshPredictions) -> dict[str, Any]:
    """All numbers of the protocol as plain, JSON-ready values.

    Args:
        data: photos and scans.
        predictions: a neutral mesh per photo, named as `Stirling.names`, in any unit, with seven
            points ("stirling7", the official `NAME.txt`, or an iBUG-68 set).

    Returns:
        "images", "misses", "numbers": RMSE and mean distance, each a mean over photos with std, for
        all photos and by quality, and per alignment and crop.

    Raises:
        UserError: predictions of another data set, or broken files.
    """
    check_names(predictions, data.names)
    columns = {(v, s): np.full(len(data), np.nan) for v in VARIANTS for s in STATISTICS}
    scans: dict[str, LandmarkedScan] = {}
    for row, (name, person) in enumerate(zip(data.names, data.people, strict=True)):
        mesh = predictions.mesh(name)
        seven = seven_landmarks(predictions, name, LANDMARK_SET) if mesh else None
        if mesh is None or seven is None:
            continue
        if person not in scans:
            scans = {person: data.scan(person)}
        for variant in VARIANTS:
            distance = scan_distances(scans[person], mesh, seven, *variant)
            columns[variant, "rmse_mm"][row] = np.sqrt(np.mean(distance**2))
            columns[variant, "mean_mm"][row] = distance.mean()
    return _report(data, columns)


def scan_distances(
    scan: LandmarkedScan,
    mesh: Triangles,
    landmarks7: Float[ndarray, "7 3"],
    align: Align = "landmarks",
    crop: Crop = "paper",
) -> Float[ndarray, "k"]:
    """Distances (k,) in mm from the scan's inner face to the aligned prediction.

    Args:
        scan: the truth.
        mesh: predicted vertices (v, 3), any unit, and faces (f, 3).
        landmarks7: the seven points on the prediction, in its frame.
        align: "landmarks" as in the challenge, "icp" refines it by closest points.
        crop: which inner face.
    """
    center, radius = inner_face(scan.landmarks7_mm, crop)
    points = scan.vertices_mm[in_ball(scan.vertices_mm, center, radius, "a Stirling scan")]
    motion = similarity_from_points(landmarks7, scan.landmarks7_mm, scale=True)
    tree = SurfaceTree(*mesh)
    if align == "icp":
        return lay_surface(points, tree, motion, scale=True).distance
    return closest_on_moved(points, tree, motion).distance


def inner_face(
    landmarks7_mm: Float[ndarray, "7 3"], crop: Crop
) -> tuple[Float[ndarray, "3"], float]:
    """Centre (3,) and radius of the scored ball, mm; see the module's text for "script"."""
    if crop == "paper":
        return face_disc(landmarks7_mm, PAPER_FACTOR)
    center, _ = face_disc(landmarks7_mm)
    bridge = (landmarks7_mm[1] + landmarks7_mm[2]) / 2
    summed = np.linalg.norm(landmarks7_mm[0] + landmarks7_mm[3])
    nose = np.linalg.norm(bridge - landmarks7_mm[4])
    return center, float(SCRIPT_FACTOR * (summed + nose))


def _report(data: Stirling, columns: dict[Any, ndarray]) -> dict[str, Any]:
    quality = np.array(data.qualities)
    missed = np.isnan(columns[VARIANTS[0], "rmse_mm"])
    numbers = []
    for ((align, crop), statistic), values in columns.items():
        for group in ("all", *QUALITIES):
            chosen = values if group == "all" else values[quality == group]
            if len(chosen):
                flags = {"align": align, "crop": crop, "photos": group, "pool": "images"}
                numbers.append({"metric": statistic, "flags": flags} | _summary(chosen))
    return {
        "images": len(data),
        "images_by_quality": {q: int((quality == q).sum()) for q in QUALITIES},
        "misses": {
            "total": int(missed.sum()),
            "by_quality": {q: int(missed[quality == q].sum()) for q in QUALITIES},
            "done_rate": rounded(1.0 - missed.mean()),
            "scored_as": "left out; read every value with the done rate",
        },
        "numbers": numbers,
        "not_scored": [],
    }


def _summary(values: ndarray) -> dict[str, Any]:
    kept = values[~np.isnan(values)]
    low, high = bootstrap_ci95(values, np.zeros(len(values), int), "images")
    return {
        "value": rounded(kept.mean() if len(kept) else np.nan),
        "std": rounded(kept.std() if len(kept) else np.nan),
        "ci95": [rounded(low), rounded(high)],
        "images": len(kept),
    }
