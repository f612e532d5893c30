"""`lifemask predict`, `score` and `compare`: predict a benchmark once, score it many times."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from lifemask.apps.commands.reconstruct import MapSource
from lifemask.apps.session import report
from lifemask.assets import UserError


def predict(
    dataset: Annotated[
        str,
        typer.Argument(
            metavar="DATASET",
            help="aflw2000, aflw21, ytf68; meshes: now, realy, stirling, synthetic_heads, scans,"
            " facescape_wild, facescape_lab, micc.",
        ),
    ],
    data: Annotated[Path, typer.Option(metavar="DIR", help="Folder of the data set.")],
    out: Annotated[
        Path,
        typer.Option("--out", "-o", metavar="PATH", help="FILE.npz of points, or DIR of meshes."),
    ],
    method: Annotated[
        str,
        typer.Option(
            metavar="landmarker|fit|dasl|pgn|rafare|mean",
            help="Points of the network, of the fitted head or of the head of 2DASL or PGN; meshes:"
            " fit, dasl, pgn, rafare, or mean, a baseline.",
        ),
    ] = "landmarker",
    map_source: MapSource = None,
    weights: Annotated[str, typer.Option(metavar="open|research", help="Family.")] = "research",
    box: Annotated[
        str, typer.Option(metavar="official|detector", help="Where the face boxes come from.")
    ] = "official",
    refine: Annotated[
        bool, typer.Option("--refine/--no-refine", help="Meshes: let the colours refine the shape.")
    ] = True,
    mesh: Annotated[
        str,
        typer.Option(
            metavar="head|detailed|surface",
            help="Meshes of rafare: the head that carries the surface, the same with its"
            " displacement map, or the surface itself.",
        ),
    ] = "head",
    threads: Annotated[int, typer.Option(help="Threads of the networks.")] = 1,
    resume: Annotated[bool, typer.Option(help="Go on from an interrupted run.")] = True,
) -> None:
    """Run lifemask over a benchmark and keep the predictions."""
    from rich.console import Console
    from rich.progress import Progress

    from lifemask.evaluation.predict import DATASETS
    from lifemask.evaluation.predict import predict as predict_points
    from lifemask.evaluation.predict_meshes import MESH_DATASETS, predict_meshes
    from lifemask.evaluation.score import lookup

    lookup(DATASETS | MESH_DATASETS, dataset, "data set")
    meshes = dataset in MESH_DATASETS
    more: dict[str, Any] = {"refine": refine, "mesh": mesh}
    run = partial(predict_meshes, **more) if meshes else predict_points
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(dataset)
        path = run(
            dataset,
            data,
            out if meshes else _npz(out),
            weights=weights,  # pyright: ignore[reportArgumentType]
            method=method,  # pyright: ignore[reportArgumentType]
            map_source=map_source,
            box=box,  # pyright: ignore[reportArgumentType]
            threads=threads,
            resume=resume,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    typer.echo(f"predictions: {path}")
    report(predictions=str(path), dataset=dataset, method=method, weights=weights)


_Data = Annotated[Path, typer.Option("--data", metavar="DIR", help="Folder of the data set.")]
_Json = Annotated[
    Path | None, typer.Option("--json", metavar="FILE", help="Write the numbers there.")
]
_Form = Annotated[
    str,
    typer.Option(
        "--format", metavar="auto|npz|array|pts", help="Of point predictions; see docs/evaluation."
    ),
]
_OneBased = Annotated[
    bool, typer.Option("--one-based", help="The predictions count pixels from 1: subtract 1.")
]


def score(
    protocol: Annotated[str, typer.Argument(metavar="PROTOCOL", help="See docs/evaluation.md.")],
    data: _Data,
    predictions: Annotated[
        Path,
        typer.Option(metavar="PATH", help="Points or meshes, of lifemask or any other system."),
    ],
    json_path: _Json = None,
    form: _Form = "auto",
    one_based: _OneBased = False,
    subset: Annotated[
        str, typer.Option(metavar="all|released-2dasl", help="Photos of AFLW2000-3D.")
    ] = "all",
    dense: Annotated[
        Path | None, typer.Option(metavar="PATH", help="AFLW2000-3D: predicted vertices too.")
    ] = None,
    basis: Annotated[
        Path | None, typer.Option(metavar="PATH", help="The Basel model of the dense truth.")
    ] = None,
    per_image: Annotated[
        bool, typer.Option(help="Keep the errors of single images, for curves.")
    ] = False,
) -> None:
    """Score predictions on a benchmark and print the numbers."""
    import json

    from lifemask.evaluation.readers import PointOptions
    from lifemask.evaluation.score import score as run

    options = PointOptions(
        form=form,  # pyright: ignore[reportArgumentType]
        one_based=one_based,
        per_image=per_image,
        subset=subset,
        dense=dense,
        basis=basis,
    )
    result = run(protocol, data, predictions, json_path, options=options)
    typer.echo(json.dumps(result, indent=1))
    report(**result)
    for check in result.get("checks", []):
        if check["suspicious"]:
            typer.echo(f"warning: {check['check']}? {check['message']}", err=True)


def compare(
    protocol: Annotated[str, typer.Argument(metavar="PROTOCOL", help="One that scores points.")],
    first: Annotated[Path, typer.Argument(metavar="FIRST", help="Predictions of one system.")],
    second: Annotated[Path, typer.Argument(metavar="SECOND", help="Of the other.")],
    data: _Data,
    json_path: _Json = None,
    form: _Form = "auto",
    one_based: _OneBased = False,
) -> None:
    """Two systems on the same images: differences with paired intervals; negative: first better."""
    from lifemask.evaluation.compare import compare as run
    from lifemask.evaluation.readers import PointOptions
    from lifemask.evaluation.score import write_json

    options = PointOptions(form=form, one_based=one_based)  # pyright: ignore[reportArgumentType]
    result = run(protocol, data, first, second, options=options)
    if json_path is not None:
        write_json(json_path, result)
    report(**result)
    for entry in result["differences"]:
        low, high = entry["ci95"]
        typer.echo(
            f"{entry['metric']} (mean of {entry['pool']}, faces: {entry['faces']}):"
            f" {entry['first']} - {entry['second']} = {entry['difference']}, 95 % {low} to {high}"
            + ("" if entry["significant"] else ": no difference shown")
        )


def _npz(path: Path) -> Path:
    if path.suffix != ".npz":
        raise UserError(f"predictions are written as .npz, not {path.suffix or path.name!r}")
    return path
