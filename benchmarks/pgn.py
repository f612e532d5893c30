r"""PGN on people it never saw: what limits it, what several photos bring, does it know its errors.

    python benchmarks/pgn.py --family research --heads HEADS --cache CACHE --data DATA \
        [--prepared PREPARED] [--run RUN] --json benchmarks/results/pgn-research.json

HEADS is a set that `python -m lifemask.data.synthetic_heads HEADS --data DATA --heads 60 --views 5`
wrote; of each CACHE the first shard counts, of AFLW-21 and YouTube Faces the held-out part.
Intervals are 95 % of bootstraps over people, those of differences paired. The tests' sets
(AFLW2000-3D, scans) are scored by `benchmarks/accuracy.py` and `benchmarks/scans.py`.
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path
from typing import Any

import torch

from lifemask.data.synthetic_heads import load_synthetic_heads
from lifemask.data.synthetic_heads import subset as first_images
from lifemask.methods.pgn import PgnPredictConfig, PgnPredictor
from lifemask.training.pgn_data import PgnFaces
from lifemask.training.pgn_evaluation import subset
from pgn_cases import Cases, pgn_answers, pipeline_answers, renders, synthetic_heads
from pgn_identity import ratios, several_photos
from pgn_limits import bottleneck, differences, pose_errors
from pgn_parts import held_out_sets, look, predictor_of, see
from pgn_pose import both_meshes, both_meshes_of_photos, perspective, poses
from pgn_uncertainty import doubts, rank_correlations
from provenance import provenance, write_result

OTHERS = ("fit", "dasl")
RATIO_SIZES = {"ytf68": (1, 2, 4)}
log = logging.getLogger("pgn")


def known_heads(
    predictor: PgnPredictor, cases: Cases, config: PgnPredictConfig, others: tuple[str, ...]
) -> dict[str, Any]:
    """Everything that needs true heads, except several photos: limits, pose, meshes."""
    crops = cases.crops(predictor.config.size)
    seen = see(predictor, crops, config.flip)
    answers = {"pgn": pgn_answers(predictor, cases, crops, config)}
    for method in others:
        log.info("%s: %s", cases.name, method)
        answers[method] = pipeline_answers(method, predictor.tag, cases)
    log.info("%s: pgn", cases.name)
    net = predictor.net
    return {
        "pictures": len(cases),
        "people": len(set(cases.person.tolist())),
        "bottleneck": {name: bottleneck(cases, a) for name, a in answers.items()},
        "pose": {name: pose_errors(cases, a) for name, a in answers.items()},
        "differences": {
            f"pgn - {name}": differences(cases, answers["pgn"], answers[name]) for name in others
        },
        "solved": poses(net, cases, seen),
        "cameras": {
            "predicted shape": perspective(net, cases, seen),
            "true shape": perspective(net, cases, seen, truth=True),
        },
        "meshes": both_meshes(net, cases, seen),
    }


def test_heads(
    predictor: PgnPredictor, cases: Cases, config: PgnPredictConfig, options: argparse.Namespace
) -> dict[str, Any]:
    """The synthetic test heads: all of `known_heads`, several photos and the uncertainty."""
    out = known_heads(predictor, cases, config, tuple(options.others))
    crops = cases.crops(predictor.config.size)
    seen = see(predictor, crops, config.flip)
    starts = 2 if "fit" in options.others else 0
    log.info("%s: several photos", cases.name)
    out["photos"] = several_photos(predictor, cases, seen, starts)
    found = doubts(predictor, cases, crops, config)
    return out | {"uncertainty": rank_correlations(found, cases.person)}


def held_out(
    predictor: PgnPredictor, name: str, faces: PgnFaces, config: PgnPredictConfig, others: Any
) -> dict[str, Any]:
    """A held-out set: renders as `known_heads`, photos by their marks; the ratio where it can."""
    looked = look(predictor, faces, config.flip)
    if faces.faces.labels is None:
        out = {"meshes": both_meshes_of_photos(predictor.net, looked)}
    else:
        cases = renders(name, faces, predictor.model)
        out = known_heads(predictor, cases, config, tuple(others))
    if faces.crops.person is not None:
        out["ratio"] = {"pgn": ratios(predictor.net, looked, RATIO_SIZES.get(name, (1, 2)))}
    return out


def run_all(predictor: PgnPredictor, options: argparse.Namespace) -> dict[str, Any]:
    """Every part that the options give data for."""
    config = PgnPredictConfig()
    sets: dict[str, Any] = {}
    if options.heads:
        data = load_synthetic_heads(options.heads)
        if options.pictures:
            data = first_images(data, options.pictures)
        cases = synthetic_heads(data)
        sets["synthetic heads"] = test_heads(predictor, cases, config, options)
    for name, faces in _held_out_sets(predictor, options).items():
        log.info("%s", name)
        most = len(faces) if name == "ytf68" else options.most
        sets[name] = held_out(predictor, name, subset(faces, most), config, options.others)
    return {"benchmark": "pgn", "family": options.family, "sets": sets}


def _held_out_sets(predictor: PgnPredictor, options: argparse.Namespace) -> dict[str, PgnFaces]:
    return held_out_sets(
        options.family, options.data, options.cache, options.prepared, predictor.model
    )


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--family", choices=("open", "research"), required=True)
    parser.add_argument("--run", type=Path, help="a run in place of the shipped weights")
    parser.add_argument("--heads", type=Path, help="synthetic test heads, several views of each")
    parser.add_argument("--cache", type=Path, action="append", default=[], help="renders")
    parser.add_argument("--data", type=Path, help="folder with aflw21 and ytf68")
    parser.add_argument("--prepared", type=Path, help="folder of decoded crops")
    parser.add_argument("--most", type=int, default=400, help="crops of each held-out set")
    parser.add_argument("--pictures", type=int, help="synthetic heads: the first pictures only")
    parser.add_argument("--others", nargs="*", default=list(OTHERS), help="methods to compare with")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, required=True)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    torch.set_num_threads(options.threads)
    predictor = predictor_of(options.family, options.run)
    result = run_all(predictor, options) | provenance(_command(options))
    write_result(options.json, result)


def _command(options: argparse.Namespace) -> str:
    words = [f"python benchmarks/pgn.py --family {options.family}"]
    words += ["--run RUN" if options.run else ""]
    words += ["--heads HEADS" if options.heads else "", "--cache CACHE" if options.cache else ""]
    words += ["--data DATA" if options.family == "research" else "", f"--most {options.most}"]
    return " ".join(word for word in [*words, "--json FILE"] if word)


if __name__ == "__main__":
    main()
