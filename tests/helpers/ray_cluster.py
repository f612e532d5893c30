"""A Ray of two CPUs on this machine, whose workers find the tests' own modules."""

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parents[1]
PATIENCE = {
    "RAY_agent_register_timeout_ms": "600000",
    "RAY_raylet_start_wait_time_s": "600",
    "RAY_worker_register_timeout_seconds": "600",
    "RAY_health_check_timeout_ms": "600000",
    "RAY_worker_niceness": "0",
}
"""Ray gives a busy machine half a minute to start."""


@contextmanager
def two_cpus() -> Iterator:
    """The module `ray`, connected; the test is skipped where it is not installed."""
    ray = pytest.importorskip("ray")
    path = os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")])
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, value in PATIENCE.items():
            patch.setenv(name, value)
        ray.init(
            address="local", num_cpus=2, include_dashboard=False, log_to_driver=False,
            object_store_memory=200 * 2**20, runtime_env={"env_vars": {"PYTHONPATH": path}},
        )  # fmt: skip
        try:
            yield ray
        finally:
            ray.shutdown()
