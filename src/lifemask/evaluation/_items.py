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
    rng = np.random.default_rng(0)
    drawn = filled[rng.integers(0, len(filled), (1000, len(filled)))]
    medians = np.sort(_middle(drawn))
    return {
        "metric": metric,
        "flags": dict(flags) | {"pool": "median over meshes", "misses": "larger than every error"},
        "value": rounded(float(_middle(filled))),
        "ci95": [rounded(medians[25]), rounded(medians[-26])],
        "meshes": len(filled),
    }


def check_entry(check: str, names: Sequence[str], message: str) -> dict[str, Any]:
    """A suspicion about predictions, in the form that reports and the command line print.

    Args:
        check: what is suspected.
        names: of the predictions that look so.
        message: what to try.
    """
    entry = {"check": check, "suspicious": bool(names), "meshes": list(names)}
    return entry | ({"message": f"{message} ({len(names)} meshes)"} if names else {})


INSIDE_OUT = "normals point inwards: mirrored, or faces in clockwise order"
NOT_CONVERGED = "the alignment stopped early: are frames, units and landmarks right?"


def per_item(names: Sequence[str], columns: Mapping[str, Float[ndarray, "n"]]) -> dict[str, Any]:
    """All values by mesh, None for a failure; for curves and for looking at single cases."""
    rows = {key: [rounded(v) for v in values] for key, values in columns.items()}
    return {"names": list(names)} | rows


def rounded(value: float, digits: int = 4) -> float | None:
    """The value for a JSON file; None for what JSON cannot hold."""
    return round(float(value), digits) if math.isfinite(value) else None


def _middle(values: Float[ndarray, "*b n"]) -> Float[ndarray, "*b"]:
    """The upper median; unlike the mean of two middle values it can be infinite and no NaN."""
    return np.sort(values, axis=-1)[..., values.shape[-1] // 2]


def _by_group(values: ndarray, group_of: Sequence[str]) -> dict[str, float | None]:
    """Mean of each group, in order of appearance."""
    labels = np.array(group_of)
    means = {}
    for label in dict.fromkeys(group_of):
        kept = values[(labels == label) & ~np.isnan(values)]
        means[label] = rounded(kept.mean() if len(kept) else math.nan)
    return means
