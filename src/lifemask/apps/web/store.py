"""The demo's files: one temporary tree, a folder per result, all of it deleted in time."""

from __future__ import annotations

import logging
import secrets
import shutil
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

log = logging.getLogger(__name__)

SWEEP_S = 20.0


@dataclass
class _Entry:
    """A folder or an upload, who may use it, and when somebody last did."""

    path: Path
    owners: set[str]
    used_s: float = field(default=0.0)


class Store:
    """Results under random names, and uploads; both are deleted when their owners are gone.

    An owner is one open page. Nothing outlives `keep_s` seconds without use, nor `close`.
    """

    def __init__(
        self,
        keep_s: float,
        *,
        clock: Callable[[], float] = time.monotonic,
        root: Path | None = None,
    ) -> None:
        """Make the tree.

        Args:
            keep_s: seconds after the last use.
            clock: seconds, for tests.
            root: where, for tests; None makes a private temporary folder.
        """
        self.root = root or Path(tempfile.mkdtemp(prefix="lifemask-demo-"))
        self.uploads = self.root / "uploads"
        self.keep_s, self._clock = keep_s, clock
        self._lock = threading.Lock()
        self._results: dict[str, _Entry] = {}
        self._uploads: dict[Path, _Entry] = {}
        self._stop = threading.Event()
        for folder in (self.uploads, self.root / "results"):
            folder.mkdir(parents=True, exist_ok=True)

    def create(self, owner: str) -> tuple[str, Path]:
        """A new result: its unguessable name (128 bits), and its empty folder."""
        token = secrets.token_urlsafe(16)
        folder = self.root / "results" / token
        folder.mkdir(mode=0o700)
        with self._lock:
            self._results[token] = _Entry(folder, {owner}, self._clock())
        return token, folder

    def file(self, token: str, name: str) -> Path | None:
        """A file of a result, marked as used; None where there is none.

        Args:
            token: of the result.
            name: path inside its folder; one that leads out of it finds nothing.
        """
        with self._lock:
            entry = self._results.get(token)
            if entry is None:
                return None
            entry.used_s = self._clock()
        try:
            path = (entry.path / name).resolve()
        except ValueError:  # a null byte
            return None
        inside = path.is_relative_to(entry.path.resolve())
        return path if inside and path.is_file() else None

    def adopt(self, owner: str, upload: Path) -> None:
        """Delete an upload with its owner; only files in the uploads' folder are ever touched."""
        if not upload.resolve().is_relative_to(self.uploads.resolve()):
            return
        with self._lock:
            entry = self._uploads.setdefault(upload, _Entry(upload, set()))
            entry.owners.add(owner)
            entry.used_s = self._clock()

    def keep_only(self, owner: str, token: str, upload: Path | None = None) -> None:
        """Delete what an owner had before this result and this upload."""
        self._drop(owner, {token}, {upload})

    def forget(self, owner: str) -> None:
        """Delete all that an owner has; what another one uses too stays for that one."""
        self._drop(owner, set(), set())

    def sweep(self) -> None:
        """Delete what nobody used for `keep_s`, uploads that no job ever took among them."""
        limit = self._clock() - self.keep_s
        with self._lock:
            gone = [e for e in (*self._results.values(), *self._uploads.values())
                    if e.used_s < limit]  # fmt: skip
            self._remove(gone)
            known = {path.resolve() for path in self._uploads}
        for path in self.uploads.rglob("*"):
            if path.is_file() and path.resolve() not in known:
                if time.time() - path.stat().st_mtime > self.keep_s:
                    path.unlink(missing_ok=True)

    def start(self) -> None:
        """Sweep now and then, in a thread of its own, until `close`."""
        threading.Thread(target=self._keep_sweeping, daemon=True).start()

    def close(self) -> None:
        """Delete everything."""
        self._stop.set()
        shutil.rmtree(self.root, ignore_errors=True)

    def _keep_sweeping(self) -> None:
        while not self._stop.wait(min(SWEEP_S, self.keep_s / 2)):
            try:
                self.sweep()
            except OSError as error:  # a file that went by itself
                log.info("sweep: %s", error)

    def _drop(self, owner: str, tokens: set[str], uploads: set[Path | None]) -> None:
        with self._lock:
            gone = []
            kept: list[tuple[dict, set]] = [(self._results, tokens), (self._uploads, uploads)]
            for table, keep in kept:
                for key, entry in table.items():
                    if owner in entry.owners and key not in keep:
                        entry.owners.discard(owner)
                        if not entry.owners:
                            gone.append(entry)
            self._remove(gone)

    def _remove(self, gone: list[_Entry]) -> None:
        """Delete entries from disk and tables; the lock is held."""
        paths = {entry.path for entry in gone}
        for path in paths:
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
        self._results = {k: e for k, e in self._results.items() if e.path not in paths}
        self._uploads = {k: e for k, e in self._uploads.items() if e.path not in paths}
