"""`score`: predictions and a data set in, a JSON of numbers with their protocol flags out."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

from lifemask.assets import UserError
from lifemask.evaluation.meshes import load_mesh_predictions
from lifemask.evaluation.predictions import load_predictions


@dataclass(frozen=True)
class Protocol:
    """Where a protocol's code lies, as import strings.

    Attributes:
        load: `load(folder)` reads the data set.
        score: `score(data, predictions)` returns a JSON-ready dict.
        predictions: "points", one npz (`evaluation.predictions`), or "meshes", a folder with one
            mesh per item (`evaluation.meshes`).
    """

    load: str
    score: str
    predictions: Literal["points", "meshes"] = "points"


PROTOCOLS = {
    "aflw2000": Protocol(
        "lifemask.data.aflw2000:load_aflw2000", "lifemask.evaluation.aflw2000:score_aflw2000"
    ),
}
"""Protocols by name; one entry each."""


def score(
    protocol: str, data: str | Path, predictions: str | Path, json_path: str | Path | None = None
) -> dict[str, Any]:
    """Score the predictions of any system.

    Args:
        protocol: a key of `PROTOCOLS`.
        data: folder of the data set.
        predictions: npz file or folder of meshes, as the protocol's `predictions` says.
        json_path: where to write the result; None writes nothing.

    Returns:
        What is written: protocol, the predictions' name, sha256 and meta, and the protocol's own
        keys (for "aflw2000" see `evaluation.aflw2000.score_aflw2000`).

    Raises:
        UserError: unknown protocol, unreadable data or predictions, or a path that cannot be
            written.
    """
    entry = lookup(PROTOCOLS, protocol, "protocol")
    read = _read_points if entry.predictions == "points" else _read_meshes
    origin, loaded = read(Path(predictions), protocol)
    scores = load_entry(entry.score)(load_entry(entry.load)(data), loaded)
    result = {"protocol": protocol, "predictions": origin} | scores
    if json_path is not None:
        write_json(Path(json_path), result)
    return result


def _read_points(path: Path, protocol: str) -> tuple[dict[str, Any], Any]:
    """Where a prediction file comes from, and its content."""
    if path.is_dir():
        raise UserError(f"{protocol} scores points: give a prediction file (.npz), not a folder")
    loaded = load_predictions(path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return {"file": path.name, "sha256": digest, "meta": dict(loaded.meta)}, loaded


def _read_meshes(path: Path, protocol: str) -> tuple[dict[str, Any], Any]:
    """Where a folder of meshes comes from, and what is in it."""
    if path.is_file():
        raise UserError(f"{protocol} scores meshes: give a folder with one mesh per item")
    loaded = load_mesh_predictions(path)
    origin = {"folder": path.resolve().name, "sha256": loaded.sha256(), "meshes": len(loaded)}
    return origin | {"meta": dict(loaded.meta)}, loaded


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
