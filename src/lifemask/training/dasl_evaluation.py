"""How well a 2DASL network does on held-out crops, by the source of its map."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray
from torch import Tensor

from lifemask.data.augment import move_points, warp
from lifemask.methods._coefficients import Posed
from lifemask.methods._dasl_types import MapPoints
from lifemask.methods.dasl import DaslNet
from lifemask.nn.landmark_net import unit_from_crop_px
from lifemask.nn.parametric import LENGTH_MM
from lifemask.training.crop_sources import nominal_view
from lifemask.training.dasl_batches import true_map
from lifemask.training.dasl_data import FaceSet, crop_labels, crop_maps
from lifemask.training.landmarker import crop_errors

Source = Literal["detector", "self", "none", "oracle"]
SOURCES: tuple[Source, ...] = ("none", "self", "detector", "oracle")
OWN_MAPS = 3  # passes with the network's own map after the empty one, as at inference


@dataclass(frozen=True)
class Found:
    """Predictions for n crops with one source of maps.

    Attributes:
        points: (n, k, 3) landmarks of the head's label set, half-crops.
        coefficients: (n, D) raw.
    """

    points: ndarray
    coefficients: Tensor


def evaluate(
    network: DaslNet,
    held_out: dict[str, FaceSet],
    input_map: str = "on",
    most: int = 500,
    sources: tuple[Source, ...] = SOURCES,
) -> dict[str, float]:
    """Metrics of held-out crops, by set and source of the map.

    NAME is the NME in % with the map that the network was made for: a detector's points; the empty
    map where `input_map` is "off", its own where it is "self". NAME_none, NAME_self, NAME_oracle:
    other maps. NAME_all, NAME_depth, NAME_bin0..2: `training.landmarker.evaluate`. NAME_shape_mm:
    mean distance of the model's points in its own frame about their mean; NAME_angle_deg: mean
    angle between rotations; NAME_identity: root mean square of the identity coefficients.

    Args:
        network: in any mode; left in evaluation mode.
        held_out: sets by name.
        input_map: how the network was trained.
        most: crops of each set, spread evenly.
        sources: which maps to try.
    """
    network.eval()
    main = {"off": "none", "self": "self"}.get(input_map, "detector")
    metrics: dict[str, float] = {}
    for name, faces in held_out.items():
        few = subset(faces, most)
        for source, found, wanted in predictions(network, few, sources):
            scored = network.head.sets68[network.head.scored]
            errors = crop_errors(name, found.points, wanted, few.crops, scored)
            if source == main:
                metrics |= errors | _head_errors(name, network, few, found)
            else:
                metrics[f"{name}_{source}"] = errors[name]
    return metrics


def subset(faces: FaceSet, most: int) -> FaceSet:
    """At most so many crops, evenly spread."""
    count = len(faces.crops)
    return faces if count <= most else faces.subset(np.arange(most) * count // most)


def predictions(
    network: DaslNet, faces: FaceSet, sources: tuple[Source, ...] = SOURCES, batch: int = 64
) -> Iterator[tuple[Source, Found, ndarray]]:
    """For each source of maps: it, the predictions, and the labels (n, m, d) in half-crops."""
    parts: dict[Source, list[tuple[Tensor, Tensor]]] = {source: [] for source in sources}
    wanted = []
    for start in range(0, len(faces.crops), batch):
        ids = np.arange(start, min(start + batch, len(faces.crops)))
        crops, labels = nominal_crops(faces, ids, network.config.size)
        wanted.append(labels)
        for source in sources:
            parts[source].append(one_batch(network, crops, faces, ids, source))
    for source in sources:
        points, raw = (torch.cat(p).cpu() for p in zip(*parts[source], strict=True))
        yield source, Found(points.numpy(), raw), np.concatenate(wanted)


def nominal_crops(faces: FaceSet, ids: ndarray, size: int) -> tuple[Tensor, ndarray]:
    """Crops (b, 3, size, size) in [0, 1] without augmentation, and their labels in half-crops."""
    crops = faces.crops
    view = nominal_view(crops, len(ids), size)
    pixels = torch.from_numpy(warp(crops.gather(ids), view, size) / np.float32(255))
    points = move_points(crops.points[ids], view, np.arange(crops.points.shape[1]))
    return pixels.permute(0, 3, 1, 2), unit_from_crop_px(torch.from_numpy(points), size).numpy()


def given_map(faces: FaceSet, ids: ndarray, source: Source) -> MapPoints:
    """Map-18 points of nominal crops: "detector" or "oracle"; nothing is drawn for others."""
    if source == "detector" and faces.detected is not None:
        return crop_maps(faces, ids)
    true = true_map(faces, ids)
    return true if source == "oracle" else MapPoints(true.points, torch.zeros_like(true.drawn))


@torch.no_grad()
def one_batch(
    network: DaslNet, crops: Tensor, faces: FaceSet, ids: ndarray, source: Source
) -> tuple[Tensor, Tensor]:
    """Landmarks (b, k, 3) and raw coefficients of some crops with one source of maps."""
    device = network.regressor.weight.device
    crops = crops.to(device)
    given = given_map(faces, ids, source)
    p, posed = _pass(network, crops, given.points.to(device), given.drawn.to(device))
    for _ in range(OWN_MAPS if source == "self" else 0):
        p, posed = _pass(network, crops, *network.head.own_map(posed))
    return posed.points[:, : network.head.landmarks], network.head.raw(p)


def _pass(
    network: DaslNet, crops: Tensor, points: Tensor, drawn: Tensor
) -> tuple[Float[Tensor, "b d"], Posed]:
    p = network.regress(crops, points, drawn)
    return p, network.head(p)


def _head_errors(name: str, network: DaslNet, faces: FaceSet, found: Found) -> dict[str, float]:
    """Shape and pose errors where the truth is known, spread of identity everywhere."""
    head = copy.deepcopy(network.head).cpu()
    got = head.unpack(found.coefficients)
    metrics = {f"{name}_identity": float(got.identity.square().mean().sqrt())}
    if faces.labels is None:
        return metrics
    true = crop_labels(faces)
    shapes = [head.shape(x.identity, x.expression) for x in (got, true)]
    ours, theirs = (s - s.mean(1, keepdim=True) for s in shapes)
    cosine = ((got.rotation * true.rotation).sum((1, 2)) - 1) / 2
    return metrics | {
        f"{name}_shape_mm": LENGTH_MM * float((ours - theirs).norm(dim=-1).mean()),
        f"{name}_angle_deg": float(torch.rad2deg(cosine.clamp(-1, 1).acos()).mean()),
    }
