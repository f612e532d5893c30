"""How well a PGN network does on held-out crops."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy import ndarray
from torch import Tensor

from lifemask.data.augment import move_points, warp
from lifemask.evaluation.metrics import identity_ratio
from lifemask.methods._pgn_net import PgnNet
from lifemask.nn.landmark_net import unit_from_crop_px
from lifemask.nn.parametric import LENGTH_MM
from lifemask.training.crop_sources import nominal_view
from lifemask.training.dasl_data import crop_labels
from lifemask.training.landmarker import crop_errors
from lifemask.training.pgn_data import PgnFaces

BATCH = 64


@dataclass(frozen=True)
class Found:
    """What a network says of n crops.

    Attributes:
        points: (n, k, 3) landmarks of the posed model, label set, half-crops.
        on_map: (n, k, 3) the same landmarks read from the position map.
        identity: (n, i) each photo by itself; expression: (n, e).
        features: (n, f) what identities are fused from.
        rotation: (n, 3, 3).
    """

    points: Tensor
    on_map: Tensor
    identity: Tensor
    expression: Tensor
    features: Tensor
    rotation: Tensor


def evaluate(network: PgnNet, held_out: dict[str, PgnFaces], most: int = 500) -> dict[str, float]:
    """Metrics of held-out crops, by set.

    NAME is the NME in % of the posed model's landmarks, NAME_map that of the position map's own.
    NAME_all, NAME_depth, NAME_bin0..2: `training.landmarker.evaluate`. Where coefficients are
    known: NAME_shape_mm, mean distance of the model's points in its own frame about their mean, one
    photo alone; NAME_two_mm, with the identity of two photos of the person; NAME_angle_deg, mean
    angle between rotations. NAME_identity: root mean square of the identity coefficients.
    NAME_ratio: variance of the identity between people over that within, where people are known.

    Args:
        network: in any mode; left in evaluation mode.
        held_out: sets by name.
        most: crops of each set, the first ones, so that a person's frames stay together.
    """
    network.eval()
    metrics: dict[str, float] = {}
    for name, faces in held_out.items():
        few = subset(faces, most)
        found, wanted = predictions(network, few)
        scored = network.head.sets68[network.head.scored]
        metrics |= crop_errors(name, found.points.numpy(), wanted, few.crops, scored)
        on_map = crop_errors(name, found.on_map.numpy(), wanted, few.crops, scored)
        metrics[f"{name}_map"] = on_map[name]
        metrics[f"{name}_identity"] = float(found.identity.square().mean().sqrt())
        person = few.crops.person
        if person is not None:
            metrics[f"{name}_ratio"] = _ratio(found.identity.numpy(), person)
        if few.faces.labels is not None:
            metrics |= _head_errors(name, network, few, found)
    return metrics


def subset(faces: PgnFaces, most: int) -> PgnFaces:
    """At most so many crops: whole people, spread evenly, or spread crops where none are known."""
    person = faces.crops.person
    if len(faces) <= most:
        return faces
    if person is None:
        return faces.subset(np.arange(most) * len(faces) // most)
    names, size = np.unique(person, return_counts=True)
    wanted = max(int(most / size.mean()), 1)
    chosen = names[np.arange(wanted) * len(names) // wanted]
    return faces.subset(np.nonzero(np.isin(person, chosen))[0])


def predictions(network: PgnNet, faces: PgnFaces) -> tuple[Found, ndarray]:
    """What the network says, and the labels (n, m, d) in half-crops."""
    parts: list[tuple[Tensor, ...]] = []
    wanted = []
    for start in range(0, len(faces), BATCH):
        ids = np.arange(start, min(start + BATCH, len(faces)))
        crops, labels = nominal_crops(faces, ids, network.config.size)
        wanted.append(labels)
        parts.append(_one_batch(network, crops))
    joined = (torch.cat(p).cpu().float() for p in zip(*parts, strict=True))
    return Found(*joined), np.concatenate(wanted)


def nominal_crops(
    faces: PgnFaces, ids: Int[ndarray, "b"], size: int
) -> tuple[Float[Tensor, "b 3 s s"], Float[ndarray, "b m d"]]:
    """Crops in [0, 1] without augmentation, and their labels in half-crops."""
    crops = faces.crops
    view = nominal_view(crops, len(ids), size)
    pixels = torch.from_numpy(warp(crops.gather(ids), view, size) / np.float32(255))
    points = move_points(crops.points[ids], view, np.arange(crops.points.shape[1]))
    return pixels.permute(0, 3, 1, 2), unit_from_crop_px(torch.from_numpy(points), size).numpy()


@torch.no_grad()
def _one_batch(network: PgnNet, crops: Tensor) -> tuple[Tensor, ...]:
    frames = network.frames(crops.to(network.to_expression.weight.device))
    alone = network.identity_of(frames.features)
    output = network.assemble(frames, alone, alone)
    rotation = output.matrix / output.matrix[:, :1].norm(dim=-1, keepdim=True)
    points = output.points[:, : network.head.landmarks]
    on_map = output.landmarks[..., :3]
    return points, on_map, alone, output.expression, frames.features, rotation


def _ratio(identity: Float[ndarray, "n i"], person: Int[ndarray, "n"]) -> float:
    """NaN where too few people have several photos."""
    try:
        return identity_ratio(identity, person)
    except ValueError:
        return float("nan")


def _head_errors(name: str, network: PgnNet, faces: PgnFaces, found: Found) -> dict[str, float]:
    """Shape and pose errors where the truth is known."""
    true = crop_labels(faces.faces)
    cosine = ((found.rotation * true.rotation).sum((1, 2)) - 1) / 2
    metrics = {
        f"{name}_shape_mm": shape_error_mm(network, faces, found, found.identity),
        f"{name}_angle_deg": float(torch.rad2deg(cosine.clamp(-1, 1).acos()).mean()),
    }
    person = faces.crops.person
    if person is not None:
        partner = _in_twos(person)
        if partner.max() + 1 < len(partner):
            metrics[f"{name}_two_mm"] = shape_error_mm(
                network, faces, found, _fused(network, found.features, partner)
            )
    return metrics


def shape_error_mm(
    network: PgnNet, faces: PgnFaces, found: Found, identity: Float[Tensor, "n i"]
) -> float:
    """Mean distance of the model's points in its own frame about their mean, mm."""
    head, true = network.head, crop_labels(faces.faces)
    with torch.no_grad():
        device = head.get_buffer("mean").device
        ours, theirs = (
            head.shape(a.to(device), b.to(device)).cpu()
            for a, b in ((identity, found.expression), (true.identity, true.expression))
        )
    apart = (ours - ours.mean(1, keepdim=True)) - (theirs - theirs.mean(1, keepdim=True))
    return LENGTH_MM * float(apart.norm(dim=-1).mean())


@torch.no_grad()
def _fused(
    network: PgnNet, features: Float[Tensor, "n f"], group: Int[ndarray, "n"]
) -> Float[Tensor, "n i"]:
    """Identities of groups of photos."""
    device = network.to_expression.weight.device
    return network.identity_of(features.to(device), torch.from_numpy(group).to(device)).cpu()


def _in_twos(person: Int[ndarray, "n"]) -> Int[ndarray, "n"]:
    """Numbers from 0 of groups of at most two photos of one person, in order."""
    seen: dict[int, int] = {}
    keys = []
    for p in person.tolist():
        count = seen.get(p, 0)
        seen[p] = count + 1
        keys.append((p, count // 2))
    order = {key: k for k, key in enumerate(dict.fromkeys(keys))}
    return np.array([order[key] for key in keys], np.int64)
