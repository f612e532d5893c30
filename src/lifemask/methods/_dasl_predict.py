"""2DASL at run time: photo and face to the head model's `Geometry`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from jaxtyping import Float, UInt8
from numpy import ndarray
from torch import Tensor

from lifemask.assets import UserError
from lifemask.facemodel.base import FaceModel
from lifemask.faces.crop import Box, crop_square, photo_to_crop
from lifemask.faces.landmarker import turned_back
from lifemask.graphics.camera import project
from lifemask.graphics.pose import affine_camera, procrustes_camera
from lifemask.methods._coefficients import CoefficientHead
from lifemask.methods._crops import first_place, head_geometry, scored_points
from lifemask.methods._dasl_types import MapPoints, MapSource
from lifemask.methods._targets import HeadLabels
from lifemask.nn.landmark_map import facing
from lifemask.nn.parametric import LENGTH_MM
from lifemask.types import Crop, Face, Geometry, Landmarks

if TYPE_CHECKING:
    from lifemask.methods.dasl import DaslConfig


@dataclass(frozen=True)
class DaslPredictConfig:
    """How the network is asked.

    Attributes:
        landmarks: where the input map comes from. "detector": the landmarks handed in, as
            published; "self": the empty map first, then `repeats` times the network's own points;
            "none": the empty map alone.
        repeats: passes with the network's own map after the first, with "self".
        passes: crops; from the second on the square comes from the head of the pass before. None:
            2 for a detected face without landmarks, 1 otherwise.
    """

    landmarks: MapSource = "detector"
    repeats: int = 3
    passes: int | None = None

    def __post_init__(self) -> None:
        """Check the choices.

        Raises:
            ValueError: an unknown source, or numbers that make no sense.
        """
        if self.landmarks not in ("detector", "self", "none"):
            raise ValueError(f"unknown map source {self.landmarks!r}; valid: detector, self, none")
        if self.repeats < 0 or (self.passes is not None and self.passes < 1):
            raise ValueError("repeats must be at least 0 and passes at least 1")


class CoefficientNetwork(Protocol):
    """Crops and Map-18 points to raw coefficients, whatever runs the network."""

    def __call__(
        self, crops: Float[ndarray, "b 3 s s"], landmarks: Float[ndarray, "b 18 3"], /
    ) -> Float[ndarray, "b d"]:
        """Coefficients of float32 crops in [0, 1] and points (u, v, drawn), see `ExportNet`."""
        ...


class DaslPredictor:
    """Regresses the head of a face in a photo; made by `load_dasl`.

    Attributes:
        config: sizes and inputs of the network.
        head: the meaning of its coefficients.
        model: the face model.
        tag: licence tag of the weights, "open" or "research".
    """

    def __init__(
        self,
        network: CoefficientNetwork,
        config: DaslConfig,
        head: CoefficientHead,
        model: FaceModel,
        tag: str,
    ) -> None:
        self._network = network
        self.config = config
        self.head = head
        self.model = model
        self.tag = tag

    def __call__(
        self,
        image: UInt8[ndarray, "h w 3"],
        face: Face | Box,
        landmarks: Landmarks | None = None,
        config: DaslPredictConfig | None = None,
    ) -> Geometry:
        """Head and orthographic camera of one face, in photo px, on the CPU.

        Args:
            image: photo, (H, W, 3) uint8 RGB.
            face: a detected face, or the landmark square itself as a box in photo px
                (`faces.crop.square_box`). A face that lies on its side, by its five points, is
                turned upright by quarter turns first.
            landmarks: of this face, in a set that "map18" follows from. They are drawn into the
                map if `config.landmarks` is "detector", and place the crop of a detected face.
            config: how to ask; None for "detector" with usable landmarks and "self" without.

        Raises:
            UserError: the map source is "detector" without usable landmarks.
        """
        given = None if landmarks is None else scored_points(landmarks, self.head)
        config = config or DaslPredictConfig("self" if given is None else "detector")
        if config.landmarks == "detector" and given is None:
            raise UserError("the map source 'detector' needs landmarks; use 'self' or 'none'")
        place = first_place(face, given)
        for _ in range(config.passes or (2 if place.guess else 1)):
            crop = crop_square(image, place.center, place.side, self.config.size)
            labels = self._predict_crop(crop, place.turns, given, config)
            geometry = head_geometry(self.model, labels, 0, crop, place.turns)
            place = place.moved(self._scored_points(geometry))
        return geometry

    def predict_crops(
        self, crops: Float[Tensor, "b 3 s s"], given: MapPoints | None = None, repeats: int = 0
    ) -> HeadLabels:
        """Coefficients of landmark squares in [0, 1]; lengths in half-crops, see `HeadLabels`.

        Args:
            crops: (b, 3, size, size) upright faces.
            given: points for the first map; None for the empty map.
            repeats: further passes, each with the map of the one before.
        """
        count = len(crops)
        if given is None:
            empty = torch.zeros(count, 18, dtype=torch.bool)
            given = MapPoints(torch.zeros(count, 18, 2), empty)
        pixels = np.ascontiguousarray(crops.cpu().float().numpy())
        raw = self._ask(pixels, given.points, given.drawn)
        for _ in range(repeats):
            posed = self.head(self.head.whitened(raw))
            raw = self._ask(pixels, *self.head.own_map(posed))
        return self.head.unpack(raw)

    def _ask(self, pixels: ndarray, points: Tensor, drawn: Tensor) -> Tensor:
        known = drawn[..., None].float()
        landmarks = torch.cat((points.float(), known), -1).numpy()
        return torch.from_numpy(self._network(pixels, np.ascontiguousarray(landmarks)))

    def _predict_crop(
        self, crop: Crop, turns: int, given: Tensor | None, config: DaslPredictConfig
    ) -> HeadLabels:
        upright = crop.image.rot90(turns, (1, 2))[None]
        if config.landmarks != "detector":
            return self.predict_crops(
                upright, repeats=config.repeats if config.landmarks == "self" else 0
            )
        assert given is not None
        points = turned_back(photo_to_crop(given, crop), -turns % 4, crop.size)
        return self.predict_crops(upright, self.map_points(points[None], crop.size))

    def map_points(self, points68: Float[Tensor, "b 68 d"], size: int) -> MapPoints:
        """Map-18 points of landmarks in crop px, those that face the camera drawn."""
        return map_points(points68, size, self.head)

    def _scored_points(self, geometry: Geometry) -> Tensor:
        points = self.model.landmarks(geometry.vertices_mm, self.head.scored)
        return project(points, geometry.camera)


def map_points(points68: Float[Tensor, "b 68 d"], size: int, head: CoefficientHead) -> MapPoints:
    """Map-18 points of 68 landmarks (u, v) or (u, v, w) in crop px; those that face the camera.

    Which ones do is told by the pose that carries the mean head to the landmarks.
    """
    mean = head.get_buffer("mean")[head.sets68[head.scored]] * LENGTH_MM
    mean = mean.expand(len(points68), -1, -1)
    has_depth = points68.shape[-1] == 3 and bool(points68.isfinite().all())
    camera = (
        procrustes_camera(mean, points68) if has_depth else affine_camera(mean, points68[..., :2])
    )
    half = size / 2
    points = head.get_buffer("to_map18") @ ((points68[..., :2] + 0.5) / half - 1)
    return MapPoints(points, facing(camera.rotation, head.get_buffer("normals18")))
