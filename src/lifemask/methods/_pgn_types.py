"""What travels between the data, the network and the losses of PGN.

Lengths are half-crops: `(crop px + 0.5) / (size / 2) - 1`, u right, v down, 0 at the crop's centre.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lifemask.methods._targets import SourceRows


@dataclass(frozen=True)
class CropCamera:
    """The true cameras of rendered crops, perspective or not, and what the crop does to the image.

    `u, v = image (zoom x / d, -zoom y / d) + center` with `(x, y, z) = R X + T`, `d = -z` of a
    pinhole and 1 of an orthographic camera; `w = nearness (R X) . toward`.

    Attributes:
        rotation: (b, 3, 3) model frame to camera frame.
        translation_mm: (b, 3).
        zoom: (b,) focal length, or px per mm, of the image that was rendered.
        pinhole: (b,).
        image: (b, 2, 2) from offsets in that image to half-crops.
        center: (b, 2) principal point, or where the model's origin appears, half-crops.
        nearness: (b,) half-crops per mm.
        toward: (b, 3) unit vectors from the face to the camera, camera frame.
    """

    rotation: Float[Tensor, "b 3 3"]
    translation_mm: Float[Tensor, "b 3"]
    zoom: Float[Tensor, "b"]
    pinhole: Bool[Tensor, "b"]
    image: Float[Tensor, "b 2 2"]
    center: Float[Tensor, "b 2"]
    nearness: Float[Tensor, "b"]
    toward: Float[Tensor, "b 3"]

    def project(self, points_mm: Float[Tensor, "b n 3"]) -> Float[Tensor, "b n 3"]:
        """(u, v, w) in half-crops of points in the model frame."""
        turned = points_mm @ self.rotation.transpose(1, 2)
        placed = turned + self.translation_mm[:, None]
        depth = torch.where(self.pinhole[:, None], -placed[..., 2], 1.0)
        flat = placed[..., :2] * placed.new_tensor([1.0, -1.0])
        flat = flat * (self.zoom[:, None] / depth)[..., None]
        image = flat @ self.image.transpose(1, 2) + self.center[:, None]
        near = turned @ (self.nearness[:, None] * self.toward)[..., None]
        return torch.cat((image, near), -1)


@dataclass(frozen=True)
class PgnBatch:
    """A batch of PGN.

    Attributes:
        crops: (b, 3, s, s) sRGB in [0, 1], channels last in memory.
        person: (b,) whose frame each is, numbered from 0; a person's frames stand together.
        targets: one entry per source; together they cover all rows.
        cameras: true cameras of the labelled rows, in the order of `targets`.
        pairs: (p, 2) rows of two frames of one person, for the terms that compare frames.
    """

    crops: Float[Tensor, "b 3 s s"]
    person: Int[Tensor, "b"]
    targets: list[SourceRows]
    cameras: list[CropCamera]
    pairs: Int[Tensor, "p 2"]
