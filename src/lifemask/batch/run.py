"""A batch: photos to heads in a folder, each exactly once, however often it is interrupted."""

from __future__ import annotations

import csv
import io
import json
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from lifemask.assets import UserError
from lifemask.batch.crew import Crew
from lifemask.batch.job import JOURNAL, BatchJob, check, check_place, open_run
from lifemask.batch.journal import Journal, Ledger, Outcome, Sealed
from lifemask.batch.layouts import clear_staging, forget_staged, pack
from lifemask.batch.plan import Plan, ShardPlan, absorb_parts, make_plan, recorded
from lifemask.batch.sources import RUN_FILE, Item, Listing, find_photos
from lifemask.batch.work import PhotoWorker
from lifemask.data.shards import whole_file
from lifemask.pipeline_config import check_choice

Engine = Literal["local", "ray"]


@dataclass
class Status:
    """Where a run stands.

    Attributes:
        photos: that the sources hold.
        found_done: of them, had heads before this run.
        found_failed: failed before, and are not tried again.
        done: got heads in this run.
        failed: failed in this run.
        heads: written in this run.
        bytes: of them.
        cpu_s: seconds of one core that the photos of this run with heads took.
        wall_s: seconds of the clock.
        kinds: failures of this run by kind.
        last: the latest outcome.
    """

    photos: int
    found_done: int = 0
    found_failed: int = 0
    done: int = 0
    failed: int = 0
    heads: int = 0
    bytes: int = 0
    cpu_s: float = 0.0
    wall_s: float = 0.0
    kinds: Counter[str] = field(default_factory=Counter)
    last: Outcome | None = None

    @property
    def left(self) -> int:
        """Photos without an outcome."""
        return self.photos - self.found_done - self.found_failed - self.done - self.failed

    @property
    def all_failed(self) -> int:
        """Photos of the sources without heads, of this run and earlier ones."""
        return self.found_failed + self.failed

    def add(self, outcome: Outcome) -> None:
        """Count an outcome of this run."""
        self.last = outcome
        if not outcome.done:
            self.failed += 1
            self.kinds[outcome.kind] += 1
            return
        self.done += 1
        self.heads += outcome.heads
        self.bytes += outcome.bytes
        self.cpu_s += outcome.cpu_s


class Runner(Protocol):
    """Where photos are worked on: this machine, or a cluster."""

    def outcomes(self, items: Iterable[Item]) -> Iterator[Outcome]:
        """What becomes of photos, in any order."""
        ...

    def pack(self, job: BatchJob, shard: int, keys: list[str], done: list[str]) -> Future[Sealed]:
        """Begin to put a shard together."""
        ...


class LocalRunner:
    """Processes of this machine."""

    def __init__(self, job: BatchJob, workers: int) -> None:
        self._crew = Crew(job, workers)
        self._packer = ThreadPoolExecutor(1)  # it waits for the disk, not for the processor

    def outcomes(self, items: Iterable[Item]) -> Iterator[Outcome]:
        """What becomes of photos, in any order."""
        return self._crew.outcomes(items)

    def pack(self, job: BatchJob, shard: int, keys: list[str], done: list[str]) -> Future[Sealed]:
        """Begin to put a shard together."""
        return self._packer.submit(pack, job, shard, keys, done)

    def __enter__(self) -> LocalRunner:
        return self

    def __exit__(self, *_: object) -> None:
        self._crew.close()
        self._packer.shutdown(wait=True, cancel_futures=True)


class InlineRunner:
    """This process: nothing to start, and no protection from photos that crash it."""

    def __init__(self, job: BatchJob) -> None:
        self._job = job

    def outcomes(self, items: Iterable[Item]) -> Iterator[Outcome]:
        """What becomes of photos, in their order."""
        worker: PhotoWorker | None = None
        for item in items:
            worker = worker or PhotoWorker(self._job)
            yield worker(item)

    def pack(self, job: BatchJob, shard: int, keys: list[str], done: list[str]) -> Future[Sealed]:
        """Put a shard together."""
        future: Future[Sealed] = Future()
        future.set_result(pack(job, shard, keys, done))
        return future


def run_batch(
    job: BatchJob,
    sources: Sequence[str | Path],
    *,
    engine: Engine = "local",
    workers: int = 1,
    limit: int | None = None,
    retry_failed: bool = False,
    progress: Callable[[Status], object] = lambda status: None,
) -> Status:
    """Write the heads of all photos that have none yet.

    The folder then holds `heads/` or `shards/`, `failures.csv`, `summary.json`, `batch.json` (the
    settings) and `journal.jsonl` (what became of each photo). A photo that fails stops nothing. A
    run that is stopped, killed too, goes on with the next call.

    Args:
        job: what to do and where to.
        sources: as for `find_photos`.
        engine: "local" processes or a "ray" cluster.
        workers: processes or ray actors, a core each; local 0 works in this process.
        limit: only the first so many photos of the sources.
        retry_failed: try photos again that failed in an earlier run.
        progress: called before the first photo and after each.

    Raises:
        UserError: no photos; the folder holds something else, a run of other settings or one that
            is at work; weights are missing; the results cannot be written.
    """
    check_choice("engine", engine, ("local", "ray"))
    check(job)
    check_place(job)
    listing = None if job.part(RUN_FILE).exists() else list_photos(job, sources, {}, limit)
    with open_run(job) as header, Journal(job.part(JOURNAL)) as journal:
        absorb_parts(job, journal)
        ledger = recorded(job)
        listing = listing or list_photos(job, sources, ledger.keys, limit)
        plan = make_plan(job, listing.items, ledger, retry_failed)
        clear_staging(job, plan.staged)
        status = Status(len(listing.items), plan.found_done, plan.found_failed)
        began = time.monotonic()
        progress(status)
        if not plan.todo and not plan.shards and _is_told(job, status):
            return status
        try:
            for outcome in _work(job, _runner(engine, job, workers), plan, journal, ledger):
                status.add(outcome)
                status.wall_s = time.monotonic() - began
                progress(status)
        finally:
            status.wall_s = time.monotonic() - began
            write_failures(job.part("failures.csv"), ledger)
            how = {"engine": engine, "workers": workers}
            _write_summary(job, how, header["settings"], listing, ledger, status)
    return status


def list_photos(
    job: BatchJob, sources: Sequence[str | Path], known: dict[str, str], limit: int | None
) -> Listing:
    """The photos of the sources, at least one.

    Raises:
        UserError: there is none, and the message says what there is; or a source is wrong.
    """
    listing = find_photos(sources, known=known, leave_out=job.folder, limit=limit)
    if not listing.items:
        found = skipped_text(listing.skipped)
        raise UserError(f"no photos in {', '.join(map(str, sources))}{f' ({found})' * bool(found)}")
    return listing


def skipped_text(skipped: Counter[str]) -> str:
    """What was passed over, in words; "" for nothing."""
    counts = [f"{number:,} {what}" for what, number in skipped.most_common() if number]
    return f"passed over: {', '.join(counts)}" if counts else ""


def write_failures(path: Path, ledger: Ledger) -> None:
    """The table of photos without heads, sorted by key."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(("key", "source", "kind", "message"))
    for key in sorted(ledger.failed):
        outcome = ledger.failed[key]
        table.writerow((key, outcome.source, outcome.kind, outcome.message))
    with whole_file(path) as file:
        file.write(text.getvalue().encode("utf-8", "surrogateescape"))


def _work(
    job: BatchJob,
    runner: AbstractContextManager[Runner],
    plan: Plan,
    journal: Journal,
    ledger: Ledger,
) -> Iterator[Outcome]:
    """Outcomes, each in the journal; shards are put together as they become complete."""
    of_key = {key: shard for shard in plan.shards for key in shard.waiting}
    packing: list[Future[Sealed]] = []
    with runner as engine:
        for shard in plan.shards:
            if not shard.waiting:
                packing.append(_begin_pack(job, engine, shard, ledger))
        for outcome in engine.outcomes(plan.todo):
            journal.add(outcome)
            ledger.add(outcome)
            shard = of_key.pop(outcome.key, None)
            if shard is not None:
                shard.waiting.discard(outcome.key)
                if not shard.waiting:
                    packing.append(_begin_pack(job, engine, shard, ledger))
            packing = [f for f in packing if not (f.done() and _seal(job, f, journal, ledger))]
            yield outcome
        for future in packing:
            _seal(job, future, journal, ledger)
        journal.add(sync=True)
        absorb_parts(job, journal)
        clear_staging(job, plan.staged)


def _begin_pack(job: BatchJob, engine: Runner, shard: ShardPlan, ledger: Ledger) -> Future[Sealed]:
    keys = [item.key for item in shard.items]
    return engine.pack(job, shard.number, keys, [key for key in keys if key in ledger.done])


def _seal(job: BatchJob, future: Future[Sealed], journal: Journal, ledger: Ledger) -> bool:
    """Note a shard that is written, then remove what it was put together from."""
    sealed = future.result()
    journal.add(sealed, sync=True)
    ledger.add(sealed)
    forget_staged(job, sealed.keys)
    return True


@contextmanager
def _local(job: BatchJob, workers: int) -> Iterator[Runner]:
    with LocalRunner(job, workers) as runner:
        yield runner


def _runner(engine: Engine, job: BatchJob, workers: int) -> AbstractContextManager[Runner]:
    if engine == "local":
        return nullcontext(InlineRunner(job)) if workers == 0 else _local(job, workers)
    from lifemask.batch.on_ray import on_ray

    return on_ray(job, workers)


def _is_told(job: BatchJob, status: Status) -> bool:
    """Whether the summary says what there is; a run that was killed had no time to write it."""
    try:
        summary = json.loads(job.part("summary.json").read_text(encoding="utf-8"))
        told = summary["photos"], summary["photos_with_heads"], summary["photos_failed"]
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return told == (status.photos, status.found_done, status.found_failed)


def _write_summary(
    job: BatchJob,
    how: dict[str, Any],
    settings: dict[str, Any],
    listing: Listing,
    ledger: Ledger,
    status: Status,
) -> None:
    from lifemask import __version__

    through = status.done + status.failed
    run = {k: v for k, v in asdict(status).items() if k not in ("last", "kinds")}
    summary = {
        "format": "lifemask-batch-summary",
        "lifemask_version": __version__,
        "weights": job.config.weights,
        "complete": status.left == 0,
        "photos": status.photos,
        "photos_with_heads": status.found_done + status.done,
        "photos_failed": status.all_failed,
        "heads": ledger.heads,
        "bytes": ledger.bytes,
        "shards": sum(bool(sealed.file) for sealed in ledger.sealed.values()),
        "failures": dict(Counter(outcome.kind for outcome in ledger.failed.values())),
        "passed_over": {name: count for name, count in listing.skipped.items() if count},
        "named_again": listing.repeated,
        "last_run": how | {k: round(v, 3) for k, v in run.items() if k != "photos"} | {
            "photos_per_s": round(through / status.wall_s, 4) if status.wall_s else 0.0,
        },
        "settings": settings,
    }  # fmt: skip
    with whole_file(job.part("summary.json")) as file:
        file.write((json.dumps(summary, indent=1) + "\n").encode())
