"""Seconds and memory of RAFaRe's surface, and what evaluating less of the field changes.

    python benchmarks/rafare_speed.py --pairs PAIRS --json benchmarks/results/rafare-speed.json

Three ways to ask for the same surface, each in a process of its own on the same pairs: `full`,
every voxel behind the mask; `every voxel`, those near the surface (`evaluate="band"`, `every=1`);
`every second`, every second of these along each axis (`every=2`, the default). Distances are from
the vertices to `full`'s surface and back, in voxels. Run it on an idle machine.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lifemask.assets import UserError
from lifemask.data.pairs import load_pairs
from lifemask.evaluation.surface import closest_on_surface
from provenance import provenance, write_result
from rafare import pair_options, picked
from rafare_systems import Asked, load_predictor, surface_of

WAYS: dict[str, dict[str, Any]] = {
    "full": {"evaluate": "full"},
    "every voxel": {"every": 1},
    "every second": {"every": 2},
}
EXACT = "full"
SECONDS, MEGABYTES, VOXELS = 6.0, 2048, 0.1
ROUNDS = 2


def child(options: argparse.Namespace) -> dict[str, Any]:
    """One way on all pairs: the fewest seconds of some rounds by pair, and the peak of memory."""
    torch.set_num_threads(options.threads[0])
    predictor = load_predictor(Asked(options.weights, "", True, options.grid, options.threads[0]))
    pairs = load_pairs(options.pairs)
    numbers, seconds = picked(pairs, options.heads), []
    for number in numbers:
        times, surface = [], None
        for _ in range(ROUNDS):
            start = time.perf_counter()
            surface = surface_of(predictor, pairs[number], **WAYS[options.way])
            times.append(time.perf_counter() - start)
        if surface is None:
            raise UserError(f"pair {number} has no surface; take other pairs")
        seconds.append(round(min(times), 3))
        file = options.child / f"{options.way}-{number}.npz"
        np.savez(file, vertices=surface.vertices.numpy(), faces=surface.faces.numpy())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"seconds": seconds, "peak_memory_mb": round(peak)}


def in_child(options: argparse.Namespace, way: str, threads: int, folder: Path) -> dict[str, Any]:
    """What `child` finds in a process that has only so many threads."""
    words = [sys.executable, __file__, "--pairs", options.pairs.resolve(), "--heads", options.heads]
    words += ["--weights", options.weights, "--grid", options.grid, "--threads", threads]
    words += ["--child", folder, "--way", way]
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    run = subprocess.run(
        list(map(str, words)), env=environment, check=True, capture_output=True, text=True
    )
    found = json.loads(run.stdout.splitlines()[-1])
    return {"mean_seconds": round(float(np.mean(found["seconds"])), 2)} | found


def apart(folder: Path, way: str, number: int, grid: int) -> np.ndarray:
    """Distances between two ways' surfaces of a pair, both directions, in voxels."""
    a, b = (np.load(folder / f"{name}-{number}.npz") for name in (EXACT, way))
    there = closest_on_surface(b["vertices"], a["vertices"], a["faces"]).distance
    back = closest_on_surface(a["vertices"], b["vertices"], b["faces"]).distance
    return np.concatenate((there, back)) * grid / 2


def run(options: argparse.Namespace) -> dict[str, Any]:
    """All ways with all numbers of threads, and how far they are apart."""
    out: dict[str, Any] = {"benchmark": "rafare-speed", "weights": options.weights}
    numbers = picked(load_pairs(options.pairs), options.heads)
    out |= {"grid": options.grid, "heads": len(numbers), "rounds": ROUNDS, "ways": {}}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for way in WAYS:
            counts = options.threads if way != EXACT else options.threads[-1:]
            out["ways"][way] = {str(n): in_child(options, way, n, folder) for n in counts}
        out["apart_voxels"] = {}
        for way in list(WAYS)[1:]:
            far = np.concatenate([apart(folder, way, n, options.grid) for n in numbers])
            shares = {"mean": far.mean(), "p99": np.quantile(far, 0.99), "most": far.max()}
            out["apart_voxels"][way] = {k: round(float(v), 4) for k, v in shares.items()}
    return out | {"targets": targets(out, max(options.threads))}


def targets(found: dict[str, Any], threads: int) -> list[dict[str, Any]]:
    """What the two ways beside `full` are held to; a distance is that of the worst vertex."""
    rows = []
    for way, far in found["apart_voxels"].items():
        own = found["ways"][way][str(threads)]
        for what, value, most in (
            ("seconds", own["mean_seconds"], SECONDS),
            ("peak MB", own["peak_memory_mb"], MEGABYTES),
            ("voxels from full", far["most"], VOXELS),
        ):
            target = f"{way}: {what} <= {most:g}"
            rows.append({"target": target, "value": value, "met": value <= most})
    return rows


def parser() -> argparse.ArgumentParser:
    """The options."""
    found = pair_options(__doc__, heads=4)
    found.add_argument("--grid", type=int, default=192)
    found.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    found.add_argument("--json", type=Path)
    found.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    found.add_argument("--way", choices=tuple(WAYS), help=argparse.SUPPRESS)
    return found


def main(words: list[str] | None = None) -> None:
    """Command line."""
    options = parser().parse_args(words)
    if options.child:
        print(json.dumps(child(options)))
        return
    if options.json is None:
        sys.exit("error: give --json FILE")
    command = f"python benchmarks/rafare_speed.py --pairs PAIRS --heads {options.heads}"
    command += f" --weights {options.weights} --grid {options.grid}"
    command += f" --threads {' '.join(map(str, options.threads))} --json FILE"
    result: dict[str, Any] = {**run(options), **provenance(command)}
    for way, by_threads in result["ways"].items():
        print(way, by_threads, result["apart_voxels"].get(way, ""))
    write_result(options.json, result)


if __name__ == "__main__":
    main()
