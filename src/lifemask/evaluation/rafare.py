"""Detailed surfaces against the true heads of held-out pairs, in the frame of the crop.

A surface is any triangle mesh: of a field, of a head model, of a depth map. Compared is the face
that the crop shows: the pixels of the face's region classes with a true surface behind them
(`_rafare_front`). Two alignments: "z", the picture stays and only the depth moves, by the median
gap (one photo does not tell it); "similarity", from there closest points with rotation and size,
for methods whose size or pose is their own. Of a prediction its front counts.

| value | meaning |
|---|---|
| cover_percent | share of the true face's area whose pixels show the prediction too: the overlap |
| truth_to_surface_mm | mean distance of the overlap's true points to the prediction |
| surface_to_truth_mm | mean distance of the predicted points in the overlap's pixels to the truth |
| cd_mm | the mean of the two |
| normal_angle_deg | mean angle between true normals and the prediction's at the closest points, |
|  | of the whole face; `_eyes`, `_lips`, `_nose`: of those region classes |
| detail_r, detail_energy_ratio | `_detail`, on the truth smoothed by 6 mm, without eyes and mouth |
| detail_cover_percent | share of that where both surfaces are within 10 mm of the base |

All means are weighted by area. Without a surface, or without an overlap, a head is a miss: it is
counted, and its values are left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from lifemask.evaluation import metrics
from lifemask.evaluation._detail import detail_score, displacement
from lifemask.evaluation._rafare_front import (
    Front,
    Seen,
    TrueFront,
    facing,
    front_of,
    pixel_areas,
    pixel_points,
    see,
    true_front,
)
from lifemask.evaluation._shape_errors import Aligned, at_closest
from lifemask.evaluation._surface_motion import closest_on_moved, lay_surface
from lifemask.evaluation.meshes import Triangles
from lifemask.evaluation.metrics import angles_deg
from lifemask.evaluation.surface import Similarity, SurfaceTree
from lifemask.types import REGION_NAMES

if TYPE_CHECKING:
    from lifemask.data.pairs import Pair

Align = Literal["z", "similarity"]
Values = dict[str, float]
ALIGNS: tuple[Align, ...] = ("z", "similarity")
PARTS = ("eyes", "lips", "nose")
GEOMETRIC = ("detail_energy_ratio",)
"""Ratios: means and differences are those of the logarithm."""
_MIN_SAMPLES = 50  # an overlap with fewer is none
_LEAST_RATIO = 1e-6


@dataclass(frozen=True)
class HeadCase:
    """One held-out head.

    Attributes:
        name: of the pair.
        person: whose head it is; intervals are over people.
        yaw_deg: of the head, for the bins.
        truth: what is compared.
    """

    name: str
    person: int
    yaw_deg: float
    truth: TrueFront


@dataclass(frozen=True)
class Scores:
    """One surface against one truth.

    Attributes:
        values: by alignment.
        inside_out: the surface's normals point away from the viewer.
    """

    values: Mapping[Align, Values]
    inside_out: bool


System = Callable[[int], Triangles | None]
"""Number of a case to a surface in mm in its crop's frame, or None for a miss."""


def half_crop_mm(pair: Pair) -> float:
    """Half the side of a pair's crop in mm at the true head's size."""
    return len(pair.depth) / 2 / float(pair.scale)


def case_of(pair: Pair, name: str) -> HeadCase | None:
    """The case of a pair; None where its crop shows no face."""
    import torch

    from lifemask.graphics.camera import euler_deg_from_rotation

    half = half_crop_mm(pair)
    truth = true_front(pair.depth * half, pair.normals, pair.region, half)
    if truth is None:
        return None
    rotation = torch.as_tensor(np.asarray(pair.rotation, np.float64))
    yaw = float(euler_deg_from_rotation(rotation)[1])
    return HeadCase(name, int(pair.person), yaw, truth)


def cube_to_mm(vertices: Float[ndarray, "v 3"], half_mm: float) -> Float[ndarray, "v 3"]:
    """Points of the crop's cube in mm."""
    return np.asarray(vertices, np.float64) * half_mm


def pixels_to_mm(
    vertices_px: Float[ndarray, "v 3"], size: int, half_mm: float
) -> Float[ndarray, "v 3"]:
    """Points (u, v, w) in px of a crop of `size` px, in mm; w has any origin."""
    u, v, w = np.asarray(vertices_px, np.float64).T
    scale = 2 * half_mm / size
    return np.stack(((u + 0.5) * scale - half_mm, half_mm - (v + 0.5) * scale, w * scale), 1)


def score_surface(truth: TrueFront, mesh: Triangles) -> Scores | None:
    """One surface in every alignment; None without an overlap.

    Args:
        truth: the face that the crop shows.
        mesh: vertices (v, 3) in mm in the crop's frame, from any depth, and faces (f, 3).
    """
    front = front_of(mesh, truth.size, truth.half_mm)
    start = None if front is None else _depth_shift(truth, front)
    if front is None or start is None:
        return None
    tree = SurfaceTree(front.vertices, front.faces)
    shown = _overlap(truth, see(start.apply(front.vertices), front.faces, *_frame(truth)))
    laid = lay_surface(truth.points[shown], tree, start, scale=True).similarity
    return Scores(
        {"z": _values(truth, front, tree, start), "similarity": _values(truth, front, tree, laid)},
        front.inside_out,
    )


def _frame(truth: TrueFront) -> tuple[int, float]:
    return truth.size, truth.half_mm


def _overlap(truth: TrueFront, seen: Seen) -> ndarray:
    """Samples (n,) whose pixels show the prediction."""
    return np.isfinite(seen.depth_mm.reshape(-1)[truth.pixels])


def _depth_shift(truth: TrueFront, front: Front) -> Similarity | None:
    """The shift along z by the median gap of the pixels that show both; None for next to none."""
    seen = see(front.vertices, front.faces, *_frame(truth))
    gap = (truth.depth_mm - seen.depth_mm)[np.isfinite(truth.depth_mm + seen.depth_mm)]
    if len(gap) < _MIN_SAMPLES or _overlap(truth, seen).sum() < _MIN_SAMPLES:
        return None
    return Similarity(1.0, np.eye(3), np.array([0.0, 0.0, np.median(gap)]))


def _values(truth: TrueFront, front: Front, tree: SurfaceTree, motion: Similarity) -> Values:
    """Everything that is measured of an aligned front; NaN where the alignment left no overlap."""
    moved = motion.apply(front.vertices)
    seen = see(moved, front.faces, *_frame(truth))
    shown = _overlap(truth, seen)
    out: Values = {"cover_percent": 100 * _mean(shown, truth.areas)}
    points, areas = truth.points[shown], truth.areas[shown]
    closest = closest_on_moved(points, tree, motion)
    there = _mean(closest.distance, areas)
    back = _back_to_truth(truth, moved, front, seen, shown)
    out |= {"cd_mm": (there + back) / 2, "truth_to_surface_mm": there, "surface_to_truth_mm": back}
    aligned = Aligned(motion, False, moved, front.faces, closest)
    guess = at_closest(aligned, front.normals @ motion.rotation.T)
    angle = angles_deg(truth.normals[shown], guess)
    out["normal_angle_deg"] = _mean(angle, areas)
    for part in PARTS:
        own = truth.classes[shown] == REGION_NAMES.index(part)
        out[f"normal_angle_{part}_deg"] = _mean(angle[own], areas[own])
    return out | _detail(truth, SurfaceTree(moved, front.faces))


def _back_to_truth(
    truth: TrueFront, moved: ndarray, front: Front, seen: Seen, shown: ndarray
) -> float:
    """Mean distance in mm from what the overlap's pixels see of a prediction to the truth."""
    pixels = truth.pixels[shown]
    points = pixel_points(seen.depth_mm, truth.half_mm).reshape(-1, 3)[pixels]
    toward = facing(moved, front.faces[seen.face.reshape(-1)[pixels]])
    areas = pixel_areas(np.abs(toward), truth.spacing_mm)
    return _mean(truth.tree.closest(points).distance, areas)


def _detail(truth: TrueFront, surface: SurfaceTree) -> Values:
    found = detail_score(truth.base, truth.base_mm, displacement(truth.base, surface))
    return {
        "detail_r": found.r,
        "detail_energy_ratio": found.energy_ratio,
        "detail_cover_percent": 100 * found.cover,
    }


def score(cases: Iterable[HeadCase], systems: Mapping[str, System]) -> dict[str, Any]:
    """Scores of several systems on the same heads, each head made once.

    Args:
        cases: one at a time.
        systems: by name; called with the number of the case.

    Returns:
        JSON-ready: "heads", "names", "people", "yaw_deg", and by system "misses" (total and by yaw
        bin), "inside_out" (names), and per alignment every value's mean, 95 % interval, means by
        yaw bin and single heads.
    """
    rows: dict[str, list[Scores | None]] = {name: [] for name in systems}
    names, people, yaws = [], [], []
    for number, case in enumerate(cases):
        names.append(case.name)
        people.append(case.person)
        yaws.append(metrics.rounded(case.yaw_deg))
        for name, system in systems.items():
            mesh = system(number)
            rows[name].append(None if mesh is None else score_surface(case.truth, mesh))
    frame = {"heads": len(names), "names": names, "people": people, "yaw_deg": yaws}
    found = {name: _summary(own, frame) for name, own in rows.items()}
    return frame | {"systems": found}


def _summary(rows: Sequence[Scores | None], frame: Mapping[str, Any]) -> dict[str, Any]:
    bins = metrics.yaw_bins(np.array(frame["yaw_deg"], np.float64))
    missed = np.array([row is None for row in rows])
    by_bin = {n: int(missed[bins == k].sum()) for k, n in enumerate(metrics.BIN_NAMES)}
    out: dict[str, Any] = {"misses": {"total": int(missed.sum()), "by_bin": by_bin}}
    flagged = [row is not None and row.inside_out for row in rows]
    out["inside_out"] = [n for n, bad in zip(frame["names"], flagged, strict=True) if bad]
    for how in ALIGNS:
        found = [{} if row is None else row.values[how] for row in rows]
        keys = dict.fromkeys(key for row in found for key in row)
        out[how] = {}
        for key in keys:
            column = np.array([row.get(key, np.nan) for row in found])
            own = {"heads": [metrics.rounded(float(v)) for v in column]}
            out[how][key] = entry(key, column, frame["people"], bins) | own
    return out


def entry(
    name: str, column: Float[ndarray, "n"], people: Sequence[int], bins: ndarray | None = None
) -> dict[str, Any]:
    """Mean over people of their heads' means, with the 95 % interval; NaN values are left out.

    Args:
        name: of the value; the mean of a `GEOMETRIC` one is that of its logarithm.
        column: (n,) value of each head.
        people: (n,) whose head it is.
        bins: (n,) yaw bin; None leaves the bins out.
    """
    ratio = name in GEOMETRIC
    used = np.log(np.maximum(column, _LEAST_RATIO)) if ratio else column
    back = np.exp if ratio else float
    own = by_person(used, people)
    low, high = metrics.bootstrap_ci95(own, np.zeros(len(own), np.int64), "images")
    out: dict[str, Any] = {"mean": metrics.rounded(float(back(_plain_mean(own))))}
    out["ci95"] = [metrics.rounded(float(back(edge))) for edge in (low, high)]
    out["count"] = int((~np.isnan(column)).sum())
    if bins is not None:
        means = metrics.bin_means(used, bins)
        out["bins"] = {
            n: metrics.rounded(float(back(v)))
            for n, v in zip(metrics.BIN_NAMES, means, strict=True)
        }
    return out


def by_person(values: Float[ndarray, "n"], people: Sequence[int]) -> Float[ndarray, "p"]:
    """Mean of each person's heads (p,), NaN left out; NaN for a person without any."""
    own = np.asarray(people)
    return np.array([_plain_mean(values[own == one]) for one in np.unique(own)])


def head_values(
    result: Mapping[str, Any], system: str, name: str, how: Align = "z"
) -> Float[ndarray, "n"]:
    """A system's values of one kind by head from the result of `score`; NaN for a miss."""
    kept = result["systems"][system][how].get(name)
    if kept is None:
        return np.full(result["heads"], np.nan)
    return np.array([np.nan if v is None else v for v in kept["heads"]], np.float64)


def difference(
    result: Mapping[str, Any], first: str, second: str, name: str, how: Align = "z"
) -> dict[str, Any]:
    """First system minus second on the heads where both have a value, with the paired interval.

    For a `GEOMETRIC` value it is the first over the second, and "significant" is about 1.
    """
    a, b = (head_values(result, system, name, how) for system in (first, second))
    ratio = name in GEOMETRIC
    gap = a / np.maximum(b, _LEAST_RATIO) if ratio else a - b
    found = entry(name, gap, result["people"])
    low, high = found["ci95"]
    none = float(ratio)
    certain = low is not None and high is not None and not low <= none <= high
    return found | {"significant": certain}


def _mean(values: ndarray, weights: ndarray) -> float:
    """Weighted mean; NaN without weights."""
    total = float(weights.sum())
    return float(weights @ values) / total if total > 0 else float("nan")


def _plain_mean(values: ndarray) -> float:
    """Mean without NaN; NaN where nothing is left."""
    kept = values[~np.isnan(values)]
    return float(kept.mean()) if len(kept) else float("nan")
