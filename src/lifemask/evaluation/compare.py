"""Two systems on the same images: the difference of every number, with a paired interval."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy import ndarray

from lifemask.assets import UserError
from lifemask.evaluation import metrics
from lifemask.evaluation.readers import PointOptions
from lifemask.evaluation.score import score

_DEFAULTS = PointOptions()


def compare(
    protocol: str,
    data: str | Path,
    first: str | Path,
    second: str | Path,
    *,
    options: PointOptions = _DEFAULTS,
) -> dict[str, Any]:
    """First minus second for every error that the protocol keeps per image.

    Args:
        protocol: key of `evaluation.score.PROTOCOLS` that scores points.
        data: folder of the data set.
        first: predictions of one system.
        second: predictions of the other.
        options: how both are read.

    Returns:
        "differences": one entry per error and pool with both values, their difference, its paired
        95 % interval, and whether that leaves out zero; where faces were missed, the same over the
        faces that both found; and where both predictions come from.

    Raises:
        UserError: as `score`, or a protocol that keeps no errors per image.
    """
    results = [score(protocol, data, path, options=options) for path in (first, second)]
    kept = [result.get("per_image") for result in results]
    if kept[0] is None or kept[1] is None:
        raise UserError(f"protocol {protocol!r} keeps no errors per image to compare")
    return {
        "protocol": protocol,
        "first": results[0]["predictions"],
        "second": results[1]["predictions"],
        "misses": [result["misses"]["total"] for result in results],
        "differences": _differences(kept[0], kept[1]),
    }


def _differences(first: dict[str, str], second: dict[str, str]) -> list[dict[str, Any]]:
    both = metrics.found_by_both(first, second)
    entries = []
    for metric in (key for key in first if key.startswith("nme") and key in second):
        a, b = metrics.unpacked(first[metric]), metrics.unpacked(second[metric])
        has_bins = "bins" in first
        bins = np.array([int(k) for k in first["bins"]]) if has_bins else np.zeros(len(a), int)
        for pool in ("bins", "images") if has_bins else ("images",):
            entries.append({"metric": metric, "faces": "all"} | _entry(a, b, bins, pool))
            if both is not None:
                kept = {"metric": metric, "faces": "found by both"}
                a_found, b_found = (np.where(both, v, np.nan) for v in (a, b))
                entries.append(kept | _entry(a_found, b_found, bins, pool))
    return entries


def _entry(a: ndarray, b: ndarray, bins: ndarray, pool: metrics.Pool) -> dict[str, Any]:
    found = metrics.paired_difference(a, b, bins, pool)
    return {
        "pool": pool,
        "first": metrics.rounded(metrics.pooled(a, bins, pool)),
        "second": metrics.rounded(metrics.pooled(b, bins, pool)),
        "difference": metrics.rounded(found.value),
        "ci95": [metrics.rounded(v) for v in found.ci95],
        "significant": found.significant,
        "images": found.images,
    }
