"""Whether onnxruntime and torch say the same of the same photo, network by network.

`engine_differences` gives every shipped network of a family the crops that it would get of a photo,
with both engines and in batches of several sizes, and tells the largest differences in the units of
the outputs. Exported graphs can be right for one size of batch only, or for random inputs only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from lifemask.facemodel import load_face_model
from lifemask.faces.crop import Box, crop_square
from lifemask.faces.eyes import cut_eye, eye_places, load_eyes
from lifemask.faces.landmarker import load_landmarker
from lifemask.faces.mouth import cut_mouth, load_mouth, mouth_place
from lifemask.faces.parsing import EXPAND, load_parser
from lifemask.graphics.camera import project
from lifemask.graphics.lighting import linear_to_srgb
from lifemask.methods._rafare_view import SQUARE_SET, create_view, cut_crop, guide_of
from lifemask.methods._targets import HeadLabels
from lifemask.methods.dasl import load_dasl
from lifemask.methods.pgn import PgnPredictConfig, load_pgn
from lifemask.methods.rafare import crop_regions, load_rafare
from lifemask.methods.retexture import RetextureInput, load_retexturer
from lifemask.nn.sdf import View
from lifemask.nn.shipped import ENGINES
from lifemask.types import Geometry, Landmarks

Family = Literal["open", "research"]
BATCHES = (1, 2, 5)
TOLERANCES: dict[str, dict[str, float]] = {
    "landmarker": {"crop px": 0.01},
    "eyes": {"opening": 1e-3, "degrees": 0.05},
    "mouth": {"opening": 1e-3},
    "parser": {"probability": 1e-3},
    "dasl": {"degrees": 0.02, "mm": 0.02},
    "pgn": {"degrees": 0.02, "mm": 0.02},
    "retexture": {"albedo levels of 255": 0.1, "light, %": 0.1},
    "rafare": {"distance mm": 0.005, "fine mm": 0.005, "degrees": 0.3},
}
"""What the engines may differ by, by network and unit."""
POINTS = 4096
"""Points of the cube at which RAFaRe's fields are compared."""


@dataclass(frozen=True)
class EngineDifference:
    """How far apart the engines are for one output of a network.

    Attributes:
        network: e.g. "pgn".
        unit: of the output; a key of `TOLERANCES[network]`.
        value: largest difference over all batches.
    """

    network: str
    unit: str
    value: float

    @property
    def tolerance(self) -> float:
        """What is allowed."""
        return TOLERANCES[self.network][self.unit]


class EngineCase:
    """A photo with a face, and what the networks of a family get of it.

    Args:
        image: photo, (h, w, 3) uint8 RGB.
        square: the face's landmark square in photo px.
        family: of the weights.
    """

    def __init__(
        self, image: UInt8[np.ndarray, "h w 3"], square: Box, family: Family = "open"
    ) -> None:
        self.image, self.square = image, square
        self.family: Family = family
        self.model = load_face_model()

    def crops(self, size: int, expand: float = 1.0) -> Float[Tensor, "b 3 s s"]:
        """As many different crops about the face as the largest batch has."""
        x0, y0, x1, y1 = self.square
        side = (x1 - x0) * expand
        cut = [
            crop_square(
                self.image,
                ((x0 + x1) / 2 + 0.04 * k * side, (y0 + y1) / 2 - 0.03 * k * side),
                side * (1 + 0.1 * k),
                size,
            ).image
            for k in range(max(BATCHES))
        ]
        return torch.stack(cut)

    @cached_property
    def geometry(self) -> Geometry:
        """The head by PGN."""
        return load_pgn(self.family)(self.image, self.square)

    @cached_property
    def texture_input(self) -> RetextureInput:
        """What retexture's network gets: the head's map, and the same moved sideways."""
        pixels = torch.from_numpy(self.image).permute(2, 0, 1).float() / 255
        dresser = load_retexturer(self.family, self.model, threads=1)
        seen, _ = dresser.explain(pixels, self.geometry)
        turns = (seen, *(RetextureInput(*(x.roll(9 * k, -1) for x in seen)) for k in range(1, 5)))
        return RetextureInput(*(torch.cat(parts) for parts in zip(*turns, strict=True)))

    def surface_input(self, size: int) -> tuple[View, float]:
        """What RAFaRe's networks get, and half the crop's side in mm."""
        crop = cut_crop(self.image, self.geometry, self.model, size)
        guide, _ = guide_of(self.geometry, self.model, crop)
        points = self.model.landmarks(self.geometry.vertices_mm, SQUARE_SET)
        points = project(points, self.geometry.camera)
        found = Landmarks(points, torch.ones(len(points)), SQUARE_SET)
        regions = crop_regions(crop, load_parser(self.family)(self.image, found), guide)
        view = create_view(crop.image[None], regions[None], guide.depth[None], guide.normals[None])
        return view, float(crop.side_px / 2 / self.geometry.camera.scale)


@torch.no_grad()
def engine_differences(case: EngineCase) -> Iterator[EngineDifference]:
    """The largest differences between the engines, output by output."""
    for compare in (_landmarker, _eyes, _mouth, _parser, _dasl, _pgn, _retexture, _rafare):
        name = compare.__name__.removeprefix("_")
        for unit, value in compare(case).items():
            yield EngineDifference(name, unit, value)


def _landmarker(case: EngineCase) -> dict[str, float]:
    both = [load_landmarker(case.family, engine) for engine in ENGINES]
    crops = case.crops(both[0].size)
    return {"crop px": _worst(both, lambda one, n: one.predict_crops(crops[:n]), _apart)}


def _eyes(case: EngineCase) -> dict[str, float]:
    both = [load_eyes(engine).network for engine in ENGINES]
    points = case.model.landmarks(case.geometry.vertices_mm, "ict68")
    places = eye_places(project(points, case.geometry.camera), load_eyes().template_mm)
    shown = [cut_eye(case.image, place, margin) for margin in (1.0, 1.1, 1.2) for place in places]
    crops = np.stack(shown).transpose(0, 3, 1, 2).astype(np.float32) / 255
    directions = np.array([place.direction for place in places] * 3, np.float32)

    def ask(network: Any, count: int) -> Tensor:
        return torch.from_numpy(network(crops[:count], directions[:count]))

    def opening(one: Tensor, other: Tensor) -> float:
        return _apart(one[:, 0], other[:, 0])

    def degrees(one: Tensor, other: Tensor) -> float:
        return _apart(one[:, 1:3], other[:, 1:3])

    return {"opening": _worst(both, ask, opening), "degrees": _worst(both, ask, degrees)}


def _mouth(case: EngineCase) -> dict[str, float]:
    both = [load_mouth(engine).network for engine in ENGINES]
    points = case.model.landmarks(case.geometry.vertices_mm, "ict68")
    place = mouth_place(project(points, case.geometry.camera), load_mouth().template_mm)
    shown = [cut_mouth(case.image, place, 1 + k / 20) for k in range(max(BATCHES))]
    crops = np.stack(shown).transpose(0, 3, 1, 2).astype(np.float32) / 255
    directions = np.array([place.direction] * len(crops), np.float32)

    def ask(network: Any, count: int) -> Tensor:
        return torch.from_numpy(network(crops[:count], directions[:count]))

    return {"opening": _worst(both, ask, _apart)}


def _parser(case: EngineCase) -> dict[str, float]:
    both = [load_parser(case.family, engine) for engine in ENGINES]
    crops = case.crops(both[0].size, EXPAND)
    return {"probability": _worst(both, lambda one, n: one.predict_crops(crops[:n]), _apart)}


def _dasl(case: EngineCase) -> dict[str, float]:
    both = [load_dasl(case.family, engine) for engine in ENGINES]
    crops = case.crops(both[0].config.size)
    return _heads(case, both, lambda one, n: one.predict_crops(crops[:n], repeats=1))


def _pgn(case: EngineCase) -> dict[str, float]:
    both = [load_pgn(case.family, engine) for engine in ENGINES]
    crops = case.crops(both[0].config.size)
    config = PgnPredictConfig(flip=False)
    return _heads(case, both, lambda one, n: one.predict_crops(crops[:n], config=config).labels)


def _heads(
    case: EngineCase, both: list[Any], ask: Callable[[Any, int], HeadLabels]
) -> dict[str, float]:
    """Angles between rotations, and distances between vertices in the model frame."""

    def moved(one: HeadLabels, other: HeadLabels) -> float:
        heads = [case.model(x.identity, x.expression.clamp(0, 1)) for x in (one, other)]
        return float((heads[0] - heads[1]).norm(dim=-1).max())

    def turned(one: HeadLabels, other: HeadLabels) -> float:
        return _degrees((one.rotation - other.rotation).transpose(-1, -2))

    return {"degrees": _worst(both, ask, turned), "mm": _worst(both, ask, moved)}


def _retexture(case: EngineCase) -> dict[str, float]:
    both = [load_retexturer(case.family, case.model, None, engine, 1) for engine in ENGINES]
    seen = case.texture_input

    def ask(one: Any, count: int) -> Any:
        return one.network(RetextureInput(*(part[:count] for part in seen)))

    def levels(one: Any, other: Any) -> float:
        return 255 * _apart(linear_to_srgb(one.albedo), linear_to_srgb(other.albedo))

    def light(one: Any, other: Any) -> float:
        return 100 * _apart(one.detail, other.detail) / float(other.detail.abs().max())

    return {
        "albedo levels of 255": _worst(both, ask, levels),
        "light, %": _worst(both, ask, light),
    }


def _rafare(case: EngineCase) -> dict[str, float]:
    said = {e: load_rafare(case.family, threads=1, engine=e).networks for e in ENGINES}
    view, half_mm = case.surface_input(said["onnx"].config.size)
    generator = torch.Generator().manual_seed(0)
    points = torch.rand(POINTS, 3, generator=generator) * 2 - 1
    one, other = (said[engine].look(view, "normals") for engine in ENGINES)
    assert one.normals is not None and other.normals is not None and one.fine and other.fine
    fine_mm = half_mm * said["onnx"].config.field.fine_scale
    return {
        "distance mm": half_mm * _apart(one.base(points), other.base(points)),
        "fine mm": fine_mm * _apart(one.fine(points), other.fine(points)),
        "degrees": _degrees(one.normals - other.normals),
    }


def _worst(
    both: list[Any], ask: Callable[[Any, int], Any], apart: Callable[[Any, Any], float]
) -> float:
    """The largest difference over all sizes of batch."""
    return max(apart(*(ask(one, count) for one in both)) for count in BATCHES)


def _apart(one: Tensor, other: Tensor) -> float:
    return float((one - other).abs().max())


def _degrees(vectors: Float[Tensor, "*n 3"]) -> float:
    """Angle of the largest of some small changes of unit vectors."""
    return float(torch.rad2deg(vectors.norm(dim=-1).max()))
