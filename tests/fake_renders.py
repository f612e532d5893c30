"""Stand-ins that worker processes can import: work that is quick, and renders of noise."""

import os
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from lifemask.assets import UserError

SHARD = 12


def nothing():
    return os.environ["OMP_NUM_THREADS"]


def act(state, task, report):
    what, value = task
    if what == "double":
        report("begun")
        return state, 2 * value
    if what == "sleep":
        time.sleep(value)
    if what == "user":
        raise UserError(value)
    raise ValueError(value)


def alive(pid: int) -> bool:
    """Whether a process runs; a dead one that nobody has asked after does not."""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


def gone(pids, seconds: float = 60) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end and any(map(alive, pids)):
        time.sleep(0.05)
    return not any(map(alive, pids))


@dataclass(frozen=True)
class FakeConfig:
    shard_size: int = SHARD
    bank_size: int = 60


@dataclass(frozen=True)
class FakeSample:
    image: np.ndarray
    label: str
    age: float
    extra: dict = field(default_factory=dict)


@dataclass(frozen=True)
class FakeGenerator:
    """Draws its banks from the shard's number; fails at the image of number `bad`."""

    config: FakeConfig = FakeConfig()
    bad: int = -1

    def banks(self, shard: int) -> int:
        return shard


def fake_render(generator, banks, indices, truth, sets):
    for index in indices:
        assert index // generator.config.shard_size == banks or index == 0, (
            "images are drawn with their own shard's banks"
        )
        if index == generator.bad:
            raise ValueError("no such face")
        rng = np.random.default_rng(index)
        yield FakeSample(
            rng.integers(0, 255, (4, 4, 3)).astype(np.uint8), f"face {index}", index / 8,
            {"pid": os.getpid(), truth: np.full(2, index)},
        )  # fmt: skip


@dataclass(frozen=True)
class SlowGenerator(FakeGenerator):
    """Takes its time over every image, and counts in a file how often it drew banks."""

    seconds: float = 0.0
    log: Path | None = None

    def banks(self, shard: int) -> int:
        if self.log is not None:
            with self.log.open("a") as file:
                file.write(f"{shard} {os.getpid()}\n")
        return shard


def create_fake(job):
    """The generator of a job; it logs beside the job's folder."""
    seconds = float(os.environ.get("FAKE_SECONDS", "0"))
    return SlowGenerator(job.config, seconds=seconds, log=job.folder.parent / "log")


def render_fake(generator, banks, indices, truth, sets):
    for sample in fake_render(generator, banks, indices, truth, sets):
        time.sleep(generator.seconds)
        yield replace(sample, extra={})  # who made it must not be seen


def make_data(folder: Path) -> Path:
    """A folder that looks like that of skins and environments from outside."""
    for name in ("skins/a_diffuse.jpg", "hdri/b.exr"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(name.encode())
    return folder


def render_broken(*_):
    """Fails at once."""
    raise RuntimeError("no_such_function")


def render_slowly(*arguments):
    """As `render_fake`, a quarter of a second per image."""
    for sample in render_fake(*arguments):
        time.sleep(0.25)
        yield sample


def create_nothing(_):
    """A generator whose data cannot be read."""
    raise UserError("no paint")
