"""Streams of renders: the same batches from any number of workers, and nothing stays behind."""

import copy
import signal
import subprocess
import sys
import threading
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fake_renders import SHARD, FakeGenerator, fake_render, gone
from lifemask.data._workers import WorkerError
from lifemask.data.stream import AHEAD, Layout, Order, RenderStream, stream

TESTS = Path(__file__).resolve().parents[1]
PARENT = """
import sys, time
sys.path.insert(0, {folder!r})
from fake_renders import FakeGenerator, fake_render
from lifemask.data.stream import RenderStream
if __name__ == "__main__":
    batches = RenderStream(FakeGenerator(), 3, 2, render=fake_render)
    batches(0)
    print(*batches.pids, flush=True)
    time.sleep(60)
"""


def equal(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(
        np.array_equal(a[k], b[k]) and getattr(a[k], "dtype", 0) == getattr(b[k], "dtype", 0)
        for k in a
        if k != "extra/pid"
    )


@pytest.fixture(scope="module")
def expected():
    """Batches rendered in this process."""
    with RenderStream(FakeGenerator(), 5, 0, lanes=3, render=fake_render) as batches:
        return list(islice(batches, 24))


@given(
    st.integers(1, 9), st.integers(1, 6), st.integers(1, 3), st.integers(4, 30), st.integers(0, 20)
)
def test_no_image_comes_twice_and_none_is_left_out(batch, lanes, ranks, size, first):
    orders = [Order(batch, lanes, rank, ranks, size) for rank in range(ranks)]
    steps = range(lanes * 40)
    seen = np.concatenate([o.indices(s) for o in orders for s in steps])
    assert len(np.unique(seen)) == len(seen)
    assert np.array_equal(orders[0].indices(first), orders[0].indices(first))
    late = size * lanes * ranks  # the first shards are entered midway, later ones are whole
    whole = np.arange(late, late + size * lanes * ranks)
    assert np.isin(whole, seen).all() or 40 * batch < 2 * size


def test_a_batch_has_all_fields(expected):
    for step, batch in enumerate(expected):
        index = Order(5, 3, 0, 1, SHARD).indices(step)
        assert np.array_equal(batch["index"], index)
        assert batch["label"] == tuple(f"face {i}" for i in index)
        assert batch["age"].dtype == np.float32 and np.allclose(batch["age"], index / 8)
        assert np.array_equal(batch["extra/none"], np.stack([index, index], 1))
        assert batch["image"].shape == (5, 4, 4, 3) and batch["image"].dtype == np.uint8


def test_any_number_of_workers_gives_the_same_batches(expected):
    with RenderStream(FakeGenerator(), 5, 2, lanes=3, render=fake_render) as batches:
        got = list(islice(batches, 12))
        assert all(map(equal, got, expected))
        assert {p for b in got for p in b["extra/pid"].tolist()} == set(batches.pids)
        kept = copy.deepcopy(got[0])
        # a function of the step: backwards, again, far ahead, and as several threads ask for it
        for step in (3, 3, 23, 12, 13, 15, 14, 17, 16):
            assert equal(batches(step), expected[step])
        assert equal(got[0], kept), "a batch belongs to the taker"


def test_threads_that_overtake_each_other(expected):
    with RenderStream(FakeGenerator(), 5, 1, lanes=3, render=fake_render) as batches:
        got: dict[int, dict] = {}
        turns = [threading.Thread(target=lambda s=s: got.update({s: batches(s)})) for s in range(9)]
        for thread in reversed(turns):
            thread.start()
        for thread in turns:
            thread.join()
        assert all(equal(got[s], expected[s]) for s in range(9))
        crew = batches._crew
        assert crew is not None and len(crew._passed) <= AHEAD


@pytest.mark.parametrize("how", ["break", "error", "interrupt", "bad"])
def test_nothing_stays_when_the_loop_ends(how):
    shared = set(Path("/dev/shm").glob("pym*"))
    bad = 18 if how == "bad" else -1
    batches = RenderStream(FakeGenerator(bad=bad), 3, 1, lanes=1, render=fake_render)
    pids = batches.pids
    error = {"error": ZeroDivisionError, "interrupt": KeyboardInterrupt, "bad": WorkerError}
    try:
        with batches:
            for step, _ in enumerate(batches):
                if step == 2 and how == "break":
                    break
                if step == 2 and how != "bad":
                    raise error[how]
    except tuple(error.values()) as raised:
        assert type(raised) is error[how] and (how != "bad" or "no such face" in str(raised))
    assert gone(pids)
    with pytest.raises(ValueError, match="closed"):
        batches(0)
    assert set(Path("/dev/shm").glob("pym*")) <= shared


def test_nothing_stays_when_the_process_is_killed(tmp_path):
    script = tmp_path / "parent.py"
    script.write_text(PARENT.format(folder=str(TESTS)))
    parent = subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    pids = [int(p) for p in parent.stdout.readline().split()]
    parent.send_signal(signal.SIGKILL)
    parent.wait(60)
    parent.stdout.close()
    assert len(pids) == 2 and gone(pids)


def test_a_generator_function_closes_too():
    batches = stream(FakeGenerator(), 3, 0, render=fake_render)
    assert next(batches)["index"].tolist() == [0, 1, 2]
    batches.close()
    with pytest.raises(StopIteration):
        next(batches)


def test_memory_is_bounded_by_the_batch():
    sample = next(iter(fake_render(FakeGenerator(), 0, [0], "none", ())))
    layout = Layout.of(sample, 7)
    used = sum(np.dtype(d).itemsize * int(np.prod(s)) for _, d, s, _ in layout.arrays)
    assert used <= layout.size <= used + 64 * len(layout.arrays)
    block = bytearray(2 * layout.size)
    first, second = layout.views(block, 0), layout.views(block, 1)
    for array in second.values():
        array.fill(1)
    assert not any(array.any() for array in first.values()), "slots do not overlap"


@pytest.mark.parametrize(
    "wrong", [{"batch": 0}, {"lanes": 0}, {"workers": -1}, {"rank": 1}, {"start": -1}]
)
def test_numbers_out_of_range(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        RenderStream(FakeGenerator(), **wrong)
