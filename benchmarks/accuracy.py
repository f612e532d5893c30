"""Predict and score a benchmark with every family of weights and method.

    python benchmarks/accuracy.py --data FOLDER --name aflw2000-dev

Writes one JSON per system into `benchmarks/results`, each number with its protocol flags. These
are test sets: nothing is trained, selected or tuned on them.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from lifemask.evaluation.predict import predict
from lifemask.evaluation.score import score
from provenance import provenance

RESULTS = Path(__file__).parent / "results"
SYSTEMS = (
    ("research", "landmarker", "official"),
    ("research", "fit", "official"),
    ("research", "landmarker", "detector"),
    ("open", "landmarker", "official"),
    ("open", "fit", "official"),
)
"""(weights, method, box source) of the systems that are scored."""


def run(data: Path, name: str, weights: str, method: str, box: str) -> dict[str, Any]:
    """Predict and score one system; returns what is written."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / f"{name}-{weights}-{method}-{box}.npz"
        predict("aflw2000", data, file, weights=weights, method=method, box=box)  # pyright: ignore
        result = score("aflw2000", data, file)
    options = f"--method {method} --weights {weights} --box {box}"
    command = (
        f"lifemask predict aflw2000 --data DIR {options} -o FILE.npz && "
        "lifemask score aflw2000 --data DIR --predictions FILE.npz --json FILE.json"
    )
    return {"dataset": name, "system": [weights, method, box]} | result | provenance(command)


def main() -> None:
    """Score every system and write the results."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder of AFLW2000-3D")
    parser.add_argument("--name", default="aflw2000", help="begins the names of the results")
    options = parser.parse_args()
    RESULTS.mkdir(exist_ok=True)
    for weights, method, box in SYSTEMS:
        result = run(options.data, options.name, weights, method, box)
        path = RESULTS / f"{options.name}-{weights}-{method}-{box}.json"
        path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        first = result["numbers"][0]
        print(
            f"{path.name}: NME 68 {first['value']} {first['bins']},"
            f" {result['misses']['total']} missed"
        )


if __name__ == "__main__":
    main()
