"""The generator on a Ray cluster: numbers of shards go to actors, which write the shards.

Each actor makes its generator once. A shard is written under another name and renamed, and its
bytes depend on its number alone: when a worker or a machine dies, Ray gives its shards to others,
and whatever was written twice is the same. All machines must see the folder and the data under the
same paths (a shared file system), and have lifemask installed.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from lifemask.assets import UserError
from lifemask.data._ray import LASTING, connected

if TYPE_CHECKING:
    from lifemask.data._synthetic_run import RenderJob, Report


class ShardActor:
    """Writes the shards it is given the numbers of; a UserError travels as text."""

    def __init__(self, job: RenderJob) -> None:
        from lifemask.data.shards import remove_leftovers

        self._job, self._error = job, ""
        remove_leftovers(job.folder)
        try:
            self._generator = job.create(job)
        except UserError as error:
            self._error = str(error)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """{"shard"} to {"entry": json of the manifest's entry, "error": ""}."""
        from lifemask.data._synthetic_run import make_shard

        if self._error:
            return {"entry": "", "error": self._error}
        try:
            entry = make_shard(self._job, self._generator, int(row["shard"]), lambda *_: None)
        except UserError as error:
            return {"entry": "", "error": str(error)}
        return {"entry": json.dumps(entry), "error": ""}


def render_on_ray(
    job: RenderJob, missing: list[int], workers: int, report: Report
) -> Iterator[dict]:
    """Entries of shards as the cluster completes them.

    Uses the Ray this process is connected to, else the cluster of $RAY_ADDRESS, else starts one on
    this machine with a CPU per worker and stops it at the end.

    Args:
        job: what to render and where to.
        missing: numbers of the shards to write.
        workers: actors, one CPU each.
        report: told about complete shards.

    Raises:
        UserError: ray is not installed, or an actor cannot read the data.
    """
    try:
        import ray.data
    except ImportError as error:
        raise UserError("--engine ray needs: pip install 'lifemask[scale]'") from error
    actors = max(1, min(workers, len(missing)))
    absolute = replace(
        job, folder=job.folder.resolve(), data=job.data.resolve(),
        photo_skins=None if job.photo_skins is None else job.photo_skins.resolve(),
    )  # fmt: skip
    with connected(actors):
        rows = ray.data.from_items(
            [{"shard": shard} for shard in missing], override_num_blocks=len(missing)
        ).map(
            ShardActor,  # pyright: ignore[reportArgumentType]
            fn_constructor_args=(absolute,),
            compute=ray.data.ActorPoolStrategy(size=actors, max_tasks_in_flight_per_actor=1),
            **LASTING,
        )
        for row in rows.iter_rows():
            if row["error"]:
                raise UserError(row["error"])
            entry = json.loads(row["entry"])
            report(entry["shard"], entry["count"])
            yield entry
