"""Eyes from close up: how far their lids are open and where they look, from a photo's own pixels.

A face crop of 112 px shows an eye in a dozen pixels, too few to tell a shut lid from an open one.
Here each eye is cut out upright at 64 x 48 px, the subject's left one mirrored, and read by a small
network; eyes that are hard to see take from the other one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from lifemask.faces.closeup import (
    Place,
    cut_upright,
    finite_points,
    place_at,
    rough_pose,
    template_and_sizes,
)
from lifemask.nn.closeup_net import CloseupConfig
from lifemask.nn.eye_net import EyeExport, EyeNet
from lifemask.nn.shipped import Engine, described, load_network, with_weights

WIDTH, HEIGHT = 64, 48
"""Columns and rows of an eye's crop."""
ACROSS_MM = 44.0
"""Width of the crop on a head of average size; an eye is about 30 mm wide."""
NAME = "eyes-open"
LIDS = (slice(42, 48), slice(36, 42))
"""Points of a set of 68 of the eye at +x and of the eye at -x: six each, from corner to corner."""
TOGETHER_OPENING, TOGETHER_DEG = 0.035, 4.0
"""Standard deviation of the difference between both eyes' opening, and of their pitch and yaw."""


@dataclass(frozen=True)
class EyeReading:
    """What the crops of a face's two eyes say; the eye at +x first, then the eye at -x.

    Attributes:
        opening: (*t, 2) `lid_opening`: about 0.3 open, below 0.1 shut; *t: of frames, or none.
        gaze_deg: (*t, 2, 2) pitch (up is positive) and yaw (towards +x) in the head's frame.
        opening_sigma: (*t, 2) standard deviation.
        gaze_sigma_deg: (*t, 2, 2) standard deviation.
    """

    opening: Float[np.ndarray, "*t 2"]
    gaze_deg: Float[np.ndarray, "*t 2 2"]
    opening_sigma: Float[np.ndarray, "*t 2"]
    gaze_sigma_deg: Float[np.ndarray, "*t 2 2"]

    @classmethod
    def of_rows(cls, rows: Float[np.ndarray, "t 12"]) -> EyeReading:
        """Of many frames, from the fields of each frame's reading one after the other."""
        opening, gaze, opening_sigma, gaze_sigma = np.split(rows, [2, 6, 8], axis=1)
        return cls(opening, gaze.reshape(-1, 2, 2), opening_sigma, gaze_sigma.reshape(-1, 2, 2))


class EyeNetwork(Protocol):
    """Crops and directions to raw numbers, whatever runs the network; see `nn.eye_net`."""

    def __call__(
        self, crops: Float[np.ndarray, "b 3 h w"], directions: Float[np.ndarray, "b 3"], /
    ) -> Float[np.ndarray, "b 6"]:
        """(opening, pitch, yaw, and their standard deviations) of float32 crops in [0, 1]."""
        ...


def lid_opening(points: Float[Tensor, "*b 68 d"]) -> Float[Tensor, "*b 2"]:
    """Distance of the lids over the width of the eye, of the eye at +x and of the one at -x.

    Args:
        points: "ict68" in any frame; in three dimensions the value does not depend on the pose.

    Source: Soukupova and Cech, "Real-time eye blink detection using facial landmarks", 2016.
    """
    each = []
    for part in LIDS:
        a, b, c, d, e, f = points[..., part, :].unbind(-2)
        height = (b - f).norm(dim=-1) + (c - e).norm(dim=-1)
        each.append(height / (2 * (a - d).norm(dim=-1)).clamp_min(1e-6))
    return torch.stack(each, -1)


def eye_places(
    points_px: Float[Tensor, "68 3"], template_mm: Float[Tensor, "s 3"]
) -> tuple[Place, Place]:
    """Where both eyes of a face lie: the one at +x, whose crop is mirrored, then the other one.

    Args:
        points_px: a set of 68 in photo px, (u, v, w).
        template_mm: `STABLE` points of a head of average shape, model frame.

    Raises:
        ValueError: points that are not finite.
    """
    points = finite_points(points_px)
    rotation, scale = rough_pose(points, template_mm.double().numpy())
    first, second = (
        place_at(points[part][[0, 3], :2].mean(0), rotation, scale, mirror)
        for part, mirror in zip(LIDS, (True, False), strict=True)
    )
    return first, second


def cut_eye(
    image: UInt8[np.ndarray, "h w 3"], place: Place, margin: float = 1.0, size: int = WIDTH
) -> UInt8[np.ndarray, "r c 3"]:
    """The crop of an eye, upright.

    Args:
        image: photo, (H, W, 3) uint8 RGB.
        place: of the eye.
        margin: width shown, in `ACROSS_MM`.
        size: columns; the rows are three quarters of them.
    """
    return cut_upright(image, place, margin * ACROSS_MM, size, size * HEIGHT // WIDTH)


class EyeReader:
    """Reads a face's eyes; made by `load_eyes`.

    Args:
        network: crops to numbers.
        template_mm: (s, 3) `STABLE` points of the head that the crops were framed by.
    """

    def __init__(self, network: EyeNetwork, template_mm: Float[Tensor, "s 3"]) -> None:
        self.network = network
        self.template_mm = template_mm

    def __call__(
        self, image: UInt8[np.ndarray, "h w 3"], points_px: Float[Tensor, "68 3"]
    ) -> EyeReading:
        """The eyes of a face.

        Args:
            image: photo, (H, W, 3) uint8 RGB.
            points_px: a set of 68 of the face in photo px, (u, v, w).

        Raises:
            ValueError: points that are not finite.
        """
        places = eye_places(points_px, self.template_mm)
        crops = np.stack([cut_eye(image, place) for place in places])
        pixels = crops.transpose(0, 3, 1, 2).astype(np.float32) / 255
        directions = np.array([place.direction for place in places], np.float32)
        return together(self.network(pixels, directions))


def together(raw: Float[np.ndarray, "2 6"]) -> EyeReading:
    """The network's numbers of both eyes as one reading: a doubtful eye follows the other one.

    Each eye's value is its own, weighed by its certainty, and the other eye's, which is as certain
    as that eye and as alike as eyes are (`TOGETHER_OPENING`, `TOGETHER_DEG`); or less, where two
    sure eyes are further apart than that: a wink.

    Args:
        raw: of the eye at +x, mirrored, and of the eye at -x.
    """
    raw = raw.astype(np.float64)
    value, sigma = raw[:, :3].copy(), raw[:, 3:]
    value[0, 2] *= -1  # the mirrored eye looks the other way
    apart = np.array([TOGETHER_OPENING, TOGETHER_DEG, TOGETHER_DEG])
    wink = (value[0] - value[1]) ** 2 - (sigma**2).sum(0)
    own, other = sigma**-2, 1 / (sigma[::-1] ** 2 + np.maximum(apart**2, wink))
    joint = (own * value + other * value[::-1]) / (own + other)
    spread = (own + other) ** -0.5
    return EyeReading(joint[:, 0], joint[:, 1:], spread[:, 0], spread[:, 1:])


def load_eyes(engine: Engine = "onnx", threads: int = 1) -> EyeReader:
    """The shipped reader; it learned from CC0 sources alone and serves both families.

    Args:
        engine: "onnx" (onnxruntime) or "torch".
        threads: of the engine; 0 lets it choose.

    Raises:
        AssetError: the weights are missing or damaged.
        ValueError: an unknown engine.
    """
    template, config = described(NAME, template_and_sizes)
    inputs = ("crops", "directions")
    network = load_network(NAME, engine, inputs, threads, lambda: _module(config))
    return EyeReader(network, template)


def _module(config: CloseupConfig) -> nn.Module:
    return EyeExport(with_weights(EyeNet(config), NAME))
