"""Closed-form cameras: exact recovery, invariances, gradients."""

import math
from dataclasses import replace

import pytest
import roma
import torch

from lifemask.graphics import pose
from lifemask.types import Camera

F64 = torch.float64


def angle_deg(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return torch.rad2deg(roma.rotmat_geodesic_distance(a, b))


def cloud(batch: int = 3, n: int = 40, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    extent = torch.tensor([70.0, 90.0, 50.0], dtype=F64)
    return torch.randn(batch, n, 3, generator=generator, dtype=F64) * extent


def orthographic(batch: int = 3) -> Camera:
    torch.manual_seed(1)
    rotation = roma.random_rotmat(batch, dtype=F64)
    translation = torch.randn(batch, 3, dtype=F64) * 50
    translation[:, 2] = 0
    scale = torch.rand(batch, dtype=F64) + 0.5
    return Camera("orthographic", rotation, translation, scale, torch.zeros(batch, 2, dtype=F64))


def pinhole(distance_mm: float = 400.0, batch: int = 3) -> Camera:
    torch.manual_seed(2)
    rotation = roma.rotvec_to_rotmat(torch.randn(batch, 3, dtype=F64) * 0.5)
    translation = torch.randn(batch, 3, dtype=F64) * 20
    translation[:, 2] = -distance_mm
    center = torch.full((batch, 2), 320.0, dtype=F64)
    return Camera("pinhole", rotation, translation, torch.full((batch,), 900.0, dtype=F64), center)


def test_procrustes_recovers_the_exact_camera() -> None:
    points, camera = cloud(), orthographic()
    image = pose.project_with_jacobian(points, camera)[0]
    image = image + torch.tensor([0.0, 0.0, 17.0])  # an unknown origin of w
    found = pose.procrustes_camera(points, image)
    assert torch.allclose(found.rotation, camera.rotation, atol=1e-10)
    assert torch.allclose(found.scale, camera.scale, atol=1e-10)
    assert torch.allclose(found.translation, camera.translation, atol=1e-7)


def test_procrustes_in_float32_stays_within_1e5() -> None:
    points, camera = cloud(), orthographic()
    image = pose.project_with_jacobian(points, camera)[0]
    found = pose.procrustes_camera(points.float(), image.float())
    assert found.rotation.dtype == torch.float32
    assert torch.allclose(found.rotation.double(), camera.rotation, atol=1e-5)


def test_affine_camera_needs_no_depth() -> None:
    points, camera = cloud(), orthographic()
    image = pose.project_with_jacobian(points, camera)[0]
    found = pose.affine_camera(points, image[..., :2])
    assert torch.allclose(found.rotation, camera.rotation, atol=1e-9)
    assert torch.allclose(found.scale, camera.scale, atol=1e-9)
    assert torch.allclose(found.translation, camera.translation, atol=1e-6)


def test_a_reflection_is_never_returned() -> None:
    points = cloud()
    mirrored = points * torch.tensor([-1.0, 1.0, 1.0], dtype=F64)
    rotation, _, _ = pose.similarity(points, mirrored)
    assert torch.allclose(torch.linalg.det(rotation), torch.ones(3, dtype=F64))


def test_zero_weights_remove_points() -> None:
    points, camera = cloud(), orthographic()
    image = pose.project_with_jacobian(points, camera)[0].clone()
    image[:, :8] += 1000
    weights = torch.ones(3, 40, dtype=F64)
    weights[:, :8] = 0
    found = pose.procrustes_camera(points, image, weights)
    assert torch.allclose(found.rotation, camera.rotation, atol=1e-10)


def test_lift_and_one_gauss_newton_step_at_400_mm() -> None:
    points, camera = cloud() * 0.6, pinhole()
    image = pose.project_with_jacobian(points, camera)[0]
    lift = pose.perspective_camera(points, image, camera.scale, camera.center, steps=0)
    found = pose.perspective_camera(points, image, camera.scale, camera.center, steps=2)
    assert angle_deg(lift.rotation, camera.rotation).max() < 1.5
    assert angle_deg(found.rotation, camera.rotation).max() < 0.01
    assert torch.allclose(found.translation, camera.translation, rtol=1e-3, atol=0.05)


def test_nearness_along_the_line_of_sight_of_a_head_beside_the_axis() -> None:
    """A crop's nearness, lifted as such; taken for the axis' it turns the head by degrees."""
    points = cloud() * 0.6
    camera = replace(pinhole(), translation=torch.tensor([[260.0, -150.0, -700.0]] * 3, dtype=F64))
    image, _, turned = pose.project_with_jacobian(points, camera)
    toward = -(turned + camera.translation[:, None]).mean(1)
    toward = toward / toward.norm(dim=1, keepdim=True)
    scale = camera.scale / -camera.translation[:, 2]
    near = scale[:, None] * (turned @ toward[..., None])[..., 0]
    seen = torch.cat((image[..., :2], near[..., None]), -1)
    given = (points, seen, camera.scale, camera.center)
    lift, wrong = (
        angle_deg(pose.perspective_camera(*given, steps=0, nearness=kind).rotation, camera.rotation)
        for kind in ("sight", "axis")
    )
    assert lift.max() < 1.5 and wrong.min() > 5 * lift.max()
    found = pose.perspective_camera(*given, steps=3, nearness="sight")
    assert angle_deg(found.rotation, camera.rotation).max() < 0.01


def test_batch_equals_singles() -> None:
    points, camera = cloud(), pinhole()
    image = pose.project_with_jacobian(points, camera)[0] + 0.3 * cloud(seed=4) / 70
    together = pose.perspective_camera(points, image, camera.scale, camera.center)
    for i in range(3):
        alone = pose.perspective_camera(points[i], image[i], camera.scale[i], camera.center[i])
        assert torch.allclose(alone.rotation, together.rotation[i], atol=1e-12)
        assert torch.allclose(alone.translation, together.translation[i], atol=1e-9)


@pytest.mark.parametrize("camera", [orthographic(2), pinhole(batch=2)], ids=["ortho", "pinhole"])
def test_analytic_projection_jacobian(camera: Camera) -> None:
    points = cloud(2, 5)
    image, derivative, turned = pose.project_with_jacobian(points, camera)
    direction = cloud(2, 5, seed=9) / 50
    step = 1e-5
    back = camera.rotation.transpose(-1, -2)
    moved = (turned + step * direction) @ back.transpose(-1, -2)
    numeric = (pose.project_with_jacobian(moved, camera)[0] - image) / step
    analytic = (derivative @ direction[..., None])[..., 0]
    assert torch.allclose(numeric, analytic, atol=1e-4)


def test_gradcheck_of_every_solver() -> None:
    points = cloud(2, 7).requires_grad_()
    weights = (torch.rand(2, 7, dtype=F64, generator=torch.manual_seed(5)) + 0.2).requires_grad_()
    ortho, pin = orthographic(2), pinhole(batch=2)
    image = pose.project_with_jacobian(points.detach(), ortho)[0] + cloud(2, 7, seed=6) / 60
    far = pose.project_with_jacobian(points.detach() * 0.5, pin)[0] + cloud(2, 7, seed=7) / 60
    image.requires_grad_()
    far.requires_grad_()

    def procrustes(x, y, q):
        camera = pose.procrustes_camera(x, y, q)
        return camera.rotation, camera.scale, camera.translation

    def affine(x, y, q):
        camera = pose.affine_camera(x, y[..., :2], q)
        return camera.rotation, camera.scale, camera.translation

    def perspective(x, y, q):
        camera = pose.perspective_camera(x * 0.5, y, pin.scale, pin.center, q)
        return camera.rotation, camera.translation

    assert torch.autograd.gradcheck(procrustes, (points, image, weights))
    assert torch.autograd.gradcheck(affine, (points, image, weights))
    assert torch.autograd.gradcheck(perspective, (points, far, weights), atol=1e-4)


def test_learned_style_weights_halve_the_angle_error_of_uniform_ones() -> None:
    points, camera = cloud(16, 68), orthographic(16)
    image = pose.project_with_jacobian(points, camera)[0]
    generator = torch.manual_seed(3)
    sigma = torch.full((16, 68), 1.0, dtype=F64)
    sigma[:, :14] = 30.0
    noisy = image + torch.randn(16, 68, 3, generator=generator, dtype=F64) * sigma[..., None]
    plain = pose.procrustes_camera(points, noisy).rotation
    weighted = pose.procrustes_camera(points, noisy, 1 / sigma**2).rotation
    error = [float(angle_deg(r, camera.rotation).mean()) for r in (plain, weighted)]
    assert error[1] < 0.5 * error[0]
    assert math.isfinite(error[0])
