r"""2DASL on held-out crops: what stage 2 brings, where the map comes from, and two controls.

    python benchmarks/dasl.py --run runs/dasl-research --family research --data DIR --cache CACHE \
        --prepared PREPARED --json benchmarks/results/dasl-research.json

Held-out renders, AFLW-21 and YouTube-Faces crops, never trained on; the tests' sets (AFLW2000-3D)
are scored by `benchmarks/accuracy.py`. Intervals are 95 % of bootstraps over crops, those of
differences paired.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy import ndarray

from lifemask.facemodel import load_face_model
from lifemask.methods.dasl import DaslNet, config_from_dict, create_dasl
from lifemask.nn.parametric import LENGTH_MM
from lifemask.training.checkpoint import averaged_weights, read_state
from lifemask.training.dasl import STAGE1
from lifemask.training.dasl_data import FaceSet, crop_labels, load_held_out
from lifemask.training.dasl_evaluation import SOURCES, Found, predictions, subset
from lifemask.training.landmarker import face_errors
from provenance import provenance, write_result

DRAWS = 2000


def load_network(folder: Path) -> DaslNet:
    """The averaged network of a run's folder."""
    recipe = read_state(folder / "checkpoint.safetensors")["recipe"]
    network = create_dasl(config_from_dict(recipe["net"]), load_face_model())
    network.load_state_dict(averaged_weights(folder))
    return network.eval()


def interval(values: ndarray, bins: ndarray | None = None) -> dict[str, Any]:
    """Mean (of bin means) over faces and its bootstrap interval."""
    rng = np.random.default_rng(0)
    mean = _mean_of(bins)
    everyone = np.arange(len(values))
    draws = [mean(values, rng.integers(0, len(values), len(values))) for _ in range(DRAWS)]
    low, high = np.percentile(draws, (2.5, 97.5))
    return {
        "mean": round(mean(values, everyone), 3),
        "ci95": [round(float(low), 3), round(float(high), 3)],
        "faces": len(values),
    }


def _mean_of(bins: ndarray | None) -> Callable[[ndarray, ndarray], float]:
    if bins is None:
        return lambda values, ids: float(values[ids].mean())

    def mean(values: ndarray, ids: ndarray) -> float:
        chosen, where = values[ids], bins[ids]
        return float(np.mean([chosen[where == b].mean() for b in np.unique(where)]))

    return mean


def shape_errors_mm(network: DaslNet, faces: FaceSet, coefficients: torch.Tensor) -> ndarray:
    """Mean distance (n,) of the model's points in its own frame, about their mean."""
    got, true = network.head.unpack(coefficients), crop_labels(faces)
    shapes = [network.head.shape(x.identity, x.expression) for x in (got, true)]
    ours, theirs = (s - s.mean(1, keepdim=True) for s in shapes)
    return (LENGTH_MM * (ours - theirs).norm(dim=-1).mean(1)).numpy()


def measure(network: DaslNet, name: str, faces: FaceSet) -> dict[str, dict[str, ndarray]]:
    """NME by source of the map, shape error and size of identity, face by face."""
    scored = network.head.sets68[network.head.scored]
    out: dict[str, dict[str, ndarray]] = {}
    for source, found, wanted in predictions(network, faces):
        rows = {"nme": face_errors(found.points, wanted, faces.crops, scored)}
        rows |= _extra(network, faces, found)
        out[source] = rows
    return out


def _extra(network: DaslNet, faces: FaceSet, found: Found) -> dict[str, ndarray]:
    identity = network.head.unpack(found.coefficients).identity
    rows = {"identity_rms": identity.square().mean(1).sqrt().numpy()}
    if faces.labels is not None:
        rows["shape_mm"] = shape_errors_mm(network, faces, found.coefficients)
    return rows


def mean_face(network: DaslNet, faces: FaceSet) -> dict[str, ndarray]:
    """Errors of one constant answer: the mean of the training labels."""
    scored = network.head.sets68[network.head.scored]
    with torch.no_grad():
        posed = network.head(torch.zeros(1, network.head.size))
    wanted = next(predictions(network, faces, ("none",)))[2]
    points = posed.points[:, : network.head.landmarks].expand(len(wanted), -1, -1).numpy()
    rows = {"nme": face_errors(points, wanted, faces.crops, scored)}
    if faces.labels is not None:
        raw = network.head.raw(torch.zeros(len(faces), network.head.size))
        rows["shape_mm"] = shape_errors_mm(network, faces, raw)
    return rows


def shuffled(network: DaslNet, faces: FaceSet) -> dict[str, ndarray]:
    """Errors when each crop is answered with what another one says."""
    scored = network.head.sets68[network.head.scored]
    _, found, wanted = next(predictions(network, faces, ("self",)))
    order = np.roll(np.arange(len(wanted)), len(wanted) // 2)
    rows = {"nme": face_errors(found.points[order], wanted, faces.crops, scored)}
    if faces.labels is not None:
        rows["shape_mm"] = shape_errors_mm(network, faces, found.coefficients[order])
    return rows


def bins_of(faces: FaceSet) -> ndarray | None:
    """Yaw bins of renders; None for photos."""
    if faces.labels is None:
        return None
    return np.digitize(np.abs(faces.crops.yaw_deg), (30, 60))


def report_set(stages: dict[str, DaslNet], name: str, faces: FaceSet) -> dict[str, Any]:
    """Everything about one held-out set."""
    bins = bins_of(faces)
    by_stage = {stage: measure(network, name, faces) for stage, network in stages.items()}
    last = list(stages)[-1]
    out: dict[str, Any] = {
        stage: {
            source: {metric: interval(values, bins) for metric, values in rows.items()}
            for source, rows in sources.items()
        }
        for stage, sources in by_stage.items()
    }
    controls = {"mean face": mean_face, "shuffled": shuffled}
    out["controls"] = {
        control: {m: interval(v, bins) for m, v in run(stages[last], faces).items()}
        for control, run in controls.items()
    }
    out["differences"] = _differences(by_stage, bins)
    return out


def _differences(
    by_stage: dict[str, dict[str, dict[str, ndarray]]], bins: ndarray | None
) -> dict[str, Any]:
    """Paired differences: stage 2 - stage 1 for each source, and between sources."""
    stages = list(by_stage)
    last = by_stage[stages[-1]]
    pairs = {"self - none": ("self", "none"), "oracle - self": ("oracle", "self")}
    pairs |= {"detector - self": ("detector", "self")}
    out = {name: interval(last[a]["nme"] - last[b]["nme"], bins) for name, (a, b) in pairs.items()}
    if len(stages) > 1:
        first = by_stage[stages[0]]
        for source in SOURCES:
            for metric, values in last[source].items():
                change = values - first[source][metric]
                out[f"stage 2 - stage 1, {source}, {metric}"] = interval(change, bins)
    return out


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, required=True, help="folder of a run of both stages")
    parser.add_argument("--family", choices=("open", "research"), required=True)
    parser.add_argument("--cache", type=Path, action="append", required=True)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--prepared", type=Path)
    parser.add_argument("--most", type=int, default=1000, help="crops of each set")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, required=True)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    stages = {"stage 1": options.run / STAGE1, "stage 2": options.run}
    networks = {name: load_network(folder) for name, folder in stages.items()}
    held = load_held_out(options.family, options.data, options.cache, options.prepared)
    sets = {
        name: report_set(networks, name, subset(faces, options.most))
        for name, faces in held.items()
    }
    command = (
        f"python benchmarks/dasl.py --run RUN --family {options.family} --data DIR --cache CACHE"
    )
    result = {"benchmark": "dasl", "family": options.family, "sets": sets} | provenance(command)
    write_result(options.json, result)


if __name__ == "__main__":
    main()
