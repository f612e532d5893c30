"""Nearness along the line of sight: what a camera that looks straight at the face would see."""

import numpy as np
import pytest
import torch

from helpers.pgn_faces import camera_labels, rotations
from lifemask.data.sight import along_sight, toward_camera
from lifemask.graphics.camera import orthographic_camera, pinhole_camera, project

COUNT = 4


def head(rng: np.random.Generator) -> torch.Tensor:
    return torch.tensor(rng.normal(0, 50, (COUNT, 60, 3)), dtype=torch.float32)


def beside_the_axis() -> torch.Tensor:
    """Where heads stand, camera frame: ahead, to the right, above, and both."""
    return torch.tensor([[0.0, 0, -900], [400, 0, -900], [0, 300, -900], [-250, -250, -600]])


def labels_of(points_mm: torch.Tensor, camera) -> dict[str, np.ndarray]:
    return camera_labels(camera) | {"points": project(points_mm, camera).numpy()}


def pinhole(points_mm: torch.Tensor, rotation: torch.Tensor):
    focal, center = torch.full((COUNT,), 700.0), torch.full((COUNT, 2), 63.5)
    # the middle of the points, not the origin of the model, stands there
    place = beside_the_axis() - (points_mm.mean(1)[:, None] @ rotation.mT)[:, 0]
    return pinhole_camera(rotation, place, focal, center)


@pytest.fixture
def rotation():
    rng = np.random.default_rng(1)
    return rotations(*rng.normal(0, 20, (3, COUNT)))


def test_the_direction_to_the_camera(rotation):
    points = head(np.random.default_rng(0))
    toward = toward_camera(labels_of(points, pinhole(points, rotation)))
    place = -beside_the_axis().numpy()
    wanted = place / np.linalg.norm(place, axis=1, keepdims=True)
    np.testing.assert_allclose(toward, wanted, atol=1e-4)


def test_nearness_is_that_of_a_camera_which_looks_at_the_face(rotation):
    points = head(np.random.default_rng(0))
    camera = pinhole(points, rotation)
    told = labels_of(points, camera)
    found = along_sight(told)
    toward = torch.from_numpy(toward_camera(told)).float()
    near = (points @ rotation.mT @ toward[..., None])[..., 0]
    wanted = told["scale_px_per_mm"][:, None] * near.numpy()
    np.testing.assert_allclose(found[..., 2], wanted, atol=2e-2)
    np.testing.assert_array_equal(found[..., :2], told["points"][..., :2])
    apart = np.abs(found[..., 2] - told["points"][..., 2]).max(1)
    assert apart[0] < 1e-2 and (apart[1:] > 5).all()  # px; the first stands on the axis


def test_orthographic_labels_stay(rotation):
    points = head(np.random.default_rng(0))
    camera = orthographic_camera(rotation, torch.full((COUNT,), 0.6), torch.full((COUNT, 2), 64.0))
    told = labels_of(points, camera)
    np.testing.assert_array_equal(toward_camera(told), [[0.0, 0.0, 1.0]] * COUNT)
    np.testing.assert_array_equal(along_sight(told), told["points"])


def test_labels_of_older_caches_stay(rotation):
    points = head(np.random.default_rng(0))
    told = labels_of(points, pinhole(points, rotation))
    del told["f_px"]
    np.testing.assert_array_equal(along_sight(told), told["points"])
