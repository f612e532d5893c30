"""Charts for reports: curves with axes, ticks and a legend, as SVG text or PNG; no dependencies.

from lifemask.evaluation.charts import Series, line_chart, save_line_chart
svg = line_chart([Series("loss", steps, losses)], x_label="step", y_label="loss", title="Run")
save_line_chart("run.png", [...], x_label="step", y_label="loss", title="Run")
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy import ndarray

from lifemask.assets import UserError
from lifemask.evaluation.canvas import Canvas, Line, Words, text_width

Scale = Literal["linear", "log"]

PALETTE = (
    "#2f6db5",
    "#d9662b",
    "#2e9c6a",
    "#8a5cc2",
    "#c4315b",
    "#1b9cb4",
    "#b58b1a",
    "#6b7684",
)
"""Colours of the series in order; told apart also by most colour-blind readers."""

_INK, _SOFT, _GRID = "#333a45", "#69727f", "#e6e9ee"
_SMALL, _LABEL, _TITLE = 12.0, 13.0, 16.0
_LEGEND_ROW, _SWATCH = 20.0, 22.0


@dataclass(frozen=True)
class Series:
    """One curve.

    Attributes:
        name: what the legend says.
        x: n values.
        y: n values; NaN or infinite ones leave a gap.
        dashed: for references and published curves.
        color: "#rrggbb"; None takes the next of `PALETTE`.
        width: of the line in px; about 1 for noisy raw values beside a smoothed curve.
    """

    name: str
    x: Sequence[float] | ndarray
    y: Sequence[float] | ndarray
    dashed: bool = False
    color: str | None = None
    width: float = 2.2


@dataclass(frozen=True)
class Axis:
    """A scale between two values and the page positions where it begins and ends."""

    low: float
    high: float
    start_px: float
    end_px: float
    scale: Scale = "linear"

    def at(self, value: float | ndarray) -> ndarray:
        """Page position (px) of values; NaN where a logarithm has none."""
        low, high, v = self.low, self.high, np.asarray(value, dtype=np.float64)
        if self.scale == "log":
            low, high = math.log10(low), math.log10(high)
            v = np.log10(v, out=np.full_like(v, np.nan), where=v > 0)
        return self.start_px + (v - low) / (high - low) * (self.end_px - self.start_px)

    def ticks(self) -> list[float]:
        """Round values within the axis."""
        return nice_ticks(self.low, self.high, self.scale)


def line_chart(
    series: Sequence[Series] | Mapping[str, tuple[Sequence[float], Sequence[float]]],
    *,
    x_label: str,
    y_label: str,
    title: str,
    **options: Any,
) -> str:
    """Curves in one chart as an SVG document; `options` and errors are those of `line_canvas`."""
    return line_canvas(series, x_label=x_label, y_label=y_label, title=title, **options).svg()


def line_canvas(
    series: Sequence[Series] | Mapping[str, tuple[Sequence[float], Sequence[float]]],
    *,
    x_label: str,
    y_label: str,
    title: str,
    x_range: tuple[float, float] | None = None,
    y_range: tuple[float, float] | None = None,
    x_scale: Scale = "linear",
    y_scale: Scale = "linear",
    size: tuple[int, int] = (760, 440),
) -> Canvas:
    """The page of a line chart: frame and grid, then curves, then the legend at the right.

    Args:
        series: the curves, or a mapping from name to (x, y).
        x_label: quantity and unit.
        y_label: the same.
        title: one line above.
        x_range: values at the ends of the axis; None fits them to the data.
        y_range: the same; curves that leave it are drawn along the frame.
        x_scale: "log" leaves out values that are not positive.
        y_scale: the same.
        size: width and height of the page in px, legend included.

    Raises:
        ValueError: no series, x and y of different lengths, or nothing finite to draw.
    """
    curves = _as_series(series)
    xs, ys = (np.concatenate([np.asarray(getattr(s, k), float) for s in curves]) for k in "xy")
    shown = np.isfinite(xs) & np.isfinite(ys)
    x_ends = x_range or _fitted(xs[shown], x_scale, 0.0)
    if x_range:
        shown &= (xs >= x_range[0]) & (xs <= x_range[1])
    y_ends = y_range or _fitted(ys[shown], y_scale, 0.05)
    width, height = size
    legend = max(text_width(s.name, _SMALL) for s in curves) + _SWATCH + 22
    widest = max([text_width(tick_text(t), _SMALL) for t in nice_ticks(*y_ends, y_scale)] or [0])
    x_axis = Axis(*x_ends, 44 + widest, max(164 + widest, width - legend), x_scale)
    y_axis = Axis(*y_ends, height - 54.0, 52.0, y_scale)
    canvas = Canvas(width, height)
    _draw_frame(canvas, x_axis, y_axis, x_label, y_label, title)
    for curve, color in zip(curves, _colors(curves), strict=True):
        for points in _pieces(curve, x_axis, y_axis):
            canvas.add(Line(points, color, curve.width, 5.0 if curve.dashed else 0.0))
    _draw_legend(canvas, curves, x_axis.end_px + 14, y_axis.end_px + 8)
    return canvas


def cumulative_error_curve(
    errors: Mapping[str, Sequence[float] | ndarray],
    *,
    x_label: str = "NME, %",
    title: str = "Cumulative error",
    x_max: float = 10.0,
    statistic: Mapping[str, float] | None = None,
    size: tuple[int, int] = (760, 440),
) -> str:
    """Share of images whose error is at most x, for several systems, as an SVG document.

    Args:
        errors: system to its n errors. NaN and infinity count as failures: the curve ends below
            100 %; nothing is dropped.
        x_label: what is measured.
        title: one line above.
        x_max: right end of the axis; larger errors lie outside.
        statistic: number shown in the legend after a system's name; None shows the mean.
        size: of the page in px.
    """
    return cumulative_canvas(errors, x_label, title, x_max, statistic, size).svg()


def cumulative_canvas(
    errors: Mapping[str, Sequence[float] | ndarray],
    x_label: str = "NME, %",
    title: str = "Cumulative error",
    x_max: float = 10.0,
    statistic: Mapping[str, float] | None = None,
    size: tuple[int, int] = (760, 440),
) -> Canvas:
    """The page behind `cumulative_error_curve`, for `save_canvas`."""
    series = []
    for name, values in errors.items():
        x, y = cumulative_shares(np.asarray(values, dtype=np.float64), x_max)
        finite = np.asarray(values, dtype=np.float64)
        number = finite.mean() if statistic is None else statistic.get(name, math.nan)
        label = f"{name}  {number:.2f}" if math.isfinite(number) else name
        series.append(Series(label, x, 100.0 * y))
    return line_canvas(
        series,
        x_label=x_label,
        y_label="images, %",
        title=title,
        x_range=(0.0, x_max),
        y_range=(0.0, 100.0),
        size=size,
    )


def cumulative_shares(errors: ndarray, x_max: float, steps: int = 400) -> tuple[ndarray, ndarray]:
    """Points of the empirical distribution: x (steps + 1,) up to `x_max` and shares in [0, 1].

    Args:
        errors: (n,); NaN and infinity are never reached.
        x_max: last x.
        steps: number of intervals.
    """
    x = np.linspace(0.0, x_max, steps + 1)
    reached = np.sort(errors[np.isfinite(errors)])
    return x, np.searchsorted(reached, x, side="right") / max(len(errors), 1)


def save_canvas(path: str | Path, canvas: Canvas) -> Path:
    """Write a page as `.svg` or `.png` (twice its size); a reader never sees half a file.

    Raises:
        UserError: another ending, or the path cannot be written.
    """
    path = Path(path)
    if path.suffix not in (".svg", ".png"):
        raise UserError(f"charts are written as .svg or .png, not {path.suffix or path.name!r}")
    part = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".svg":
            part.write_text(canvas.svg(), encoding="utf-8")
        else:
            canvas.image().save(part, format="PNG", optimize=True)
        part.replace(path)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error
    return path


def nice_ticks(low: float, high: float, scale: Scale = "linear", count: int = 6) -> list[float]:
    """About `count` round values in [low, high]: steps of 1, 2 or 5 times a power of ten."""
    if scale == "log":
        return _log_ticks(low, high)
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(s * power for s in (1.0, 2.0, 5.0, 10.0) if s * power >= rough * (1 - 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [k * step for k in range(first, last + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for factors in ((1.0,), (1.0, 2.0, 5.0), tuple(float(k) for k in range(1, 10))):
        ticks = [f * 10.0**d for d in decades for f in factors]
        ticks = [t for t in ticks if low * (1 - 1e-9) <= t <= high * (1 + 1e-9)]
        if len(ticks) >= 3:
            return ticks if len(ticks) <= 10 else ticks[:: math.ceil(len(ticks) / 8)]
    return nice_ticks(low, high)


def _as_series(
    series: Sequence[Series] | Mapping[str, tuple[Sequence[float], Sequence[float]]],
) -> list[Series]:
    if isinstance(series, Mapping):
        series = [Series(name, x, y) for name, (x, y) in series.items()]
    if not series:
        raise ValueError("a chart needs at least one series")
    for curve in series:
        if len(curve.x) != len(curve.y):
            raise ValueError(f"series {curve.name!r} has {len(curve.x)} x and {len(curve.y)} y")
    return list(series)


def _fitted(values: ndarray, scale: Scale, margin: float) -> tuple[float, float]:
    """Ends of an axis that holds the values."""
    if scale == "log":
        values = values[values > 0]
    if values.size == 0:
        raise ValueError("a chart needs at least one finite point")
    low, high = float(values.min()), float(values.max())
    if scale == "log":
        return (low, high) if high > low else (low / 2, high * 2)
    if high == low:
        pad = abs(low) * 0.1 or 1.0
        return low - pad, high + pad
    pad = margin * (high - low)
    return (0.0 if 0 <= low <= pad else low - pad), high + pad


def tick_text(value: float) -> str:
    """A tick's label without needless zeros: 0.05, 20, 15k, 2M, 1e-4."""
    size = abs(value)
    if size and (size < 1e-3 or size >= 1e9):
        mantissa, power = f"{value:.6e}".split("e")
        return f"{mantissa.rstrip('0').rstrip('.')}e{int(power)}"
    for unit, letter in ((1e6, "M"), (1e3, "k")):
        if size >= 10 * unit or (letter == "M" and size >= unit):
            return f"{value / unit:.6g}{letter}"
    return f"{round(value, 10):.6g}"


def _draw_frame(canvas: Canvas, x: Axis, y: Axis, x_label: str, y_label: str, title: str) -> None:
    """Title, grid, ticks and the names of both axes."""
    middle_x, middle_y = (x.start_px + x.end_px) / 2, (y.start_px + y.end_px) / 2
    canvas.add(Words(title, (x.start_px, 30.0), _TITLE, _INK, bold=True))
    for tick in y.ticks():
        v = float(y.at(tick))
        canvas.add(Line(((x.start_px, v), (x.end_px, v)), _GRID))
        canvas.add(Words(tick_text(tick), (x.start_px - 8, v + 4), _SMALL, _SOFT, "end"))
    for tick in x.ticks():
        u = float(x.at(tick))
        canvas.add(Line(((u, y.start_px), (u, y.end_px)), _GRID))
        canvas.add(Words(tick_text(tick), (u, y.start_px + 18), _SMALL, _SOFT, "middle"))
    canvas.add(Line(((x.start_px, y.start_px), (x.end_px, y.start_px)), "#aab2bd", 1.2))
    canvas.add(Words(x_label, (middle_x, y.start_px + 40), _LABEL, _INK, "middle"))
    canvas.add(Words(y_label, (20.0, middle_y), _LABEL, _INK, "middle", upwards=True))


def _draw_legend(canvas: Canvas, curves: list[Series], left: float, top: float) -> None:
    for row, (curve, color) in enumerate(zip(curves, _colors(curves), strict=True)):
        v = top + row * _LEGEND_ROW
        canvas.add(
            Line(((left, v), (left + _SWATCH - 6, v)), color, 3.0, 4.0 if curve.dashed else 0.0),
            Words(curve.name, (left + _SWATCH, v + 4), _SMALL, _INK),
        )


def _colors(curves: list[Series]) -> list[str]:
    return [s.color or PALETTE[k % len(PALETTE)] for k, s in enumerate(curves)]


def _pieces(curve: Series, x: Axis, y: Axis) -> list[tuple[tuple[float, float], ...]]:
    """Runs of drawable points in page px, cut to the frame, thinned to what a screen can show."""
    u = x.at(np.asarray(curve.x, dtype=np.float64))
    v = y.at(np.asarray(curve.y, dtype=np.float64))
    good = np.isfinite(u) & np.isfinite(v) & (u >= x.start_px - 0.01) & (u <= x.end_px + 0.01)
    v = np.clip(np.nan_to_num(v), y.end_px, y.start_px)
    breaks = np.nonzero(~good)[0]
    runs = np.split(np.arange(len(u)), breaks)
    pieces = []
    for run in runs:
        run = run[good[run]]
        if len(run):
            pieces.append(_thinned(u[run], v[run]))
    return pieces


def _thinned(u: ndarray, v: ndarray) -> tuple[tuple[float, float], ...]:
    """First, lowest, highest and last point of each half pixel column: looks like all of them."""
    if len(u) == 1:
        return ((float(u[0]) - 1, float(v[0])), (float(u[0]) + 1, float(v[0])))
    if len(u) > 1000:
        column = np.round(u * 2).astype(int)
        keep: set[int] = set()
        for group in np.split(np.arange(len(u)), np.nonzero(np.diff(column))[0] + 1):
            low, high = int(group[v[group].argmin()]), int(group[v[group].argmax()])
            keep |= {int(group[0]), low, high, int(group[-1])}
        order = sorted(keep)
        u, v = u[order], v[order]
    return tuple((float(a), float(b)) for a, b in zip(u, v, strict=True))
