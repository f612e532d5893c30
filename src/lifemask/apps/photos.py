"""Many photos through one pipeline: a folder each, progress, failures told and summed up."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from lifemask.apps.session import SomeFailedError, report
from lifemask.assets import UserError

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import UInt8

    from lifemask.head import Head
    from lifemask.pipeline import Pipeline

log = logging.getLogger(__name__)

LICENCE = {"open": "usable for anything", "research": "research use only"}


@dataclass(frozen=True)
class PhotoJob:
    """A photo and the folder of its results.

    Attributes:
        photo: path; None is the sample portrait.
        folder: made by the job.
    """

    photo: Path | None
    folder: Path

    @property
    def name(self) -> str:
        """What messages call the photo."""
        return "astronaut (sample)" if self.photo is None else str(self.photo)

    @property
    def file_name(self) -> str:
        """What records call the photo."""
        return "astronaut.png" if self.photo is None else self.photo.name


def jobs_for(photos: Sequence[Path], out: Path) -> list[PhotoJob]:
    """A job per photo, its folder named like the photo without suffix.

    Raises:
        UserError: two photos would share a folder.
    """
    owner: dict[str, Path] = {}
    for photo in photos:
        stem = photo.stem or "photo"
        if stem in owner:
            raise UserError(
                f"{owner[stem]} and {photo} would both be written to {out / stem}; "
                "rename one, or give them different output folders"
            )
        owner[stem] = photo
    return [PhotoJob(photo, out / stem) for stem, photo in owner.items()]


def run_jobs(
    pipeline: Pipeline,
    jobs: Sequence[PhotoJob],
    formats: Sequence[str],
    overwrite: bool,
    landmarks: Path | None = None,
    maps: bool = True,
) -> None:
    """Reconstruct every photo; a photo that fails does not stop the others.

    Args:
        pipeline: its networks are loaded once.
        jobs: what to do.
        formats: files to write.
        overwrite: replace earlier results.
        landmarks: file of the face's landmarks, for a single photo.
        maps: give the skin a normal and a roughness map.

    Raises:
        SomeFailedError: some of several photos failed; told after the last one.
        UserError: all of them failed; AssetError at once, as none would work.
    """
    from lifemask.assets import AssetError
    from lifemask.outputs import check_formats

    formats = check_formats([name for name in formats if name])
    failures: list[str] = []
    done: list[dict[str, Any]] = []
    with _progress(jobs) as each:
        for job in each:
            start = time.perf_counter()
            try:
                record = _run_job(pipeline, job, formats, overwrite, landmarks, maps)
            except AssetError:
                raise
            except UserError as error:
                failures.append(str(error))
                done.append(_failed(job, "user", error))
                if len(jobs) > 1:
                    typer.echo(f"error: {error}", err=True)
                continue
            except Exception as error:  # a fault of ours; the other photos still get their heads
                if len(jobs) == 1:
                    raise
                log.exception("%s: please report this", job.name)
                failures.append(str(error))
                done.append(_failed(job, "fault", error))
                continue
            seconds = time.perf_counter() - start
            count = len(record["faces"])
            heads = "1 head" if count == 1 else f"{count} heads"
            typer.echo(f"{job.name}: {heads} in {job.folder} ({seconds:.1f} s)")
            done.append({**record, "seconds": round(seconds, 3)})
    report(photos=done, weights=pipeline.config.weights)
    if len(failures) < len(jobs):
        _tell_licence(pipeline)
    if failures:
        if len(jobs) == 1:
            raise UserError(failures[0])
        some = SomeFailedError if len(failures) < len(jobs) else UserError
        raise some(f"{len(failures)} of {len(jobs)} photos failed, see above")


def run_person(
    pipeline: Pipeline,
    jobs: Sequence[PhotoJob],
    formats: Sequence[str],
    overwrite: bool,
    *,
    maps: bool = True,
) -> None:
    """Reconstruct one person from several photos; all of them, or nothing is written.

    Args:
        pipeline: its networks are loaded once.
        jobs: the photos, each with the folder of its head.
        formats: files to write.
        overwrite: replace earlier results.
        maps: give the skin a normal and a roughness map.

    Raises:
        UserError: the first photo or folder that cannot be used.
    """
    from lifemask.outputs import check_formats, check_target, write_heads

    formats = check_formats([name for name in formats if name])
    for job in jobs:
        check_target(job.folder, overwrite)
    start = time.perf_counter()
    images = [_read(job) for job in jobs]
    names = [job.file_name for job in jobs]
    heads = pipeline.reconstruct_person(images, names=names)
    done: list[dict[str, Any]] = []
    for job, image, head in zip(jobs, images, heads, strict=True):
        files = write_heads(
            [head],
            job.folder,
            photo=image,
            photo_name=job.file_name,
            formats=formats,
            overwrite=overwrite,
            maps=maps,
        )
        typer.echo(f"{job.name}: 1 head in {job.folder}")
        _tell_warnings(job, [head])
        done.append(_record(job, [head], files))
    seconds = time.perf_counter() - start
    report(photos=done, weights=pipeline.config.weights, seconds=round(seconds, 3))
    typer.echo(f"one identity from {len(jobs)} photos ({seconds:.1f} s)")
    _tell_licence(pipeline)


def _run_job(
    pipeline: Pipeline,
    job: PhotoJob,
    formats: Sequence[str],
    overwrite: bool,
    landmarks: Path | None,
    maps: bool,
) -> dict[str, Any]:
    """Reconstruct one photo and write its folder; returns its entry for `--json`."""
    from lifemask.outputs import check_target, write_heads
    from lifemask.pipeline import named

    check_target(job.folder, overwrite)
    image = _read(job)
    heads = named(job.name, lambda: pipeline(image, landmarks=landmarks))
    numbered = pipeline.config.faces == "all"
    files = write_heads(
        heads,
        job.folder,
        photo=image,
        photo_name=job.file_name,
        formats=formats,
        numbered=numbered,
        overwrite=overwrite,
        maps=maps,
    )
    _tell_warnings(job, heads)
    return _record(job, heads, files, numbered)


def _record(
    job: PhotoJob, heads: Sequence[Head], files: Sequence[Path], numbered: bool = False
) -> dict[str, Any]:
    """The entry of a photo for `--json`; its faces are those of `params.json`."""
    from lifemask.outputs import PARAMS_NAME
    from lifemask.record import face_record

    names = [path.name for path in files if path.name != PARAMS_NAME]
    faces = []
    for i, head in enumerate(heads, start=1):
        own = re.compile(rf"[a-z]+-{i}(?!\d)" if numbered else "")
        faces.append(face_record(head, [name for name in names if own.match(name)]))
    return {"photo": job.name, "folder": str(job.folder), "error": None, "faces": faces}


def _failed(job: PhotoJob, kind: str, error: Exception) -> dict[str, Any]:
    """The entry of a photo that failed."""
    told = {"kind": kind, "message": str(error)}
    return {"photo": job.name, "folder": None, "error": told, "faces": []}


def _read(job: PhotoJob) -> UInt8[np.ndarray, "h w 3"]:
    from lifemask.pipeline import read_photo

    return sample_photo() if job.photo is None else read_photo(job.photo)


def _tell_warnings(job: PhotoJob, heads: Sequence[Head]) -> None:
    for head in heads:
        for warning in head.warnings:
            typer.echo(f"{job.name}: note: {warning}", err=True)


def _tell_licence(pipeline: Pipeline) -> None:
    weights = pipeline.config.weights
    typer.echo(f"weights: {weights} ({LICENCE[weights]})")


def sample_photo():
    """The portrait of Eileen Collins by NASA, public domain, that scikit-image carries."""
    from skimage.data import astronaut

    return astronaut()


@contextmanager
def _progress(jobs: Sequence[PhotoJob]) -> Iterator[Iterator[PhotoJob]]:
    """The jobs, with a bar on the terminal when there are several."""
    from rich.console import Console

    console = Console(stderr=True)
    if len(jobs) < 2 or not console.is_terminal:
        yield iter(jobs)
        return
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (TextColumn("photos"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        yield iter(progress.track(jobs))
