"""Dense 3D landmarks of a face in a photo: crop, network, back to photo pixels."""

from __future__ import annotations

from typing import Any, Literal, Protocol

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from lifemask.assets import network_card
from lifemask.facemodel.landmarks import flip_table
from lifemask.faces.crop import Box, crop_square, crop_to_photo, square_box
from lifemask.nn.shipped import Engine, load_network, with_weights
from lifemask.types import Crop, Face, Landmarks

CONVENTION = "lifemask392"
SQUARE_SET = slice(68, 136)  # "ibug68-3d-bfm" inside "lifemask392": the crop is made from these

# From a CenterFace box to the landmark square: medians over 148 AFLW and YouTube-Faces training
# photos (spread 0.13 and 0.03; docs/landmarker.md): side in longer box sides, and the centre's
# shift downwards in squares.
DETECTOR_EXPAND = 1.2
DETECTOR_DROP = 0.09


class CropNetwork(Protocol):
    """Crops to landmarks in crop pixels, whatever runs the network."""

    def __call__(self, crops: Float[np.ndarray, "b 3 s s"], /) -> Float[np.ndarray, "b n 4"]:
        """(u, v, w, sigma) in crop px of float32 crops in [0, 1]."""
        ...


class Landmarker:
    """Finds the 392 landmarks of a face; made by `load_landmarker`.

    Attributes:
        size: side of the network's input in px.
        tag: licence tag of the weights, "open" or "research".
    """

    def __init__(self, network: CropNetwork, size: int, tag: str) -> None:
        self._network = network
        self.size = size
        self.tag = tag
        self._flip = flip_table(CONVENTION)

    def __call__(
        self,
        image: UInt8[np.ndarray, "h w 3"],
        face: Face | Box,
        passes: int | None = None,
        flip_average: bool = False,
    ) -> Landmarks:
        """Landmarks of one face in photo px.

        Args:
            image: photo, (H, W, 3) uint8 RGB.
            face: a detected face, or the landmark square itself as a box (x0, y0, x1, y1) in
                photo px, as `faces.crop.square_box` defines it and benchmarks hand it out. A face
                that lies on its side or stands on its head, by its five points, is turned upright
                by quarter turns first.
            passes: number of crops; from the second on the square comes from the landmarks of
                the pass before. None: 2 for a detected face, 1 for a given square.
            flip_average: average with the landmarks of the mirrored crop (twice the time).

        Returns:
            (392, 3) "lifemask392" landmarks with the standard deviation of each.

        Raises:
            ValueError: passes < 1, or a box without extent.
        """
        detected = isinstance(face, Face)
        passes = (2 if detected else 1) if passes is None else passes
        if passes < 1:
            raise ValueError(f"passes must be at least 1, got {passes}")
        turns = quarter_turns(face.points5) if detected and face.points5 is not None else 0
        square = face_square(face.box, turns) if detected else _box_square(face)
        for _ in range(passes):
            crop = crop_square(image, *square, self.size)
            points = self.predict_crop(crop.image.rot90(turns, (1, 2)), flip_average)
            landmarks = _to_photo(turned_back(points, turns, self.size), crop)
            square = square_box(landmarks.points[SQUARE_SET])
        return landmarks

    def predict_crop(
        self, crop: Float[Tensor, "3 s s"], flip_average: bool = False
    ) -> Float[Tensor, "n 4"]:
        """(u, v, w, sigma) (392, 4) in crop px of one crop in [0, 1]."""
        if not flip_average:
            return self.predict_crops(crop[None])[0]
        straight, mirrored = self.predict_crops(torch.stack((crop, crop.flip(-1))))
        mirrored = mirrored[self._flip].clone()
        mirrored[:, 0] = self.size - 1 - mirrored[:, 0]
        return (straight + mirrored) / 2

    def predict_crops(self, crops: Float[Tensor, "b 3 s s"]) -> Float[Tensor, "b n 4"]:
        """(u, v, w, sigma) (b, 392, 4) in crop px of landmark squares in [0, 1].

        Raises:
            ValueError: crops of another size than the network's.
        """
        if crops.shape[1:] != (3, self.size, self.size):
            size = f"(b, 3, {self.size}, {self.size})"
            raise ValueError(f"crops must be {size}, got {tuple(crops.shape)}")
        return torch.from_numpy(self._network(crops.cpu().float().numpy()))


def load_landmarker(
    weights: Literal["open", "research"] = "open", engine: Engine = "onnx", threads: int = 1
) -> Landmarker:
    """The shipped landmarker.

    Args:
        weights: "open" was trained on synthetic heads only; "research" also on photos whose
            terms allow research only.
        engine: "onnx" (onnxruntime) or "torch" (several times slower for one face).
        threads: of the engine; 0 lets it choose.

    Raises:
        AssetError: the weights are missing or damaged.
        ValueError: an unknown family or engine.
    """
    if weights not in ("open", "research"):
        raise ValueError(f"unknown weights {weights!r}; valid: open, research")
    name = f"landmarker-{weights}"
    card = network_card(name)
    network = load_network(name, engine, ("crops",), threads, lambda: _module(name, card))
    return Landmarker(network, int(card["size"]), weights)


def face_square(box: Box, turns: int = 0) -> tuple[tuple[float, float], float]:
    """Where the landmark square probably is, (centre, side) in photo px, from a detector's box.

    `turns`: the quarter turns that bring the face upright, see `quarter_turns`.
    """
    x0, y0, x1, y1 = box
    side = DETECTOR_EXPAND * max(x1 - x0, y1 - y0)
    down_u, down_v = ((0, 1), (-1, 0), (0, -1), (1, 0))[turns]
    drop = DETECTOR_DROP * side
    return ((x0 + x1) / 2 + down_u * drop, (y0 + y1) / 2 + down_v * drop), side


def quarter_turns(points5: Float[Tensor, "5 2"]) -> int:
    """Counter-clockwise quarter turns (0-3) that bring a face closest to upright.

    Args:
        points5: eyes, nose, mouth corners in px, as `types.Face` has them.
    """
    up = points5[:2].mean(0) - points5[3:].mean(0)
    angle = torch.atan2(up[0], -up[1])
    return int(torch.round(angle / (torch.pi / 2))) % 4


def turned_back(points: Float[Tensor, "n c"], turns: int, size: int) -> Float[Tensor, "n c"]:
    """Points (u, v, ...) of a crop that was turned by `rot90(turns)`, in px of the crop before."""
    for _ in range(turns):
        points = torch.cat((size - 1 - points[:, 1:2], points[:, :1], points[:, 2:]), -1)
    return points


def _box_square(box: Box) -> tuple[tuple[float, float], float]:
    x0, y0, x1, y1 = box
    return ((x0 + x1) / 2, (y0 + y1) / 2), max(x1 - x0, y1 - y0)


def _to_photo(points: Float[Tensor, "n 4"], crop: Crop) -> Landmarks:
    sigma = points[:, 3] * (crop.side_px / crop.size)
    return Landmarks(crop_to_photo(points[:, :3], crop), sigma, CONVENTION)


def _module(name: str, card: dict[str, Any]) -> nn.Module:
    from lifemask.nn.landmark_net import ExportNet, LandmarkNet, config_from_dict

    return ExportNet(with_weights(LandmarkNet(config_from_dict(card)), name))
