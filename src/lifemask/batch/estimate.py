"""What a batch would take: the photos counted, and a few of them tried."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from lifemask.batch.job import BatchJob, check, check_place
from lifemask.batch.journal import Outcome
from lifemask.batch.plan import make_plan, recorded
from lifemask.batch.run import list_photos
from lifemask.batch.sources import Item, Listing
from lifemask.batch.work import PhotoWorker

TRIALS = 3


@dataclass(frozen=True)
class Estimate:
    """What there is to do and what it costs.

    Attributes:
        listing: the photos.
        found_done: of them, have heads already.
        found_failed: failed before, and are not tried again.
        todo: are to be done.
        tried: outcomes of some of these.
        memory_bytes: the most memory that this process has used, its worker's networks loaded;
            0 where that is not known.
    """

    listing: Listing
    found_done: int
    found_failed: int
    todo: int
    tried: tuple[Outcome, ...] = ()
    memory_bytes: int = 0

    @property
    def photo_s(self) -> float | None:
        """Seconds of one core per photo, failed ones too; None if none was tried."""
        return sum(t.seconds for t in self.tried) / len(self.tried) if self.tried else None

    @property
    def photo_bytes(self) -> float | None:
        """Bytes written per photo, failed ones too; None if none was tried."""
        return sum(t.bytes for t in self.tried) / len(self.tried) if self.tried else None


def estimate(
    job: BatchJob,
    sources: Sequence[str | Path],
    limit: int | None = None,
    retry_failed: bool = False,
    trials: int = TRIALS,
) -> Estimate:
    """Count the photos and try a few, in this process; writes nothing that stays.

    Args:
        job: what would be done and where to.
        sources: as for `find_photos`.
        limit: only the first so many photos.
        retry_failed: count photos again that failed in an earlier run.
        trials: photos to try, spread over those to do.

    Raises:
        UserError: as for `run_batch`.
    """
    check(job)
    check_place(job)
    ledger = recorded(job)
    listing = list_photos(job, sources, ledger.keys, limit)
    plan = make_plan(job, listing.items, ledger, retry_failed)
    todo = plan.todo
    count = min(trials, len(todo))
    tried = _try(job, [todo[i * len(todo) // count] for i in range(count)])
    counts = (plan.found_done, plan.found_failed, len(todo))
    return Estimate(listing, *counts, tuple(tried), _peak_bytes() if tried else 0)


def _try(job: BatchJob, items: list[Item]) -> list[Outcome]:
    if not items:
        return []
    with tempfile.TemporaryDirectory(prefix="lifemask-") as folder:
        worker = PhotoWorker(replace(job, folder=Path(folder)))
        worker(items[0])  # loads what is loaded late
        return [worker(item) for item in items]


def _peak_bytes() -> int:
    try:
        import resource
    except ImportError:  # Windows
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak
