"""The ONNX graphs of weights that have none yet, from their fp16 safetensors.

    python -m lifemask.training.graph_export retexture-open rafare-open

The exports of runs write graphs themselves; this is for weights of earlier versions of lifemask.
The card's checksums are brought up to date.
"""

from __future__ import annotations

import argparse
import json

from lifemask.assets import UserError, sha256, weights_path
from lifemask.facemodel import load_face_model
from lifemask.methods.rafare import RafarePredictConfig, load_rafare
from lifemask.methods.retexture import RetextureNet, RetexturePredictConfig, load_retexturer
from lifemask.training import rafare_export, retexture_export


def graphs_of(name: str, kind: str) -> dict[str, bytes]:
    """The graphs of a network in the weights folder, by file name.

    Raises:
        UserError: missing weights, or a kind of network whose export always writes graphs.
        RuntimeError: a graph disagrees with torch.
    """
    if kind == "retexture":
        config = RetexturePredictConfig(weights=name)
        network = load_retexturer("open", load_face_model(), config, "torch").network
        assert isinstance(network, RetextureNet)
        return {f"{name}.onnx": retexture_export.onnx_bytes(network)}
    if kind == "rafare":
        predictor = load_rafare("open", RafarePredictConfig(weights=name), engine="torch")
        graph, parts = rafare_export.onnx_bytes(predictor.network)
        return {f"{name}.onnx": graph, **{f"{name}.{k}.onnx": g for k, g in parts.items()}}
    raise UserError(f"{name} is of the kind {kind!r}; valid: retexture, rafare")


def add_graphs(name: str) -> dict[str, str]:
    """Write the graphs of a network beside its weights; the checksums of all its files."""
    weights = weights_path(name)
    card_path = weights.with_suffix(".json")
    card = json.loads(card_path.read_text(encoding="utf-8"))
    graphs = graphs_of(name, card.get("kind", ""))
    for file_name, graph in graphs.items():
        (weights.parent / file_name).write_bytes(graph)
    files = (weights.name, *graphs)
    card["sha256"] = {file: sha256(weights.parent / file) for file in files}
    text = json.dumps(card, indent=1, ensure_ascii=False) + "\n"
    card_path.write_text(text, encoding="utf-8")
    return card["sha256"]


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", nargs="+", help="of weights in the weights folder")
    for name in parser.parse_args(arguments).name:
        add_graphs(name)


if __name__ == "__main__":
    main()
