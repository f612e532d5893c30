"""From a landmarker run to shipped weights: fp16 safetensors, ONNX and a card.

    python -m lifemask.training.landmarker_export --run runs/landmarker-open \
        --name landmarker-open --family open --metrics scores.json

Batch normalisation is folded into the convolutions for ONNX; the graph takes any batch size.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import Tensor

from lifemask.nn.landmark_net import ExportNet, LandmarkNet, LandmarkNetConfig, config_from_dict
from lifemask.training.export import (
    RENDERS,
    check_graph,
    fuse_norms,
    rounded,
    traced,
    trained_run,
    write_network,
)

TOLERANCE_PX = 0.02
SOURCES = {
    "open": (RENDERS,),
    "research": (
        "the sources of landmarker-open",
        "renders with textures from AFLW and YouTube Faces photos (research only)",
        "AFLW crops with 21 points (research only)",
        "YouTube Faces frames with 68 automatic points (research only)",
    ),
}


def export_landmarker(
    weights: dict[str, Tensor],
    config: LandmarkNetConfig,
    folder: Path,
    name: str,
    card: dict[str, Any],
) -> dict[str, Any]:
    """Write `NAME.safetensors` (fp16), `NAME.onnx` (fp32) and `NAME.json`.

    The parameter output is left out: it serves training only. Weights are rounded to fp16 first,
    so that both files hold the same network; the ONNX file is compared with torch for several
    batch sizes before anything is written.

    Args:
        weights: averaged weights of a run.
        config: sizes of the run's network.
        folder: where to write.
        name: of the files.
        card: further entries of the card.

    Returns:
        The card.

    Raises:
        RuntimeError: the exported graph disagrees with torch.
    """
    runtime = runtime_network(weights, config)
    runtime.load_state_dict(rounded(runtime.state_dict()))
    graph = onnx_bytes(runtime)
    check_graph(ExportNet(runtime), _inputs(runtime.config), graph, TOLERANCE_PX)
    own = {"network": asdict(runtime.config), "convention": "lifemask392"}
    return write_network(folder, name, runtime, graph, card | own)


def runtime_network(weights: dict[str, Tensor], config: LandmarkNetConfig) -> LandmarkNet:
    """The trained network without its parameter output, in evaluation mode."""
    sizes = {**asdict(config), "identity": 0, "expression": 0}
    network = LandmarkNet(LandmarkNetConfig(**sizes))
    kept = {k: v for k, v in weights.items() if not k.startswith("to_parameters.")}
    network.load_state_dict(kept)
    return network.eval()


def onnx_bytes(network: LandmarkNet) -> bytes:
    """The ONNX graph of `ExportNet`: input "crops" (b, 3, s, s), output "landmarks" (b, n, 4)."""
    return traced(ExportNet(fuse_norms(network)), _inputs(network.config), "landmarks")


def _inputs(config: LandmarkNetConfig) -> dict[str, tuple[int, ...]]:
    return {"crops": (3, config.size, config.size)}


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    run = trained_run(argparse.ArgumentParser(description=__doc__), SOURCES, arguments)
    card = {
        "summary": "392 dense 3D face landmarks with uncertainty from a 112 px crop",
        "kind": "landmarker",
    }
    config, options = config_from_dict(run.net), run.options
    export_landmarker(run.weights, config, options.folder, options.name, card | run.card)


if __name__ == "__main__":
    main()
