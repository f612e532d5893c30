"""`score`: a prediction file and a data set in, a JSON of numbers with their protocol flags out."""

from __future__ import annotations

import hashlib
import json
from importlib import import_module
from pathlib import Path
from typing import Any

from lifemask.assets import UserError
from lifemask.evaluation.predictions import load_predictions

PROTOCOLS = {
    "aflw2000": (
        "lifemask.data.aflw2000:load_aflw2000",
        "lifemask.evaluation.aflw2000:score_aflw2000",
    ),
}
"""Protocol name to its data loader and its scorer, as import strings."""


def score(
    protocol: str, data: str | Path, predictions: str | Path, json_path: str | Path | None = None
) -> dict[str, Any]:
    """Score a prediction file of any system.

    Args:
        protocol: a key of `PROTOCOLS`.
        data: folder of the data set.
        predictions: npz as `evaluation.predictions` describes it.
        json_path: where to write the result; None writes nothing.

    Returns:
        What is written: protocol, the file's sha256 and meta, and the protocol's own keys (for
        "aflw2000" see `evaluation.aflw2000.score_aflw2000`).

    Raises:
        UserError: unknown protocol, unreadable data or predictions, or a path that cannot be
            written.
    """
    load_data, score_data = (load_entry(e) for e in lookup(PROTOCOLS, protocol, "protocol"))
    path = Path(predictions)
    loaded = load_predictions(path)
    result = {
        "protocol": protocol,
        "predictions": {
            "file": path.name,
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            "meta": dict(loaded.meta),
        },
    } | score_data(load_data(data), loaded)
    if json_path is not None:
        write_json(Path(json_path), result)
    return result


def lookup(table: dict[str, Any], name: str, what: str) -> Any:
    """The table's entry.

    Raises:
        UserError: an unknown name; the message lists what is valid.
    """
    if name not in table:
        raise UserError(f"unknown {what} {name!r}; valid: {', '.join(sorted(table))}")
    return table[name]


def load_entry(entry: str) -> Any:
    """The object that an import string "package.module:name" names."""
    module, name = entry.split(":")
    return getattr(import_module(module), name)


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write indented JSON in one step.

    Raises:
        UserError: the path cannot be written.
    """
    part = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n", encoding="utf-8")
        part.replace(path)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error
