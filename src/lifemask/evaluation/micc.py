"""MICC Florence, in its two published variants, which are never mixed.

`micc_deep3d` (Deng et al., "Accurate 3D face reconstruction with weakly-supervised learning",
CVPRW 2019; the steps after its author in issue 23 of microsoft/Deep3DFaceReconstruction): the scan
cropped to 95 mm around the nose tip, forehead cut; a similarity ICP per mesh, so that every
prediction has its own scale; point-to-plane RMSE over the crop's vertices; mean and standard
deviation over meshes. `micc_genova` (Genova et al., CVPR 2018, after the same source): one scale
for all predictions, rigid ICP, mean point-to-plane distance over the region that both share.

No code of either is public. Ours, where the sources are silent: the forehead is cut 5 mm above the
highest brow point, or 60 mm above the nose tip without landmarks, across the head's own up axis;
truth is the first frontal scan; ICP minimises the distances from the crop to the prediction's
surface; Genova's one scale is the median of the scales that fit best one by one; the shared region
is where the nearest point of the prediction is not on its border. Plain ICP may agree with the true
error as little as r = 0.41 (arXiv 2505.18025), so each variant also prints errors by landmarks.

A prediction is a neutral mesh per video, `subject_01/Indoor-Cooperative.ply`, in mm in any frame
with landmarks ("ibug51" or a 68 set in `NAME.landmarks.json`), else y up, z out of the face.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from lifemask.data.micc import Micc, MiccScan
from lifemask.evaluation._items import rounded
from lifemask.evaluation._scan_fit import (
    Distances,
    Prediction,
    head_rotation,
    landmarks51,
    prepare,
)
from lifemask.evaluation._scan_report import (
    Outcome,
    Target,
    column,
    fit,
    report,
    resized,
)
from lifemask.evaluation.meshes import MeshPredictions, check_names

RADIUS_MM = 95.0
ABOVE_BROWS_MM = 5.0
ABOVE_TIP_MM = 60.0


def score_micc_deep3d(data: Micc, predictions: MeshPredictions) -> dict[str, Any]:
    """Point-to-plane RMSE after a similarity ICP per mesh, and what stands beside it.

    Returns:
        "meshes", "complete", "misses", "numbers", "not_scored", "checks" (inside out, ICP not
        converged), "per_item".

    Raises:
        UserError: predictions of another data set, or a file that cannot be read.
    """
    check_names(predictions, data.names)
    outcomes = [fit(guess, target, scale=True) for target, guess in _pairs(data, predictions)]
    icp, still = {"align": "similarity ICP per mesh"}, {"align": "landmarks only, with scale"}
    columns = [
        ("point_to_plane_rmse_mm", icp, column(outcomes, lambda d: _rms(d.plane_mm))),
        ("point_to_surface_rmse_mm", icp, column(outcomes, lambda d: _rms(d.surface_mm))),
        (
            "point_to_surface_rmse_mm",
            still,
            column(outcomes, lambda d: _rms(d.surface_mm), fitted=False),
        ),
        ("landmark51_mm", icp, column(outcomes, lambda d: d.landmark_mm)),
        ("landmark51_mm", still, column(outcomes, lambda d: d.landmark_mm, fitted=False)),
        ("covered_percent", icp, column(outcomes, _covered)),
        ("covered_percent", still, column(outcomes, _covered, fitted=False)),
    ]
    flags = {"variant": "micc_deep3d", "crop": "95 mm around the nose tip, forehead cut"}
    groups = {"condition": data.conditions}
    return {"complete": data.complete} | report(data.names, groups, outcomes, columns, flags)


def score_micc_genova(data: Micc, predictions: MeshPredictions) -> dict[str, Any]:
    """Mean point-to-plane distance after one scale for all and a rigid ICP each.

    Returns:
        As `score_micc_deep3d`, and "global_scale".

    Raises:
        UserError: predictions of another data set, or a file that cannot be read.
    """
    check_names(predictions, data.names)
    free = [fit(guess, target, scale=True) for target, guess in _pairs(data, predictions)]
    scales = [o.fitted.motion.similarity.scale for o in free if o.fitted is not None]
    size = float(np.median(scales)) if scales else float("nan")
    outcomes = [
        _rigid(first, guess, target, size)
        for first, (target, guess) in zip(free, _pairs(data, predictions), strict=True)
    ]
    icp = {"align": "one scale, rigid ICP"}
    columns = [
        ("point_to_plane_mean_mm", icp | {"region": "shared"}, column(outcomes, _shared_plane)),
        ("point_to_surface_mean_mm", icp, column(outcomes, lambda d: d.surface_mm.mean())),
        ("landmark51_mm", icp, column(outcomes, lambda d: d.landmark_mm)),
        ("covered_percent", icp, column(outcomes, _covered)),
    ]
    flags = {"variant": "micc_genova", "crop": "95 mm around the nose tip, forehead cut"}
    result = report(data.names, {"condition": data.conditions}, outcomes, columns, flags)
    return {"complete": data.complete, "global_scale": rounded(size, 6)} | result


def target_of(scan: MiccScan) -> Target:
    """A scan's vertices within 95 mm of the nose tip and below the forehead."""
    rotation = head_rotation(scan.landmarks51_mm)
    up = rotation[:, 1]
    if scan.landmarks51_mm is None:
        top = scan.nose_tip_mm @ up + ABOVE_TIP_MM
    else:
        top = (scan.landmarks51_mm[:10] @ up).max() + ABOVE_BROWS_MM
    near = np.linalg.norm(scan.vertices_mm - scan.nose_tip_mm, axis=1) <= RADIUS_MM
    keep = near & (scan.vertices_mm @ up <= top)
    whole = (scan.vertices_mm, scan.faces)
    return Target(whole, keep, scan.nose_tip_mm, rotation, scan.landmarks51_mm)


def _pairs(data: Micc, predictions: MeshPredictions) -> Iterator[tuple[Target, Prediction | None]]:
    """Truth and prediction of each item; a scan that follows itself is read once."""
    subject, target = "", None
    for name in data.names:
        if target is None or name.partition("/")[0] != subject:
            subject, target = name.partition("/")[0], target_of(data.scan(name))
        mesh = predictions.mesh(name)
        yield target, None if mesh is None else prepare(mesh, landmarks51(predictions, name))


def _rigid(first: Outcome, guess: Prediction | None, target: Target, size: float) -> Outcome:
    """The prediction with the common size, moved rigidly from where its own size fitted."""
    if first.fitted is None:
        return first
    start = resized(first.fitted.motion, size, target.tip)
    return replace(fit(guess, target, scale=False, start=start), unfitted=None)


def _shared_plane(distances: Distances) -> float:
    """Mean plane distance over the covered points; NaN if there are none."""
    kept = distances.plane_mm[distances.covered]
    return float(kept.mean()) if len(kept) else float("nan")


def _covered(distances: Distances) -> float:
    """Percentage of the crop whose nearest point is not on the prediction's border."""
    return 100.0 * float(distances.covered.mean())


def _rms(values: np.ndarray) -> float:
    return float(np.sqrt(np.mean(values**2)))
