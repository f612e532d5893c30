"""How fast pairs are made, and how many photos are turned away, by the command that users run.

    python benchmarks/pairs.py --data DIR --json benchmarks/results/pairs.json

One run for each size of `SIZES`, in fresh folders. The rate counts from the first progress to the
end, as a long run has it; its target is 1,000 pairs of 256 px in 25 minutes on two cores.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from lifemask.data._pairs_run import run_pairs
from lifemask.data.pairs import PairsConfig
from provenance import provenance, write_result

SIZES = {128: (96, 3, 24_000), 256: (192, 5, 60_000)}
"""Lattice, box filter and points near the surface by the side of the pictures in px."""
TARGET = {"size": 256, "minutes_per_1000": 25, "rejected_percent": 40, "cores": 2}


def measure(data: Path, size: int, count: int, workers: int, photos: str) -> dict[str, Any]:
    """Rate and rejections of one run."""
    grid, box, near = SIZES[size]
    config = PairsConfig(
        size=size, grid=grid, box=box, near=near, photos=photos, shard_size=-(-count // workers)
    )
    marks: list[tuple[int, float]] = []

    def mark(found: int, made: int) -> None:
        del found
        if made:
            marks.append((made, time.perf_counter()))

    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out"
        manifest = run_pairs(config, out, count, data, "local", workers, mark)
    (first, begun), (last, ended) = marks[0], marks[-1]
    rate = (last - first) / (ended - begun)
    rejected = manifest["rejected"]
    tried = count + sum(rejected.values())
    return {
        "size": size, "grid": grid, "pairs": count, "workers": workers, "photos": photos,
        "pairs_per_s": round(rate, 2), "minutes_per_1000": round(1000 / rate / 60, 1),
        "photos_tried": tried, "rejected": rejected,
        "rejected_percent": round(100 * sum(rejected.values()) / tried, 1),
    }  # fmt: skip


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--count", type=int, default=60)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--photos", default="renders")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rows = [
        measure(options.data, size, options.count, options.workers, options.photos)
        for size in SIZES
    ]
    command = f"python benchmarks/pairs.py --data DIR --count {options.count}"
    result = {"benchmark": "pairs", "target": TARGET, "runs": rows, **provenance(command)}
    text = json.dumps(result, indent=1) + "\n"
    sys.stdout.write(text)
    if options.json:
        write_result(options.json, result)


if __name__ == "__main__":
    main()
