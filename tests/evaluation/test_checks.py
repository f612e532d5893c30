"""Each known mistake is suspected from noisy predictions; sound ones raise no suspicion."""

import numpy as np
import pytest

from lifemask.evaluation.checks import suspicions
from lifemask.facemodel.landmarks import FLIP_68

COUNT = 40


@pytest.fixture(scope="module")
def case():
    """Faces (n, 68, 3) that look like faces, boxes by 3DDFA's rule, predictions with 4 px noise."""
    rng = np.random.default_rng(0)
    angle = np.linspace(-1, 1, 68)
    mean = np.stack([60 * angle, 70 * np.cos(7 * angle) - 20 * angle**2, 40 * (1 - angle**2)], 1)
    mean = (mean + mean[list(FLIP_68)] * [-1, 1, 1]) / 2  # symmetric, index 0 at image left
    size = rng.uniform(0.6, 1.4, (COUNT, 1, 1))
    place = np.concatenate([rng.uniform(150, 300, (COUNT, 1, 2)), np.zeros((COUNT, 1, 1))], 2)
    truth = size * (mean + rng.normal(0, 3, (COUNT, 68, 3))) + place
    low, high = truth[..., :2].min(1), truth[..., :2].max(1)
    half = np.sqrt(0.5) * (high - low).max(1, keepdims=True)
    boxes = np.concatenate([(low + high) / 2 - half, (low + high) / 2 + half], axis=1)
    return truth, truth + rng.normal(0, 4, truth.shape), boxes


def found_in(case, mistake, truth=None):
    right, guess, boxes = case
    entries = suspicions(
        mistake(guess.copy(), boxes),
        right if truth is None else truth,
        np.ones(COUNT, bool),
        boxes,
        np.full(COUNT, 450.0),
    )
    assert all(("message" in e) == e["suspicious"] for e in entries)
    return [e["check"] for e in entries if e["suspicious"]]


def flipped(points):
    return points[:, list(FLIP_68)]


def with_u(points, u):
    return np.concatenate([u[..., None], points[..., 1:]], axis=-1)


def test_sound_predictions_raise_no_suspicion(case):
    assert found_in(case, lambda p, b: p) == []


@pytest.mark.parametrize(
    ("expected", "mistake"),
    [
        ("left and right swapped", lambda p, b: flipped(p)),
        ("mirrored photo", lambda p, b: flipped(with_u(p, 449 - p[..., 0]))),
        ("mirrored in the crop", lambda p, b: flipped(with_u(p, b[:, :1] + b[:, 2:3] - p[..., 0]))),
        ("u and v swapped", lambda p, b: p[..., [1, 0, 2]]),
        ("counted from 1", lambda p, b: p + [1, 1, 0]),
        ("depth has the wrong sign", lambda p, b: p * [1, 1, -1]),
        ("depth left in crop px", lambda p, b: p * np.array([1, 1, 3.0])),
    ],
)  # fmt: skip
def test_a_mistake_is_suspected_by_its_name(case, expected, mistake):
    truth, guess, boxes = case
    if expected == "depth left in crop px":  # larger crops, so that the scale is clearly not 1
        centre = (boxes[:, None, :2] + boxes[:, None, 2:]) / 2
        wide = np.concatenate([centre - 180, centre + 180], axis=-1)[:, 0]
        entries = suspicions(guess / [1, 1, 3.0], truth, np.ones(COUNT, bool), wide)
        assert expected in [e["check"] for e in entries if e["suspicious"]]
    else:
        assert expected in found_in(case, mistake)


def test_upside_down_crops_are_suspected(case):
    def mistake(p, b):
        p[..., 1] = (b[:, 1:2] + b[:, 3:4]) - p[..., 1]
        return p

    assert "upside down in the crop" in found_in(case, mistake)


def test_the_wrong_flip_constant_is_suspected(case):
    """121 - y in place of 119 - y lowers every point by two crop px."""

    def mistake(p, b):
        scale = (b[:, 2:3] - b[:, :1]) / 120
        p[..., 1] += 2 * scale
        return p

    assert found_in(case, mistake) == ["y flipped as 121 - y"]


def test_points_left_in_the_crop_are_suspected(case):
    def mistake(p, b):
        scale = ((b[:, 2] - b[:, 0]) / 120)[:, None, None]
        p[..., :2] = (p[..., :2] - b[:, None, :2]) / scale - 0.5
        return p

    assert "left in crop px" in found_in(case, mistake)


def test_nothing_is_corrected_and_misses_do_not_count(case):
    truth, guess, boxes = case
    before = guess.copy()
    found = np.ones(COUNT, bool)
    found[::2] = False
    broken = guess.copy()
    broken[::2] = np.nan
    entries = suspicions(broken, truth, found, boxes)
    assert not any(e["suspicious"] for e in entries)
    np.testing.assert_array_equal(guess, before)
    assert suspicions(guess, truth, np.zeros(COUNT, bool), boxes) == []


def test_a_system_without_depth_or_a_truth_without_depth_is_checked_in_the_plane(case):
    truth, guess, boxes = case
    flat = guess.copy()
    flat[..., 2] = np.nan
    names = {e["check"] for e in suspicions(flat, truth, np.ones(COUNT, bool), boxes)}
    assert not any("depth" in name for name in names)
    assert suspicions(guess, truth[..., :2], np.ones(COUNT, bool), boxes)
