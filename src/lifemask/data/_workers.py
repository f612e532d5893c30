"""Worker processes that outlive neither their parent nor an error, for rendering."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any, Literal

from lifemask.assets import UserError

Work = Callable[[Any, Any, Callable[[Any], None]], Any]
ONE_THREAD = {
    name: "1"
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")
}
GRACE_S = 2.0


@dataclass(frozen=True)
class Message:
    """What a worker says.

    Attributes:
        worker: its number.
        kind: "ready" once, then per task any number of "report" and one "done".
        value: of the report or the result; None when ready.
    """

    worker: int
    kind: Literal["ready", "report", "done"]
    value: Any = None


class WorkerError(RuntimeError):
    """A worker failed or was killed; the message holds its traceback or exit status."""


class Workers:
    """Processes that each set up once and then work on tasks, one at a time.

    They are started afresh (spawn), with one thread each, so that results do not depend on how
    many there are. They end with `close`, with this object, and within moments when the parent is
    killed: a thread in each waits for the parent's end. They leave interrupts to the parent.
    """

    def __init__(
        self,
        count: int,
        setup: Callable[..., Any],
        work: Work,
        *,
        shared: list[tuple] | None = None,
    ) -> None:
        """Start the processes.

        Args:
            count: how many.
            setup: makes what `work` needs, in each worker; picklable.
            work: (state, task, report) -> result; picklable. `report` sends a value meanwhile.
            shared: per worker the arguments of `setup`, e.g. shared arrays; default none.
        """
        context = multiprocessing.get_context("spawn")
        self._pipes: list[Connection] = []
        self._processes: list[Any] = []
        self._stop = weakref.finalize(self, _stop, self._pipes, self._processes)
        try:
            with _environment(ONE_THREAD):
                for i in range(count):
                    ours, theirs = context.Pipe()
                    self._pipes.append(ours)
                    arguments = (theirs, work, shared[i] if shared else ())
                    process = context.Process(target=_serve, args=arguments, daemon=True)
                    process.start()
                    self._processes.append(process)
                    theirs.close()
            for i in range(count):  # they have started together; a large setup blocks
                self.send(i, setup)
        except BaseException:
            self.close()
            raise

    @property
    def pids(self) -> list[int]:
        """Process ids by worker number."""
        return [p.pid for p in self._processes]

    def send(self, worker: int, task: Any) -> None:
        """Give a worker its next task; it takes them in order.

        Raises:
            WorkerError: it is gone.
        """
        try:
            self._pipes[worker].send(task)
        except OSError as error:
            raise self._death(worker) from error

    def receive(self, timeout: float | None = None) -> list[Message]:
        """What the workers have said; waits for the first word, at most `timeout` seconds.

        Raises:
            WorkerError: a worker raised or died.
            UserError: a worker raised one.
        """
        heard = []
        ready: list[Any] = wait(self._pipes, timeout)
        for pipe in ready:
            worker = self._pipes.index(pipe)
            try:
                kind, value = pipe.recv()
            except (EOFError, OSError) as error:
                raise self._death(worker) from error
            if kind == "user error":
                raise UserError(value)
            if kind == "error":
                raise WorkerError(f"a render worker failed:\n{value}")
            heard.append(Message(worker, kind, value))
        return heard

    def close(self) -> None:
        """End all workers now; safe to call again."""
        self._stop()

    def _death(self, worker: int) -> WorkerError:
        process = self._processes[worker]
        process.join(GRACE_S)
        return WorkerError(
            f"render worker {worker} ended with status {process.exitcode}"
            " (-9: killed, often for lack of memory)"
        )


def _stop(pipes: list[Connection], processes: list[Any]) -> None:
    for process in processes:
        process.terminate()
    for pipe in pipes:
        pipe.close()
    for process in processes:
        process.join(GRACE_S)
        if process.is_alive():
            process.kill()
            process.join()
        process.close()


def _serve(pipe: Connection, work: Work, shared: tuple) -> None:
    """A worker's life."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _leave)
    threading.Thread(target=_watch_parent, daemon=True).start()

    def report(value: Any) -> None:
        pipe.send(("report", value))

    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):
        try:
            state = pipe.recv()(*shared)
            pipe.send(("ready", None))
            while True:
                task = pipe.recv()
                pipe.send(("done", work(state, task, report)))
        except (EOFError, BrokenPipeError, ConnectionResetError):
            raise
        except UserError as error:
            pipe.send(("user error", str(error)))
        except Exception:
            pipe.send(("error", traceback.format_exc()))


def _leave(*_: object) -> None:
    sys.exit(143)


def _watch_parent() -> None:
    """End this process with its parent, however that ends."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)  # unfinished files are removed on the way out
        time.sleep(GRACE_S)
        os._exit(1)


@contextlib.contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    """Environment variables for the processes that start meanwhile."""
    old = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in old.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
