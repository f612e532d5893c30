"""Inference speed of 2DASL's backbones through onnxruntime: one face, and batches on two cores.

    python benchmarks/dasl_nets.py --json benchmarks/results/dasl_nets.json

Every network is exported as its shipped weights are (normalisation folded, any batch size, compared
with torch first) with a linear head to the head model's coefficients; its weights are random.

One face: one thread, all networks in turn, round after round, the landmarker among them as the
yardstick; the median wall time, the fastest, and the median processor time, which other work on the
machine disturbs least. Batches: a session with two threads, and two callers of a session with one,
each with half the faces; the fastest call of each counts for the ratios. A ratio is to one face at
a time in a session with as many threads.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"  # before numpy and torch are imported

import argparse  # noqa: E402
import json  # noqa: E402
import statistics  # noqa: E402
import time  # noqa: E402
from collections.abc import Callable  # noqa: E402
from concurrent.futures import ThreadPoolExecutor  # noqa: E402
from dataclasses import dataclass, field  # noqa: E402
from functools import partial  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

import numpy as np  # noqa: E402
import onnxruntime  # noqa: E402
import torch  # noqa: E402
from torch import nn  # noqa: E402

from lifemask.assets import weights_path  # noqa: E402
from lifemask.facemodel import load_face_model  # noqa: E402
from lifemask.methods.dasl import DaslConfig, DaslNet, ExportNet, create_dasl  # noqa: E402
from lifemask.training.dasl_export import onnx_bytes  # noqa: E402
from lifemask.training.export import largest_difference  # noqa: E402
from provenance import provenance, write_result  # noqa: E402

SIZES = {"tiny": 120, "mobile": 112, "resnet18_half": 120, "resnet50": 120}
TARGET_MS = {"mobile": 3.0, "resnet50": 45.0}
TARGET_RATIO = 1.5
YARDSTICK = "landmarker"
BATCHES = (1, 2, 4, 8, 16, 32)
CALLS_PER_ROUND = 5
FACES_AT_LEAST = 16  # that a timing of a batch handles, in several calls if need be
SPINNING_S = 0.02  # a session's second thread goes on spinning after a call, into the next timing
ONE, SHARED, SPLIT = "one thread", "a session with two threads", "two callers of one thread each"
ALONE = {ONE: ONE, SHARED: SHARED, SPLIT: SHARED}  # whose batch 1 the ratios of a way are to

Feed = dict[str, np.ndarray]


@dataclass
class Timing:
    """Seconds of repeated calls."""

    call: Callable[[], Any]
    wall: list[float] = field(default_factory=list)
    processor: list[float] = field(default_factory=list)

    def run(self, repeats: int = 1) -> None:
        """Time `repeats` calls in a row and keep the mean of them."""
        wall, processor = time.perf_counter(), time.process_time()
        for _ in range(repeats):
            self.call()
        self.wall.append((time.perf_counter() - wall) / repeats)
        self.processor.append((time.process_time() - processor) / repeats)


def random_network(name: str, size: int) -> DaslNet:
    """A network as after some training: no residual branch is multiplied by 0, no output is."""
    torch.manual_seed(0)
    network = create_dasl(DaslConfig(backbone=name, size=size), load_face_model())  # type: ignore[arg-type]
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d) and not module.weight.any():
            nn.init.constant_(module.weight, 0.2)
    nn.init.kaiming_normal_(network.regressor.weight)
    return network.eval()


def inputs(network: DaslNet) -> dict[str, tuple[int, ...]]:
    """Shape of one face's inputs."""
    return {"crops": (3, network.config.size, network.config.size), "landmarks": (18, 3)}


def multiply_adds(network: DaslNet) -> int:
    """Of one face: convolutions and linear layers."""
    total = 0

    def count(module: nn.Module, _: Any, output: torch.Tensor) -> None:
        nonlocal total
        assert isinstance(module, nn.Conv2d | nn.Linear)
        cells = output.shape[-1] * output.shape[-2] if isinstance(module, nn.Conv2d) else 1
        total += module.weight.numel() * cells

    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.register_forward_hook(count)
    with torch.no_grad():
        ExportNet(network)(*(torch.zeros(1, *n) for n in inputs(network).values()))
    return total


def typical_coefficient(network: DaslNet) -> float:
    """Root mean square of the raw coefficients of a random face, beside which differences count."""
    with torch.no_grad():
        raw = ExportNet(network)(*(torch.rand(1, *n) for n in inputs(network).values()))
    return float(raw.square().mean().sqrt())


def open_session(graph: bytes, threads: int) -> onnxruntime.InferenceSession:
    """As the product opens it."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


def faces(session: onnxruntime.InferenceSession, count: int) -> Feed:
    """Random inputs for a session."""
    rng = np.random.default_rng(0)
    given = {i.name: (count, *i.shape[1:]) for i in session.get_inputs()}
    return {name: rng.random(shape, np.float32) for name, shape in given.items()}


def time_one_face(graphs: dict[str, bytes], rounds: int) -> dict[str, Timing]:
    """One crop on one thread, the networks in turn."""
    timings = {}
    for name, graph in graphs.items():
        session = open_session(graph, 1)
        timings[name] = Timing(partial(session.run, None, faces(session, 1)))
    for timing in timings.values():
        timing.call()
    for _ in range(rounds):
        for timing in timings.values():
            timing.call()  # the caches hold the network before
            for _ in range(CALLS_PER_ROUND):
                timing.run()
    return timings


def time_batches(
    graph: bytes, rounds: int, largest: int, pool: ThreadPoolExecutor
) -> dict[tuple[str, int], Timing]:
    """All ways and batch sizes of one network in turn; batches count all faces of a call."""
    alone, shared = open_session(graph, 1), open_session(graph, 2)

    def split(given: Feed) -> None:
        list(pool.map(lambda _: alone.run(None, given), range(2)))

    timings: dict[tuple[str, int], Timing] = {}
    for batch in (b for b in BATCHES if b <= largest):
        timings[ONE, batch] = Timing(partial(alone.run, None, faces(alone, batch)))
        timings[SHARED, batch] = Timing(partial(shared.run, None, faces(shared, batch)))
        if batch > 1:
            timings[SPLIT, batch] = Timing(partial(split, faces(alone, batch // 2)))
    for timing in timings.values():
        timing.call()
    for _ in range(rounds):
        for (_, batch), timing in timings.items():
            time.sleep(SPINNING_S)
            timing.run(max(1, FACES_AT_LEAST // batch))
    return timings


def one_face_row(name: str, timing: Timing, graph: bytes) -> dict[str, Any]:
    """A network's time for one face."""
    row: dict[str, Any] = {"network": name}
    if name in SIZES:
        network = random_network(name, SIZES[name])
        args = (ExportNet(network), inputs(network), graph, (1, 2, 5))
        row |= {
            "size_px": SIZES[name],
            "parameters": sum(p.numel() for p in network.parameters()),
            "multiply_adds": multiply_adds(network),
            "coefficients": network.head.size,
            "coefficients_rms": round(typical_coefficient(network), 3),
            "largest_difference_from_torch": float(f"{largest_difference(*args):.2g}"),
        }
    return row | {
        "ms": round(1000 * statistics.median(timing.wall), 3),
        "fastest_ms": round(1000 * min(timing.wall), 3),
        "processor_ms": round(1000 * statistics.median(timing.processor), 3),
        "target_ms": TARGET_MS.get(name),
        "calls": len(timing.wall),
    }


def batch_rows(name: str, timings: dict[tuple[str, int], Timing]) -> list[dict[str, Any]]:
    """Faces per second of every way and batch size, and ratios to one face at a time."""
    alone = {way: timings[threads, 1] for way, threads in ALONE.items()}
    rows = []
    for (way, batch), timing in timings.items():
        rate = batch / min(timing.wall)
        rows.append(
            {
                "network": name,
                "way": way,
                "batch": batch,
                "faces_per_s": round(rate, 1),
                "faces_per_s_median": round(batch / statistics.median(timing.wall), 1),
                "processor_ms_per_face": round(1000 * min(timing.processor) / batch, 3),
                "ratio": round(rate * min(alone[way].wall), 2),
                "ratio_to_one_thread": round(rate * min(timings[ONE, 1].wall), 2),
            }
        )
    return rows


def best_of(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The fastest way on two threads."""
    best = max((r for r in rows if r["way"] != ONE), key=lambda r: r["faces_per_s"])
    return {**best, "target_ratio": TARGET_RATIO}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--json", type=Path, help="where to write; default: print only")
    options = parser.parse_args()
    torch.set_num_threads(1)
    load = [os.getloadavg()[0]]
    graphs = {name: onnx_bytes(random_network(name, size)) for name, size in SIZES.items()}
    graphs[YARDSTICK] = weights_path("landmarker-open.onnx").read_bytes()
    timings = time_one_face(graphs, options.rounds)
    one_face = [one_face_row(name, timing, graphs[name]) for name, timing in timings.items()]
    batches, best = [], []
    with ThreadPoolExecutor(2) as pool:
        for name, share, largest in (
            ("mobile", 1, 32),
            ("resnet18_half", 2, 32),
            ("resnet50", 4, 16),
        ):
            rows = batch_rows(
                name, time_batches(graphs[name], options.rounds // share, largest, pool)
            )
            batches += rows
            best.append(best_of(rows))
    load.append(os.getloadavg()[0])
    result = {
        "one_face": one_face,
        "batches": batches,
        "best_on_two_threads": best,
        "load_average": {"before": round(load[0], 2), "after": round(load[1], 2)},
    } | provenance(f"python benchmarks/dasl_nets.py --rounds {options.rounds} --json FILE")
    text = json.dumps(result, indent=1)
    if options.json:
        write_result(options.json, result)
    print(text)


if __name__ == "__main__":
    main()
