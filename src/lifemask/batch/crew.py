"""Worker processes that photos cannot stop: a crash costs a photo, and only at its second try."""

from __future__ import annotations

import os
import signal
import time
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import wait

from lifemask.assets import UserError
from lifemask.batch.job import BatchJob
from lifemask.batch.journal import Outcome, failure
from lifemask.batch.sources import Item
from lifemask.batch.work import set_up, work
from lifemask.data._workers import WorkerError, Workers

MAX_TRIES = 2
MAX_FALSE_STARTS = 3
POLL_S = 5.0


class _Process(Workers):
    """One worker process that `multiprocessing.connection.wait` can wait for."""

    def __init__(self, job: BatchJob) -> None:
        super().__init__(1, set_up, work, shared=[(job,)])

    @property
    def place(self) -> int:
        """What to wait for: the descriptor of its pipe."""
        return self._pipes[0].fileno()

    def end(self) -> None:
        """End now, whatever it is doing."""
        self._processes[0].kill()
        self.close()


@dataclass
class _Slot:
    """A place for a worker process, one after the other.

    Attributes:
        process: None before the first photo and after a death.
        item: what it works on.
        tries: how often that was begun.
        ready: its networks are loaded.
        begun: when it could begin with the photo, by `time.monotonic`.
        served: photos this process has done.
    """

    process: _Process | None = None
    item: Item | None = None
    tries: int = 0
    ready: bool = False
    begun: float = 0.0
    served: int = 0


class Crew:
    """Processes of this machine, one thread each, that turn photos into outcomes."""

    def __init__(self, job: BatchJob, count: int, *, keep: bool = False) -> None:
        """Take the job; processes start with the first photos.

        Args:
            job: what to do.
            count: processes, at least 1.
            keep: processes that find no photo left wait for the next call, and do not end.
        """
        self._job, self._keep = job, keep
        self._slots = [_Slot() for _ in range(max(1, count))]
        self._again: deque[tuple[Item, int]] = deque()
        self._false_starts = 0

    @property
    def pids(self) -> list[int]:
        """Ids of the processes that run now."""
        return [s.process.pids[0] for s in self._slots if s.process is not None]

    def outcomes(self, items: Iterable[Item]) -> Iterator[Outcome]:
        """What becomes of photos, as it becomes known.

        A photo whose process dies is tried once more, in a fresh process, and then has failed:
        "crashed". One that takes longer than the job allows has failed: "timeout".

        Args:
            items: the photos; read as processes become free.

        Raises:
            UserError: weights are missing, the results cannot be written, or processes die while
                they start.
        """
        waiting = iter(items)
        self._fill(waiting)
        while any(slot.item is not None for slot in self._slots):
            heard = self._listen()
            self._fill(waiting)  # before the caller takes its time
            yield from heard

    def close(self) -> None:
        """End all processes; safe to call again."""
        for pid in self.pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)  # all at once, then each is waited for
        for slot in self._slots:
            _dismiss(slot)

    def _fill(self, waiting: Iterator[Item]) -> None:
        """Give every free process a photo, while there are any."""
        for slot in self._slots:
            if slot.item is not None:
                continue
            task = self._again.popleft() if self._again else (next(waiting, None), 0)
            if task[0] is None:
                if not self._keep:
                    _dismiss(slot)  # its memory is better used elsewhere
                continue
            if task[1] or (self._job.recycle and slot.served >= self._job.recycle):
                _dismiss(slot)
            slot.item, slot.tries, slot.begun = task[0], task[1] + 1, time.monotonic()
            self._send(slot)

    def _send(self, slot: _Slot) -> None:
        """Hand a slot's photo to its process, which is started if there is none."""
        try:
            if slot.process is None:
                slot.process, slot.ready, slot.served = _Process(self._job), False, 0
            slot.process.send(0, slot.item)
        except WorkerError:
            if slot.process is None:  # else `_listen` hears of the death too
                raise

    def _listen(self) -> list[Outcome]:
        """Wait until something is known; the outcomes."""
        places = {s.process.place: s for s in self._slots if s.process is not None}
        heard: list[Outcome] = []
        for place in wait(list(places), self._patience()):
            slot = places[place]  # pyright: ignore[reportArgumentType]
            try:
                messages = slot.process.receive(0) if slot.process is not None else []
            except WorkerError as error:
                heard += self._buried(slot, str(error))
                continue
            for message in messages:
                slot.begun = time.monotonic() if message.kind == "ready" else slot.begun
                slot.ready, self._false_starts = True, 0
                if message.kind == "done":
                    heard.append(message.value)
                    slot.item, slot.served = None, slot.served + 1
        return heard + self._overdue()

    def _patience(self) -> float:
        """Seconds until the next photo may be overdue."""
        limit, now = self._job.timeout_s, time.monotonic()
        if not limit:
            return POLL_S
        left = [s.begun + limit - now for s in self._slots if s.item is not None and s.ready]
        return max(0.01, min([*left, POLL_S]))

    def _buried(self, slot: _Slot, words: str) -> list[Outcome]:
        """After a process has died: its photo is tried again, or has failed."""
        item, tries, was_ready = slot.item, slot.tries, slot.ready
        _dismiss(slot)
        slot.item = None
        if "failed:" in words:  # not its death: a fault of ours while it started
            raise WorkerError(words)
        if not was_ready:
            self._false_starts += 1
            if self._false_starts > MAX_FALSE_STARTS:
                raise UserError(
                    f"worker processes end while they start ({_status(words)}); give fewer"
                    " --workers if memory is short"
                )
            tries -= 1  # not the photo's fault
        if item is None:
            return []
        if tries < MAX_TRIES:
            self._again.append((item, tries))
            return []
        message = f"the process that worked on it ended, twice ({_status(words)})"
        return [failure(item.key, item.source, "crashed", message)]

    def _overdue(self) -> list[Outcome]:
        """End processes whose photo takes too long."""
        limit, now, late = self._job.timeout_s, time.monotonic(), []
        for slot in self._slots:
            item = slot.item
            if not limit or item is None or not slot.ready or now - slot.begun < limit:
                continue
            _dismiss(slot, at_once=True)
            slot.item = None
            message = f"it took longer than {limit:g} s (--timeout)"
            late.append(failure(item.key, item.source, "timeout", message, now - slot.begun))
        return late


def _dismiss(slot: _Slot, at_once: bool = False) -> None:
    process, slot.process, slot.ready, slot.served = slot.process, None, False, 0
    if process is not None:
        process.end() if at_once else process.close()


def _status(words: str) -> str:
    """The exit status in what `WorkerError` says."""
    number = words.rpartition("status ")[2].split()[0].rstrip(")")
    try:
        return f"status {number}, {signal.Signals(-int(number)).name}"
    except ValueError:
        return f"status {number}"
