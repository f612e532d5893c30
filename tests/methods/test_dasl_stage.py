"""2DASL as a stage: what is drawn, where the face begins, and what landmarks say of the result."""

import math

import numpy as np
import pytest
import torch

from fake_stages import EggLandmarker
from lifemask.assets import AssetError, UserError
from lifemask.facemodel import load_face_model
from lifemask.facemodel.landmarks import convert
from lifemask.faces.landmarker import quarter_turns
from lifemask.graphics.camera import orthographic_camera, project, rotation_from_euler_deg
from lifemask.methods._dasl_stage import MAP_SOURCES, DaslStage, create_stage
from lifemask.methods._given_landmarks import completed, landmark_distance_px
from lifemask.methods._stage import FaceInput, StageSetup
from lifemask.methods.dasl import DaslPredictConfig
from lifemask.methods.fitting import fit_landmarks
from lifemask.types import Face, Geometry, Landmarks, ModelParams

PHOTO = np.zeros((200, 300, 3), np.uint8)
FACE = Face((90.0, 40.0, 190.0, 160.0), 0.9)


class FakePredictor:
    """Returns one geometry and remembers what it was asked."""

    def __init__(self, geometry):
        self.geometry = geometry
        self.calls = []

    def __call__(self, image, face, landmarks=None, config=None):
        self.calls.append((face, landmarks, config))
        return self.geometry


@pytest.fixture(scope="module")
def egg():
    landmarker = EggLandmarker()
    landmarks = landmarker(PHOTO, FACE)
    return landmarker.model, landmarks, fit_landmarks(landmarks, landmarker.model)


@pytest.fixture(scope="module")
def head():
    """The lifemask model with a neutral head seen from 25 degrees, 150 px wide or so."""
    model = load_face_model()
    identity = torch.zeros(model.identity_size)
    expression = torch.zeros(len(model.expression_names))
    rotation = rotation_from_euler_deg(torch.tensor([5.0, 25.0, 10.0]))
    camera = orthographic_camera(rotation, 0.9, torch.tensor([150.0, 110.0]))
    vertices = model(identity, expression)
    params = ModelParams(identity, expression)
    return model, Geometry(vertices, model.topology.faces, camera, model.name, params)


def landmarks_of(head, name, **options) -> Landmarks:
    model, geometry = head
    points = project(model.landmarks(geometry.vertices_mm, name), geometry.camera)
    return Landmarks(points, torch.full((len(points),), options.get("sigma", 1.0)), name)


@pytest.mark.parametrize("source", MAP_SOURCES)
def test_found_landmarks_are_drawn_only_where_that_is_asked(egg, source):
    model, landmarks, geometry = egg
    stage = DaslStage(FakePredictor(geometry), model, DaslPredictConfig(landmarks=source))
    assert stage.needs_landmarks == (source == "detector")
    seen = FaceInput(PHOTO, FACE, landmarks)
    stage(seen)
    ((face, drawn, config),) = stage.predictor.calls
    assert face is FACE and config.landmarks == source and stage.options(seen) == {"map": source}
    assert (drawn is not None) == (source == "detector")


def test_a_users_landmarks_are_the_map_unless_it_was_chosen(egg):
    model, landmarks, geometry = egg
    seen = FaceInput(PHOTO, FACE, landmarks, given=True)
    for config, source in (
        (None, "detector"),
        (DaslPredictConfig(landmarks="none"), "none"),
        (DaslPredictConfig(landmarks="self"), "self"),
    ):
        stage = DaslStage(FakePredictor(geometry), model, config)
        stage(seen)
        ((face, drawn, asked),) = stage.predictor.calls
        assert asked.landmarks == source and stage.options(seen) == {"map": source}
        assert drawn is not None and face.box == FACE.box  # they place the crop in any case
        torch.testing.assert_close(drawn.points, landmarks.points)


def test_other_settings_stay(egg):
    model, landmarks, geometry = egg
    config = DaslPredictConfig(landmarks="self", repeats=7, passes=1)
    stage = DaslStage(FakePredictor(geometry), model, config)
    stage(FaceInput(PHOTO, FACE, None))
    assert stage.predictor.calls[0][2] == config


@pytest.mark.parametrize("turns", range(4))
def test_given_landmarks_tell_how_the_face_lies(head, turns):
    """The photo turned clockwise needs as many counter-clockwise turns to stand upright."""
    model, geometry = head
    landmarks = landmarks_of(head, "lifemask392")
    points = landmarks.points.clone()
    for _ in range(turns):
        points = torch.stack((199 - points[:, 1], points[:, 0], points[:, 2]), 1)
    stage = DaslStage(FakePredictor(geometry), model)
    stage(FaceInput(PHOTO, FACE, Landmarks(points, landmarks.sigma_px, "lifemask392"), given=True))
    ((face, _, _),) = stage.predictor.calls
    assert quarter_turns(face.points5) == turns


def test_points_of_the_scored_set_pass_unchanged(head):
    landmarks = landmarks_of(head, "lifemask392")
    found = completed(landmarks, head[0])
    assert found.convention == "ibug68-3d-bfm"
    torch.testing.assert_close(found.points, landmarks.points[68:136])
    torch.testing.assert_close(found.sigma_px, landmarks.sigma_px[68:136])


@pytest.mark.parametrize("name", ["ict68", "aflw21", "mediapipe478"])
def test_other_sets_are_carried_to_the_scored_one(head, name):
    truth = landmarks_of(head, "ibug68-3d-bfm")
    found = completed(landmarks_of(head, name), head[0])
    assert found.convention == "ibug68-3d-bfm" and bool(found.points.isfinite().all())
    distance = (found.points - truth.points)[:, :2].norm(dim=1)
    assert float(distance.mean()) < 1.5  # px of a face of some 130


def test_unseen_points_are_completed(head):
    whole = landmarks_of(head, "ibug68-3d-bfm")
    hidden = torch.arange(68) % 3 == 0
    points = torch.where(hidden[:, None], torch.tensor([-999.0, 4e4, float("nan")]), whole.points)
    sigma = torch.where(hidden, torch.inf, whole.sigma_px)
    found = completed(Landmarks(points, sigma, "ibug68-3d-bfm"), head[0])
    assert bool(found.sigma_px.isfinite().all())
    assert float((found.points - whole.points)[:, :2].norm(dim=1).max()) < 4


def test_sets_that_give_no_map_are_refused(head):
    for name, count in (("mediapipe105", 105), ("bfm15", 15), ("hands", 21)):
        landmarks = Landmarks(100 * torch.rand(count, 3), torch.ones(count), name)
        with pytest.raises(UserError, match=f"no landmark set '{name}'"):
            completed(landmarks, head[0])


def test_the_residual_is_the_distance_to_what_is_seen(head):
    model, geometry = head
    for name in ("lifemask392", "ict68", "aflw21", "mediapipe478"):
        exact = landmarks_of(head, name)
        assert landmark_distance_px(geometry, exact, model) == pytest.approx(0, abs=1e-3)
        moved = exact.points + torch.tensor([3.0, -4.0, 50.0])
        sigma = exact.sigma_px.clone()
        moved[5], sigma[5] = torch.nan, torch.inf
        shifted = Landmarks(moved, sigma, name)
        assert landmark_distance_px(geometry, shifted, model) == pytest.approx(5, abs=1e-3)


def test_a_free_mesh_is_compared_by_its_68_landmarks(head):
    from dataclasses import replace

    model, geometry = head
    points68 = model.landmarks(geometry.vertices_mm, "ict68")
    free = replace(geometry, model="", params=None, landmarks68_mm=points68)
    for name in ("ict68", "aflw21"):
        points = project(convert(points68, "ict68", name), geometry.camera) + 3.0
        landmarks = Landmarks(points, torch.ones(len(points)), name)
        assert landmark_distance_px(free, landmarks, model) == pytest.approx(18**0.5, abs=1e-3)
    assert math.isnan(landmark_distance_px(free, landmarks_of(head, "mediapipe478"), model))
    bare = replace(free, landmarks68_mm=None)
    assert math.isnan(landmark_distance_px(bare, landmarks_of(head, "ict68"), model))


def test_without_landmarks_the_residual_is_unknown(egg):
    from dataclasses import replace

    model, landmarks, geometry = egg
    unknown = FakePredictor(replace(geometry, residual_px=float("nan")))
    stage = DaslStage(unknown, model, DaslPredictConfig(landmarks="none"))
    assert math.isnan(stage(FaceInput(PHOTO, FACE)).residual_px)
    assert stage(FaceInput(PHOTO, FACE, landmarks)).residual_px < 0.5
    stage = DaslStage(FakePredictor(geometry), model, DaslPredictConfig(landmarks="detector"))
    with pytest.raises(ValueError, match="needs landmarks"):
        stage(FaceInput(PHOTO, FACE))


def test_missing_weights_are_told(monkeypatch, tmp_path, egg):
    monkeypatch.setenv("LIFEMASK_WEIGHTS", str(tmp_path))
    with pytest.raises(AssetError, match="dasl weights are not installed: dasl-research"):
        create_stage(StageSetup(egg[0], "research"))
