"""Cameras: conventions, crops, limits, gradients."""

import dataclasses
import math

import pytest
import roma
import torch
from torch import Tensor

from lifemask.graphics import camera as cam
from lifemask.types import Camera


def _points(seed: int = 0, batch: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 80 * torch.randn(batch, 20, 3, generator=generator, dtype=torch.float64)


def _rotation(seed: int = 1, batch: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    angles = torch.rand(batch, 3, generator=generator, dtype=torch.float64) * 120 - 60
    return cam.rotation_from_euler_deg(angles)


def _cameras() -> list[Camera]:
    rotation = _rotation()
    scale = torch.tensor([0.7, 1.3, 2.0], dtype=torch.float64)
    shift = torch.tensor([[50.0, 60.0], [-3.0, 8.0], [111.5, 90.25]], dtype=torch.float64)
    far = torch.tensor([[5.0, -9.0, -700.0]], dtype=torch.float64).expand(3, 3)
    return [
        cam.orthographic_camera(rotation, scale, shift),
        cam.pinhole_camera(rotation, far, 600 * scale, shift),
    ]


def test_axes_up_is_up_and_right_is_right() -> None:
    points = torch.tensor([[0.0, 0.0, 0.0], [10.0, 0.0, 0.0], [0.0, 10.0, 0.0], [0.0, 0.0, 10.0]])
    eye = torch.eye(3)
    for camera in (
        cam.orthographic_camera(eye, 2.0, torch.tensor([5.0, 7.0])),
        cam.pinhole_camera(eye, torch.tensor([0.0, 0.0, -500.0]), 1000.0, torch.tensor([5.0, 7.0])),
    ):
        origin, right, up, front = cam.project(points, camera)
        assert torch.allclose(origin, torch.tensor([5.0, 7.0, 0.0]))
        assert torch.allclose(right, torch.tensor([25.0, 7.0, 0.0]))
        assert torch.allclose(up, torch.tensor([5.0, -13.0, 0.0]))
        assert torch.allclose(front, torch.tensor([5.0, 7.0, 20.0]))


def test_orthographic_is_the_limit_of_a_far_pinhole() -> None:
    points, rotation = _points(batch=1)[0], _rotation(batch=1)[0]
    center = torch.tensor([112.0, 100.0], dtype=torch.float64)
    ortho = cam.project(points, cam.orthographic_camera(rotation, 1.5, center))
    previous = math.inf
    for distance in (1e4, 1e6, 1e8):
        shift = torch.tensor([0.0, 0.0, -distance], dtype=torch.float64)
        pinhole = cam.pinhole_camera(rotation, shift, 1.5 * distance, center)
        error = float((cam.project(points, pinhole) - ortho).abs().max())
        assert error < previous / 50
        previous = error
    assert previous < 1e-3


@pytest.mark.parametrize("index", [0, 1])
def test_crop_follows_the_stated_map_and_returns_exactly(index: int) -> None:
    camera, points = _cameras()[index], _points()
    center, side, size = (70.3, 41.9), 133.7, 120
    crop = cam.camera_for_crop(camera, center, side, size)
    photo_px, crop_px = cam.project(points, camera), cam.project(points, crop)
    zoom = side / size
    start = torch.tensor(center, dtype=torch.float64) - side / 2
    assert torch.allclose(photo_px[..., :2], start + (crop_px[..., :2] + 0.5) * zoom, atol=1e-9)
    assert torch.allclose(photo_px[..., 2], crop_px[..., 2] * zoom, atol=1e-9)
    back = cam.camera_from_crop(crop, center, side, size)
    for name in ("rotation", "translation", "scale", "center"):
        assert torch.allclose(getattr(back, name), getattr(camera, name), atol=1e-10), name


@pytest.mark.parametrize("turns", range(-1, 5))
@pytest.mark.parametrize("index", (0, 1))
def test_a_turned_picture_shows_the_same_head(index: int, turns: int) -> None:
    """Every point is seen at the pixel that `rot90` took it from, and nearness does not change."""
    size, points, camera = 160, _points(), _cameras()[index]
    there = cam.project(points, cam.camera_turned_back(camera, turns, size))
    ids = torch.arange(size * size).reshape(size, size)
    turned = ids.rot90(turns)
    here = cam.project(points, camera)
    # A picture of its own pixels' places, looked up with the affine map of three of its corners.
    corner, right, down = (int(turned[v, u]) for v, u in ((0, 0), (0, 1), (1, 0)))
    place = torch.tensor([(i % size, i // size) for i in (corner, right, down)]).double()
    expected = (
        place[0] + here[..., :1] * (place[1] - place[0]) + here[..., 1:2] * (place[2] - place[0])
    )
    torch.testing.assert_close(there[..., :2], expected)
    torch.testing.assert_close(there[..., 2], here[..., 2])
    torch.testing.assert_close(
        torch.linalg.det(cam.camera_turned_back(camera, turns, size).rotation),
        torch.ones(3, dtype=torch.float64),
    )


@pytest.mark.parametrize("index", [0, 1])
def test_supersampled_pixels_average_to_the_pixel_centre(index: int) -> None:
    camera, points = _cameras()[index], _points()
    fine = cam.project(points, cam.supersampled_camera(camera, 3))[..., :2]
    assert torch.allclose((fine - 1) / 3, cam.project(points, camera)[..., :2], atol=1e-9)


def test_screen_depth_is_affine_over_the_image_of_a_plane() -> None:
    generator = torch.Generator().manual_seed(4)
    corners = 60 * torch.randn(1, 3, 3, generator=generator, dtype=torch.float64)
    weights = torch.rand(1, 30, 3, generator=generator, dtype=torch.float64)
    points = weights / weights.sum(-1, keepdim=True) @ corners
    for camera in _cameras():
        single = Camera(camera.model, *(t[:1] for t in dataclasses.astuple(camera)[1:]))
        uv = cam.project(points, single)[0, :, :2]
        depth = cam.screen_depth(points, single)[0]
        design = torch.cat((uv, torch.ones_like(uv[:, :1])), dim=-1)
        solution = torch.linalg.lstsq(design, depth).solution
        assert torch.allclose(design @ solution, depth, atol=1e-10 * float(depth.abs().max()))


def test_screen_depth_grows_towards_the_viewer_and_ends_at_the_eye() -> None:
    eye = torch.eye(3)
    points = torch.tensor([[0.0, 0.0, -50.0], [0.0, 0.0, 50.0], [0.0, 0.0, 400.0]])
    shift = torch.tensor([0.0, 0.0, -300.0])
    depth = cam.screen_depth(points, cam.pinhole_camera(eye, shift, 500.0, shift[:2]))
    assert depth[1] > depth[0] > 0 and depth[2].isnan()
    flat = cam.screen_depth(points, cam.orthographic_camera(eye, 2.0, shift[:2]))
    assert flat.tolist() == [-100.0, 100.0, 800.0]


def test_euler_signs() -> None:
    nose, crown = torch.tensor([0.0, 0.0, 1.0]), torch.tensor([0.0, 1.0, 0.0])
    pitch, yaw, roll = (cam.rotation_from_euler_deg(30 * row) for row in torch.eye(3))
    assert float((pitch @ nose)[1]) == pytest.approx(0.5, abs=1e-6)  # looks up
    assert float((yaw @ nose)[0]) == pytest.approx(0.5, abs=1e-6)  # to image right
    assert float((roll @ crown)[0]) == pytest.approx(0.5, abs=1e-6)  # crown to image right


@pytest.mark.parametrize("order", ["YXZ", "XYZ"])
def test_euler_round_trips_even_when_locked(order: cam.EulerOrder) -> None:
    generator = torch.Generator().manual_seed(0)
    middle = 0 if order == "YXZ" else 1
    limits = torch.full((3,), 179.0, dtype=torch.float64)
    limits[middle] = 89.9
    angles = (torch.rand(500, 3, generator=generator, dtype=torch.float64) * 2 - 1) * limits
    rotation = cam.rotation_from_euler_deg(angles, order)
    assert torch.allclose(cam.euler_deg_from_rotation(rotation, order), angles, atol=1e-9)
    angles[:, middle] = 90 * angles[:, middle].sign()
    rotation = cam.rotation_from_euler_deg(angles, order)
    again = cam.rotation_from_euler_deg(cam.euler_deg_from_rotation(rotation, order), order)
    assert torch.allclose(again, rotation, atol=1e-9)


def test_yaw_and_pitch_say_where_the_nose_points() -> None:
    angles = torch.tensor([20.0, 80.0, -35.0], dtype=torch.float64)
    nose = cam.rotation_from_euler_deg(angles)[:, 2]
    assert float(nose[1]) == pytest.approx(math.sin(math.radians(20)))
    assert math.degrees(math.atan2(nose[0], nose[2])) == pytest.approx(80)


def test_batch_equals_single_calls() -> None:
    points = _points()
    for camera in _cameras():
        together = cam.project(points, camera)
        for i in range(3):
            tensors = dataclasses.astuple(camera)[1:]
            alone = cam.project(points[i], Camera(camera.model, *(t[i] for t in tensors)))
            assert torch.allclose(together[i], alone, atol=1e-12)


def test_projection_gradients() -> None:
    points = _points()[:1, :4].requires_grad_()
    rotvec = torch.tensor([[0.2, -0.4, 0.1]], dtype=torch.float64, requires_grad=True)
    scale = torch.tensor([1.2], dtype=torch.float64, requires_grad=True)
    shift = torch.tensor([[3.0, -8.0, -500.0]], dtype=torch.float64, requires_grad=True)

    def ortho(x: Tensor, r: Tensor, s: Tensor, t: Tensor) -> Tensor:
        camera = cam.orthographic_camera(roma.rotvec_to_rotmat(r), s, t[:, :2])
        return torch.cat((cam.project(x, camera), cam.screen_depth(x, camera)[..., None]), -1)

    def pinhole(x: Tensor, r: Tensor, s: Tensor, t: Tensor) -> Tensor:
        camera = cam.pinhole_camera(roma.rotvec_to_rotmat(r), t, 600 * s, t[:, :2] + 50)
        depth = 1e3 * cam.screen_depth(x, camera)[..., None]
        return torch.cat((cam.project(x, camera), depth), -1)

    for function in (ortho, pinhole):
        assert torch.autograd.gradcheck(function, (points, rotvec, scale, shift))


@pytest.mark.parametrize("camera", _cameras(), ids=lambda c: c.model)
def test_unproject_is_the_inverse_of_project(camera) -> None:
    points = _points()
    torch.testing.assert_close(cam.unproject(cam.project(points, camera), camera), points)
