"""Mouths from close up: where they are cut, what their gap measures, and what is not resolved."""

import json

import numpy as np
import pytest
import torch

from helpers.expressive import points_of as head
from lifemask.assets import AssetError, weights_path
from lifemask.facemodel import load_face_model
from lifemask.faces.closeup import STABLE
from lifemask.faces.mouth import (
    ACROSS_MM,
    BLUR_PX,
    HEIGHT,
    MOUTH_MM,
    WIDTH,
    MouthReader,
    MouthReading,
    cut_mouth,
    load_mouth,
    mouth_opening,
    mouth_place,
)
from lifemask.graphics.camera import orthographic_camera, project, rotation_from_euler_deg


@pytest.fixture(scope="module")
def model():
    return load_face_model()


def seen(points, yaw=0.0, roll=0.0, scale=3.0):
    rotation = rotation_from_euler_deg(torch.tensor([0.0, yaw, roll]))
    return project(points, orthographic_camera(rotation, scale, torch.tensor([300.0, 200.0])))


def test_the_opening_grows_with_the_jaw_and_not_with_the_pose(model):
    levels = [float(mouth_opening(head(model, jawOpen=x))) for x in (0.0, 0.1, 0.3, 0.6)]
    assert levels[0] < 0.02 and (np.diff(levels) > 0.04).all()
    smile = head(model, mouthSmileLeft=0.8, mouthSmileRight=0.8)
    assert float(mouth_opening(smile)) < 0.02, "a smile with shut lips is shut"
    open_mouth = head(model, jawOpen=0.4)
    turned = open_mouth @ rotation_from_euler_deg(torch.tensor([10.0, 50.0, 20.0])).mT
    assert float(mouth_opening(turned)) == pytest.approx(float(mouth_opening(open_mouth)))
    batch = mouth_opening(torch.stack((open_mouth, smile)))
    assert batch.shape == (2,) and batch[0] > batch[1]


@pytest.mark.parametrize(("yaw", "roll"), [(0.0, 0.0), (40.0, 30.0), (-60.0, -20.0)])
def test_a_crop_is_upright_and_as_wide_as_it_says(model, yaw, roll):
    """Dots on the corners of the mouth are found where the crop's scale puts them."""
    points = seen(head(model), yaw, roll)
    template = head(model)[list(STABLE)]
    place = mouth_place(points, template)
    assert place.px_per_mm == pytest.approx(3.0, rel=1e-3)
    rows, columns = np.mgrid[:400, :600]
    found = []
    for k in (48, 54):
        u, v = points[k, :2].numpy()
        dot = 255 * np.exp(-((columns - u) ** 2 + (rows - v) ** 2) / 30)
        image = np.repeat(dot.astype(np.uint8)[..., None], 3, 2)
        crop = cut_mouth(image, place)[..., 0].astype(float)
        assert crop.shape == (HEIGHT, WIDTH)
        y, x = np.mgrid[:HEIGHT, :WIDTH]
        found.append(np.array([(crop * x).sum(), (crop * y).sum()]) / crop.sum())
    apart = (points[54, :2] - points[48, :2]).norm() / 3.0 * WIDTH / ACROSS_MM
    assert np.linalg.norm(found[1] - found[0]) == pytest.approx(float(apart), abs=1.0)
    assert found[0][0] < WIDTH / 2 < found[1][0]
    rotation = rotation_from_euler_deg(torch.tensor([0.0, yaw, roll])).numpy()
    up = np.array([rotation[0, 1], -rotation[1, 1]])
    np.testing.assert_allclose(place.up, up / np.linalg.norm(up), atol=1e-3)
    np.testing.assert_allclose(place.direction, rotation[2], atol=1e-3)


def test_what_a_small_photo_cannot_show_is_not_sure(model):
    """The same reading is less certain the fewer pixels the mouth has."""

    def network(crops, directions):
        assert crops.shape == (1, 3, HEIGHT, WIDTH) and crops.dtype == np.float32
        assert directions.shape == (1, 3)
        return np.array([[0.12, 0.03]], np.float32)

    reader = MouthReader(network, head(model)[list(STABLE)])
    image = np.zeros((400, 600, 3), np.uint8)
    large, small = (reader(image, seen(head(model), scale=s)) for s in (4.0, 0.4))
    assert float(large.opening) == float(small.opening) == pytest.approx(0.12)
    for reading, scale in ((large, 4.0), (small, 0.4)):
        expected = np.hypot(0.03, BLUR_PX / (scale * MOUTH_MM))
        assert float(reading.sigma) == pytest.approx(expected, rel=1e-3)


def test_rows_of_many_frames_are_one_reading():
    rows = np.array([[0.1, 0.02], [0.3, 0.05], [0.0, 0.01]])
    reading = MouthReading.of_rows(rows)
    np.testing.assert_array_equal(reading.opening, rows[:, 0])
    np.testing.assert_array_equal(reading.sigma, rows[:, 1])


def test_points_must_be_finite(model):
    points = seen(head(model))
    points[60, 0] = float("nan")
    with pytest.raises(ValueError, match="finite"):
        mouth_place(points, head(model)[list(STABLE)])


def test_engines_of_the_shipped_reader_agree(model):
    image = np.random.default_rng(1).integers(0, 255, (400, 600, 3), dtype=np.uint8)
    points = seen(head(model), 20.0, 15.0)
    one, other = (load_mouth(engine)(image, points) for engine in ("onnx", "torch"))
    np.testing.assert_allclose(one.opening, other.opening, atol=1e-4)
    np.testing.assert_allclose(one.sigma, other.sigma, atol=1e-4)


def test_the_shipped_template_is_the_default_heads(model):
    card = json.loads(weights_path("mouth-open").with_suffix(".json").read_text(encoding="utf-8"))
    assert card["tag"] == "open" and card["licence"] == "Apache-2.0"
    np.testing.assert_allclose(card["network"]["template_mm"], head(model)[list(STABLE)], atol=1e-3)


def test_missing_weights_are_named(tmp_path, monkeypatch):
    monkeypatch.setenv("LIFEMASK_WEIGHTS", str(tmp_path))
    with pytest.raises(AssetError, match="mouth-open"):
        load_mouth()
