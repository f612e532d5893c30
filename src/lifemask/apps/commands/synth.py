"""`lifemask synth -o DIR`: labelled renders without limit, in shards; resumable."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lifemask.apps.cores import usable_cores
from lifemask.apps.session import report
from lifemask.assets import UserError

if TYPE_CHECKING:
    from lifemask.data._synthetic_run import RenderJob

FAMILIES = ("open", "research")
CHOICES = {
    "family": FAMILIES,
    "format": ("shards", "cache"),
    "truth": ("none", "maps"),
    "engine": ("local", "ray"),
    "image format": ("jpg", "png"),
    "device": ("cpu", "cuda"),
}


def synth(
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="Where shards go.")],
    count: Annotated[int, typer.Option(help="Images in all; may grow in a later run.")],
    data: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Folder with skins/ and hdri/.", envvar="LIFEMASK_DATA"),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of everything drawn at random.")] = 0,
    size: Annotated[int, typer.Option(help="Side of the images in px.")] = 128,
    family: Annotated[str, typer.Option(metavar="open|research", help="Material.")] = "open",
    photo_skins: Annotated[
        Path | None, typer.Option(metavar="FILE.npz", help="Photo textures of the research family.")
    ] = None,
    form: Annotated[
        str,
        typer.Option("--format", metavar="shards|cache", help="WebDataset tars, or plain arrays."),
    ] = "shards",
    truth: Annotated[
        str, typer.Option(metavar="none|maps", help="Depth, normals, uv, albedo maps, or not.")
    ] = "none",
    sets: Annotated[
        str,
        typer.Option(
            metavar="NAME,...", help="Landmark sets to add, e.g. mediapipe478; vertices: the mesh."
        ),
    ] = "",
    image_format: Annotated[str, typer.Option(metavar="jpg|png", help="Of shards.")] = "jpg",
    workers: Annotated[
        int | None, typer.Option(min=0, help="Processes or ray actors; default: one per core.")
    ] = None,
    engine: Annotated[
        str, typer.Option(metavar="local|ray", help="This machine, or a ray cluster.")
    ] = "local",
    device: Annotated[str, typer.Option(metavar="cpu|cuda", help="Where to render.")] = "cpu",
    face_model: Annotated[str, typer.Option(metavar="NAME", help="Face model.")] = "lifemask",
    shard_size: Annotated[int, typer.Option(help="Images per shard.")] = 1000,
    bank_size: Annotated[int, typer.Option(help="Skins and backgrounds per shard.")] = 60,
    frames: Annotated[
        int, typer.Option(min=1, help="Images in a row of one person; divides the shard size.")
    ] = 1,
    lids: Annotated[
        float, typer.Option(help="Share of faces with lids drawn anew, from open to shut.")
    ] = 0.0,
) -> None:
    """Render labelled faces; goes on where an earlier run of the same settings stopped."""
    from lifemask.data._synthetic_run import RenderJob, run
    from lifemask.data.synthetic import SyntheticConfig

    given = (family, form, truth, engine, image_format, device)
    for (name, valid), value in zip(CHOICES.items(), given, strict=True):
        if value not in valid:
            raise UserError(f"unknown {name} {value!r}; valid: {', '.join(valid)}")
    if data is None:
        raise UserError("name the folder with skins/ and hdri/: --data DIR, or LIFEMASK_DATA")
    config = SyntheticConfig(
        family=family,  # pyright: ignore[reportArgumentType]
        seed=seed,
        size=size,
        shard_size=shard_size,
        bank_size=bank_size,
        frames=frames,
        lids=lids,
    )
    job = RenderJob(
        config=config,
        folder=out,
        count=count,
        data=data,
        photo_skins=photo_skins,
        face_model=face_model,
        form=form,  # pyright: ignore[reportArgumentType]
        truth=truth,  # pyright: ignore[reportArgumentType]
        sets=tuple(name for name in sets.split(",") if name),
        image_format=image_format,  # pyright: ignore[reportArgumentType]
    )
    if device == "cuda":
        job = _on_cuda(job)
    # a CUDA run too: each process draws on its own core, and all share the device
    crew = usable_cores() if workers is None else workers
    with _Bar(count) as bar:
        manifest = run(job, engine, crew, bar.report)  # pyright: ignore[reportArgumentType]
    typer.echo(
        f"{out}: {manifest['count']} images in {len(manifest['shards'])} shards, "
        f"licence: {manifest['licence']}{bar.summary()}"
    )
    report_run(out, manifest)


def report_run(out: Path, manifest: dict[str, Any]) -> None:
    """What a run of synth or pairs tells with `--json`."""
    report(
        folder=str(out),
        count=manifest["count"],
        shards=len(manifest["shards"]),
        licence=manifest["licence"],
    )


def _on_cuda(job: RenderJob) -> RenderJob:
    """The job, rendered in batches on the GPU."""
    import torch

    from lifemask.data.torch_engine import DeviceSamples

    if not torch.cuda.is_available():
        raise UserError("no CUDA device here; use --device cpu")
    if job.form == "cache":
        raise UserError("--device cuda writes --format shards only")
    return replace(job, device="cuda", render=DeviceSamples("cuda"))


class _Bar:
    """A progress bar whose speed and time left count only images made in this run."""

    def __init__(self, total: int) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

        console = Console(stderr=True)
        self._progress = Progress(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
            TextColumn("{task.fields[speed]}"), console=console, transient=True,
            disable=not console.is_terminal,
        )  # fmt: skip
        self._task = self._progress.add_task("images", total=total, speed="starting")
        self._total = total
        self._made = 0
        self._started = time.monotonic()

    def report(self, found: int, made: int) -> None:
        """So many images were there already, and so many were made since."""
        if self._made == 0 and made == 0:
            self._started = time.monotonic()
        self._made = made
        left = self._total - found - made
        self._progress.update(self._task, completed=found + made, speed=self.words(left))

    def summary(self) -> str:
        """Speed of this run in words; "" if it made nothing."""
        seconds = time.monotonic() - self._started
        return f", {self._made} made at {self._made / seconds:.1f} images/s" if self._made else ""

    def words(self, left: int) -> str:
        """Speed of this run, and the time that so many images will take."""
        if self._made == 0:
            return "starting"
        speed = self._made / max(time.monotonic() - self._started, 1e-3)
        minutes, seconds = divmod(round(left / speed), 60)
        return f"{speed:.1f} images/s, {minutes // 60}:{minutes % 60:02d}:{seconds:02d} left"

    def __enter__(self) -> _Bar:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()
