"""The detail score: 1 for the truth, nothing for noise, the energy of a scaled copy."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("igl")
pytest.importorskip("scipy")

from lifemask.evaluation._detail import (  # noqa: E402
    Base,
    detail_score,
    displacement,
    smooth_base,
)
from lifemask.evaluation.surface import SurfaceTree  # noqa: E402

SIDE, STEP = 41, 2.0


def sheet(height=None):
    """A square sheet in z = height(x, y), its faces looking to +z."""
    axis = (np.arange(SIDE) - SIDE // 2) * STEP
    x, y = np.meshgrid(axis, axis, indexing="ij")
    z = np.zeros_like(x) if height is None else height(x, y)
    i, j = np.meshgrid(np.arange(SIDE - 1), np.arange(SIDE - 1), indexing="ij")
    a = (i * SIDE + j).reshape(-1)
    faces = np.concatenate(
        [np.stack([a, a + SIDE, a + 1], 1), np.stack([a + 1, a + SIDE, a + SIDE + 1], 1)]
    )
    return np.stack([x, y, z], -1).reshape(-1, 3), faces.astype(np.int64)


def flat_base():
    points, _ = sheet()
    return Base(points, np.tile([0.0, 0.0, 1.0], (len(points), 1)), np.ones(len(points)))


def ripple(x, y):
    return 0.5 * np.sin(x / 1.5) * np.cos(y / 2.0)


def test_displacement_is_signed_and_limited():
    points, faces = sheet(lambda x, y: 1.5 + 0 * x)
    tree = SurfaceTree(points, faces)
    inner = np.abs(points[:, :2]).max(axis=1) < 35
    np.testing.assert_allclose(displacement(flat_base(), tree)[inner], 1.5, atol=1e-6)
    below = Base(points + [0, 0, 3.0], flat_base().normals, flat_base().areas)
    np.testing.assert_allclose(displacement(below, tree)[inner], -3.0, atol=1e-6)
    assert np.isnan(displacement(below, tree, reach_mm=2.0)).all()


def test_a_point_on_the_surface_has_no_displacement():
    points, faces = sheet()
    inner = np.abs(points[:, :2]).max(axis=1) < 35
    found = displacement(flat_base(), SurfaceTree(points, faces))
    np.testing.assert_allclose(found[inner], 0.0, atol=1e-9)


def test_truth_scores_one_and_a_weaker_copy_keeps_r():
    truth = ripple(*flat_base().points[:, :2].T)
    same = detail_score(flat_base(), truth, truth)
    assert same.r == pytest.approx(1.0)
    assert same.energy_ratio == pytest.approx(1.0)
    assert same.cover == 1.0
    weaker = detail_score(flat_base(), truth, 0.5 * truth)
    assert weaker.r == pytest.approx(1.0)
    assert weaker.energy_ratio == pytest.approx(0.25)
    assert detail_score(flat_base(), truth, -truth).r == pytest.approx(-1.0)


def test_noise_does_not_correlate():
    rng = np.random.default_rng(0)
    truth = ripple(*flat_base().points[:, :2].T)
    noise = rng.normal(0, truth.std(), len(truth))
    found = detail_score(flat_base(), truth, noise)
    assert abs(found.r) < 0.08
    assert 0.7 < found.energy_ratio < 1.5


def test_broad_forms_do_not_count():
    x, y = flat_base().points[:, :2].T
    truth = ripple(x, y)
    bent = truth + 5.0 + 0.05 * x - 0.1 * y + 2.0 * np.cos(x / 60.0)
    assert detail_score(flat_base(), truth, bent).r > 0.98


def test_what_is_not_hit_is_left_out_and_told():
    truth = ripple(*flat_base().points[:, :2].T)
    partly = np.where(flat_base().points[:, 0] > 0, np.nan, truth)
    found = detail_score(flat_base(), truth, partly)
    assert found.r == pytest.approx(1.0)
    assert 0.45 < found.cover < 0.55
    assert np.isnan(detail_score(flat_base(), truth, np.full_like(truth, np.nan)).r)
    assert np.isnan(detail_score(flat_base(), np.zeros_like(truth), truth).energy_ratio)


def test_smooth_base_removes_ripples():
    points, _ = sheet(ripple)
    base = smooth_base(points, flat_base().normals, flat_base().areas)
    inner = np.abs(points[:, :2]).max(axis=1) < 20
    assert np.abs(base.points[inner, 2]).max() < 0.1 * np.abs(points[inner, 2]).max()
    np.testing.assert_allclose(np.linalg.norm(base.normals, axis=1), 1.0)
