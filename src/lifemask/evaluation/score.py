"""`score`: predictions and a data set in, a JSON of numbers with their protocol flags out."""

from __future__ import annotations

import inspect
import json
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

from lifemask.assets import UserError
from lifemask.evaluation.meshes import load_mesh_predictions
from lifemask.evaluation.readers import PointOptions, read_predictions


@dataclass(frozen=True)
class Protocol:
    """Where a protocol's code lies, as import strings.

    Attributes:
        load: `load(folder)` reads the data set.
        score: `score(data, predictions)` returns a JSON-ready dict.
        predictions: "points", landmarks in any form of `evaluation.readers`, or "meshes", a
            folder with one mesh per item (`evaluation.meshes`).
    """

    load: str
    score: str
    predictions: Literal["points", "meshes"] = "points"


PROTOCOLS = {
    "aflw2000": Protocol(
        "lifemask.data.aflw2000:load_aflw2000", "lifemask.evaluation.aflw2000:score_aflw2000"
    ),
    "aflw21": Protocol(
        "lifemask.data.aflw21:load_aflw21_test", "lifemask.evaluation.aflw21:score_aflw21"
    ),
    "ytf68": Protocol(
        "lifemask.data.ytf68:load_ytf68_test", "lifemask.evaluation.ytf68:score_ytf68"
    ),
    "facescape_wild": Protocol(
        "lifemask.data.facescape:load_facescape_wild",
        "lifemask.evaluation.facescape:score_facescape",
        "meshes",
    ),
    "facescape_lab": Protocol(
        "lifemask.data.facescape:load_facescape_lab",
        "lifemask.evaluation.facescape:score_facescape",
        "meshes",
    ),
    "micc_deep3d": Protocol(
        "lifemask.data.micc:load_micc", "lifemask.evaluation.micc:score_micc_deep3d", "meshes"
    ),
    "micc_genova": Protocol(
        "lifemask.data.micc:load_micc", "lifemask.evaluation.micc:score_micc_genova", "meshes"
    ),
    "facewarehouse": Protocol(
        "lifemask.data.facewarehouse:load_facewarehouse",
        "lifemask.evaluation.facewarehouse:score_facewarehouse",
        "meshes",
    ),
    "now": Protocol("lifemask.data.now:load_now", "lifemask.evaluation.now:score_now", "meshes"),
    "realy": Protocol(
        "lifemask.data.realy:load_realy", "lifemask.evaluation.realy:score_realy", "meshes"
    ),
    "stirling": Protocol(
        "lifemask.data.stirling:load_stirling",
        "lifemask.evaluation.stirling:score_stirling",
        "meshes",
    ),
    "synthetic_heads": Protocol(
        "lifemask.data.synthetic_heads:load_synthetic_heads",
        "lifemask.evaluation.synthetic_heads:score_synthetic_heads",
        "meshes",
    ),
    "scans": Protocol(
        "lifemask.data.scans:load_scans", "lifemask.evaluation.scans:score_scans", "meshes"
    ),
}
"""Protocols by name; one entry each."""

_DEFAULTS = PointOptions()


def score(
    protocol: str,
    data: str | Path,
    predictions: str | Path,
    json_path: str | Path | None = None,
    *,
    options: PointOptions = _DEFAULTS,
) -> dict[str, Any]:
    """Score the predictions of any system.

    Args:
        protocol: a key of `PROTOCOLS`.
        data: folder of the data set.
        predictions: file or folder, as the protocol's `predictions` says.
        json_path: where to write the result; None writes nothing.
        options: for protocols that score points: how they are read, and what is scored.

    Returns:
        What is written: protocol, the predictions' name, sha256 and meta, and the protocol's own
        keys (for "aflw2000" see `evaluation.aflw2000.score_aflw2000`).

    Raises:
        UserError: unknown protocol, unreadable data or predictions, or a path that cannot be
            written.
    """
    entry = lookup(PROTOCOLS, protocol, "protocol")
    labels, run = load_entry(entry.load)(data), load_entry(entry.score)
    if entry.predictions == "points":
        loaded, origin = read_predictions(predictions, labels.names, options)
        scores = run(labels, loaded, **_chosen(run, protocol, options))
    else:
        origin, loaded = _read_meshes(Path(predictions), protocol)
        scores = run(labels, loaded)
    result = {"protocol": protocol, "predictions": origin} | scores
    if json_path is not None:
        write_json(Path(json_path), result)
    return result


def _chosen(run: Any, protocol: str, options: PointOptions) -> dict[str, Any]:
    """The options that a scorer takes, as its keyword arguments.

    Raises:
        UserError: an option that this protocol does not have.
    """
    wanted: dict[str, Any] = {"per_image": options.per_image}
    if options.subset != _DEFAULTS.subset:
        wanted["subset"] = options.subset
    if options.dense or options.basis:
        wanted["dense"] = _dense(options)
    taken = inspect.signature(run).parameters
    for name in wanted.keys() - taken.keys() - {"per_image"}:
        raise UserError(f"protocol {protocol!r} has no option {name!r}")
    return {name: value for name, value in wanted.items() if name in taken}


def _dense(options: PointOptions) -> Any:
    """Dense predictions and the face model of their truth."""
    from lifemask.evaluation.aflw2000_dense import (
        DenseCase,
        load_dense_basis,
        load_dense_predictions,
    )

    if not (options.dense and options.basis):
        raise UserError("dense scores need both dense predictions and the Basel model (basis)")
    return DenseCase(load_dense_basis(options.basis), load_dense_predictions(options.dense))


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
