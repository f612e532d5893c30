"""Run a committed recipe: the command line that all trainable networks share.

    python -m lifemask.training.run landmarker --recipe cpu --cache CACHE --run runs/landmarker

`lifemask train` does the same. The same command goes on with a run that was stopped or killed.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from lifemask.assets import UserError
from lifemask.evaluation.report import table
from lifemask.training.overrides import field_table, with_overrides
from lifemask.training.stop import Interrupted
from lifemask.training.trainable import (
    RECIPES,
    SIZES,
    Trainable,
    load_trainable,
    loop_config,
)

logger = logging.getLogger(__name__)
SHORTHANDS = {
    "steps": "optim.steps",
    "rate": "optim.peak_rate",
    "evaluate_every": "evaluate_every",
    "processes": "processes",
    "precision": "precision",
    "seed": "seed",
}
WARM_UP_STEPS, MEASURED_STEPS = 3, 20


def train_command(trainable: Trainable, arguments: Sequence[str] | None = None) -> None:
    """`lifemask train NETWORK ...`; prints only what was asked for, logs the rest.

    Raises:
        UserError: wrong settings or data.
        SystemExit: options that make no sense (2), or a signal ended the run in good order
            (128 + its number).
    """
    options = _parsed(trainable, arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    first_process = os.environ.get("LOCAL_RANK", "0") == "0"
    logging.getLogger("lifemask").setLevel(logging.INFO if first_process else logging.WARNING)
    if options.parent:
        stop_with_parent(options.parent)
    recipe = chosen_recipe(trainable, options)
    if recipe.threads:
        torch.set_num_threads(recipe.threads)
    if options.dry_run:
        text = dry_run(trainable, recipe, options)
        sys.stdout.write(text if first_process else "")
        return
    config = loop_config(
        recipe,
        options.run,
        seconds=options.seconds,
        keep=options.keep,
        nodes=options.nodes,
        progress=not options.no_progress,
    )
    try:
        trainable.run(recipe, options, config)
    except Interrupted as stopped:
        if stopped.first_process:
            logger.warning("%s", stopped)
        raise SystemExit(128 + stopped.number if stopped.first_process else 0) from None


def _parsed(trainable: Trainable, arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = create_parser(trainable)
    options = parser.parse_args(arguments)
    if options.run is None and not options.dry_run:
        parser.error("--run FOLDER is needed, except with --dry-run")
    return options


def create_parser(trainable: Trainable) -> argparse.ArgumentParser:
    """Options that all networks share, then the network's own."""
    parser = argparse.ArgumentParser(
        prog=f"lifemask train {trainable.name}",
        description=f"{trainable.summary} The same command goes on with a run that was stopped.",
    )
    add = parser.add_argument
    add("--recipe", choices=tuple(trainable.recipes), default="cpu", help="size of the run")
    add("--family", choices=("open", "research"), default="open", help="what it may learn from")
    add("--run", type=Path, metavar="FOLDER", help="folder of the run")
    add("--set", action="append", default=[], metavar="NAME=VALUE", help="change a setting")
    add("--fraction", type=float, default=1.0, help="shorten the whole schedule to this part")
    add("--seconds", type=float, default=0.0, help="stop (with a checkpoint) after so long")
    add("--keep", type=int, default=0, metavar="N", help="keep the N checkpoints before the last")
    add("--nodes", type=int, default=1, metavar="N", help="machines, started by torchrun or slurm")
    add("--dry-run", action="store_true", help="print settings and the time it would take")
    add("--no-progress", action="store_true", help="draw no bar")
    add("--parent", type=int, default=0, help=argparse.SUPPRESS)
    shorthands = parser.add_argument_group("in short")
    for name, full in SHORTHANDS.items():
        option = f"--{name.replace('_', '-')}"
        shorthands.add_argument(option, metavar="VALUE", help=f"for --set {full}=VALUE")
    trainable.add_options(parser.add_argument_group(f"data of the {trainable.name}"))
    return parser


def chosen_recipe(trainable: Trainable, options: argparse.Namespace) -> Any:
    """The recipe with the command line's changes: fraction, shorthands, then `--set` in order.

    Raises:
        UserError: an unknown setting or a wrong value.
    """
    recipe = trainable.recipes[options.recipe](options.family)
    if not 0 < options.fraction <= 1:
        raise UserError(f"--fraction {options.fraction} is not between 0 and 1")
    if options.fraction < 1:
        recipe = trainable.shorten(recipe, options.fraction)
    values = ((full, getattr(options, name)) for name, full in SHORTHANDS.items())
    changes = [f"{full}={value}" for full, value in values if value is not None]
    return with_overrides(recipe, [*changes, *options.set])


def dry_run(trainable: Trainable, recipe: Any, options: argparse.Namespace) -> str:
    """Settings as `--set` takes them, and the time of a run from its first steps."""
    clock = _StepClock()
    with tempfile.TemporaryDirectory() as folder:
        config = loop_config(
            recipe,
            Path(folder),
            stop_after=WARM_UP_STEPS + MEASURED_STEPS,
            evaluate_every=0,
            save_every=0,
            progress=False,
            on_step=clock,
        )
        trainable.run(recipe, options, config)
    lines = [f"{name} = {_spelt(value)}" for name, value in field_table(recipe).items()]
    return "\n".join([*lines, "", clock.estimate(recipe.optim), ""])


class _StepClock:
    """Times of finished steps."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def __call__(self, done: int) -> None:
        self.times.append(time.perf_counter())

    def estimate(self, optim: Any) -> str:
        """One line; the first steps, which compile and fill caches, do not count."""
        times = self.times[WARM_UP_STEPS - 1 :]
        if len(times) < 2:
            return "too few steps to measure"
        each = (times[-1] - times[0]) / (len(times) - 1)
        return (
            f"{optim.steps} steps of {optim.batch} at {each * 1000:.0f} ms "
            f"({optim.batch / each:.0f} items/s, {len(times) - 1} steps measured): about "
            f"{duration(each * optim.steps)}, evaluations not counted"
        )


def duration(seconds: float) -> str:
    """A time in words: "50 s", "12 min", "3 h 20 min"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


def _spelt(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple | list) else str(value)


def list_text() -> str:
    """A table of everything that can be trained, with its recipes."""
    rows = []
    for name in RECIPES:
        trainable = load_trainable(name)
        for size in SIZES:
            if size not in trainable.recipes:
                continue
            recipe = trainable.recipes[size]("open")
            optim = recipe.optim
            where = f"{recipe.processes} x {recipe.device}, {recipe.precision}"
            rows.append([name, size, f"{optim.steps:,} x {optim.batch}", where])
    lines = table(["network", "recipe", "steps x batch", "processes"], rows)
    summaries = [f"{name}: {load_trainable(name).summary}" for name in RECIPES]
    return "\n".join([*lines, "", *summaries]) + "\n"


def stop_with_parent(parent: int, period_s: float = 1.0) -> None:
    """End this run in good order (as by SIGTERM) once its parent is gone."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(period_s)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="parent watch", daemon=True).start()


def final_metrics(run: Path, steps: int) -> dict[str, float] | None:
    """Held-out metrics of a run that has reached its last step; None if it has not."""
    path = run / "checkpoint.json"
    if not path.is_file():
        return None
    state = json.loads(path.read_text(encoding="utf-8"))
    return state["metrics"] if state["step"] >= steps else None


def main(arguments: Sequence[str] | None = None) -> None:
    """`NETWORK ...`: the first argument names the network."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if not given:
        raise UserError(f"name a network: {', '.join(RECIPES)}")
    train_command(load_trainable(given[0]), given[1:])


if __name__ == "__main__":
    try:
        main()
    except UserError as problem:
        sys.exit(f"error: {problem}")
