"""From a run of the mouth reader to shipped weights: fp16 safetensors, ONNX and a card.

python -m lifemask.training.mouth_export --run RUN --name mouth-open --family open --metrics JSON
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from torch import Tensor

from lifemask.faces.mouth import HEIGHT, WIDTH
from lifemask.nn.closeup_net import CloseupConfig, config_from_dict
from lifemask.nn.mouth_net import MouthExport, MouthNet
from lifemask.training._closeup_export import SOURCES, measured, with_rounded, write_closeup
from lifemask.training.export import fuse_norms, traced, trained_run

TOLERANCE = 1e-4
"""Between torch and onnxruntime, in the outputs' own units."""
INPUTS = {"crops": (3, HEIGHT, WIDTH), "directions": (3,)}


def export_mouth(
    weights: dict[str, Tensor], config: CloseupConfig, folder: Path, name: str, card: dict[str, Any]
) -> dict[str, Any]:
    """Write `NAME.safetensors` (fp16), `NAME.onnx` and `NAME.json`.

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
    network = MouthNet(config)
    with_rounded(network, weights)
    graph = onnx_bytes(network)
    published = MouthExport(network)
    return write_closeup(network, published, graph, INPUTS, TOLERANCE, folder, name, card)


def onnx_bytes(network: MouthNet) -> bytes:
    """The graph of `MouthExport`: "crops" and "directions" to "mouths" (b, 2)."""
    return traced(MouthExport(fuse_norms(network)), INPUTS, "mouths")


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    run = trained_run(argparse.ArgumentParser(description=__doc__), SOURCES, arguments)
    card = {"summary": "how far the lips are apart, from the close-up of a mouth", "kind": "mouth"}
    card |= run.card | {"measured": measured(run.card["measured"])}
    export_mouth(run.weights, config_from_dict(run.net), run.options.folder, run.options.name, card)


if __name__ == "__main__":
    main()
