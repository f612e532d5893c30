"""The peer's adapter, with made-up networks: regions, misses, turning upright, the file."""

import runpy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from lifemask.evaluation.readers import read_predictions

TOOL = runpy.run_path(str(Path(__file__).parents[2] / "tools" / "predict_mediapipe.py"))
Region, look_twice = TOOL["Region"], TOOL["look_twice"]
SPOT = (301.0, 214.0)


@pytest.fixture
def photo():
    """A dark photo (400, 500, 3) with one bright spot of 5 px."""
    picture = np.zeros((400, 500, 3), np.uint8)
    u, v = map(int, SPOT)
    picture[v - 2 : v + 3, u - 2 : u + 3] = 255
    return picture


def brightest(region):
    """Centre of the bright pixels in region px, edges at 0 and 256."""
    v, u = np.nonzero(region[..., 0] > 0.5)
    return np.array([u.mean() + 0.5, v.mean() + 0.5])


@pytest.mark.parametrize("angle", [0.0, 0.4, -1.9])
def test_a_spot_comes_back_to_its_place_from_any_region(photo, angle):
    region = Region((280.0, 240.0), 200.0, angle)
    found = region.to_photo(np.array([[*brightest(region.cut(photo)), 10.0]]))[0]
    np.testing.assert_allclose(found[:2], SPOT, atol=0.5)
    assert found[2] == pytest.approx(-10 * 200 / 256)  # nearer is larger


def test_a_region_beyond_the_border_continues_it(photo):
    assert Region((-30.0, 10.0), 100.0).cut(photo).shape == (256, 256, 3)


def test_the_second_look_is_level_and_round_the_points(photo):
    regions = []

    def network(region):
        points = np.full((478, 3), 128.0)
        points[33], points[263] = (64, 100, 0), (192, 156, 0)  # eyes lean clockwise
        regions.append(region)
        return points, 1.0

    first = TOOL["region_of_box"](np.array([200, 100, 400, 300.0]))
    assert first.side == pytest.approx(200 * 1.5 / 2**0.5) and first.center == (300, 200)
    points = first.to_photo(network(None)[0])
    second = TOOL["region_of_points"](points)
    assert second.angle == pytest.approx(np.arctan2(56, 128))
    assert second.side == pytest.approx(1.5 * 128 * first.side / 256)
    look_twice(lambda region: 0.0, network, photo, np.array([200, 100, 400, 300.0]))
    assert len(regions) == 3


def test_a_lean_of_the_head_turns_the_first_region(photo):
    box = np.array([200, 100, 400, 300.0])
    seen = []
    network = lambda region: (seen.append(brightest(region)), (np.full((478, 3), 128.0), 0.0))[1]  # noqa: E731
    for lean in (0.0, np.pi / 2):
        assert look_twice(lambda region, lean=lean: lean, network, photo, box) is None
    upright, turned = (place - 128 for place in seen)
    np.testing.assert_allclose(turned, [upright[1], -upright[0]], atol=1)


def test_the_detectors_anchors():
    anchors = TOOL["anchors"]()
    assert anchors.shape == (896, 2)
    np.testing.assert_allclose(anchors[:4], [[1 / 32, 1 / 32]] * 2 + [[3 / 32, 1 / 32]] * 2)
    np.testing.assert_allclose(anchors[-1], [15 / 16, 15 / 16])


def test_misses_are_written_and_read_as_misses(tmp_path, photo):
    photos = SimpleNamespace(
        names=("a", "b"),
        boxes=np.array([[200, 100, 400, 300.0]] * 2),
        image=lambda row: photo if row else np.zeros_like(photo),
    )

    def network(region):
        rng = np.random.default_rng(0)
        return rng.uniform(0, 256, (478, 3)), float(region.max())

    missed = TOOL["predict"](photos, lambda region: 0.0, network, tmp_path / "p.npz")
    assert missed == 1
    read, origin = read_predictions(tmp_path / "p.npz", photos.names)
    assert read.found.tolist() == [False, True] and read.landmarks68.shape == (2, 68, 3)
    assert origin["meta"]["system"] == "MediaPipe face mesh"
