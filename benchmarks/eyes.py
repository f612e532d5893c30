"""Lids and gaze: what a head's eyes are before and after the eye reader, against the truth.

    python -m lifemask.data.eye_windows EYES --data DATA --count 1000 --seed 900000000 --lids 0.5
    python benchmarks/eyes.py --eyes EYES --data DATA --portraits FACESYNTHETICS \
        [--renders 150] [--method pgn] [--json FILE]

Three parts: the network alone on close-ups of held-out renders; the pipeline's heads on whole
held-out renders, half of them with lids drawn anew from open to shut; and on FaceSynthetics
portraits, which no weights of the open family have seen, by the places of their lids.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before numpy and torch are imported

import argparse  # noqa: E402
import json  # noqa: E402
from dataclasses import dataclass, field  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

import numpy as np  # noqa: E402
import torch  # noqa: E402

from lifemask.assets import UserError, network_card  # noqa: E402
from lifemask.data.eye_windows import load_eyes_cache  # noqa: E402
from lifemask.data.facesynthetics import read_portraits  # noqa: E402
from lifemask.data.synthetic import SyntheticConfig, create_generator  # noqa: E402
from lifemask.evaluation.metrics import bootstrap_ci95  # noqa: E402
from lifemask.faces.crop import square_box  # noqa: E402
from lifemask.faces.eyes import LIDS, NAME, lid_opening  # noqa: E402
from lifemask.graphics.camera import project  # noqa: E402
from lifemask.methods._eyes import gaze_of  # noqa: E402
from lifemask.nn.closeup_net import config_from_dict  # noqa: E402
from lifemask.nn.eye_net import EyeNet  # noqa: E402
from lifemask.nn.shipped import with_weights  # noqa: E402
from lifemask.pipeline import Pipeline, PipelineConfig  # noqa: E402
from lifemask.training.eyes import SHUT, eye_scores, gaze_error_deg, read_all  # noqa: E402
from provenance import provenance, write_result  # noqa: E402

SEED, SIZE, EXPAND = 900_500_000, 384, 1.6
SYSTEMS = ("method alone", "with the eye reader")


@dataclass
class Rows:
    """What was found of each face by one system, eyes as rows."""

    opening: list[np.ndarray] = field(default_factory=list)
    gaze: list[np.ndarray] = field(default_factory=list)
    lids: list[np.ndarray] = field(default_factory=list)


def refined_head(pipeline: Pipeline, image: np.ndarray, points: np.ndarray) -> tuple[Any, Any]:
    """Geometry before anything is read from close up, and the regions.

    Args:
        pipeline: of the benchmark.
        image: photo.
        points: true landmarks in px, whose square is the face's box.
    """
    square, side = square_box(torch.from_numpy(points))
    seen = pipeline.look(image, tuple(c + s * side / 2 for s in (-1, 1) for c in square))
    first = pipeline.find_geometry(seen)
    regions = pipeline.find_regions(image, first)
    return pipeline.refine(image, first, seen.landmarks, regions), regions


def both_heads(pipeline: Pipeline, image: np.ndarray, points: np.ndarray) -> list[Any]:
    """Geometry before and after the eyes are read."""
    refined, _ = refined_head(pipeline, image, points)
    return [refined, pipeline.read_eyes(image, refined)]


def measured(pipeline: Pipeline, geometry) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Opening (2,), gaze (2, 2) and the lids' places (12, 2) px of a head."""
    points = pipeline.model.landmarks(geometry.vertices_mm, "ict68")
    flat = project(points, geometry.camera)[:, :2].numpy()
    expression = geometry.params.expression.double().numpy()[None]
    gaze = gaze_of(expression, pipeline.model.expression_names)[0]
    return lid_opening(points).numpy(), gaze, np.concatenate([flat[part] for part in LIDS])


def on_renders(pipeline: Pipeline, data: Path, count: int) -> dict[str, Any]:
    """Opening and gaze on whole held-out renders; eyes at least half in view."""
    config = SyntheticConfig(seed=SEED, size=SIZE, expand=EXPAND, lids=0.5, bank_size=30)
    generator = create_generator(config, data)
    found = {name: Rows() for name in SYSTEMS}
    truth, looks, seen = [], [], []
    for sample in generator.render(range(count), sets=("ict68",)):
        for name, head in zip(
            SYSTEMS, both_heads(pipeline, sample.image, sample.points[68:136]), strict=True
        ):
            opening, gaze, _ = measured(pipeline, head)
            found[name].opening.append(opening)
            found[name].gaze.append(gaze)
        marks = sample.landmarks["ict68"]
        truth.append(lid_opening(torch.from_numpy(marks.camera_mm)).numpy())
        looks.append(sample.gaze_deg)
        seen.append([marks.visible[part].mean() for part in LIDS])
    opening, gaze = np.concatenate(truth), np.concatenate(looks)
    use = np.concatenate(seen) >= 0.5
    rows = []
    for name, row in found.items():
        told = np.concatenate(row.opening)
        away = gaze_error_deg(np.concatenate(row.gaze), gaze)
        rows.append({"system": name, **render_scores(told, opening, away, use)})
    return {"faces": count, "eyes in view": int(use.sum()), "systems": rows}


def render_scores(told, truth, away, use) -> dict[str, Any]:
    """Errors of openings and gazes; AUC of telling shut eyes from open ones."""
    shut, wide = use & (truth < SHUT), use & (truth > 2 * SHUT)
    error = np.abs(told - truth)[use]
    below = told[shut][:, None] < told[wide][None]
    return {
        "opening": interval(error),
        "correlation": float(np.corrcoef(told[use], truth[use])[0, 1]),
        "shut eyes": int(shut.sum()),
        "shut, called shut": float((told[shut] < 1.3 * SHUT).mean()),
        "open, called shut": float((told[wide] < 1.3 * SHUT).mean()),
        "auc": float(below.mean()),
        "gaze_deg": interval(away[wide]),
    }


def on_portraits(pipeline: Pipeline, path: Path) -> dict[str, Any]:
    """Where the lids of portraits are, in % of the distance of the eyes' outer corners.

    After the eye's middle is laid on the true one, so that the place of the head does not count.
    """
    found: dict[str, list[np.ndarray]] = {name: [] for name in SYSTEMS}
    openings: dict[str, list[float]] = {name: [] for name in ("truth", *SYSTEMS)}
    misses = 0
    for _, image, points in read_portraits(path):
        try:
            heads = both_heads(pipeline, image, points[:68])
        except UserError:
            misses += 1
            continue
        apart = np.linalg.norm(points[36] - points[45])
        true = [points[part] for part in LIDS]
        openings["truth"] += [opening_2d(eye) for eye in true]
        for name, head in zip(SYSTEMS, heads, strict=True):
            lids = np.split(measured(pipeline, head)[2], 2)
            off = [
                np.linalg.norm((eye - eye[[0, 3]].mean(0)) - (t - t[[0, 3]].mean(0)), axis=1)
                for eye, t in zip(lids, true, strict=True)
            ]
            found[name].append(100 * np.mean([o[[1, 2, 4, 5]].mean() for o in off]) / apart)
            openings[name] += [opening_2d(eye) for eye in lids]
    true = np.array(openings["truth"])
    rows = []
    for name in SYSTEMS:
        told = np.array(openings[name])
        rows.append({
            "system": name,
            "lids_percent": interval(np.array(found[name])),
            "rank correlation": rank_correlation(told, true),
            "opening_2d": interval(np.abs(told - true)),
        })  # fmt: skip
    return {"portraits": len(found[SYSTEMS[0]]), "misses": misses, "systems": rows}


def opening_2d(eye: np.ndarray) -> float:
    """Opening as the picture shows it (6, 2), at most 1: profiles have eyes without width."""
    height = np.linalg.norm(eye[1] - eye[5]) + np.linalg.norm(eye[2] - eye[4])
    return float(min(height / (2 * max(np.linalg.norm(eye[0] - eye[3]), 1e-6)), 1.0))


def rank_correlation(first: np.ndarray, second: np.ndarray) -> float:
    """Spearman's."""
    ranks = [np.argsort(np.argsort(x)) for x in (first, second)]
    return float(np.corrcoef(*ranks)[0, 1])


def interval(values: np.ndarray) -> dict[str, Any]:
    """Mean and its 95 % interval."""
    low, high = bootstrap_ci95(values, np.zeros(len(values), int), "images")
    return {"value": float(values.mean()), "ci95": [low, high]}


def on_close_ups(folder: Path) -> dict[str, Any]:
    """The network alone."""
    eyes = load_eyes_cache(folder, held_out=True)
    network = with_weights(EyeNet(config_from_dict(network_card(NAME))), NAME)
    scores = eye_scores(read_all(network.eval(), eyes), eyes)
    return {"eyes": len(eyes), **{k: round(v, 5) for k, v in scores.items()}}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--eyes", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--portraits", type=Path, required=True)
    parser.add_argument("--renders", type=int, default=150)
    parser.add_argument("--method", default="pgn")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    pipeline = Pipeline(PipelineConfig(method=options.method, texture="none", threads=1))
    close = on_close_ups(options.eyes)
    result = {
        "benchmark": "eyes",
        "method": options.method,
        "close_ups": close,
        "renders": on_renders(pipeline, options.data, options.renders),
        "portraits": on_portraits(pipeline, options.portraits),
        **provenance(
            "python benchmarks/eyes.py --eyes EYES --data DATA --portraits FACESYNTHETICS"
            f" --renders {options.renders} --method {options.method} --json FILE"
        ),
    }
    result["card"] = {
        "lid opening, held-out close-ups": f"{close['opening']:.3f} of the eye's width",
        "shut eyes called shut": f"{100 * close['shut']:.1f} %",
        "open eyes called open": f"{100 * close['open']:.1f} %",
        "gaze": f"{close['gaze_deg']:.1f} degrees (straight ahead: {close['gaze_still_deg']:.1f})",
    }
    text = json.dumps(result, indent=1) + "\n"
    print(text)
    if options.json:
        write_result(options.json, result)


if __name__ == "__main__":
    main()
