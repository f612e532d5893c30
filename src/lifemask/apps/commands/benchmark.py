"""`lifemask predict` and `lifemask score`: predict a benchmark once, score it many times."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lifemask.assets import UserError


def predict(
    dataset: Annotated[str, typer.Argument(metavar="DATASET", help="aflw2000.")],
    data: Annotated[Path, typer.Option(metavar="DIR", help="Folder of the data set.")],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FILE.npz", help="Predictions.")],
    method: Annotated[
        str,
        typer.Option(
            metavar="landmarker|fit", help="Points of the network, or of the fitted head."
        ),
    ] = "landmarker",
    weights: Annotated[str, typer.Option(metavar="open|research", help="Family.")] = "research",
    box: Annotated[
        str, typer.Option(metavar="official|detector", help="Where the face boxes come from.")
    ] = "official",
    threads: Annotated[int, typer.Option(help="Threads of the networks.")] = 1,
    resume: Annotated[bool, typer.Option(help="Go on from an interrupted run.")] = True,
) -> None:
    """Run lifemask over a benchmark and keep the predictions."""
    from rich.console import Console
    from rich.progress import Progress

    from lifemask.evaluation.predict import predict as run

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(dataset)
        path = run(
            dataset,
            data,
            _npz(out),
            weights=weights,  # pyright: ignore[reportArgumentType]
            method=method,  # pyright: ignore[reportArgumentType]
            box=box,  # pyright: ignore[reportArgumentType]
            threads=threads,
            resume=resume,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    typer.echo(f"predictions: {path}")


def score(
    protocol: Annotated[str, typer.Argument(metavar="PROTOCOL", help="aflw2000.")],
    data: Annotated[Path, typer.Option(metavar="DIR", help="Folder of the data set.")],
    predictions: Annotated[
        Path, typer.Option(metavar="FILE.npz", help="Of lifemask or any other system.")
    ],
    json_path: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write the numbers there.")
    ] = None,
) -> None:
    """Score predictions on a benchmark and print the numbers."""
    import json

    from lifemask.evaluation.score import score as run

    result = run(protocol, data, predictions, json_path)
    typer.echo(json.dumps(result, indent=1))


def _npz(path: Path) -> Path:
    if path.suffix != ".npz":
        raise UserError(f"predictions are written as .npz, not {path.suffix or path.name!r}")
    return path
