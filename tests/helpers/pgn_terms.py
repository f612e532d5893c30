"""Answers of a PGN network made from true heads, descent on some terms, and what it should mend.

Metrics go through `FaceModel.forward` and `graphics.camera.project`, in px of a crop of 120 px.
"""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from helpers.dasl_heads import half_crops, mask_model, points_px, turned
from lifemask.facemodel.base import FaceModel
from lifemask.facemodel.chart import create_chart
from lifemask.facemodel.landmarks import convert
from lifemask.methods._pgn_net import Frames, PgnConfig, PgnNet, PgnOutput
from lifemask.methods._pgn_pairs import PairConfig
from lifemask.methods._pgn_types import CropCamera, PgnBatch
from lifemask.methods._targets import HeadLabels, SourceRows
from lifemask.methods.pgn import PgnLoss, PgnLossConfig, create_pgn

TERMS = ("pgn3d", "pgn2d", "anchors", "landmarks", "param", "reg", "prior", "offset")
NO_PAIRS = PairConfig(0.0, 0.0, 0.0)
SMALL = PgnConfig("tiny", 48, map_size=32, widths=(16, 16, 16), hidden=32)
LOG_BETA = -3.0


@functools.cache
def face() -> FaceModel:
    """The face mask of all tests here: one object, so that its chart is made once."""
    return mask_model()


@functools.cache
def network(config: PgnConfig = SMALL) -> PgnNet:
    """A network of the mask that no test trains."""
    torch.manual_seed(0)
    return create_pgn(config, face()).eval().requires_grad_(False)


def only(**weights: Any) -> PgnLossConfig:
    """Settings in which all terms are off but these."""
    config = replace(PgnLossConfig(pairs=NO_PAIRS), **dict.fromkeys(TERMS, 0.0))
    return replace(config, **weights)


def loss_of(config: PgnLossConfig, net: PgnNet | None = None) -> PgnLoss:
    return PgnLoss(net or network(), face(), config)


def camera_of(labels: HeadLabels) -> CropCamera:
    """The orthographic camera that labels describe."""
    per_mm = labels.scale / 100
    return CropCamera(
        labels.rotation,
        torch.zeros_like(labels.rotation[:, 0]),
        per_mm,
        torch.zeros(len(per_mm), dtype=torch.bool),
        torch.eye(2).expand(len(per_mm), 2, 2),
        labels.shift,
        per_mm,
        torch.tensor([0.0, 0.0, 1.0]).expand(len(per_mm), 3),
    )


def true_map(labels: HeadLabels, size: int = SMALL.map_size) -> Tensor:
    """(b, 4, n, n) position map of heads, by the chart's texels on their vertices."""
    vertices = face()(labels.identity, labels.expression)
    texels = create_chart(face(), size).texels(posed(vertices, labels))
    log_beta = torch.full_like(texels[..., :1], LOG_BETA)
    return torch.cat((texels, log_beta), -1).transpose(1, 2).unflatten(2, (size, size))


def posed(points_mm: Tensor, labels: HeadLabels) -> Tensor:
    """(u, v, w) half-crops of points of heads."""
    flat = labels.scale[:, None, None] * (points_mm / 100 @ labels.rotation.mT)
    shift = functional.pad(labels.shift, (0, 1))[:, None]
    return flat * torch.tensor([1.0, -1.0, 1.0]) + shift


def bumps(labels: HeadLabels, size: float, seed: int = 0, cells: int = 4) -> Tensor:
    """(b, 4, n, n) smooth random errors of a map's (u, v, w)."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(len(labels.scale), 3, cells, cells, generator=generator) * size
    fine = functional.interpolate(coarse, (SMALL.map_size,) * 2, mode="bicubic")
    return functional.pad(fine, (0, 0, 0, 0, 0, 1))


def answer(
    position_map: Tensor,
    identity: Tensor,
    expression: Tensor,
    anchors: Tensor | None = None,
    alone: Tensor | None = None,
    net: PgnNet | None = None,
) -> PgnOutput:
    """What a network would hand over that says all this; the pose is solved from the map."""
    net = net or network()
    count = len(identity)
    anchors = torch.zeros(count, 0, 4) if anchors is None else anchors
    nothing = torch.zeros(count, 0)
    frames = Frames(position_map, nothing, expression, nothing, anchors)
    return net.assemble(frames, identity, identity if alone is None else alone)


def true_answer(labels: HeadLabels, anchors: Tensor | None = None) -> PgnOutput:
    return answer(true_map(labels), labels.identity, labels.expression, anchors)


def target(labels: HeadLabels, source: str, start: int = 0) -> SourceRows:
    """True points of heads as a source labels them: "renders", "found", "aflw21", "ytf68"."""
    name = network().head.label_set
    points = half_crops(points_px(face(), labels, name))
    rows = slice(start, start + len(points))
    known = labels if source == "renders" else None
    if known is None:
        points = points[..., :2]
    if source == "aflw21":
        points = convert(points, name, "aflw21")
    visible = torch.ones(points.shape[:2], dtype=torch.bool)
    return SourceRows("renders" if source == "found" else source, rows, points, visible, known)


def batch_of(labels: HeadLabels, *sources: str) -> PgnBatch:
    """The same heads once for every source; neighbours within a source are pairs."""
    count = len(labels.scale)
    targets = [target(labels, s, k * count) for k, s in enumerate(sources)]
    cameras = [camera_of(labels) for one in targets if one.labels is not None]
    rows = torch.arange(count * len(sources))
    generator = torch.Generator().manual_seed(3)
    crops = torch.rand(len(rows), 3, 48, 48, generator=generator)
    return PgnBatch(crops, rows // 2, targets, cameras, rows.view(-1, 2))


def repeated(output: PgnOutput, times: int) -> PgnOutput:
    return PgnOutput(*(torch.cat([part] * times) for part in output))


def distance_px(points: Tensor, labels: HeadLabels, convention: str | None = None) -> float:
    """Mean distance in (u, v) between found points (b, n, 2+) in half-crops and the head's."""
    wanted = points_px(face(), labels, convention)[..., :2]
    found = (points[..., :2].detach() + 1) * 60 - 0.5
    known = found.isfinite().all(-1)
    return float((found - wanted).norm(dim=-1)[known].mean())


def depth_px(points: Tensor, labels: HeadLabels, convention: str | None = None) -> float:
    """Mean error of nearness, its mean over the points taken out."""
    wanted = points_px(face(), labels, convention)[..., 2]
    found = points[..., 2].detach() * 60
    known = found.isfinite().all(0)
    apart = (found - wanted)[:, known]
    return float((apart - apart.mean(1, keepdim=True)).abs().mean())


def shape_mm(identity: Tensor, expression: Tensor, labels: HeadLabels) -> float:
    """Mean distance of vertices in the model frame about their mean."""
    found = face()(identity.detach(), expression.detach())
    apart = found - face()(labels.identity, labels.expression)
    return float((apart - apart.mean(1, keepdim=True)).norm(dim=-1).mean())


def angle_deg(output: PgnOutput, labels: HeadLabels) -> float:
    """Mean angle between found and true rotation."""
    rotation = output.matrix.detach() / output.matrix.detach()[:, :1].norm(dim=-1, keepdim=True)
    cosine = ((rotation * labels.rotation).sum((1, 2)) - 1) / 2
    return float(torch.rad2deg(cosine.clamp(-1, 1).acos()).mean())


def turned_map(labels: HeadLabels, degrees: tuple[float, float, float]) -> Tensor:
    """A map of the same heads, all turned by a fixed rotation about their pivot."""
    other = turned(labels, degrees)
    moved, still = true_map(other), true_map(labels)
    shift = (still - moved)[:, :3].mean((2, 3), keepdim=True)
    return moved + functional.pad(shift, (0, 0, 0, 0, 0, 1))
