"""What a run tells while it goes: `metrics.jsonl`, a progress bar, where its weights come from."""

from __future__ import annotations

import json
import logging
import math
import subprocess
import sys
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lifemask.assets import UserError

logger = logging.getLogger(__name__)
METRICS = "metrics.jsonl"
HELD_OUT = "held_out/"
SPEED = ("crops_per_s", "waited")
PACKAGES = ("lifemask", "torch", "lightning", "numpy", "numba", "safetensors")


class RunLog:
    """Means of the losses every few steps, metrics of evaluations, a bar.

    Losses stay on their device until a line is written: reading them at every step would make a
    GPU wait for the program.

    Args:
        folder: of the run; rows of steps after `first` (from before a kill) are dropped.
        first: step at which this process begins.
        steps: of the whole run.
        batch: items per step, for the speed.
        every: steps between lines.
        progress: draw a bar.
    """

    def __init__(
        self, folder: Path, first: int, steps: int, batch: int, every: int, progress: bool
    ) -> None:
        self._path = folder / METRICS
        self._batch, self._every = batch, every
        self._begin_line()
        self._drop_rows_after(first)
        self._bar = None
        if progress:
            self._bar = _bar()
            self._task = self._bar.add_task("train", total=steps, completed=first, note="")
            self._bar.start()

    def add(self, loss: Tensor, parts: Mapping[str, Tensor | float], share: float = 1.0) -> None:
        """Take in the loss of a batch, or of a `share` of one."""
        for name, value in {"loss": loss, **parts}.items():
            value = value.detach() if isinstance(value, Tensor) else value
            self._sums[name] = self._sums.get(name, 0.0) + value * share

    def step(self, done: int, waited_s: float) -> None:
        """Count a step that waited so long for its batch; a line is written every few steps."""
        self._count += 1
        self._waited += waited_s
        if self._bar is not None:
            self._bar.update(self._task, advance=1)
        if done % self._every == 0:
            self.flush(done)

    def flush(self, done: int) -> None:
        """Write the line of the steps since the last one, if there are any.

        Raises:
            UserError: the loss is not a finite number any more.
        """
        if self._count == 0:
            return
        seconds = max(time.monotonic() - self._since, 1e-9)
        rate = self._count * self._batch / seconds
        row = {k: round(float(v) / self._count, 5) for k, v in self._sums.items()}
        if not math.isfinite(row["loss"]):
            raise UserError(
                f"the loss is not finite in the steps up to {done}: lower optim.peak_rate; "
                "the last checkpoint is from before"
            )
        speed = (round(rate, 1), round(self._waited / seconds, 4))
        self._write({"step": done, **dict(zip(SPEED, speed, strict=True)), **row})
        if self._bar is not None:
            self._bar.update(self._task, note=f"loss {row['loss']:.3f}, {rate:.0f} crops/s")
        self._begin_line()

    def metrics(self, done: int, metrics: Mapping[str, float]) -> None:
        """Write the metrics of an evaluation."""
        self._write({"step": done, **{f"{HELD_OUT}{k}": round(v, 5) for k, v in metrics.items()}})
        logger.info("step %d: %s", done, {k: round(v, 3) for k, v in metrics.items()})
        self._since = time.monotonic()

    def close(self) -> None:
        """Stop the bar."""
        if self._bar is not None:
            self._bar.stop()

    def _begin_line(self) -> None:
        self._sums: dict[str, Tensor | float] = {}
        self._count, self._waited, self._since = 0, 0.0, time.monotonic()

    def _drop_rows_after(self, first: int) -> None:
        if not self._path.is_file():
            return
        kept = [row for row in read_metrics(self._path.parent) if row["step"] <= first]
        temporary = self._path.with_name(f".{METRICS}.part")
        temporary.write_text("".join(json.dumps(row) + "\n" for row in kept), encoding="utf-8")
        temporary.replace(self._path)

    def _write(self, row: dict[str, float]) -> None:
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """The rows of a run's `metrics.jsonl`; a last line cut off by a kill is left out.

    Raises:
        UserError: the run has none.
    """
    path = run / METRICS
    if not path.is_file():
        raise UserError(f"{run} has no {METRICS}: it is no folder of a training run")
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            rows.append(json.loads(line))
        except ValueError:
            continue
    return rows


def provenance(seed: int) -> dict[str, Any]:
    """Where weights come from: command, commit, seed, time, versions, devices."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else ""
    return {
        "command": " ".join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "commit": git_commit(),
        "seed": seed,
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "versions": {name: _version(name) for name in PACKAGES},
        "gpu": gpu,
    }


def git_commit() -> str:
    """Hash of the commit that this package is checked out at, "" outside a repository."""
    folder = str(Path(__file__).parent)
    command = ["git", "-C", folder, "rev-parse", "--short=12", "HEAD"]
    try:
        result = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return result.stdout.strip()


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _bar() -> Any:
    from rich.console import Console
    from rich.progress import MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    return Progress(
        *Progress.get_default_columns()[:2],
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
        console=Console(stderr=True),
    )
