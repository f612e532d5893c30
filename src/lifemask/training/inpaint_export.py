"""From a run of the inpainting network to weights: fp16 safetensors, ONNX and a card.

python -m lifemask.training.inpaint_export --run RUN --name inpaint-open --family open --folder DIR
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import Tensor

from lifemask.nn.inpaint_net import (
    InpaintExport,
    InpaintNet,
    InpaintNetConfig,
    config_from_dict,
)
from lifemask.training.export import (
    RENDERS,
    check_graph,
    rounded,
    traced,
    trained_run,
    write_network,
)

TOLERANCE = 1e-3
"""Between torch and onnxruntime, sRGB: a quarter of a level of 255."""
SOURCES = {
    "open": (RENDERS,),
    "research": ("the sources of inpaint-open", "AFLW crops (research only)"),
}


def export_inpaint(
    weights: Mapping[str, Tensor],
    config: InpaintNetConfig,
    folder: Path,
    name: str,
    card: dict[str, Any],
) -> dict[str, Any]:
    """Write `NAME.safetensors` (fp16), `NAME.onnx` and `NAME.json`; returns the card.

    Args:
        weights: averaged weights of a run.
        config: sizes of the run's network.
        folder: where to write.
        name: of the files.
        card: further entries of the card.

    Raises:
        RuntimeError: the exported graph disagrees with torch.
    """
    network = InpaintNet(config)
    network.load_state_dict(rounded(weights))
    network.eval()
    graph = onnx_bytes(network)
    check_graph(InpaintExport(network), inputs_of(config), graph, TOLERANCE)
    return write_network(folder, name, network, graph, card | {"network": asdict(config)})


def inputs_of(config: InpaintNetConfig) -> dict[str, tuple[int, int, int]]:
    """Shapes of one sample of the graph's inputs."""
    size = config.size
    return {"picture": (3, size, size), "known": (1, size, size), "hole": (1, size, size)}


def onnx_bytes(network: InpaintNet) -> bytes:
    """The graph of `InpaintExport`: picture, known and hole to "filled" (b, 3, s, s)."""
    return traced(InpaintExport(network), inputs_of(network.config), "filled")


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    run = trained_run(argparse.ArgumentParser(description=__doc__), SOURCES, arguments)
    config, options = config_from_dict(run.net), run.options
    summary = f"fills holes of a {config.size} px crop beside a swapped face"
    card = {"summary": summary, "kind": "inpaint"} | run.card
    export_inpaint(run.weights, config, options.folder, options.name, card)


if __name__ == "__main__":
    main()
