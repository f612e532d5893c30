"""What the benchmarks of PGN share: networks, what they say of held-out crops, shape errors."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy import ndarray
from torch import Tensor

from lifemask.facemodel import load_face_model
from lifemask.facemodel.base import FaceModel
from lifemask.facemodel.symmetry import head_symmetry
from lifemask.graphics.pose import similarity
from lifemask.methods._coefficients import project_points
from lifemask.methods._pgn_net import Frames
from lifemask.methods._pgn_pose import HeadPose
from lifemask.methods._pgn_predict import FoundHeads, mirrored_mean
from lifemask.methods.pgn import (
    ExportNet,
    PgnNet,
    PgnPredictor,
    config_from_dict,
    create_pgn,
    load_pgn,
)
from lifemask.nn.shipped import TorchNetwork
from lifemask.training.checkpoint import averaged_weights, read_state
from lifemask.training.crop_sources import real_crops, renders_tag
from lifemask.training.pgn_data import PgnFaces, load_photos, load_renders
from lifemask.training.pgn_evaluation import nominal_crops

BATCH = 64
DRAWS = 2000


def predictor_of_run(folder: Path) -> PgnPredictor:
    """The averaged network of a run's folder, through torch."""
    state = read_state(folder / "checkpoint.safetensors")
    model = load_face_model()
    net = create_pgn(config_from_dict(state["recipe"]["net"]), model)
    net.load_state_dict(averaged_weights(folder))
    return PgnPredictor(TorchNetwork(ExportNet(net)), net, model, state["licence"])


def predictor_of(family: str, run: Path | None) -> PgnPredictor:
    """The network of a run, or the shipped one of a family."""
    return load_pgn(family) if run is None else predictor_of_run(run)  # type: ignore[arg-type]


def held_out_sets(
    family: str, data: Path | None, caches: list[Path], prepared: Path | None, model: FaceModel
) -> dict[str, PgnFaces]:
    """Crops that no network was trained on: first shards of renders, and held-out photos."""
    sets: dict[str, PgnFaces] = {}
    for folder in caches:
        sets[f"renders-{renders_tag(folder, family)}"] = load_renders(folder, model, slice(0, 1))
    if family == "research" and (data is not None or prepared is not None):
        for name in ("aflw21", "ytf68"):
            sets[name] = load_photos(real_crops(name, data, prepared)[1], model)
    return sets


@dataclass(frozen=True)
class Seen:
    """What the network says of n crops, each by itself.

    Attributes:
        frames: of the crops; with mirror images the mean of both, except for the features.
        mirrored: (n, f) features of the mirror images, or (n, 0).
        sign: (i,) of the identity of a mirrored head.
    """

    frames: Frames
    mirrored: Tensor
    sign: Tensor

    def rows(self, ids: ndarray) -> Seen:
        """Some of the crops."""
        index = torch.from_numpy(ids)
        some = Frames(*(part[index] for part in self.frames))
        return Seen(some, self.mirrored[index], self.sign)

    def identity(self, net: PgnNet, person: Tensor) -> Tensor:
        """(n, i) identities of people, numbers from 0 whose frames these are."""
        own = net.identity_of(self.frames.features, person)
        if not self.mirrored.shape[1]:
            return own
        return (own + self.sign * net.identity_of(self.mirrored, person)) / 2


@dataclass(frozen=True)
class Looked:
    """What the network says of a set.

    Attributes:
        faces: the set.
        seen: n rows.
        wanted: (n, k, d) labels in half-crops.
    """

    faces: PgnFaces
    seen: Seen
    wanted: ndarray


def look(predictor: PgnPredictor, faces: PgnFaces, flip: bool = True) -> Looked:
    """Run the network once over all crops of a set."""
    crops, wanted = [], []
    for start in range(0, len(faces), BATCH):
        ids = np.arange(start, min(start + BATCH, len(faces)))
        some, labels = nominal_crops(faces, ids, predictor.config.size)
        crops.append(some)
        wanted.append(labels)
    return Looked(faces, see(predictor, torch.cat(crops), flip), np.concatenate(wanted))


@torch.no_grad()
def see(predictor: PgnPredictor, crops: Tensor, flip: bool = True) -> Seen:
    """What the network says of crops (n, 3, s, s) in [0, 1], and of their mirror images."""
    net, symmetry = predictor.net, head_symmetry(predictor.model)
    own, other = [], []
    for some in crops.split(BATCH):
        frames = net.frames(some)
        mirrored = net.frames(some.flip(3)) if flip else None
        if mirrored is not None:
            frames = mirrored_mean(frames, mirrored, net, symmetry)
        own.append(frames)
        told = mirrored is not None and symmetry is not None
        other.append(mirrored.features if told else frames.features[:, :0])  # type: ignore[union-attr]
    sign = np.ones(1, np.float32) if symmetry is None else symmetry.identity_sign
    joined = Frames(*(torch.cat(column) for column in zip(*own, strict=True)))
    return Seen(joined, torch.cat(other), torch.from_numpy(sign))


@torch.no_grad()
def heads_of(net: PgnNet, seen: Seen, person: Tensor | None = None) -> FoundHeads:
    """Heads as `PgnPredictor.predict_crops` finds them, from what the network said before.

    Args:
        net: for what frames share.
        seen: b rows.
        person: (b,) numbers from 0, a person's rows together; None: all different.
    """
    count = len(seen.frames.features)
    person = torch.arange(count) if person is None else person
    parts = []
    for rows in batches_of_people(person.numpy()):
        own = person[rows] - person[rows[0]]
        chosen = seen.rows(rows)
        some, identity = chosen.frames, chosen.identity(net, own)
        landmarks = net.read_landmarks(some.position_map)
        pose = net.pose_of(some, landmarks, net.head.shape(identity, some.expression))
        parts.append((identity, some.expression, *pose))
    identity, expression, *pose = (torch.cat(column) for column in zip(*parts, strict=True))
    return FoundHeads(identity, expression, HeadPose(*pose))


def batches_of_people(person: ndarray) -> list[ndarray]:
    """Rows in batches of about `BATCH` that keep the rows of a person together."""
    edges = np.nonzero(np.diff(person, prepend=person[0] - 1))[0]
    starts, last = [], -BATCH
    for edge in edges:
        if edge - last >= BATCH:
            starts.append(int(edge))
            last = edge
    return np.split(np.arange(len(person)), starts[1:])


def head_points(net: PgnNet, heads: FoundHeads) -> Tensor:
    """Posed points (b, m, 3) of the model in half-crops, landmarks of the label set first."""
    matrix = heads.pose.scale[:, None, None] * heads.pose.rotation
    return project_points(net.head.shape(*heads[:2]), matrix, heads.pose.shift)


def neutral_errors_mm(model: FaceModel, found: Tensor, true: Tensor) -> ndarray:
    """Mean distance (n,) of the face's vertices without expression, after a rigid motion.

    Args:
        model: with a region "face".
        found: (n, i) identities.
        true: (n, i).
    """
    face = model.topology.regions["face"]
    rest = torch.zeros(1, len(model.expression_names))
    errors = []
    for a, b in zip(found.split(BATCH), true.split(BATCH), strict=True):
        ours, theirs = (model(x, rest.expand(len(x), -1))[:, face] for x in (a, b))
        errors.append(rigid_distance(ours, theirs).mean(1))
    return torch.cat(errors).double().numpy()


def rigid_distance(source: Tensor, target: Tensor) -> Tensor:
    """Distances (b, n) of points after the best rotation and translation of the source."""
    rotation, _, _ = similarity(source.double(), target.double())
    x, y = (p.double() - p.double().mean(1, keepdim=True) for p in (source, target))
    return (x @ rotation.transpose(1, 2) - y).norm(dim=-1)


def angle_deg(first: Tensor, second: Tensor) -> ndarray:
    """Angle (n,) between rotations."""
    cosine = ((first * second).sum((-1, -2)) - 1) / 2
    return torch.rad2deg(cosine.double().clamp(-1, 1).acos()).numpy()


def interval(values: ndarray, units: ndarray | None = None) -> dict[str, Any]:
    """Mean and its 95 % bootstrap interval; of differences that is the paired interval.

    Args:
        values: (n,).
        units: (n,) what is drawn again, people for example; None: each value.
    """
    rng = np.random.default_rng(0)
    names, index = np.unique(
        np.arange(len(values)) if units is None else units, return_inverse=True
    )
    total, size = np.bincount(index, values), np.bincount(index)
    drawn = rng.integers(0, len(names), (DRAWS, len(names)))
    means = total[drawn].sum(1) / size[drawn].sum(1)
    low, high = np.percentile(means, (2.5, 97.5))
    return {
        "mean": round(float(values.mean()), 3),
        "ci95": [round(float(low), 3), round(float(high), 3)],
        "images": len(values),
        "units": len(names),
    }
