"""From a parser run to shipped weights: fp16 safetensors, ONNX and a card.

    python -m lifemask.training.parser_export --run runs/parser-open --name parser-open \
        --family open --metrics benchmarks/results/parsing-open.json

Batch normalisation is folded into the convolutions for ONNX; the graph takes any batch size.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import Tensor

from lifemask.nn.unet import RegionExport, SmoothUNet, UNetConfig, config_from_dict
from lifemask.training.export import (
    RENDERS,
    check_graph,
    fuse_norms,
    rounded,
    traced,
    trained_run,
    write_network,
)
from lifemask.types import REGION_NAMES

FEW = 10  # pictures with glasses; fewer tell nothing
TOLERANCE = 2e-3  # of a probability, between torch and onnxruntime
SOURCES = {
    "open": (RENDERS,),
    "research": (
        "the sources of parser-open",
        "renders with textures from AFLW and YouTube Faces photos (research only)",
        "FaceSynthetics, 90 portraits with segmentation (research only)",
    ),
}


def export_parser(
    weights: dict[str, Tensor],
    config: UNetConfig,
    folder: Path,
    name: str,
    card: dict[str, Any],
) -> dict[str, Any]:
    """Write `NAME.safetensors` (fp16), `NAME.onnx` (fp32) and `NAME.json`.

    Weights are rounded to fp16 first, so that both files hold the same network; the ONNX file is
    compared with torch for several batch sizes before anything is written.

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
    network = SmoothUNet(config)
    network.load_state_dict(rounded(weights))
    network.eval()
    graph = onnx_bytes(network)
    check_graph(RegionExport(network), _inputs(config), graph, TOLERANCE)
    own = {"network": asdict(config), "classes": list(REGION_NAMES), "glasses": config.glasses}
    return write_network(folder, name, network, graph, card | own)


def onnx_bytes(network: SmoothUNet) -> bytes:
    """The graph of `RegionExport`: "crops" (b, 3, s, s) to "probabilities" (b, 9, s, s).

    Of networks that tell glasses (b, 10, s, s), their probability last.
    """
    return traced(RegionExport(fuse_norms(network)), _inputs(network.config), "probabilities")


def _inputs(config: UNetConfig) -> dict[str, tuple[int, ...]]:
    return {"crops": (3, config.size, config.size)}


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    run = trained_run(argparse.ArgumentParser(description=__doc__), SOURCES, arguments)
    config, options = config_from_dict(run.net), run.options
    also = " and glasses" if config.glasses else ""
    summary = f"nine face regions{also} per pixel of a {config.size} px crop"
    card = {"summary": summary, "kind": "parser"}
    card |= run.card | {"measured": _measured(run.card["measured"])}
    export_parser(run.weights, config, options.folder, options.name, card)


def _measured(result: dict[str, Any]) -> dict[str, str]:
    """Lines for each held-out set of a `benchmarks/parsing.py` result."""
    lines = {}
    for name, score in result.get("sets", {}).items():
        value = score["numbers"][0]["value"]
        lines[f"mean IoU, {name}"] = f"{100 * value:.1f} % ({score['images']})"
        glasses = score.get("glasses")
        if glasses and glasses["pictures with"] >= FEW:
            worn = f"{100 * glasses['iou']:.1f} % ({glasses['pictures with']} pictures with)"
            lines[f"IoU of glasses, {name}"] = worn
    return lines


if __name__ == "__main__":
    main()
