"""PGN as a stage: where the crop comes from, one photo or several, and what landmarks say of it."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from fake_stages import EggLandmarker
from lifemask.assets import AssetError, UserError
from lifemask.facemodel import load_face_model
from lifemask.faces.landmarker import quarter_turns
from lifemask.graphics.camera import orthographic_camera, project, rotation_from_euler_deg
from lifemask.methods._person import stage_together
from lifemask.methods._pgn_stage import PgnStage, create_stage
from lifemask.methods._stage import FaceInput, PersonStage, StageSetup
from lifemask.methods.fitting import fit_landmarks
from lifemask.methods.pgn import PgnPredictConfig
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

    def together(self, views, config=None):
        self.calls += [(view.face, view.landmarks, config) for view in views]
        return [self.geometry for _ in views]


@pytest.fixture(scope="module")
def egg():
    landmarker = EggLandmarker()
    landmarks = landmarker(PHOTO, FACE)
    geometry = fit_landmarks(landmarks, landmarker.model)
    return landmarker.model, landmarks, replace(geometry, residual_px=math.nan)


def test_found_landmarks_do_not_reach_the_network_but_measure_it(egg):
    model, landmarks, geometry = egg
    stage = PgnStage(FakePredictor(geometry), model)
    assert stage.needs_landmarks is False
    assert math.isnan(stage(FaceInput(PHOTO, FACE)).residual_px)
    assert stage(FaceInput(PHOTO, FACE, landmarks)).residual_px < 0.5
    assert stage.predictor.calls == [(FACE, None, PgnPredictConfig())] * 2


def test_several_photos_go_to_the_network_together(egg):
    model, landmarks, geometry = egg
    stage = PgnStage(FakePredictor(geometry), model, PgnPredictConfig(flip=True))
    assert isinstance(stage, PersonStage)
    shifted = replace(landmarks, points=landmarks.points + torch.tensor([3.0, -4.0, 50.0]))
    other = Face((50.0, 40.0, 190.0, 160.0), 0.8)
    seen = [
        FaceInput(PHOTO, FACE, landmarks),
        FaceInput(PHOTO, other, shifted),
        FaceInput(PHOTO, FACE),
    ]
    found = stage_together(stage, seen, model)
    assert [call[0] for call in stage.predictor.calls] == [FACE, other, FACE]
    assert all(call[1:] == (None, PgnPredictConfig(flip=True)) for call in stage.predictor.calls)
    assert found[0].residual_px < 0.5 and found[1].residual_px == pytest.approx(5, abs=0.5)
    assert math.isnan(found[2].residual_px)


@pytest.mark.parametrize("turns", range(4))
def test_a_users_landmarks_place_the_crop_and_tell_how_the_face_lies(turns):
    """The photo turned clockwise needs as many counter-clockwise turns to stand upright."""
    model = load_face_model()
    identity = torch.zeros(model.identity_size)
    expression = torch.zeros(len(model.expression_names))
    rotation = rotation_from_euler_deg(torch.tensor([5.0, 25.0, 10.0]))
    camera = orthographic_camera(rotation, 0.9, torch.tensor([150.0, 110.0]))
    vertices = model(identity, expression)
    params = ModelParams(identity, expression)
    geometry = Geometry(vertices, model.topology.faces, camera, model.name, params)
    points = project(model.landmarks(vertices, "lifemask392"), camera)
    for _ in range(turns):
        points = torch.stack((199 - points[:, 1], points[:, 0], points[:, 2]), 1)
    given = Landmarks(points, torch.ones(392), "lifemask392")
    seen = FaceInput(PHOTO, FACE, given, given=True)
    stage = PgnStage(FakePredictor(geometry), model)
    stage(seen)
    stage.together([seen])
    for face, placing, _ in stage.predictor.calls:
        assert placing.convention == "ibug68-3d-bfm"
        torch.testing.assert_close(placing.points, points[68:136])
        assert face.box == FACE.box and quarter_turns(face.points5) == turns


def test_a_users_landmarks_of_a_foreign_set_are_refused(egg):
    model, _, geometry = egg
    given = Landmarks(100 * torch.rand(15, 3), torch.ones(15), "bfm15")
    with pytest.raises(UserError, match="no landmark set 'bfm15'"):
        PgnStage(FakePredictor(geometry), model)(FaceInput(PHOTO, FACE, given, given=True))


def test_what_was_chosen_is_recorded(egg):
    model, _, geometry = egg
    seen = FaceInput(PHOTO, FACE)
    plain = PgnStage(FakePredictor(geometry), model)
    assert plain.options(seen) == {"shape": "model", "flip": "yes"}
    stage = PgnStage(FakePredictor(geometry), model, PgnPredictConfig(flip=False, shape="map"))
    assert stage.options(seen) == {"shape": "map", "flip": "no"}


def test_missing_weights_are_told(monkeypatch, tmp_path, egg):
    monkeypatch.setenv("LIFEMASK_WEIGHTS", str(tmp_path))
    with pytest.raises(AssetError, match="pgn weights are not installed: pgn-research"):
        create_stage(StageSetup(egg[0], "research"))


def test_a_network_of_another_face_model_is_told(egg):
    model = egg[0]
    assert model.name != "lifemask"
    with pytest.raises(UserError, match=f"pgn-open knows heads of the face model 'lifemask' only.*"
                       f"--method fit for '{model.name}'"):  # fmt: skip
        create_stage(StageSetup(model))
