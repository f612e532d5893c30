"""Hands, held things and cards, and what the camera does: shapes, places, seeds."""

from dataclasses import replace

import numpy as np
import pytest

from lifemask.data import _synthetic_hands as hands
from lifemask.data import _synthetic_kernels as kernels
from lifemask.data import _synthetic_photo as photo
from lifemask.data._synthetic_mesh import create_mesh, joined, tube
from lifemask.data._synthetic_rig import neutral_mean
from lifemask.facemodel import load_face_model


@pytest.fixture(scope="module")
def landmarks68():
    model = load_face_model("lifemask")
    return model.landmarks(neutral_mean(model), "ict68").numpy()


def _volume(mesh) -> float:
    a, b, c = (mesh.points[mesh.faces[:, k]].astype(np.float64) for k in range(3))
    return float((a * np.cross(b, c)).sum() / 6)


def test_a_tube_is_closed_and_faces_outwards():
    path = np.stack([np.zeros(9), np.linspace(0, 80, 9), np.zeros(9)], 1)
    radii = np.repeat([[12.0, 7.0]], 9, 0)
    mesh = tube(path, radii, kernels.OBJECT, side=np.array([1.0, 0, 0]), sides=64)
    assert _volume(mesh) == pytest.approx(np.pi * 12 * 7 * 80, rel=0.01)
    box = tube(path, radii, kernels.OBJECT, side=np.array([1.0, 0, 0]), sides=64, power=30)
    assert _volume(box) == pytest.approx(4 * 12 * 7 * 80, rel=0.05)


def test_joined_meshes_keep_their_triangles():
    one = create_mesh(np.eye(3), np.array([[0, 1, 2]]), None, kernels.HAND)
    both = joined([one, one])
    assert both.faces.tolist() == [[0, 1, 2], [3, 4, 5]] and both.faces.dtype == np.int32
    assert len(both.points) == len(both.uv) == len(both.occlusion) == 6


def test_a_hand_has_a_hands_size_and_its_fingers_bend_to_the_palm():
    flat = hands.hand(np.random.default_rng(0), 0.0)
    above_wrist = flat.points[flat.points[:, 1] > -50]
    assert 150 < np.ptp(above_wrist[:, 1]) < 200, "mm from wrist to fingertip"
    assert 75 < np.ptp(above_wrist[:, 0]) < 130
    assert _volume(flat) > 0
    fist = hands.hand(np.random.default_rng(0), 75.0)
    tips = fist.points[fist.points[:, 1] > -50]
    assert tips[:, 2].min() < -35 and np.ptp(tips[:, 1]) < 140
    assert set(np.unique(flat.material)) <= {kernels.HAND, kernels.CLOTH}


def test_hands_and_things_come_before_the_face(landmarks68):
    rng = np.random.default_rng(1)
    size = np.linalg.norm(np.ptp(landmarks68, axis=0))
    for draw in (hands.hand_at_face, hands.held_object):
        meshes = [mesh for _ in range(40) for mesh in draw(landmarks68, rng)]
        assert all(np.isfinite(mesh.points).all() for mesh in meshes)
        near = [
            np.linalg.norm(m.points[:, None] - landmarks68[None], axis=-1).min() for m in meshes
        ]
        assert np.median(near) < 40 and max(near) < 1.5 * size
        front = [m.points[:, 2].max() > landmarks68[:, 2].mean() for m in meshes]
        assert np.mean(front) > 0.6


def test_placing_a_hand_does_not_stretch_it():
    axes = hands._axes(np.array([0.3, 1.0, 0.1]), np.array([0.2, 0.1, 1.0]), True)
    np.testing.assert_allclose(axes @ axes.T, np.eye(3), atol=1e-12)
    assert np.linalg.det(axes) == pytest.approx(-1), "a mirrored hand is a left one"


def test_cards_hang_between_camera_and_face():
    face = np.random.default_rng(2).normal(0, 50, (68, 3))
    for seed in range(20):
        mesh = hands.card(face, 260.0, np.random.default_rng(seed))
        assert mesh.frame == "camera" and (mesh.material == kernels.CARD).all()
        assert mesh.points[0, 2] > face[:, 2].max()


def test_a_camera_without_faults_is_the_srgb_curve():
    linear = np.linspace(0, 0.6, 64 * 64 * 3, dtype=np.float32).reshape(64, 64, 3)
    image = photo.photograph(linear, np.ones(3, np.float32), photo.no_faults())
    low = linear <= 0.0031308
    srgb = np.where(low, 12.92 * linear, 1.055 * np.maximum(linear, 1e-4) ** (1 / 2.4) - 0.055)
    assert np.abs(srgb * 255 - image).max() < 1.6


def test_exposure_is_metered_on_face_and_picture():
    linear = np.full((32, 32, 3), 0.05, np.float32)
    linear[8:24, 8:24] = 0.1
    points = np.array([[12, 12, 0], [15, 16, 0], [20, 20, 0]], np.float32)
    exposure = photo.Exposure(0.5, np.array([1, 2, 1], np.float32))
    level = 0.6 * 0.1 + 0.4 * (0.05 * 0.75 + 0.1 * 0.25)
    expected = (0.2 / level) ** 0.5 * np.array([1, 2, 1])
    np.testing.assert_allclose(photo.exposure_gain(exposure, linear, points), expected, rtol=1e-5)


def test_each_fault_changes_the_picture_and_noise_has_its_seed():
    rng = np.random.default_rng(3)
    linear = rng.random((32, 32, 3)).astype(np.float32) * 0.5
    gain, plain = np.ones(3, np.float32), photo.no_faults()
    first = photo.photograph(linear, gain, plain).astype(int)
    for change in (
        {"vignette": 0.4}, {"gamma": 1.3}, {"contrast": 0.8}, {"saturation": 0.0},
        {"motion_px": np.array([3, 0], np.float32)}, {"blur_px": 1.0}, {"small_px": 12},
        {"noise": 6.0}, {"noise": 6.0, "shot": True}, {"jpeg": 30},
    ):  # fmt: skip
        image = photo.photograph(linear, gain, replace(plain, **change)).astype(int)
        assert np.abs(image - first).mean() > 0.5, change
        assert np.abs(image - first).mean() < 80, change
    noisy = replace(plain, noise=5.0, noise_seed=7)
    again = photo.photograph(linear, gain, noisy)
    assert np.array_equal(photo.photograph(linear, gain, noisy), again)
    grey = photo.photograph(linear, gain, replace(plain, saturation=0.0)).astype(int)
    assert np.ptp(grey, axis=-1).max() <= 1


def test_motion_smears_along_its_vector_only():
    linear = np.zeros((32, 32, 3), np.float32)
    linear[16, 16] = 1
    moved = replace(photo.no_faults(), motion_px=np.array([4, 0], np.float32))
    lit = photo.photograph(linear, np.ones(3, np.float32), moved)[..., 0] > 20
    assert lit[16].sum() >= 4 and lit.sum() == lit[16].sum()
