"""The Ray engine: the bytes of the local one, whatever dies on the way."""

import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from fake_renders import create_fake, create_nothing, make_data, render_fake, render_slowly
from helpers.ray_cluster import PATIENCE, TESTS, two_cpus
from lifemask.assets import UserError
from lifemask.data import shards
from lifemask.data._synthetic_run import RenderJob, run
from lifemask.data.synthetic import SyntheticConfig


@pytest.fixture
def job(tmp_path) -> RenderJob:
    config = SyntheticConfig(shard_size=4, bank_size=1)
    data = make_data(tmp_path / "data")
    return RenderJob(config, tmp_path / "out", 22, data, create=create_fake, render=render_fake)


def test_without_ray_the_extra_is_named(job, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=r"pip install 'lifemask\[scale\]'"):
        run(job, "ray", 2)
    assert not list(job.folder.glob("*.tar"))


@pytest.fixture(scope="module")
def cluster():
    """A Ray of two CPUs on this machine."""
    with two_cpus() as ray:
        yield ray


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_same_bytes_as_the_local_engine(cluster, job, tmp_path):
    run(replace(job, folder=tmp_path / "local"), "local", 0)
    calls = []
    manifest = run(job, "ray", 2, lambda *done: calls.append(done))
    assert contents(job.folder) == contents(tmp_path / "local")
    assert manifest["count"] == 22 and calls[-1] == (0, 22)
    assert cluster.is_initialized(), "a Ray that was there stays"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_killed_workers_lose_nothing(cluster, job, tmp_path):
    """Two actors are killed with SIGKILL, each in the middle of a shard."""
    slow = replace(job, render=render_slowly)
    log = job.folder.parent / "log"
    killed: set[int] = set()

    def kill_two():
        while len(killed) < 2:
            time.sleep(0.2)
            rows = log.read_text().split() if log.exists() else []
            for pid in {int(p) for p in rows[1::2]} - killed:
                if len(killed) < 2:
                    os.kill(pid, signal.SIGKILL)
                    killed.add(pid)

    killer = threading.Thread(target=kill_two, daemon=True)
    killer.start()
    manifest = run(slow, "ray", 2)
    killer.join(1)
    assert len(killed) == 2 and manifest["count"] == 22
    begun = [int(row.split()[0]) for row in log.read_text().splitlines()]
    assert len(begun) > 6, "the shards of the dead were begun again"
    run(replace(job, folder=tmp_path / "local"), "local", 0)
    assert contents(job.folder) == contents(tmp_path / "local")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_ray_goes_on_where_the_local_engine_stopped(cluster, job, tmp_path):
    run(replace(job, count=8), "local", 0)
    before = {p: p.stat().st_mtime_ns for p in shards.shard_paths(job.folder)}
    run(job, "ray", 2)
    assert {p: p.stat().st_mtime_ns for p in before} == before
    run(replace(job, folder=tmp_path / "local"), "local", 0)
    assert contents(job.folder) == contents(tmp_path / "local")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_errors_of_actors_arrive_as_one_line(cluster, job):
    with pytest.raises(UserError, match="^no paint$"):
        run(replace(job, create=create_nothing), "ray", 1)


@pytest.mark.slow
def test_a_ray_of_our_own_is_started_and_stopped(tmp_path):
    """In a process of its own: with no Ray about, one is started for the run alone."""
    code = (
        f"import sys; sys.path.insert(0, {str(TESTS)!r})\n"
        "from pathlib import Path\n"
        "from fake_renders import *\n"
        "from lifemask.data._synthetic_run import RenderJob, run\n"
        "from lifemask.data.synthetic import SyntheticConfig\n"
        f"folder = Path({str(tmp_path)!r})\n"
        "config, data = SyntheticConfig(shard_size=4), make_data(folder / 'data')\n"
        "fakes = dict(create=create_fake, render=render_fake)\n"
        "job = RenderJob(config, folder / 'out', 6, data, **fakes)\n"
        "run(job, 'ray', 1)\n"
        "import ray; assert not ray.is_initialized()\n"
    )
    environment = {**os.environ, **PATIENCE, "PYTHONPATH": str(TESTS)}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=600
    )
    assert done.returncode == 0, done.stderr
    assert not done.stdout
    assert len(list((tmp_path / "out").glob("*.tar"))) == 2


def contents(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir())}
