"""Rows of numbers per frame, kept on disk so that memory does not grow with the clip."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence

import numpy as np

IN_MEMORY = 2**20


class RowStore:
    """An array of float32 rows that grows; from 1 MB on its bytes lie in a temporary file.

    So the hundreds of short tracks of a film hold no file open.
    """

    def __init__(self, width: int) -> None:
        self.width = width
        self.count = 0
        self._file = tempfile.SpooledTemporaryFile(IN_MEMORY, prefix="lifemask-")  # noqa: SIM115

    def append(self, parts: Sequence[np.ndarray]) -> None:
        """Add a row that consists of these parts."""
        row = np.concatenate([np.asarray(p, np.float32).ravel() for p in parts])
        if len(row) != self.width:
            raise ValueError(f"a row has {self.width} numbers, not {len(row)}")
        self._file.write(row.tobytes())
        self.count += 1

    def truncate(self, count: int) -> None:
        """Keep the first rows only."""
        self.count = min(self.count, count)
        self._file.truncate(self.count * self.width * 4)
        self._file.seek(0, 2)

    def read(self, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Rows (n, width)."""
        stop = self.count if stop is None else min(stop, self.count)
        self._file.flush()
        self._file.seek(start * self.width * 4)
        data = self._file.read(max(stop - start, 0) * self.width * 4)
        self._file.seek(0, 2)
        return np.frombuffer(data, np.float32).reshape(-1, self.width).copy()

    def close(self) -> None:
        """Give the file back."""
        self._file.close()

    def __del__(self) -> None:
        """Give the file back when a clip fails."""
        self.close()
