"""`lifemask train RECIPE`: run a committed recipe, resumable."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def train(
    recipe: Annotated[str, typer.Argument(metavar="RECIPE", help="A name of training.recipes.")],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="Run folder.")],
    data: Annotated[Path | None, typer.Option(metavar="DIR", help="Folder of the data.")] = None,
) -> None:
    """Train a network."""
    from lifemask.training.recipes import run_recipe

    run_recipe(recipe, out, data)
