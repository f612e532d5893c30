"""`lifemask train NETWORK ...` runs a committed recipe; `train --list`, `train curve RUN`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lifemask.assets import UserError

CONTEXT = {
    "allow_extra_args": True,
    "ignore_unknown_options": True,
    "allow_interspersed_args": False,
}
CURVE = "curve"


def train(
    context: typer.Context,
    network: Annotated[
        str,
        typer.Argument(
            metavar="NETWORK", help="landmarker, parser, ...; or 'curve' and the folder of a run."
        ),
    ] = "",
    list_all: Annotated[
        bool, typer.Option("--list", help="Tell what can be trained, with all recipes.")
    ] = False,
) -> None:
    """Train a network by a committed recipe; the same command goes on with a stopped run.

    `lifemask train NETWORK --help` tells its options. `lifemask train curve RUN` draws the learning
    curves of a run and prints its table.
    """
    from lifemask.training.run import list_text, train_command
    from lifemask.training.trainable import load_trainable

    if list_all:
        typer.echo(list_text(), nl=False)
    elif network == CURVE:
        _curve(context.args)
    else:
        if not network:
            raise UserError("name a network: lifemask train --list tells which there are")
        train_command(load_trainable(network), context.args)


def _curve(arguments: list[str]) -> None:
    """Draw and tabulate a run."""
    from lifemask.training.curves import curve_table, save_curves

    if len(arguments) != 1:
        raise UserError("usage: lifemask train curve RUN")
    run = Path(arguments[0])
    paths = save_curves(run)
    typer.echo(curve_table(run))
    for path in paths:
        typer.echo(path)
