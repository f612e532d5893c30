"""From a run of the eye reader to shipped weights: fp16 safetensors, ONNX and a card.

python -m lifemask.training.eyes_export --run RUN --name eyes-open --family open --metrics JSON
"""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lifemask.facemodel import load_face_model
from lifemask.faces.eyes import HEIGHT, STABLE, WIDTH
from lifemask.nn.eye_net import EyeExport, EyeNet, EyeNetConfig, config_from_dict
from lifemask.training.export import (
    check_graph,
    fuse_norms,
    rounded,
    traced,
    trained_run,
    write_network,
)

TOLERANCE = 1e-2
"""Between torch and onnxruntime, in the outputs' own units: hundredths of a degree."""
INPUTS = {"crops": (3, HEIGHT, WIDTH), "directions": (3,)}
SOURCES = {
    "open": (
        "renders of lifemask.data.synthetic: the lifemask head model (ICT-FaceKit, MIT), MakeHuman"
        " skins (CC0), procedural backgrounds and CC0 light",
    )
}


def export_eyes(
    weights: dict[str, Tensor], config: EyeNetConfig, folder: Path, name: str, card: dict[str, Any]
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
    network.load_state_dict(rounded(weights))
    network.eval()
    graph = onnx_bytes(network)
    check_graph(EyeExport(network), INPUTS, graph, TOLERANCE)
    own = {"size": WIDTH, "template_mm": template_mm(), **asdict(config)}
    return write_network(folder, name, network, graph, card | {"network": own})


def onnx_bytes(network: EyeNet) -> bytes:
    """The graph of `EyeExport`: "crops" and "directions" to "eyes" (b, 6)."""
    return traced(EyeExport(fuse_norms(network)), INPUTS, "eyes")


def template_mm() -> list[list[float]]:
    """`faces.eyes.STABLE` points of the default mean head, model frame, mm."""
    model = load_face_model("lifemask")
    neutral = torch.zeros(model.identity_size), torch.zeros(len(model.expression_names))
    points = model.landmarks(model(*neutral), "ict68")[list(STABLE)]
    return [[round(x, 4) for x in row] for row in points.tolist()]


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    run = trained_run(argparse.ArgumentParser(description=__doc__), SOURCES, arguments)
    card = {"summary": "lid opening and gaze from the close-up of an eye", "kind": "eyes"}
    card |= run.card | {"measured": _measured(run.card["measured"])}
    export_eyes(run.weights, config_from_dict(run.net), run.options.folder, run.options.name, card)


def _measured(result: dict[str, Any]) -> dict[str, str]:
    """The lines of a `benchmarks/eyes.py` result."""
    return dict(result.get("card", {}))


if __name__ == "__main__":
    main()
