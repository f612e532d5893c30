"""Many photos through one pipeline: a folder each, progress, failures told and summed up."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from lifemask.assets import UserError

if TYPE_CHECKING:
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
) -> None:
    """Reconstruct every photo; a photo that fails does not stop the others.

    Args:
        pipeline: its networks are loaded once.
        jobs: what to do.
        formats: files to write.
        overwrite: replace earlier results.
        landmarks: file of the face's landmarks, for a single photo.

    Raises:
        UserError: every failure, after the last photo; AssetError at once, as none would work.
    """
    from lifemask.assets import AssetError
    from lifemask.outputs import check_formats

    formats = check_formats([name for name in formats if name])
    failures: list[str] = []
    with _progress(jobs) as each:
        for job in each:
            start = time.perf_counter()
            try:
                count = _run_job(pipeline, job, formats, overwrite, landmarks)
            except AssetError:
                raise
            except UserError as error:
                failures.append(str(error))
                if len(jobs) > 1:
                    typer.echo(f"error: {error}", err=True)
                continue
            except Exception as error:  # a fault of ours; the other photos still get their heads
                if len(jobs) == 1:
                    raise
                log.exception("%s: please report this", job.name)
                failures.append(str(error))
                continue
            seconds = time.perf_counter() - start
            heads = "1 head" if count == 1 else f"{count} heads"
            typer.echo(f"{job.name}: {heads} in {job.folder} ({seconds:.1f} s)")
    if len(failures) < len(jobs):
        weights = pipeline.config.weights
        typer.echo(f"weights: {weights} ({LICENCE[weights]})")
    if failures:
        several = f"{len(failures)} of {len(jobs)} photos failed, see above"
        raise UserError(failures[0] if len(jobs) == 1 else several)


def _run_job(
    pipeline: Pipeline,
    job: PhotoJob,
    formats: Sequence[str],
    overwrite: bool,
    landmarks: Path | None,
) -> int:
    """Reconstruct one photo and write its folder; returns the number of heads."""
    from lifemask.outputs import check_target, write_heads
    from lifemask.pipeline import read_photo

    check_target(job.folder, overwrite)
    image = read_photo(job.photo) if job.photo is not None else sample_photo()
    heads = _named(job, lambda: pipeline(image, landmarks=landmarks))
    write_heads(
        heads,
        job.folder,
        photo=image,
        photo_name=job.photo.name if job.photo else "astronaut.png",
        formats=formats,
        numbered=pipeline.config.faces == "all",
        overwrite=overwrite,
    )
    for head in heads:
        for warning in head.warnings:
            typer.echo(f"{job.name}: note: {warning}", err=True)
    return len(heads)


def sample_photo():
    """The portrait of Eileen Collins by NASA, public domain, that scikit-image carries."""
    from skimage.data import astronaut

    return astronaut()


def _named(job: PhotoJob, run):
    """Run; an error about a photo that does not name it is made to."""
    try:
        return run()
    except UserError as error:
        if str(job.photo) in str(error) or type(error).__name__ == "AssetError":
            raise
        raise type(error)(f"{job.name}: {error}") from error


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
