"""`lifemask train NETWORK ...`: run a committed recipe, resumable."""

from __future__ import annotations

from importlib import import_module
from typing import Annotated

import typer

from lifemask.assets import UserError

TRAINERS = {
    "landmarker": "lifemask.training.landmarker:main",
    "parser": "lifemask.training.parser:main",
}
CONTEXT = {
    "allow_extra_args": True,
    "ignore_unknown_options": True,
    "allow_interspersed_args": False,
}


def train(
    context: typer.Context,
    network: Annotated[str, typer.Argument(metavar="NETWORK", help="landmarker or parser.")],
) -> None:
    """Train a network by a committed recipe; `lifemask train NETWORK --help` tells its options."""
    if network not in TRAINERS:
        raise UserError(f"unknown network {network!r}; valid: {', '.join(TRAINERS)}")
    module, function = TRAINERS[network].split(":")
    try:
        run = getattr(import_module(module), function)
    except ImportError as error:
        raise UserError(f"training needs: pip install 'lifemask[train]' ({error})") from error
    run(context.args)
