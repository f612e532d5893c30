"""What the demo is told when it starts, and the limits it keeps."""

from __future__ import annotations

import os
from dataclasses import dataclass

from lifemask.assets import UserError

LOOPBACK = ("127.0.0.1", "localhost", "::1")
METHODS = {
    "pgn": ("PGN", "the default: a network sees where the surface lies"),
    "dasl": ("2DASL", "a network that learned from 2D faces too"),
    "fit": ("Fitter", "solves for the head behind the landmarks"),
    "rafare": ("RAFaRe", "adds folds found without a face model; slow"),
}
"""The methods of the page, in its order: a name for people and a line about each."""


@dataclass(frozen=True)
class DemoConfig:
    """Settings of `lifemask demo`.

    Attributes:
        host: address to listen on; a loopback one keeps the page on this computer.
        port: to listen on; 0 lets the system choose.
        weights: family of networks that is chosen at first, "open" or "research".
        max_upload_mb: largest photo or panorama, megabytes of 1e6 bytes.
        max_megapixels: largest photo, in 1e6 pixels.
        jobs: heads made at one time; the others wait in the queue. At most one per core.
        max_queue: how many may wait; more are refused.
        keep_minutes: photos and heads that nobody asked for during this time are deleted.
        open_browser: show the page in the default browser.
    """

    host: str = "127.0.0.1"
    port: int = 7860
    weights: str = "open"
    max_upload_mb: float = 20.0
    max_megapixels: float = 60.0
    jobs: int = 1
    max_queue: int = 32
    keep_minutes: float = 30.0
    open_browser: bool = False

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises:
            UserError: a value is out of range; the message says which.
        """
        if self.weights not in ("open", "research"):
            raise UserError(f"unknown weights {self.weights!r}; valid: open, research")
        if not 0 <= self.port <= 65535:
            raise UserError(f"the port must be in 0..65535, not {self.port}")
        if not 0.1 <= self.max_upload_mb <= 1000:
            raise UserError(f"the upload limit must be in 0.1..1000 MB, not {self.max_upload_mb}")
        cores = os.cpu_count() or 1
        if not 1 <= self.jobs <= cores:
            raise UserError(f"jobs must be in 1..{cores}, one per core, not {self.jobs}")
        if not 0 < self.keep_minutes <= 24 * 60:
            raise UserError(f"minutes to keep must be in 0..1440, not {self.keep_minutes}")

    @property
    def max_upload_bytes(self) -> int:
        """The upload limit in bytes."""
        return int(self.max_upload_mb * 1e6)

    @property
    def is_private(self) -> bool:
        """Whether only this computer can reach the page."""
        return self.host in LOOPBACK

    @property
    def threads(self) -> int:
        """Threads of the networks of one job."""
        return max(1, (os.cpu_count() or 1) // self.jobs)
