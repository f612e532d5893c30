"""Batches of 2DASL as a function of the step number: crops, first input map, targets.

The noise of the map comes from random numbers of its own: settings of the map change nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import torch
from numpy import ndarray

from lifemask.assets import UserError
from lifemask.data.augment import AugmentConfig, View, change_colours, draw_views, move_points, warp
from lifemask.facemodel.base import FaceModel
from lifemask.facemodel.landmarks import FROM_68, MAP18_FROM_AFLW21, convert, flip_table
from lifemask.facemodel.symmetry import head_symmetry
from lifemask.methods._dasl_types import DaslBatch, MapPoints
from lifemask.methods._targets import HeadLabels, SourceRows
from lifemask.nn.landmark_map import REFERENCE_PX
from lifemask.nn.landmark_net import unit_from_crop_px
from lifemask.training.crop_sources import REAL_SETS
from lifemask.training.dasl_data import DaslCorpus, FaceSet, nominal_map
from lifemask.training.dasl_detect import SCORED
from lifemask.training.dasl_labels import (
    labels_in_view,
)

InputMap = Literal["on", "off", "oracle", "self"]
MAP_SETS = {"lifemask392": SCORED}  # sets of several 68 points: which of them fill the map


@dataclass(frozen=True)
class DaslBatchConfig:
    """What a batch is made of.

    Attributes:
        batch: crops per step, over all processes.
        size: side of the crops in px.
        augment: strengths of the augmentation.
        seed: of everything random.
        unlabelled: share of the batch without coefficients; 0 in stage 1, 0.5 in stage 2.
        real_mix: shares of "aflw21" and "ytf68" in the unlabelled part.
        input_map: "on"; "off" and "self", always empty; "oracle", true points without noise.
        detected: probability that a map starts from what the landmarker found, where it was asked;
            otherwise from the labels.
        jitter_px: standard deviation of a map point in u and in v, in px of a crop of 120 px.
        drop: probability that a point is left out.
        empty: probability of an empty map.
        foreign: probability of the map of another face in the batch.
    """

    batch: int = 64
    size: int = 112
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    seed: int = 0
    unlabelled: float = 0.0
    real_mix: tuple[float, float] = (0.7, 0.3)
    input_map: InputMap = "on"
    detected: float = 0.5
    jitter_px: float = 1.5
    drop: float = 0.10
    empty: float = 0.30
    foreign: float = 0.01


@dataclass(frozen=True)
class _Part:
    """Rows of a batch from one set of faces; points in crop px."""

    images: ndarray  # (b, s, s, 3) in 0..255
    points: ndarray  # (b, k, 2 or 3)
    visible: ndarray  # (b, k)
    labels: HeadLabels | None
    true_map: ndarray  # (b, 18, 2)
    true_drawn: ndarray  # (b, 18)
    found_map: ndarray  # (b, 18, 2), the true one where no landmarker was asked
    found_drawn: ndarray  # (b, 18)


class DaslBatchMaker:
    """Batches, labelled renders first, then unlabelled faces by source.

    Renders of a head model that does not tell how it mirrors are never mirrored.

    Args:
        corpus: faces.
        config: what a batch is made of.
        model: the head model of the labels.

    Raises:
        UserError: unlabelled faces are wanted and there are none.
    """

    def __init__(self, corpus: DaslCorpus, config: DaslBatchConfig, model: FaceModel) -> None:
        if config.unlabelled > 0 and not corpus.unlabelled:
            raise UserError(
                "stage 2 needs faces without labels: --data with aflw21 and ytf68, or for the open"
                " family renders of at least three shards and landmarks detected on them"
            )
        self.config = config
        self._sets = {"": corpus.labelled} | {k: [v] for k, v in corpus.unlabelled.items()}
        self._shares = _shares(config, list(corpus.unlabelled))
        self._symmetry = head_symmetry(model)
        self._chances = {id(one): _chances(one) for sets in self._sets.values() for one in sets}

    def __call__(self, step: int, rank: int = 0, processes: int = 1) -> DaslBatch:
        """One process's share of the batch of a step."""
        config = self.config
        total = config.batch // processes
        counts = np.floor(self._shares * total + 0.5).astype(int)
        counts[0] += total - counts.sum()
        rng = np.random.default_rng([config.seed, step, rank])
        parts, targets, start = [], [], 0
        for name, count in zip(self._sets, counts, strict=True):
            if count <= 0:
                continue
            drawn = self._draw(rng, self._sets[name], int(count))
            rows = slice(start, start + int(count))
            targets.append(_target(name or "renders", rows, drawn, config.size))
            parts += drawn
            start += int(count)
        pixels = change_colours(rng, config.augment, _join(parts, "images"))
        noise = np.random.default_rng([config.seed, step, rank, 1])
        crops = torch.from_numpy(pixels).permute(0, 3, 1, 2)
        return DaslBatch(crops, _first_map(noise, parts, config), targets)

    def _draw(self, rng: np.random.Generator, sets: list[FaceSet], count: int) -> list[_Part]:
        sizes = np.array([len(one) for one in sets], float)
        split = rng.multinomial(count, sizes / sizes.sum())
        parts = []
        for one, n in zip(sets, split, strict=True):
            if n:
                ids = np.searchsorted(self._chances[id(one)], rng.random(n))
                parts.append(self._part(rng, one, ids))
        return parts

    def _part(self, rng: np.random.Generator, faces: FaceSet, ids: ndarray) -> _Part:
        config, crops = self.config, faces.crops
        augment = config.augment
        if faces.labels is not None and self._symmetry is None:
            augment = replace(augment, flip=0.0)
        source = crops.gather(ids)
        args = (len(ids), source.shape[1], crops.nominal_side_px, config.size)
        view = draw_views(rng, augment, *args)
        flips = flip_table(crops.convention).numpy()
        points = move_points(crops.points[ids], view, flips)
        visible = _flipped(crops.visible[ids], view, flips)
        labels = None
        if faces.labels is not None:
            labels = labels_in_view(faces.labels.subset(ids), view, config.size, self._symmetry)
        true_map, true_drawn = map18_truth(points[..., :2], visible, crops.convention)
        found_map, found_drawn = true_map, true_drawn
        if faces.detected is not None:
            found, flips18 = faces.detected.subset(ids), flip_table("map18").numpy()
            found_map = move_points(found.points, view, flips18)
            found_drawn = _flipped(found.drawn, view, flips18)
        if faces.labels is not None:  # hidden points of a render are known as well
            visible = np.ones_like(visible)
        images = warp(source, view, config.size)
        maps = (true_map, true_drawn, found_map, found_drawn)
        return _Part(images, points, visible, labels, *maps)


def map18_truth(points: ndarray, visible: ndarray, convention: str) -> tuple[ndarray, ndarray]:
    """Map-18 points (b, 18, 2) from labels, and which are known: those with all parents visible.

    Args:
        points: (b, k, 2), any unit.
        visible: (b, k).
        convention: "aflw21", "lifemask392" or a set of 68.
    """
    if convention in MAP_SETS:
        inner = MAP_SETS[convention]
        parents = convert(torch.arange(points.shape[1])[:, None].double(), convention, inner)
        ids = parents[:, 0].long().numpy()
        return map18_truth(points[:, ids], visible[:, ids], inner)
    if convention == "aflw21":
        rows: tuple[tuple[int, ...], ...] = tuple((i,) for i in MAP18_FROM_AFLW21)
    else:
        rows = FROM_68["map18"]
    moved = convert(torch.from_numpy(points), convention, "map18").numpy()
    return moved, np.stack([visible[:, list(row)].all(1) for row in rows], 1)


def true_map(faces: FaceSet, ids: ndarray | None = None) -> MapPoints:
    """Map-18 points of the labels on nominal crops, those that are known and seen; no noise.

    Args:
        faces: any set.
        ids: which of them; None for all.
    """
    crops = faces.crops
    chosen = slice(None) if ids is None else ids
    points = np.ascontiguousarray(crops.points[chosen][..., :2])
    return nominal_map(crops, *map18_truth(points, crops.visible[chosen], crops.convention))


def _first_map(rng: np.random.Generator, parts: list[_Part], config: DaslBatchConfig) -> MapPoints:
    """What is drawn into the first pass's map, in half-crops."""
    points, drawn = _join(parts, "true_map"), _join(parts, "true_drawn")
    count = len(points)
    if config.input_map in ("off", "self"):
        drawn = np.zeros_like(drawn)
    elif config.input_map == "on":
        found = rng.random(count) < config.detected
        points = np.where(found[:, None, None], _join(parts, "found_map"), points)
        drawn = np.where(found[:, None], _join(parts, "found_drawn"), drawn)
        foreign = np.nonzero(rng.random(count) < config.foreign)[0]
        donors = (foreign + rng.integers(1, max(count, 2), len(foreign))) % count
        points[foreign], drawn[foreign] = points[donors], drawn[donors]
        deviation = config.jitter_px * config.size / REFERENCE_PX
        points = points + rng.normal(0, 1, points.shape) * deviation
        drawn = drawn & (rng.random(drawn.shape) >= config.drop)
        drawn = drawn & (rng.random(count) >= config.empty)[:, None]
    crop_px = torch.from_numpy(points.astype(np.float32))
    return MapPoints(unit_from_crop_px(crop_px, config.size), torch.from_numpy(drawn))


def _target(name: str, rows: slice, parts: list[_Part], size: int) -> SourceRows:
    points = unit_from_crop_px(torch.from_numpy(_join(parts, "points")), size)
    visible = torch.from_numpy(_join(parts, "visible"))
    labels = [part.labels for part in parts if part.labels is not None]
    joined = None
    if labels:
        names = HeadLabels.__dataclass_fields__
        joined = HeadLabels(*(torch.cat([getattr(one, n) for one in labels]) for n in names))
    return SourceRows(name, rows, points, visible, joined)


def _shares(config: DaslBatchConfig, unlabelled: list[str]) -> ndarray:
    """Shares of a batch: labelled, then each unlabelled set."""
    weight: dict[str, float] = dict(zip(REAL_SETS, config.real_mix, strict=True))
    mix = np.array([weight.get(name, 1.0) for name in unlabelled])
    if config.unlabelled == 0 or len(mix) == 0:
        return np.array([1.0] + [0.0] * len(mix))
    return np.concatenate(([1 - config.unlabelled], config.unlabelled * mix / mix.sum()))


def _chances(faces: FaceSet) -> ndarray:
    total = np.cumsum(faces.crops.weight, dtype=np.float64)
    return total / total[-1]


def _flipped(flags: ndarray, view: View, flips: ndarray) -> ndarray:
    return np.where(view.flipped[:, None], flags[:, flips], flags)


def _join(parts: list[_Part], name: str) -> ndarray:
    return np.concatenate([getattr(part, name) for part in parts])
