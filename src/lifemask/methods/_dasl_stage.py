"""2DASL as a stage of the pipeline: which landmarks are drawn, and where the face begins."""

from __future__ import annotations

from dataclasses import replace
from typing import Protocol, get_args

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from lifemask.assets import AssetError, UserError, weights_folder
from lifemask.facemodel.base import FaceModel
from lifemask.facemodel.landmarks import LANDMARK_SETS, convert, map18
from lifemask.faces.crop import Box, square_box
from lifemask.faces.landmarker import face_of_square
from lifemask.graphics.camera import project
from lifemask.methods._dasl_predict import DaslPredictConfig
from lifemask.methods._dasl_types import MapSource
from lifemask.methods._fitting_task import seen_points
from lifemask.methods._stage import FaceInput, StageSetup
from lifemask.types import Face, Geometry, Landmarks

MAP_SOURCES: tuple[MapSource, ...] = get_args(MapSource)
POINTS5_FROM_MAP18 = ((6, 7, 8), (9, 10, 11), (13,), (15,), (17,))
"""Eyes, nose and mouth corners as a detector gives them, in the set "map18"."""


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

    Args:
        predictor: the network with its crops.
        model: the face model, for landmarks that are compared with the result.
        config: settings; None for the predictor's own, with a user's landmarks as the map.
    """

    def __init__(
        self, predictor: Predictor, model: FaceModel, config: DaslPredictConfig | None = None
    ) -> None:
        self.predictor = predictor
        self.model = model
        self._chosen = config is not None
        self.config = config or DaslPredictConfig()

    @property
    def needs_landmarks(self) -> bool:
        """Only the map source "detector" draws what a landmarker found."""
        return self.config.landmarks == "detector"

    def __call__(self, seen: FaceInput) -> Geometry:
        """Geometry with the root mean square distance to the landmarks, where they are known.

        Raises:
            UserError: landmarks that are to be drawn cannot give the 18 points of the map.
        """
        source = self._source(seen)
        landmarks = None if seen.landmarks is None else on_cpu(seen.landmarks)
        drawn = None
        if source == "detector":
            if landmarks is None:
                raise ValueError("the map source 'detector' needs landmarks")
            drawn = map_landmarks(landmarks)
        face = face_from_landmarks(landmarks) if seen.given and landmarks else seen.face
        config = replace(self.config, landmarks=source)
        geometry = self.predictor(seen.image, face, landmarks=drawn, config=config)
        if landmarks is None:
            return geometry
        return replace(geometry, residual_px=landmark_distance_px(geometry, landmarks, self.model))

    def options(self, seen: FaceInput) -> dict[str, str]:
        """Where the points of the first map came from."""
        return {"map": self._source(seen)}

    def _source(self, seen: FaceInput) -> MapSource:
        drawn = seen.given and not self._chosen
        return "detector" if drawn else self.config.landmarks


def create_stage(setup: StageSetup) -> DaslStage:
    """The shipped network with the pipeline's settings.

    Raises:
        AssetError: its weights are missing or damaged.
    """
    from lifemask.methods.dasl import load_dasl

    name = f"dasl-{setup.weights}"
    if not (weights_folder() / f"{name}.json").is_file():
        raise AssetError(
            f"dasl weights are not installed: {name} is not in {weights_folder()}; install lifemask"
            " again, or train them (lifemask train dasl)"
        )
    predictor = load_dasl(setup.weights, threads=setup.threads)
    return DaslStage(predictor, setup.model, setup.settings)


def map_landmarks(landmarks: Landmarks) -> Landmarks:
    """The 18 points of the input map, "map18"; NaN with an infinite sigma where one is not known.

    Raises:
        UserError: the landmark set has not all of the points, or none of them is seen.
    """
    name, points = landmarks.convention, _seen_only(landmarks)
    sigma = torch.where(points[:, :1].isnan(), torch.inf, landmarks.sigma_px[:, None])
    try:
        both = map18(_whole_set(torch.cat((points, sigma), 1), name), name)
    except (KeyError, ValueError) as error:
        fitting = ", ".join(sorted(n for n in LANDMARK_SETS if _gives_map18(n)))
        raise UserError(
            f"2DASL cannot draw landmarks of the set {name!r} ({len(points)} points) into its map;"
            f" it can draw: {fitting}"
        ) from error
    if not both[:, :2].isfinite().all(1).any():
        raise UserError("none of the 18 points that 2DASL draws is among the visible landmarks")
    return Landmarks(both[:, :3], both[:, 3], "map18")


def face_from_landmarks(landmarks: Landmarks) -> Face:
    """A face as a detector would have found it, upright or not, from landmarks."""
    points = _seen_only(landmarks)
    seen = points[points[:, 0].isfinite()]
    points5 = None
    if _gives_map18(landmarks.convention):
        eighteen = map18(_whole_set(points, landmarks.convention), landmarks.convention)
        five = torch.stack([eighteen[list(ids), :2].nanmean(0) for ids in POINTS5_FROM_MAP18])
        points5 = five if bool(five.isfinite().all()) else None
    return face_of_square(*square_box(seen), points5)


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
    elif geometry.landmarks68_mm is not None and _converts("ict68", name):
        own = convert(geometry.landmarks68_mm, "ict68", name)
    else:
        return float("nan")
    seen = seen_points(landmarks)[: len(own)]
    image = project(own[: len(seen)], geometry.camera)[seen, :2]
    squared = (image - landmarks.points[: len(own)][seen, :2].to(image)).square().sum(-1)
    return float(squared.mean().sqrt())


def on_cpu(landmarks: Landmarks) -> Landmarks:
    """The same landmarks where the predictor works."""
    points, sigma = landmarks.points.cpu(), landmarks.sigma_px.cpu()
    return Landmarks(points, sigma, landmarks.convention)


def _seen_only(landmarks: Landmarks) -> Float[Tensor, "n 3"]:
    """Points with NaN where one is not seen, so that means over it are NaN too."""
    seen = seen_points(landmarks)
    return torch.where(seen[:, None], landmarks.points, torch.nan)


def _whole_set(points: Float[Tensor, "n c"], name: str) -> Float[Tensor, "m c"]:
    """MediaPipe's 468 points with its irises unknown; other sets as they are."""
    missing = LANDMARK_SETS[name].count - len(points) if name == "mediapipe478" else 0
    if missing != 10:
        return points
    return torch.cat((points, points.new_full((missing, points.shape[1]), torch.nan)))


def _gives_map18(name: str) -> bool:
    return _converts(name, "map18")


def _converts(source: str, target: str) -> bool:
    if source not in LANDMARK_SETS:
        return False
    try:
        convert(torch.zeros(LANDMARK_SETS[source].count, 2), source, target)
    except KeyError:
        return False
    return True
