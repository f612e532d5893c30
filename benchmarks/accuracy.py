r"""Predict and score a benchmark with every family of weights and method, or score a peer.

    python benchmarks/accuracy.py --data FOLDER --name aflw2000-dev
    python benchmarks/accuracy.py --data FOLDER --name aflw21 --protocol aflw21
    python benchmarks/accuracy.py --data FOLDER --name aflw2000-dev --method dasl [--map self]
    python benchmarks/accuracy.py --data FOLDER --name aflw2000-dev \
        --predictions FILE.npz --system "MediaPipe face mesh" --made-by "COMMAND"

Writes one JSON per system into `benchmarks/results`, each number with its protocol flags. These
are test sets: nothing is trained, selected or tuned on them.
"""

from __future__ import annotations

import argparse
import re
import tempfile
from pathlib import Path
from typing import Any

from lifemask.evaluation.score import score
from ours import Ours
from provenance import provenance, write_result

RESULTS = Path(__file__).parent / "results"
SYSTEMS = (
    Ours("research", "landmarker"),
    Ours("research", "fit"),
    Ours("research", "landmarker", "detector"),
    Ours("open", "landmarker"),
    Ours("open", "fit"),
    Ours("research", "dasl", map="detector"),
    Ours("research", "dasl", map="self"),
    Ours("research", "dasl", map="none"),
    Ours("research", "dasl", "detector", map="detector"),
    Ours("open", "dasl", map="detector"),
    Ours("open", "dasl", map="self"),
    Ours("open", "dasl", map="none"),
    Ours("research", "pgn"),
    Ours("research", "pgn", "detector"),
    Ours("open", "pgn"),
)
"""Our systems that are scored."""
WITHOUT_DETECTOR = ("aflw21", "ytf68")
"""Data sets of crops, where a detector has nothing to find, or whose truth it cannot be told by."""


def run(protocol: str, data: Path, name: str, ours: Ours) -> dict[str, Any]:
    """Predict and score one system; returns what is written."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / f"{name}-{ours.stem}.npz"
        ours.predict(protocol, data, file)
        result = score(protocol, data, file)
    command = (
        f"lifemask predict {protocol} --data DIR {ours.options} -o FILE.npz && "
        f"lifemask score {protocol} --data DIR --predictions FILE.npz --json FILE.json --per-image"
    )
    return {"dataset": name, "system": ours.name} | result | provenance(command)


def score_peer(
    protocol: str, data: Path, name: str, file: Path, system: str, made_by: str
) -> dict[str, Any]:
    """Score another system's predictions; returns what is written."""
    command = (
        f"{made_by} && lifemask score {protocol} --data DIR --predictions FILE.npz"
        " --json FILE.json --per-image"
    )
    result = score(protocol, data, file)
    return {"dataset": name, "system": system} | result | provenance(command)


def store(stem: str, result: dict[str, Any]) -> None:
    """Write a result and say its first number."""
    path = RESULTS / f"{stem}.json"
    write_result(path, result)
    first = result["numbers"][0]
    print(f"{path.name}: {first['flags']} {first['value']}, {result['misses']['total']} missed")
    for check in result.get("checks", []):
        if check["suspicious"]:
            print(f"  {check['check']}? {check['message']}")


def main() -> None:
    """Score every system and write the results."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder of the data set")
    parser.add_argument("--name", default="aflw2000", help="begins the names of the results")
    parser.add_argument("--protocol", default="aflw2000", help="aflw2000, aflw21 or ytf68")
    parser.add_argument("--method", help="only our systems of it: landmarker, fit, dasl, pgn")
    parser.add_argument("--weights", help="only our systems of this family: open or research")
    parser.add_argument("--map", help="only those of 2DASL with this map: detector, self or none")
    parser.add_argument("--predictions", type=Path, help="score these in place of our systems")
    parser.add_argument("--system", default="peer", help="their name in the tables")
    parser.add_argument("--made-by", default="", help="the command that made them")
    options = parser.parse_args()
    RESULTS.mkdir(exist_ok=True)
    place = (options.protocol, options.data, options.name)
    if options.predictions:
        stem = f"{options.name}-{re.sub('[^a-z0-9]+', '-', options.system.lower())}"
        peer = score_peer(*place, options.predictions, options.system, options.made_by)
        return store(stem, peer)
    wanted = [
        ours
        for ours in SYSTEMS
        if options.method in (None, ours.method)
        and options.weights in (None, ours.weights)
        and options.map in (None, ours.map)
        and (ours.box == "official" or options.protocol not in WITHOUT_DETECTOR)
    ]
    if not wanted:
        parser.error("none of our systems has that method, family and map")
    for ours in wanted:
        store(f"{options.name}-{ours.stem}", run(*place, ours))


if __name__ == "__main__":
    main()
