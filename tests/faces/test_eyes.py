"""Eyes from close up: where they are cut, what their lids measure, and how two eyes agree."""

import json

import numpy as np
import pytest
import torch

from helpers.expressive import points_of as head
from lifemask.assets import AssetError, weights_path
from lifemask.facemodel import load_face_model
from lifemask.faces.closeup import STABLE, Place, rough_pose
from lifemask.faces.eyes import (
    ACROSS_MM,
    HEIGHT,
    LIDS,
    TOGETHER_OPENING,
    WIDTH,
    EyeReader,
    cut_eye,
    eye_places,
    lid_opening,
    load_eyes,
    together,
)
from lifemask.graphics.camera import orthographic_camera, project, rotation_from_euler_deg


@pytest.fixture(scope="module")
def model():
    return load_face_model()


def seen(model, points, pitch=0.0, yaw=0.0, roll=0.0, scale=2.0, center=(300.0, 200.0)):
    rotation = rotation_from_euler_deg(torch.tensor([pitch, yaw, roll]))
    return project(points, orthographic_camera(rotation, scale, torch.tensor(center)))


def test_opening_is_a_length_on_the_head_whatever_its_pose_and_size(model):
    points = head(model, eyeBlinkLeft=0.5)
    straight = lid_opening(points)
    for angles in ((0, 60, 0), (20, -30, 40)):
        turned = seen(model, points, *map(float, angles), scale=0.3)
        torch.testing.assert_close(lid_opening(turned), straight, atol=1e-4, rtol=0)
    assert straight[0] < 0.7 * straight[1], "the subject's left eye comes first"


def test_shut_and_open_eyes_are_far_apart(model):
    shut = lid_opening(head(model, eyeBlinkLeft=1, eyeBlinkRight=1))
    assert (shut < 0.08).all() and (lid_opening(head(model)) > 0.25).all()


def test_places_follow_the_head(model):
    template = head(model)[list(STABLE)]
    points = seen(model, head(model), 10.0, 30.0, 25.0, scale=1.7)
    left, right = eye_places(points, template)
    for place, part in zip((left, right), LIDS, strict=True):
        middle = points[part][[0, 3], :2].mean(0)
        np.testing.assert_allclose(place.center_px, middle, atol=1e-4)
        assert abs(place.px_per_mm - 1.7) < 0.02
        assert abs(np.linalg.norm(place.direction) - 1) < 1e-4
    assert left.mirror and not right.mirror
    assert left.direction[0] == -right.direction[0]
    rotation = rotation_from_euler_deg(torch.tensor([10.0, 30.0, 25.0]))
    up = np.array([float(rotation[0, 1]), -float(rotation[1, 1])])
    np.testing.assert_allclose(right.up, up / np.linalg.norm(up), atol=0.02)


def test_the_rough_pose_is_procrustes(model):
    """The same as the batched solver gives, with noise on the points and in profile, too."""
    from lifemask.graphics.pose import procrustes_camera

    template = head(model)[list(STABLE)].double()
    for yaw in (-85.0, 0.0, 40.0):
        points = seen(model, head(model), 10.0, yaw, 25.0).double()
        points = points + torch.randn(points.shape, generator=torch.Generator().manual_seed(1))
        camera = procrustes_camera(template, points[list(STABLE)])
        rotation, scale = rough_pose(points.numpy(), template.numpy())
        np.testing.assert_allclose(rotation, camera.rotation, atol=1e-6)
        assert scale == pytest.approx(float(camera.scale), rel=1e-6)


def test_a_mirrored_photo_swaps_the_eyes(model):
    """The left eye's crop is the right eye's of the mirrored photo, and so are their places."""
    rng = np.random.default_rng(0)
    image = rng.integers(0, 255, (400, 600, 3), dtype=np.uint8)
    template = head(model)[list(STABLE)]
    points = seen(model, head(model), 5.0, 20.0, 15.0)
    from lifemask.facemodel.landmarks import flip_table

    mirrored = points[list(flip_table("ict68"))].clone()
    mirrored[:, 0] = 599 - mirrored[:, 0]
    left, right = eye_places(points, template)
    other_left, other_right = eye_places(mirrored, template)
    for mine, other in ((left, other_right), (right, other_left)):
        np.testing.assert_allclose(mine.direction, other.direction, atol=5e-3)
        first = cut_eye(image, mine).astype(float)
        second = cut_eye(image[:, ::-1].copy(), other).astype(float)
        assert np.abs(first - second).mean() < 6  # of noise: half a pixel would give 40
        assert first.shape == (HEIGHT, WIDTH, 3)


def test_a_crop_is_upright_and_to_scale():
    """A bar that points up in the head's frame stands upright in the crop."""
    angle = np.deg2rad(35)
    up = (float(np.sin(angle)), float(-np.cos(angle)))
    v, u = np.mgrid[:300, :300].astype(float)
    along = (u - 150) * up[0] + (v - 140) * up[1]
    across = -(u - 150) * up[1] + (v - 140) * up[0]
    image = np.where((np.abs(across) < 6) & (along > 0), 255, 0).astype(np.uint8)
    place = Place((150.0, 140.0), 3.0, up, False, (0.0, 0.0, 1.0))
    crop = cut_eye(np.repeat(image[..., None], 3, 2), place)[..., 0].astype(float)
    columns = crop[:20].mean(0)
    wide = 12 / (ACROSS_MM * 3.0) * WIDTH
    assert abs(columns.sum() / 255 - wide) < 0.4
    assert abs((columns * np.arange(WIDTH)).sum() / columns.sum() - (WIDTH - 1) / 2) < 0.3
    assert crop[28:].max() < 5


def test_a_doubtful_eye_follows_the_other_one():
    sure = np.array([0.05, 4.0, 8.0, 0.01, 1.0, 1.0])
    lost = np.array([0.30, 0.0, 0.0, 1.0, 30.0, 30.0])
    reading = together(np.stack((lost, sure)))
    assert abs(reading.opening[0] - 0.05) < 0.01 and abs(reading.opening[1] - 0.05) < 0.003
    assert abs(reading.gaze_deg[0, 1] - 8.0) < 0.5, "both look to the same side"
    assert reading.opening_sigma[0] > 0.9 * TOGETHER_OPENING > reading.opening_sigma[1]


def test_a_wink_stays_a_wink():
    shut, wide = np.array([0.05, 0, 0, 0.03, 1, 1]), np.array([0.33, 0, 0, 0.03, 1, 1])
    reading = together(np.stack((shut, wide)))
    assert reading.opening[0] < 0.07 and reading.opening[1] > 0.31
    alike = together(np.array([[0.24, 0, 0, 0.03, 1, 1], [0.28, 0, 0, 0.03, 1, 1]]))
    assert 0.245 < alike.opening[0] < alike.opening[1] < 0.275


def test_the_mirrored_eye_looks_the_other_way():
    raw = np.array([[0.3, 2.0, -10.0, 0.01, 1, 1], [0.3, 2.0, 10.0, 0.01, 1, 1]])
    reading = together(raw)
    np.testing.assert_allclose(reading.gaze_deg, [[2, 10], [2, 10]], atol=1e-6)


def test_points_that_are_not_finite_are_refused(model):
    points = seen(model, head(model))
    points[40, 0] = float("nan")
    with pytest.raises(ValueError, match="finite"):
        eye_places(points, head(model)[list(STABLE)])


def test_engines_of_the_shipped_reader_agree(model):
    rng = np.random.default_rng(1)
    image = rng.integers(0, 255, (400, 600, 3), dtype=np.uint8)
    points = seen(model, head(model), 5.0, 20.0, 15.0)
    one, other = (load_eyes(engine)(image, points) for engine in ("onnx", "torch"))
    np.testing.assert_allclose(one.opening, other.opening, atol=1e-4)
    np.testing.assert_allclose(one.gaze_deg, other.gaze_deg, atol=0.02)


def test_the_shipped_template_is_the_default_heads(model):
    card = json.loads(weights_path("eyes-open").with_suffix(".json").read_text(encoding="utf-8"))
    assert card["tag"] == "open" and card["licence"] == "Apache-2.0"
    np.testing.assert_allclose(card["network"]["template_mm"], head(model)[list(STABLE)], atol=1e-3)


def test_missing_weights_are_named(tmp_path, monkeypatch):
    monkeypatch.setenv("LIFEMASK_WEIGHTS", str(tmp_path))
    with pytest.raises(AssetError, match="eyes-open"):
        load_eyes()


def test_the_reader_gives_its_network_both_eyes(model):
    asked = []

    def network(crops, directions):
        asked.append((crops.shape, crops.dtype, directions.shape))
        return np.tile([0.2, 1.0, 2.0, 0.01, 1.0, 1.0], (2, 1))

    reader = EyeReader(network, head(model)[list(STABLE)])
    reading = reader(np.zeros((400, 600, 3), np.uint8), seen(model, head(model)))
    assert asked == [((2, 3, HEIGHT, WIDTH), np.float32, (2, 3))]
    np.testing.assert_allclose(reading.opening, 0.2, atol=1e-9)
