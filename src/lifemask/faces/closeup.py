"""Upright close-ups of parts of a face, cut from the photo's own pixels.

A face crop of 112 or 128 px shows an eye in a dozen pixels and the gap of the lips in two or three.
What is read of them is read from the photo itself, at a size that does not depend on the photo's.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from lifemask.faces.crop import crop_square
from lifemask.nn.closeup_net import CloseupConfig, config_from_dict

STABLE = (*range(27, 36), 36, 39, 42, 45)
"""Points of the nose and corners of the eyes, which no expression moves far: they tell the pose.
All sets of 68 points of the default head have them in common."""


@dataclass(frozen=True)
class Place:
    """Where a part of a face lies in a photo.

    Attributes:
        center_px: (u, v) of its middle.
        px_per_mm: photo px per mm of the head.
        up: (2,) unit, image direction (u, v) of the head's up.
        mirror: its close-up is mirrored.
        direction: (3,) unit, towards the camera in the head's frame, mirrored alike.
    """

    center_px: tuple[float, float]
    px_per_mm: float
    up: tuple[float, float]
    mirror: bool
    direction: tuple[float, float, float]


def template_and_sizes(card: dict[str, Any]) -> tuple[Float[Tensor, "s 3"], CloseupConfig]:
    """The head that a network's close-ups were framed by, and its sizes, as its card has them."""
    return torch.tensor(card["template_mm"]).reshape(len(STABLE), 3), config_from_dict(card)


def place_at(
    center_px: Float[np.ndarray, "2"],
    rotation: Float[np.ndarray, "3 3"],
    px_per_mm: float,
    mirror: bool = False,
) -> Place:
    """A place of a head with this rotation (model frame to camera frame)."""
    up = np.array([rotation[0, 1], -rotation[1, 1]])
    length = float(np.linalg.norm(up))
    up = up / length if length > 1e-3 else np.array([0.0, -1.0])
    x, y, z = (float(v) for v in rotation[2])
    return Place(
        (float(center_px[0]), float(center_px[1])),
        px_per_mm,
        (float(up[0]), float(up[1])),
        mirror,
        (-x if mirror else x, y, z),
    )


def finite_points(points_px: Any) -> Float[np.ndarray, "68 3"]:
    """A set of 68 as an array.

    Raises:
        ValueError: points that are not finite.
    """
    points = points_px.detach().cpu().double().numpy()
    if not np.isfinite(points).all():
        raise ValueError("landmarks of a close-up must be finite")
    return points


def rough_pose(
    points_px: Float[np.ndarray, "68 3"], template_mm: Float[np.ndarray, "s 3"]
) -> tuple[Float[np.ndarray, "3 3"], float]:
    """Rotation and px per mm that bring a template closest to the `STABLE` points of a face.

    What `graphics.pose.procrustes_camera` gives, without what a batch and gradients cost: this is
    asked for every frame of a clip. Source: Umeyama, PAMI 1991.

    Args:
        points_px: a set of 68 in photo px, (u, v, w).
        template_mm: `STABLE` points of a head of average shape, model frame.
    """
    stable = points_px[list(STABLE)]
    model = template_mm - template_mm.mean(0)
    seen = (stable - stable.mean(0)) * [1, -1, 1]
    left, values, right = np.linalg.svd(model.T @ seen)
    sign = np.array([1.0, 1.0, np.sign(np.linalg.det(left @ right))])
    return (right.T * sign) @ left.T, float((values * sign).sum() / (model**2).sum())


def cut_upright(
    image: UInt8[np.ndarray, "h w 3"], place: Place, across_mm: float, columns: int, rows: int
) -> UInt8[np.ndarray, "r c 3"]:
    """The close-up of a place, antialiased; the border colour continues outside the photo.

    Args:
        image: photo, (H, W, 3) uint8 RGB.
        place: its middle becomes the close-up's.
        across_mm: width shown, on a head of average size.
        columns: of the close-up.
        rows: of the close-up.
    """
    from PIL import Image

    width_px = across_mm * place.px_per_mm
    side = 1.3 * width_px
    taken = max(8, min(math.ceil(side), math.ceil(1.3 * columns * 1.4)))
    patch = (crop_square(image, place.center_px, side, taken).image * 255).round().byte()
    # from a place in the close-up to one in the patch, both counted from the corner of a pixel
    step = width_px / columns * taken / side
    up = np.array(place.up)
    right = np.array([-up[1], up[0]]) * (-1.0 if place.mirror else 1.0)
    across, down = right * step, -up * step
    start = taken / 2 - across * columns / 2 - down * rows / 2
    data = (across[0], down[0], start[0], across[1], down[1], start[1])
    picture = Image.fromarray(patch.permute(1, 2, 0).numpy())
    turned = picture.transform(
        (columns, rows), Image.Transform.AFFINE, data, Image.Resampling.BICUBIC
    )
    return np.asarray(turned)
