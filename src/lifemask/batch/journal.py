"""What became of each photo: lines that are only ever added, read again when a run goes on."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

SYNC_EVERY_S = 1.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a photo.

    Attributes:
        key: of the photo.
        source: what it is known by, `Item.source`.
        status: "done" or "failed".
        heads: how many were written.
        seconds: of the clock, from reading to writing.
        cpu_s: seconds of one core that the photo took; other work on the machine hardly changes it.
        bytes: written.
        kind: of a failure: "missing", "unreadable", "no face", "memory", "timeout", "crashed", or
            "error", a fault of ours.
        message: of a failure, one line.
        trace: where an "error" came from.
    """

    key: str
    source: str
    status: str = "done"
    heads: int = 0
    seconds: float = 0.0
    cpu_s: float = 0.0
    bytes: int = 0
    kind: str = ""
    message: str = ""
    trace: str = ""

    @property
    def done(self) -> bool:
        """Whether there are heads."""
        return self.status == "done"


def failure(
    key: str, source: str, kind: str, message: str, seconds: float = 0.0, trace: str = ""
) -> Outcome:
    """The outcome of a photo without heads."""
    return Outcome(key, source, "failed", seconds=seconds, kind=kind, message=message, trace=trace)


@dataclass(frozen=True, slots=True)
class Sealed:
    """A shard that is complete.

    Attributes:
        shard: its number.
        file: its name; "" where all of its photos failed.
        bytes: of the file.
        keys: of the photos whose heads are in it.
        failed: keys of its photos that had no heads when it was put together; one that is tried
            again later goes into another shard.
    """

    shard: int
    file: str
    bytes: int
    keys: list[str]
    failed: list[str] = field(default_factory=list)


@dataclass
class Ledger:
    """The journal's sum.

    Attributes:
        keys: by `Item.source`, of every photo that has an outcome.
        done: keys of photos with heads.
        failed: outcomes of photos without, by key.
        sealed: shards by number.
        heads: in all.
        bytes: in all.
    """

    keys: dict[str, str] = field(default_factory=dict)
    done: set[str] = field(default_factory=set)
    failed: dict[str, Outcome] = field(default_factory=dict)
    sealed: dict[int, Sealed] = field(default_factory=dict)
    heads: int = 0
    bytes: int = 0

    def add(self, entry: Outcome | Sealed) -> None:
        """Count an entry; of several about a photo the last one holds."""
        if isinstance(entry, Sealed):
            self.sealed[entry.shard] = entry
            return
        again = entry.key in self.done
        self.keys[entry.source] = entry.key
        self.failed.pop(entry.key, None)
        if not entry.done:
            self.done.discard(entry.key)
            self.failed[entry.key] = entry
            return
        self.done.add(entry.key)
        if not again:
            self.heads += entry.heads
            self.bytes += entry.bytes


class Journal:
    """A file of JSON lines; what is in it outlives the process at once, the machine in a second."""

    def __init__(self, path: Path) -> None:
        """Open for adding; half a line, left by a kill, is cut off."""
        self._path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        self._synced = 0.0
        os.ftruncate(self._file, _whole_bytes(self._file))
        os.lseek(self._file, 0, os.SEEK_END)

    def add(self, *entries: Outcome | Sealed, sync: bool = False) -> None:
        """Write entries.

        Args:
            *entries: what happened.
            sync: wait until they are on the disk; else once a second.
        """
        data = "".join(line_of(entry) for entry in entries).encode("utf-8", "surrogateescape")
        while data:
            data = data[os.write(self._file, data) :]
        if sync or time.monotonic() - self._synced > SYNC_EVERY_S:
            os.fsync(self._file)
            self._synced = time.monotonic()

    def close(self) -> None:
        """Put everything on the disk and close the file."""
        if self._file >= 0:
            os.fsync(self._file)
            os.close(self._file)
            self._file = -1

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def line_of(entry: Outcome | Sealed) -> str:
    """An entry as a line of the journal; what is empty is left out."""
    values = {k: v for k, v in asdict(entry).items() if v or k in ("shard", "keys")}
    values |= {k: round(values[k], 3) for k in ("seconds", "cpu_s") if k in values}
    return json.dumps(values, ensure_ascii=False) + "\n"


def read_journal(path: Path) -> Iterator[Outcome | Sealed]:
    """The entries of a journal; none if there is no such file. Damaged lines are left out."""
    if not path.exists():
        return
    with path.open("rb") as file:
        for line in file:
            entry = _entry(line)
            if entry is not None:
                yield entry


def read_ledger(*paths: Path) -> Ledger:
    """The sum of some journals."""
    ledger = Ledger()
    for path in paths:
        for entry in read_journal(path):
            ledger.add(entry)
    return ledger


def _entry(line: bytes) -> Outcome | Sealed | None:
    if not line.endswith(b"\n"):
        return None
    try:
        values: dict[str, Any] = json.loads(line.decode("utf-8", "surrogateescape"))
        if "shard" in values:
            return Sealed(**({"file": "", "bytes": 0} | values))
        return Outcome(**values)
    except (ValueError, TypeError):
        return None


def _whole_bytes(file: int) -> int:
    """Bytes up to the last end of a line."""
    end = os.lseek(file, 0, os.SEEK_END)
    while end > 0:
        start = max(0, end - 4096)
        found = os.pread(file, end - start, start).rfind(b"\n")
        if found >= 0:
            return start + found + 1
        end = start
    return 0
