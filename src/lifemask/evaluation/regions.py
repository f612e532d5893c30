"""Scores of region maps: confusion over pixels, IoU per class and its mean."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8
from numpy import ndarray

from lifemask.data.regions import IGNORE
from lifemask.types import REGION_NAMES

Confusion = Int[ndarray, "c c"]


def confusion_per_image(
    found: UInt8[ndarray, "n h w"], wanted: UInt8[ndarray, "n h w"], classes: int = 9
) -> Int[ndarray, "n c c"]:
    """Pixel counts (n, true class, found class) of each picture; `IGNORE` in `wanted` is left out.

    Raises:
        ValueError: shapes differ, or an id is no class.
    """
    if found.shape != wanted.shape:
        raise ValueError(f"maps of shapes {found.shape} and {wanted.shape} cannot be compared")
    counts = np.zeros((len(found), classes, classes), np.int64)
    for i, (one, true) in enumerate(zip(found, wanted, strict=True)):
        known = true != IGNORE
        pairs = true[known].astype(np.int64) * classes + one[known]
        if pairs.size and (one[known].max() >= classes or true[known].max() >= classes):
            raise ValueError(f"a region id of {classes} or more")
        counts[i] = np.bincount(pairs, minlength=classes**2).reshape(classes, classes)
    return counts


def intersection_over_union(confusion: Int[ndarray, "*b c c"]) -> Float[ndarray, "*b c"]:
    """IoU per class (*b, c) in [0, 1]; NaN for a class that is neither true nor found anywhere."""
    hit = np.diagonal(confusion, axis1=-2, axis2=-1).astype(float)
    union = confusion.sum(-1) + confusion.sum(-2) - hit
    return np.divide(hit, union, out=np.full(hit.shape, np.nan), where=union > 0)


def mean_iou(confusion: Int[ndarray, "*b c c"]) -> Float[ndarray, "*b"]:
    """Mean of the IoU over the classes that occur (true or found), (*b,) in [0, 1]."""
    return np.nanmean(intersection_over_union(confusion), axis=-1)


def mask_iou(found: Bool[ndarray, "*n"], wanted: Bool[ndarray, "*n"]) -> float:
    """IoU of two masks, pixels of all pictures together; NaN where neither has any."""
    union = int((found | wanted).sum())
    return int((found & wanted).sum()) / union if union else float("nan")


def score_regions(
    counts: Int[ndarray, "n c c"], flags: dict, resamples: int = 1000, seed: int = 0
) -> dict:
    """JSON-ready scores of a set: counts are summed over all pictures before IoU is taken.

    Args:
        counts: `confusion_per_image` of every picture.
        flags: what defines the numbers (data, crop, size, ...).
        resamples: of the bootstrap over pictures, for the 95 % interval of the mean.
        seed: of the bootstrap.

    Returns:
        {"images", "numbers": [{"metric", "flags", "value", "ci95", "images", "per_class",
        "absent"}]}; the mean leaves absent classes out and names them.
    """
    total = counts.sum(0)
    per_class = intersection_over_union(total)
    rng = np.random.default_rng(seed)
    draws = rng.integers(0, len(counts), (resamples, len(counts)))
    means = np.array([mean_iou(counts[d].sum(0)) for d in draws])
    low, high = np.percentile(means, (2.5, 97.5))
    number = {
        "metric": "mean IoU",
        "flags": {**flags, "classes": len(total), "summed": "confusion over images"},
        "value": round(float(mean_iou(total)), 4),
        "ci95": [round(float(low), 4), round(float(high), 4)],
        "images": len(counts),
        "pixel_accuracy": round(float(np.trace(total) / max(total.sum(), 1)), 4),
        "per_class": {
            name: round(float(v), 4)
            for name, v in zip(REGION_NAMES, per_class, strict=True)
            if np.isfinite(v)
        },
        "absent": [n for n, v in zip(REGION_NAMES, per_class, strict=True) if not np.isfinite(v)],
    }
    return {"images": len(counts), "numbers": [number]}
