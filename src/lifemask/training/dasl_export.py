"""From a 2DASL run to shipped weights: fp16 safetensors, ONNX and a card.

    python -m lifemask.training.dasl_export --run runs/dasl-open --name dasl-open \
        --family open --metrics benchmarks/results/dasl-open.json

Batch normalisation is folded into the convolutions for ONNX; the graph takes any batch size.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import Tensor

from lifemask.facemodel import load_face_model
from lifemask.facemodel.base import FaceModel
from lifemask.methods.dasl import DaslConfig, DaslNet, ExportNet, config_from_dict, create_dasl
from lifemask.training.export import (
    RENDERS,
    check_graph,
    fuse_norms,
    rounded,
    traced,
    trained_run,
    write_network,
)

TOLERANCE = 5e-3  # of a raw coefficient, between torch and onnxruntime
SOURCES = {
    "open": (
        "the sources of landmarker-open, whose trunk the training started from",
        RENDERS,
    ),
    "research": (
        "the sources of landmarker-research, whose trunk the training started from",
        "the renders of dasl-open",
        "renders with textures from AFLW and YouTube Faces photos (research only)",
        "AFLW crops with 21 points (research only)",
        "YouTube Faces frames with 68 automatic points (research only)",
    ),
}


def export_dasl(
    weights: dict[str, Tensor],
    config: DaslConfig,
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
    network = create_dasl(config, model)
    network.load_state_dict(rounded(weights))
    network.eval()
    graph = onnx_bytes(network)
    check_graph(ExportNet(network), _inputs(config), graph, TOLERANCE)
    own = {
        "network": asdict(config),
        "face_model": model.name,
        "coefficients": network.head.size,
    }
    return write_network(folder, name, network, graph, card | own)


def onnx_bytes(network: DaslNet) -> bytes:
    """The graph of `ExportNet`: "crops" (b, 3, s, s), "landmarks" (b, 18, 3) to "coefficients"."""
    return traced(ExportNet(fuse_norms(network)), _inputs(network.config), "coefficients")


def _inputs(config: DaslConfig) -> dict[str, tuple[int, ...]]:
    return {"crops": (3, config.size, config.size), "landmarks": (18, 3)}


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    run = trained_run(argparse.ArgumentParser(description=__doc__), SOURCES, arguments)
    config, options = config_from_dict(run.net), run.options
    card = {
        "summary": f"head-model coefficients and pose from a {config.size} px crop and a map of"
        " 18 landmarks (2DASL)",
        "kind": "dasl",
    }
    model = load_face_model()
    export_dasl(run.weights, config, model, options.folder, options.name, card | run.card)


if __name__ == "__main__":
    main()
