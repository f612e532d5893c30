"""One run of the program: its exit status, and its report as one JSON document on stdout.

`lifemask --json COMMAND ...` and `lifemask COMMAND ... --json` print one document
(`docs/formats.md`); what a command tells people goes to stderr then. Commands hand over their
results with `report`, which does nothing without `--json`.
"""

from __future__ import annotations

import json
import logging
import math
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from contextvars import ContextVar
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

import typer

from lifemask.assets import UserError

SCHEMA_VERSION = 1
ISSUES = "https://github.com/lifemask/lifemask/issues"
JSON_FLAG = "--json"
OWN_JSON = ("score", "compare", "train", "ablate")
"""Commands whose options after their name are their own: there --json names a file, or nothing."""


class Status(IntEnum):
    """Exit status of the program; `docs/formats.md` has the table."""

    OK = 0
    FAULT = 1
    """A fault of ours, or a check that found something broken (`lifemask doctor`)."""
    USER_ERROR = 2
    SOME_FAILED = 3
    INTERRUPTED = 130


KINDS = {
    Status.FAULT: "fault",
    Status.USER_ERROR: "user",
    Status.SOME_FAILED: "some failed",
    Status.INTERRUPTED: "interrupted",
}
"""What the document calls an error of each status."""


class SomeFailedError(UserError):
    """Some of several things failed, and the others are done; each has been told already."""


@dataclass
class Session:
    """What a run found, for its document.

    Attributes:
        command: its name, with that of a subcommand; "" for none.
        result: what the command reported.
        failure: what went wrong in one line, if the command has told it already.
    """

    command: str = ""
    result: dict[str, Any] = field(default_factory=dict)
    failure: str = ""

    def document(self, status: int, message: str) -> str:
        """The JSON document of the run; `message` is "" where nothing went wrong."""
        from lifemask import __version__

        error = None
        if status != Status.OK:
            kind = KINDS.get(Status(status), "fault") if status in list(Status) else "fault"
            error = {"kind": kind, "message": message}
        content = {
            "schema_version": SCHEMA_VERSION,
            "lifemask_version": __version__,
            "command": self.command,
            "exit_code": int(status),
            "error": error,
            "result": _finite(self.result) or None,
        }
        return json.dumps(content, indent=1, allow_nan=False, ensure_ascii=False)


def _finite(value: Any) -> Any:
    """The value with null for numbers that JSON does not know."""
    if isinstance(value, Mapping):
        return {str(name): _finite(one) for name, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


_SESSION: ContextVar[Session | None] = ContextVar("session", default=None)


def report(**result: Any) -> None:
    """Keep results for the JSON document of this run; nothing without `--json`.

    Args:
        **result: what JSON can hold; NaN becomes null. A name that was reported before gets the
            new value.
    """
    session = _SESSION.get()
    if session is not None:
        session.result.update(result)


def report_failure(message: str) -> None:
    """Keep what went wrong, which people have been told already; nothing without `--json`."""
    session = _SESSION.get()
    if session is not None:
        session.failure = message


def take_json(words: Sequence[str]) -> tuple[bool, list[str]]:
    """Whether a command line asks for a JSON document, and its words without that flag."""
    kept, wanted, command = [], False, ""
    for i, word in enumerate(words):
        if word == "--":
            return wanted, [*kept, *words[i:]]
        if word == JSON_FLAG and command not in OWN_JSON:
            wanted = True
            continue
        command = command or ("" if word.startswith("-") else word)
        kept.append(word)
    return wanted, kept


def run(program: Callable[..., Any], words: Sequence[str], subcommands: Sequence[str]) -> int:
    """Run a command line; what goes wrong is one line on stderr.

    Args:
        program: the typer program.
        words: of the command line.
        subcommands: commands whose second word is a command too.

    Returns:
        The exit status.
    """
    wanted, words = take_json(words)
    if not wanted:
        return _guarded(program, words)[0]
    names = [word for word in words if not word.startswith("-")]
    session = Session(" ".join(names[: 2 if names[:1] and names[0] in subcommands else 1]))
    with _as_session(session), redirect_stdout(sys.stderr):
        status, message = _guarded(program, words, standalone_mode=False)
    typer.echo(session.document(status, session.failure or message))
    return status


@contextmanager
def _as_session(session: Session) -> Iterator[None]:
    token = _SESSION.set(session)
    try:
        yield
    finally:
        _SESSION.reset(token)


def _guarded(program: Callable[..., Any], words: list[str], **options: Any) -> tuple[int, str]:
    """(exit status, what went wrong in one line) of a program; the line is printed."""
    try:
        found = program(args=words, **options)
        return (found if isinstance(found, int) else Status.OK), _silent(found)
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else Status(bool(stop.code))
        return code, str(stop.code) if isinstance(stop.code, str) else _silent(code)
    except SomeFailedError as error:
        return _tell(Status.SOME_FAILED, str(error))
    except UserError as error:
        return _tell(Status.USER_ERROR, str(error))
    except KeyboardInterrupt:
        typer.echo("interrupted", err=True)
        return Status.INTERRUPTED, "interrupted"
    except Exception as error:
        if isinstance(error, typer.BadParameter.__base__ or typer.BadParameter):  # wrong usage
            return _tell(Status.USER_ERROR, error.format_message())  # pyright: ignore
        return _tell_fault(error)


def _silent(status: object) -> str:
    """The message of a run that said what it had to say itself."""
    return {Status.INTERRUPTED: "interrupted"}.get(status, "see stderr") if status else ""  # pyright: ignore


def _tell(status: Status, message: str) -> tuple[int, str]:
    typer.echo(f"error: {message}", err=True)
    return status, message


def _tell_fault(error: Exception) -> tuple[int, str]:
    """A fault of ours in two lines: what, and how to report it; its traceback with --verbose."""
    from lifemask import __version__

    verbose = logging.getLogger().isEnabledFor(logging.INFO)
    if verbose:
        typer.echo("".join(traceback.format_exception(error)), err=True, nl=False)
    text = " ".join(str(error).split())
    message = f"{type(error).__name__}: {text}" if text else type(error).__name__
    told = _tell(Status.FAULT, message)
    more = "the lines above" if verbose else "what `lifemask --verbose` tells before the command"
    typer.echo(
        f"This is a fault of lifemask {__version__}. Please report it at {ISSUES} with"
        f" {more}, and the output of `lifemask doctor`.",
        err=True,
    )
    return told
