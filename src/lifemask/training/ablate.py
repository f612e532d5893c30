"""Which parts of a method help: every switch of its recipe, several seeds, one table.

    python -m lifemask.training.ablate landmarker --recipe cpu --cache CACHE --out ablations/open

`lifemask ablate` does the same. Each cell (a part taken away, a seed) is a `lifemask train` run of
its own, on a tenth of the cpu schedule or the whole gpu one; finished cells are skipped when the
command is given again, and one that was stopped goes on.
"""

from __future__ import annotations

import argparse
import logging
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from lifemask.assets import UserError
from lifemask.training.ablation_table import BASELINE, summary, write_tables
from lifemask.training.checkpoint import EARLIER, write_json
from lifemask.training.overrides import field_table
from lifemask.training.run import chosen_recipe, create_parser, final_metrics, train_command
from lifemask.training.run_log import git_commit
from lifemask.training.stop import Interrupted, StopWatch
from lifemask.training.trainable import RECIPES, Switch, Trainable, load_trainable

logger = logging.getLogger(__name__)
FRACTIONS = {"smoke": 1.0, "cpu": 0.1, "gpu": 1.0, "paper": 1.0}
RESULT = "result.json"


@dataclass(frozen=True)
class Plan:
    """An ablation.

    Attributes:
        method: its name for `lifemask train`.
        trainable: the method.
        switches: the parts to take away, one at a time.
        seeds: of the runs; with fewer than two nothing can be concluded.
        out: folder for the cells and the tables.
        arguments: of every cell, as `lifemask train` takes them: recipe, fraction, data, ...
        keep: keep the cells' checkpoints.
    """

    method: str
    trainable: Trainable
    switches: tuple[Switch, ...]
    seeds: tuple[int, ...]
    out: Path
    arguments: tuple[str, ...]
    keep: bool = False


@dataclass(frozen=True)
class Cell:
    """One run: what is taken away, by which settings, and the seed."""

    part: str
    overrides: tuple[str, ...]
    seed: int
    folder: Path


CellRuns = Generator[tuple[Cell, str], None, None]


def plan_cells(plan: Plan) -> list[Cell]:
    """All runs of an ablation; the baseline comes first, seed by seed."""
    parts = [(BASELINE, ()), *((s.name, s.overrides) for s in plan.switches)]
    return [
        Cell(part, overrides, seed, plan.out / _file_name(part) / f"seed-{seed}")
        for part, overrides in parts
        for seed in plan.seeds
    ]


def cell_arguments(plan: Plan, cell: Cell) -> list[str]:
    """The `lifemask train` arguments of a cell: one process, evaluated at the end only."""
    changes = ("processes=1", "evaluate_every=0", *cell.overrides, f"seed={cell.seed}")
    settings = [word for change in changes for word in ("--set", change)]
    return [*plan.arguments, *settings, "--run", str(cell.folder), "--no-progress"]


def ablate(plan: Plan, jobs: int = 1, progress: Callable[[int, int], None] | None = None) -> Any:
    """Run what is missing and write `ablation.json` and `ablation.md`.

    Args:
        plan: what to run.
        jobs: cells at a time; one runs in this process, several in processes of their own.
        progress: called with the finished and all cells.

    Returns:
        What `ablation.json` holds.

    Raises:
        UserError: the folder holds another ablation, or a run of the baseline fails.
        Interrupted: a signal came; the running cells are saved.
    """
    cells = plan_cells(plan)
    recipes = {cell: _recipe_of(plan, cell) for cell in cells}
    results = {cell: _finished(cell, recipes[cell]) for cell in cells}
    missing = [cell for cell in cells if results[cell] is None]
    report = progress or (lambda done, total: None)
    report(len(cells) - len(missing), len(cells))
    run_all = _run_here if jobs <= 1 else _run_in_processes
    with closing(run_all(plan, missing, jobs)) as runs:
        for cell, error in runs:
            if error and cell.part == BASELINE:
                raise UserError(f"the baseline with seed {cell.seed} failed: {error}")
            results[cell] = _settle(plan, cell, recipes[cell], error)
            report(sum(r is not None for r in results.values()), len(cells))
    found = {(c.part, c.seed): r for c, r in results.items() if r is not None}
    first = recipes[cells[0]]
    head = {
        "method": plan.method,
        "recipe": first.name,
        "family": first.family,
        "steps": first.optim.steps,
        "seeds": list(plan.seeds),
        "commit": git_commit(),
        "settings": _plain(field_table(first)),
    }
    select = field_table(first).get("select", "")
    table = head | summary(plan.switches, plan.seeds, found, select)
    write_tables(plan.out, table)
    return table


def _recipe_of(plan: Plan, cell: Cell) -> Any:
    options = create_parser(plan.trainable).parse_args(cell_arguments(plan, cell))
    return chosen_recipe(plan.trainable, options)


def _finished(cell: Cell, recipe: Any) -> dict[str, Any] | None:
    """The result of an earlier run of this cell, None if it has none yet."""
    import json

    path = cell.folder / RESULT
    if not path.is_file():
        return None
    result = json.loads(path.read_text(encoding="utf-8"))
    settings = _plain(field_table(recipe))
    if result["settings"] != settings:
        changed = [k for k, v in settings.items() if result["settings"].get(k) != v]
        raise UserError(
            f"{cell.folder} was run with another {', '.join(changed) or 'recipe'}: "
            "use a new --out folder"
        )
    return result


def _settle(plan: Plan, cell: Cell, recipe: Any, error: str) -> dict[str, Any]:
    """Store the result of a run that ended; a failed one is told, not stored."""
    metrics = None if error else final_metrics(cell.folder, plan.trainable.last_steps(recipe))
    if metrics is None:
        logger.warning("%s, seed %d failed: %s", cell.part, cell.seed, error or "no metrics")
        return {"error": error or "no metrics"}
    result = {
        "part": cell.part,
        "seed": cell.seed,
        "metrics": metrics,
        "command": ["lifemask", "train", plan.method, *cell_arguments(plan, cell)],
        "settings": _plain(field_table(recipe)),
    }
    write_json(cell.folder / RESULT, result)
    if not plan.keep:
        shutil.rmtree(cell.folder / EARLIER, ignore_errors=True)
        for path in cell.folder.glob("*.safetensors"):
            path.unlink()
    return result


def _run_here(plan: Plan, cells: Sequence[Cell], jobs: int) -> CellRuns:
    """Run cells one after another; yields each with its error, "" if it went well."""
    del jobs
    for cell in cells:
        try:
            train_command(plan.trainable, cell_arguments(plan, cell))
        except UserError as error:
            yield cell, str(error)
        else:
            yield cell, ""


def _run_in_processes(plan: Plan, cells: Sequence[Cell], jobs: int) -> CellRuns:
    """Run cells several at a time, each in a process that ends in good order with this one."""
    launcher = _Launcher(plan, jobs)
    with StopWatch() as stop, ThreadPoolExecutor(jobs) as pool:
        waiting: dict[Future[str], Cell] = {pool.submit(launcher.run, c): c for c in cells}
        try:
            while waiting:
                done, _ = wait(waiting, timeout=0.2, return_when=FIRST_COMPLETED)
                if stop.number:
                    message = f"stopped; the same command goes on with {plan.out}"
                    raise Interrupted(message, stop.number, True)
                for future in done:
                    yield waiting.pop(future), future.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
            launcher.end()


class _Launcher:
    """Starts cells in processes of their own, each on the GPU of its slot."""

    def __init__(self, plan: Plan, jobs: int) -> None:
        self._plan = plan
        self._slots: SimpleQueue[int] = SimpleQueue()
        for slot in range(jobs):
            self._slots.put(slot)
        self._running: dict[Cell, subprocess.Popen] = {}
        self._lock = threading.Lock()
        self._ended = False

    def run(self, cell: Cell) -> str:
        """Run a cell to its end; returns its error, "" if it went well."""
        slot = self._slots.get()
        cell.folder.mkdir(parents=True, exist_ok=True)
        log = cell.folder / "log.txt"
        try:
            with log.open("w", encoding="utf-8") as file:
                process = self._start(cell, slot, file)
                if process is None:
                    return "not started"
                code = process.wait()
        finally:
            self._running.pop(cell, None)
            self._slots.put(slot)
        if code == 0:
            return ""
        last = log.read_text(encoding="utf-8").strip().splitlines()[-1:]
        return f"exit code {code}, {''.join(last)} ({log})"

    def _start(self, cell: Cell, slot: int, file: Any) -> subprocess.Popen | None:
        command = [sys.executable, "-m", "lifemask.training.run", self._plan.method]
        command += [*cell_arguments(self._plan, cell), "--parent", str(os.getpid())]
        environment = _slot_environment(slot)
        with self._lock:
            if self._ended:
                return None
            # A session of its own: Ctrl-C reaches the cell once, through `end`, not twice.
            self._running[cell] = subprocess.Popen(
                command, stdout=file, stderr=file, env=environment, start_new_session=True
            )
            return self._running[cell]

    def end(self) -> None:
        """Start no more; ask running cells to save and stop, and wait for them."""
        with self._lock:
            self._ended = True
            processes = list(self._running.values())
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait()


def _slot_environment(slot: int) -> dict[str, str]:
    """The environment of the slot-th cell: on a machine with several GPUs they take turns."""
    import torch

    count = torch.cuda.device_count()
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = given.split(",") if given else [str(i) for i in range(count)]
    chosen = {"CUDA_VISIBLE_DEVICES": names[slot % count]} if count > 1 else {}
    return {**os.environ, **chosen}


def _file_name(part: str) -> str:
    return "".join(c if c.isalnum() else "-" for c in part.lower())


def _plain(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings as json gives them back."""
    return {k: list(v) if isinstance(v, tuple) else v for k, v in settings.items()}


def create_plan(method: str, options: argparse.Namespace, rest: Sequence[str]) -> Plan:
    """The plan that a command line asks for.

    Raises:
        UserError: an unknown method or switch, or the method has none.
    """
    trainable = load_trainable(method)
    own = [s for s in trainable.switches if options.family in s.families]
    if not own:
        raise UserError(f"{method} declares no switches for {options.family!r}")
    names = options.switch or [s.name for s in own]
    unknown = sorted(set(names) - {s.name for s in own})
    if unknown:
        valid = ", ".join(repr(s.name) for s in own)
        raise UserError(f"no switch {unknown[0]!r}; valid: {valid}")
    fraction = options.fraction or FRACTIONS[options.recipe]
    shared = ("--recipe", options.recipe, "--family", options.family, "--fraction", str(fraction))
    return Plan(
        method,
        trainable,
        tuple(s for s in own if s.name in names),
        tuple(range(options.seeds)),
        options.out,
        (*shared, *rest),
        options.keep,
    )


def ablate_command(method: str, arguments: Sequence[str] | None = None) -> None:
    """`lifemask ablate METHOD ...`; options it does not know go to every `lifemask train`.

    Raises:
        UserError: wrong settings or data.
        SystemExit: wrong options, or a signal (128 + its number).
    """
    options, rest = _parser(method).parse_known_args(arguments)
    if options.list:
        sys.stdout.write(switches_text(load_trainable(method)))
        return
    plan = create_plan(method, options, rest)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    bar = _Bar(method)
    try:
        table = ablate(plan, options.jobs, bar)
    except Interrupted as stopped:
        logger.warning("%s", stopped)
        raise SystemExit(128 + stopped.number) from None
    finally:
        bar.close()
    sys.stdout.write("\n".join([*table["markdown"], ""]))


def switches_text(trainable: Trainable) -> str:
    """What a method's ablation takes away, one line each."""
    return "".join(
        f"{s.name}: {' '.join(s.overrides)} -> {s.metric or 'selection metric'} {s.expected} "
        f"({', '.join(s.families)})\n"
        for s in trainable.switches
    )


def _parser(method: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=f"lifemask ablate {method}",
        description="Train a method without each of its parts, with several seeds, and compare. "
        "Other options (data, --set, ...) are those of lifemask train.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--recipe", choices=tuple(FRACTIONS), default="cpu")
    add("--family", choices=("open", "research"), default="open")
    add("--fraction", type=float, help="of the recipe's schedule; cpu 0.1, others 1")
    add("--seeds", type=int, default=3, help="runs of each cell")
    add("--jobs", type=int, default=1, help="cells at a time")
    add("--switch", action="append", help="take only this part away; may be repeated")
    add("--out", type=Path, default=Path("ablations") / method, help="folder of the tables")
    add("--keep", action="store_true", help="keep the checkpoints of the cells")
    add("--list", action="store_true", help="tell what would be taken away")
    return parser


class _Bar:
    """Progress over cells on a terminal."""

    def __init__(self, name: str) -> None:
        from rich.console import Console
        from rich.progress import MofNCompleteColumn, Progress, TimeElapsedColumn

        console = Console(stderr=True)
        columns = (*Progress.get_default_columns()[:2], MofNCompleteColumn(), TimeElapsedColumn())
        self._bar = Progress(*columns, console=console, disable=not console.is_terminal)
        self._task = self._bar.add_task(name)
        self._bar.start()

    def __call__(self, done: int, total: int) -> None:
        self._bar.update(self._task, completed=done, total=total)

    def close(self) -> None:
        self._bar.stop()


def main(arguments: Sequence[str] | None = None) -> None:
    """`METHOD ...`: the first argument names the method."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if not given:
        raise UserError(f"name a method: {', '.join(RECIPES)}")
    ablate_command(given[0], given[1:])


if __name__ == "__main__":
    try:
        main()
    except UserError as problem:
        sys.exit(f"error: {problem}")
