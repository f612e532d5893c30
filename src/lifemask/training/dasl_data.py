"""What 2DASL trains on: renders with coefficients, and faces of which only landmarks are known.

Research weights see AFLW-21 and YouTube-Faces as such faces. Nothing of that kind is free for any
use, so for open weights half of the renders take their part: their coefficients and points are
put away, and only what the open landmarker finds on them is left, noise included.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy import ndarray

from lifemask.assets import UserError
from lifemask.data.augment import move_points
from lifemask.data.base import CropSet, load_render_cache
from lifemask.facemodel import load_face_model
from lifemask.facemodel.base import FaceModel
from lifemask.methods._dasl_types import MapPoints
from lifemask.methods._targets import HeadLabels
from lifemask.nn.landmark_net import unit_from_crop_px
from lifemask.training.crop_sources import REAL_SETS, nominal_view, real_crops, renders_tag
from lifemask.training.dasl_detect import SCORED, DetectedMaps, detected_maps
from lifemask.training.dasl_labels import (
    NEARNESS_WEIGHT,
    PoseLabels,
    labels_in_view,
    pose_labels,
)
from lifemask.training.recipes import Family

__all__ = [
    "DaslCorpus",
    "DetectedMaps",
    "FaceSet",
    "PoseLabels",
    "crop_labels",
    "crop_maps",
    "load_dasl_corpus",
    "load_held_out",
]
NOMINAL_PX = 112  # any size: half-crops do not depend on it
WILD_RENDERS = "renders"  # name of the set that stands for photos in the open family


@dataclass(frozen=True)
class FaceSet:
    """Crops and what is known about them.

    Attributes:
        crops: pictures and landmarks; targets of unlabelled sets are these landmarks.
        labels: coefficients of renders, else None.
        detected: what a landmarker finds, or None where it was not asked.
    """

    crops: CropSet
    labels: PoseLabels | None = None
    detected: DetectedMaps | None = None

    def __len__(self) -> int:
        """Number of faces."""
        return len(self.crops)

    def subset(self, ids: np.ndarray) -> FaceSet:
        """Some of the faces, images copied into memory."""
        labels = None if self.labels is None else self.labels.subset(ids)
        detected = None if self.detected is None else self.detected.subset(ids)
        return FaceSet(self.crops.subset(ids), labels, detected)


@dataclass(frozen=True)
class DaslCorpus:
    """Everything that a family may see.

    Attributes:
        labelled: renders with coefficients, drawn in proportion to size.
        unlabelled: "aflw21" and "ytf68"; of the open family "renders", whose landmarks are those
            of the open landmarker, 68 points "ibug68-3d-bfm".
        held_out: "renders-open", "renders-research", "aflw21", "ytf68".
    """

    labelled: list[FaceSet]
    unlabelled: dict[str, FaceSet]
    held_out: dict[str, FaceSet]


def load_dasl_corpus(
    family: Family,
    data: Path | None,
    caches: list[Path],
    prepared: Path | None = None,
    held_out_renders: int = 1,
    detect: bool = True,
    wild_share: float = 0.5,
    nearness_weight: float = NEARNESS_WEIGHT,
    model: FaceModel | None = None,
) -> DaslCorpus:
    """Everything that a family may see; no shard is in two of its parts.

    Args:
        family: "open" or "research".
        data: folder with `aflw21` and `ytf68`; needed by "research" unless they are prepared.
        caches: folders of renders.
        prepared: folder where decoded real crops and detected landmarks are kept.
        held_out_renders: number of each cache's first shards that are not trained on.
        detect: find landmarks on all sets; without them the open family has no unlabelled set.
        wild_share: share of each cache's training shards that lose their labels, open family only.
        nearness_weight: see `dasl_labels.fit_orthographic`.
        model: the head model that was rendered; None for ours.

    Raises:
        UserError: data are missing, or renders that the family may not train on.
    """
    model = load_face_model() if model is None else model
    tags = [renders_tag(folder, family) for folder in caches]
    labelled: list[FaceSet] = []
    wild: list[FaceSet] = []
    held: dict[str, FaceSet] = {}

    def renders(folder: Path, shards: slice, with_labels: bool = True) -> FaceSet:
        crops = load_render_cache(folder, shards)
        labels = pose_labels(folder, model, shards, nearness_weight) if with_labels else None
        return FaceSet(crops, labels, detected_maps(crops, family, prepared) if detect else None)

    for folder, tag in zip(caches, tags, strict=True):
        held[f"renders-{tag}"] = renders(folder, slice(0, max(held_out_renders, 1)))
        last = len(list(folder.glob("labels-*.npz")))
        split = last
        if family == "open" and detect:
            split -= int((last - held_out_renders) * wild_share)
        own = renders(folder, slice(held_out_renders, split))
        if split < last:
            wild.append(renders(folder, slice(split, last), with_labels=False))
        elif family == "open" and detect and wild_share:  # a single shard: its last crops
            count = int(len(own) * wild_share)
            wild.append(own.subset(np.arange(len(own) - count, len(own))))
            own = own.subset(np.arange(len(own) - count))
        labelled.append(own)
    unlabelled = {WILD_RENDERS: _without_truth(wild)} if wild else {}
    if family == "research":
        for name in REAL_SETS:
            for crops, into in zip(
                real_crops(name, data, prepared), (unlabelled, held), strict=True
            ):
                found = detected_maps(crops, family, prepared) if detect else None
                into[name] = FaceSet(crops, None, found)
    return DaslCorpus(labelled, unlabelled, held)


def load_held_out(
    family: Family,
    data: Path | None,
    caches: list[Path],
    prepared: Path | None = None,
    held_out_renders: int = 1,
) -> dict[str, FaceSet]:
    """The held-out sets of `load_dasl_corpus` alone; arguments and errors as there."""
    model = load_face_model()
    held: dict[str, FaceSet] = {}
    for folder in caches:
        shards = slice(0, max(held_out_renders, 1))
        crops = load_render_cache(folder, shards)
        found = detected_maps(crops, family, prepared)
        name = f"renders-{renders_tag(folder, family)}"
        held[name] = FaceSet(crops, pose_labels(folder, model, shards), found)
    if family == "research":
        for name in REAL_SETS:
            crops = real_crops(name, data, prepared)[1]
            held[name] = FaceSet(crops, None, detected_maps(crops, family, prepared))
    return held


def _without_truth(sets: list[FaceSet]) -> FaceSet:
    """One set of renders that knows no more than a landmarker tells."""
    if len({(one.crops.nominal_side_px, one.crops.images[0].shape[1]) for one in sets}) > 1:
        raise UserError("caches of renders differ in image size or crop: render them alike")
    found = [one.detected for one in sets if one.detected is not None]
    detected = DetectedMaps(
        np.concatenate([d.points for d in found]),
        np.concatenate([d.drawn for d in found]),
        np.concatenate([d.points68 for d in found]),
    )
    count = len(detected)
    crops = replace(
        sets[0].crops,
        name="wild-renders",
        convention=SCORED,
        images=tuple(image for one in sets for image in one.crops.images),
        points=detected.points68,
        visible=np.ones((count, 68), bool),
        yaw_deg=np.full(count, np.nan, np.float32),
        weight=np.ones(count, np.float32),
        person=None,
        frame=None,
    )
    return FaceSet(crops, None, detected)


def crop_labels(faces: FaceSet, ids: ndarray | None = None) -> HeadLabels:
    """Labels of nominal crops, without augmentation.

    Args:
        faces: renders with labels.
        ids: which of them; None for all.

    Raises:
        ValueError: faces without labels.
    """
    if faces.labels is None:
        raise ValueError(f"{faces.crops.name} has no coefficients")
    labels = faces.labels if ids is None else faces.labels.subset(ids)
    view = nominal_view(faces.crops, len(labels), NOMINAL_PX)
    return labels_in_view(labels, view, NOMINAL_PX, None)


def crop_maps(faces: FaceSet, ids: ndarray | None = None) -> MapPoints:
    """Map-18 points that the landmarker found on nominal crops, without noise.

    Args:
        faces: with detected landmarks.
        ids: which of them; None for all.

    Raises:
        ValueError: the landmarker was not asked.
    """
    if faces.detected is None:
        raise ValueError(f"no landmarks were detected on {faces.crops.name}")
    found = faces.detected if ids is None else faces.detected.subset(ids)
    return nominal_map(faces.crops, found.points, found.drawn)


def nominal_map(crops: CropSet, points: ndarray, drawn: ndarray) -> MapPoints:
    """Map-18 points (b, 18, 2) in stored-image px as those of nominal crops."""
    view = nominal_view(crops, len(points), NOMINAL_PX)
    moved = move_points(points, view, np.arange(points.shape[1]))
    return MapPoints(
        unit_from_crop_px(torch.from_numpy(moved), NOMINAL_PX), torch.from_numpy(drawn)
    )
