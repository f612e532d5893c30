"""The loop that MICC and FaceWarehouse share: lay predictions on scans, collect, report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Bool, Float
from numpy import ndarray

from lifemask.assets import UserError
from lifemask.evaluation._cylinder import OverlapScores
from lifemask.evaluation._items import (
    INSIDE_OUT,
    NOT_CONVERGED,
    check_entry,
    mean_entry,
    median_entry,
    per_item,
)
from lifemask.evaluation._scan_fit import (
    Distances,
    Prediction,
    Start,
    cropped,
    measure,
    overlap,
    starting_motion,
    stay,
)
from lifemask.evaluation._surface_motion import Motion, lay_surface
from lifemask.evaluation.meshes import Triangles
from lifemask.evaluation.surface import Similarity

NO_LANDMARKS = "needs iBUG landmarks of the scan and of the prediction (NAME.landmarks.json)"
OVERLAP_METRICS = {
    "cd_mm": "cd_mm",
    "mne_facescape_rad": "mne_facescape_rad",
    "normal_angle_deg": "normal_angle_deg",
    "cr_percent": "completeness",
}
"""Metric name to the field of `OverlapScores`."""


@dataclass(frozen=True)
class Target:
    """The part of a true mesh that is scored.

    Attributes:
        whole: vertices (v, 3) in mm and faces, before the crop.
        keep: (v,), vertices in the crop.
        tip: (3,), nose tip, or the vertex that stands for it.
        rotation: (3, 3), head frame to the mesh's frame.
        points: (k, 3) landmarks, or None.
    """

    whole: Triangles
    keep: Bool[ndarray, "v"]
    tip: Float[ndarray, "3"]
    rotation: Float[ndarray, "3 3"]
    points: Float[ndarray, "k 3"] | None

    @property
    def crop(self) -> Triangles:
        """The kept faces with their vertices."""
        return cropped(self.whole, self.keep)


@dataclass(frozen=True)
class Outcome:
    """What became of one prediction.

    Attributes:
        failure: why there are no distances; empty if there are.
        start: how the alignment began.
        fitted: after ICP.
        unfitted: after the landmarks alone; None without them.
        overlap: on cylinder maps, after ICP.
    """

    failure: str = ""
    start: Start = "landmarks"
    fitted: Distances | None = None
    unfitted: Distances | None = None
    overlap: OverlapScores | None = None


def fit(
    prediction: Prediction | None,
    target: Target,
    *,
    scale: bool,
    start: Similarity | None = None,
) -> Outcome:
    """Lay one prediction on its truth.

    Args:
        prediction: None for a miss.
        target: the truth.
        scale: whether ICP and landmarks also fit the size.
        start: first motion; None takes landmarks, or nose tips without them.
    """
    if prediction is None:
        return Outcome("no mesh")
    try:
        first, how = starting_motion(prediction, target.points, target.tip, scale=scale)
    except (UserError, ValueError):
        return Outcome("no start: neither landmarks nor a nose")
    crop = target.crop
    motion = lay_surface(crop[0], prediction.tree, start or first, scale=scale)
    unfitted = None
    if how == "landmarks":
        still = stay(prediction, crop[0], first)
        unfitted = measure(prediction, crop[0], target.points, still)
    return Outcome(
        "",
        how,
        measure(prediction, crop[0], target.points, motion),
        unfitted,
        overlap(crop, prediction, motion, target.tip, target.rotation),
    )


def resized(motion: Motion, size: float, pivot: Float[ndarray, "3"]) -> Similarity:
    """The motion with another scale, such that `pivot` of the truth's frame stays where it is."""
    old = motion.similarity
    own = old.inverse().apply(pivot[None])[0]
    return replace(old, scale=size, translation=pivot - size * old.rotation @ own)


def column(
    outcomes: Sequence[Outcome],
    value: Callable[[Distances], float],
    *,
    fitted: bool = True,
) -> Float[ndarray, "n"]:
    """One number per prediction, NaN for failures."""
    rows = [o.fitted if fitted else o.unfitted for o in outcomes]
    return np.array([np.nan if row is None else value(row) for row in rows], dtype=np.float64)


def overlap_column(outcomes: Sequence[Outcome], field: str) -> Float[ndarray, "n"]:
    """One field of the overlap scores per prediction; completeness in percent."""
    factor = 100.0 if field == "completeness" else 1.0
    found = [o.overlap if o.overlap is not None and o.overlap.found else None for o in outcomes]
    return np.array([np.nan if s is None else factor * getattr(s, field) for s in found])


def report(
    names: Sequence[str],
    groups: Mapping[str, Sequence[str]],
    outcomes: Sequence[Outcome],
    columns: Sequence[tuple[str, Mapping[str, Any], Float[ndarray, "n"]]],
    flags: Mapping[str, Any],
) -> dict[str, Any]:
    """The protocol's result as plain, JSON-ready values.

    Args:
        names: of the n predictions.
        groups: kind of group to the group of each.
        outcomes: of each.
        columns: (metric, its own flags, (n,) values); the first is the protocol's main number. A
            column without any value is listed under "not_scored".
        flags: what defines all numbers.
    """
    numbers, not_scored = [], []
    overlaps = [
        (metric, {"region": "overlap on cylinder maps"}, overlap_column(outcomes, field))
        for metric, field in OVERLAP_METRICS.items()
    ]
    for metric, own, values in [*columns, *overlaps]:
        if np.isnan(values).all():
            entry = {"metric": metric, "flags": {**flags, **own}, "reason": NO_LANDMARKS}
            not_scored.append(entry)
        else:
            numbers.append(mean_entry(metric, {**flags, **own}, values, groups))
    main, main_flags, main_values = columns[0]
    numbers.append(median_entry(main, {**flags, **main_flags}, main_values))
    failures = Counter(o.failure for o in outcomes if o.failure)
    done = [(n, o) for n, o in zip(names, outcomes, strict=True) if o.fitted is not None]
    inside_out = [n for n, o in done if o.overlap is not None and o.overlap.inside_out]
    not_converged = [n for n, o in done if o.fitted and not o.fitted.motion.converged]
    return {
        "meshes": len(names),
        "misses": {"total": sum(failures.values())} | dict(sorted(failures.items())),
        "starts": dict(sorted(Counter(o.start for _, o in done).items())),
        "numbers": numbers,
        "not_scored": not_scored,
        "checks": [
            check_entry("inside out", inside_out, INSIDE_OUT),
            check_entry("not converged", not_converged, NOT_CONVERGED),
        ],
        "per_item": per_item(names, {main: main_values}),
    }
