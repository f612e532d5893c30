"""`predict`: run lifemask over a benchmark once and keep the predictions; resumable."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
import torch
from jaxtyping import Float, UInt8
from numpy import ndarray

from lifemask.assets import UserError
from lifemask.evaluation.predictions import Predictions, load_predictions, save_predictions
from lifemask.evaluation.score import load_entry, lookup
from lifemask.types import Face

if TYPE_CHECKING:
    from lifemask.methods.dasl import DaslPredictConfig

DATASETS = {
    "aflw2000": "lifemask.data.aflw2000:load_aflw2000",
    "aflw21": "lifemask.data.aflw21:load_aflw21_test",
    "ytf68": "lifemask.data.ytf68:load_ytf68_test",
}
"""Data-set name to its loader, as an import string."""


class PhotoSet(Protocol):
    """What `predict` needs of a data set."""

    @property
    def names(self) -> tuple[str, ...]:
        """N image names."""
        ...

    @property
    def boxes(self) -> ndarray:
        """The benchmark's square crops (n, 4), edges in photo px."""
        ...

    @property
    def landmarks68(self) -> ndarray | None:
        """True points (n, 68, 2 or 3), or None: then no detector can be matched to the truth."""
        ...

    def image(self, index: int) -> ndarray:
        """A photo (h, w, 3) uint8 RGB."""
        ...


SCORED_SET = "ibug68-3d-bfm"
"""Landmark convention of AFLW2000-3D's truth: the jaw on the 3D contour of a BFM fit."""

SCORED_SETS = {"aflw2000": SCORED_SET, "aflw21": SCORED_SET, "ytf68": "ict68"}
"""Landmark convention in which each data set is predicted."""

BoxSource = Literal["official", "detector"]
MethodName = Literal["landmarker", "fit", "dasl", "pgn", "rafare"]
Box = tuple[float, float, float, float]
System = Callable[[ndarray, Face | Box], tuple[ndarray, ndarray]]
"""Photo (H, W, 3) uint8 and the face to landmarks (68, 3) in photo px and pose (3,) in degrees.

The face is the benchmark's square crop as a box, or what our detector found.
"""

_MIN_OVERLAP = 0.3
_SAVE_EVERY = 50  # photos
_log = logging.getLogger(__name__)


def predict(
    dataset: str,
    data: str | Path,
    out: str | Path,
    *,
    weights: Literal["open", "research"] = "research",
    method: MethodName = "landmarker",
    box: BoxSource = "official",
    threads: int = 1,
    resume: bool = True,
    progress: Callable[[int, int], None] | None = None,
    system: System | None = None,
    map_source: str | None = None,
) -> Path:
    """Predict every photo of a data set and write the prediction file.

    Args:
        dataset: a key of `DATASETS`.
        data: the data set's folder.
        out: npz to write. While running, finished photos are in `OUT.partial.npz`.
        weights: family of the landmarker's weights.
        method: "landmarker" scores the network's own points, "fit" those of the fitted head,
            "dasl" those of the head that 2DASL regresses, "pgn" those of PGN's head, "rafare" those
            of the head that guides RAFaRe's surface, which is PGN's.
        box: "official" hands the benchmark's box to the landmarker, so no face can be missed;
            "detector" runs our detector and takes the face that overlaps the true landmarks'
            box best; below an intersection over union of 0.3 the face counts as missed.
        threads: threads of the inference engine.
        resume: go on from `OUT.partial.npz` of an interrupted run with the same settings.
        progress: called with (photos done, photos) after each photo.
        system: another landmark system to run in place of lifemask's; None builds lifemask's.
        map_source: where 2DASL's input map comes from: "detector" (our landmarker on the same box),
            "self" or "none"; None for its default. Other methods have no map.

    Returns:
        The path written.

    Raises:
        UserError: unknown data set, method, box or map source, unreadable data, missing weights.
    """
    photos: PhotoSet = load_entry(lookup(DATASETS, dataset, "data set"))(data)
    out = Path(out)
    partial = out.with_name(out.name + ".partial.npz")
    convention = SCORED_SETS[dataset]
    meta = {"dataset": dataset, "box": box}
    if system is None:
        meta |= _own_meta(method, weights, convention) | map_meta(method, map_source)
    state = _resumed(partial, photos, meta) if resume else _empty(meta)
    run = system or load_system(method, weights, threads, convention, map_source)
    faces = _face_source(photos, box)
    count = len(photos.names)
    for index in range(len(state.names), count):
        state = _appended(state, photos.names[index], _one(run, photos, faces, index))
        if (index + 1) % _SAVE_EVERY == 0:
            save_predictions(partial, state)
        if progress:
            progress(index + 1, count)
    save_predictions(out, state)
    partial.unlink(missing_ok=True)
    _log.info("%s: %d photos, %d missed", out, count, int((~state.found).sum()))
    return out


def load_system(
    method: MethodName = "landmarker",
    weights: Literal["open", "research"] = "research",
    threads: int = 1,
    convention: str = SCORED_SET,
    map_source: str | None = None,
) -> System:
    """A method of lifemask as a `System` that returns points of a 68 set.

    Raises:
        AssetError: missing or broken weights.
        UserError: unknown method or map source.
    """
    from lifemask.pipeline import METHODS, dasl_settings

    settings = dasl_settings(method, map_source)
    if method == "landmarker":
        return _landmarker_system(weights, threads, convention)
    if method in METHODS:
        return _geometry_system(method, weights, threads, convention, settings)
    raise UserError(f"unknown method {method!r}; valid: {', '.join(sorted(METHODS))}, landmarker")


def _landmarker_system(
    weights: Literal["open", "research"], threads: int, convention: str
) -> System:
    """The landmark network's own points, and the pose of the mean head that they give."""
    from lifemask.facemodel import load_face_model
    from lifemask.facemodel.landmarks import convert
    from lifemask.faces.landmarker import load_landmarker
    from lifemask.graphics.camera import euler_deg_from_rotation
    from lifemask.graphics.pose import procrustes_camera

    landmarker = load_landmarker(weights, threads=threads)
    model = load_face_model()
    neutral = model(torch.zeros(model.identity_size), torch.zeros(len(model.expression_names)))

    def run(image: ndarray, face: Face | Box) -> tuple[ndarray, ndarray]:
        landmarks = landmarker(image, face)
        mean_head = model.landmarks(neutral, landmarks.convention)
        camera = procrustes_camera(mean_head, landmarks.points, landmarks.sigma_px**-2)
        return (
            convert(landmarks.points, landmarks.convention, convention).numpy(),
            euler_deg_from_rotation(camera.rotation).numpy(),
        )

    return run


def _geometry_system(
    method: str,
    weights: Literal["open", "research"],
    threads: int,
    convention: str,
    settings: DaslPredictConfig | None,
) -> System:
    """A method's head, without refinement: its points and its pose."""
    from lifemask.graphics.camera import euler_deg_from_rotation, project
    from lifemask.pipeline import Pipeline, PipelineConfig

    config = PipelineConfig(
        weights=weights, method=method, threads=threads, refine=False, dasl=settings
    )
    pipeline = Pipeline(config)
    if pipeline.geometry_stage.needs_landmarks:  # missing weights are told before the first photo
        _ = pipeline.landmarker

    def run(image: ndarray, face: Face | Box) -> tuple[ndarray, ndarray]:
        geometry = pipeline.find_geometry(pipeline.look(image, face))
        points = pipeline.model.landmarks(geometry.vertices_mm, convention)
        pose_deg = euler_deg_from_rotation(geometry.camera.rotation)
        return project(points, geometry.camera).numpy(), pose_deg.numpy()

    return run


def map_meta(method: str, map_source: str | None) -> dict[str, str]:
    """What predictions say of 2DASL's map; nothing for other methods.

    Raises:
        UserError: see `pipeline.dasl_settings`.
    """
    from lifemask.pipeline import dasl_settings

    settings = dasl_settings(method, map_source)
    if method != "dasl":
        return {}
    from lifemask.methods.dasl import DaslPredictConfig

    return {"map": (settings or DaslPredictConfig()).landmarks}


def best_overlap(boxes: Float[ndarray, "n 4"], box: Float[ndarray, "4"]) -> tuple[int, float]:
    """Index and intersection over union of the box that overlaps `box` best; (-1, 0) if none.

    Args:
        boxes: (n, 4) x0, y0, x1, y1 in px.
        box: (4,) the same.
    """
    if len(boxes) == 0:
        return -1, 0.0
    low, high = np.maximum(boxes[:, :2], box[:2]), np.minimum(boxes[:, 2:], box[2:])
    common = np.clip(high - low, 0, None).prod(axis=1)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1) + (box[2:] - box[:2]).prod()
    overlap = common / (areas - common)
    return int(overlap.argmax()), float(overlap.max())


def _face_source(
    photos: PhotoSet, source: BoxSource
) -> Callable[[ndarray, int], Face | Box | None]:
    """Function from photo and index to the face that the landmarker gets, None for a miss."""

    def official(image: ndarray, index: int) -> Box | None:
        return tuple(float(edge) for edge in photos.boxes[index])  # pyright: ignore[reportReturnType]

    if source == "official":
        return official
    if source != "detector":
        raise UserError(f"unknown box source {source!r}; valid: detector, official")
    if photos.landmarks68 is None:
        raise UserError("this data set has no 68 true points to tell which face was meant: use"
                        " the box 'official'")  # fmt: skip
    from lifemask.faces.detect import load_detector

    truth68 = photos.landmarks68
    detector = load_detector()

    def detected(image: UInt8[ndarray, "h w 3"], index: int) -> Face | None:
        faces = detector(image)
        truth = truth68[index, :, :2]
        true_box = np.concatenate([truth.min(axis=0), truth.max(axis=0)])
        found = np.array([face.box for face in faces], dtype=np.float64).reshape(-1, 4)
        best, overlap = best_overlap(found, true_box)
        return faces[best] if overlap >= _MIN_OVERLAP else None

    return detected


def _one(run: System, photos: PhotoSet, faces: Any, index: int) -> tuple[ndarray, ndarray] | None:
    image = photos.image(index)
    face = faces(image, index)
    return None if face is None else run(image, face)


def _own_meta(method: str, weights: str, convention: str) -> dict[str, str]:
    from lifemask import __version__

    return {
        "system": f"lifemask {__version__}",
        "method": method,
        "weights": weights,
        "convention": convention,
    }


def _empty(meta: dict[str, str]) -> Predictions:
    return Predictions((), np.zeros(0, bool), np.zeros((0, 68, 3)), np.zeros((0, 3)), meta)


def _resumed(partial: Path, photos: PhotoSet, meta: dict[str, str]) -> Predictions:
    """What an interrupted run has finished, if it had the same settings and photos."""
    if partial.is_file():
        try:
            state = load_predictions(partial)
        except UserError as error:
            _log.warning("starting again: %s", error)
            return _empty(meta)
        if dict(state.meta) == meta and state.names == photos.names[: len(state.names)]:
            return state
        _log.warning("%s belongs to another run; starting again", partial)
    return _empty(meta)


def _appended(state: Predictions, name: str, result: tuple[ndarray, ndarray] | None) -> Predictions:
    points, pose = result or (np.full((68, 3), np.nan), np.full(3, np.nan))
    return Predictions(
        (*state.names, name),
        np.append(state.found, result is not None),
        np.concatenate([state.landmarks68, np.asarray(points, np.float64)[None]]),
        np.concatenate([state.pose_deg, np.asarray(pose, np.float64)[None]]),
        state.meta,
    )
