"""Augmentation: image and points move together, colours stay in range, batches can be repeated."""

from dataclasses import replace

import numpy as np
import pytest

from lifemask.data.augment import (
    NO_AUGMENTATION,
    AugmentConfig,
    change_colours,
    draw_views,
    move_points,
    warp,
)

SOURCE, NOMINAL, SIZE = 64, 64 / 1.25, 56
GEOMETRY = AugmentConfig()


def blobs(points: np.ndarray, size: int) -> np.ndarray:
    """Images with a bright Gaussian blob at each point, one channel per point."""
    v, u = np.mgrid[:size, :size]
    images = np.empty((len(points), size, size, 3), np.uint8)
    for b, marks in enumerate(points):
        for c, (x, y) in enumerate(marks):
            images[b, ..., c] = 255 * np.exp(-((u - x) ** 2 + (v - y) ** 2) / (2 * 3.0**2))
    return images


def centroids(crops: np.ndarray) -> np.ndarray:
    v, u = np.mgrid[: crops.shape[1], : crops.shape[2]]
    mass = crops.sum((1, 2))
    x = (crops * u[None, ..., None]).sum((1, 2)) / mass
    y = (crops * v[None, ..., None]).sum((1, 2)) / mass
    return np.stack((x, y), -1)


@pytest.mark.parametrize("flip", [0.0, 1.0])
def test_points_follow_the_image(flip):
    rng = np.random.default_rng(0)
    points = rng.uniform(24, 40, (8, 3, 2))
    config = replace(GEOMETRY, flip=flip, rotation_deg=40.0)
    view = draw_views(rng, config, 8, SOURCE, NOMINAL, SIZE)
    table = np.arange(3)
    moved = move_points(points, view, table)
    found = centroids(warp(blobs(points, SOURCE), view, SIZE))
    np.testing.assert_allclose(found, moved, atol=0.15)


def test_nominal_view_is_the_resampled_centre():
    view = draw_views(np.random.default_rng(0), NO_AUGMENTATION, 2, SOURCE, NOMINAL, SIZE)
    k = SIZE / NOMINAL
    low = (SOURCE - NOMINAL) / 2  # edge of the nominal square
    np.testing.assert_allclose(view.matrix, np.broadcast_to(k * np.eye(2), (2, 2, 2)), atol=1e-12)
    points = np.array([[[10.0, 20.0]], [[31.5, 31.5]]])
    moved = move_points(points, view, np.zeros(1, int))
    np.testing.assert_allclose(moved, (points + 0.5 - low) * k - 0.5, atol=1e-5)


def test_a_mirrored_view_exchanges_partners_and_keeps_depth():
    rng = np.random.default_rng(1)
    config = replace(NO_AUGMENTATION, flip=1.0)
    view = draw_views(rng, config, 1, SOURCE, NOMINAL, SIZE)
    points = np.array([[[10.0, 20.0, 3.0], [50.0, 21.0, -3.0]]])
    moved = move_points(points, view, np.array([1, 0]))
    k = SIZE / NOMINAL
    np.testing.assert_allclose(moved[0, :, 2], [-3 * k, 3 * k], rtol=1e-6)
    assert moved[0, 0, 0] < moved[0, 1, 0]


def test_without_strength_colours_only_change_their_unit():
    crops = np.random.default_rng(2).integers(0, 256, (2, 8, 8, 3)).astype(np.float32)
    expected = crops / 255
    out = change_colours(np.random.default_rng(0), NO_AUGMENTATION, crops.copy())
    np.testing.assert_allclose(out, expected, atol=1e-6)


def test_colours_stay_in_range_and_repeat_from_the_seed():
    crops = np.random.default_rng(3).uniform(0, 255, (8, 24, 24, 3)).astype(np.float32)
    strong = AugmentConfig(gain=1.0, bias=0.5, noise=0.3, blur=1.0, cutout=1.0, grey=0.5)
    first = change_colours(np.random.default_rng(5), strong, crops.copy())
    again = change_colours(np.random.default_rng(5), strong, crops.copy())
    assert first.min() >= 0 and first.max() <= 1
    np.testing.assert_array_equal(first, again)
    assert not np.allclose(first, crops / 255)


def test_noise_has_the_asked_deviation_and_no_bias():
    crops = np.full((64, 32, 32, 3), 128, np.float32)
    config = replace(NO_AUGMENTATION, noise=0.1)
    out = change_colours(np.random.default_rng(0), config, crops)
    deviation = out.reshape(64, -1).std(1)
    noisy = deviation > 1e-4
    assert 0.3 < noisy.mean() < 0.7
    assert deviation.max() < 0.105
    assert abs(float(out.mean()) - 128 / 255) < 1e-3
