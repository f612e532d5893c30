"""RAFaRe as a stage of the pipeline: PGN's head as the guide, and the free surface beside it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

import numpy as np
from jaxtyping import UInt8

from lifemask.facemodel.base import FaceModel
from lifemask.faces.parsing import Regions, load_parser
from lifemask.graphics.camera import project
from lifemask.methods._pgn_stage import create_stage as create_guide
from lifemask.methods._rafare_view import SQUARE_SET
from lifemask.methods._stage import FaceInput, GeometryStage, StageSetup, installed_weights
from lifemask.types import FreeSurface, Geometry, Landmarks

if TYPE_CHECKING:
    from lifemask.methods.rafare import RafarePredictConfig


class SurfaceFinder(Protocol):
    """What the stage needs of `methods.rafare.RafarePredictor`."""

    def __call__(
        self,
        image: UInt8[np.ndarray, "h w 3"],
        geometry: Geometry,
        model: FaceModel,
        regions: Regions | None = None,
    ) -> FreeSurface:
        """The surface of a photo's face, in photo px."""
        ...


class RafareStage:
    """Photo to a guide's head with the free surface attached; see `methods.rafare`.

    Args:
        guide: stage of a parametric method, whose head says where and how large the face is.
        finder: the networks.
        model: face model of the guide.
        parse: photo and the face's landmarks to region maps; None for none.
        config: settings, for the record.
    """

    def __init__(
        self,
        guide: GeometryStage,
        finder: SurfaceFinder,
        model: FaceModel,
        parse: Callable[[UInt8[np.ndarray, "h w 3"], Landmarks], Regions] | None = None,
        config: RafarePredictConfig | None = None,
    ) -> None:
        from lifemask.methods.rafare import RafarePredictConfig

        self.guide, self.finder, self.model, self.parse = guide, finder, model, parse
        self.config = config or RafarePredictConfig()

    @property
    def needs_landmarks(self) -> bool:
        """As the guide does."""
        return self.guide.needs_landmarks

    def __call__(self, seen: FaceInput) -> Geometry:
        """The guide's geometry with `surface`.

        Raises:
            UserError: the photo shows too little of the face, or the guide cannot use it.
        """
        geometry = self.guide(seen)
        regions = None
        if self.parse is not None:
            points = project(
                self.model.landmarks(geometry.vertices_mm, SQUARE_SET), geometry.camera
            )
            sure = points.new_ones(len(points))
            regions = self.parse(seen.image, Landmarks(points, sure, SQUARE_SET))
        surface = self.finder(seen.image, geometry, self.model, regions)
        return replace(geometry, surface=surface)

    def options(self, seen: FaceInput) -> dict[str, str]:
        """The guide's choices, and how fine the surface is."""
        own = {"level": self.config.level, "guided": "yes" if self.config.guide else "no"}
        if self.config.back:
            own["back"] = "yes"
        if self.config.share is not None:
            own["share"] = f"{self.config.share:g}"
        return {**self.guide.options(seen), **own}


def create_stage(setup: StageSetup) -> RafareStage:
    """The shipped networks with the pipeline's settings.

    Raises:
        AssetError: their weights are missing or damaged.
        UserError: the guide was trained for another face model.
    """
    installed_weights("rafare", setup.weights, setup.model.name)
    from lifemask.methods.rafare import load_rafare

    guide = create_guide(replace(setup, settings=None))
    finder = load_rafare(setup.weights, setup.settings, setup.threads, setup.engine)
    parser = load_parser(setup.weights, setup.engine, setup.threads)
    return RafareStage(guide, finder, setup.model, parser, setup.settings)
