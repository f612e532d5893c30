"""Batches for the tests of 2DASL's loss, descent on some of its terms, and what it should mend."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from helpers.dasl_heads import camera_of, half_crops, points_px
from lifemask.evaluation.metrics import geodesic_deg, nme_percent
from lifemask.facemodel.base import FaceModel
from lifemask.facemodel.landmarks import convert
from lifemask.methods._coefficients import CoefficientHead
from lifemask.methods._dasl_loss import DaslLoss, DaslLossConfig, TwoPasses
from lifemask.methods._targets import HeadLabels, SourceRows

TERMS = ("coefficients", "l2d", "l3d", "cyc", "critic", "reg", "offset")
SCORED = "ibug68-3d-bfm"


def only(**weights: Any) -> DaslLossConfig:
    """Settings in which all terms are off but these."""
    config = replace(DaslLossConfig(), **dict.fromkeys(TERMS, 0.0))
    return replace(config, **weights)


def two_passes(
    head: CoefficientHead, p: Tensor, p_hat: Tensor | None = None, crops: Tensor | None = None
) -> TwoPasses:
    """What a network would hand over; the second pass agrees with the first if none is given."""
    p_hat = p if p_hat is None else p_hat
    crops = torch.zeros(len(p), 3, 32, 32) if crops is None else crops
    return TwoPasses(crops, p, head(p), p_hat, head(p_hat))


def target(model: FaceModel, labels: HeadLabels, source: str, start: int = 0) -> SourceRows:
    """True points of heads as a source labels them.

    Args:
        model: of the heads.
        labels: of the heads.
        source: "renders" with coefficients and 3D points; "found" renders with 68 found points
            only; "aflw21"; "ytf68".
        start: first row in the batch.
    """
    rows = slice(start, start + len(labels.scale))
    if source == "renders":
        name = "lifemask392" if "lifemask392" in model.landmark_embeddings else SCORED
        points = half_crops(points_px(model, labels, name))
        return SourceRows(source, rows, points, _all_seen(points), labels)
    name = SCORED if source == "found" else "ict68"
    points = half_crops(points_px(model, labels, name)[..., :2])
    if source == "aflw21":
        points = convert(points, name, "aflw21")
    return SourceRows("renders" if source == "found" else source, rows, points, _all_seen(points))


def _all_seen(points: Tensor) -> Tensor:
    return torch.ones(points.shape[:2], dtype=torch.bool)


def descend(
    total: Callable[[], Tensor],
    variables: Sequence[Tensor],
    steps: int = 60,
    rate: float = 0.02,
) -> None:
    """At most 100 steps of Adam on a scalar."""
    assert steps <= 100
    optimizer = torch.optim.Adam(list(variables), rate)
    for _ in range(steps):
        optimizer.zero_grad()
        total().backward()
        optimizer.step()


def learn(loss: DaslLoss, p: Tensor, targets: list[SourceRows], **how: Any) -> Tensor:
    """Coefficients after descent on a loss, both passes alike."""
    free = p.clone().requires_grad_()
    descend(lambda: loss(two_passes(loss.head, free), targets)[0], [free], **how)
    return free.detach()


def labels_of(head: CoefficientHead, p: Tensor) -> HeadLabels:
    """What whitened coefficients mean."""
    return head.unpack(head.raw(p.detach()))


def nme(model: FaceModel, head: CoefficientHead, p: Tensor, true: HeadLabels) -> float:
    """Mean 2D NME in percent over 68 points, through face model, camera and evaluation."""
    found, wanted = (
        points_px(model, labels, SCORED).double().numpy() for labels in (labels_of(head, p), true)
    )
    return float(nme_percent(found, wanted, wanted).mean())


def mesh_mm(model: FaceModel, head: CoefficientHead, p: Tensor, true: HeadLabels) -> float:
    """Mean distance of all vertices, pose included, in mm of the true head."""
    found, wanted = (points_px(model, labels) for labels in (labels_of(head, p), true))
    scale = camera_of(true).scale[:, None]
    return float(((found - wanted).norm(dim=-1) / scale).mean())


def depth_mm(model: FaceModel, head: CoefficientHead, p: Tensor, true: HeadLabels) -> float:
    """Mean error of the vertices' nearness, its mean over the head taken out, in mm."""
    found, wanted = (points_px(model, labels)[..., 2] for labels in (labels_of(head, p), true))
    apart = (found - wanted) - (found - wanted).mean(1, keepdim=True)
    return float((apart.abs() / camera_of(true).scale[:, None]).mean())


def angle_deg(one: HeadLabels, other: HeadLabels) -> float:
    """Mean angle between rotations."""
    pair = (np.asarray(x.rotation.double()) for x in (one, other))
    return float(geodesic_deg(*pair).mean())
