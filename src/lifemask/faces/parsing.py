"""Region classes of a face in a photo: crop, network, and the way back to photo pixels."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from numpy import ndarray
from torch import Tensor, nn
from torch.nn import functional

from lifemask.assets import network_card, weights_folder
from lifemask.facemodel.landmarks import convert
from lifemask.faces.crop import Box, crop_square, square_box
from lifemask.faces.landmarker import face_square, quarter_turns
from lifemask.nn.shipped import Engine, load_network, with_weights
from lifemask.types import REGION_NAMES, Face, Landmarks

log = logging.getLogger(__name__)
Family = Literal["open", "research"]
UNKNOWN = 255  # id of pixels outside the parsed square
GLASSES = "glasses"  # what may be in front of any class
EXPAND = 1.25  # side of the parsed square in units of the landmark square, as in training


@dataclass(frozen=True)
class Regions:
    """Region probabilities on a square of a photo.

    Attributes:
        probabilities: (9, s, s) in [0, 1], sum 1 over the classes of `types.REGION_NAMES`.
        center_px: (u, v) of the square's centre in photo px.
        side_px: side of the square in photo px. A pixel of the maps lies in the photo where a pixel
            of a `types.Crop` with the same numbers lies.
        glasses: (s, s) in [0, 1], probability that a frame of glasses or dark glass is in front,
            whatever the class; None where the parser does not tell.
    """

    probabilities: Float[Tensor, "9 s s"]
    center_px: tuple[float, float]
    side_px: float
    glasses: Float[Tensor, "s s"] | None = None

    @property
    def classes(self) -> UInt8[Tensor, "s s"]:
        """The most probable class (s, s), ids of `types.REGION_NAMES`."""
        return self.probabilities.argmax(0).byte()

    def probability(self, *names: str) -> Float[Tensor, "s s"]:
        """Probability (s, s) that a pixel belongs to one of the named regions.

        "glasses", by itself, is the probability of glasses in front; 0 where they are not told.

        Raises:
            ValueError: an unknown name.
        """
        if names == (GLASSES,):
            none = torch.zeros_like(self.probabilities[0])
            return none if self.glasses is None else self.glasses
        return self.probabilities[_ids(names)].sum(0)

    def mask(self, *names: str) -> Bool[Tensor, "s s"]:
        """Pixels (s, s) whose most probable class is one of the named regions.

        "glasses", by itself: where they are more likely than not.

        Raises:
            ValueError: an unknown name.
        """
        if names == (GLASSES,):
            return self.probability(GLASSES) > 0.5
        ids = torch.tensor(_ids(names), device=self.probabilities.device)
        return torch.isin(self.classes, ids)

    def sample(
        self, points: Float[Tensor, "*n 2"], *names: str, outside: float = float("nan")
    ) -> Float[Tensor, "*n"]:
        """Probability (*n,) of the named regions at photo points, bilinear.

        Args:
            points: (*n, 2) photo px (u, v); what is not finite counts as outside.
            *names: regions, summed, or "glasses".
            outside: value for points outside the parsed square.

        Raises:
            ValueError: an unknown name.
        """
        plane = self.probability(*names)
        place = (points - points.new_tensor(self.center_px)) / (self.side_px / 2)
        inside = (place.abs() <= 1).all(-1)
        grid = place.nan_to_num(2.0).reshape(1, 1, -1, 2).to(plane)
        found = functional.grid_sample(
            plane[None, None], grid, padding_mode="border", align_corners=False
        )
        return torch.where(inside, found.view(inside.shape), outside)

    def seen_in(self, center_px: tuple[float, float], side_px: float, size: int) -> Regions:
        """The same maps, placed in the px of a square crop of the photo (`types.Crop`)."""
        zoom = size / side_px
        moved = [
            (own - other + side_px / 2) * zoom - 0.5
            for own, other in zip(self.center_px, center_px, strict=True)
        ]
        return replace(self, center_px=(moved[0], moved[1]), side_px=self.side_px * zoom)

    def photo_classes(self, height: int, width: int) -> UInt8[Tensor, "h w"]:
        """Class ids (height, width) at every photo pixel, `UNKNOWN` outside the parsed square."""
        size = self.probabilities.shape[-1]
        counts = (torch.arange(n, dtype=torch.float64) for n in (width, height))
        columns, rows = (
            ((i - c + self.side_px / 2) * (size / self.side_px)).floor().long()
            for i, c in zip(counts, self.center_px, strict=True)
        )
        known = ((rows >= 0) & (rows < size))[:, None] & ((columns >= 0) & (columns < size))
        found = self.classes[rows.clamp(0, size - 1)[:, None], columns.clamp(0, size - 1)]
        return torch.where(known, found, UNKNOWN).byte()


class RegionNetwork(Protocol):
    """Crops to class probabilities, whatever runs the network."""

    def __call__(self, crops: Float[ndarray, "b 3 s s"], /) -> Float[ndarray, "b c s s"]:
        """Probabilities of float32 crops in [0, 1]: nine classes, then glasses if told."""
        ...


class Parser:
    """Finds the regions of a face; made by `load_parser`.

    Attributes:
        size: side of the network's input in px.
        tag: licence tag of the weights, "open" or "research".
    """

    def __init__(self, network: RegionNetwork, size: int, tag: str) -> None:
        self._network = network
        self.size = size
        self.tag = tag

    def __call__(
        self,
        image: UInt8[ndarray, "h w 3"],
        face: Face | Landmarks | Box,
        expand: float = EXPAND,
        flip_average: bool = True,
    ) -> Regions:
        """Regions of one face.

        Args:
            image: photo, (H, W, 3) uint8 RGB.
            face: landmarks of the face (best: a face that lies on its side is turned upright for
                the network), a detected face, or the landmark square as a box in photo px.
            expand: side of the parsed square in landmark squares; training covers 0.95 to 1.45.
            flip_average: average with the maps of the mirrored crop (twice the time, and better by
                nearly a point of mean IoU).

        Returns:
            Probabilities on the parsed square, upright as the photo is.

        Raises:
            ValueError: a square without extent, or landmarks of another set than "lifemask392" and
                the iBUG-68 ones.
        """
        (center, side), turns = _square(face)
        crop = crop_square(image, center, side * expand, self.size)
        found = self.predict_crops(crop.image.rot90(turns, (1, 2))[None], flip_average)[0]
        upright = found.rot90(-turns, (1, 2)).contiguous()
        classes = len(REGION_NAMES)
        glasses = upright[classes] if len(upright) > classes else None
        return Regions(upright[:classes], crop.center_px, crop.side_px, glasses)

    def predict_crops(
        self, crops: Float[Tensor, "b 3 s s"], flip_average: bool = False
    ) -> Float[Tensor, "b c s s"]:
        """Probabilities (b, c, size, size) of crops in sRGB [0, 1]; no class has a side.

        The first nine are the classes', which sum to 1; a tenth is that of glasses, if the network
        tells them.

        Raises:
            ValueError: crops of another size than the network's.
        """
        if crops.shape[1:] != (3, self.size, self.size):
            size = f"(b, 3, {self.size}, {self.size})"
            raise ValueError(f"crops must be {size}, got {tuple(crops.shape)}")
        if flip_average:
            both = self.predict_crops(torch.cat((crops, crops.flip(-1))))
            straight, mirrored = both.chunk(2)
            return (straight + mirrored.flip(-1)) / 2
        pixels = np.ascontiguousarray(crops.cpu().float().numpy())
        return torch.from_numpy(self._network(pixels))


def load_parser(family: Family = "open", engine: Engine = "onnx", threads: int = 1) -> Parser:
    """The shipped parser.

    Args:
        family: "open" was trained on renders only; "research" also on FaceSynthetics and renders
            with textures of photos whose terms allow research only.
        engine: "onnx" (onnxruntime) or "torch".
        threads: of onnxruntime; 0 lets it choose.

    Raises:
        AssetError: the weights are missing or damaged.
        ValueError: an unknown family or engine.
    """
    if family not in ("open", "research"):
        raise ValueError(f"unknown family {family!r}; valid: open, research")
    name = f"parser-{family}"
    card = network_card(name)
    network = load_network(name, engine, ("crops",), threads, lambda: _module(name, card))
    return Parser(network, int(card["size"]), family)


def find_parser(family: Family, engine: Engine, threads: int) -> Parser | None:
    """The shipped parser; None where its weights are not installed."""
    suffix = "onnx" if engine == "onnx" else "safetensors"
    if not (weights_folder() / f"parser-{family}.{suffix}").is_file():
        log.info("no weights of a parser: what hides the face is told by its colours alone")
        return None
    return load_parser(family, engine, threads)


def _square(face: Face | Landmarks | Box) -> tuple[tuple[tuple[float, float], float], int]:
    """((centre, side) of the landmark square, quarter turns that bring the face upright)."""
    if isinstance(face, Landmarks):
        points = face.points
        if face.convention == "lifemask392":
            points = convert(points, face.convention, "ibug68-3d-bfm")
        if len(points) != 68:
            raise ValueError(f"regions need 68 landmarks or lifemask392, not {face.convention}")
        eyes = torch.stack((points[36:42].mean(0), points[42:48].mean(0)))
        five = torch.cat((eyes, points[[30, 48, 54]]))[:, :2]
        return square_box(points), quarter_turns(five)
    if isinstance(face, Face):
        turns = 0 if face.points5 is None else quarter_turns(face.points5)
        return face_square(face.box, turns), turns
    x0, y0, x1, y1 = face
    return (((x0 + x1) / 2, (y0 + y1) / 2), max(x1 - x0, y1 - y0)), 0


def _ids(names: tuple[str, ...]) -> list[int]:
    unknown = [name for name in names if name not in REGION_NAMES]
    if unknown:
        valid = f"{', '.join(REGION_NAMES)}, or {GLASSES} alone"
        raise ValueError(f"unknown region {unknown[0]!r}; valid: {valid}")
    return [REGION_NAMES.index(name) for name in names]


def _module(name: str, card: dict[str, Any]) -> nn.Module:
    from lifemask.nn.unet import RegionExport, SmoothUNet, config_from_dict

    return RegionExport(with_weights(SmoothUNet(config_from_dict(card)), name))
