"""Statistics over all distances of all scans together, as NoW pools them, with intervals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy import ndarray

BIN_MM = 0.01
LIMIT_MM = 50.0
CURVE_MM = tuple(np.round(np.arange(0.0, 8.01, 0.25), 2).tolist())
STATISTICS = ("median", "mean", "std")


def pooled(distances: Sequence[Float[ndarray, "k"]]) -> dict[str, float]:
    """Median, mean and (population) standard deviation of all distances; NaN without any."""
    if not distances:
        return dict.fromkeys(STATISTICS, float("nan"))
    together = np.concatenate(distances).astype(np.float64)
    values = (np.median(together), together.mean(), together.std())
    return {name: float(value) for name, value in zip(STATISTICS, values, strict=True)}


def cumulative(distances: Sequence[Float[ndarray, "k"]]) -> dict[str, Any]:
    """Percentage of distances up to each of `CURVE_MM`."""
    together = np.sort(np.concatenate(distances)) if distances else np.zeros(0)
    share = np.searchsorted(together, CURVE_MM, side="right") / max(len(together), 1)
    return {"mm": list(CURVE_MM), "percent": [round(100.0 * float(s), 3) for s in share]}


def pooled_ci95(
    distances: Sequence[Float[ndarray, "k"]], samples: int = 500, seed: int = 0
) -> dict[str, tuple[float, float]]:
    """95 % intervals of `pooled` under resampling of images; medians to within `BIN_MM`."""
    if not distances:
        return dict.fromkeys(STATISTICS, (float("nan"), float("nan")))
    edges = np.arange(0.0, LIMIT_MM + BIN_MM, BIN_MM)
    counts = np.stack([np.histogram(np.minimum(d, LIMIT_MM), edges)[0] for d in distances])
    sums = np.array([(len(d), d.sum(), (d.astype(np.float64) ** 2).sum()) for d in distances])
    n = len(distances)
    drawn = np.random.default_rng(seed).multinomial(n, np.full(n, 1.0 / n), samples)
    total, first, second = (drawn @ sums).T
    below = np.cumsum(drawn.astype(np.float64) @ counts, axis=1)
    middle = edges[(below < total[:, None] / 2).sum(axis=1)] + BIN_MM / 2
    mean = first / total
    rows = np.stack([middle, mean, np.sqrt(np.maximum(second / total - mean**2, 0.0))])
    low, high = np.percentile(rows, [2.5, 97.5], axis=1)
    return {n: (float(a), float(b)) for n, a, b in zip(STATISTICS, low, high, strict=True)}


def rounded(value: float, digits: int = 4) -> float | None:
    """The value for a JSON file: rounded, None for NaN."""
    return round(float(value), digits) if np.isfinite(value) else None
