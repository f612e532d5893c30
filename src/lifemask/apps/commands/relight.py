"""`lifemask relight HEAD.glb --light LIGHT -o FILE` and `lifemask lights`: heads in new light."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lifemask.apps.session import report
from lifemask.assets import UserError

if TYPE_CHECKING:
    from PIL import Image

MOVING_FRAMES = 48


def relight(
    head: Annotated[Path, typer.Argument(metavar="HEAD.glb", help="A textured head.")],
    out: Annotated[
        Path,
        typer.Option(
            "--out", "-o", metavar="FILE", help=".png (a strip if there are frames), .webp or .mp4."
        ),
    ],
    light: Annotated[
        str,
        typer.Option(
            metavar="NAME|FILE",
            help="One of `lifemask lights`; a panorama .hdr, .exr or picture; or spherical"
            " harmonics .json.",
        ),
    ] = "softboxes",
    yaw: Annotated[float, typer.Option(help="Turn of the head to image right, degrees.")] = 0.0,
    pitch: Annotated[float, typer.Option(help="How far it looks up, degrees.")] = 0.0,
    light_yaw: Annotated[float, typer.Option(help="Turn of the light, degrees.")] = 0.0,
    exposure: Annotated[float, typer.Option(help="Stops; 1 is twice as bright.")] = 0.0,
    size: Annotated[int, typer.Option(help="Side of the pictures in px.")] = 512,
    frames: Annotated[
        int | None,
        typer.Option(
            help=f"Pictures of a turntable; default: 1, for .webp and .mp4 {MOVING_FRAMES}.",
            show_default=False,
        ),
    ] = None,
    turn: Annotated[str, typer.Option(metavar="head|light|both", help="What goes round.")] = "head",
    arc: Annotated[
        float, typer.Option(help="How far, degrees; below 360 it swings to and fro.")
    ] = 360.0,
    fps: Annotated[int, typer.Option(min=1, max=120, help="Of .webp and .mp4.")] = 24,
    background: Annotated[
        str, typer.Option(metavar="RRGGBB|none", help="Colour around the head.")
    ] = "1b1d21",
    maps: Annotated[
        bool, typer.Option("--maps/--no-maps", help="Relief, roughness and gloss, or matte colour.")
    ] = True,
) -> None:
    """Draw a head in a new light: one view, or a turntable of the head, the light, or both."""
    from lifemask.graphics.animation import check_animation, write_animation
    from lifemask.relighting import TurntableConfig, turntable

    moving = out.suffix.lower() in (".webp", ".mp4")
    color = background_srgb(background)
    config = TurntableConfig(
        frames=frames if frames is not None else MOVING_FRAMES if moving else 1,
        turn=turn,  # pyright: ignore[reportArgumentType]
        arc_deg=arc,
        yaw_deg=yaw,
        pitch_deg=pitch,
        light_yaw_deg=light_yaw,
        exposure=exposure,
        size=size,
        maps=maps,
        background_srgb=color,
    )
    config.check()
    check_animation(out, size, transparent=color is None)
    start = time.perf_counter()
    pictures = turntable(head, light, config)
    count = write_animation(_progress(pictures, config.frames), out, fps=fps)
    told = "1 picture" if count == 1 else f"{count} pictures"
    seconds = time.perf_counter() - start
    typer.echo(f"{out}: {told} of {size} px, light {light} ({seconds:.1f} s)")
    report(file=str(out), pictures=count, size=size, light=light, seconds=round(seconds, 3))


def lights(
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="DIR", help="Write NAME.hdr here.", show_default=False),
    ] = None,
    height: Annotated[int, typer.Option(min=16, max=2048, help="Rows of the panoramas.")] = 256,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace files.")] = False,
) -> None:
    """List our environment lights, or write them as panoramas that any renderer reads."""
    from lifemask.graphics.panoramas import PANORAMAS

    if out is not None:
        _write_lights(out, height, overwrite)
    folder = None if out is None else str(out)
    report(lights={name: light.line for name, light in PANORAMAS.items()}, folder=folder)
    for name, light in PANORAMAS.items():
        typer.echo(f"{name:10} {light.line}")


def background_srgb(text: str) -> tuple[float, float, float] | None:
    """The colour of six hexadecimal digits, in [0, 1]; None for "none".

    Raises:
        UserError: neither.
    """
    if text.lower() == "none":
        return None
    digits = text.removeprefix("#")
    if len(digits) != 6 or not set(digits.lower()) <= set("0123456789abcdef"):
        raise UserError(f"unknown background {text!r}; valid: six hexadecimal digits, or none")
    red, green, blue = (int(digits[k : k + 2], 16) / 255 for k in (0, 2, 4))
    return red, green, blue


def _write_lights(out: Path, height: int, overwrite: bool) -> None:
    from lifemask.graphics.environment import write_radiance_hdr
    from lifemask.graphics.panoramas import PANORAMAS, panorama

    files = {name: out / f"{name}.hdr" for name in PANORAMAS}
    there = [path for path in files.values() if path.exists()]
    if there and not overwrite:
        raise UserError(f"{there[0]} exists already; give --overwrite or another folder")
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name, path in files.items():
            write_radiance_hdr(path, panorama(name, height).numpy())
    except OSError as error:
        raise UserError(f"cannot write {out} ({error.strerror or error})") from error
    typer.echo(f"{out}: {len(files)} panoramas of {2 * height} x {height} px")


def _progress(pictures: Iterable[Image.Image], total: int) -> Iterator[Image.Image]:
    """The pictures, with a bar on the terminal when there are several."""
    from rich.console import Console

    console = Console(stderr=True)
    if total < 2 or not console.is_terminal:
        yield from pictures
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
    from rich.progress import TimeRemainingColumn as Remaining

    columns = (TextColumn("pictures"), BarColumn(), MofNCompleteColumn(), Remaining())
    with Progress(*columns, console=console, transient=True) as progress:
        yield from progress.track(pictures, total=total)
