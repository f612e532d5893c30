"""Worker processes: they pass on errors and leave with their parent, however it goes."""

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from fake_renders import act, gone, nothing
from lifemask.assets import UserError
from lifemask.data._workers import WorkerError, Workers

TESTS = Path(__file__).resolve().parents[1]
PARENT = """
import signal, sys, time
sys.path.insert(0, {folder!r})
from fake_renders import act, nothing
from lifemask.data._workers import Workers
if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's "&" ignores it
    workers = Workers(2, nothing, act)
    for worker in (0, 1):
        workers.send(worker, ("sleep", 60))
    print(*workers.pids, flush=True)
    {then}
"""


@pytest.fixture
def workers():
    crew = Workers(1, nothing, act)
    yield crew
    pids = crew.pids
    crew.close()
    crew.close()
    assert gone(pids)


def hear(workers: Workers, count: int):
    heard = []
    while len(heard) < count:
        heard += workers.receive()
    return [(m.worker, m.kind, m.value) for m in heard]


def test_tasks_in_order_reports_and_one_thread(workers):
    before = os.environ.get("OMP_NUM_THREADS")
    workers.send(0, ("double", 4))
    workers.send(0, ("double", 5))
    assert hear(workers, 5) == [
        (0, "ready", None), (0, "report", "begun"), (0, "done", ("1", 8)),
        (0, "report", "begun"), (0, "done", ("1", 10)),
    ]  # fmt: skip
    assert os.environ.get("OMP_NUM_THREADS") == before


@pytest.mark.parametrize(
    ("task", "error", "words"),
    [(("user", "mend it"), UserError, "^mend it$"), (("other", "odd"), WorkerError, "odd")],
)
def test_errors_arrive_as_what_they_are(workers, task, error, words):
    workers.send(0, task)
    with pytest.raises(error, match=words):
        hear(workers, 3)


def test_a_killed_worker_is_noticed(workers):
    hear(workers, 1)
    workers.send(0, ("sleep", 60))
    os.kill(workers.pids[0], signal.SIGKILL)
    with pytest.raises(WorkerError, match="-9"):
        hear(workers, 1)


@pytest.mark.parametrize(
    ("then", "number"),
    [("time.sleep(60)", signal.SIGKILL), ("time.sleep(60)", signal.SIGINT), ("1 / 0", None)],
    ids=["killed", "interrupted", "failed"],
)
def test_workers_leave_with_their_parent(tmp_path, then, number):
    script = tmp_path / "parent.py"
    script.write_text(PARENT.format(folder=str(TESTS), then=then))
    parent = subprocess.Popen(
        [sys.executable, script], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert parent.stdout is not None
    pids = [int(p) for p in parent.stdout.readline().split()]
    try:
        assert len(pids) == 2
        if number is not None:
            parent.send_signal(number)
        assert parent.wait(60) != 0
        assert gone(pids)
    finally:
        parent.stdout.close()
        for pid in (*pids, parent.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
