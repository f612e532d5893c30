"""What RAFaRe learns from pairs of different kinds: the same short training on each of them.

    for kind in "pairs" "fitted_only --mode fitted_only" "ict --heads ict" ...; do
        set -- $kind; name=$1; shift
        lifemask pairs -o SETS/$name --count 200 --size 256 --grid 128 --box 5 --data DATA "$@"
    done
    python benchmarks/rafare_data.py --sets SETS --held-out pairs=HELD_OUT --held-out ict=HELD_ICT \
        --steps 300 --seeds 2 --work WORK --json benchmarks/results/rafare-data.json

Each folder of SETS is one kind; its settings go into the result. Base and fine level start from
nothing, see as many pairs of each kind, and are judged on the same held-out pairs. WORK keeps
what is done: a run that is stopped goes on there.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lifemask.assets import UserError
from lifemask.data.pairs import read_header
from lifemask.training.rafare import evaluate, run_training
from lifemask.training.rafare_batches import PairArrays, load_corpus
from lifemask.training.rafare_recipes import Part, RafareRecipe, cpu
from lifemask.training.trainable import loop_config, shorten_optim
from provenance import provenance, write_result

PARTS: tuple[Part, ...] = ("base", "fine")
NAMED = "mode", "heads", "blend", "photos"
SIZE = cpu("base").net.size
log = logging.getLogger("rafare_data")


def short_recipe(part: Part, steps: int, seed: int) -> RafareRecipe:
    """The recipe for two cores with its schedule shortened."""
    recipe = cpu(part)
    optim = shorten_optim(recipe.optim, steps / recipe.optim.steps)
    return replace(recipe, optim=optim, seed=seed, evaluate_every=0, evaluate_pairs=1000)


def errors(
    recipe: RafareRecipe, pairs: PairArrays, held_out: dict[str, PairArrays], work: Path
) -> dict[str, float]:
    """Held-out errors by the name of the held-out pairs after one training."""
    first = next(iter(held_out.values()))
    settings = loop_config(replace(recipe, evaluate_pairs=1), work, progress=False)
    network = run_training(replace(recipe, evaluate_pairs=1), pairs, first, settings)
    return {
        name: evaluate(network, sample, recipe.part, recipe.evaluate_pairs)["error"]
        for name, sample in held_out.items()
    }


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Train and judge on every kind."""
    folders = sorted(p for p in options.sets.iterdir() if (p / "manifest.json").is_file())
    if len(folders) < 2:
        raise UserError(f"{options.sets}: fewer than two folders of `lifemask pairs`")
    held_out = {
        name: load_corpus([folder], SIZE, "open", held_out=True, limit=options.judged)
        for name, folder in (text.split("=", 1) for text in options.held_out)
    }
    headers = {p.name: read_header(p) for p in folders}
    count = min([header["count"] for header in headers.values()] + [options.limit or sys.maxsize])
    found: dict[str, Any] = {}
    for folder in folders:
        settings = headers[folder.name]["settings"]
        entry: dict[str, Any] = {"settings": {name: settings[name] for name in NAMED}}
        pairs = load_corpus([folder], SIZE, "open", limit=count)
        for part in PARTS:
            rows = []
            for seed in range(options.seeds):
                done = options.work / f"{folder.name}-{part}-{seed}"
                answer = done.with_suffix(".json")
                if not answer.is_file():
                    recipe = short_recipe(part, options.steps, seed)
                    write_result(answer, errors(recipe, pairs, held_out, done))
                rows.append(json.loads(answer.read_text(encoding="utf-8")))
                log.info("%s, %s, seed %d: %s", folder.name, part, seed, rows[-1])
            entry[part] = {
                name: {"mean": float(np.mean(values)), "seeds": values}
                for name in held_out
                for values in ([row[name] for row in rows],)
            }
        found[folder.name] = entry
    judged = {name: len(sample) for name, sample in held_out.items()}
    return {
        "benchmark": "rafare-data", "steps": options.steps, "pairs": count, "judged": judged,
        "kinds": found,
    }  # fmt: skip


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--sets", type=Path, required=True, help="folder of folders of pairs")
    parser.add_argument("--held-out", action="append", required=True, help="NAME=FOLDER")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--limit", type=int, help="at most so many pairs of each kind")
    parser.add_argument("--judged", type=int, default=40, help="held-out pairs of each name")
    parser.add_argument("--work", type=Path, required=True, help="where runs are kept")
    parser.add_argument("--json", type=Path, required=True)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    torch.set_num_threads(1)
    options.work.mkdir(parents=True, exist_ok=True)
    names = [text.split("=", 1)[0] for text in options.held_out]
    command = (
        "python benchmarks/rafare_data.py --sets SETS"
        + "".join(f" --held-out {name}=FOLDER" for name in names)
        + f" --steps {options.steps} --seeds {options.seeds} --judged {options.judged}"
        + " --work WORK --json FILE"
    )
    try:
        result = run(options)
    except UserError as error:
        sys.exit(f"error: {error}")
    write_result(options.json, result | provenance(command))


if __name__ == "__main__":
    main()
