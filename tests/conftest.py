"""Fixtures shared by all tests."""

import os
from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("lifemask", deadline=None, max_examples=25, derandomize=True)
settings.load_profile("lifemask")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder with the real data sets; tests that need it skip where it is absent."""
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("LIFEMASK_DATA", default))
    if not folder.is_dir():
        pytest.skip("the shared data folder is absent (set LIFEMASK_DATA)")
    return folder
