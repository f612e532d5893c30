"""A Ray to work with: the cluster that is there, or one of this machine's cores."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

OBJECT_STORE_BYTES = 200 * 2**20
"""Of a Ray that is started here; only numbers and manifest entries go through it."""
LASTING: dict[str, Any] = {"num_cpus": 1, "max_restarts": -1, "max_task_retries": -1}
"""Of actors whose work is done again wherever they die."""


@contextmanager
def connected(cpus: int) -> Iterator[None]:
    """A Ray to work with, quiet; one that was started for this is stopped."""
    import ray

    level = logging.getLogger("ray.data").level
    ours = not ray.is_initialized()
    if ours and os.environ.get("RAY_ADDRESS"):
        ray.init(address="auto", log_to_driver=False, logging_level=logging.WARNING)
    elif ours:
        ray.init(
            address="local", num_cpus=cpus, include_dashboard=False, log_to_driver=False,
            object_store_memory=OBJECT_STORE_BYTES, logging_level=logging.WARNING,
        )  # fmt: skip
    context = ray.data.DataContext.get_current()
    bars = context.enable_progress_bars
    try:
        context.enable_progress_bars = False
        logging.getLogger("ray.data").setLevel(logging.WARNING)
        yield
    finally:
        context.enable_progress_bars = bars
        logging.getLogger("ray.data").setLevel(level)
        if ours:
            ray.shutdown()
