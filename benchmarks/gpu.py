"""What a GPU is asked for: labelled renders a second, and seconds for a surface of RAFaRe.

    python benchmarks/gpu.py --device cuda --data DATA --pairs PAIRS --workers 16 \
        --json benchmarks/results/gpu.json

**Renders**: images of 128 px with all labels, region maps, a dense landmark set and the truth per
pixel, left on the device. Every worker is a process of its own that draws on its own core; all
share the device. The clock starts when each has rendered a batch. Beside that, one worker's time
is divided into drawing (on the CPU, the banks of the shard included) and rendering, and the first
images are compared with what the CPU's kernels give. **Surfaces**: held-out pairs at a grid of 192,
the fewest seconds of some rounds, and how far the surface is from the CPU's. `--device cpu`
tries the script.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lifemask.assets import UserError
from lifemask.data.pairs import load_pairs
from lifemask.data.synthetic import SyntheticConfig, create_generator
from lifemask.data.torch_engine import TorchEngine
from lifemask.evaluation.surface import closest_on_surface
from lifemask.methods.rafare import RafarePredictConfig, load_rafare
from provenance import provenance, write_result
from rafare import picked
from rafare_systems import surface_of

SETS = ("ict68",)
RENDERS_A_SECOND, SURFACE_SECONDS = 3000.0, 0.5
GRID, ROUNDS, COMPARED = 192, 3, 16


def create_engine(data: Path, device: str, number: int = 0) -> TorchEngine:
    """An engine of a run of its own for each worker."""
    torch.set_num_threads(1)
    return TorchEngine(create_generator(SyntheticConfig(seed=7000 + number), data), device)


def settled(device: str) -> float:
    """The time when the device has done all that it was given."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def work(number: int, options: argparse.Namespace, start: Any, done: Any) -> None:
    """One worker: a batch to warm up, then its share between two barriers."""
    engine = create_engine(options.data, options.device, number)
    share = options.images // options.workers
    for _ in engine.batches(range(options.batch), options.batch, maps=True, sets=SETS):
        pass
    settled(options.device)
    start.wait()
    first = options.batch
    for _ in engine.batches(range(first, first + share), options.batch, maps=True, sets=SETS):
        pass
    settled(options.device)
    done.wait()


def renders(options: argparse.Namespace) -> dict[str, Any]:
    """Images a second of all workers, one worker's parts, and the agreement with the kernels."""
    context = multiprocessing.get_context("spawn")
    start, done = (context.Barrier(options.workers + 1) for _ in range(2))
    crew = [
        context.Process(target=work, args=(k, options, start, done), daemon=True)
        for k in range(options.workers)
    ]
    for process in crew:
        process.start()
    start.wait(600)
    began = time.perf_counter()
    done.wait(1200)
    seconds = time.perf_counter() - began
    images = options.workers * (options.images // options.workers)
    return {
        "images": images,
        "workers": options.workers,
        "batch": options.batch,
        "images_per_s": round(images / seconds, 1),
        "target": RENDERS_A_SECOND,
        "met": images / seconds >= RENDERS_A_SECOND,
        "one_worker": parts(options),
        "agreement": agreement(options),
    }


def parts(options: argparse.Namespace) -> dict[str, float]:
    """Milliseconds an image of drawing and of rendering in one process."""
    engine = create_engine(options.data, options.device)
    count = options.batch
    list(engine.batches(range(count), count, maps=True, sets=SETS))
    began = settled(options.device)
    scenes = list(engine.generator.scenes(range(count, 2 * count)))
    drawn = time.perf_counter()
    engine.render(*zip(*scenes, strict=True), maps=True, sets=SETS)
    rendered = settled(options.device)
    return {
        "draw_ms": round(1e3 * (drawn - began) / count, 3),
        "render_ms": round(1e3 * (rendered - drawn) / count, 3),
    }


def agreement(options: argparse.Namespace) -> dict[str, float]:
    """The first images against the CPU's kernels; tolerances: docs/synthetic.md."""
    engine = create_engine(options.data, options.device)
    ours = [s for b in engine.batches(range(COMPARED), COMPARED, sets=SETS) for s in b.samples()]
    theirs = engine.generator.render(range(COMPARED), sets=SETS)
    other = [float((a.region != b.region).mean()) for a, b in zip(ours, theirs, strict=True)]
    apart = [
        float(np.abs(a.landmarks[SETS[0]].image_px - b.landmarks[SETS[0]].image_px).max())
        for a, b in zip(ours, theirs, strict=True)
    ]
    return {
        "images": len(ours),
        "pixels_of_another_region_percent": round(100 * max(other), 4),
        "landmarks_px": round(max(apart), 6),
    }


def surfaces(options: argparse.Namespace) -> dict[str, Any]:
    """Seconds of held-out pairs' surfaces, and their distance from the CPU's in voxels."""
    config = RafarePredictConfig(grid=GRID)
    there, here = (load_rafare(options.weights, config, engine="torch") for _ in range(2))
    there.network.to(options.device)
    pairs = load_pairs(options.pairs)
    seconds, far = [], []
    for number in picked(pairs, options.heads):
        times, found = [], None
        for _ in range(ROUNDS):
            began = settled(options.device)
            found = surface_of(there, pairs[number])
            times.append(settled(options.device) - began)
        expected = surface_of(here, pairs[number])
        if found is None or expected is None:
            raise UserError(f"pair {number} has no surface; take other pairs")
        seconds.append(min(times))
        vertices, faces = expected.vertices.numpy(), expected.faces.numpy()
        near = closest_on_surface(found.vertices.numpy(), vertices, faces)
        far.append(float(np.quantile(near.distance, 0.99)) * GRID / 2)
    mean = float(np.mean(seconds))
    return {
        "heads": len(seconds),
        "grid": GRID,
        "weights": options.weights,
        "seconds": round(mean, 3),
        "target": SURFACE_SECONDS,
        "met": mean <= SURFACE_SECONDS,
        "voxels_from_cpu_p99": round(max(far), 4),
    }


def main(words: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", required=True)
    parser.add_argument("--data", type=Path, help="folder with skins/ and hdri/; none: no renders")
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--workers", type=int, default=16)
    parser.add_argument("--pairs", type=Path, help="held-out pairs; none: no surfaces")
    parser.add_argument("--heads", type=int, default=8)
    parser.add_argument("--weights", choices=("open", "research"), default="open")
    parser.add_argument("--json", type=Path, required=True)
    options = parser.parse_args(words)
    if torch.device(options.device).type == "cuda" and not torch.cuda.is_available():
        sys.exit("error: there is no CUDA device; --device cpu tries the script")
    command = f"python benchmarks/gpu.py --device {options.device}"
    command += f" --data DATA --images {options.images} --batch {options.batch}"
    command += f" --workers {options.workers} --pairs PAIRS --heads {options.heads}"
    out: dict[str, Any] = {"benchmark": "gpu", "device": options.device}
    if torch.device(options.device).type == "cuda":
        out["name"] = torch.cuda.get_device_name(options.device)
    try:
        if options.data is not None:
            out["renders"] = renders(options)
        if options.pairs is not None:
            out["surfaces"] = surfaces(options)
    except UserError as error:
        sys.exit(f"error: {error}")
    result = {**out, **provenance(f"{command} --weights {options.weights} --json FILE")}
    print(json.dumps(result, indent=1))
    write_result(options.json, result)


if __name__ == "__main__":
    main()
