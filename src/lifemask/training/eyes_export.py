"""From a run of the eye reader to shipped weights: fp16 safetensors, ONNX and a card.

python -m lifemask.training.eyes_export --run RUN --name eyes-open --family open --metrics JSON
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from torch import Tensor

from lifemask.faces.eyes import HEIGHT, WIDTH
from lifemask.nn.closeup_net import CloseupConfig, config_from_dict
from lifemask.nn.eye_net import EyeExport, EyeNet
from lifemask.training._closeup_export import SOURCES, measured, with_rounded, write_closeup
from lifemask.training.export import fuse_norms, traced, trained_run

TOLERANCE = 1e-2
"""Between torch and onnxruntime, in the outputs' own units: hundredths of a degree."""
INPUTS = {"crops": (3, HEIGHT, WIDTH), "directions": (3,)}


def export_eyes(
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
    network = EyeNet(config)
    with_rounded(network, weights)
    graph = onnx_bytes(network)
    published = EyeExport(network)
    return write_closeup(network, published, graph, INPUTS, TOLERANCE, folder, name, card)


def onnx_bytes(network: EyeNet) -> bytes:
    """The graph of `EyeExport`: "crops" and "directions" to "eyes" (b, 6)."""
    return traced(EyeExport(fuse_norms(network)), INPUTS, "eyes")


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    run = trained_run(argparse.ArgumentParser(description=__doc__), SOURCES, arguments)
    card = {"summary": "lid opening and gaze from the close-up of an eye", "kind": "eyes"}
    card |= run.card | {"measured": measured(run.card["measured"])}
    export_eyes(run.weights, config_from_dict(run.net), run.options.folder, run.options.name, card)


if __name__ == "__main__":
    main()
