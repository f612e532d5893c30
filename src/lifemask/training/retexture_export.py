"""From a run of the re-renderable texture to shipped weights: fp16 safetensors, ONNX and a card.

    python -m lifemask.training.retexture_export --run runs/retexture-open --name retexture-open \
        --family open --metrics benchmarks/results/retexture-open.json

The prior's decoder is part of both files, so that they stand alone; the graph takes any batch size.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import Tensor

from lifemask.facemodel import load_face_model
from lifemask.facemodel.base import FaceModel
from lifemask.methods.retexture import (
    ExportNet,
    RetextureConfig,
    RetextureNet,
    RetextureOutput,
    config_from_dict,
    create_retexture,
)
from lifemask.training.export import (
    RENDERS,
    check_graph,
    halved,
    rounded,
    traced,
    trained_run,
    write_network,
)

TOLERANCE = 2e-3  # of albedo, codes and light, between torch and onnxruntime
SOURCES = {
    "open": (
        RENDERS,
        "albedo_vae (MakeHuman skins, CC0)",
        "landmarker-open, in the perceptual and the style term",
    ),
    "research": (
        "the sources of retexture-open",
        "AFLW crops (research only), with geometry by pgn-research and regions by parser-research",
        "landmarker-research, in the perceptual and the style term",
    ),
}


def export_retexture(
    weights: dict[str, Tensor],
    config: RetextureConfig,
    model: FaceModel,
    folder: Path,
    name: str,
    card: dict[str, Any],
) -> dict[str, Any]:
    """Write `NAME.safetensors` (fp16), `NAME.onnx` and `NAME.json`; returns the card.

    Weights are rounded to fp16 first, so that both files hold the same network; the ONNX file is
    compared with torch for several batch sizes before anything is written.

    Args:
        weights: averaged weights of a run.
        config: of the run's network.
        model: face model whose map it works on.
        folder: where to write.
        name: of the files.
        card: further entries of the card.

    Raises:
        RuntimeError: the weights are of another network, or the exported graph disagrees with
            torch.
    """
    network = create_retexture(config, model)
    network.load_state_dict(rounded(weights))
    own = {"network": asdict(config), "face_model": model.name}
    return write_network(folder, name, network, onnx_bytes(network), card | own)


def onnx_bytes(network: RetextureNet) -> bytes:
    """The graph of `ExportNet`, compared with torch: `RetextureInput` to `RetextureOutput`.

    Raises:
        RuntimeError: it disagrees with torch.
    """
    module, size = ExportNet(network.eval().requires_grad_(False)), network.config.size
    channels = {"texture": 3, "visible": 1, "normals": 3, "noise": 3}
    inputs = {name: (count, size, size) for name, count in channels.items()}
    graph = halved(traced(module, inputs, RetextureOutput._fields))
    check_graph(module, inputs, graph, TOLERANCE)
    return graph


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    run = trained_run(argparse.ArgumentParser(description=__doc__), SOURCES, arguments)
    config, options = config_from_dict(run.net), run.options
    card = {
        "summary": f"albedo and light of each texel of a face, on a map of {config.size} texels",
        "kind": "retexture",
    }
    model = load_face_model()
    export_retexture(run.weights, config, model, options.folder, options.name, card | run.card)


if __name__ == "__main__":
    main()
