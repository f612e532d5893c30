"""Means over meshes with their intervals, groups and misses, as plain numbers for a JSON file."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from lifemask.evaluation.metrics import bootstrap_ci95

EXCLUDED = "excluded, as published; read it with done_percent"


def mean_entry(
    metric: str,
    flags: Mapping[str, Any],
    values: Float[ndarray, "n"],
    groups: Mapping[str, Sequence[str]] | None = None,
) -> dict[str, Any]:
    """A mean over the meshes that have a value, and what share of all they are.

    Args:
        metric: its name, with the unit.
        flags: what defines the number.
        values: (n,), NaN where the prediction failed.
        groups: kind of group to the group of each of the n meshes, e.g. {"yaw": ("0-5", ...)}.
    """
    kept = values[~np.isnan(values)]
    low, high = bootstrap_ci95(values, np.zeros(len(values), int), "images")
    return {
        "metric": metric,
        "flags": dict(flags) | {"pool": "mean over meshes", "misses": EXCLUDED},
        "value": rounded(kept.mean() if len(kept) else math.nan),
        "std": rounded(kept.std() if len(kept) else math.nan),
        "ci95": [rounded(low), rounded(high)],
        "meshes": len(kept),
        "done_percent": rounded(100.0 * len(kept) / max(len(values), 1)),
        "groups": {kind: _by_group(values, of) for kind, of in (groups or {}).items()},
    }


def median_entry(
    metric: str, flags: Mapping[str, Any], values: Float[ndarray, "n"]
) -> dict[str, Any]:
    """The median error over all meshes, where a failure is larger than every error.

    A system cannot improve it by giving up; None when half or more failed.
    """
    filled = np.where(np.isnan(values), np.inf, values)
    return {
        "metric": metric,
        "flags": dict(flags) | {"pool": "median over meshes", "misses": "larger than every error"},
        "value": rounded(float(np.sort(filled)[len(filled) // 2])) if len(filled) else None,
        "meshes": len(filled),
    }


def per_item(names: Sequence[str], columns: Mapping[str, Float[ndarray, "n"]]) -> dict[str, Any]:
    """All values by mesh, None for a failure; for curves and for looking at single cases."""
    rows = {key: [rounded(v) for v in values] for key, values in columns.items()}
    return {"names": list(names)} | rows


def rounded(value: float, digits: int = 4) -> float | None:
    """The value for a JSON file; None for what JSON cannot hold."""
    return round(float(value), digits) if math.isfinite(value) else None


def _by_group(values: ndarray, group_of: Sequence[str]) -> dict[str, float | None]:
    """Mean of each group, in order of appearance."""
    labels = np.array(group_of)
    means = {}
    for label in dict.fromkeys(group_of):
        kept = values[(labels == label) & ~np.isnan(values)]
        means[label] = rounded(kept.mean() if len(kept) else math.nan)
    return means
