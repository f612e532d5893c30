"""Batches of PGN as a function of the step number: frames, whose they are, and their truth."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import torch
from jaxtyping import Int
from numpy import ndarray

from lifemask.data.augment import AugmentConfig, change_colours, draw_views, move_points, warp
from lifemask.facemodel.base import FaceModel
from lifemask.facemodel.landmarks import flip_table
from lifemask.facemodel.symmetry import head_symmetry
from lifemask.methods._pgn_types import CropCamera, PgnBatch
from lifemask.methods._targets import HeadLabels, SourceRows
from lifemask.nn.landmark_net import unit_from_crop_px
from lifemask.training.dasl_labels import (
    labels_in_view,
)
from lifemask.training.pgn_data import PgnCorpus, PgnFaces

TRIES = 4  # at a second frame that differs in yaw as wanted


@dataclass(frozen=True)
class PgnBatchConfig:
    """What a batch is made of.

    Attributes:
        batch: crops per step, over all processes.
        size: side of the crops in px.
        augment: strengths of the augmentation.
        seed: of everything random.
        mix: shares of renders, AFLW singles and YouTube Faces frames; those without a set fall to
            the renders.
        pairs: frames come two by two where a set has several of a person.
        alone: share of the pairs whose frames count as two people, so that one photo stays enough.
        yaw_gap_deg: least and largest difference in yaw that a pair should have.
    """

    batch: int = 64
    size: int = 112
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    seed: int = 0
    mix: tuple[float, float, float] = (0.5, 0.25, 0.25)
    pairs: bool = True
    alone: float = 0.5
    yaw_gap_deg: tuple[float, float] = (10.0, 60.0)


@dataclass(frozen=True)
class _Part:
    images: ndarray  # (b, s, s, 3) in 0..255
    points: ndarray  # (b, k, d) crop px
    visible: ndarray  # (b, k)
    person: ndarray  # (b,) numbers from 0 within the part
    paired: ndarray  # (b,) the frame's partner stands beside it
    labels: HeadLabels | None
    camera: CropCamera | None


class PgnBatchMaker:
    """Batches: labelled renders first, then photos by source; a person's frames stand together.

    Args:
        corpus: faces.
        config: what a batch is made of.
        model: the head model of the labels.
    """

    def __init__(self, corpus: PgnCorpus, config: PgnBatchConfig, model: FaceModel) -> None:
        self.config = config
        names = ("aflw21", "ytf68")
        self._sets = {"renders": corpus.labelled} | {
            name: [corpus.photos[name]] for name in names if name in corpus.photos
        }
        shares = np.array([config.mix[1 + names.index(n)] for n in list(self._sets)[1:]])
        self._shares = np.concatenate(([1 - shares.sum()], shares))
        self._symmetry = head_symmetry(model)
        everything = [one for sets in self._sets.values() for one in sets]
        self._people = {id(one): _people(one) for one in everything}
        self._chances = {id(one): _chances(one.crops.weight) for one in everything}

    def __call__(self, step: int, rank: int = 0, processes: int = 1) -> PgnBatch:
        """One process's share of the batch of a step."""
        config = self.config
        total = config.batch // processes
        counts = np.floor(self._shares * total / 2 + 0.5).astype(int) * 2  # whole pairs
        counts[0] += total - counts.sum()
        rng = np.random.default_rng([config.seed, step, rank])
        parts, targets, cameras, start = [], [], [], 0
        for name, count in zip(self._sets, counts, strict=True):
            drawn = self._draw(rng, self._sets[name], int(count))
            rows = slice(start, start + int(count))
            if drawn:
                targets.append(_target(name, rows, drawn, config.size))
                own = [part.camera for part in drawn if part.camera is not None]
                cameras += [_joined(CropCamera, own)] if own else []
            parts += drawn
            start += int(count)
        pixels = change_colours(rng, config.augment, _join(parts, "images"))
        crops = torch.from_numpy(pixels).permute(0, 3, 1, 2)
        person, pairs = self._whose(rng, parts)
        return PgnBatch(crops, person, targets, cameras, pairs)

    def _whose(
        self, rng: np.random.Generator, parts: list[_Part]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Person of each row, some frames of one person counted as two; and all true pairs."""
        first, person = 0, []
        for part in parts:
            person.append(part.person + first)
            first += int(part.person.max()) + 1
        true = np.concatenate(person)
        paired = _join(parts, "paired")
        start = np.nonzero(paired & np.append(true[1:] == true[:-1], False))[0]
        alone = start[rng.random(len(start)) < self.config.alone] + 1
        counted = np.unique(np.where(np.isin(np.arange(len(true)), alone), true + 0.5, true),
                            return_inverse=True)[1]  # fmt: skip
        order = rng.permutation(len(start))
        pairs = np.stack((start, start + 1), 1)[order]
        return torch.from_numpy(counted.astype(np.int64)), torch.from_numpy(pairs)

    def _draw(self, rng: np.random.Generator, sets: list[PgnFaces], count: int) -> list[_Part]:
        sizes = np.array([len(one) for one in sets], float)
        split = rng.multinomial(count // 2, sizes / sizes.sum()) * 2
        split[0] += count - split.sum()
        parts = []
        for one, n in zip(sets, split, strict=True):
            if not n:
                continue
            ids, person, paired = self._choose(rng, one, int(n))
            flipped = rng.random(int(person.max()) + 1) < self._flip(one)
            for side in (False, True):  # a person's frames are mirrored together
                rows = np.nonzero(flipped[person] == side)[0]
                if len(rows):
                    again = np.unique(person[rows], return_inverse=True)[1]
                    parts.append(self._part(rng, one, ids[rows], again, paired[rows], side))
        return parts

    def _flip(self, faces: PgnFaces) -> float:
        labelled = faces.faces.labels is not None
        return 0.0 if labelled and self._symmetry is None else self.config.augment.flip

    def _choose(
        self, rng: np.random.Generator, faces: PgnFaces, count: int
    ) -> tuple[Int[ndarray, "b"], Int[ndarray, "b"], ndarray]:
        """Faces, whose they are, and whether they stand in a pair."""
        people = self._people[id(faces)]
        if not people or not self.config.pairs:
            ids = np.searchsorted(self._chances[id(faces)], rng.random(count))
            return ids, np.arange(count), np.zeros(count, bool)
        chosen = rng.integers(len(people), size=count // 2)
        ids = [self._pair(rng, faces, people[k]) for k in chosen]
        person = np.repeat(np.arange(count // 2), 2)
        flat = np.array([i for pair in ids for i in pair], np.int64)
        paired = faces.usable[flat].reshape(-1, 2).all(1).repeat(2)
        if count % 2:
            flat = np.append(flat, rng.integers(len(faces)))
            person, paired = np.append(person, count // 2), np.append(paired, False)
        return flat, person, paired

    def _pair(
        self, rng: np.random.Generator, faces: PgnFaces, own: Int[ndarray, "m"]
    ) -> tuple[int, int]:
        """Two frames of a person: from different clips and turned apart, if a few tries find them.

        The same picture is never its own partner.
        """
        low, high = self.config.yaw_gap_deg
        frame, yaw = faces.crops.frame, faces.yaw_deg
        first = int(rng.choice(own))
        best, worth = -1, -1.0
        for second in rng.choice(own, min(TRIES, len(own)), replace=False):
            if second == first or (frame is not None and frame[second] == frame[first]):
                continue
            gap = abs(float(yaw[second] - yaw[first]))
            value = float(low <= gap <= high)
            if frame is not None:
                value += 0.5 * float(frame[second] // 10 != frame[first] // 10)
            if value > worth:
                best, worth = int(second), value
        if best < 0:
            others = own if frame is None else own[frame[own] != frame[first]]
            others = others[others != first]
            best = int(rng.choice(others)) if len(others) else first
        return first, best

    def _part(
        self,
        rng: np.random.Generator,
        faces: PgnFaces,
        ids: ndarray,
        person: ndarray,
        paired: ndarray,
        mirrored: bool,
    ) -> _Part:
        config, crops = self.config, faces.crops
        augment = replace(config.augment, flip=float(mirrored))
        source = crops.gather(ids)
        args = (len(ids), source.shape[1], crops.nominal_side_px, config.size)
        view = draw_views(rng, augment, *args)
        flips = flip_table(crops.convention).numpy()
        points = move_points(crops.points[ids], view, flips)
        visible = crops.visible[ids]
        if mirrored:
            visible = visible[:, flips]
        labels = camera = None
        if faces.faces.labels is not None:
            own = faces.faces.labels.subset(ids)
            labels = labels_in_view(own, view, config.size, self._symmetry)
            visible = np.ones_like(visible)  # hidden points of a render are known as well
        if faces.cameras is not None:
            camera = faces.cameras.subset(ids).in_view(view, config.size)
        images = warp(source, view, config.size)
        return _Part(images, points, visible, person, paired, labels, camera)


def _people(faces: PgnFaces) -> list[Int[ndarray, "m"]]:
    """The faces of each person who has several pictures."""
    person, frame = faces.crops.person, faces.crops.frame
    if person is None:
        return []
    order = np.argsort(person, kind="stable")
    groups = np.split(order, np.nonzero(np.diff(person[order]))[0] + 1)
    several = (lambda g: len(g)) if frame is None else (lambda g: len(np.unique(frame[g])))
    return [group for group in groups if several(group) > 1]


def _chances(weight: ndarray) -> ndarray:
    total = np.cumsum(weight, dtype=np.float64)
    return total / total[-1]


def _target(name: str, rows: slice, parts: list[_Part], size: int) -> SourceRows:
    points = unit_from_crop_px(torch.from_numpy(_join(parts, "points")), size)
    visible = torch.from_numpy(_join(parts, "visible"))
    labels = [part.labels for part in parts if part.labels is not None]
    joined = _joined(HeadLabels, labels) if labels else None
    return SourceRows(name, rows, points, visible, joined)


def _joined(kind, parts: list):
    names = kind.__dataclass_fields__
    return kind(*(torch.cat([getattr(one, n) for one in parts]) for n in names))


def _join(parts: list[_Part], name: str) -> ndarray:
    return np.concatenate([getattr(part, name) for part in parts])
