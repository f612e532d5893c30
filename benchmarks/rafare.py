"""Detailed surfaces on held-out pairs: RAFaRe's levels and controls beside parametric heads.

    python benchmarks/rafare.py --pairs DIR --heads 50 --weights open \
        --json benchmarks/results/rafare-open.json

DIR holds pairs of a held-out seed (`lifemask pairs`, `docs/pairs.md`). Beside the levels run: the
fine network with its picture set to zero; the networks with another pair's image (regions and guide
stay); the finished surface of another pair; the guide, as the depth map the networks see and as its
own mesh (parametric head); the true depth map; the mean head in the guide's pose; the surface that
the pipeline finds, with its own guide and regions; and the head model that carries that surface,
without and with its displacement map.
To compare weights on the same pairs, name them:
`--weights-dir FOLDER --net rafare-pairs --net rafare-renders`; the first gets everything, the
others the levels base and full. Definitions: `lifemask.evaluation.rafare`.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lifemask.assets import UserError
from lifemask.data.pairs import Pair, PairSet, load_pairs
from lifemask.data.synthetic import HELD_OUT_SEED
from lifemask.evaluation.rafare import HeadCase, case_of, difference, score
from provenance import provenance, write_result
from rafare_systems import (
    BLIND,
    CARRIED,
    DETAILED,
    FULL,
    GUIDE,
    HEAD,
    LEVELS,
    MEAN,
    OTHER_HEAD,
    OTHER_IMAGE,
    SOURCE,
    TRUTH,
    Asked,
    Photos,
    create_systems,
    load_predictor,
    piece_count,
)

COMPARED = ("cd_mm", "normal_angle_deg", "detail_r", "detail_energy_ratio")
COLUMNS = (
    ("z", "cd_mm"), ("similarity", "cd_mm"), ("z", "normal_angle_deg"), ("z", "detail_r"),
    ("z", "detail_energy_ratio"), ("z", "cover_percent"),
)  # fmt: skip
RATIO = (0.3, 1.5)  # what detail's energy may be, relative to the truth's
log = logging.getLogger("rafare")


def picked(pairs: Sequence[Pair], count: int) -> list[int]:
    """Numbers of evenly spread pairs."""
    return np.unique(np.linspace(0, len(pairs) - 1, min(count, len(pairs))).astype(int)).tolist()


class Part(Sequence[Pair]):
    """Some of a set's pairs, decoded when asked for; the last ones are kept."""

    def __init__(self, pairs: Sequence[Pair], numbers: Sequence[int]) -> None:
        self.pairs, self.numbers = pairs, numbers
        self._kept: dict[int, Pair] = {}

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, number: Any) -> Any:
        """One pair."""
        number = range(len(self))[number]
        if number not in self._kept:
            while len(self._kept) > 2:
                self._kept.pop(next(iter(self._kept)))
            self._kept[number] = self.pairs[self.numbers[number]]
        return self._kept[number]


def cases(pairs: Sequence[Pair], names: Sequence[int]) -> Iterator[HeadCase]:
    """The truths, one at a time.

    Raises:
        UserError: a pair shows no face.
    """
    for number, name in enumerate(names):
        case = case_of(pairs[number], str(name))
        if case is None:
            raise UserError(f"pair {name} shows no face; make the pairs again")
        log.info("head %d of %d: pair %s", number + 1, len(names), name)
        yield case


def compared(systems: Sequence[str]) -> list[tuple[str, str]]:
    """Which systems are subtracted: each level from the next, controls and heads from the full."""
    levels = list(LEVELS)[:3]
    out = list(zip(levels[1:], levels[:-1], strict=True)) + [("base+fine+integrate", FULL)]
    out += [("base+fine", BLIND)]
    aside = (*LEVELS, BLIND, CARRIED, DETAILED, TRUTH)
    rest = [name for name in systems if name not in aside]
    out += [(FULL, name) for name in rest if not name.endswith(": base")]
    out += [("base", name) for name in rest if name.endswith(": base")]
    for carried in (CARRIED, DETAILED):
        out += [(carried, other) for other in (HEAD, GUIDE, MEAN, FULL, SOURCE)]
    return [(a, b) for a, b in out if a in systems and b in systems]


def targets(result: dict[str, Any]) -> list[dict[str, Any]]:
    """What the method is held to, and whether it gets there; differences need their interval."""
    systems, rows = result["systems"], []

    def gap(first: str, second: str, name: str, sign: int) -> None:
        if first not in systems or second not in systems:
            return
        found = difference(result, first, second, name)
        edge = found["ci95"][0 if sign > 0 else 1]
        met = edge is not None and sign * edge > 0
        sides = f"{first} - {second} {'>' if sign > 0 else '<'} 0"
        rows.append({"target": f"{name}: {sides}", "value": found["mean"], "ci95": found["ci95"],
                     "met": met})  # fmt: skip

    gap("base+fine", "base", "detail_r", 1)
    gap(FULL, "base+fine", "detail_r", 1)
    gap("base+fine", BLIND, "detail_r", 1)
    gap(FULL, OTHER_IMAGE, "detail_r", 1)
    for other in (GUIDE, HEAD, MEAN, OTHER_HEAD):
        gap(FULL, other, "cd_mm", -1)
    for other in (GUIDE, HEAD):
        gap(FULL, other, "normal_angle_deg", -1)
    for name in (n for n in systems if n.endswith(f": {FULL}")):
        gap(FULL, name, "cd_mm", -1)
        gap(FULL, name, "detail_r", 1)
    own = systems[FULL]["z"].get("detail_energy_ratio")
    if own is not None and own["mean"] is not None:
        met = RATIO[0] <= own["mean"] <= RATIO[1]
        rows.append({"target": f"energy ratio {RATIO[0]}-{RATIO[1]}", "value": own["mean"],
                     "ci95": own["ci95"], "met": met})  # fmt: skip
    return rows


def pieces(pairs: Sequence[Pair], predictor: Any, count: int) -> dict[str, Any]:
    """Connected pieces of the surfaces before all but the largest are dropped."""
    found = [piece_count(predictor, pairs[k]) for k in range(min(count, len(pairs)))]
    return {"heads": len(found), "mean": float(np.mean(found)), "most": max(found), "each": found}


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Everything that was asked for."""
    held_out = _held_out(options.pairs)
    numbers = picked(held_out, options.heads)
    pairs = Part(held_out, numbers)
    nets = {
        name or options.weights: Asked(
            options.weights, name, not options.no_guide, options.grid, options.threads
        )
        for name in options.net or [""]
    }
    predictors = {name: load_predictor(asked) for name, asked in nets.items()}
    photos = None if options.no_pipeline else Photos(pairs, options.weights, options.threads)
    systems = create_systems(pairs, predictors, photos)
    with torch.inference_mode():
        result = score(cases(pairs, numbers), systems)
        first = next(iter(predictors.values()))
        result["pieces"] = pieces(pairs, first, options.pieces) if options.pieces else None
    result["differences"] = {
        how: {
            f"{a} - {b}": {name: difference(result, a, b, name, how) for name in COMPARED}
            for a, b in compared(list(systems))
        }
        for how in ("z", "similarity")
    }
    result["targets"] = targets(result)
    about = {"benchmark": "rafare", "weights": options.weights, "nets": list(nets)}
    about |= {"grid": options.grid, "guide": not options.no_guide, "size": first.size}
    about |= {"pairs": {"settings": held_out.header["settings"], "count": len(held_out)}}
    return about | result


def _held_out(folder: Path) -> PairSet:
    """The pairs.

    Raises:
        UserError: they may have been trained on.
    """
    found = load_pairs(folder)
    if not found.header["held_out"]:
        raise UserError(f"{folder} holds pairs for training; make some with --seed {HELD_OUT_SEED}")
    return found


def table(result: dict[str, Any]) -> list[str]:
    """Lines for the terminal."""
    head = ("misses", "CD z", "CD sim", "angle", "r", "energy", "cover")
    lines = [" ".join((f"{'system':28s}", *(f"{h:>8s}" for h in head)))]
    for name, own in result["systems"].items():
        cells = [f"{own['misses']['total']:8d}"]
        for how, key in COLUMNS:
            mean = own[how].get(key, {}).get("mean")
            cells.append(f"{'-':>8s}" if mean is None else f"{mean:8.3f}")
        lines.append(" ".join((f"{name:28s}", *cells)))
    for row in result["targets"]:
        low, high = row["ci95"]
        met = "met" if row["met"] else "MISSED"
        lines.append(f"{row['target']}: {row['value']} ({low} to {high}) {met}")
    lines += [f"pieces: {result['pieces']}"] if result["pieces"] else []
    return lines


def pair_options(description: str | None, heads: int) -> argparse.ArgumentParser:
    """The options of every benchmark on held-out pairs."""
    found = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawTextHelpFormatter
    )
    found.add_argument("--pairs", type=Path, required=True, help="folder of held-out pairs")
    found.add_argument("--heads", type=int, default=heads, help="evenly spread pairs")
    found.add_argument("--weights", choices=("open", "research"), default="open")
    return found


def parser() -> argparse.ArgumentParser:
    """The options."""
    found = pair_options(__doc__, heads=50)
    found.add_argument("--weights-dir", type=Path, help="folder of weights in place of the shipped")
    found.add_argument("--net", action="append", help="name of weights there; the first is ours")
    found.add_argument("--grid", type=int, help="voxels along a side; default the weights' own")
    found.add_argument("--no-guide", action="store_true", help="the networks see the crop alone")
    found.add_argument("--no-pipeline", action="store_true", help="no mean and no carried head")
    found.add_argument("--pieces", type=int, default=10, help="heads whose pieces are counted")
    found.add_argument("--threads", type=int, default=1)
    found.add_argument("--json", type=Path, required=True)
    return found


def main(words: Sequence[str] | None = None) -> None:
    """Command line."""
    options = parser().parse_args(words)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    torch.set_num_threads(options.threads)
    if options.weights_dir:
        os.environ["LIFEMASK_WEIGHTS"] = str(options.weights_dir.resolve())
    try:
        result = run(options) | provenance(_command(options))
    except UserError as error:
        sys.exit(f"error: {error}")
    print("\n".join(table(result)))
    write_result(options.json, result)


def _command(options: argparse.Namespace) -> str:
    words = [f"python benchmarks/rafare.py --pairs PAIRS --heads {options.heads}"]
    words += [f"--weights {options.weights}"]
    words += ["--weights-dir WEIGHTS"] if options.weights_dir else []
    words += [f"--net {name}" for name in options.net or ()]
    words += [f"--grid {options.grid}"] if options.grid else []
    words += [f"--{name.replace('_', '-')}" for name in ("no_guide", "no_pipeline")
              if getattr(options, name)]  # fmt: skip
    words += [f"--pieces {options.pieces} --threads {options.threads} --json FILE"]
    return " ".join(words)


if __name__ == "__main__":
    main()
