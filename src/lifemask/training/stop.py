"""Stopping a run in good order: on a signal, on time, and the same in all its processes."""

from __future__ import annotations

import signal
import threading
import time
from types import FrameType
from typing import Any

import torch

GO_ON, TIME_IS_UP, SIGNALLED = 0, 1, 2
AGREE_EVERY = 10


class Interrupted(KeyboardInterrupt):
    """A signal ended a run after a checkpoint; the message says how to go on.

    Attributes:
        number: of the signal.
        first_process: whether this is the process that should report it.
    """

    def __init__(self, message: str, number: int, first_process: bool) -> None:
        super().__init__(message)
        self.number = number
        self.first_process = first_process


class StopWatch:
    """Notes SIGINT and SIGTERM and the time; a second signal interrupts at once.

    Args:
        seconds: after so long the time is up; 0 never.
    """

    def __init__(self, seconds: float = 0.0) -> None:
        self.number = 0
        self._end = time.monotonic() + seconds if seconds > 0 else float("inf")
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopWatch:
        """Take over the signals, in the main thread; elsewhere there are none to take."""
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        """Give the signals back."""
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def reason(self, step: int, fabric: Any) -> int:
        """`GO_ON`, `TIME_IS_UP` or `SIGNALLED`, the same in every process of a run.

        Several processes agree every `AGREE_EVERY` steps only, since asking makes a GPU wait.
        """
        own = SIGNALLED if self.number else TIME_IS_UP if time.monotonic() > self._end else GO_ON
        if fabric.world_size == 1:
            return own
        if step % AGREE_EVERY:
            return GO_ON
        return int(fabric.all_reduce(torch.tensor(float(own)).to(fabric.device), reduce_op="max"))

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.number:
            raise KeyboardInterrupt
        self.number = number
