"""imageio-ffmpeg leaves the pipes of a finished ffmpeg to the garbage collector."""

import gc

import pytest


@pytest.fixture(autouse=True)
def collected():
    yield
    gc.collect()
