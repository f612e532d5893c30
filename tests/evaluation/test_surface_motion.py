"""Moving a surface onto fixed points: exact recovery, and a naive twin."""

from __future__ import annotations

import numpy as np
import pytest

from helpers.scan_shapes import lopsided_head, rotation, sphere

pytest.importorskip("igl")

from lifemask.evaluation._surface_motion import closest_on_moved, lay_surface  # noqa: E402
from lifemask.evaluation.surface import Similarity, SurfaceTree  # noqa: E402

VERTICES, FACES = lopsided_head()
TRUE = Similarity(1.07, rotation([4.0, -6.0, 3.0]), np.array([5.0, -3.0, 8.0]))


def test_recovers_a_similarity_from_points_on_the_surface():
    points = TRUE.apply(VERTICES[FACES[::3]].mean(1))
    found = lay_surface(points, SurfaceTree(VERTICES, FACES), Similarity.identity(), scale=True)
    assert found.converged
    assert found.distance.max() < 1e-3
    assert found.similarity.scale == pytest.approx(1.07, abs=1e-5)
    np.testing.assert_allclose(found.similarity.rotation, TRUE.rotation, atol=1e-5)


def test_rigid_keeps_the_size_of_the_start():
    points = TRUE.apply(VERTICES)
    found = lay_surface(points, SurfaceTree(VERTICES, FACES), Similarity.identity(), scale=False)
    assert found.similarity.scale == 1.0
    assert found.distance.mean() > 1.0


def test_distances_are_measured_in_the_frame_of_the_points():
    inner, faces = sphere(50.0)
    points, _ = sphere(82.0)
    motion = Similarity(1.6, np.eye(3), np.zeros(3))
    found = closest_on_moved(points, SurfaceTree(inner, faces), motion)
    np.testing.assert_allclose(found.distance, 2.0, atol=1e-9)


def test_the_sum_of_squares_is_that_of_a_naive_minimiser():
    least_squares = pytest.importorskip("scipy.optimize").least_squares
    rng = np.random.default_rng(0)
    points = VERTICES[::5] + rng.normal(0, 1.5, VERTICES[::5].shape) + [2.0, 1.0, -3.0]
    tree = SurfaceTree(VERTICES, FACES)

    def distances(x):
        motion = Similarity(float(np.exp(x[6])), rotation(x[:3]), x[3:6])
        return closest_on_moved(points, tree, motion).distance

    naive = least_squares(distances, np.zeros(7), x_scale=[1, 1, 1, 1, 1, 1, 0.01])
    ours = lay_surface(points, tree, Similarity.identity(), scale=True, tolerance=1e-9)
    assert (ours.distance**2).sum() == pytest.approx(2 * naive.cost, rel=2e-3)
    assert (ours.distance**2).sum() < (distances(np.zeros(7)) ** 2).sum()
