"""Appearance methods on held-out heads in several lights, on photos, and by a face recogniser.

    python benchmarks/retexture.py --data DATA --heads 24 --lights 8 --method texture \
        --json benchmarks/results/retexture-open.json [--photos 30] [--identity 30]

Baselines always run along: "photo" (the photo's colours as albedo), "prior" (the mean skin in the
photo's tone), and for retexture-X its own prior's albedo, prior-X; "truth" is what a perfect albedo
would score. Heads are rendered from people and
skins of a held-out seed with true geometry; 910000000 is for development, others for tests.
`--bearded` adds heads with full beards and goatees of the same seed: how much of them is kept.
`--photos` scores AFLW2000-dev photos and `--identity` YouTube Faces with the pipeline's geometry;
the recogniser needs `pip install dlib_bin face_recognition_models`. Definitions:
`lifemask.evaluation.retexture`.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lifemask.assets import UserError
from lifemask.data.aflw2000 import load_aflw2000
from lifemask.data.synthetic import HELD_OUT_SEED
from lifemask.evaluation._retexture_cases import CHART_PX, FaceCase, held_out_heads, photo_case
from lifemask.evaluation._retexture_dressers import create_dresser
from lifemask.evaluation.recogniser import identity_scores, load_recogniser, ytf_pairs
from lifemask.evaluation.retexture import TRUTH, Answer, answers_of, difference, score, true_answer
from lifemask.facemodel import load_face_model
from lifemask.pipeline import Pipeline
from lifemask.pipeline_config import PipelineConfig
from provenance import provenance, write_result

BASELINES = ("photo", "prior")
BEARD = "beard_kept", "rmse_beard"
COMPARED = ("rmse", "rmse_visible", "rmse_hidden", "hue_deg", "relight_psnr_db")
OWN_PRIOR = "retexture-", "prior-"
log = logging.getLogger("retexture")


def baselines(method: str) -> tuple[str, ...]:
    """Methods that one is compared with."""
    own = method.replace(*OWN_PRIOR)
    return BASELINES if own == method else (*BASELINES, own)


def targets(result: dict[str, Any], method: str) -> list[dict[str, Any]]:
    """What the method is held to on rendered heads, and whether it gets there."""
    own = result["methods"][method]

    def row(target: str, entry: dict[str, Any], low: float, high: float) -> dict[str, Any]:
        value = entry["mean"]
        met = value is not None and low <= value <= high
        return {"target": target, "value": value, "ci95": entry["ci95"], "met": met}

    def gap(baseline: str, name: str) -> dict[str, Any]:
        return difference(result, method, baseline, name)

    endless, below = float("inf"), -1e-9
    return [
        row("A / T < 0.5", own["spread_ratio"], 0, 0.5),
        *(
            row(f"{part} rmse - {baseline}'s < 0", gap(baseline, f"rmse_{part}"), -endless, below)
            for part in ("visible", "hidden")
            for baseline in baselines(method)
        ),
        row("relight - photo's >= 2 dB", gap("photo", "relight_psnr_db"), 2, endless),
        row("high-pass hidden / visible 0.5-2", own["high_pass_ratio"], 0.5, 2),
    ]


def heads(options: argparse.Namespace, answers: dict[str, Answer]) -> dict[str, Any]:
    """Rendered heads: scores, paired differences to the baselines, targets."""
    cases = held_out_heads(options.data, options.heads, options.lights, options.seed)
    result = score(_logged(cases), answers | {TRUTH: true_answer})
    result["differences"] = {
        f"{method} - {baseline}": {n: difference(result, method, baseline, n) for n in COMPARED}
        for method in options.method
        for baseline in baselines(method)
    }
    return result | {"targets": {method: targets(result, method) for method in options.method}}


def photos(options: argparse.Namespace, pipeline: Pipeline) -> Iterator[FaceCase]:
    """AFLW2000-dev photos, evenly spread; those that show hardly any skin are left out."""
    data = load_aflw2000(options.data / "aflw2000_dev")
    for index in np.linspace(0, len(data) - 1, min(options.photos, len(data))).astype(int):
        try:
            yield photo_case(str(index), data.image(index), pipeline, data.boxes[index])
        except UserError as error:
            log.info("%s", error)


def _logged(cases: Iterator[FaceCase]) -> Iterator[FaceCase]:
    for number, case in enumerate(cases, 1):
        log.info("face %d: %s", number, case.name)
        yield case


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Everything that was asked for."""
    model = load_face_model("lifemask")
    names = dict.fromkeys((*BASELINES, *(b for m in options.method for b in (*baselines(m), m))))
    answers = {name: answers_of(create_dresser(name, model)) for name in names}
    out: dict[str, Any] = {"benchmark": "retexture", "weights": options.weights}
    out |= {"seed": options.seed, "lights": options.lights, "chart_px": CHART_PX}
    embed = load_recogniser() if options.identity else None
    if options.heads:
        out["synthetic"] = heads(options, answers)
    if options.bearded:
        cases = held_out_heads(
            options.data, options.bearded, options.lights, options.seed, bearded=True
        )
        found = score(_logged(cases), answers | {TRUTH: true_answer})
        out["bearded"] = found | {"methods": {
            name: {k: v for k, v in values.items() if k in BEARD}
            for name, values in found["methods"].items()
        }}  # fmt: skip
    pipeline = Pipeline(PipelineConfig(weights=options.weights, texture="none"), model=model)
    if options.photos:
        out["photos"] = score(_logged(photos(options, pipeline)), answers)
    if embed is not None:
        pairs = ytf_pairs(options.data / "ytf68", options.identity, pipeline)
        out["identity"] = identity_scores(embed, pairs, answers)
    return out


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder with skins/ and hdri/")
    parser.add_argument("--heads", type=int, default=24, help="rendered people, 0 for none")
    parser.add_argument("--lights", type=int, default=8, help="pictures of each")
    parser.add_argument("--seed", type=int, default=HELD_OUT_SEED, help="of the people")
    parser.add_argument("--method", action="append", default=[], help="beside the baselines")
    parser.add_argument("--bearded", type=int, default=0, help="rendered people with beards")
    parser.add_argument("--photos", type=int, default=0, help="AFLW2000-dev photos")
    parser.add_argument("--identity", type=int, default=0, help="people of YouTube Faces")
    parser.add_argument("--weights", choices=("open", "research"), default="open")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, required=True)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    torch.set_num_threads(options.threads)
    try:
        result = run(options) | provenance(_command(options))
    except UserError as error:
        sys.exit(f"error: {error}")
    write_result(options.json, result)


def _command(options: argparse.Namespace) -> str:
    words = [f"python benchmarks/retexture.py --data DATA --heads {options.heads}"]
    words += [f"--lights {options.lights} --seed {options.seed} --weights {options.weights}"]
    words += [f"--method {name}" for name in options.method]
    words += [f"--bearded {options.bearded}"] if options.bearded else []
    words += [f"--photos {options.photos}"] if options.photos else []
    words += [f"--identity {options.identity}"] if options.identity else []
    return " ".join([*words, "--json FILE"])


if __name__ == "__main__":
    main()
