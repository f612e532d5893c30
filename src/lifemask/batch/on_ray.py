"""A batch on a Ray cluster: Ray Data hands photos to actors, which write the heads themselves.

    chunks of photos --ray.data.from_items--> map_batches(actors) --> outcomes --> journal

An actor keeps a worker process with its networks, so that a photo that kills the process does not
kill the actor. It notes each outcome in a journal of its chunk before it goes on: when actor or
machine dies, Ray gives the chunk to another, which goes on after the last photo that was noted, and
a driver that dies loses nothing that was done. All machines must see the sources and the folder
under the same paths (a shared file system), and have lifemask installed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from lifemask.assets import UserError
from lifemask.batch.crew import Crew
from lifemask.batch.job import PARTS, BatchJob
from lifemask.batch.journal import Journal, Outcome, Sealed, read_journal
from lifemask.batch.layouts import is_there, pack
from lifemask.batch.sources import Item, absolute
from lifemask.data._ray import LASTING, connected

if TYPE_CHECKING:
    from lifemask.batch.run import Runner

CHUNK = 32
"""Photos per task at most: what a machine that dies may have to begin again is one of them."""
TASKS_PER_ACTOR = 8


class PhotoActor:
    """Works on chunks of photos in a process of its own; a UserError travels as text."""

    def __init__(self, job: BatchJob) -> None:
        self._job = job
        self._crew = Crew(job, 1, keep=True)

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[str]]:
        """{"name", "items"} of a chunk, one row, to {"name", "outcomes", "error"}."""
        name = str(batch["name"][0])
        items = [Item(**values) for values in json.loads(str(batch["items"][0]))]
        try:
            outcomes, error = [asdict(o) for o in self._outcomes(name, items)], ""
        except UserError as wrong:
            outcomes, error = [], str(wrong)
        return {"name": [name], "outcomes": [json.dumps(outcomes)], "error": [error]}

    def _outcomes(self, name: str, items: list[Item]) -> Iterator[Outcome]:
        path = self._job.part(PARTS) / f"{name}.jsonl"
        noted = {e.key: e for e in read_journal(path) if isinstance(e, Outcome)}
        known = [e for e in noted.values() if not e.done or is_there(self._job, e.key)]
        yield from known
        keys = {e.key for e in known}
        with Journal(path) as journal:
            for outcome in self._crew.outcomes(i for i in items if i.key not in keys):
                journal.add(outcome, sync=True)
                yield outcome


class RayRunner:
    """Actors of the Ray that this process is connected to."""

    def __init__(self, job: BatchJob, workers: int) -> None:
        self._job, self._workers = job, max(1, workers)

    def outcomes(self, items: Iterable[Item]) -> Iterator[Outcome]:
        """What becomes of photos, in any order.

        Raises:
            UserError: weights are missing, or the results cannot be written.
        """
        import ray.data

        chunks = _chunks(list(items), self._workers)
        if not chunks:
            return
        rows = ray.data.from_items(chunks, override_num_blocks=len(chunks)).map_batches(
            PhotoActor,  # pyright: ignore[reportArgumentType]
            fn_constructor_args=(self._job,),
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(
                size=min(self._workers, len(chunks)), max_tasks_in_flight_per_actor=2
            ),
            **LASTING,
        )
        for row in rows.iter_rows():
            if row["error"]:
                raise UserError(row["error"])
            yield from (Outcome(**values) for values in json.loads(row["outcomes"]))

    def pack(self, job: BatchJob, shard: int, keys: list[str], done: list[str]) -> Future[Sealed]:
        """Begin to put a shard together, on any machine of the cluster."""
        import ray

        task = ray.remote(num_cpus=0, max_retries=3)(pack)
        return task.remote(self._job, shard, keys, done).future()


@contextmanager
def on_ray(job: BatchJob, workers: int) -> Iterator[Runner]:
    """Actors of the Ray this process is connected to, else of the cluster of $RAY_ADDRESS.

    Without either, a Ray with a CPU per worker starts on this machine and stops at the end.

    Args:
        job: what to do.
        workers: actors, one CPU each.

    Raises:
        UserError: ray is not installed.
    """
    try:
        import ray.data  # noqa: F401
    except ImportError as error:
        raise UserError("--engine ray needs: pip install 'lifemask[scale]'") from error
    with connected(max(1, workers)):
        yield RayRunner(replace(job, folder=absolute(job.folder)), workers)


def _chunks(items: list[Item], workers: int) -> list[dict[str, str]]:
    """Photos in rows for Ray: small enough to share the work, large enough to be few."""
    size = max(1, min(CHUNK, len(items) // (workers * TASKS_PER_ACTOR)))
    rows = []
    for start in range(0, len(items), size):
        chosen = items[start : start + size]
        name = hashlib.sha1("\n".join(i.key for i in chosen).encode()).hexdigest()[:16]
        rows.append({"name": name, "items": json.dumps([asdict(item) for item in chosen])})
    return rows
