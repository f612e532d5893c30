"""PGN as a stage of the pipeline: one photo, or several of one person together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np
from jaxtyping import UInt8

from lifemask.facemodel.base import FaceModel
from lifemask.faces.crop import Box
from lifemask.methods._given_landmarks import completed, upright_face, with_distance
from lifemask.methods._stage import FaceInput, StageSetup, installed_weights
from lifemask.types import Face, Geometry, Landmarks

if TYPE_CHECKING:
    from lifemask.methods.pgn import FrameView, PgnPredictConfig


class Predictor(Protocol):
    """What the stage needs of `methods.pgn.PgnPredictor`."""

    def __call__(
        self,
        image: UInt8[np.ndarray, "h w 3"],
        face: Face | Box,
        landmarks: Landmarks | None = None,
        config: PgnPredictConfig | None = None,
    ) -> Geometry:
        """Geometry in photo px, on the CPU."""
        ...

    def together(
        self, views: Sequence[FrameView], config: PgnPredictConfig | None = None
    ) -> list[Geometry]:
        """Geometries of one person with one identity, each in its photo's px, on the CPU."""
        ...


class PgnStage:
    """Photo to geometry by PGN; see `methods.pgn`.

    The network sees no landmarks. The user's own place the crop; ours are only measured against.

    Args:
        predictor: the network with its crops.
        model: the face model, for landmarks that are completed or compared with the result.
        config: settings; None for the predictor's own.
    """

    needs_landmarks = False

    def __init__(
        self, predictor: Predictor, model: FaceModel, config: PgnPredictConfig | None = None
    ) -> None:
        from lifemask.methods.pgn import PgnPredictConfig

        self.predictor = predictor
        self.model = model
        self.config = config or PgnPredictConfig()

    def __call__(self, seen: FaceInput) -> Geometry:
        """Geometry with the root mean square distance to the landmarks, where they are known.

        Raises:
            UserError: the user's landmarks are too few, or of a set that the face model lacks.
        """
        view = self._view(seen)
        geometry = self.predictor(view.image, view.face, view.landmarks, self.config)
        return with_distance(geometry, seen.landmarks, self.model)

    def together(self, seen: Sequence[FaceInput]) -> list[Geometry]:
        """Geometries of one person: one identity, a pose and an expression for each photo.

        Raises:
            UserError: as for one photo.
        """
        heads = self.predictor.together([self._view(one) for one in seen], self.config)
        return [
            with_distance(head, one.landmarks, self.model)
            for head, one in zip(heads, seen, strict=True)
        ]

    def options(self, seen: FaceInput) -> dict[str, str]:
        """Which mesh was asked for, and whether the mirrored crop was seen too."""
        return {"shape": self.config.shape, "flip": "yes" if self.config.flip else "no"}

    def _view(self, seen: FaceInput) -> FrameView:
        from lifemask.methods.pgn import FrameView

        if not seen.given or seen.landmarks is None:
            return FrameView(seen.image, seen.face)
        placing = completed(seen.landmarks, self.model)
        return FrameView(seen.image, upright_face(seen.face, placing), placing)


def create_stage(setup: StageSetup) -> PgnStage:
    """The shipped network with the pipeline's settings.

    Raises:
        AssetError: its weights are missing or damaged.
        UserError: it was trained for another face model.
    """
    installed_weights("pgn", setup.weights, setup.model.name)
    from lifemask.methods.pgn import load_pgn

    predictor = load_pgn(setup.weights, setup.engine, setup.threads)
    return PgnStage(predictor, setup.model, setup.settings)
