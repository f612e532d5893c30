"""The geometry stage of the pipeline: what a method is told of a face, and what it answers.

`pipeline.METHODS` names a factory for each method: `create_stage(setup: StageSetup)`, which loads
what the method needs and returns a `GeometryStage`. A method that can see several photos of one
person at once returns a `PersonStage`; for the others `methods._person` makes the heads agree.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, Literal, Protocol, TypeVar, runtime_checkable

import numpy as np
import torch
from jaxtyping import UInt8

from lifemask.assets import AssetError, UserError, card_face_model, weights_folder
from lifemask.facemodel.base import FaceModel
from lifemask.faces.crop import Box
from lifemask.nn.shipped import Engine
from lifemask.types import Appearance, Face, Geometry, Landmarks

_Result = TypeVar("_Result", Landmarks, Geometry, Appearance | None)


def installed_weights(method: str, family: str, model: str) -> None:
    """Refuse a method whose network is not there, or speaks of another face model.

    Args:
        method: key of `pipeline.METHODS`.
        family: licence family.
        model: name of the pipeline's face model.

    Raises:
        AssetError: the line says what else to use.
        UserError: the same.
    """
    name = f"{method}-{family}"
    if not (weights_folder() / f"{name}.json").is_file():
        raise AssetError(
            f"{method} weights are not installed: {name} is not in {weights_folder()}; install"
            " lifemask again, or use --method fit"
        )
    learned = card_face_model(name)
    if learned not in ("", model):
        raise UserError(
            f"{name} knows heads of the face model {learned!r} only: use --method fit for"
            f" {model!r}, or train {method} with it"
        )


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
        engine: what runs the networks.
    """

    model: FaceModel
    weights: Literal["open", "research"] = "open"
    threads: int = 1
    settings: Any = None
    engine: Engine = "onnx"


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


@runtime_checkable
class PersonStage(GeometryStage, Protocol):
    """A method that finds one identity in several photos of a person."""

    def together(self, seen: Sequence[FaceInput]) -> list[Geometry]:
        """Geometries in the photos' order; their `params.identity` are equal to the bit.

        Args:
            seen: one face of each photo, at least one.

        Raises:
            UserError: one of these faces cannot be reconstructed from what is given.
        """
        ...


def moved(value: _Result, device: str) -> _Result:
    """A stage's result (a frozen dataclass, or None) with its tensors on a device."""
    return _moved(value, torch.device(device))


def _moved(value: Any, device: torch.device) -> Any:
    if isinstance(value, torch.Tensor):
        return value.to(device)
    if isinstance(value, Mapping):
        return {key: _moved(item, device) for key, item in value.items()}
    if is_dataclass(value) and not isinstance(value, type):
        return replace(
            value, **{f.name: _moved(getattr(value, f.name), device) for f in fields(value)}
        )
    return value
