"""The AFLW2000-3D protocol: NME and pose errors, each number with the flags that define it.

Every choice in which published numbers differ is a flag or a fixed rule. The normaliser is
`sqrt(w h)` of the 68-point box of the truth that is scored, for every point set (AFLW-21: of the
original 68). "Mean" is the mean over three bins of the fitted yaw unless `pool` says "images".
All photos count, misses included. Coordinates are compared as stored: 0-based predictions against
the numbers in the label files. Whoever scores 1-based output says so (`--one-based`; counting from
the wrong pixel moved one system from 3.79 to 3.93). Definitions and traps: `docs/evaluation.md`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray

from lifemask.assets import UserError
from lifemask.data.aflw2000 import COMPLETE, PHOTO_PX, Aflw2000
from lifemask.evaluation import metrics
from lifemask.evaluation.aflw2000_dense import DenseCase
from lifemask.evaluation.align import DepthAlignment
from lifemask.evaluation.checks import suspicions
from lifemask.evaluation.metrics import PointSet, Pool
from lifemask.evaluation.predictions import Predictions, matched
from lifemask.facemodel.landmarks import convert
from lifemask.graphics.camera import euler_deg_from_rotation, rotation_from_euler_deg

POSE_LIMIT_DEG = 99.0  # Hopenet's rule (Ruiz et al., CVPRW 2018): 1,969 of 2,000 photos remain
Truth = Literal["original", "reannotated", "aflw21"]
Subset = Literal["all", "released-2dasl"]

SUBSETS: dict[Subset, tuple[int, ...]] = {"all": (), "released-2dasl": (1081, 1798)}
"""Photos that are left out, 0-based in name order of the complete set. The script that scored
2DASL's released predictions drops two; a number on that subset is comparable with nothing else."""


@dataclass(frozen=True)
class NmeFlags:
    """What defines one NME number; two numbers are comparable only if all flags agree.

    Attributes:
        gt: "original" fits, "reannotated" 2D clicks (about 0.6 lower), or the clicks of AFLW.
        points: 68 all, 51 without the jaw (fairer across systems: the truth is a BFM fit), or 21.
        dims: 2, or 3 with w.
        pool: mean of the three bin means, or mean over images.
        z_align: origin of w when `dims` is 3; "min" is the published code, "mean" is lower.
        subset: which photos, see `SUBSETS`.
    """

    gt: Truth = "original"
    points: PointSet = 68
    dims: Literal[2, 3] = 2
    pool: Pool = "bins"
    z_align: DepthAlignment = "none"
    subset: Subset = "all"


STANDARD_FLAGS = (
    NmeFlags(),
    NmeFlags(points=51),
    NmeFlags(pool="images"),
    NmeFlags(points=51, pool="images"),
    NmeFlags(gt="reannotated"),
    NmeFlags(gt="reannotated", points=51),
    NmeFlags(gt="reannotated", pool="images"),
    NmeFlags(gt="reannotated", points=51, pool="images"),
    NmeFlags(gt="aflw21", points=21),
    NmeFlags(gt="aflw21", points=21, pool="images"),
    NmeFlags(dims=3, z_align="min"),
    NmeFlags(dims=3, z_align="min", pool="images"),
    NmeFlags(dims=3, z_align="mean"),
    NmeFlags(points=51, dims=3, z_align="min"),
    NmeFlags(points=51, dims=3, z_align="mean"),
)
PER_IMAGE = {
    NmeFlags(): "nme_68",
    NmeFlags(points=51): "nme_51",
    NmeFlags(gt="reannotated"): "nme_68_reannotated",
}
"""Numbers whose errors per image are kept, with their keys in "per_image"."""


def score_aflw2000(
    data: Aflw2000,
    predictions: Predictions,
    *,
    subset: Subset = "all",
    per_image: bool = True,
    dense: DenseCase | None = None,
) -> dict[str, Any]:
    """All numbers of the protocol as plain, JSON-ready values.

    Args:
        data: the labels.
        predictions: of any system, in any order; an image they do not mention is a miss.
        subset: key of `SUBSETS`.
        per_image: also give the errors of single images (`metrics.unpacked` reads them).
        dense: dense predictions and the face model of the dense truth, if they are to be scored.

    Returns:
        "images", "misses" (total and by bin), "numbers": a list with one entry per metric, each
        holding its `flags`, `value`, `bins`, `ci95` (bootstrap over images) and, where faces were
        missed, `value_found_only`. A number that the data or the system cannot give (no depth,
        no re-annotation) is listed under "not_scored" with the reason; "checks" holds suspicions
        about the predictions (`evaluation.checks`), "per_image" bins and errors in name order.

    Raises:
        UserError: an unknown subset, a subset of data that are not the complete set, or
            predictions that name none of the images.
    """
    data = chosen(data, subset)
    predictions = matched(predictions, data.names)
    bins = metrics.yaw_bins(data.bin_yaw_deg)
    numbers, not_scored, errors = _nme_entries(data, predictions, bins, subset)
    numbers += list(_pose_entries(data, predictions, bins))
    result = {
        "images": len(data),
        "images_by_bin": _by_bin(np.ones(len(data), bool), bins),
        "misses": {
            "total": int((~predictions.found).sum()),
            "by_bin": _by_bin(~predictions.found, bins),
            "scored_as": "centre of true box",
        },
        "official_boxes": data.boxes_are_official,
        "numbers": numbers,
        "not_scored": not_scored,
        "checks": suspicions(
            predictions.landmarks68, data.landmarks68, predictions.found, data.boxes, _widths(data)
        ),
    }
    if dense is not None:
        result["dense"] = dense.score(data, bins)
    if per_image:
        result["per_image"] = {"bins": "".join(map(str, bins))} | errors
        result["per_image"] |= metrics.found_text(predictions.found)
    return result


def chosen(data: Aflw2000, subset: Subset) -> Aflw2000:
    """The photos of a subset.

    Raises:
        UserError: an unknown subset, or not the complete set of 2,000 photos.
    """
    if subset not in SUBSETS:
        raise UserError(f"unknown subset {subset!r}; valid: {', '.join(SUBSETS)}")
    dropped = SUBSETS[subset]
    if dropped and len(data) != COMPLETE:
        raise UserError(
            f"the subset {subset!r} is defined on the complete set of {COMPLETE:,} photos, and"
            f" there are {len(data)}"
        )
    return data.subset(np.setdiff1d(np.arange(len(data)), dropped)) if dropped else data


def _nme_entries(
    data: Aflw2000, predictions: Predictions, bins: ndarray, subset: Subset
) -> tuple[list[dict[str, Any]], list[dict[str, Any]], dict[str, str]]:
    """Numbers, what cannot be scored, and errors per image of the numbers that curves show."""
    numbers, not_scored, errors = [], [], {}
    for plain in STANDARD_FLAGS:
        flags = replace(plain, subset=subset)
        reason = _why_not(flags, data, predictions)
        if reason:
            not_scored.append({"metric": "nme_percent", "flags": asdict(flags), "reason": reason})
            continue
        values = nme_per_image(flags, data, predictions)
        numbers.append(_nme_entry(flags, values, predictions.found, bins))
        if plain in PER_IMAGE:
            errors[PER_IMAGE[plain]] = metrics.packed(values)
    return numbers, not_scored, errors


def _by_bin(mask: ndarray, bins: ndarray) -> dict[str, int]:
    return {name: int(mask[bins == k].sum()) for k, name in enumerate(metrics.BIN_NAMES)}


def _widths(data: Aflw2000) -> ndarray:
    """Widths (n,) of the photos in px: all of this data set are 450 px."""
    return np.full(len(data), float(PHOTO_PX))


def nme_per_image(flags: NmeFlags, data: Aflw2000, predictions: Predictions) -> Float[ndarray, "n"]:
    """NME (n,) in percent of each image; predictions must be in the order of the data.

    A missed face counts as if all its points lay at the centre of the true box. AFLW-21 points
    are those clicked; an image without any gives NaN.
    """
    truth68 = data.reannotated68 if flags.gt == "reannotated" else data.landmarks68
    if truth68 is None:
        raise ValueError("this copy of AFLW2000-3D has no re-annotated points")
    guess68 = metrics.score_misses(predictions.landmarks68, predictions.found, data.landmarks68)
    if flags.gt == "aflw21":
        truth, visible = data.landmarks21, data.visible21
        return metrics.nme_percent(_aflw21(guess68[..., :2]), truth, truth68, visible=visible)
    keep = slice(68 - flags.points, 68)
    return metrics.nme_percent(
        guess68[:, keep], truth68[:, keep], truth68, dims=flags.dims, z_align=flags.z_align
    )


def _aflw21(points68: ndarray) -> ndarray:
    """The 21 AFLW points (n, 21, 2) from 68; ears and chin correspond only loosely."""
    return convert(torch.from_numpy(points68), "ibug68-3d-bfm", "aflw21").numpy()


def _why_not(flags: NmeFlags, data: Aflw2000, predictions: Predictions) -> str:
    """Reason why a number cannot be computed, or an empty string."""
    if flags.gt == "reannotated" and data.reannotated68 is None:
        return "this copy of the data has no re-annotated points"
    if flags.dims == 3 and np.isnan(predictions.landmarks68[predictions.found][..., 2]).any():
        return "the predictions have no depth"
    return ""


def _nme_entry(flags: NmeFlags, values: ndarray, found: ndarray, bins: ndarray) -> dict[str, Any]:
    entry: dict[str, Any] = {"metric": "nme_percent"}
    entry["flags"] = asdict(flags) | {"misses": int((~found).sum())}
    entry |= metrics.summary(values, bins, flags.pool)
    if not found.all():
        found_only = np.where(found, values, np.nan)
        entry["value_found_only"] = metrics.rounded(metrics.pooled(found_only, bins, flags.pool))
    return entry


def _pose_entries(
    data: Aflw2000, predictions: Predictions, bins: ndarray
) -> Iterator[dict[str, Any]]:
    """Mean absolute Euler errors, in the order of the data set, and the geodesic angle.

    A missed face counts as frontal. "left_out" tells how many photos the rule about angles drops.
    """
    if np.isnan(predictions.pose_deg[predictions.found]).any():
        return
    guess = np.where(predictions.found[:, None], predictions.pose_deg, 0.0)
    guess_r, true_r = (rotation_from_euler_deg(torch.from_numpy(p)) for p in (guess, data.pose_deg))
    guess, truth = (euler_deg_from_rotation(r, "XYZ").numpy() for r in (guess_r, true_r))
    errors = metrics.euler_errors_deg(guess, truth)
    columns = {
        "pitch_error_deg": errors[:, 0],
        "yaw_error_deg": errors[:, 1],
        "roll_error_deg": errors[:, 2],
        "mean_euler_error_deg": errors.mean(axis=1),
        "geodesic_error_deg": metrics.geodesic_deg(guess_r.numpy(), true_r.numpy()),
    }
    limited = (np.abs(truth) <= POSE_LIMIT_DEG).all(axis=1)
    for images, mask in (("angles <= 99", limited), ("all", np.ones_like(limited))):
        for metric, values in columns.items():
            flags = {"images": images, "pool": "images", "misses": "scored as frontal"}
            kept = np.where(mask, values, np.nan)
            entry = {"metric": metric, "flags": flags, "left_out": int((~mask).sum())}
            yield entry | metrics.summary(kept, bins, "images")
