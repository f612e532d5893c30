"""Distances on the lattice against analytic ones and naive twins."""

import numpy as np
import pytest

from helpers.pair_solids import ball_solid
from lifemask.data._pairs_labels import FINE_SCALE, create_labels, lattice_points, measure_band

N, BAND = 40, 0.08


@pytest.fixture(scope="module")
def solid():
    return ball_solid(rows=60, columns=90, eyes=[(0.1, 0.1, 0.52, 0.15)])


@pytest.fixture(scope="module")
def band(solid):
    return measure_band(solid, N, BAND, rim=2)


def whole(solid, n: int, rim: int = 0):
    """Distances of every voxel of the lattice and `rim` more to each side, (n + 2 rim)^3."""
    pytest.importorskip("igl")
    side = np.arange(-rim, n + rim)
    index = np.stack(np.meshgrid(side, side, side, indexing="ij"), -1).reshape(-1, 3)
    return solid.distance(lattice_points(index, n)).reshape((n + 2 * rim,) * 3)


def test_voxels_have_their_centres_in_the_middle():
    assert np.allclose(lattice_points(np.array([[0, 1, 3]]), 4), [[-0.75, -0.25, 0.75]])


def test_the_band_holds_every_near_voxel_with_its_distance(solid, band):
    true = whole(solid, N)
    sure = np.argwhere(np.abs(true) < BAND - 1e-3)
    found = {tuple(row) for row in band.near.tolist()}
    assert len(found) == len(band.near) and all(tuple(row) in found for row in sure.tolist())
    assert (band.near >= 0).all() and (band.near < N).all()
    place = band.near - band.corner
    error = np.abs(band.distance[tuple(place.T)] - true[tuple(band.near.T)])
    assert error.max() < 1e-3 and (error > 1e-5).mean() < 0.005


def test_a_solid_that_leaves_the_cube_is_measured_up_to_its_sides():
    solid = ball_solid(rows=60, columns=90, radius=0.6, centre=(0.75, 0.0, 0.2))
    band, true = measure_band(solid, N, BAND, rim=1), whole(solid, N)
    assert band.near[:, 0].max() == N - 1
    place = band.near - band.corner
    assert np.abs(band.distance[tuple(place.T)] - true[tuple(band.near.T)]).max() < 1e-3
    assert len(band.near) == pytest.approx((np.abs(true) <= BAND).sum(), rel=0.01)


@pytest.mark.parametrize("box", [3, 5])
def test_fine_is_what_the_box_filter_takes_away(solid, band, box):
    """d = box(d) + r / 1000, with the box's mean taken naively over all its voxels."""
    chosen = band.near[:: max(1, len(band.near) // 200)]
    place = chosen - band.corner
    half = box // 2
    d = band.distance.astype(np.float64)
    for (i, j, k), smooth in zip(place, band.smoothed(chosen, box), strict=True):
        cube = d[i - half : i + half + 1, j - half : j + half + 1, k - half : k + half + 1]
        assert np.isfinite(cube).all(), "the rim is measured"
        fine = (d[i, j, k] - smooth) / FINE_SCALE
        assert abs(d[i, j, k] - (cube.mean() + FINE_SCALE * fine)) < 1e-6


def labels_of(solid, box=3, near=600, **given):
    depth, normals = solid.front(48)
    rng = np.random.default_rng(5)
    return create_labels(solid, depth, normals, N, box, near, rng, BAND, **given)


def test_stored_numbers_are_those_of_the_lattice(solid):
    box, rim = 5, 2
    labels, d = labels_of(solid, box), whole(solid, N, rim)
    assert labels.points.shape == (600, 3) and labels.points.dtype == np.int16
    assert len(np.unique(labels.points, axis=0)) == 600
    at = labels.points.astype(int) + rim
    true = d[tuple(at.T)]
    assert np.abs(labels.sdf - true).max() < 1e-3 and np.abs(labels.sdf).max() <= BAND + 1e-4
    mean = np.array([d[i - 2 : i + 3, j - 2 : j + 3, k - 2 : k + 3].mean() for i, j, k in at])
    error = np.abs(labels.fine.astype(float) - (true - mean) / FINE_SCALE)
    assert np.median(error) < 0.02 and error.max() < 1


def test_points_anywhere_are_cut_at_the_band(solid):
    pytest.importorskip("igl")
    labels = labels_of(solid, near=4000)
    assert labels.uniform.shape == (400, 3) and np.abs(labels.uniform).max() <= 1
    true = np.clip(solid.distance(labels.uniform.astype(float)), -BAND, BAND)
    assert np.abs(labels.uniform_sdf - true).max() < 1e-3
    assert (labels.uniform_sdf > BAND - 1e-3).any() and (labels.uniform_sdf < 1e-3 - BAND).any()


def test_most_points_lie_at_the_front_and_their_order_is_random(solid):
    labels = labels_of(solid, front_share=0.8)
    assert 0.75 < (labels.points[:, 2] > N / 2).mean() < 0.98
    first, second = np.split(labels.points[:, 2].astype(float), 2)
    assert abs(first.mean() - second.mean()) < 3


def test_the_lattice_may_hold_fewer_points_than_wanted(solid, band):
    assert len(labels_of(solid, near=10**6).points) == len(band.near)


def test_surface_points_lie_on_the_front_evenly(solid):
    labels = labels_of(solid, surface=3000)
    points = labels.surface.astype(float)
    radius = np.minimum(
        np.abs(np.linalg.norm(points, axis=1) - 0.6),
        np.abs(np.linalg.norm(points - [0.1, 0.1, 0.52], axis=1) - 0.15),
    )
    assert np.median(radius) < 2e-3 and points[:, 2].min() > -0.01
    steep = (labels.surface_normals[:, 2] < 0.5).mean()
    assert 0.25 < steep < 0.6, "of half a ball's area, half is steeper than 60 degrees"


def test_a_picture_without_truth_has_no_surface(solid):
    nothing = np.full((48, 48), np.nan, np.float32)
    labels = create_labels(
        solid, nothing, np.zeros((48, 48, 3), np.float32), N, 3, 100, np.random.default_rng(0), BAND
    )
    assert labels.surface.shape == (0, 3) and len(labels.points) == 100
