"""Batches made ahead of their use, in order: in the loop, in threads, or in worker processes.

A batch is a function of its number alone, so neither the number nor the kind of the workers
changes what a run learns. Threads suit makers that spend their time outside Python's lock (numpy,
numba, torch); processes suit the rest, generators that render above all.
"""

from __future__ import annotations

import dataclasses
import os
import queue
import signal
import threading
import time
import traceback
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor

from lifemask.assets import UserError

Batch = TypeVar("Batch")
WorkerKind = Literal["thread", "process"]
PATIENCE_S = 10.0


class BatchError(RuntimeError):
    """A batch could not be made; the message holds the worker's traceback."""


def batches_ahead(
    make: Callable[[int], Batch],
    first: int,
    last: int,
    *,
    workers: int = 1,
    kind: WorkerKind = "thread",
    pin: bool = False,
) -> Generator[Batch, None, None]:
    """Batches `first` to `last - 1` in order, made a few ahead; close it to stop the workers.

    Args:
        make: number -> batch. Called from several threads at once; with processes it is pickled
            and sent to each of them, so it must be defined at the top of a module. What it
            returns comes back through shared memory where it is torch tensors, through a pipe
            otherwise.
        first: first number.
        last: one past the last number.
        workers: threads or processes; 0 makes each batch when it is asked for.
        kind: of the workers.
        pin: move the tensors into page-locked memory, from where a GPU fetches them by itself.

    Raises:
        BatchError: a worker process failed or died. Errors in threads come through as they are.
    """
    if workers <= 0:
        for number in range(first, last):
            yield pinned(make(number)) if pin else make(number)
        return
    with ExitStack() as stack:
        if kind == "process":
            make = stack.enter_context(worker_processes(make, workers))
        pool = ThreadPoolExecutor(workers, thread_name_prefix="batches")
        stack.callback(pool.shutdown, cancel_futures=True)
        waiting: dict[int, Future[Batch]] = {}
        for number in range(first, last):
            for ahead in range(number, min(number + 2 * workers + 1, last)):
                if ahead not in waiting:
                    waiting[ahead] = pool.submit(_made, make, ahead, pin)
            yield waiting.pop(number).result()


def _made(make: Callable[[int], Batch], number: int, pin: bool) -> Batch:
    return pinned(make(number)) if pin else make(number)


@contextmanager
def worker_processes(make: Callable[[int], Batch], count: int) -> Iterator[Callable[[int], Batch]]:
    """A stand-in for `make` that runs it in `count` processes; any number of threads may call it.

    The processes end with the block, with the parent (even one that is killed) and never hear
    Ctrl-C, so that the parent can finish its step.

    Raises:
        UserError: `make` cannot be pickled.
        BatchError: from the stand-in: the maker's traceback, or how the worker died.
    """
    import torch.multiprocessing as multiprocessing

    context = multiprocessing.get_context("spawn")
    idle: queue.SimpleQueue = queue.SimpleQueue()
    workers = []
    try:
        for _ in range(count):
            workers.append(_start_worker(context, make))
            idle.put(workers[-1])
        yield lambda number: _ask(idle, number)
    finally:
        _dismiss(workers)


def _start_worker(context: Any, make: Callable[[int], Any]) -> tuple[Any, Any]:
    """A worker process and our end of the pipe to it."""
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(make, theirs), daemon=True, name="batch worker")
    try:
        process.start()
    except OSError:
        ours.close()
        raise
    except Exception as error:
        ours.close()
        raise UserError(
            f"worker processes need a batch maker that can be pickled ({error}); "
            "use worker_kind=thread"
        ) from error
    finally:
        theirs.close()
    return process, ours


def _ask(idle: queue.SimpleQueue, number: int) -> Any:
    """Let an idle worker make a batch."""
    worker = idle.get()
    process, pipe = worker
    try:
        pipe.send(number)
        kind, value = pipe.recv()
    except (EOFError, OSError) as error:
        process.join(PATIENCE_S)
        raise BatchError(
            f"a batch worker died with exit code {process.exitcode} while it made batch {number}"
        ) from error
    finally:
        idle.put(worker)
    if kind == "batch":
        return value
    if kind == "user":
        raise UserError(value)
    raise BatchError(f"batch {number}:\n{value}")


def _serve(make: Callable[[int], Any], pipe: Any) -> None:
    """Body of a worker process: batches on demand until the parent hangs up."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    exit_with_parent()
    while True:
        try:
            number = pipe.recv()
        except (EOFError, OSError):
            return
        try:
            answer = ("batch", make(number))
        except UserError as error:
            answer = ("user", str(error))
        except Exception:
            answer = ("error", traceback.format_exc())
        try:
            pipe.send(answer)
        except (BrokenPipeError, ConnectionError):
            return


def _dismiss(workers: list[tuple[Any, Any]]) -> None:
    """Hang up, wait, and kill what does not go."""
    for _, pipe in workers:
        pipe.close()
    end = time.monotonic() + PATIENCE_S
    for process, _ in workers:
        process.join(max(end - time.monotonic(), 0.0))
        if process.is_alive():
            process.kill()
            process.join()
        process.close()


def exit_with_parent(period_s: float = 0.5) -> None:
    """From now on this process ends soon after its parent, however that one died."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(period_s)
        os._exit(1)

    threading.Thread(target=watch, name="parent watch", daemon=True).start()


def pinned(batch: Batch) -> Batch:
    """The batch with all tensors in page-locked memory; a copy. Needs a GPU."""
    return map_tensors(batch, lambda t: t if t.is_cuda else t.pin_memory())


def to_device(batch: Batch, device: torch.device) -> Batch:
    """The batch with all tensors on a device; from page-locked memory without waiting."""
    if device.type == "cpu":
        return batch
    return map_tensors(batch, lambda t: t.to(device, non_blocking=True))


def map_tensors(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """A value with every tensor in it changed; goes into dataclasses, tuples, lists and dicts."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, dict):
        return {k: map_tensors(v, change) for k, v in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(map_tensors(v, change) for v in value))
    if isinstance(value, list | tuple):
        return type(value)(map_tensors(v, change) for v in value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: getattr(value, f.name) for f in dataclasses.fields(value) if f.init}
        return dataclasses.replace(value, **{k: map_tensors(v, change) for k, v in fields.items()})
    return value
