"""The command line, `lifemask COMMAND`; each command imports what it needs when it runs."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from lifemask.apps.commands import (
    ablate,
    assets,
    benchmark,
    fit,
    pairs,
    reconstruct,
    relight,
    synth,
    train,
)
from lifemask.assets import UserError

EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130

app = typer.Typer(
    name="lifemask",
    help="A cast of a living face from one photograph.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("reconstruct")(reconstruct.reconstruct)
app.command("fit")(fit.fit)
app.command("relight")(relight.relight)
app.command("lights")(relight.lights)
app.add_typer(assets.app, name="assets")
app.command("predict")(benchmark.predict)
app.command("score")(benchmark.score)
app.command("compare")(benchmark.compare)
app.command("synth")(synth.synth)
app.command("pairs")(pairs.pairs)
app.command("train", context_settings=train.CONTEXT)(train.train)
app.command("ablate", context_settings=train.CONTEXT)(ablate.ablate)


def _print_version(wanted: bool) -> None:
    if wanted:
        from lifemask import __version__

        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def options(
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Tell what is done.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Version.")
    ] = False,
) -> None:
    """Options of all commands; they stand before the command."""
    level = logging.INFO if verbose else logging.WARNING
    logging.basicConfig(level=level, format="%(levelname)s %(name)s: %(message)s")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command; what the user can mend is one line on stderr and exit status 2.

    Args:
        arguments: in place of those of the process.
    """
    try:
        app(args=None if arguments is None else list(arguments))
    except UserError as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(EXIT_USER_ERROR)
    except KeyboardInterrupt:
        typer.echo("interrupted", err=True)
        sys.exit(EXIT_INTERRUPTED)


if __name__ == "__main__":
    main()
