"""Worker processes: crashes, time limits, replacement, and the end of all of them."""

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from fake_renders import gone
from helpers.batch_fakes import (
    CRASH,
    SLOW,
    FakeLoad,
    cannot_start,
    contents,
    fake_job,
    greys,
    no_weights,
    paint,
)
from lifemask.assets import UserError
from lifemask.batch.crew import Crew
from lifemask.batch.journal import read_ledger
from lifemask.batch.run import run_batch
from lifemask.batch.sources import find_photos

TESTS = Path(__file__).resolve().parents[1]


def test_a_photo_that_kills_its_process_costs_only_itself(tmp_path):
    photos = greys(tmp_path / "photos", 6)
    paint(photos / "p01x.png", CRASH)
    log = tmp_path / "log"
    job = fake_job(tmp_path / "out", create=FakeLoad(log=str(log)))
    status = run_batch(job, [photos], workers=2)
    assert (status.done, status.failed) == (6, 1)
    words = "p01x.png,crashed,"
    assert words in (job.folder / "failures.csv").read_text()
    assert "SIGSEGV" in (job.folder / "failures.csv").read_text()
    assert [line.split()[1] for line in log.read_text().splitlines()].count("0") == 2, "two tries"
    assert len(list((job.folder / "heads").iterdir())) == 6


def test_late_photos_retries_and_replaced_processes(tmp_path):
    """One crew for three properties, as processes are slow to start."""
    photos = greys(tmp_path / "photos", 4)
    paint(photos / "p00x.png", SLOW)
    paint(photos / "p01x.png", CRASH)
    log = tmp_path / "log"
    load = FakeLoad(log=str(log), once=str(tmp_path / "crashed"))
    job = fake_job(tmp_path / "out", create=load, timeout_s=0.5, recycle=2)
    crew = Crew(job, 1)
    try:
        found = {o.key: o for o in crew.outcomes(find_photos([photos]).items)}
    finally:
        crew.close()
    job_of = {key: outcome.kind for key, outcome in found.items()}
    assert job_of["p00x"] == "timeout" and "0.5 s" in found["p00x"].message
    assert job_of["p01x"] == "" and (tmp_path / "crashed").exists(), "the second try worked"
    assert sum(outcome.done for outcome in found.values()) == 5
    pids = [int(line.split()[0]) for line in log.read_text().splitlines()]
    assert max(pids.count(pid) for pid in pids) <= 2 < len(set(pids))
    assert gone(pids)


def test_processes_that_cannot_start_are_told(tmp_path):
    photos = greys(tmp_path / "photos", 2)
    with pytest.raises(UserError, match=r"end while they start \(status -9, SIGKILL\)"):
        run_batch(fake_job(tmp_path / "out", create=cannot_start), [photos], workers=1)
    with pytest.raises(UserError, match="weight file x is missing"):
        run_batch(fake_job(tmp_path / "out", create=no_weights), [photos], workers=1)


def killed_run(folder: Path, photos: Path, after: int, layout: str) -> list[int]:
    """Start a run in a process of its own and kill it after some photos; its workers' ids."""
    code = (
        "from pathlib import Path\n"
        "from helpers.batch_fakes import FakeLoad, fake_job\n"
        "from lifemask.batch.run import run_batch\n"
        f"load = FakeLoad(0.2, log={str(folder) + '.log'!r})\n"
        f"job = fake_job(Path({str(folder)!r}), create=load, layout={layout!r}, shard_size=4)\n"
        "def tell(status): print(status.done, flush=True)\n"
        "if __name__ == '__main__':\n"
        f"    run_batch(job, [{str(photos)!r}], workers=2, progress=tell)\n"
    )
    script = folder.with_suffix(".py")
    script.write_text(code)
    environment = {**os.environ, "PYTHONPATH": str(TESTS)}
    with subprocess.Popen(
        [sys.executable, str(script)], stdout=subprocess.PIPE, text=True, env=environment
    ) as run:
        assert run.stdout is not None
        for line in run.stdout:
            if int(line) >= after:
                run.send_signal(signal.SIGKILL)
                break
    assert run.returncode == -signal.SIGKILL
    log = Path(f"{folder}.log").read_text().splitlines()
    return [int(line.split()[0]) for line in log]


@pytest.mark.parametrize("layout", ["shards"])
def test_killed_in_the_middle_and_gone_on(tmp_path, layout):
    photos = greys(tmp_path / "photos", 12)
    folder = tmp_path / "out"
    workers = killed_run(folder, photos, 5, layout)
    assert gone(workers), "workers end with their parent"
    done = read_ledger(folder / "journal.jsonl").done
    assert 5 <= len(done) < 12
    job = fake_job(folder, layout=layout, shard_size=4)
    status = run_batch(job, [photos], workers=0)
    assert (status.found_done, status.done) == (len(done), 12 - len(done)), "nothing done twice"
    clean = replace(job, folder=tmp_path / "clean")
    run_batch(clean, [photos], workers=0)
    assert contents(folder) == contents(clean.folder)


KILLS = """
import os, signal, sys
from pathlib import Path
from helpers.batch_fakes import contents, fake_job
from lifemask.batch.run import run_batch

root, layout = Path(sys.argv[1]), sys.argv[2]
photos = root / "photos"

def run(folder, limit=None):
    job = fake_job(folder, layout=layout, shard_size=2)
    run_batch(job, [photos], workers=0, limit=limit)

def killing(function, countdown):
    def called(*arguments, **options):
        countdown[0] -= 1
        if countdown[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*arguments, **options)
    return called

run(root / "clean")
expected = contents(root / "clean")
survived, at = False, 0
while not survived:
    at += 1
    folder = root / f"killed{at}"
    child = os.fork()
    if child == 0:
        countdown = [at]
        for name in ("fsync", "write", "replace", "rename", "unlink", "rmdir", "mkdir"):
            setattr(os, name, killing(getattr(os, name), countdown))
        run(folder)
        os._exit(0)
    survived = os.waitpid(child, 0)[1] == 0
    run(folder)
    assert contents(folder) == expected, (at, sorted(contents(folder)), sorted(expected))
    assert not (folder / "staging").exists()
print(at)
"""


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["folders", "shards"])
def test_killed_at_every_change_of_the_disk(tmp_path, layout):
    """The run is killed before its 1st, 2nd, ... call that changes the disk, and gone on with."""
    greys(tmp_path / "photos", 3)
    environment = {**os.environ, "PYTHONPATH": str(TESTS)}
    run = subprocess.run(
        [sys.executable, "-c", KILLS, str(tmp_path), layout],
        capture_output=True, text=True, env=environment, timeout=600,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr[-3000:]
    assert int(run.stdout) > 20, "many places to be killed at"


@pytest.mark.slow
def test_a_worker_killed_from_outside_costs_nothing(tmp_path):
    photos = greys(tmp_path / "photos", 8)
    log = tmp_path / "log"
    job = fake_job(tmp_path / "out", create=FakeLoad(0.3, log=str(log)))
    killed: list[int] = []

    def kill(status):
        if status.done == 2 and not killed:
            killed.append(int(log.read_text().splitlines()[-1].split()[0]))
            os.kill(killed[0], signal.SIGKILL)

    assert run_batch(job, [photos], workers=2, progress=kill).done == 8
    assert killed and len((job.folder / "journal.jsonl").read_text().splitlines()) == 8
