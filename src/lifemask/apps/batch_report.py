"""What `lifemask batch` tells: progress with an honest time left, the result, an estimate."""

from __future__ import annotations

import csv
import time
from collections import Counter
from typing import TYPE_CHECKING

import typer

from lifemask.batch.pace import Pace, duration_text, size_text

if TYPE_CHECKING:
    from lifemask.batch.estimate import Estimate
    from lifemask.batch.job import BatchJob
    from lifemask.batch.run import Status

LINE_EVERY_S = 60.0


class Display:
    """A bar on a terminal; elsewhere a line a minute. Speed and time left are those of lately."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

        self._console = Console(stderr=True)
        self._progress = Progress(
            TextColumn("photos"), BarColumn(), MofNCompleteColumn(),
            TextColumn("{task.fields[words]}"), console=self._console, transient=True,
            disable=not self._console.is_terminal,
        )  # fmt: skip
        self._task = self._progress.add_task("photos", total=None, words="starting")
        self._pace = Pace()
        self._status: Status | None = None
        self._told = 0.0

    def show(self, status: Status) -> None:
        """Where the run stands."""
        if self._status is None:
            self._told = time.monotonic()
        else:
            self._pace.add()
        self._status = status
        through = status.photos - status.left
        self._progress.update(
            self._task, total=status.photos, completed=through, words=self._speed()
        )
        if not self._console.is_terminal and time.monotonic() - self._told > LINE_EVERY_S:
            self._told = time.monotonic()
            typer.echo(self.words(), err=True)

    def words(self) -> str:
        """Where the run stands, in words."""
        status = self._status
        if status is None:
            return "nothing is done yet"
        return f"{status.photos - status.left:,} of {status.photos:,} photos, {self._speed()}"

    def _speed(self) -> str:
        status, rate = self._status, self._pace.per_second()
        if status is None or rate is None:
            return "starting"
        failed = f", {status.failed:,} failed" if status.failed else ""
        left = duration_text(self._pace.left_s(status.left))
        return f"{rate_text(rate)}, about {left} left{failed}"

    def __enter__(self) -> Display:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()


def rate_text(per_s: float) -> str:
    """A speed in photos: `2.1 photos/s`, `31 photos/min`."""
    return f"{per_s:.1f} photos/s" if per_s >= 1 else f"{60 * per_s:.1f} photos/min"


def tell_result(job: BatchJob, status: Status, workers: int) -> None:
    """The end of a run: what there is, how fast it went, and a table of failures."""
    from lifemask.apps.photos import LICENCE

    there = status.found_done + status.done
    typer.echo(f"{job.folder}: {there:,} of {status.photos:,} photos have heads")
    if status.done + status.failed:
        rate = rate_text((status.done + status.failed) / max(status.wall_s, 1e-3))
        each = f", {status.cpu_s / status.done:.2f} s of a core each" if status.done else ""
        typer.echo(
            f"this run: {status.heads:,} heads, {size_text(status.bytes)}, in"
            f" {duration_text(status.wall_s)} by {workers} worker{'s' * (workers > 1)}"
            f" ({rate}{each})"
        )
    else:
        typer.echo("nothing was left to do")
    if status.all_failed:
        _tell_failures(job)
    weights = job.config.weights
    typer.echo(f"weights: {weights} ({LICENCE[weights]})")


def _tell_failures(job: BatchJob) -> None:
    path = job.part("failures.csv")
    with path.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
        counts: Counter[str] = Counter()
        example: dict[str, str] = {}
        for row in csv.DictReader(file):
            counts[row["kind"]] += 1
            example.setdefault(row["kind"], f"{row['key']}: {row['message']}")
    typer.echo(f"{sum(counts.values()):,} failed:")
    for kind, count in counts.most_common():
        typer.echo(f"  {count:>7,}  {kind:<11} e.g. {_short(example[kind])}")
    typer.echo(f"all of them: {path}; --retry-failed tries them again")


def tell_estimate(found: Estimate, workers: int) -> None:
    """What a run would take."""
    from lifemask.batch.run import skipped_text

    listing, photos = found.listing, len(found.listing.items)
    notes = [skipped_text(listing.skipped)] if any(listing.skipped.values()) else []
    notes += [f"{listing.repeated:,} named more than once"] if listing.repeated else []
    typer.echo(f"photos: {photos:,}" + (f" ({'; '.join(notes)})" if notes else ""))
    typer.echo(
        f"done already: {found.found_done:,}; failed before: {found.found_failed:,};"
        f" to do: {found.todo:,}"
    )
    if found.photo_s is not None and found.photo_bytes is not None:
        core_s = found.photo_s * found.todo
        failed = [t for t in found.tried if not t.done]
        memory = f", {size_text(found.memory_bytes)} of memory" if found.memory_bytes else ""
        typer.echo(
            f"tried {len(found.tried)}: {found.photo_s:.2f} s of a core and"
            f" {size_text(found.photo_bytes)} per photo{memory}"
        )
        for outcome in failed:
            typer.echo(f"  failed: {_short(outcome.message)}")
        typer.echo(
            f"estimate: {duration_text(core_s / workers)} with {workers}"
            f" worker{'s' * (workers > 1)} ({core_s / 3600:,.1f} core hours),"
            f" {size_text(found.photo_bytes * found.todo)} of disk"
        )
    typer.echo("nothing was written")


def _short(text: str, width: int = 150) -> str:
    return text if len(text) <= width else f"{text[: width - 3]}..."
