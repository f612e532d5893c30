"""Held-out error of landmarker weights on renders, AFLW-21 and YouTube-Faces validation people.

python benchmarks/landmarker.py --weights landmarker-open --weights landmarker-research \
    --cache CACHE/open --cache CACHE/research --data DATA --json benchmarks/results/landmarker.json

A run's folder can stand beside shipped weights. The renders are the first shard of each cache,
which no recipe trains on; AFLW-21 and YTF-68 as `training.landmarker.evaluate` describes them.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import torch

from lifemask.nn.landmark_net import LandmarkNet
from lifemask.training.landmarker import (
    evaluate,
    load_corpus,
    starting_weights,
    with_fresh_parameters,
)
from lifemask.training.recipes import LANDMARKER
from provenance import provenance, write_result


def main() -> None:
    """Print the errors and, with --json, write them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", action="append", required=True, help="name or run folder")
    parser.add_argument("--cache", type=Path, action="append", required=True, help="renders")
    parser.add_argument("--data", type=Path, required=True, help="folder with aflw21 and ytf68")
    parser.add_argument("--prepared", type=Path, help="decoded real crops, made if absent")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    recipe = LANDMARKER["cpu"]("research")
    corpus = load_corpus(recipe, args.data, args.cache, args.prepared)
    errors = {}
    for name in args.weights:
        network = LandmarkNet(recipe.net)
        network.load_state_dict(with_fresh_parameters(starting_weights(name), network))
        found = evaluate(network.eval(), corpus.held_out)
        errors[Path(name).name] = {k: round(v, 3) for k, v in found.items()}
    command = "python benchmarks/landmarker.py " + " ".join(
        f"--weights {Path(w).name}" for w in args.weights
    )
    counts = {k: len(v) for k, v in corpus.held_out.items()}
    result = {
        "benchmark": "landmarker",
        **provenance(f"{command} --cache CACHE... --data DATA"),
        "nme_percent": errors,
        "images": counts,
    }
    text = json.dumps(result, indent=1)
    sys.stdout.write(text + "\n")
    if args.json:
        write_result(args.json, result)


if __name__ == "__main__":
    main()
