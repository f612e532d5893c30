"""Batches ahead of their use: order, errors, and that no worker, file or memory is left over."""

import multiprocessing
import os
import signal
import time
from collections import namedtuple
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from lifemask.assets import UserError
from lifemask.training import batches
from lifemask.training.batches import BatchError, batches_ahead, map_tensors, worker_processes
from training import toy

needs_proc = pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="needs Linux's /proc")


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def shared_memory() -> int:
    return len(list(Path("/dev/shm").iterdir()))


def memory_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def is_alive(pid: int) -> bool:
    """A process that has not ended; a zombie has."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except OSError:
        return False


def wait_until(condition, seconds=20.0) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.05)
    return condition()


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_threads_keep_the_order_and_work_ahead(workers):
    made = []

    def make(number):
        time.sleep(0.002 * (number % 3))
        made.append(number)
        return number * number

    with closing(batches_ahead(make, 4, 16, workers=workers)) as feed:
        assert next(feed) == 16
        assert wait_until(lambda: len(made) >= 1 + 2 * workers)
        assert list(feed) == [n * n for n in range(5, 16)]
    assert sorted(made) == list(range(4, 16))


def test_errors_in_threads_come_through_and_threads_end():
    before = {t.name for t in batches.threading.enumerate()}
    with pytest.raises(ValueError, match="planned"):
        list(batches_ahead(toy.failing_batch, 0, 4, workers=2))
    with pytest.raises(KeyboardInterrupt):
        with closing(batches_ahead(toy.failing_batch, 0, 3, workers=2)) as feed:
            next(feed)
            raise KeyboardInterrupt
    assert {t.name for t in batches.threading.enumerate()} == before


@needs_proc
def test_threads_leave_memory_and_files_alone():
    def make(number):
        return torch.full((256, 1024), float(number))  # 1 MB

    list(batches_ahead(make, 0, 20, workers=2))
    files, memory = open_files(), memory_mb()
    for _ in batches_ahead(make, 0, 300, workers=2):
        pass
    assert open_files() == files
    assert memory_mb() < memory + 40


@needs_proc
def test_a_worker_process_serves_survives_errors_and_leaves_nothing():
    with closing(batches_ahead(toy.make_batch, 0, 1, workers=0)) as feed:
        next(feed)
    before = open_files(), shared_memory()
    with worker_processes(toy.failing_batch, 1) as make:
        (pid,) = (child.pid for child in multiprocessing.active_children())
        with pytest.raises(BatchError, match="(?s)batch 3.*failing_batch.*planned failure"):
            make(3)
        with pytest.raises(UserError, match="^no such file; bring it$"):
            make(4)
        for number in range(10, 60):  # a batch that is dropped takes its memory with it
            assert make(number)[3, 2] == number
        during = open_files(), shared_memory()
        for number in range(100, 200):
            make(number)
        assert (open_files(), shared_memory()) == during
        os.kill(pid, signal.SIGINT)  # Ctrl-C reaches the whole group; the parent decides
        assert make(8)[0, 0] == 8
        with pytest.raises(BatchError, match="exit code -9 while it made batch 5"):
            make(5)
    assert not is_alive(pid)
    assert multiprocessing.active_children() == []
    assert open_files() <= before[0] + 3  # Python's own resource tracker stays
    assert shared_memory() <= before[1]


@needs_proc
def test_processes_give_the_batches_of_the_loop_itself_and_end_on_an_interrupt():
    expected = [toy.make_batch(n) for n in range(3)]
    pids = []
    with pytest.raises(KeyboardInterrupt):
        with closing(batches_ahead(toy.make_batch, 0, 30, workers=1, kind="process")) as feed:
            for wanted in expected:
                found = next(feed)
                torch.testing.assert_close(found.x, wanted.x, rtol=0, atol=0)
                torch.testing.assert_close(found.y, wanted.y, rtol=0, atol=0)
            pids += [child.pid for child in multiprocessing.active_children()]
            raise KeyboardInterrupt
    assert pids and not any(is_alive(pid) for pid in pids)


def open_workers_and_die(path: Path) -> None:
    with worker_processes(toy.make_batch, 1) as make:
        make(0)
        pids = [str(child.pid) for child in multiprocessing.active_children()]
        path.write_text(" ".join(pids))
        os.kill(os.getpid(), signal.SIGKILL)


@needs_proc
@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
def test_workers_of_a_killed_parent_end(tmp_path):
    context = multiprocessing.get_context("fork")
    parent = context.Process(target=open_workers_and_die, args=(tmp_path / "pids",))
    parent.start()
    parent.join()
    assert parent.exitcode == -signal.SIGKILL
    pids = [int(pid) for pid in (tmp_path / "pids").read_text().split()]
    assert pids and wait_until(lambda: not any(is_alive(pid) for pid in pids), 60)


def test_a_maker_that_cannot_travel_is_named():
    with pytest.raises(UserError, match="pickled.*worker_kind=thread"):
        list(batches_ahead(lambda number: number, 0, 2, workers=1, kind="process"))
    assert multiprocessing.active_children() == []


def test_tensors_are_found_in_any_nest():
    Pair = namedtuple("Pair", "a b")

    @dataclass(frozen=True)
    class Nest:
        pair: Pair
        rows: slice
        more: dict

    one = torch.ones(2)
    nest = Nest(Pair(one, "name"), slice(0, 2), {"list": [one, 3], "tuple": (one, None)})
    twice = map_tensors(nest, lambda t: 2 * t)
    assert (twice.pair.a == 2).all() and twice.pair.b == "name" and twice.rows == slice(0, 2)
    assert (twice.more["list"][0] == 2).all() and twice.more["list"][1] == 3
    assert (twice.more["tuple"][0] == 2).all() and twice.more["tuple"][1] is None
    assert (one == 1).all()
