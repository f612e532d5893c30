"""What the exports of the readers of eyes and mouths share."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lifemask.facemodel import load_face_model
from lifemask.faces.closeup import STABLE
from lifemask.nn.closeup_net import CloseupNet
from lifemask.training.export import check_graph, rounded, write_network

SOURCES = {
    "open": (
        "renders of lifemask.data.synthetic: the lifemask head model (ICT-FaceKit, MIT), MakeHuman"
        " skins (CC0), procedural backgrounds and CC0 light",
    )
}


def with_rounded(network: nn.Module, weights: dict[str, Tensor]) -> None:
    """Give a network the weights as they will be stored, and put it in evaluation mode."""
    network.load_state_dict(rounded(weights))
    network.eval()


def write_closeup(
    network: CloseupNet,
    published: nn.Module,
    graph: bytes,
    inputs: dict[str, tuple[int, ...]],
    tolerance: float,
    folder: Path,
    name: str,
    card: dict[str, Any],
) -> dict[str, Any]:
    """Write `NAME.safetensors` (fp16), `NAME.onnx` and `NAME.json`; the card.

    Args:
        network: with the weights to store.
        published: what the graph computes, in torch.
        graph: ONNX.
        inputs: of the graph, without the batch.
        tolerance: between torch and onnxruntime, in the outputs' own units.
        folder: where to write.
        name: of the files.
        card: further entries of the card.

    Raises:
        RuntimeError: the graph disagrees with torch.
    """
    check_graph(published, inputs, graph, tolerance)
    own = {"size": inputs["crops"][2], "template_mm": template_mm(), **asdict(network.config)}
    return write_network(folder, name, network, graph, card | {"network": own})


def template_mm() -> list[list[float]]:
    """`faces.closeup.STABLE` points of the default mean head, model frame, mm."""
    model = load_face_model("lifemask")
    neutral = torch.zeros(model.identity_size), torch.zeros(len(model.expression_names))
    points = model.landmarks(model(*neutral), "ict68")[list(STABLE)]
    return [[round(x, 4) for x in row] for row in points.tolist()]


def measured(result: dict[str, Any]) -> dict[str, str]:
    """The lines of a result of `benchmarks/eyes.py` or `benchmarks/mouth.py`."""
    return dict(result.get("card", {}))
