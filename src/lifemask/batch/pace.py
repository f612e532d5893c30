"""How fast a run goes and how long it will take: from what it did lately, not from hopes."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

WINDOW_S = 600.0
MIN_MARKS = 30
MAX_MARKS = 600


class Pace:
    """A moving rate over the last ten minutes, or the last 30 photos if these took longer.

    The clock starts with the first photo that is through, so that loading networks does not count,
    and runs on while nothing happens: a run that stalls shows it.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Start with nothing known."""
        self._clock = clock
        self._marks: deque[tuple[float, int]] = deque()
        self.count = 0

    def add(self, photos: int = 1) -> None:
        """So many photos more are through."""
        self.count += photos
        now = self._clock()
        self._marks.append((now, self.count))
        marks = self._marks
        while len(marks) > MIN_MARKS and now - marks[0][0] > WINDOW_S:
            marks.popleft()
        if len(marks) > MAX_MARKS:  # one in two is enough
            self._marks = deque([*list(marks)[:-1:2], marks[-1]])

    def per_second(self) -> float | None:
        """Photos per second lately; None until it can be told."""
        if len(self._marks) < 2:
            return None
        began, first = self._marks[0]
        seconds = self._clock() - began
        return (self.count - first) / seconds if seconds > 0 else None

    def left_s(self, photos: int) -> float | None:
        """Seconds that so many photos will take; None until it can be told."""
        rate = self.per_second()
        return photos / rate if rate else None


def duration_text(seconds: float | None) -> str:
    """A duration in two units at most: `3 d 4 h`, `1 h 20 min`, `45 s`."""
    if seconds is None:
        return "unknown"
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 24:
        return f"{hours} h {minutes} min"
    days, hours = divmod(round(seconds / 3600), 24)
    return f"{days:,} d {hours} h"


def size_text(size: float) -> str:
    """Bytes with a decimal unit: `4.2 MB`."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 999.5:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:,.3g} TB"
