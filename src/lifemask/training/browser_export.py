"""The network for browsers: 2DASL's, small and self-contained, from its shipped weights.

    python -m lifemask.training.browser_export --family open

One ONNX file of a few megabytes: a crop in, pose, coefficients and landmarks out, without a file of
the face model beside it (`BrowserNet`). The landmark map is left empty, so no landmarker is needed.
Large weights are stored in 8 bits with one scale per output channel; runtimes multiply them out
when they load the graph, so it computes in float32. docs/engines.md has the contract and what the
8 bits cost.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray
from torch import Tensor, nn

from lifemask.assets import sha256, weights_folder, weights_path
from lifemask.facemodel import load_face_model
from lifemask.methods.dasl import DaslNet, config_from_dict, create_dasl
from lifemask.methods.dasl import normalised as dasl_normalised
from lifemask.nn.shipped import described, family_name, with_weights
from lifemask.training.export import LICENCES, check_graph, fuse_norms, traced
from lifemask.training.run_log import git_commit

Bits = Literal["8", "16", "32"]
SMALL = 2048  # numbers in a weight that is stored in float32
LARGEST_BYTES = 5_000_000
TOLERANCE = 2e-2  # of any output in its own unit, between torch and onnxruntime with equal weights
SUMMARY = "pose, identity, 52 expressions and 68 landmarks of a face crop, for browsers (2DASL)"


class BrowserOutput(NamedTuple):
    """What a crop says of its face. Lengths are half-crops: 1 is half of the crop's side.

    Attributes:
        pose_deg: (b, 3) pitch (up > 0), yaw (to image right > 0), roll (clockwise > 0).
        rotation: (b, 3, 3) model frame (x right, y up, z out of the face) to camera frame.
        scale: (b,) half-crops per 100 mm.
        shift: (b, 2) where the model's origin lies: u right, v down, 0 at the crop's middle.
        identity: (b, 80) coefficients of the head model, standard normal.
        expression: (b, 52) ARKit's, in [0, 1], in the order of the head model.
        landmarks68: (b, 68, 3) iBUG-68 (set "ict68"): u right, v down, w nearness.
        square: (b, 3) centre u, v and side of the landmark square: a second crop there is better.
    """

    pose_deg: Float[Tensor, "b 3"]
    rotation: Float[Tensor, "b 3 3"]
    scale: Float[Tensor, "b"]
    shift: Float[Tensor, "b 2"]
    identity: Float[Tensor, "b i"]
    expression: Float[Tensor, "b e"]
    landmarks68: Float[Tensor, "b 68 3"]
    square: Float[Tensor, "b 3"]


class BrowserNet(nn.Module):
    """A `DaslNet` with an empty map, and what its coefficients mean.

    Args:
        net: trained, with a 6D rotation and the landmark set "lifemask392".
    """

    def __init__(self, net: DaslNet) -> None:
        super().__init__()
        self.net = net
        head = net.head
        ends = (head.sets68["ict68"], head.sets68["ibug68-3d-bfm"])
        rows = torch.cat([torch.arange(head.landmarks)[part] for part in ends])
        basis = head.get_buffer("basis").unflatten(1, (-1, 3))
        self.register_buffer("mean", head.get_buffer("mean")[rows].clone(), persistent=False)
        self.register_buffer("basis", basis[:, rows].flatten(1).clone(), persistent=False)

    def forward(self, crops: Float[Tensor, "b 3 s s"]) -> tuple[Tensor, ...]:
        """The parts of a `BrowserOutput` of crops in sRGB [0, 1]."""
        net, head = self.net, self.net.head
        blank = torch.full_like(crops[:, :1], -1.0)
        features = net.backbone(torch.cat((dasl_normalised(crops), blank), 1))
        p = net.regressor(features)
        if net.correction is not None:
            unknown = torch.zeros_like(features[:, :54])
            p = p + net.correction.mixed(torch.cat((features, unknown), 1))
        raw = head.raw(p)
        labels = head.unpack(raw)
        low, high = head.get_buffer("lowest"), head.get_buffer("highest")
        expression = torch.minimum(torch.maximum(labels.expression, low), high)
        points = self._points(head.parts(raw)[0], raw[:, 7:9], labels.identity, expression)
        scored = points[:, 68:, :2]
        low, high = scored.amin(1), scored.amax(1)
        side = math.sqrt(2) * (high - low).amax(1, keepdim=True)
        return tuple(
            BrowserOutput(
                pose_deg(labels.rotation),
                labels.rotation,
                labels.scale,
                labels.shift,
                labels.identity,
                expression,
                points[:, :68],
                torch.cat(((low + high) / 2, side), 1),
            )
        )

    def _points(
        self, matrix: Tensor, shift: Tensor, identity: Tensor, expression: Tensor
    ) -> Tensor:
        """Landmarks of both sets of 68, (b, 136, 3)."""
        active = torch.cat((identity, expression * self.net.head.gains(identity)), 1)
        shape = self.get_buffer("mean") + (active @ self.get_buffer("basis")).unflatten(1, (-1, 3))
        turned = shape @ matrix.transpose(1, 2)
        u = turned[..., 0] + shift[:, None, 0]
        v = shift[:, None, 1] - turned[..., 1]
        return torch.stack((u, v, turned[..., 2]), -1)


def pose_deg(rotation: Float[Tensor, "b 3 3"]) -> Float[Tensor, "b 3"]:
    """`graphics.camera.euler_deg_from_rotation` in operations that ONNX has.

    For a face that looks straight up or down, yaw and roll are not defined.
    """
    r = rotation
    level = (r[:, 0, 2].square() + r[:, 2, 2].square()).sqrt()
    pitch, yaw = torch.atan2(r[:, 1, 2], level), torch.atan2(r[:, 0, 2], r[:, 2, 2])
    roll = -torch.atan2(r[:, 1, 0], r[:, 1, 1])
    return torch.stack((pitch, yaw, roll), 1) * (180 / math.pi)


def browser_net(family: Literal["open", "research"] = "open") -> BrowserNet:
    """The shipped 2DASL network of a family as a `BrowserNet`.

    Raises:
        AssetError: its weights are missing or damaged.
    """
    name, model = family_name("dasl", family), load_face_model()
    net = described(name, lambda card: create_dasl(config_from_dict(card), model))
    return BrowserNet(with_weights(net, name)).eval().requires_grad_(False)


def browser_graph(net: BrowserNet, bits: Bits = "8") -> bytes:
    """The ONNX graph: "crops" (b, 3, s, s) to the parts of a `BrowserOutput`.

    Args:
        net: the network.
        bits: how large weights are stored; "32" leaves them as they are.

    Raises:
        RuntimeError: the graph disagrees with torch, before weights are rounded.
    """
    size = net.net.config.size
    inputs = {"crops": (3, size, size)}
    fused = BrowserNet(fuse_norms(net.net)).eval()
    graph = traced(fused, inputs, BrowserOutput._fields)
    check_graph(net, inputs, graph, TOLERANCE)
    return graph if bits == "32" else stored_small(graph, bits)


def stored_small(graph: bytes, bits: Literal["8", "16"]) -> bytes:
    """The same graph with large weights in 8 bits (per output channel, symmetric) or in half.

    A stored weight is cast to float32 and, with 8 bits, multiplied by its scales: operations on
    constants, which every runtime folds. Landmark bases are stored in half at most: they are sums
    of many modes, and small beside the layers.
    """
    import onnx
    from onnx import helper, numpy_helper

    model = onnx.load_from_string(graph)
    axes = _channel_axes(model.graph)
    kept, nodes = [], []
    for tensor in model.graph.initializer:
        values, name = numpy_helper.to_array(tensor), tensor.name
        if values.dtype != np.float32 or values.size < SMALL:
            kept.append(tensor)
            continue
        axis = axes.get(name) if bits == "8" else None
        if axis is None:
            kept.append(numpy_helper.from_array(values.astype(np.float16), f"{name}_half"))
            nodes.append(helper.make_node("Cast", [f"{name}_half"], [name], to=1))
            continue
        whole, scales = eight_bits(values, axis)
        kept.append(numpy_helper.from_array(whole, f"{name}_int8"))
        kept.append(numpy_helper.from_array(scales, f"{name}_scale"))
        nodes.append(helper.make_node("Cast", [f"{name}_int8"], [f"{name}_wide"], to=1))
        nodes.append(helper.make_node("Mul", [f"{name}_wide", f"{name}_scale"], [name]))
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    rest = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend([*nodes, *rest])
    onnx.checker.check_model(model)
    return model.SerializeToString()


def eight_bits(
    values: Float[ndarray, "*n"], axis: int
) -> tuple[np.ndarray[Any, np.dtype[np.int8]], Float[ndarray, "*n"]]:
    """Whole numbers in [-127, 127] and the scales, one along an axis, that give weights back."""
    others = tuple(k for k in range(values.ndim) if k != axis)
    scales = np.abs(values).max(axis=others, keepdims=True) / 127
    scales = np.where(scales > 0, scales, 1).astype(np.float32)
    return np.round(values / scales).astype(np.int8), scales


def _channel_axes(graph: Any) -> dict[str, int]:
    """Axis of the output channels of each weight of a convolution or a linear layer."""
    axes = {}
    for node in graph.node:
        if node.op_type == "Conv":
            axes[node.input[1]] = 0
        if node.op_type == "Gemm":
            turned = any(a.name == "transB" and a.i for a in node.attribute)
            axes[node.input[1]] = 0 if turned else 1
    return axes


def export_browser(
    family: Literal["open", "research"], folder: Path, bits: Bits, measured: Mapping[str, Any]
) -> dict[str, Any]:
    """Write `browser-FAMILY.onnx` and its card; returns the card.

    Args:
        family: of the weights.
        folder: where to write.
        bits: see `browser_graph`.
        measured: numbers for the card.

    Raises:
        AssetError: the family's 2DASL weights are missing or damaged.
        RuntimeError: the graph disagrees with torch, or is too large for what it is for.
    """
    net, source = browser_net(family), family_name("dasl", family)
    graph = browser_graph(net, bits)
    if len(graph) > LARGEST_BYTES:
        raise RuntimeError(f"the graph has {len(graph)} bytes, more than {LARGEST_BYTES}")
    model = load_face_model()
    name = f"browser-{family}"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.onnx").write_bytes(graph)
    card = {
        "name": name,
        "summary": SUMMARY,
        "kind": "browser",
        "tag": family,
        "licence": LICENCES[family],
        "sources": [f"{source}.safetensors, {sha256(weights_path(source))[:16]}"],
        "recipe": f"python -m lifemask.training.browser_export --family {family} --bits {bits}",
        "commit": git_commit(),
        "measured": dict(measured),
        "network": {"size": net.net.config.size, "bits": int(bits)},
        "face_model": model.name,
        "expressions": list(model.expression_names),
        "sha256": {f"{name}.onnx": sha256(folder / f"{name}.onnx")},
    }
    text = json.dumps(card, indent=1, ensure_ascii=False) + "\n"
    (folder / f"{name}.json").write_text(text, encoding="utf-8")
    return card


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--family", choices=tuple(LICENCES), default="open")
    parser.add_argument("--bits", choices=("8", "16", "32"), default="8")
    parser.add_argument("--folder", type=Path, help="default: the weights folder")
    parser.add_argument("--metrics", type=Path, help="json of measured numbers for the card")
    options = parser.parse_args(arguments)
    metrics = options.metrics
    measured = json.loads(metrics.read_text(encoding="utf-8")) if metrics else {}
    folder = options.folder or weights_folder()
    export_browser(options.family, folder, options.bits, measured)


if __name__ == "__main__":
    main()
