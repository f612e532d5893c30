"""What the shell completes: the words that an option's help names, and tables' names.

`lifemask --install-completion` sets it up for bash, zsh, fish or PowerShell. Nothing here imports a
table's module, since completion runs at every press of Tab; a test compares the names.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from typer.core import TyperGroup

from lifemask.apps.session import OWN_JSON

CHOICES = re.compile(r"[\w.-]+(\|[\w.-]+)+")
JSON_LINE = "With --json: one JSON document on stdout, the rest on stderr (docs/formats.md)."
LIGHTS = (
    "neutral", "soft", "key", "rim", "sunset", "top", "softboxes", "ring", "window", "overcast",
    "noon", "low-sun", "neon", "candle", "stage", "split",
)  # fmt: skip
POINT_SETS = ("aflw2000", "aflw21", "ytf68")
MESH_SETS = (
    "now", "realy", "stirling", "synthetic_heads", "scans", "facescape_wild", "facescape_lab",
    "micc",
)  # fmt: skip
PROTOCOLS = (
    *POINT_SETS, "now", "realy", "stirling", "synthetic_heads", "scans", "facescape_wild",
    "facescape_lab", "micc_deep3d", "micc_genova", "facewarehouse",
)  # fmt: skip
NETWORKS = (
    "landmarker", "dasl", "pgn", "parser", "albedo-prior", "retexture", "eyes", "mouth", "inpaint",
    "rafare-base", "rafare-fine", "rafare-normals",
)  # fmt: skip
MODELS = ("ict", "flame2020", "flame2023", "bfm2009", "bfm2017", "sfm")
FORMATS = ("glb", "obj", "ply", "json", "png")
NAMES: dict[tuple[str, str], tuple[str, ...]] = {
    ("relight", "light"): LIGHTS,
    ("predict", "dataset"): (*POINT_SETS, *MESH_SETS),
    ("score", "protocol"): PROTOCOLS,
    ("compare", "protocol"): POINT_SETS,
    ("train", "network"): (*NETWORKS, "curve"),
    ("ablate", "method"): NETWORKS,
    ("convert", "model"): MODELS,
}
"""Words of (command, argument or option) that its help does not list as a|b|c."""
DEVICES = ("cpu", "cuda")
LISTS = {"formats": FORMATS}
"""Words of options that take several, with commas between."""


@dataclass(frozen=True)
class Completion:
    """One proposal, in the shape that typer's shells read.

    Attributes:
        value: the word.
        type: "plain": the word itself, not a file or a folder.
        help: shown beside it where the shell can.
    """

    value: str
    type: str = "plain"
    help: str | None = None


class Group(TyperGroup):
    """The program's commands, each with completion of its words and a line on `--json`."""

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command of that name; None if there is none."""
        command = super().get_command(ctx, cmd_name)
        if command is not None:
            prepare(command)
        return command


def prepare(command: Any) -> None:
    """Let a command, and those below it, complete the words of its options."""
    if isinstance(command, TyperGroup):
        for below in command.commands.values():
            prepare(below)
        return
    if command.name not in OWN_JSON:
        command.epilog = command.epilog or JSON_LINE
    for parameter in command.params:
        words = words_of(command.name or "", parameter.name or "", parameter.metavar or "")
        if parameter.name in LISTS:
            parameter.shell_complete = partial(_proposals_of_list, LISTS[parameter.name])
        elif words:
            parameter.shell_complete = partial(_proposals, words)


def words_of(command: str, parameter: str, metavar: str) -> tuple[str, ...]:
    """The words that may stand for an option or argument; empty if they are free."""
    if (command, parameter) in NAMES:
        return NAMES[command, parameter]
    if parameter == "device":
        return DEVICES
    words = metavar.split("|") if CHOICES.fullmatch(metavar) else []
    return tuple(word for word in words if word == word.lower())


def _proposals(words: Sequence[str], _context: Any, incomplete: str) -> list[Completion]:
    return [Completion(word) for word in words if word.startswith(incomplete)]


def _proposals_of_list(words: Sequence[str], _context: Any, incomplete: str) -> list[Completion]:
    """Proposals for the last of several words with commas between."""
    before, comma, last = incomplete.rpartition(",")
    left = [word for word in words if word not in before.split(",")]
    return [Completion(before + comma + word) for word in left if word.startswith(last)]
