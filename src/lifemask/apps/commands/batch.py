"""`lifemask batch SRC... -o DIR`: any number of photos to heads; resumable, on a cluster too."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lifemask.apps import session
from lifemask.apps.commands import reconstruct as one
from lifemask.apps.cores import usable_cores
from lifemask.apps.session import SomeFailedError

if TYPE_CHECKING:
    from lifemask.batch.job import BatchJob
    from lifemask.batch.run import Status

Sources = Annotated[
    list[str],
    typer.Argument(
        metavar="SRC...",
        help="Folders, photos, patterns, lists (.txt, .csv) or WebDataset shards (.tar).",
    ),
]


def batch(
    sources: Sources,
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="DIR", help="A folder for this run alone.")
    ],
    engine: Annotated[
        str, typer.Option(metavar="local|ray", help="Processes of this machine, or a Ray cluster.")
    ] = "local",
    workers: Annotated[
        int | None, typer.Option(min=1, help="One core each; default: the cores of this machine.")
    ] = None,
    layout: Annotated[
        str,
        typer.Option(metavar="folders|shards", help="A folder per photo, or WebDataset tars."),
    ] = "folders",
    shard_size: Annotated[int, typer.Option(min=1, help="Photos per shard.")] = 500,
    formats: one.Formats = "glb,json,png",
    method: one.Method = "pgn",
    map_source: one.MapSource = None,
    shape: one.Shape = None,
    detail: one.Detail = "auto",
    texture: one.Texture = "auto",
    weights: one.Weights = "open",
    faces: Annotated[
        str, typer.Option(metavar="largest|all", help="Which faces of a photo.")
    ] = "largest",
    maps: one.Maps = True,
    camera: one.CameraName = "orthographic",
    refine: one.Refine = True,
    mouth: one.Mouth = True,
    eyes: one.Eyes = True,
    device: one.Device = "cpu",
    runtime: Annotated[
        str, typer.Option(metavar="onnx|torch", help="What runs the networks, on the CPU.")
    ] = "onnx",
    limit: Annotated[
        int | None,
        typer.Option(min=1, help="Only the first so many photos; may grow.", show_default=False),
    ] = None,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Try photos again that failed before.")
    ] = False,
    timeout: Annotated[
        float, typer.Option(min=0, help="Seconds after which a photo fails; 0: never.")
    ] = 600.0,
    recycle: Annotated[
        int, typer.Option(min=0, help="Photos after which a process is replaced; 0: never.")
    ] = 1000,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Only count, try three photos, and tell what it takes."),
    ] = False,
) -> None:
    """Turn any number of photos into heads.

    Goes on where an earlier run of the same settings stopped, killed or not; no photo is done
    twice. DIR gets heads/ or shards/, failures.csv and summary.json. Exit status: 0 if every photo
    has its head, 3 if some failed, 2 for wrong options, 130 if interrupted.
    """
    from lifemask.batch.job import BatchJob
    from lifemask.pipeline_config import check_choice

    check_choice("engine", engine, ("local", "ray"))
    check_choice("runtime", runtime, ("onnx", "torch"))
    config = one.settings(
        method, map_source, shape, camera, weights=weights, detail=detail, texture=texture,
        faces=faces, refine=refine, mouth=mouth, eyes=eyes, device=device, engine=runtime,
    )  # fmt: skip
    job = BatchJob(
        config=config,
        folder=out,
        formats=tuple(dict.fromkeys(name for name in formats.split(",") if name)),
        maps=maps,
        layout=layout,  # pyright: ignore[reportArgumentType]
        shard_size=shard_size,
        timeout_s=timeout,
        recycle=recycle,
    )
    crew = workers or usable_cores()
    if dry_run:
        _tell_estimate(job, sources, crew, limit, retry_failed)
        return
    status = _run(job, sources, engine, crew, limit, retry_failed)
    if status.all_failed:
        raise SomeFailedError(f"{status.all_failed:,} of {status.photos:,} photos have no head")


def _run(
    job: BatchJob,
    sources: list[str],
    engine: str,
    workers: int,
    limit: int | None,
    retry_failed: bool,
) -> Status:
    from lifemask.apps.batch_report import Display, tell_result
    from lifemask.batch.run import run_batch

    old = signal.signal(signal.SIGTERM, _interrupt)  # a spot machine's notice: end in order
    display = Display()
    try:
        with display:
            status = run_batch(
                job, sources, engine=engine, workers=workers, limit=limit,  # pyright: ignore
                retry_failed=retry_failed, progress=display.show,
            )  # fmt: skip
    except KeyboardInterrupt:
        typer.echo(f"{display.words()}; the same command goes on from here", err=True)
        raise
    finally:
        signal.signal(signal.SIGTERM, old)
    tell_result(job, status, workers)
    session.report(
        folder=str(job.folder), photos=status.photos, failed=status.all_failed,
        with_heads=status.found_done + status.done, heads_this_run=status.heads,
    )  # fmt: skip
    return status


def _tell_estimate(
    job: BatchJob, sources: list[str], workers: int, limit: int | None, retry_failed: bool
) -> None:
    from lifemask.apps.batch_report import tell_estimate
    from lifemask.batch.estimate import estimate

    found = estimate(job, sources, limit, retry_failed)
    tell_estimate(found, workers)
    session.report(
        photos=len(found.listing.items), done=found.found_done, failed=found.found_failed,
        to_do=found.todo, seconds_per_photo=found.photo_s, bytes_per_photo=found.photo_bytes,
    )  # fmt: skip


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt
