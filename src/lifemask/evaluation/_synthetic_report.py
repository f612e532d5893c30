"""Values per image to a JSON-ready report: means, intervals, groups, misses, what is not scored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Int
from numpy import ndarray

from lifemask.evaluation import metrics
from lifemask.evaluation._pooled import rounded

Key = tuple[str, tuple[tuple[str, Any], ...]]
"""A metric's name, with its unit, and the flags that define it."""

_COLOUR = ("albedo_rmse", "albedo_l1", "relight_psnr_db")
_NEVER_FILLED = (*_COLOUR, "detail_r", "detail_energy_ratio", "detail_cover")
_EXPECTED = {
    "rotation_error_deg": "no NAME.view.json with a rotation",
    "landmark_error_px": "no image points of set ict68 in NAME.view.json",
    "shape_mm": "meshes of another topology need the landmarks ict68",
    "albedo_rmse": "no NAME.albedo.npz",
}


def report(
    rows: Sequence[Mapping[Key, float]],
    found: Bool[ndarray, "n"],
    bins: Int[ndarray, "n"],
    tone: Sequence[str],
) -> dict[str, Any]:
    """The protocol's result.

    Args:
        rows: values of each image.
        found: images with a prediction.
        bins: yaw bin of each image.
        tone: tercile of the skin's luminance of each image.
    """
    keys = list(dict.fromkeys(key for row in rows for key in row))
    numbers = [_number(key, _column(rows, key), found, bins, tone) for key in keys]
    scored = {key[0] for key, n in zip(keys, numbers, strict=True) if n["images"]}
    return {
        "images": len(rows),
        "misses": {
            "total": int((~found).sum()),
            "by_bin": {n: int((~found)[bins == k].sum()) for k, n in enumerate(metrics.BIN_NAMES)},
            "scored_as": "frontal mean head; left out for detail, colour and light",
        },
        "numbers": numbers,
        "not_scored": [
            {"metric": metric, "flags": {}, "reason": reason}
            for metric, reason in _EXPECTED.items()
            if metric not in scored
        ],
    }


def value_of(result: Mapping[str, Any], metric: str, **flags: Any) -> float | None:
    """The value of the only number with these flags.

    Raises:
        KeyError: none or several have them.
    """
    hits = [
        n
        for n in result["numbers"]
        if n["metric"] == metric and flags.items() <= n["flags"].items()
    ]
    if len(hits) != 1:
        raise KeyError(f"{len(hits)} numbers are {metric} with {flags}")
    return hits[0]["value"]


def _column(rows: Sequence[Mapping[Key, float]], key: Key) -> ndarray:
    return np.array([row.get(key, np.nan) for row in rows], dtype=np.float64)


def _number(
    key: Key, values: ndarray, found: ndarray, bins: ndarray, tone: Sequence[str]
) -> dict[str, Any]:
    metric, flags = key
    values = np.where(np.isfinite(values), values, np.nan)
    if metric in _NEVER_FILLED:
        values = np.where(found, values, np.nan)
    kept = values[~np.isnan(values)]
    low, high = metrics.bootstrap_ci95(values, bins, "images")
    means = metrics.bin_means(values, bins)
    entry: dict[str, Any] = {
        "metric": metric,
        "flags": dict(flags) | {"pool": "images"},
        "value": rounded(metrics.pooled(values, bins, "images")),
        "ci95": [rounded(low), rounded(high)],
        "median": rounded(float(np.median(kept)) if len(kept) else np.nan),
        "bins": {n: rounded(float(m)) for n, m in zip(metrics.BIN_NAMES, means, strict=True)},
        "images": len(kept),
        "per_image": [rounded(float(v)) for v in values],
    }
    if metric in _COLOUR:
        labels = np.array(tone)
        entry["tones"] = {
            t: rounded(_mean(values[labels == t])) for t in ("dark", "medium", "light")
        }
    return entry


def _mean(values: ndarray) -> float:
    kept = values[~np.isnan(values)]
    return float(kept.mean()) if len(kept) else float("nan")
