"""Mouths from close up: how far the lips are apart, from a photo's own pixels.

In a face crop of 128 px the gap of slightly parted lips is a pixel or two, and methods make closed
mouths of open ones and the other way round. Here the mouth is cut out upright at 96 x 72 px and
read by a small network.
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
from lifemask.nn.mouth_net import MouthExport, MouthNet
from lifemask.nn.shipped import Engine, described, load_network, with_weights

WIDTH, HEIGHT = 96, 72
"""Columns and rows of a mouth's crop."""
ACROSS_MM = 84.0
"""Width of the crop on a head of average size; a mouth is about 50 mm wide."""
NAME = "mouth-open"
MOUTH = slice(48, 68)
"""Points of a set of 68 of the mouth: the outer edge of the lips, then the inner one."""
GAPS = (61, 67), (62, 66), (63, 65)
"""Points of a set of 68 on the inner edges of the upper and the lower lip that face each other."""
MIDDLE = (48, 54, 62, 66)
"""Points whose mean is the middle of the crop."""
BLUR_PX, MOUTH_MM = 2.0, 50.0
"""A gap is not known better than this many px of the photo; the width that it is compared with."""


@dataclass(frozen=True)
class MouthReading:
    """What the crop of a face's mouth says.

    Attributes:
        opening: (*t) `mouth_opening`: below 0.05 shut, about 0.15 a smile with teeth, up to 0.8;
            *t: of frames, or none.
        sigma: (*t) standard deviation.
    """

    opening: Float[np.ndarray, "*t"]
    sigma: Float[np.ndarray, "*t"]

    @classmethod
    def of_rows(cls, rows: Float[np.ndarray, "t 2"]) -> MouthReading:
        """Of many frames, from the fields of each frame's reading one after the other."""
        return cls(rows[:, 0], rows[:, 1])


class MouthNetwork(Protocol):
    """Crops and directions to raw numbers, whatever runs the network; see `nn.mouth_net`."""

    def __call__(
        self, crops: Float[np.ndarray, "b 3 h w"], directions: Float[np.ndarray, "b 3"], /
    ) -> Float[np.ndarray, "b 2"]:
        """(opening, standard deviation) of float32 crops in [0, 1]."""
        ...


def mouth_opening(points: Float[Tensor, "*b 68 d"]) -> Float[Tensor, "*b"]:
    """Mean distance of the lips' inner edges over the width of the mouth.

    Args:
        points: "ict68" in any frame; in three dimensions the value does not depend on the pose.
    """
    gaps = [(points[..., a, :] - points[..., b, :]).norm(dim=-1) for a, b in GAPS]
    width = (points[..., 48, :] - points[..., 54, :]).norm(dim=-1)
    return torch.stack(gaps).mean(0) / width.clamp_min(1e-6)


def mouth_place(points_px: Float[Tensor, "68 3"], template_mm: Float[Tensor, "s 3"]) -> Place:
    """Where the mouth of a face lies.

    Args:
        points_px: a set of 68 in photo px, (u, v, w).
        template_mm: `STABLE` points of a head of average shape, model frame.

    Raises:
        ValueError: points that are not finite.
    """
    points = finite_points(points_px)
    rotation, scale = rough_pose(points, template_mm.double().numpy())
    return place_at(points[list(MIDDLE), :2].mean(0), rotation, scale)


def cut_mouth(
    image: UInt8[np.ndarray, "h w 3"], place: Place, margin: float = 1.0, size: int = WIDTH
) -> UInt8[np.ndarray, "r c 3"]:
    """The crop of a mouth, upright.

    Args:
        image: photo, (H, W, 3) uint8 RGB.
        place: of the mouth.
        margin: width shown, in `ACROSS_MM`.
        size: columns; the rows are three quarters of them.
    """
    return cut_upright(image, place, margin * ACROSS_MM, size, size * HEIGHT // WIDTH)


class MouthReader:
    """Reads a face's mouth; made by `load_mouth`.

    Args:
        network: crops to numbers.
        template_mm: (s, 3) `STABLE` points of the head that the crops were framed by.
    """

    def __init__(self, network: MouthNetwork, template_mm: Float[Tensor, "s 3"]) -> None:
        self.network = network
        self.template_mm = template_mm

    def __call__(
        self, image: UInt8[np.ndarray, "h w 3"], points_px: Float[Tensor, "68 3"]
    ) -> MouthReading:
        """The mouth of a face.

        Args:
            image: photo, (H, W, 3) uint8 RGB.
            points_px: a set of 68 of the face in photo px, (u, v, w).

        Raises:
            ValueError: points that are not finite.
        """
        place = mouth_place(points_px, self.template_mm)
        crop = cut_mouth(image, place).transpose(2, 0, 1)[None].astype(np.float32) / 255
        direction = np.array([place.direction], np.float32)
        opening, sigma = self.network(crop, direction)[0].astype(np.float64)
        blur = BLUR_PX / max(place.px_per_mm * MOUTH_MM, 1e-6)
        return MouthReading(np.array(opening), np.array(np.hypot(sigma, blur)))


def load_mouth(engine: Engine = "onnx", threads: int = 1) -> MouthReader:
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
    return MouthReader(network, template)


def _module(config: CloseupConfig) -> nn.Module:
    return MouthExport(with_weights(MouthNet(config), NAME))
