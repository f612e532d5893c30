"""Is data ever the bottleneck of training? The real batches of a recipe against cached tensors.

    python benchmarks/training.py --cache CACHE --json benchmarks/results/training.json

One run of the landmarker's recipe alternates between chunks of steps on real batches and chunks on
random tensors made beforehand, so that both meet the same machine. The target is a ratio of speeds
of at least 0.90, in two readings:

  wall   time per step as it passes; true on an idle machine, noise on a busy one
  cpu    cpu time of the loop per step, cached / (real + making the batch): the ratio when the
         worker has no core of its own, and independent of what else the machine does
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import threading
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import fmean, median
from typing import Any

import numpy as np
import torch

from lifemask.facemodel import load_face_model
from lifemask.nn.parametric import landmark_model
from lifemask.training import landmarker
from lifemask.training.batches import map_tensors
from lifemask.training.recipes import LANDMARKER
from lifemask.training.trainable import loop_config
from provenance import provenance

TARGET = 0.90
WARM_UP = 2


@dataclass
class Alternating:
    """Real batches in even chunks of steps, cached random ones in odd chunks.

    Attributes:
        make: the real maker.
        chunk: steps per chunk.
        cached: batches of random tensors of the same shapes.
        cpu_s: cpu time of each real batch.
    """

    make: Any
    chunk: int
    cached: list[Any]
    cpu_s: list[float] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def is_real(self, step: int) -> bool:
        """Whether a step is one on real data."""
        return (step - WARM_UP) // self.chunk % 2 == 0

    def __call__(self, step: int, share: int = 0, shares: int = 1) -> Any:
        """The batch of a step."""
        if not self.is_real(step):
            return self.cached[step % len(self.cached)]
        before = time.thread_time()
        batch = self.make(step, share, shares)
        with self.lock:
            self.cpu_s.append(time.thread_time() - before)
        return batch


class Clock:
    """Wall and cpu time of the loop's thread after each step."""

    def __init__(self) -> None:
        self.marks = [(time.perf_counter(), time.thread_time())]

    def __call__(self, done: int) -> None:
        """Note a finished step."""
        self.marks.append((time.perf_counter(), time.thread_time()))

    def of_step(self, step: int) -> np.ndarray:
        """Wall and cpu seconds of a step."""
        return np.subtract(self.marks[step + 1], self.marks[step])


def random_batches(batch: Any, count: int) -> list[Any]:
    """Batches of random tensors in the shapes and layouts of a real one."""

    def like(values: torch.Tensor) -> torch.Tensor:
        if not values.is_floating_point():
            return values.clone()
        return torch.rand_like(values) if values.ndim == 4 else 0.3 * torch.randn_like(values)

    return [map_tensors(batch, like) for _ in range(count)]


def measure(options: argparse.Namespace, run: Path) -> dict[str, Any]:
    """Run the alternation and compare."""
    torch.set_num_threads(1)
    recipe = LANDMARKER[options.recipe]("open")
    recipe = replace(recipe, processes=1, workers=options.workers)
    corpus = landmarker.load_corpus(recipe, None, options.cache)
    maker = landmarker.BatchMaker(corpus.training, recipe)
    feed = Alternating(maker, options.chunk, random_batches(maker(0), 4))
    ahead = 2 * options.workers + 1
    if options.chunk <= ahead:
        raise SystemExit(f"--chunk must exceed {ahead}, the batches made ahead")
    clock = Clock()
    steps = WARM_UP + 2 * options.chunk * options.pairs
    config = loop_config(
        recipe, run, stop_after=steps, evaluate_every=0, save_every=0, progress=False,
        on_step=clock, log_every=steps,
    )  # fmt: skip
    landmarker.BatchMaker = lambda *_: feed
    model = landmark_model(load_face_model(), landmarker.CONVENTION)
    landmarker.run_training(recipe, corpus, model, config)
    return compare(feed, clock, options.pairs, ahead) | {
        "recipe": recipe.name,
        "batch": recipe.optim.batch,
        "workers": recipe.workers,
        "crops_in_cache": sum(len(one) for one in corpus.training["renders"]),
        "waited_for_data": waited(run),
    }


def compare(feed: Alternating, clock: Clock, pairs: int, ahead: int) -> dict[str, Any]:
    """Speeds of both kinds; wall times without the end of a chunk, when the worker makes the other.

    The loop's cpu time does not depend on what the worker does, so all steps count there.
    """
    wall: dict[bool, list[float]] = {True: [], False: []}
    cpu: dict[bool, list[float]] = {True: [], False: []}
    for number in range(2 * pairs):
        first, kind = WARM_UP + number * feed.chunk, number % 2 == 0
        times = np.array([clock.of_step(s) for s in range(first, first + feed.chunk)])
        wall[kind].append(times[: feed.chunk - ahead, 0].mean())
        cpu[kind] += times[:, 1].tolist()
    making = fmean(feed.cpu_s[WARM_UP:])
    ratios = np.divide(wall[False], wall[True])
    return {
        "steps_each": pairs * feed.chunk,
        "wall_ms_per_step": {"real": ms(wall[True]), "cached": ms(wall[False])},
        "loop_cpu_ms_per_step": {"real": ms(cpu[True]), "cached": ms(cpu[False])},
        "making_a_batch_cpu_ms": round(1000 * making, 1),
        "ratio_wall_median_of_pairs": round(median(ratios), 3),
        "ratio_cpu": round(fmean(cpu[False]) / (fmean(cpu[True]) + making), 3),
        "target": TARGET,
    }


def ms(seconds: list[float]) -> float:
    """Mean in milliseconds."""
    return round(1000 * float(np.mean(seconds)), 1)


def waited(run: Path) -> float:
    """Share of the run's time in which the loop waited for a batch, as its own log says."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return rows[-1]["waited"]


def main() -> None:
    """Print the result and, with --json, write it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cache", type=Path, action="append", required=True, help="open renders")
    parser.add_argument("--recipe", default="cpu", choices=LANDMARKER)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--chunk", type=int, default=10, help="steps of one kind in a row")
    parser.add_argument("--pairs", type=int, default=5, help="chunks of each kind")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        result = measure(options, Path(folder))
    command = (
        f"python benchmarks/training.py --cache CACHE --recipe {options.recipe} --workers "
        f"{options.workers} --chunk {options.chunk} --pairs {options.pairs} "
        "--json benchmarks/results/training.json"
    )
    result |= {"load_average_before": round(load, 1), **provenance(command)}
    text = json.dumps(result, indent=1)
    print(text)
    if options.json:
        options.json.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
