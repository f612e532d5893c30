"""The AFLW-21 protocol: 21 clicked points, only those that are visible, of crops of 120 px.

68 predicted points become 21 by the table of `facemodel.landmarks` (one point or several's mean).
The normaliser is `sqrt(w h)` of the *68-point* truth where the layout has one (3DDFA's extended
AFLW). Our own crops have none: there it is the crop's side over sqrt(2), the longer side of the box
from which 3DDFA's rule makes the crop. That is a little larger than `sqrt(w h)`, so those numbers
are lower than published ones and must not be compared with them: the flag says which.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray

from lifemask.data.aflw21 import CROP_PX, Aflw21Test
from lifemask.evaluation import metrics
from lifemask.evaluation.checks import gross_suspicions
from lifemask.evaluation.predictions import Predictions, matched
from lifemask.facemodel.landmarks import MAP18_FROM_AFLW21, convert

Normaliser = Literal["68-point box", "crop side / sqrt 2"]
POINT_SETS: dict[str, tuple[int, ...]] = {
    "21": tuple(range(21)),
    "18": MAP18_FROM_AFLW21,
}
"""All points; and those without ears and chin, whose places on a face are loosely defined."""


def score_aflw21(
    data: Aflw21Test, predictions: Predictions, *, per_image: bool = True
) -> dict[str, Any]:
    """NME over visible points, in percent, with and without ears and chin.

    Returns:
        As `evaluation.aflw2000.score_aflw2000`: "images", "misses", "numbers" with flags `points`,
        `normaliser`, `pool`, `visible_only` and `misses`, "checks" and "per_image".

    Raises:
        UserError: the predictions name none of the crops.
    """
    predictions = matched(predictions, data.names)
    bins = metrics.yaw_bins(data.bin_yaw_deg)
    missed = ~predictions.found
    numbers, errors = [], {}
    for name in POINT_SETS:
        values = nme_per_image(name, data, predictions)
        errors[f"nme_{name}"] = metrics.packed(values)
        for pool in ("bins", "images"):
            flags = {"gt": "aflw21", "points": int(name), "dims": 2, "pool": pool}
            flags |= {"normaliser": normaliser_name(data), "visible_only": True}
            entry = {"metric": "nme_percent", "flags": flags | {"misses": int(missed.sum())}}
            entry |= metrics.summary(values, bins, pool)
            if missed.any():
                found_only = np.where(missed, np.nan, values)
                entry["value_found_only"] = metrics.rounded(metrics.pooled(found_only, bins, pool))
            numbers.append(entry)
    result = {
        "layout": data.layout,
        "images": len(data),
        "images_by_bin": {n: int((bins == k).sum()) for k, n in enumerate(metrics.BIN_NAMES)},
        "misses": {"total": int(missed.sum()), "scored_as": "centre of true box"},
        "numbers": numbers,
        "not_scored": [],
        "checks": _checks(data, predictions),
    }
    if per_image:
        result["per_image"] = {"bins": "".join(map(str, bins))} | errors
        result["per_image"] |= metrics.found_text(predictions.found)
    return result


def _checks(data: Aflw21Test, predictions: Predictions) -> list[dict[str, Any]]:
    """What the median error would be if a known mistake were undone."""
    found = predictions.found
    if not found.any():
        return []

    def error(points68: ndarray) -> float:
        points = predictions.landmarks68.copy()
        points[found] = points68
        values = nme_per_image("18", data, replace(predictions, landmarks68=points))
        return float(np.nanmedian(values[found]))

    return gross_suspicions(predictions.landmarks68[found], error, data.boxes[found])


def nme_per_image(points: str, data: Aflw21Test, predictions: Predictions) -> Float[ndarray, "n"]:
    """NME (n,) in percent; a crop without a visible point of the set gives NaN.

    Args:
        points: key of `POINT_SETS`.
        data: the labels.
        predictions: in the order of the data.
    """
    chosen = list(POINT_SETS[points])
    low, high = _boxes(data)
    guess = convert(torch.from_numpy(predictions.landmarks68[..., :2]), "ict68", "aflw21").numpy()
    guess = np.where(predictions.found[:, None, None], guess, ((low + high) / 2)[:, None])[
        :, chosen
    ]
    visible = data.visible21[:, chosen]
    distance = np.linalg.norm(guess - data.landmarks21[:, chosen], axis=-1)
    count = visible.sum(axis=1)
    total = np.where(visible, distance, 0.0).sum(axis=1)
    mean = np.divide(total, count, out=np.full(len(total), np.nan), where=count > 0)
    return 100.0 * mean / normaliser_px(data)


def normaliser_px(data: Aflw21Test) -> Float[ndarray, "n"]:
    """What errors are divided by, (n,) crop px."""
    if data.landmarks68 is not None:
        return metrics.nme_normaliser_px(data.landmarks68)
    return np.full(len(data), CROP_PX / np.sqrt(2.0))


def normaliser_name(data: Aflw21Test) -> Normaliser:
    """The flag that says which normaliser a number has."""
    return "crop side / sqrt 2" if data.landmarks68 is None else "68-point box"


def _boxes(data: Aflw21Test) -> tuple[ndarray, ndarray]:
    """Corners (n, 2) of the true box, or of the crop."""
    if data.landmarks68 is not None:
        return data.landmarks68.min(axis=1), data.landmarks68.max(axis=1)
    boxes = data.boxes
    return boxes[:, :2], boxes[:, 2:]
