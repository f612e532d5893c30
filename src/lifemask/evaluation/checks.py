"""Suspicions about predictions: mirrored, flipped, counted from 1, depth in another unit.

Each check asks how the same predictions would score under one known mistake undone. Nothing is
ever corrected: a result carries the findings, and whoever made the predictions decides.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Bool, Float
from numpy import ndarray

from lifemask.evaluation import metrics
from lifemask.evaluation.align import align_depth
from lifemask.facemodel.landmarks import FLIP_68

CROP_PX = 120.0  # side of the crop that 3DDFA's networks see
_GROSS = 0.7  # a correction that leaves less than this share of the error is no accident
_INNER = slice(17, 68)  # the jaw is defined in many ways, the inner points in one
_MANY = 5  # fewer faces show no common shift


def suspicions(
    predicted68: Float[ndarray, "n 68 3"],
    truth68: Float[ndarray, "n 68 c"],
    found: Bool[ndarray, "n"],
    boxes: Float[ndarray, "n 4"],
    widths: Float[ndarray, "n"] | None = None,
) -> list[dict[str, Any]]:
    """What the numbers of a system look like under known mistakes.

    Args:
        predicted68: (n, 68, 3) photo px as scored; NaN in w where there is no depth.
        truth68: (n, 68, 2 or 3) photo px.
        found: (n,) faces that count here.
        boxes: (n, 4) the square crops in photo px, for mistakes made in the crop.
        widths: (n,) of the photos in px, for mistakes made in the photo; None skips those.

    Returns:
        One JSON-ready dict per check: "check", "suspicious", the numbers behind it, and for a
        suspicion a "message" that says what to try.
    """
    guess, truth = predicted68[found], truth68[found]
    if len(guess) == 0:
        return []
    boxes, widths = boxes[found], None if widths is None else widths[found]
    out = gross_suspicions(guess, lambda points: _median_nme(points, truth), boxes, widths)
    out += _shifts(guess, truth, boxes)
    if truth.shape[-1] == 3 and not np.isnan(guess[..., 2]).any():
        out += _depth(guess, truth, boxes)
    return out


def gross_suspicions(
    predicted68: Float[ndarray, "n 68 3"],
    error: Callable[[ndarray], float],
    boxes: Float[ndarray, "n 4"],
    widths: Float[ndarray, "n"] | None = None,
) -> list[dict[str, Any]]:
    """The part of `suspicions` that any measure of error can tell: mirrors, flips, crop px.

    Args:
        predicted68: (n, 68, 3) photo px.
        error: from points like those to one number, the median error over images.
        boxes: (n, 4) the square crops in photo px.
        widths: (n,) of the photos in px, or None.
    """
    now = error(predicted68)
    return [
        _entry(name, now, error(fixed), message)
        for name, fixed, message in _gross(predicted68, boxes, widths)
    ]


def _gross(
    guess: ndarray, boxes: ndarray, widths: ndarray | None
) -> list[tuple[str, ndarray, str]]:
    """(check, predictions with the mistake undone, advice) for mistakes that move points far."""
    flip = list(FLIP_68)
    middle = (boxes[:, :2] + boxes[:, 2:]) / 2
    in_crop, upside_down = guess.copy(), guess.copy()
    in_crop[..., 0] = 2 * middle[:, None, 0] - guess[..., 0]
    upside_down[..., 1] = 2 * middle[:, None, 1] - guess[..., 1]
    out = [
        (
            "left and right swapped",
            guess[:, flip],
            "points of the left and right side look exchanged: index 0 must be at image left",
        ),
        (
            "mirrored in the crop",
            in_crop[:, flip],
            "the crops look mirrored: mirror the points back and renumber them (FLIP_68)",
        ),
        (
            "upside down in the crop",
            upside_down,
            "v looks flipped: it must point down, as in v = 119 - y for a crop of 120 px",
        ),
        (
            "u and v swapped",
            np.concatenate([guess[..., 1::-1], guess[..., 2:]], axis=-1),
            "the coordinates look exchanged: u (right) must come first",
        ),
    ]
    if widths is not None:
        photo = guess.copy()
        photo[..., 0] = widths[:, None] - 1 - guess[..., 0]
        advice = "the photos look mirrored: mirror the points back and renumber them (FLIP_68)"
        out.append(("mirrored photo", photo[:, flip], advice))
    crop = guess.copy()
    scale = ((boxes[:, 2] - boxes[:, 0]) / CROP_PX)[:, None, None]
    crop[..., :2] = (guess[..., :2] + 0.5) * scale + boxes[:, None, :2]
    advice = "the points look like crop px: scale them by side / 120 and add the crop's corner"
    out.append(("left in crop px", crop, advice))
    return out


def _shifts(guess: ndarray, truth: ndarray, boxes: ndarray) -> list[dict[str, Any]]:
    """Common shifts: of one photo px (counting from 1) and of crop px (a wrong flip of y)."""
    residual = (guess[:, _INNER, :2] - truth[:, _INNER, :2]).mean(axis=1)
    scale = (boxes[:, 2:3] - boxes[:, :1]) / CROP_PX
    photo_px, crop_px = np.median(residual, axis=0), np.median(residual / scale, axis=0)
    enough = len(guess) >= _MANY
    one = enough and bool((np.abs(photo_px - 1.0) < 0.4).all())
    low = enough and abs(crop_px[0]) < 0.6 and 1.3 < crop_px[1] < 2.7
    shift = {"median_shift_px": _pair(photo_px), "median_shift_crop_px": _pair(crop_px)}
    first = {"check": "counted from 1", "suspicious": one} | shift
    if one:
        first["message"] = (
            "the points lie 1 px right of and below the truth: if the system counts pixels from 1,"
            " score with --one-based"
        )
    second = {"check": "y flipped as 121 - y", "suspicious": bool(low)} | shift
    if low:
        second["message"] = (
            "the points lie 2 crop px too low: 121 - y flips a crop of 120 px that counts from 0"
            " wrongly; it is 119 - y"
        )
    return [first, second]


def _depth(guess: ndarray, truth: ndarray, boxes: ndarray) -> list[dict[str, Any]]:
    """Depth with the wrong sign, or left in crop px."""
    scale = ((boxes[:, 2] - boxes[:, 0]) / CROP_PX)[:, None]
    true_w = align_depth(truth, "mean")[..., 2]
    mean_w = align_depth(guess, "mean")[..., 2]

    def error(w: ndarray) -> float:
        return float(np.median(np.abs(w - true_w).mean(axis=1)))

    now = error(mean_w)
    return [
        {"check": name, "suspicious": fixed < _GROSS * now, "depth_px": _round(now)}
        | {"corrected_px": _round(fixed)}
        | ({"message": advice} if fixed < _GROSS * now else {})
        for name, fixed, advice in (
            ("depth has the wrong sign", error(-mean_w), "w must be larger for nearer points"),
            (
                "depth left in crop px",
                error(mean_w * scale),
                "w looks unscaled: multiply it by side / 120, as u and v",
            ),
        )
    ]


def _entry(name: str, now: float, fixed: float, message: str) -> dict[str, Any]:
    suspicious = fixed < _GROSS * now
    entry = {"check": name, "suspicious": suspicious, "median_nme": _round(now)}
    entry["corrected_nme"] = _round(fixed)
    return entry | ({"message": message} if suspicious else {})


def _median_nme(guess: ndarray, truth68: ndarray) -> float:
    return float(np.median(metrics.nme_percent(guess[..., :2], truth68[..., :2], truth68)))


def _round(value: float) -> float | None:
    return round(value, 3) if math.isfinite(value) else None


def _pair(values: ndarray) -> list[float | None]:
    return [_round(float(v)) for v in values]
