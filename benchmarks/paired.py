r"""Two of our methods on the same photos: the paired difference with its interval, per family.

    python benchmarks/paired.py --data FOLDER --name aflw2000-dev --first dasl --second fit

Writes `benchmarks/results/paired-NAME-FIRST-SECOND.json`. Like `benchmarks/accuracy.py` it runs on
a test set: nothing is tuned on what it says.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

from lifemask.evaluation.compare import compare
from ours import Ours
from provenance import provenance, write_result

RESULTS = Path(__file__).parent / "results"
METHODS = {
    "landmarker": {"method": "landmarker"},
    "fit": {"method": "fit"},
    "dasl": {"method": "dasl", "map": "detector"},
    "pgn": {"method": "pgn"},
}


def difference(protocol: str, data: Path, first: Ours, second: Ours) -> dict[str, Any]:
    """Both systems' names and the differences of every error."""
    with tempfile.TemporaryDirectory() as folder:
        files = [
            ours.predict(protocol, data, Path(folder) / f"{ours.stem}.npz")
            for ours in (first, second)
        ]
        found = compare(protocol, data, *files)
    return {
        "first": first.name,
        "second": second.name,
        "misses": found["misses"],
        "differences": found["differences"],
    }


def main() -> None:
    """Predict, compare, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder of the data set")
    parser.add_argument("--name", default="aflw2000", help="of the data set in the result")
    parser.add_argument("--protocol", default="aflw2000", help="aflw2000, aflw21 or ytf68")
    parser.add_argument("--first", choices=tuple(METHODS), default="dasl")
    parser.add_argument("--second", choices=tuple(METHODS), default="fit")
    options = parser.parse_args()
    pairs = [
        difference(
            options.protocol,
            options.data,
            Ours(weights, **METHODS[options.first]),
            Ours(weights, **METHODS[options.second]),
        )
        for weights in ("open", "research")
    ]
    command = (
        f"python benchmarks/paired.py --data DIR --name {options.name}"
        f" --protocol {options.protocol} --first {options.first} --second {options.second}"
    )
    result = {"benchmark": "paired", "dataset": options.name, "pairs": pairs}
    result |= provenance(command)
    path = RESULTS / f"paired-{options.name}-{options.first}-{options.second}.json"
    write_result(path, result)
    print(path.name)


if __name__ == "__main__":
    main()
