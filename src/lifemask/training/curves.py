"""Learning curves of a run: charts beside its metrics, and a table for the log.

loss.svg       losses as trained (means between the lines of metrics.jsonl), logarithmic
held_out.svg   metrics of the averaged network on held-out data
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lifemask.assets import UserError
from lifemask.evaluation.charts import PALETTE, Series, line_chart
from lifemask.evaluation.report import table
from lifemask.training.run_log import HELD_OUT, SPEED, read_metrics

LOSS, METRICS = "loss.svg", "held_out.svg"


def save_curves(run: Path) -> list[Path]:
    """Draw the charts of a run into its folder; those without data yet are left out.

    Raises:
        UserError: the folder is not that of a run.
    """
    losses, metrics = _split(read_metrics(run))
    written = []
    for name, rows, label, scale in (
        (LOSS, losses, "loss", "log"),
        (METRICS, metrics, "held-out metric", "linear"),
    ):
        series = _series(rows, positive=scale == "log")
        if series:
            svg = line_chart(series, x_label="step", y_label=label, title=run.name, y_scale=scale)
            temporary = run / f".{name}.part"
            temporary.write_text(svg, encoding="utf-8")
            written.append(temporary.replace(run / name))
    return written


def curve_table(run: Path, rows: int = 12) -> str:
    """A markdown table of a run: held-out metrics and the training loss, thinned to some rows.

    Raises:
        UserError: the folder is not that of a run, or nothing was evaluated yet.
    """
    losses, metrics = _split(read_metrics(run))
    if not metrics:
        raise UserError(f"{run} has no evaluation yet")
    names = _shown(metrics, 6)
    stride = max(1, math.ceil(len(metrics) / rows))
    chosen = metrics[::-1][::stride][::-1]
    cells = [
        [str(row["step"]), _loss_before(losses, row["step"])]
        + [_number(row.get(name, math.nan)) for name in names]
        for row in chosen
    ]
    return "\n".join(table(["step", "loss", *names], cells))


def _split(rows: Sequence[Mapping[str, Any]]) -> tuple[list[dict], list[dict]]:
    """Rows of losses and rows of held-out metrics, names shortened."""
    losses, metrics = [], []
    for row in rows:
        held = {k.removeprefix(HELD_OUT): v for k, v in row.items() if k.startswith(HELD_OUT)}
        if held:
            metrics.append({"step": row["step"], **held})
        else:
            losses.append({k: v for k, v in row.items() if k not in SPEED})
    return losses, metrics


def _series(rows: list[dict], positive: bool) -> list[Series]:
    """One curve for each of the main quantities; on a logarithmic axis only what counts."""
    series = []
    for name in _shown(rows, len(PALETTE)):
        points = [(row["step"], row[name]) for row in rows if name in row]
        points = [(x, y) for x, y in points if math.isfinite(y) and (y > 0 or not positive)]
        if points and not (positive and max(y for _, y in points) < _least(rows)):
            steps, values = zip(*points, strict=True)
            series.append(Series(name, steps, values))
    return series


def _least(rows: list[dict]) -> float:
    """Terms that stay below this have no room in a chart: a hundredth of the last loss."""
    return 0.01 * max(rows[-1].get("loss", 0.0), 0.0)


def _shown(rows: list[dict], most: int) -> list[str]:
    """Names of the main quantities, in order: no parts of others ("set/class", "set_bin1")."""
    names = list(dict.fromkeys(name for row in rows for name in row if name != "step"))
    main = [name for name in names if "/" not in name and "_bin" not in name]
    return (main or names)[:most]


def _loss_before(losses: list[dict], step: int) -> str:
    values = [row["loss"] for row in losses if row["step"] <= step]
    return _number(values[-1]) if values else "-"


def _number(value: float) -> str:
    return f"{value:.4g}" if math.isfinite(value) else "-"
