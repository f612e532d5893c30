"""How a run of a reader of close-ups becomes fp16 safetensors, ONNX and a card."""

from __future__ import annotations

import argparse
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lifemask.facemodel import load_face_model
from lifemask.faces.closeup import STABLE
from lifemask.nn.closeup_net import CloseupConfig, CloseupExport, CloseupNet, config_from_dict
from lifemask.training.export import (
    check_graph,
    fuse_norms,
    rounded,
    traced,
    trained_run,
    write_network,
)

SOURCES = {
    "open": (
        "renders of lifemask.data.synthetic: the lifemask head model (ICT-FaceKit, MIT), MakeHuman"
        " skins (CC0), procedural backgrounds and CC0 light",
    )
}


@dataclass(frozen=True)
class CloseupKind:
    """What is one reader's own.

    Attributes:
        kind: as cards name it, e.g. "eyes".
        summary: what it reads, for its card.
        net: the network to train, from its sizes.
        published: what is exported of it.
        output: name of the graph's output.
        rows: of a close-up.
        columns: of a close-up.
        tolerance: between torch and onnxruntime, in the outputs' own units.
    """

    kind: str
    summary: str
    net: type[Any]
    published: type[Any]
    output: str
    rows: int
    columns: int
    tolerance: float

    @property
    def inputs(self) -> dict[str, tuple[int, ...]]:
        """Of the graph, without the batch."""
        return {"crops": (3, self.rows, self.columns), "directions": (3,)}


def export_closeup(
    kind: CloseupKind,
    weights: dict[str, Tensor],
    config: CloseupConfig,
    folder: Path,
    name: str,
    card: dict[str, Any],
) -> dict[str, Any]:
    """Write `NAME.safetensors` (fp16), `NAME.onnx` and `NAME.json`.

    Args:
        kind: of the reader.
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
    network: CloseupNet = kind.net(config)
    network.load_state_dict(rounded(weights))
    network.eval()
    published: CloseupExport = kind.published(network)
    graph = onnx_bytes(kind, network)
    check_graph(published, kind.inputs, graph, kind.tolerance)
    own = {"size": kind.columns, "template_mm": template_mm(), **asdict(config)}
    return write_network(folder, name, network, graph, card | {"network": own})


def onnx_bytes(kind: CloseupKind, network: CloseupNet) -> bytes:
    """The graph of what is published: "crops" and "directions" to the numbers."""
    return traced(kind.published(fuse_norms(network)), kind.inputs, kind.output)


def template_mm() -> list[list[float]]:
    """`faces.closeup.STABLE` points of the default mean head, model frame, mm."""
    model = load_face_model("lifemask")
    neutral = torch.zeros(model.identity_size), torch.zeros(len(model.expression_names))
    points = model.landmarks(model(*neutral), "ict68")[list(STABLE)]
    return [[round(x, 4) for x in row] for row in points.tolist()]


def export_run(kind: CloseupKind, description: str | None, arguments: list[str] | None) -> None:
    """The command line of an export; `--metrics` is a result of the reader's benchmark."""
    run = trained_run(argparse.ArgumentParser(description=description), SOURCES, arguments)
    lines = dict(run.card["measured"].get("card", {}))
    card = {"summary": kind.summary, "kind": kind.kind} | run.card | {"measured": lines}
    config, options = config_from_dict(run.net), run.options
    export_closeup(kind, run.weights, config, options.folder, options.name, card)
