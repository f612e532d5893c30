"""Where faces fold: lines on the mean head by landmark, and which expressions deepen each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.float64]
SIDES = (("Right", -1.0), ("Left", 1.0))
"""The person's own right lies at negative x."""


@dataclass(frozen=True)
class FoldLine:
    """A line along which skin folds.

    Attributes:
        name: e.g. "nasolabial Left".
        points_mm: (k, 2) x and y on the mean head, model frame; the surface gives z.
        drivers: expression name to weight; the fold's depth grows with their weighted maximum.
        width_mm: half width of the valley.
        depth: share of the configured depth of wrinkles at full activation.
        age: share of the configured depth of folds at full age.
    """

    name: str
    points_mm: Points
    drivers: dict[str, float]
    width_mm: float
    depth: float
    age: float


def fold_lines(landmarks68_mm: NDArray) -> list[FoldLine]:
    """All lines of a mean head.

    Args:
        landmarks68_mm: (68, 3) "ict68" of the mean head, model frame.
    """
    lm = np.asarray(landmarks68_mm, np.float64)[:, :2]
    lines = [*_forehead(lm), _chin_crease(lm), _nose_root(lm)]
    for side, sign in SIDES:
        place = _placer(lm, sign)
        lines += [
            *_crows_feet(place, side), *_under_eye(place, side), _frown_line(place, side),
            _nasolabial(place, side), *_bunny(place, side), _marionette(place, side),
        ]  # fmt: skip
    return lines


def _placer(lm: Points, sign: float) -> Callable[..., Points]:
    """(landmark on the person's right, dx outward, dy up) rows to points of one side."""
    twin: dict[int, int] = {
        21: 22, 36: 45, 39: 42, 41: 46, 40: 47, 31: 35, 48: 54, 27: 27, 28: 28,
    }  # fmt: skip

    def place(*rows: tuple[int, float, float]) -> Points:
        ids = [i if sign < 0 else twin[i] for i, _, _ in rows]
        return np.array([lm[i] + [sign * dx, dy] for i, (_, dx, dy) in zip(ids, rows, strict=True)])

    return place


def _forehead(lm: Points) -> list[FoldLine]:
    top = lm[[19, 24], 1].mean()
    x = np.linspace(-40, 40, 17)
    arch = 3.0 * np.cos(x / 40 * np.pi * 1.5)  # a dip in the middle, raised over each brow
    drivers = {"browInnerUp": 1.0, "browOuterUpLeft": 0.7, "browOuterUpRight": 0.7}
    return [
        FoldLine(f"forehead {k}", np.stack([x, top + 8 + 6.5 * k - arch], 1), drivers,
                 1.3, (0.7, 1.0, 0.85, 0.5)[k], (0.3, 0.5, 0.45, 0.3)[k])
        for k in range(4)
    ]  # fmt: skip


def _frown_line(place, side: str) -> FoldLine:
    points = place((21, -2, -3), (21, -3.5, 4), (21, -3, 11), (21, -2, 17))
    return FoldLine(f"frown {side}", points, {f"browDown{side}": 1.0, f"noseSneer{side}": 0.5},
                    1.2, 0.9, 0.5)  # fmt: skip


def _nose_root(lm: Points) -> FoldLine:
    x = np.linspace(-8, 8, 7)
    points = np.stack([x, lm[27, 1] + 1.5 + 0 * x], 1)
    drivers = {"browDownLeft": 0.8, "browDownRight": 0.8, "noseSneerLeft": 1, "noseSneerRight": 1}
    return FoldLine("nose root", points, drivers, 1.1, 0.7, 0.25)


def _crows_feet(place, side: str) -> list[FoldLine]:
    drivers = {f"cheekSquint{side}": 1.0, f"eyeSquint{side}": 1.0, f"mouthSmile{side}": 0.45,
               f"eyeBlink{side}": 0.2}  # fmt: skip
    rays = ((5, 7, 15, 15), (7, 2, 19, 4), (6, -3, 17, -8), (4, -7, 12, -16))
    return [
        FoldLine(f"crow's foot {k} {side}",
                 place((36, x0, y0), (36, (x0 + x1) / 2, (y0 + y1) / 2 + 0.8), (36, x1, y1)),
                 drivers, 0.8, (0.5, 0.8, 0.8, 0.5)[k], 0.45)
        for k, (x0, y0, x1, y1) in enumerate(rays)
    ]  # fmt: skip


def _under_eye(place, side: str) -> list[FoldLine]:
    drivers = {f"cheekSquint{side}": 1.0, f"eyeSquint{side}": 0.8, f"mouthSmile{side}": 0.35}
    upper = place((39, -1, -4), (40, 0, -5.5), (41, 0, -6), (36, -2, -6))
    lower = place((39, 0, -9), (40, 0, -12), (41, 0, -13), (36, -3, -13))
    return [
        FoldLine(f"lid crease {side}", upper, drivers, 0.9, 0.55, 0.35),
        FoldLine(f"tear trough {side}", lower, drivers, 2.2, 0.35, 0.8),
    ]


def _nasolabial(place, side: str) -> FoldLine:
    points = place((31, 4, 5), (31, 8, 0), (31, 12, -7), (48, 6, 9), (48, 9, 1), (48, 9, -5))
    drivers = {f"mouthSmile{side}": 1.0, f"noseSneer{side}": 0.7, f"cheekSquint{side}": 0.5,
               f"mouthUpperUp{side}": 0.7, f"mouthDimple{side}": 0.4}  # fmt: skip
    return FoldLine(f"nasolabial {side}", points, drivers, 2.4, 0.9, 1.0)


def _bunny(place, side: str) -> list[FoldLine]:
    drivers = {f"noseSneer{side}": 1.0, f"cheekSquint{side}": 0.2}
    rows = ((27, 4, -2, 9, 5), (28, 4.5, 0, 10, 5))
    return [
        FoldLine(f"bunny {k} {side}", place((i, x0, y0), (i, x1, y1)), drivers, 0.9, 0.6, 0.15)
        for k, (i, x0, y0, x1, y1) in enumerate(rows)
    ]


def _marionette(place, side: str) -> FoldLine:
    points = place((48, 2, -4), (48, 4, -10), (48, 4, -17), (48, 2, -23))
    drivers = {f"mouthFrown{side}": 1.0, f"mouthStretch{side}": 0.4, f"mouthLowerDown{side}": 0.2}
    return FoldLine(f"marionette {side}", points, drivers, 1.8, 0.5, 0.9)


def _chin_crease(lm: Points) -> FoldLine:
    x = np.linspace(-14, 14, 9)
    points = np.stack([x, lm[57, 1] - 8 - (x / 14) ** 2 * 2.5], 1)
    drivers = {"mouthShrugLower": 1.0, "mouthRollLower": 0.5, "mouthPucker": 0.3}
    return FoldLine("chin crease", points, drivers, 2.0, 0.7, 0.5)
