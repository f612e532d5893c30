"""Landmarks on YouTube-Faces frames of people never trained on, against automatic points.

The truth is itself predicted and noisy: a number here ranks systems roughly and says nothing about
tenths. Frames of one person look alike, so the interval resamples people, not frames.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from lifemask.data.ytf68 import Ytf68Test
from lifemask.evaluation import metrics
from lifemask.evaluation.checks import suspicions
from lifemask.evaluation.predictions import Predictions, matched


def score_ytf68(
    data: Ytf68Test, predictions: Predictions, *, per_image: bool = True
) -> dict[str, Any]:
    """NME in percent over 68 points and over the inner 51, mean over frames.

    Returns:
        "images", "people", "misses", "numbers" with flags, "checks" and "per_image".

    Raises:
        UserError: the predictions name none of the frames.
    """
    predictions = matched(predictions, data.names)
    missed = ~predictions.found
    guess = metrics.score_misses(predictions.landmarks68, predictions.found, data.landmarks68)
    numbers, errors = [], {}
    for points in (68, 51):
        keep = slice(68 - points, 68)
        truth = data.landmarks68
        values = metrics.nme_percent(guess[:, keep, :2], truth[:, keep], truth)
        errors[f"nme_{points}"] = metrics.packed(values)
        flags = {"gt": "automatic", "points": points, "dims": 2, "pool": "images"}
        numbers.append(
            {
                "metric": "nme_percent",
                "flags": flags | {"interval": "people", "misses": int(missed.sum())},
                "value": metrics.rounded(float(values.mean())),
                "ci95": [metrics.rounded(v) for v in people_ci95(values, data.person)],
                "images": len(data),
            }
        )
    result = {
        "images": len(data),
        "people": len(np.unique(data.person)),
        "misses": {"total": int(missed.sum()), "scored_as": "centre of true box"},
        "numbers": numbers,
        "not_scored": [],
        "checks": suspicions(
            predictions.landmarks68, data.landmarks68, predictions.found, data.boxes
        ),
    }
    kept = errors | metrics.found_text(predictions.found)
    return result | ({"per_image": kept} if per_image else {})


def people_ci95(
    values: Float[ndarray, "n"], person: ndarray, *, samples: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """95 % interval of the mean over frames when people are drawn again, with all their frames."""
    _, group = np.unique(person, return_inverse=True)
    total, count = np.bincount(group, values), np.bincount(group)
    drawn = np.random.default_rng(seed).integers(0, len(total), (samples, len(total)))
    means = total[drawn].sum(axis=1) / count[drawn].sum(axis=1)
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)
