"""2DASL as a stage of the pipeline: which landmarks it draws, and what they say of the result."""

from __future__ import annotations

from dataclasses import replace
from typing import Protocol, get_args

import numpy as np
import torch
from jaxtyping import UInt8

from lifemask.assets import AssetError, UserError, weights_folder
from lifemask.facemodel.base import FaceModel
from lifemask.facemodel.landmarks import LANDMARK_SETS, convert, map18
from lifemask.faces.crop import Box
from lifemask.graphics.camera import project
from lifemask.methods._dasl_types import MapSource
from lifemask.methods._fitting_task import seen_points
from lifemask.methods._stage import FaceInput, StageSetup
from lifemask.methods.dasl import DaslPredictConfig, load_dasl
from lifemask.methods.fitting import fit_landmarks
from lifemask.types import Face, Geometry, Landmarks

MAP_SOURCES: tuple[MapSource, ...] = get_args(MapSource)
SETS_68 = ("ibug68-3d-bfm", "ict68", "ibug68")
"""Sets of 68 that a face model may have; the first of them makes the map and the crop."""
POINTS5_FROM_MAP18 = ((6, 7, 8), (9, 10, 11), (13,), (15,), (17,))
"""Eyes, nose and mouth corners, as a detector gives them, in the set "map18"."""


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
            face = _upright_face(face, handed)
        geometry = self.predictor(seen.image, face, landmarks=handed, config=self.config)
        if landmarks is None:
            return geometry
        return replace(geometry, residual_px=landmark_distance_px(geometry, landmarks, self.model))

    def options(self, seen: FaceInput) -> dict[str, str]:
        """Where the points of the first map came from."""
        return {"map": self.config.landmarks}


def create_stage(setup: StageSetup) -> DaslStage:
    """The shipped network with the pipeline's settings.

    Raises:
        AssetError: its weights are missing or damaged.
    """
    name = f"dasl-{setup.weights}"
    if not (weights_folder() / f"{name}.json").is_file():
        raise AssetError(
            f"dasl weights are not installed: {name} is not in {weights_folder()}; install"
            " lifemask again, or use --method fit"
        )
    predictor = load_dasl(setup.weights, threads=setup.threads)
    return DaslStage(predictor, setup.model, setup.settings)


def completed(landmarks: Landmarks, model: FaceModel) -> Landmarks:
    """All points of the set of 68 that 2DASL's map and crop are made from, on the CPU.

    Points of other sets, or with some of them unseen, are carried there by the landmark fitter:
    the map needs to know which points face the camera, and the square is about all 68.

    Raises:
        UserError: landmarks that the fitter cannot take either.
    """
    target = next((name for name in SETS_68 if name in model.landmark_embeddings), "")
    if not target:
        raise UserError(f"face model {model.name!r} has none of the sets {', '.join(SETS_68)}")
    convention, points, sigma = landmarks.convention, landmarks.points, landmarks.sigma_px
    if bool(seen_points(landmarks).all()) and _converts(convention, target, len(points)):
        both = convert(torch.cat((points, sigma[:, None]), 1), convention, target).cpu()
        return Landmarks(both[:, :3], both[:, 3], target)
    geometry = fit_landmarks(landmarks, model)
    own = project(model.landmarks(geometry.vertices_mm, target), geometry.camera).cpu()
    spread = float(sigma[seen_points(landmarks)].median())
    return Landmarks(own, torch.full((len(own),), spread), target)


def landmark_distance_px(geometry: Geometry, landmarks: Landmarks, model: FaceModel) -> float:
    """Root mean square distance in (u, v) of seen landmarks and the geometry's own; NaN if unknown.

    Args:
        geometry: of any kind.
        landmarks: photo px.
        model: embeds their set, if the geometry is one of its heads.
    """
    name = landmarks.convention
    if geometry.model == model.name and name in model.landmark_embeddings:
        own = model.landmarks(geometry.vertices_mm, name)
    elif geometry.landmarks68_mm is not None and _converts("ict68", name, 68):
        own = convert(geometry.landmarks68_mm, "ict68", name)
    else:
        return float("nan")
    image, count = project(own, geometry.camera), min(len(own), len(landmarks.points))
    seen = seen_points(landmarks)[:count].to(image.device)
    offset = (image[:count, :2] - landmarks.points[:count, :2].to(image))[seen]
    return float(offset.square().sum(-1).mean().sqrt())


def _upright_face(face: Face | Box, landmarks: Landmarks) -> Face:
    """The face with the five points that tell how it lies, from all 68 landmarks."""
    eighteen = map18(landmarks.points, landmarks.convention)
    points5 = torch.stack([eighteen[list(ids), :2].mean(0) for ids in POINTS5_FROM_MAP18])
    return Face(face.box if isinstance(face, Face) else face, 1.0, points5)


def _converts(source: str, target: str, count: int) -> bool:
    known = source in LANDMARK_SETS and LANDMARK_SETS[source].count == count
    if not known:
        return False
    try:
        convert(torch.zeros(count, 2), source, target)
    except KeyError:
        return False
    return True
