"""`lifemask video CLIP -o DIR`: a clip to animated heads, one for each person in it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lifemask.apps import session
from lifemask.apps.commands.reconstruct import Eyes, Mouth

if TYPE_CHECKING:
    from lifemask.video import VideoConfig, VideoResult

FAST_LOOK, USUAL_LOOK = 15, 10


def video(
    clip: Annotated[
        str,
        typer.Argument(
            metavar="CLIP",
            help="A video (mp4, mov, webm, gif, ...), a folder of frames, or a quoted pattern of"
            " them such as 'shot/*.png'.",
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="Made by the command.")],
    method: Annotated[
        str, typer.Option(metavar="pgn|dasl", help="Network that reads each frame.")
    ] = "pgn",
    weights: Annotated[
        str,
        typer.Option(
            metavar="open|research", help="open: usable for anything; research: research only."
        ),
    ] = "open",
    smooth: Annotated[
        str,
        typer.Option(
            metavar="offline|causal|none",
            help="offline: no lag, sees the whole clip; causal: a One-Euro filter, as a live"
            " camera needs it; none: frame by frame.",
        ),
    ] = "offline",
    people: Annotated[int, typer.Option(min=1, help="At most so many at once.")] = 8,
    fast: Annotated[
        bool,
        typer.Option("--fast", help="One look of the network per frame; the detector less often."),
    ] = False,
    fps: Annotated[
        float | None,
        typer.Option(help="Frames per second of pictures; default 25.", show_default=False),
    ] = None,
    texture: Annotated[
        str, typer.Option(metavar="auto|retexture|photo|none", help="How heads get their colour.")
    ] = "auto",
    refine: Annotated[
        bool,
        typer.Option("--refine/--no-refine", help="Refine the pose of the frame for the texture."),
    ] = True,
    mouth: Mouth = True,
    eyes: Eyes = True,
    overlay: Annotated[
        bool, typer.Option("--overlay/--no-overlay", help="Draw the heads over the clip.")
    ] = True,
    threads: Annotated[int, typer.Option(min=0, help="Of the networks; 0: as many as fit.")] = 1,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace earlier results.")
    ] = False,
) -> None:
    """Turn a clip into animated heads: one identity each, smooth pose and expression.

    Writes DIR/person-1/head.glb with keyframes of 52 blendshapes and of the head's pose,
    track.json and track.npz with the numbers of every frame, clip.json and overlay.mp4.
    """
    from lifemask.video.frames import load_ffmpeg, open_clip
    from lifemask.video.outputs import check_folder, write_video
    from lifemask.video.reconstruct import VideoReconstructor

    check_folder(out, overwrite)
    if overlay:
        load_ffmpeg()
    config = _config(method, weights, smooth, people, fast, texture, refine, threads, mouth, eyes)
    opened = open_clip(clip, fps)
    start = time.perf_counter()
    with _bar("frames", opened.expected) as told:
        result = VideoReconstructor(config)(opened, told)
    spent = time.perf_counter() - start
    with _bar("overlay", result.frames if overlay else 0) as told:
        shown = opened if overlay else None
        files = write_video(result, out, shown, overwrite=overwrite, on_frame=told)
    _tell(result, out, spent)
    _report(result, out, files, spent)


def _config(
    method: str, weights: str, smooth: str, people: int, fast: bool, texture: str, refine: bool,
    threads: int, mouth: bool, eyes: bool,
) -> VideoConfig:  # fmt: skip
    from lifemask.pipeline_config import check_choice
    from lifemask.video.smoothing import MODES, SmootherConfig
    from lifemask.video.tracking import TrackerConfig
    from lifemask.video.types import VideoConfig

    check_choice("smoothing", smooth, MODES)
    every = FAST_LOOK if fast else USUAL_LOOK
    return VideoConfig(
        method=method,  # pyright: ignore[reportArgumentType]
        weights=weights,  # pyright: ignore[reportArgumentType]
        flip=not fast,
        threads=threads,
        tracker=TrackerConfig(detect_every=every, people=people),
        smoother=SmootherConfig(mode=smooth),  # pyright: ignore[reportArgumentType]
        texture=texture,
        refine=refine,
        mouth=mouth,
        eyes=eyes,
    )


def _tell(result: VideoResult, out: Path, seconds: float) -> None:
    from lifemask.apps.photos import LICENCE

    heads = "1 person" if len(result.people) == 1 else f"{len(result.people)} people"
    typer.echo(f"{result.name}: {heads} in {out} ({result.frames} frames, {seconds:.1f} s)")
    for person in result.people:
        filled = int((~person.seen).sum())
        gap = f", {filled} of them filled in" if filled else ""
        first, last = int(person.frame[0]), int(person.frame[-1])
        typer.echo(f"  person {person.number}: frames {first} to {last}{gap}")
    for warning in result.warnings:
        typer.echo(f"{result.name}: note: {warning}", err=True)
    weights = result.people[0].head.weights
    typer.echo(f"weights: {weights} ({LICENCE[weights]})")


def _report(result: VideoResult, out: Path, files: list[Path], seconds: float) -> None:
    """The result for `--json`: what `clip.json` holds, and where everything lies."""
    from lifemask.video.outputs import clip_record

    record = clip_record(result) | {"clip": result.name}
    del record["lifemask"]
    session.report(
        folder=str(out), files=[path.relative_to(out).as_posix() for path in files],
        weights=result.people[0].head.weights, seconds=round(seconds, 3), **record,
    )  # fmt: skip


@contextmanager
def _bar(label: str, total: int | None) -> Iterator[Callable[[int], None] | None]:
    """What is told the number of each frame: a bar on the terminal, or nothing."""
    from rich.console import Console

    console = Console(stderr=True)
    if not console.is_terminal or total == 0:
        yield None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
    from rich.progress import TimeRemainingColumn as Remaining

    columns = (TextColumn(label), BarColumn(), MofNCompleteColumn(), Remaining())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(label, total=total)
        yield lambda frame: progress.update(task, completed=frame + 1)
