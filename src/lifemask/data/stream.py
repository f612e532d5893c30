"""Batches of fresh renders from worker processes, through shared memory and without files.

with RenderStream(generator, batch=64, workers=2) as batches:
    for batch in batches:          # or batches(step), a function of the step alone
        batch["image"], batch["points"], ...
"""

from __future__ import annotations

import ctypes
import multiprocessing
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lifemask.data._sample_codec import leaves
from lifemask.data._synthetic_run import Truth, samples_of

if TYPE_CHECKING:
    from lifemask.data._workers import Workers
    from lifemask.data.synthetic import Generator

Batch = dict[str, Any]
SLOTS = 2
"""Batches per worker that are being made or wait to be taken: memory is bounded by them."""

AHEAD = 16
"""How far threads that ask for steps may overtake each other before a step is made twice."""


@dataclass(frozen=True)
class Order:
    """Which images a step shows; knows nothing of workers.

    The stream has `lanes` (times `ranks`) lanes. Step t reads lane t modulo `lanes`; a lane walks
    through whole shards, so that the skins and backgrounds of a shard are made once, and lanes
    start at different places of their first shard, so that they do not all change at once.

    Attributes:
        batch: images per step.
        lanes: shards that are mixed at a time.
        rank, ranks: this process of a data-parallel run, and how many there are; no image is
            shown by two.
        shard_size: of the generator.
    """

    batch: int
    lanes: int
    rank: int
    ranks: int
    shard_size: int

    def indices(self, step: int) -> NDArray[np.int64]:
        """(batch,) image numbers of a step."""
        lane, turn = step % self.lanes, step // self.lanes
        start = turn * self.batch + lane * self.shard_size // self.lanes
        place = start + np.arange(self.batch, dtype=np.int64)
        shard = lane * self.ranks + self.rank + self.lanes * self.ranks * (place // self.shard_size)
        return shard * self.shard_size + place % self.shard_size


@dataclass(frozen=True)
class Layout:
    """Arrays of one batch in a block of memory: (name, dtype, shape, offset in bytes) each."""

    arrays: tuple[tuple[str, str, tuple[int, ...], int], ...]
    size: int

    @staticmethod
    def of(sample: Any, batch: int) -> Layout:
        """Layout of batches of samples like this one."""
        arrays, offset = [], 0
        for name, value in leaves(sample):
            if isinstance(value, (str, list, tuple)):
                continue
            array = _array(value)
            shape = (batch, *array.shape)
            arrays.append((name, array.dtype.str, shape, offset))
            offset += -(-int(np.prod(shape)) * array.dtype.itemsize // 64) * 64
        return Layout(tuple(arrays), offset)

    def views(self, block: Any, slot: int) -> dict[str, NDArray]:
        """Arrays over one slot of a shared block."""
        base = slot * self.size
        return {
            name: np.ndarray(shape, dtype, block, base + offset)
            for name, dtype, shape, offset in self.arrays
        }


class RenderStream:
    """Endless batches of renders; a batch is a function of its step and the settings alone.

    A batch is a dict of arrays (batch, ...) named after the fields of `synthetic.Sample` ("a/b"
    for b in a), tuples for text, and "index", (batch,) numbers of the images. It belongs to the
    taker. Iterating and calling share the workers; calls may come from several threads and are
    fast while steps rise by about one. Memory is bounded by `SLOTS` batches per worker.

    Close it, use it in `with`, or let it go: no process and no shared memory stays, not even when
    this process is killed.
    """

    def __init__(
        self,
        generator: Generator,
        batch: int = 50,
        workers: int = 1,
        *,
        start: int = 0,
        lanes: int = 8,
        rank: int = 0,
        ranks: int = 1,
        truth: Truth = "none",
        sets: Sequence[str] = (),
        render: Callable[..., Iterator[Any]] = samples_of,
    ) -> None:
        """Start the workers.

        Args:
            generator: decides the images; workers get a copy.
            batch: images per step.
            workers: processes; 0 renders in this process, at the call.
            start: first step that will be asked for.
            lanes: shards mixed at a time; changes what a step shows. More workers than lanes
                are of no use.
            rank: of this process among `ranks` data-parallel ones.
            ranks: data-parallel processes.
            truth: "maps" adds truth per pixel.
            sets: landmark sets to add.
            render: (generator, banks, indices, truth, sets) -> samples of one shard's images.

        Raises:
            ValueError: a number out of range.
        """
        if batch < 1 or lanes < 1 or workers < 0 or not 0 <= rank < ranks or start < 0:
            raise ValueError(f"{batch=} {lanes=} {workers=} {start=} {rank=} {ranks=}")
        self.order = Order(batch, lanes, rank, ranks, generator.config.shard_size)
        self._lock = threading.Lock()
        self._step = start
        self._local: _Renderer | None = None
        self._crew: _Crew | None = None
        renderer = _Renderer(generator, self.order, truth, tuple(sets), render)
        if workers == 0:
            self._local = renderer
        else:
            self._crew = _Crew(renderer, min(workers, lanes), start)

    def __call__(self, step: int) -> Batch:
        """The batch of a step.

        Raises:
            WorkerError: a worker failed or was killed.
            ValueError: the stream is closed.
        """
        with self._lock:
            if self._local is not None:
                return self._local.batch(step)
            if self._crew is None:
                raise ValueError("the stream is closed")
            try:
                return self._crew.batch(step)
            except BaseException:
                self._close()
                raise

    def __iter__(self) -> Iterator[Batch]:
        """Batches from the first step on."""
        while True:
            step, self._step = self._step, self._step + 1
            yield self(step)

    @property
    def pids(self) -> list[int]:
        """Process ids of the workers."""
        return self._crew.workers.pids if self._crew else []

    def close(self) -> None:
        """End the workers and free the memory."""
        with self._lock:
            self._close()

    def _close(self) -> None:
        self._local = None
        if self._crew is not None:
            self._crew.workers.close()
            self._crew = None

    def __enter__(self) -> RenderStream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def stream(generator: Generator, batch: int = 50, workers: int = 1, **options: Any):
    """Yield batches without end; the workers go when the loop ends, however it does.

    Args:
        generator: decides the images.
        batch: images per step.
        workers: processes.
        options: of `RenderStream`.
    """
    with RenderStream(generator, batch, workers, **options) as batches:
        yield from batches


class _Crew:
    """The parent's side: hands steps to workers, a little ahead of those asked for."""

    workers: Workers

    def __init__(self, renderer: _Renderer, count: int, start: int) -> None:
        from lifemask.data._workers import Workers

        self._order, self._count = renderer.order, count
        self._layout = Layout.of(renderer.probe(), renderer.order.batch)
        blocks = [_shared(SLOTS * self._layout.size) for _ in range(count)]
        self._views = [[self._layout.views(b, s) for s in range(SLOTS)] for b in blocks]
        setup = partial(_WorkerState, renderer, self._layout)
        self.workers = Workers(count, setup, _work, shared=[(b,) for b in blocks])
        self._free = [list(range(SLOTS)) for _ in range(count)]
        self._made: dict[int, tuple[int, dict]] = {}
        self._sent: dict[int, int] = {}
        self._passed: dict[int, Batch] = {}
        self._next = [start] * count
        for worker in range(count):
            self._refill(worker)

    def batch(self, step: int) -> Batch:
        """A step's batch, copied out of the shared memory."""
        if step in self._passed:
            return self._passed.pop(step)
        worker = self._worker_of(step)
        if step not in self._made and step not in self._sent:
            ahead = step - self._next[worker]
            if not 0 <= ahead < AHEAD:
                self._jump(worker, step)
        while step not in self._made:
            self._pass_by(worker, step)
            self._listen()
        return self._take(step)

    def _take(self, step: int) -> Batch:
        worker = self._worker_of(step)
        slot, texts = self._made.pop(step)
        arrays = {name: view.copy() for name, view in self._views[worker][slot].items()}
        self._free[worker].append(slot)
        self._refill(worker)
        return {"index": self._order.indices(step), **arrays, **texts}

    def _pass_by(self, worker: int, step: int) -> None:
        """Put finished steps aside that stand in the way of a later one."""
        while step not in self._made and step not in self._sent:
            before = [s for s in self._made if self._worker_of(s) == worker]
            if not before:
                return
            self._passed[min(before)] = self._take(min(before))
        while len(self._passed) > AHEAD:
            del self._passed[min(self._passed)]

    def _worker_of(self, step: int) -> int:
        return step % self._order.lanes % self._count

    def _refill(self, worker: int) -> None:
        """Use free slots for the worker's next steps."""
        while self._free[worker]:
            step = self._next[worker]
            while self._worker_of(step) != worker:
                step += 1
            slot = self._free[worker].pop()
            self._sent[step] = slot
            self.workers.send(worker, (step, slot))
            self._next[worker] = step + 1

    def _jump(self, worker: int, step: int) -> None:
        """Forget what the worker has in hand and go on from a step."""
        while any(self._worker_of(s) == worker for s in self._sent):
            self._listen()
        for other in [s for s in self._made if self._worker_of(s) == worker]:
            self._free[worker].append(self._made.pop(other)[0])
        self._passed = {s: b for s, b in self._passed.items() if self._worker_of(s) != worker}
        self._next[worker] = step
        self._refill(worker)

    def _listen(self) -> None:
        for message in self.workers.receive():
            if message.kind == "done":
                step, texts = message.value
                self._made[step] = (self._sent.pop(step), texts)


@dataclass
class _Renderer:
    """Renders the batches of an order; keeps the banks of the shards it is in."""

    generator: Generator
    order: Order
    truth: Truth
    sets: tuple[str, ...]
    render: Callable[..., Iterator[Any]]

    def __post_init__(self) -> None:
        self._banks: dict[int, Any] = {}

    def samples(self, step: int) -> Iterator[Any]:
        """Samples of a step; a batch that leaves its shard is two calls."""
        indices = self.order.indices(step)
        number = indices // self.order.shard_size
        for shard in dict.fromkeys(number.tolist()):
            lane = shard % (self.order.lanes * self.order.ranks)
            if self._banks.get(lane, (None,))[0] != shard:
                self._banks.pop(lane, None)
                self._banks[lane] = (shard, self.generator.banks(shard))
            banks = self._banks[lane][1]
            chosen = indices[number == shard].tolist()
            yield from self.render(self.generator, banks, chosen, self.truth, self.sets)

    def probe(self) -> Any:
        """A sample, to learn the fields from."""
        small = replace(self.generator, config=replace(self.generator.config, bank_size=1))
        return next(iter(self.render(small, small.banks(0), [0], self.truth, self.sets)))

    def batch(self, step: int) -> Batch:
        """A step's batch."""
        rows: dict[str, list] = {}
        for sample in self.samples(step):
            for name, value in leaves(sample):
                rows.setdefault(name, []).append(value)
        index = self.order.indices(step)
        return {"index": index} | {
            name: tuple(v) if _is_text(v[0]) else np.stack([_array(x) for x in v])
            for name, v in rows.items()
        }


class _WorkerState:
    """A worker's renderer and its part of the shared memory."""

    def __init__(self, renderer: _Renderer, layout: Layout, block: Any) -> None:
        self.renderer = renderer
        self.views = [layout.views(block, slot) for slot in range(SLOTS)]


def _work(state: _WorkerState, task: tuple[int, int], report: Any) -> tuple[int, Batch]:
    del report
    step, slot = task
    views = state.views[slot]
    texts: dict[str, list] = {}
    for i, sample in enumerate(state.renderer.samples(step)):
        for name, value in leaves(sample):
            if _is_text(value):
                texts.setdefault(name, []).append(value)
            else:
                array, view = _array(value), views[name]
                if array.shape != view.shape[1:] or array.dtype != view.dtype:
                    raise ValueError(f"{name} changed from {view[0].shape} to {array.shape}")
                view[i] = array
    return step, {name: tuple(values) for name, values in texts.items()}


def _is_text(value: Any) -> bool:
    return isinstance(value, (str, list, tuple))


def _array(value: Any) -> NDArray:
    if isinstance(value, float):
        return np.float32(value)  # pyright: ignore[reportReturnType]
    return np.asarray(value)


def _shared(size: int) -> Any:
    """Shared memory without a name, which the kernel frees with its last user."""
    return multiprocessing.get_context("spawn").RawArray(ctypes.c_uint8, max(size, 1))
