r"""Settings of PGN's closed-form fit on held-out crops, never on a test set.

    python benchmarks/pgn.py --sweep --run RUN --family research --cache CACHE --prepared PREPARED \
        --json FILE

The network looks once; every setting then solves the same heads again.
"""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

import numpy as np
import torch
from numpy import ndarray

from lifemask.facemodel.base import FaceModel
from lifemask.methods._pgn_fit import FittedHeads
from lifemask.methods.pgn import PgnFitConfig, PgnNet
from lifemask.training.dasl_data import crop_labels
from lifemask.training.landmarker import face_errors
from pgn_parts import (
    Looked,
    angle_deg,
    head_points,
    heads_of,
    in_groups,
    neutral_errors_mm,
)

STEPS = (0, 1, 3)
NOISE = 2.0
IDENTITY = (0.1, 0.2, 0.4, 0.8, 1.6)
EXPRESSION = (0.02, 0.05, 0.1, 0.2, 0.4)
NEARNESS = (0.02, 0.05, 0.1, 0.25, 1.0)


def settings(base: PgnFitConfig) -> list[PgnFitConfig]:
    """What is tried: every pair of identity and expression, and single changes of the others.

    Only the ratios of `identity` and `expression` to `noise` matter, so `noise` is one number.
    """
    centre = replace(base, noise=NOISE, steps=2)
    tried = [base, *(replace(centre, steps=n) for n in STEPS)]
    tried += [replace(centre, identity=i, expression=e) for i in IDENTITY for e in EXPRESSION]
    tried += [replace(centre, nearness=w) for w in NEARNESS]
    return list(dict.fromkeys(tried))


def sweep(
    net: PgnNet, model: FaceModel, looked: dict[str, Looked], tried: list[PgnFitConfig]
) -> list[dict[str, Any]]:
    """Errors of every setting on every set; the first is the base. Prints a line for each."""
    rows: list[dict[str, Any]] = []
    for fit in tried:
        row: dict[str, Any] = {"fit": asdict(fit)}
        for name, one in looked.items():
            row |= {f"{name}_{k}": round(v, 4) for k, v in measure(net, model, one, fit).items()}
        if not rows:
            print(*asdict(fit), *list(row)[1:], sep=" | ")
        print(
            *row["fit"].values(), *(f"{row[k]:.3f}" for k in list(row)[1:]), sep=" | ", flush=True
        )
        rows.append(row)
    return rows


def measure(net: PgnNet, model: FaceModel, looked: Looked, fit: PgnFitConfig) -> dict[str, float]:
    """NME alone and in twos; of renders also inner points, rotation and shape."""
    alone = heads_of(net, looked.seen, fit)
    out = nme_of(net, looked, alone, np.arange(len(looked.wanted)))
    person = looked.faces.crops.person
    renders = looked.faces.faces.labels is not None
    if renders:
        true = crop_labels(looked.faces.faces)
        out["angle_deg"] = float(angle_deg(alone.pose.rotation, true.rotation).mean())
        out["one_mm"] = float(neutral_errors_mm(model, alone.identity, true.identity).mean())
    if person is None:
        return out
    rows, group = in_groups(person, 2)
    twos = heads_of(net, looked.seen.rows(rows), fit, torch.from_numpy(group))
    both = nme_of(net, looked, twos, rows)
    out["two_nme"] = both["nme"]
    if renders:
        wanted = true.identity[torch.from_numpy(rows)]
        out["two_mm"] = float(neutral_errors_mm(model, twos.identity, wanted).mean())
    return out


def nme_of(net: PgnNet, looked: Looked, heads: FittedHeads, rows: ndarray) -> dict[str, float]:
    """NME in % of the scored 68 points, and of renders the inner 51 alone."""
    scored = net.head.sets68[net.head.scored]
    points = head_points(net, heads)[:, : net.head.landmarks].numpy()
    crops, wanted = looked.faces.crops.subset(rows), looked.wanted[rows]
    out = {"nme": float(face_errors(points, wanted, crops, scored).mean())}
    if crops.name == "renders":
        out["inner"] = float(inner_errors(points, wanted, scored).mean())
    return out


def inner_errors(points: ndarray, wanted: ndarray, scored: slice) -> ndarray:
    """NME (n,) in % of the 51 inner points over `sqrt(w h)` of all 68."""
    true = wanted[:, scored, :2]
    size = np.sqrt(np.prod(np.ptp(true, axis=1), axis=-1))
    apart = np.linalg.norm(points[:, scored, :2] - true, axis=-1)
    return 100 * apart[:, 17:].mean(1) / size
