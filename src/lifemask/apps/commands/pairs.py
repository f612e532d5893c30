"""`lifemask pairs -o DIR`: pictures with the exact surface they show, for RAFaRe; resumable."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lifemask.apps.commands.synth import _Bar, report_run
from lifemask.apps.cores import usable_cores
from lifemask.assets import UserError

SHEET = 24
"""Pairs on a contact sheet."""
POINTS = ((96, 24_000), (10_000, 60_000))
"""Points near the surface for lattices up to so many voxels per side."""


def pairs(
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="Where shards go.")],
    count: Annotated[int, typer.Option(help="Pairs in all; may grow in a later run.")],
    data: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Folder with skins/ and hdri/.", envvar="LIFEMASK_DATA"),
    ] = None,
    size: Annotated[int, typer.Option(help="Side of the pictures in px.")] = 128,
    grid: Annotated[int, typer.Option(help="Voxels of the lattice per side.")] = 96,
    box: Annotated[int, typer.Option(help="Side of the box filter in voxels, odd.")] = 3,
    near: Annotated[
        int | None, typer.Option(help="Points near the surface; default by the lattice.")
    ] = None,
    photos: Annotated[
        str, typer.Option(metavar="renders|aflw21|DIR", help="What heads are put into.")
    ] = "renders",
    mode: Annotated[
        str, typer.Option(metavar="pairs|fitted_only|renders_only", help="What a pair is.")
    ] = "pairs",
    heads: Annotated[
        str, typer.Option(metavar="lifemask|ict|both", help="Face models of the heads.")
    ] = "lifemask",
    warp: Annotated[
        float, typer.Option(metavar="MM", help="Bend heads off their model by up to so much, RMS.")
    ] = 0.0,
    blend: Annotated[
        str, typer.Option(metavar="poisson|paste", help="How heads join.")
    ] = "poisson",
    complete: Annotated[
        str, typer.Option(metavar="mesh|none", help="Render eyes and teeth, or not.")
    ] = "mesh",
    inpaint: Annotated[
        str, typer.Option(metavar="harmonic|net", help="What fills the gap beside a head.")
    ] = "harmonic",
    inpaint_weights: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Folder of inpaint-open or -research, for net."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of everything drawn at random.")] = 0,
    held_out: Annotated[
        bool, typer.Option("--held-out", help="Heads that are never trained on.")
    ] = False,
    workers: Annotated[
        int | None, typer.Option(min=0, help="Processes or ray actors; default: one per core.")
    ] = None,
    engine: Annotated[
        str, typer.Option(metavar="local|ray", help="This machine, or a ray cluster.")
    ] = "local",
    shard_size: Annotated[int, typer.Option(help="Pairs per shard.")] = 100,
    sheet: Annotated[
        Path | None, typer.Option(metavar="FILE.png", help="Contact sheet of the first pairs.")
    ] = None,
) -> None:
    """Make pairs; goes on where an earlier run of the same settings stopped."""
    from lifemask.data._pairs_run import run_pairs
    from lifemask.data.pairs import DEVELOPMENT_SEED, PairsConfig

    if data is None:
        raise UserError("name the folder with skins/ and hdri/: --data DIR, or LIFEMASK_DATA")
    if engine not in ("local", "ray"):
        raise UserError(f"unknown engine {engine!r}; valid: local, ray")
    config = PairsConfig(
        seed=seed + DEVELOPMENT_SEED * held_out,
        size=size,
        grid=grid,
        box=box,
        near=near or next(n for side, n in POINTS if grid <= side),
        photos=photos,
        mode=mode,  # pyright: ignore[reportArgumentType]
        heads=heads,  # pyright: ignore[reportArgumentType]
        blend=blend,  # pyright: ignore[reportArgumentType]
        complete=complete,  # pyright: ignore[reportArgumentType]
        inpaint=inpaint,  # pyright: ignore[reportArgumentType]
        inpaint_weights="" if inpaint_weights is None else str(inpaint_weights),
        shard_size=shard_size,
        warp_mm=warp,
    )
    crew = usable_cores() if workers is None else workers
    with _Bar(count) as bar:
        manifest = run_pairs(config, out, count, data, engine, crew, bar.report)  # pyright: ignore[reportArgumentType]
    typer.echo(
        f"{out}: {manifest['count']} pairs in {len(manifest['shards'])} shards, "
        f"licence: {manifest['licence']}{bar.summary()}"
    )
    typer.echo(_told(manifest))
    report_run(out, manifest)
    if sheet is not None:
        _draw_sheet(out, sheet)


def _draw_sheet(folder: Path, path: Path) -> None:
    from PIL import Image

    from lifemask.data._pairs_sheet import sheet
    from lifemask.data.pairs import load_pairs

    found = load_pairs(folder)
    Image.fromarray(sheet(found[k] for k in range(min(SHEET, len(found))))).save(path)
    typer.echo(f"first pairs: {path}")


def _told(manifest: dict) -> str:
    """The photos that were turned away, in words."""
    rejected = {reason: n for reason, n in manifest["rejected"].items() if n}
    tried = manifest["count"] + sum(rejected.values())
    parts = "".join(f", {reason} {n / tried:.1%}" for reason, n in rejected.items())
    return f"photos turned away: {sum(rejected.values()) / tried:.1%} of {tried}{parts}"
