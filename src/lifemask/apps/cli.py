"""The command line, `lifemask COMMAND`; each command imports what it needs when it runs."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from lifemask.apps import session
from lifemask.apps.commands import (
    ablate,
    assets,
    batch,
    benchmark,
    demo,
    doctor,
    fit,
    pairs,
    reconstruct,
    relight,
    synth,
    train,
    video,
)
from lifemask.apps.completion import Group

app = typer.Typer(
    name="lifemask",
    cls=Group,
    help="A cast of a living face from one photograph.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("reconstruct")(reconstruct.reconstruct)
app.command("fit")(fit.fit)
app.command("video")(video.video)
app.command("relight")(relight.relight)
app.command("lights")(relight.lights)
app.command("demo")(demo.demo)
app.add_typer(assets.app, name="assets")
app.command("doctor")(doctor.doctor)
app.command("predict")(benchmark.predict)
app.command("score")(benchmark.score)
app.command("compare")(benchmark.compare)
app.command("synth")(synth.synth)
app.command("pairs")(pairs.pairs)
app.command("batch")(batch.batch)
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
    json: Annotated[
        bool,
        typer.Option(
            "--json", help="One JSON document on stdout, the rest on stderr (docs/formats.md)."
        ),
    ] = False,
) -> None:
    """Options of all commands; they stand before the command."""
    del json  # `main` has seen it: an unknown command is answered as a document, too
    level = logging.INFO if verbose else logging.WARNING
    logging.basicConfig(level=level, format="%(levelname)s %(name)s: %(message)s")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command and exit with its status (`session.Status`).

    What the user can mend is one line on stderr and status 2; a fault of ours is status 1, and two
    lines that say how to report it.

    Args:
        arguments: in place of those of the process.
    """
    words = sys.argv[1:] if arguments is None else list(arguments)
    sys.exit(session.run(app, words, subcommands=("assets",)))


if __name__ == "__main__":
    main()
