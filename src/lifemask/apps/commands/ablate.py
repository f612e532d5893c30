"""`lifemask ablate METHOD ...`: train a method without each of its parts and compare."""

from __future__ import annotations

from typing import Annotated

import typer


def ablate(
    context: typer.Context,
    method: Annotated[str, typer.Argument(metavar="METHOD", help="landmarker, parser, ...")],
) -> None:
    """Which parts of a method help: every switch, several seeds, one table; resumable.

    `lifemask ablate METHOD --help` tells the options, `--list` the parts.
    """
    from lifemask.training.ablate import ablate_command

    ablate_command(method, context.args)
