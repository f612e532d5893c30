"""The geometry stage of the pipeline: what a method is told of a face, and what it answers.

`pipeline.METHODS` names a factory for each method: `create_stage(setup: StageSetup)`, which loads
what the method needs and returns a `GeometryStage`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
from jaxtyping import UInt8

from lifemask.facemodel.base import FaceModel
from lifemask.faces.crop import Box
from lifemask.types import Face, Geometry, Landmarks


@dataclass(frozen=True)
class FaceInput:
    """One face of a photo, as a method gets it.

    Attributes:
        image: photo, (H, W, 3) uint8 RGB.
        face: a detected face, or the landmark square itself as a box (x0, y0, x1, y1) in photo
            px, as `faces.crop.square_box` defines it and benchmarks hand it out.
        landmarks: of the face in photo px; None where neither the method nor a later stage
            needs them.
        given: the landmarks are the user's, not our landmarker's.
    """

    image: UInt8[np.ndarray, "h w 3"]
    face: Face | Box
    landmarks: Landmarks | None = None
    given: bool = False

    @property
    def image_size(self) -> tuple[int, int]:
        """(width, height) of the photo in px."""
        return (self.image.shape[1], self.image.shape[0])


@dataclass(frozen=True)
class StageSetup:
    """What a method's factory gets.

    Attributes:
        model: the face model, on the pipeline's device.
        weights: licence family of the networks.
        threads: of the inference engine; 0 lets it choose.
        settings: the method's own settings (`PipelineConfig` has a field of the method's name);
            None for its defaults.
    """

    model: FaceModel
    weights: Literal["open", "research"] = "open"
    threads: int = 1
    settings: Any = None


class GeometryStage(Protocol):
    """A method: shape and camera of one face."""

    @property
    def needs_landmarks(self) -> bool:
        """Whether it wants `FaceInput.landmarks` from our landmarker when the user gave none."""
        ...

    def __call__(self, seen: FaceInput) -> Geometry:
        """Geometry in photo px. `params` and `model` are None and "" for a free mesh.

        Raises:
            UserError: this face cannot be reconstructed from what is given.
        """
        ...

    def options(self, seen: FaceInput) -> Mapping[str, str]:
        """What was chosen for this face, for the record in `params.json`."""
        ...
