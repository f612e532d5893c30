"""Speed of PGN on one thread: its networks through onnxruntime, its solvers in batches of 64 faces.

    python benchmarks/pgn_nets.py --json benchmarks/results/pgn_nets.json

Every network is exported as its shipped weights are (normalisation folded, compared with torch
first); its weights are random. All of them and the landmarker, the yardstick, are timed in turn,
round after round: median wall time, the fastest, and the median processor time, which other work
on the machine disturbs least. The solvers get points of random heads of the face model.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"  # before numpy and torch are imported

import argparse  # noqa: E402
import json  # noqa: E402
import statistics  # noqa: E402
from collections.abc import Callable  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

import torch  # noqa: E402
from torch import Tensor, nn  # noqa: E402

from dasl_nets import YARDSTICK, Timing, time_one_face  # noqa: E402
from lifemask.assets import weights_path  # noqa: E402
from lifemask.facemodel import load_face_model  # noqa: E402
from lifemask.graphics.pose import perspective_camera  # noqa: E402
from lifemask.methods._coefficients import project_points  # noqa: E402
from lifemask.methods._pgn_pose import HeadPose, solve_pose  # noqa: E402
from lifemask.methods._pgn_predict import FoundHeads  # noqa: E402
from lifemask.methods.pgn import (  # noqa: E402
    ExportNet,
    PgnConfig,
    PgnNet,
    create_pgn,
)
from lifemask.nn.parametric import CLOSE_CROP, LENGTH_MM  # noqa: E402
from lifemask.training.export import largest_difference  # noqa: E402
from lifemask.training.pgn_export import onnx_bytes  # noqa: E402
from provenance import provenance, write_result  # noqa: E402

NETWORKS = {
    "mobile": PgnConfig(),
    "resnet18_half": PgnConfig("resnet18_half", 128),
    "resnet50": PgnConfig("resnet50", 120, widths=(512, 256, 128, 64), hidden=512),
}
"""The sizes of the recipes, and the small ResNet at the size that the target names."""
TARGET_MS = {"mobile": 5.0, "resnet18_half": 25.0}
FACES = 64
SOLVER_TARGET_MS = 0.3
NOISE = 0.01  # half-crops


def random_network(config: PgnConfig) -> PgnNet:
    """A network as after some training: no residual branch is multiplied by 0."""
    torch.manual_seed(0)
    network = create_pgn(config, load_face_model())
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d) and not module.weight.any():
            nn.init.constant_(module.weight, 0.2)
    return network.eval()


def one_face_row(name: str, timing: Timing, graph: bytes) -> dict[str, Any]:
    """A network's time for one face."""
    row: dict[str, Any] = {"network": name, "megabytes": round(len(graph) / 1e6, 2)}
    if name in NETWORKS:
        network = random_network(NETWORKS[name])
        size = network.config.size
        apart = largest_difference(ExportNet(network), {"crops": (3, size, size)}, graph, (1, 2, 5))
        row |= {
            "size_px": size,
            "parameters": sum(p.numel() for p in network.parameters()),
            "largest_difference_from_torch": float(f"{apart:.2g}"),
        }
    return row | _times(timing) | {"target_ms": TARGET_MS.get(name)}


def _times(timing: Timing, faces: int = 1) -> dict[str, Any]:
    scale = 1000 / faces
    return {
        "ms": round(scale * statistics.median(timing.wall), 4),
        "fastest_ms": round(scale * min(timing.wall), 4),
        "processor_ms": round(scale * statistics.median(timing.processor), 4),
        "calls": len(timing.wall),
    }


def solver_calls(network: PgnNet) -> dict[str, Callable[[], Any]]:
    """The closed forms on random heads, as prediction calls them."""
    torch.manual_seed(0)
    ids = network.get_buffer("pose_ids")
    found = random_heads(network)
    landmarks = seen_landmarks(network, found)
    shape = network.head.shape(found.identity, found.expression)[:, ids]
    points_mm, log_beta = LENGTH_MM * shape.double(), landmarks[:, ids, 3]
    points = landmarks[:, ids, :3]
    focal, center = torch.full((FACES,), 6.0).double(), torch.zeros(FACES, 2).double()
    weights = (-log_beta).exp().double()
    anchors = torch.rand(FACES, network.trunk.anchors, 4)
    cells = 0.01 * torch.randn(FACES, 4, network.decoder.cell_size, network.decoder.cell_size)
    return {
        "position map of anchors and cells": lambda: network.position_map(anchors, cells),
        "pose, scaled orthographic": lambda: solve_pose(shape, points, log_beta),
        "pose, perspective": lambda: perspective_camera(
            points_mm, points.double(), focal, center, weights
        ),
    }


def random_heads(network: PgnNet) -> FoundHeads:
    """Heads of the face model, turned by a few degrees."""
    head = network.head
    identity = torch.randn(FACES, head.identity_size)
    expression = torch.rand(FACES, head.expression_size) * 0.2
    turn = torch.linalg.qr(torch.eye(3) + 0.2 * torch.randn(FACES, 3, 3)).Q
    turn = turn * torch.linalg.det(turn)[:, None, None].sign()
    return FoundHeads(
        identity,
        expression,
        HeadPose(turn, torch.full((FACES,), CLOSE_CROP), 0.1 * torch.randn(FACES, 2)),
    )


def seen_landmarks(network: PgnNet, heads: FoundHeads) -> Tensor:
    """Their landmarks (FACES, k, 4) with noise and log beta."""
    pose = heads.pose
    shape = network.head.shape(heads.identity, heads.expression)[:, : network.head.landmarks]
    points = project_points(shape, pose.scale[:, None, None] * pose.rotation, pose.shift)
    log_beta = torch.full_like(points[..., :1], NOISE).log() + 0.3 * torch.randn(
        *points.shape[:2], 1
    )
    return torch.cat((points + NOISE * torch.randn_like(points), log_beta), -1)


@torch.no_grad()
def time_solvers(network: PgnNet, rounds: int) -> list[dict[str, Any]]:
    """Time per face of a batch, the solvers in turn."""
    timings = {name: Timing(call) for name, call in solver_calls(network).items()}
    for timing in timings.values():
        timing.call()
    for _ in range(rounds):
        for timing in timings.values():
            timing.run()
    return [
        {"solver": name, "faces": FACES, **_times(timing, FACES)}
        | {"target_ms": SOLVER_TARGET_MS if name.startswith("pose") else None}
        for name, timing in timings.items()
    ]


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--networks", nargs="*", default=list(NETWORKS), choices=tuple(NETWORKS))
    parser.add_argument("--json", type=Path, help="where to write; default: print only")
    options = parser.parse_args()
    torch.set_num_threads(1)
    load = [os.getloadavg()[0]]
    graphs = {name: onnx_bytes(random_network(NETWORKS[name])) for name in options.networks}
    graphs[YARDSTICK] = weights_path("landmarker-open.onnx").read_bytes()
    timings = time_one_face(graphs, options.rounds)
    rows = [one_face_row(name, timing, graphs[name]) for name, timing in timings.items()]
    solvers = time_solvers(random_network(PgnConfig()), 5 * options.rounds)
    load.append(os.getloadavg()[0])
    result = {
        "benchmark": "pgn speed",
        "one_face": rows,
        "solvers": solvers,
        "load_average": {"before": round(load[0], 2), "after": round(load[1], 2)},
    } | provenance(f"python benchmarks/pgn_nets.py --rounds {options.rounds} --json FILE")
    text = json.dumps(result, indent=1)
    if options.json:
        write_result(options.json, result)
    print(text)


if __name__ == "__main__":
    main()
