"""What a network says of a face in one frame, and how frames with one identity become poses."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import torch
from jaxtyping import Float, UInt8
from numpy import ndarray
from torch import Tensor

from lifemask.facemodel.base import FaceModel
from lifemask.facemodel.symmetry import head_symmetry
from lifemask.faces.crop import Box, crop_square, crop_to_photo, square_box
from lifemask.faces.landmarker import turned_back
from lifemask.methods._coefficients import CoefficientHead, project_points
from lifemask.methods._crops import Place
from lifemask.methods._dasl_predict import DaslPredictor
from lifemask.methods._pgn_net import PgnNet
from lifemask.methods._pgn_pose import solve_pose
from lifemask.methods._pgn_predict import FrameNetwork, unpacked
from lifemask.methods._stage import installed_weights
from lifemask.nn.landmark_net import crop_px_from_unit
from lifemask.nn.parametric import LENGTH_MM
from lifemask.nn.position_map import LOG_BETA_RANGE
from lifemask.nn.shipped import family_name, load_network

ORDINARY_DOUBT = 0.075
"""Expected error in half-crops at which a score is one half; a face has a third of it."""
LEAST_SCORE = 0.4


@dataclass(frozen=True)
class Reading:
    """A face in one frame.

    Attributes:
        points_px: (p, 3) what the pose is solved from: (u, v, w) in px of the frame; the first 68
            are those that the landmark square is about.
        log_beta: (p,) logarithm of their expected error, any unit.
        expression: (e,) in the face model's range.
        features: (f,) what the identity is told from.
        score: in [0, 1], how sure the network is that it sees a face.
        place: square in which it was seen.
    """

    points_px: Float[ndarray, "p 3"]
    log_beta: Float[ndarray, " p"]
    expression: Float[ndarray, " e"]
    features: Float[ndarray, " f"]
    score: float
    place: Place

    @property
    def square(self) -> tuple[tuple[float, float], float]:
        """Centre and side of the landmark square, px."""
        return square_box(torch.from_numpy(self.points_px[:68]))

    @property
    def box(self) -> Box:
        """Box of the 68 landmarks, px."""
        low, high = self.points_px[:68, :2].min(0), self.points_px[:68, :2].max(0)
        return (float(low[0]), float(low[1]), float(high[0]), float(high[1]))

    @property
    def next_place(self) -> Place:
        """Where the face will be seen if it does not move."""
        return Place(*self.square, self.place.turns)


@dataclass(frozen=True)
class Poses:
    """Scaled orthographic poses of t frames.

    Attributes:
        rotation: (t, 3, 3).
        scale: (t,) px per mm.
        pivot_px: (t, 2) where the head's middle appears.
    """

    rotation: Float[ndarray, "t 3 3"]
    scale: Float[ndarray, " t"]
    pivot_px: Float[ndarray, "t 2"]


class FaceReader(Protocol):
    """Frame and place to reading, and readings to one identity."""

    head: CoefficientHead
    ids: Tensor

    def __call__(self, image: UInt8[ndarray, "h w 3"], place: Place) -> Reading:
        """What the network says of a square of a frame."""
        ...

    def identity(self, features: Float[Tensor, "n f"]) -> Float[Tensor, " i"]:
        """The identity behind the features of several frames of one person."""
        ...


class PgnReader:
    """Reads faces by PGN without ever putting its position map together.

    The points that the pose is solved from are linear functions of what the network gives
    (`PointReader`), and so is their log beta before it is clamped; that saves half the time of a
    frame.

    Args:
        network: crops to what `methods.pgn.ExportNet` packs.
        net: the same network in torch, for what several frames share.
        model: the face model.
        flip: see the mirrored crop, too, and take the mean of both answers.
    """

    def __init__(
        self, network: FrameNetwork, net: PgnNet, model: FaceModel, flip: bool = True
    ) -> None:
        if net.config.pose != "pgn":
            raise ValueError("this network regresses its pose; it has no points to track")
        self.head, self.ids = net.head, net.get_buffer("pose_ids")
        self._net, self._network, self._flip = net, network, flip
        self._reader, self._size = net.point_reader(), net.config.size
        mirror = model.landmark_embeddings[net.head.label_set].mirror
        place = torch.full((len(mirror),), -1).scatter_(0, self.ids, torch.arange(len(self.ids)))
        self._partner = place[mirror[self.ids]]
        self._symmetry = head_symmetry(model)

    @torch.no_grad()
    def __call__(self, image: UInt8[ndarray, "h w 3"], place: Place) -> Reading:
        """What the network says of a square of a frame."""
        crop = crop_square(image, place.center, place.side, self._size)
        pixels = crop.image.rot90(place.turns, (1, 2))[None]
        both = torch.cat((pixels, pixels.flip(3))) if self._flip else pixels
        glimpse = unpacked(torch.from_numpy(self._network(both.numpy())), self._net)
        points = self._reader(glimpse.anchors, glimpse.change)
        log_beta = self._log_beta(glimpse.anchors, glimpse.change)
        expression = glimpse.expression[0]
        if self._flip:
            other = points[1, self._partner] * points.new_tensor([-1.0, 1.0, 1.0])
            points = (points[:1] + other) / 2
            log_beta = (log_beta[:1] + log_beta[1:, self._partner]) / 2
            if self._symmetry is not None:
                partner = torch.from_numpy(self._symmetry.expression_partner)
                expression = (expression + glimpse.expression[1, partner]) / 2
        doubt = float(log_beta[0].mean().exp())
        flat = turned_back(crop_px_from_unit(points[0], crop.size), place.turns, crop.size)
        return Reading(
            crop_to_photo(flat, crop).numpy(),
            log_beta[0].numpy(),
            self._clamped(expression).numpy(),
            glimpse.features.flatten().numpy(),
            1 / (1 + (doubt / ORDINARY_DOUBT) ** 2),
            place,
        )

    @torch.no_grad()
    def identity(self, features: Float[Tensor, "n f"]) -> Float[Tensor, " i"]:
        """The identity behind the features of several frames of one person."""
        person = torch.zeros(len(features), dtype=torch.long)
        if not self._flip:
            return self._net.identity_of(features, person)[0]
        straight, mirrored = features.chunk(2, 1)
        identity = self._net.identity_of(straight, person)[0]
        if self._symmetry is None:
            return identity
        sign = torch.from_numpy(self._symmetry.identity_sign)
        return (identity + sign * self._net.identity_of(mirrored, person)[0]) / 2

    def _log_beta(self, anchors: Tensor, change: Tensor) -> Float[Tensor, "b p"]:
        raw = change[:, 3].flatten(1) @ self._reader.by_cell
        if len(self._reader.by_anchor):
            raw = raw + anchors[..., 3] @ self._reader.by_anchor
        return raw.clamp(*LOG_BETA_RANGE)

    def _clamped(self, expression: Tensor) -> Tensor:
        low, high = self.head.get_buffer("lowest"), self.head.get_buffer("highest")
        return torch.minimum(torch.maximum(expression, low), high)


class DaslReader:
    """Reads faces by 2DASL with its own landmark map; the identity is the mean over frames.

    Args:
        predictor: the network.
        model: the face model.
    """

    def __init__(self, predictor: DaslPredictor, model: FaceModel) -> None:
        self.head, self._predictor = predictor.head, predictor
        rows = self.head.sets68[self.head.scored]
        others = torch.arange(68 * len(self.head.sets68), self.head.landmarks)
        self.ids = torch.cat((torch.arange(rows.start, rows.stop), others))
        self._range = model.expression_range

    @torch.no_grad()
    def __call__(self, image: UInt8[ndarray, "h w 3"], place: Place) -> Reading:
        """What the network says of a square of a frame."""
        crop = crop_square(image, place.center, place.side, self._predictor.config.size)
        labels = self._predictor.predict_crops(crop.image.rot90(place.turns, (1, 2))[None], None, 1)
        matrix = labels.scale[:, None, None] * labels.rotation
        low, high = self.head.get_buffer("lowest"), self.head.get_buffer("highest")
        expression = torch.minimum(torch.maximum(labels.expression, low), high)
        shape = self.head.shape(labels.identity, expression) + self.head.get_buffer("pivot")
        points = project_points(shape[:, self.ids], matrix, labels.shift)[0]
        flat = turned_back(crop_px_from_unit(points, crop.size), place.turns, crop.size)
        side = float(labels.scale[0])
        return Reading(
            crop_to_photo(flat, crop).numpy(),
            np.zeros(len(self.ids), np.float32),
            expression[0].numpy(),
            labels.identity[0].numpy(),
            0.9 if 0.4 < side < 2.0 else 0.2,
            place,
        )

    def identity(self, features: Float[Tensor, "n f"]) -> Float[Tensor, " i"]:
        """The mean identity."""
        return features.mean(0)


def load_reader(
    method: str, weights: Literal["open", "research"], model: FaceModel, *,
    flip: bool = True, threads: int = 0,
) -> FaceReader:  # fmt: skip
    """The reader of a method's shipped network.

    Args:
        method: "pgn" or "dasl".
        weights: licence family.
        model: the face model.
        flip: see `PgnReader`.
        threads: of onnxruntime; 0 lets it choose.

    Raises:
        AssetError: the weights are missing or damaged.
    """
    installed_weights(method, weights, model.name)
    if method == "dasl":
        from lifemask.methods.dasl import load_dasl

        return DaslReader(load_dasl(weights, threads=threads), model)
    from lifemask.methods.pgn import ExportNet, load_pgn

    net = load_pgn(weights, threads=1).net
    name = family_name("pgn", weights)
    network = load_network(name, "onnx", ("crops",), threads, lambda: ExportNet(net))
    return PgnReader(network, net, model, flip)


@torch.no_grad()
def solve_poses(
    reader: FaceReader,
    identity: Float[Tensor, " i"],
    points_px: Float[ndarray, "t p 3"],
    log_beta: Float[ndarray, "t p"],
    expression: Float[ndarray, "t e"],
    batch: int = 512,
) -> Poses:
    """Poses of frames whose identity is known: PGN's closed form, in px of the frame."""
    found: list[Sequence[ndarray]] = []
    for start in range(0, len(points_px), batch):
        part = slice(start, start + batch)
        active = torch.from_numpy(expression[part]).float()
        shape = reader.head.shape(identity.expand(len(active), -1), active)[:, reader.ids]
        pose = solve_pose(
            shape.double(),
            torch.from_numpy(points_px[part]).double(),
            torch.from_numpy(log_beta[part]).double(),
        )
        found.append([x.numpy() for x in pose])
    rotation, scale, shift = (np.concatenate(x) for x in zip(*found, strict=True))
    return Poses(rotation, scale / LENGTH_MM, shift)


def sharpness(image: UInt8[ndarray, "h w 3"], place: Place, size: int = 48) -> float:
    """How sharp a face is: variance of the Laplacian of its grey crop over its contrast."""
    crop = crop_square(image, place.center, 0.8 * place.side, size).image.mean(0)
    inner = crop[1:-1, 1:-1]
    bent = crop[:-2, 1:-1] + crop[2:, 1:-1] + crop[1:-1, :-2] + crop[1:-1, 2:] - 4 * inner
    value = float(bent.var() / (inner.var() + 1e-3))
    return value if math.isfinite(value) else 0.0
