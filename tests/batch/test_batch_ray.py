"""The Ray engine: the files of the local one, whatever dies on the way."""

import os
import signal
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from helpers.batch_fakes import CRASH, FakeLoad, contents, fake_job, greys, no_weights, paint
from helpers.ray_cluster import two_cpus
from lifemask.assets import UserError
from lifemask.batch.journal import Journal, Outcome, failure, read_ledger
from lifemask.batch.on_ray import CHUNK, _chunks
from lifemask.batch.plan import absorb_parts
from lifemask.batch.run import run_batch
from lifemask.batch.sources import find_photos


def test_without_ray_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=r"pip install 'lifemask\[scale\]'"):
        run_batch(fake_job(tmp_path / "out"), [greys(tmp_path / "photos", 1)], engine="ray")
    with pytest.raises(UserError, match="unknown engine 'moon'; valid: local, ray"):
        run_batch(fake_job(tmp_path / "out"), [tmp_path / "photos"], engine="moon")


def test_chunks_hold_every_photo_once(tmp_path):
    items = find_photos([greys(tmp_path, 20)]).items * 100
    for count, workers in ((1, 4), (20, 2), (2000, 2), (2000, 64)):
        rows = _chunks(items[:count], workers)
        assert sum(row["items"].count('"key"') for row in rows) == count
        assert len(rows) >= min(count, workers) and len(rows) >= count / CHUNK


def test_journals_of_actors_are_taken_in_once(tmp_path):
    job = fake_job(tmp_path)
    part = tmp_path / "journal" / "chunk.jsonl"
    known = failure("b", "/b", "missing", "gone")
    with Journal(tmp_path / "journal.jsonl") as journal:
        journal.add(Outcome("a", "/a", heads=1), known)
        with Journal(part) as own:
            own.add(Outcome("a", "/a", heads=1), known, Outcome("c", "/c", heads=1))
        absorb_parts(job, journal)
    assert not part.parent.exists()
    assert len((tmp_path / "journal.jsonl").read_text().splitlines()) == 3
    assert read_ledger(tmp_path / "journal.jsonl").done == {"a", "c"}


@pytest.fixture(scope="module")
def cluster():
    """A Ray of two CPUs on this machine."""
    with two_cpus() as ray:
        yield ray


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_killed_workers_lose_nothing(cluster, tmp_path):
    """An actor and a photo's process are killed in the middle; a photo kills its process, too."""
    photos = greys(tmp_path / "photos", 24)
    paint(photos / "p03x.png", CRASH)
    log = tmp_path / "log"
    job = fake_job(
        tmp_path / "out", layout="shards", shard_size=8, create=FakeLoad(0.4, log=str(log))
    )
    killed: list[int] = []

    def kill_two():
        while len(killed) < 2:
            time.sleep(0.2)
            lines = log.read_text().splitlines() if log.exists() else []
            if len(lines) < 4 + 4 * len(killed):
                continue
            worker = int(lines[-1].split()[0])
            parent = int(Path(f"/proc/{worker}/stat").read_text().rpartition(")")[2].split()[1])
            killed.append(worker if killed else parent)  # first an actor, then a process of one
            os.kill(killed[-1], signal.SIGKILL)

    killer = threading.Thread(target=kill_two, daemon=True)
    killer.start()
    status = run_batch(job, [photos], engine="ray", workers=2)
    killer.join(1)
    assert len(killed) == 2
    assert (status.done, status.failed, status.left) == (24, 1, 0)
    clean = replace(job, folder=tmp_path / "clean", create=FakeLoad())
    run_batch(clean, [photos], workers=1)
    assert contents(job.folder) == contents(clean.folder)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_ray_goes_on_where_the_local_engine_stopped(cluster, tmp_path):
    photos = greys(tmp_path / "photos", 6)
    job = fake_job(tmp_path / "out")
    run_batch(job, [photos], workers=0, limit=2)
    status = run_batch(job, [photos], engine="ray", workers=2)
    assert (status.found_done, status.done) == (2, 4)
    clean = replace(job, folder=tmp_path / "clean")
    run_batch(clean, [photos], workers=0)
    assert contents(job.folder) == contents(clean.folder)
    with pytest.raises(UserError, match="weight file x is missing"):
        run_batch(fake_job(tmp_path / "none", create=no_weights), [photos], engine="ray", workers=1)
