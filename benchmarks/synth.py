"""Throughput of the render generator on one thread: python benchmarks/synth.py --data DIR."""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from pathlib import Path

import torch

from lifemask.data.synthetic import SyntheticConfig, create_generator, render_samples


def measure(data: Path, count: int) -> dict[str, float | int | str]:
    """Images per second of CPU time and of wall time, after a warm-up, banks included apart."""
    torch.set_num_threads(1)
    config = SyntheticConfig()
    started = time.perf_counter()
    generator = create_generator(config, data)
    created = time.perf_counter()
    banks = generator.banks(0)
    banked = time.perf_counter()
    list(render_samples(generator, banks, [0, 1]))  # compiles, or loads the compiled kernels
    wall, cpu = time.perf_counter(), time.process_time()
    list(render_samples(generator, banks, list(range(count))))
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return {
        "benchmark": "synth",
        "machine": platform.processor() or platform.machine(),
        "load_average": os.getloadavg()[0],
        "size": config.size,
        "supersample": config.supersample,
        "images": count,
        "images_per_cpu_s": round(count / cpu, 1),
        "images_per_wall_s": round(count / wall, 1),
        "create_s": round(created - started, 2),
        "banks_s": round(banked - created, 2),
    }


def main() -> None:
    """Print the result and, with --json, write it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--count", type=int, default=400)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    result = measure(args.data, args.count)
    text = json.dumps(result, indent=1)
    print(text)
    if args.json:
        args.json.write_text(text + "\n")


if __name__ == "__main__":
    main()
