"""2DASL as a stage of the pipeline: which landmarks it draws, and what they say of the result."""

from __future__ import annotations

from typing import Protocol, get_args

import numpy as np
from jaxtyping import UInt8

from lifemask.facemodel.base import FaceModel
from lifemask.faces.crop import Box
from lifemask.methods._dasl_types import MapSource
from lifemask.methods._given_landmarks import completed, upright_face, with_distance
from lifemask.methods._stage import FaceInput, StageSetup, installed_weights
from lifemask.methods.dasl import DaslPredictConfig, load_dasl
from lifemask.types import Face, Geometry, Landmarks

MAP_SOURCES: tuple[MapSource, ...] = get_args(MapSource)


class Predictor(Protocol):
    """What the stage needs of `methods.dasl.DaslPredictor`."""

    def __call__(
        self,
        image: UInt8[np.ndarray, "h w 3"],
        face: Face | Box,
        landmarks: Landmarks | None = None,
        config: DaslPredictConfig | None = None,
    ) -> Geometry:
        """Geometry in photo px, on the CPU."""
        ...


class DaslStage:
    """Photo to geometry by 2DASL; see `methods.dasl`.

    Our landmarks, or the user's, are drawn into the map, unless `config` says otherwise; the user's
    place the crop in any case.

    Args:
        predictor: the network with its crops.
        model: the face model, for landmarks that are completed or compared with the result.
        config: settings; None for the predictor's own.
    """

    def __init__(
        self, predictor: Predictor, model: FaceModel, config: DaslPredictConfig | None = None
    ) -> None:
        self.predictor = predictor
        self.model = model
        self.config = config or DaslPredictConfig()

    @property
    def needs_landmarks(self) -> bool:
        """Only the map source "detector" draws what a landmarker found."""
        return self.config.landmarks == "detector"

    def __call__(self, seen: FaceInput) -> Geometry:
        """Geometry with the root mean square distance to the landmarks, where they are known.

        Raises:
            UserError: the landmarks are too few, or of a set that the face model does not have.
            ValueError: the map source is "detector" and there are none.
        """
        source, face, landmarks = self.config.landmarks, seen.face, seen.landmarks
        if source == "detector" and landmarks is None:
            raise ValueError("the map source 'detector' needs landmarks")
        handed = None
        if landmarks is not None and (seen.given or source == "detector"):
            handed = completed(landmarks, self.model)
        if handed is not None and seen.given:
            face = upright_face(face, handed)
        geometry = self.predictor(seen.image, face, landmarks=handed, config=self.config)
        return with_distance(geometry, landmarks, self.model)

    def options(self, seen: FaceInput) -> dict[str, str]:
        """Where the points of the first map came from."""
        return {"map": self.config.landmarks}


def create_stage(setup: StageSetup) -> DaslStage:
    """The shipped network with the pipeline's settings.

    Raises:
        AssetError: its weights are missing or damaged.
    """
    installed_weights("dasl", setup.weights, setup.model.name)
    predictor = load_dasl(setup.weights, setup.engine, setup.threads)
    return DaslStage(predictor, setup.model, setup.settings)
