"""Does PGN know where it is wrong? Its uncertainty against the true error of its mesh."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy import ndarray
from torch import Tensor

from lifemask.graphics.camera import project
from lifemask.methods.pgn import PgnPredictConfig, PgnPrediction, PgnPredictor
from pgn_cases import Cases, camera_of_labels, square_of
from pgn_parts import BATCH, DRAWS

TARGET = 0.4


@dataclass(frozen=True)
class Doubts:
    """What PGN says of its errors, and the errors; charted vertices of n pictures, half-crops.

    Attributes:
        error: (n, c) distance of the model's posed vertex from the true one, the mean of w out.
        said: by name (n, c): the uncertainty and its two parts.
    """

    error: ndarray
    said: dict[str, ndarray]


def doubts(
    predictor: PgnPredictor, cases: Cases, crops: Tensor, config: PgnPredictConfig
) -> Doubts:
    """Ask for every picture."""
    parts = []
    for start in range(0, len(cases), BATCH):
        rows = range(start, min(start + BATCH, len(cases)))
        found = predictor.predict_crops(crops[rows.start : rows.stop], None, config)
        said = {
            "uncertainty": found.uncertainty(),
            "both meshes' distance": found.apart,
            "e^beta": found.vertices[..., 3].exp(),
        }
        shown = found.apart[0].isfinite()
        error = vertex_errors(cases, found, list(rows), shown)
        parts.append([error, *(values[:, shown] for values in said.values())])
    columns = [torch.cat(column).double().numpy() for column in zip(*parts, strict=True)]
    return Doubts(columns[0], dict(zip(said, columns[1:], strict=True)))


@torch.no_grad()
def vertex_errors(cases: Cases, found: PgnPrediction, rows: list[int], shown: Tensor) -> Tensor:
    """(b, c) distances in half-crops of the posed model's vertices from the true ones."""
    model, half = cases.model, square_of(cases.box)[1] / 2
    labels = found.labels
    own = project(model(labels.identity, labels.expression), camera_of_labels(labels, cases.box))
    truth = model(cases.truth.identity[rows], cases.truth.expression[rows])
    apart = (own - cases.project(truth, rows))[:, shown] / half
    apart[..., 2] -= apart[..., 2].mean(1, keepdim=True)
    return apart.norm(dim=-1)


def rank_correlations(found: Doubts, person: ndarray) -> dict[str, Any]:
    """Spearman's correlation by what is said: pooled, of images' means, and within images.

    The pooled one has an interval over people, with the ranks of all vertices held fixed.
    """
    out: dict[str, Any] = {"target": TARGET, "vertices": found.error.shape[1]}
    for name, said in found.said.items():
        a, b = ranks(said.ravel()).reshape(said.shape), ranks(found.error.ravel())
        b = b.reshape(said.shape)
        within = [spearman(x, y) for x, y in zip(said, found.error, strict=True)]
        low, high = pooled_interval(a, b, person)
        out[name] = {
            "pooled": round(spearman(said.ravel(), found.error.ravel()), 3),
            "ci95": [round(low, 3), round(high, 3)],
            "of_image_means": round(spearman(said.mean(1), found.error.mean(1)), 3),
            "within_image": round(float(np.mean(within)), 3),
        }
    return out


def spearman(a: ndarray, b: ndarray) -> float:
    """Rank correlation of (n,) values."""
    return float(np.corrcoef(ranks(a), ranks(b))[0, 1])


def ranks(values: ndarray) -> ndarray:
    """Ranks (n,) from 0; equal values share their mean rank."""
    _, index, size = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(size)
    return (last - (size + 1) / 2)[index]


def pooled_interval(a: ndarray, b: ndarray, person: ndarray) -> tuple[float, float]:
    """95 % bootstrap interval over people of the correlation of (n, c) values."""
    a, b = a - a.mean(), b - b.mean()
    index = np.unique(person, return_inverse=True)[1]
    one = np.ones_like(a)
    sums = np.stack(
        [np.bincount(index, x.sum(1)) for x in (one, a, b, a * a, b * b, a * b)]
    )  # (6, people)
    drawn = np.random.default_rng(0).integers(0, sums.shape[1], (DRAWS, sums.shape[1]))
    n, sa, sb, aa, bb, ab = sums[:, drawn].sum(-1)
    spread = (aa / n - (sa / n) ** 2) * (bb / n - (sb / n) ** 2)
    low, high = np.percentile((ab / n - sa * sb / n**2) / np.sqrt(spread), (2.5, 97.5))
    return float(low), float(high)
