"""The NoW protocol: scan-to-mesh distances, non-metrical and metrical.

After the challenge's own code (Sanyal et al., "Learning to regress 3D face shape and expression
from an image without 3D supervision", CVPR 2019; the metrical variant after Zielonka et al., ECCV
2022): the scan is cropped to a ball around the face, the predicted *neutral* mesh is laid on it by
seven points and then by minimising the squared scan-to-mesh distances, with scale (non-metrical) or
without (metrical), and the distances of the cropped scan's vertices to its surface are pooled over
all photos. Known deviations, all ours: alignments are proper rotations, while the official start
may mirror a prediction unnoticed; the metrical start uses the rigid alignment of the points where
the official one keeps the translation that belongs to another scale; the minimiser is
Levenberg-Marquardt run to convergence (tolerance 1e-6) instead of a dogleg with its own stopping
rule. Scores near the optimum agree; they were not compared on the official scans.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from lifemask.data._scan_files import LandmarkedScan
from lifemask.data.now import CHALLENGES, Now, face_disc
from lifemask.evaluation._pooled import STATISTICS, cumulative, pooled, pooled_ci95, rounded
from lifemask.evaluation._seven import seven_landmarks
from lifemask.evaluation._surface_motion import in_ball, lay_surface
from lifemask.evaluation.meshes import MeshPredictions, Triangles, check_names
from lifemask.evaluation.surface import SurfaceTree, similarity_from_points

Variant = Literal["non-metrical", "metrical"]
VARIANTS: tuple[Variant, ...] = ("non-metrical", "metrical")
LANDMARK_SET = "now7"
NO_SCALE = "a prediction of unknown size (meta.json says metric: no) has no metrical score"


def score_now(data: Now, predictions: MeshPredictions) -> dict[str, Any]:
    """All numbers of the protocol as plain, JSON-ready values.

    Args:
        data: the validation split.
        predictions: a neutral mesh per photo, named SUBJECT/CHALLENGE/IMAGE, mm, and its seven
            points: `NAME.landmarks.json` with "now7" (or an iBUG-68 set), or the official
            `NAME.npy` or `NAME.txt`.

    Returns:
        "images", "misses", "numbers": median, mean and std in mm per variant and challenge, and
        "curves": cumulative error curves over all photos.

    Raises:
        UserError: no scans, or predictions of another data set.
    """
    check_names(predictions, data.names)
    variants = VARIANTS if predictions.meta.get("metric") != "no" else VARIANTS[:1]
    distances: dict[Variant, list[ndarray | None]] = {variant: [] for variant in variants}
    subject, scan = "", None
    for name, person in zip(data.names, data.subjects, strict=True):
        if person != subject or scan is None:
            subject, scan = person, data.scan(person)
        mesh = predictions.mesh(name)
        seven = seven_landmarks(predictions, name, LANDMARK_SET) if mesh else None
        for variant in variants:
            if mesh is None or seven is None:
                distances[variant].append(None)
            else:
                distances[variant].append(scan_distances(scan, mesh, seven, variant))
    return _report(data, distances)


def scan_distances(
    scan: LandmarkedScan, mesh: Triangles, landmarks7: Float[ndarray, "7 3"], variant: Variant
) -> Float[ndarray, "k"]:
    """Distances (k,) in mm from the cropped scan's k vertices to the aligned prediction.

    Args:
        scan: the truth.
        mesh: predicted vertices (v, 3) in mm, and faces (f, 3).
        landmarks7: the seven points on the prediction, in its frame.
        variant: "non-metrical" also fits the scale.
    """
    center, radius = face_disc(scan.landmarks7_mm)
    near = in_ball(scan.vertices_mm, center, radius, "a scan of NoW")
    scale = variant == "non-metrical"
    start = similarity_from_points(landmarks7, scan.landmarks7_mm, scale=scale)
    tree = SurfaceTree(*mesh)
    return lay_surface(scan.vertices_mm[near], tree, start, scale=scale).distance


def _report(data: Now, distances: dict[Variant, list[ndarray | None]]) -> dict[str, Any]:
    """Statistics of every variant and challenge, misses and curves."""
    names = np.array(data.challenges)
    missed = np.array([d is None for d in distances["non-metrical"]])
    numbers: list[dict[str, Any]] = []
    curves: dict[str, Any] = {}
    for variant, rows in distances.items():
        for challenge in ("all", *(c for c in CHALLENGES if c in data.challenges)):
            chosen = [
                d
                for d, c in zip(rows, data.challenges, strict=True)
                if d is not None and challenge in ("all", c)
            ]
            numbers += _entries(variant, challenge, chosen)
        curves[variant] = cumulative([d for d in rows if d is not None])
    absent = [v for v in VARIANTS if v not in distances]
    return {
        "images": len(data),
        "split": data.split,
        "misses": {
            "total": int(missed.sum()),
            "by_challenge": {c: int(missed[names == c].sum()) for c in sorted(set(names))},
            "done_rate": rounded(1.0 - missed.mean()),
            "comparable": not missed.any(),
            "scored_as": "left out, as in the official code; its authors accept complete sets only",
        },
        "numbers": numbers,
        "curves": curves,
        "not_scored": [
            {"metric": "scan_to_mesh_mm", "flags": {"variant": v}, "reason": NO_SCALE}
            for v in absent
        ],
    }


def _entries(variant: Variant, challenge: str, chosen: Sequence[ndarray]) -> list[dict[str, Any]]:
    """Median, mean and std of one variant and challenge."""
    values, intervals = pooled(chosen), pooled_ci95(chosen)
    flags = {
        "variant": variant,
        "challenge": challenge,
        "pool": "vertices of all photos",
        "align": "7 points, then scan-to-mesh"
        + (" with scale" if variant == "non-metrical" else ""),
        "crop": "ball 0.7 (outer eyes + nose)",
    }
    return [
        {
            "metric": "scan_to_mesh_mm",
            "flags": flags | {"statistic": statistic},
            "value": rounded(values[statistic]),
            "ci95": [rounded(v) for v in intervals[statistic]],
            "images": len(chosen),
        }
        for statistic in STATISTICS
    ]
