"""Lips: how far apart a head's are before and after the mouth reader, against the truth.

    python -m lifemask.data.mouth_windows MOUTHS --data DATA --count 1000 --seed 900000000
    python benchmarks/mouth.py --mouths MOUTHS --data DATA --portraits FACESYNTHETICS \
        [--renders 200] [--method pgn] [--json FILE]

Three parts: the network alone on close-ups of held-out renders; the pipeline's heads on whole
held-out renders; and on FaceSynthetics portraits, which no weights of the open family have seen, by
the places of their lips in the picture.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before numpy and torch are imported

import argparse  # noqa: E402
import json  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

import numpy as np  # noqa: E402
import torch  # noqa: E402

from eyes import SYSTEMS as _EYE_SYSTEMS  # noqa: E402
from eyes import interval, rank_correlation, refined_head  # noqa: E402
from lifemask.assets import UserError, network_card  # noqa: E402
from lifemask.data.facesynthetics import read_portraits  # noqa: E402
from lifemask.data.mouth_windows import load_mouths  # noqa: E402
from lifemask.data.synthetic import SyntheticConfig, create_generator  # noqa: E402
from lifemask.faces.mouth import GAPS, MOUTH, NAME, mouth_opening  # noqa: E402
from lifemask.graphics.camera import project  # noqa: E402
from lifemask.nn.closeup_net import config_from_dict  # noqa: E402
from lifemask.nn.mouth_net import MouthNet  # noqa: E402
from lifemask.nn.shipped import with_weights  # noqa: E402
from lifemask.pipeline import Pipeline, PipelineConfig  # noqa: E402
from lifemask.training.mouth import PARTED, SHUT, evaluate  # noqa: E402
from provenance import provenance, write_result  # noqa: E402

SEED, SIZE, EXPAND = 900_600_000, 384, 1.6
SYSTEMS = (_EYE_SYSTEMS[0], "with the mouth reader")
CLOSED = 0.06
"""Openings below it look closed: twice what a shut mouth of the renders has at most."""


def both_heads(pipeline: Pipeline, image: np.ndarray, points: np.ndarray) -> list[Any]:
    """Geometry before and after the mouth is read."""
    refined, regions = refined_head(pipeline, image, points)
    return [refined, pipeline.read_mouth(image, refined, regions)]


def scores(told: np.ndarray, truth: np.ndarray) -> dict[str, Any]:
    """Errors of openings; how many of the shut and of the parted mouths look closed."""
    shut, parted = truth < SHUT, truth > PARTED
    return {
        **errors(told, truth),
        "shut mouths": int(shut.sum()),
        "shut, look closed": float((told[shut] < CLOSED).mean()),
        "parted mouths": int(parted.sum()),
        "parted, look closed": float((told[parted] < CLOSED).mean()),
    }


def errors(told: np.ndarray, truth: np.ndarray) -> dict[str, Any]:
    """How far openings are from the truth, and how alike their order is."""
    return {
        "opening": interval(np.abs(told - truth)),
        "rank correlation": rank_correlation(told, truth),
    }


def on_renders(pipeline: Pipeline, data: Path, count: int) -> dict[str, Any]:
    """Openings on whole held-out renders whose mouth is at least half in view."""
    config = SyntheticConfig(seed=SEED, size=SIZE, expand=EXPAND, bank_size=30)
    generator = create_generator(config, data)
    found: dict[str, list[float]] = {name: [] for name in SYSTEMS}
    truth = []
    for sample in generator.render(range(count), sets=("ict68",)):
        marks = sample.landmarks["ict68"]
        if marks.visible[MOUTH].mean() < 0.5:
            continue
        for name, head in zip(
            SYSTEMS, both_heads(pipeline, sample.image, sample.points[68:136]), strict=True
        ):
            points = pipeline.model.landmarks(head.vertices_mm, "ict68")
            found[name].append(float(mouth_opening(points)))
        truth.append(float(mouth_opening(torch.from_numpy(marks.camera_mm))))
    rows = [
        {"system": name, **scores(np.array(told), np.array(truth))} for name, told in found.items()
    ]
    return {"faces": len(truth), "systems": rows}


def on_portraits(pipeline: Pipeline, path: Path) -> dict[str, Any]:
    """Gaps of the lips as the pictures of portraits show them; see `gap_2d`."""
    found: dict[str, list[float]] = {name: [] for name in SYSTEMS}
    truth, misses = [], 0
    for _, image, points in read_portraits(path):
        try:
            heads = both_heads(pipeline, image, points[:68])
        except UserError:
            misses += 1
            continue
        truth.append(gap_2d(torch.from_numpy(points[:68])))
        for name, head in zip(SYSTEMS, heads, strict=True):
            own = pipeline.model.landmarks(head.vertices_mm, "ict68")
            found[name].append(gap_2d(project(own, head.camera)))
    rows = [
        {"system": name, **errors(np.array(told), np.array(truth))} for name, told in found.items()
    ]
    return {"portraits": len(truth), "misses": misses, "systems": rows}


def gap_2d(points: torch.Tensor) -> float:
    """Mean distance of the lips' inner edges over that of eyes and mouth, as the picture shows it.

    In profile a mouth has hardly any width. Of the portraits' own points shut lips are apart, too:
    what counts as the edge of a lip differs between sets of landmarks, so the order tells more.
    """
    gap = torch.stack([(points[a, :2] - points[b, :2]).norm() for a, b in GAPS]).mean()
    eyes, mouth = points[36:48, :2].mean(0), points[[48, 54], :2].mean(0)
    return float(gap / (eyes - mouth).norm().clamp_min(1e-6))


def on_close_ups(folder: Path) -> dict[str, Any]:
    """The network alone."""
    mouths = load_mouths(folder, held_out=True)
    network = with_weights(MouthNet(config_from_dict(network_card(NAME))), NAME)
    told = evaluate(network.eval(), mouths)
    return {"mouths": int((mouths.seen >= 0.5).sum()), **{k: round(v, 5) for k, v in told.items()}}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mouths", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--portraits", type=Path, required=True)
    parser.add_argument("--renders", type=int, default=200)
    parser.add_argument("--method", default="pgn")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    pipeline = Pipeline(PipelineConfig(method=options.method, texture="none", threads=1))
    close = on_close_ups(options.mouths)
    result = {
        "benchmark": "mouth",
        "method": options.method,
        "close_ups": close,
        "renders": on_renders(pipeline, options.data, options.renders),
        "portraits": on_portraits(pipeline, options.portraits),
        **provenance(
            "python benchmarks/mouth.py --mouths MOUTHS --data DATA --portraits FACESYNTHETICS"
            f" --renders {options.renders} --method {options.method} --json FILE"
        ),
    }
    result["card"] = {
        "opening, held-out close-ups": f"{close['opening']:.3f} of the mouth's width",
        "shut mouths called shut": f"{100 * close['shut']:.1f} %",
        "parted lips called parted": f"{100 * close['parted']:.1f} %",
    }
    text = json.dumps(result, indent=1) + "\n"
    print(text)
    if options.json:
        write_result(options.json, result)


if __name__ == "__main__":
    main()
