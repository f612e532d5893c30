"""One identity for heads that a method found one by one."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from fake_stages import EggLandmarker, EggModel
from lifemask.assets import UserError
from lifemask.graphics.camera import orthographic_camera, project, rotation_from_euler_deg
from lifemask.methods._fitting_stage import FitStage
from lifemask.methods._person import FULL_FACE_PX, agreed_heads, identity_weights, stage_together
from lifemask.methods._stage import FaceInput, GeometryStage, PersonStage
from lifemask.methods.fitting import FitConfig
from lifemask.types import Face, Geometry, Landmarks, ModelParams

PHOTO = np.zeros((200, 300, 3), np.uint8)
FACE = Face((90.0, 40.0, 190.0, 160.0), 0.9)


def egg(model: EggModel, seed: int, yaw_deg: float = 0.0, px_per_mm: float = 1.0) -> Geometry:
    generator = torch.Generator().manual_seed(seed)
    identity = torch.randn(model.identity_size, generator=generator)
    expression = 0.5 * torch.rand(len(model.expression_names), generator=generator)
    rotation = rotation_from_euler_deg(torch.tensor([5.0, yaw_deg, 8.0]))
    camera = orthographic_camera(rotation, px_per_mm, torch.tensor([140.0, 90.0]))
    vertices = model(identity, expression)
    params = ModelParams(identity, expression)
    points = model.landmarks(vertices, "ict68")
    return Geometry(vertices, model.topology.faces, camera, "egg", params, points, 1.0)


class OneByOne:
    """A method that sees one photo at a time, and knows the answers."""

    needs_landmarks = False

    def __init__(self, heads):
        self.heads = iter(heads)

    def __call__(self, seen: FaceInput) -> Geometry:
        return next(self.heads)

    def options(self, seen: FaceInput) -> dict[str, str]:
        return {}


def test_heads_get_one_identity_and_keep_their_expression():
    model = EggModel()
    heads = [egg(model, seed, yaw) for seed, yaw in enumerate((-30.0, 0.0, 45.0))]
    found = agreed_heads(heads, model)
    for before, after in zip(heads, found, strict=True):
        assert before.params is not None and after.params is not None and found[0].params
        assert torch.equal(after.params.identity, found[0].params.identity)
        assert torch.equal(after.params.expression, before.params.expression)
        expected = model(after.params.identity, after.params.expression)
        torch.testing.assert_close(after.vertices_mm, expected)
        torch.testing.assert_close(after.landmarks68_mm, model.landmarks(expected, "ict68"))


def test_the_face_stays_where_it_was_seen():
    model = EggModel()
    heads = [egg(model, seed, yaw) for seed, yaw in enumerate((-30.0, 20.0))]
    face = model.topology.regions["face"]
    for before, after in zip(heads, agreed_heads(heads, model), strict=True):
        seen = project(before.vertices_mm[face], before.camera)[:, :2]
        own = project(after.vertices_mm[face], after.camera)[:, :2]
        left = project(after.vertices_mm[face], before.camera)[:, :2]
        assert (own - seen).square().mean() < 0.95 * (left - seen).square().mean()


def test_equal_heads_stay_as_they_are():
    model = EggModel()
    head = egg(model, 3, 25.0)
    for after in agreed_heads([head, head], model):
        torch.testing.assert_close(after.vertices_mm, head.vertices_mm)
        torch.testing.assert_close(after.camera.rotation, head.camera.rotation, atol=1e-5, rtol=0)
        torch.testing.assert_close(after.camera.scale, head.camera.scale)


def test_large_and_frontal_faces_count_more():
    model = EggModel()
    height_px = 220.0  # of an egg at 1 px per mm, about
    weights = identity_weights(
        [
            egg(model, 0, 0.0, 5 * FULL_FACE_PX / height_px),
            egg(model, 0, 0.0, 2 * FULL_FACE_PX / height_px),
            egg(model, 0, 0.0, 0.5 * FULL_FACE_PX / height_px),
            egg(model, 0, 60.0, 2 * FULL_FACE_PX / height_px),
            egg(model, 0, 100.0, 2 * FULL_FACE_PX / height_px),
        ],
        model,
    )
    full, same, small, turned, away = weights.tolist()
    assert full == pytest.approx(same) and full <= 1
    assert small == pytest.approx(0.5 * full, rel=0.05)
    assert turned == pytest.approx(0.5 * full, rel=0.05) and away == pytest.approx(0.2)


def test_a_method_of_single_photos_is_made_to_agree():
    model = EggModel()
    heads = [egg(model, 1, -20.0), egg(model, 2, 20.0)]
    stage: GeometryStage = OneByOne(heads)
    assert not isinstance(stage, PersonStage)
    moved = project(model.landmarks(heads[0].vertices_mm, "ict68"), heads[0].camera) + 300
    seen = [
        FaceInput(PHOTO, FACE, Landmarks(moved, torch.ones(68), "ict68")),
        FaceInput(PHOTO, FACE),
    ]
    found = stage_together(stage, seen, model)
    assert found[0].residual_px == pytest.approx(300 * 2**0.5, rel=0.1)  # measured again
    assert np.isnan(found[1].residual_px)
    assert found[0].params and found[1].params
    assert torch.equal(found[0].params.identity, found[1].params.identity)


def test_what_has_no_identity_to_share_is_refused():
    model = EggModel()
    head = egg(model, 1)
    pinhole = replace(head, camera=replace(head.camera, model="pinhole"))
    for wrong in (replace(head, params=None), replace(head, model="other"), pinhole):
        with pytest.raises(UserError, match="fit, dasl or pgn"):
            stage_together(OneByOne([head, wrong]), [FaceInput(PHOTO, FACE)] * 2, model)


def test_the_fitter_sees_all_photos_together():
    model = EggModel()
    stage = FitStage(model, FitConfig())
    assert isinstance(stage, PersonStage)
    poses = ((5.0, 20.0, -4.0), (0.0, -35.0, 6.0))
    seen = [FaceInput(PHOTO, FACE, EggLandmarker(pose)(PHOTO, FACE)) for pose in poses]
    first, second = stage_together(stage, seen, model)
    assert first.params is not None and second.params is not None
    assert torch.equal(first.params.identity, second.params.identity)
    assert first.residual_px < 0.1 and second.residual_px < 0.1
    with pytest.raises(ValueError, match="needs landmarks"):
        stage.together([seen[0], FaceInput(PHOTO, FACE)])
