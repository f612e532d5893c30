"""Speed of the render generator, and whether cost and memory stay flat over a long run.

    python benchmarks/synth.py --data DIR --json benchmarks/results/synth.json
    python benchmarks/synth.py --data DIR --long 100000 --json benchmarks/results/synth-long.json

The first writes shards with labels alone and with full truth; speeds are per second of one core's
time, which other work on the machine hardly changes, and per second of the clock. The second draws
and labels images in one process, keeps only a checksum, and fits lines to cost and memory.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lifemask.data._sample_codec import encode, leaves
from lifemask.data._synthetic_run import RenderJob, run, samples_of, set_up
from lifemask.data.stream import RenderStream
from lifemask.data.synthetic import SyntheticConfig
from provenance import provenance, write_result

SETS = ("mediapipe478",)


def measure(data: Path, count: int, workers: int) -> dict[str, Any]:
    """Costs of the parts in ms of CPU per image, and speed of whole runs."""
    torch.set_num_threads(1)
    config = SyntheticConfig()
    job = RenderJob(config, Path(), config.shard_size, data)
    started = time.process_time()
    generator = set_up(job)
    created = time.process_time()
    banks = generator.banks(0)
    banked = time.process_time()
    few = list(range(100))
    levels = {"labels": ("none", ()), "full truth": ("maps", SETS)}
    speed: dict[str, float] = {}
    parts: dict[str, Any] = {"set_up_s": created - started}
    parts["banks_ms"] = 1e3 * (banked - created) / config.shard_size
    for name, (truth, sets) in levels.items():
        list(samples_of(generator, banks, few[:2], truth, sets))  # loads compiled kernels
        samples, spent = timed(
            lambda t=truth, s=sets: list(samples_of(generator, banks, few, t, s))
        )
        files, packing = timed(lambda s=samples: [encode(x, 0) for x in s])
        parts[f"render_ms, {name}"] = 1e3 * spent / len(few)
        parts[f"encode_ms, {name}"] = 1e3 * packing / len(few)
        speed[name] = 1 / (parts["banks_ms"] + 1e3 * (spent + packing) / len(few)) * 1e3
        parts[f"kilobytes, {name}"] = np.mean([sum(map(len, f.values())) for f in files]) / 1e3
    result: dict[str, Any] = {
        "benchmark": "synth",
        "size": config.size,
        "parts": {name: round(float(value), 3) for name, value in parts.items()},
        "images_per_core_s": {name: round(value, 1) for name, value in speed.items()},
    }
    if count:
        runs = [whole_run(data, count, workers, name, *levels[name]) for name in levels]
        result |= {"runs": runs, "stream": streamed(generator, count, workers)}
    return result


def timed(work: Callable[[], Any]) -> tuple[Any, float]:
    """Result and seconds of CPU."""
    started = time.process_time()
    result = work()
    return result, time.process_time() - started


def whole_run(
    data: Path, count: int, workers: int, name: str, truth: Any, sets: tuple[str, ...]
) -> dict[str, Any]:
    """A run of `lifemask synth` with everything written, start-up left out."""
    config = SyntheticConfig(shard_size=-(-count // workers))
    marks: list[tuple[int, float]] = []

    def mark(found: int, made: int) -> None:
        del found
        if made:
            marks.append((made, time.perf_counter()))

    with tempfile.TemporaryDirectory() as folder:
        job = RenderJob(config, Path(folder) / "out", count, data, truth=truth, sets=sets)
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        run(job, "local", workers, mark)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    (first, begun), (last, ended) = marks[0], marks[-1]
    return {
        "truth": name,
        "images": count,
        "workers": workers,
        "images_per_wall_s": round((last - first) / (ended - begun), 1),
        "cpu_s_with_start_up": round(cpu, 1),
    }


def streamed(generator: Any, count: int, workers: int) -> dict[str, Any]:
    """Images per second of the clock from a stream, after its first batches."""
    with RenderStream(generator, 50, workers, lanes=workers) as batches:
        batches(0)
        started = time.perf_counter()
        steps = max(count // 50, 2)
        for step in range(1, steps + 1):
            batches(step)
        seconds = time.perf_counter() - started
    return {"workers": workers, "images_per_wall_s": round(50 * steps / seconds, 1)}


def long_run(data: Path, count: int, window: int, path: Path | None, command: str) -> None:
    """Draw and label many images; write windows and slopes as they become known."""
    torch.set_num_threads(1)
    loaded = provenance(command)  # of the code that runs, whatever is committed meanwhile
    config = SyntheticConfig(shard_size=window)
    generator = set_up(RenderJob(config, Path(), count, data))
    rows: list[dict[str, float]] = []
    digest = hashlib.sha256()
    for images, banks_s, render_s in windows(generator, count, window, digest):
        rows.append(
            {
                "images": images,
                "banks_ms": round(1e3 * banks_s / window, 4),
                "render_ms": round(1e3 * render_s / window, 4),
                "rss_mb": round(resident_mb(), 2),
                "load": round(os.getloadavg()[0], 1),
            }
        )
        result = {
            "benchmark": "synth-long", "images": images, "planned": count,
            "checksum": digest.hexdigest()[:16],
            **slopes(rows), "windows": rows, **loaded,
        }  # fmt: skip
        if path is not None:
            write_result(path, result)
    print(json.dumps({k: v for k, v in result.items() if k != "windows"}, indent=1))


def windows(
    generator: Any, count: int, window: int, digest: Any
) -> Iterator[tuple[int, float, float]]:
    """(images so far, CPU s for the banks, CPU s for the images) of each shard."""
    for shard in range(count // window):
        banks, banks_s = timed(lambda s=shard: generator.banks(s))
        indices = list(range(shard * window, (shard + 1) * window))
        started = time.process_time()
        for sample in samples_of(generator, banks, indices, "none", ()):
            for _, value in leaves(sample):
                digest.update(np.ascontiguousarray(value).tobytes())
        yield (shard + 1) * window, banks_s, time.process_time() - started


def resident_mb() -> float:
    """Memory of this process that is in RAM."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1e6


def slopes(rows: list[dict[str, float]]) -> dict[str, Any]:
    """Change per 100,000 images with 95 % intervals, the first fifth left out as warm-up."""
    kept = rows[len(rows) // 5 :]
    if len(kept) < 4:
        return {}
    x = np.array([r["images"] for r in kept]) / 1e5
    cost = np.array([r["banks_ms"] + r["render_ms"] for r in kept])
    memory = np.array([r["rss_mb"] for r in kept])
    return {
        "warm_up_windows": len(rows) - len(kept),
        "mean_cpu_ms_per_image": round(float(cost.mean()), 3),
        "cost_percent_per_100k": line(x, 100 * cost / cost.mean()),
        "memory_mb_per_100k": line(x, memory),
        "memory_mb": [round(float(memory.min()), 1), round(float(memory.max()), 1)],
    }


def line(x: np.ndarray, y: np.ndarray) -> dict[str, Any]:
    """Theil-Sen slope, and its 95 % interval from resampled blocks of five windows."""
    rng = np.random.default_rng(0)
    n, block = len(x), 5
    draws = []
    for _ in range(400):
        starts = rng.integers(0, max(n - block, 0) + 1, -(-n // block))
        ids = np.unique((starts[:, None] + np.arange(min(block, n))).ravel()[:n])
        draws.append(theil_sen(x[ids], y[ids]))
    low, high = np.nanpercentile(draws, [2.5, 97.5])
    return {
        "slope": round(theil_sen(x, y), 3),
        "ci95": [round(float(low), 3), round(float(high), 3)],
    }


def theil_sen(x: np.ndarray, y: np.ndarray) -> float:
    """Median of the slopes between all pairs."""
    i, j = np.triu_indices(len(x), 1)
    return float(np.median((y[j] - y[i]) / (x[j] - x[i]))) if len(i) else float("nan")


def main() -> None:
    """Print the result and, with --json, write it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument(
        "--count", type=int, default=400, help="images per run; 0 measures the parts alone"
    )
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--long", type=int, default=0, help="images of a long run, instead")
    parser.add_argument("--window", type=int, default=1000, help="images per measurement there")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    command = "python benchmarks/synth.py --data DIR"
    if args.long:
        command += f" --long {args.long} --window {args.window}"
        long_run(args.data, args.long, args.window, args.json, command)
        return
    result = measure(args.data, args.count, args.workers)
    command += f" --count {args.count} --workers {args.workers}"
    result |= provenance(command) | {"load_average": round(os.getloadavg()[0], 1)}
    text = json.dumps(result | {"processor": platform.machine()}, indent=1)
    print(text)
    if args.json:
        args.json.write_text(text + "\n")


if __name__ == "__main__":
    main()
