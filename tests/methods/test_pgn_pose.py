"""PGN's pose in closed form: exact, proper, differentiable, and held by what is sure."""

import pytest
import torch

from helpers.dasl_faces import rotations
from lifemask.evaluation.metrics import geodesic_deg
from lifemask.methods._pgn_pose import HeadPose, _nearest, affine_solver, solve_pose, unposed

F64 = torch.float64
FLIP = torch.tensor([1.0, -1.0, 1.0])


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def face_points(count: int = 68, seed: int = 0, dtype=torch.float32) -> torch.Tensor:
    """(k, 3) about as wide, high and deep as a face's landmarks, 100 mm, about their mean."""
    size = torch.tensor([0.5, 0.6, 0.35], dtype=dtype)
    points = torch.randn(count, 3, generator=generator(seed), dtype=dtype) * size
    return points - points.mean(0)


def poses(count: int, seed: int = 1, dtype=torch.float32) -> HeadPose:
    angles = torch.rand(3, count, generator=generator(seed), dtype=dtype) * 120 - 60
    rotation = rotations(*angles.numpy()).to(dtype)
    if dtype == F64:  # the helper rounds to single precision
        rotation = torch.linalg.qr(rotation)[0] * torch.linalg.qr(rotation)[1].diagonal(
            dim1=-2, dim2=-1
        ).sign().unsqueeze(-2)
    scale = 0.8 + 0.6 * torch.rand(count, generator=generator(seed + 1), dtype=dtype)
    shift = 0.2 * torch.randn(count, 2, generator=generator(seed + 2), dtype=dtype)
    return HeadPose(rotation, scale, shift)


def shown(points: torch.Tensor, pose: HeadPose, origin: float = 0.3) -> torch.Tensor:
    """(u, v, w) by the formula of `HeadLabels`; w has an origin of its own."""
    turned = pose.scale[:, None, None] * (points @ pose.rotation.mT)
    u = turned[..., 0] + pose.shift[:, None, 0]
    v = pose.shift[:, None, 1] - turned[..., 1]
    return torch.stack((u, v, turned[..., 2] + origin), -1)


def angle_deg(found: torch.Tensor, true: torch.Tensor) -> float:
    return float(geodesic_deg(found.double().numpy(), true.double().numpy()).mean())


@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_rotation_scale_and_shift_are_recovered(dtype):
    true, points = poses(16, dtype=dtype), face_points(dtype=dtype).expand(16, -1, -1)
    log_beta = torch.randn(16, 68, generator=generator(3), dtype=dtype)
    for weights in (None, log_beta):
        found = solve_pose(points, shown(points, true), weights)
        for one, other in zip(found, true, strict=True):
            assert one.dtype == dtype
            torch.testing.assert_close(one, other, atol=1e-5, rtol=0)


def test_a_batch_equals_singles():
    true, points = poses(5), face_points().expand(5, -1, -1)
    image = shown(points, true) + 0.05 * torch.randn(5, 68, 3, generator=generator(4))
    log_beta = torch.randn(5, 68, generator=generator(5))
    together = solve_pose(points, image, log_beta)
    for k in range(5):
        alone = solve_pose(points[k : k + 1], image[k : k + 1], log_beta[k : k + 1])
        for one, other in zip(alone, together, strict=True):
            torch.testing.assert_close(one[0], other[k], atol=1e-6, rtol=1e-5)


def test_gradcheck():
    """Also where the points fit badly; weights have no gradient."""
    points = face_points(9, dtype=F64).expand(2, -1, -1).clone().requires_grad_()
    noise = 0.1 * torch.randn(2, 9, 3, generator=generator(6), dtype=F64)
    image = (shown(points.detach(), poses(2, dtype=F64)) + noise).requires_grad_()
    log_beta = torch.randn(2, 9, generator=generator(7), dtype=F64)

    def solve(x, y):
        return tuple(solve_pose(x, y, log_beta))

    assert torch.autograd.gradcheck(solve, (points, image))
    assert torch.autograd.gradcheck(lambda x, y: tuple(solve_pose(x, y, None)), (points, image))
    free = log_beta.requires_grad_()
    found = solve_pose(points, image, free)
    torch.cat([x.flatten() for x in found]).sum().backward()
    assert free.grad is None and points.grad is not None


def test_a_reflection_is_never_returned():
    points = face_points().expand(8, -1, -1)
    mirrored = shown(points * torch.tensor([-1.0, 1, 1]), poses(8))
    inside_out = shown(points, poses(8)) * torch.tensor([1.0, 1, -1])
    for image in (mirrored, inside_out):
        found = solve_pose(points, image, None)
        torch.testing.assert_close(torch.linalg.det(found.rotation), torch.ones(8))
        turns = found.rotation @ found.rotation.mT
        torch.testing.assert_close(turns, torch.eye(3).expand(8, 3, 3), atol=1e-5, rtol=0)


@pytest.mark.parametrize("depth", [0.0, 1e-7, 1e-4])
def test_gradients_of_nearly_flat_points_are_finite(depth):
    flat = face_points() * torch.tensor([1.0, 1, depth])
    points = flat.expand(4, -1, -1).clone().requires_grad_()
    image = shown(points.detach(), poses(4)).requires_grad_()
    found = solve_pose(points, image, None)
    (found.rotation.square() * torch.arange(9.0).view(3, 3)).sum().backward()
    for value in (*found, points.grad, image.grad):
        assert value is not None and value.isfinite().all()
    if depth:
        assert image.grad is not None and image.grad.abs().max() < 1e3


def test_points_that_coincide_give_a_finite_pose():
    points = face_points().expand(2, -1, -1)
    image = torch.zeros(2, 68, 3, requires_grad=True)
    found = solve_pose(points, image, None)
    torch.cat([x.flatten() for x in found]).sum().backward()
    assert all(x.isfinite().all() for x in found)
    assert image.grad is not None and image.grad.isfinite().all()


def test_any_level_of_beta_gives_the_same_pose():
    """Weights are relative, and their exponential must not overflow."""
    true, points = poses(4), face_points().expand(4, -1, -1)
    image = shown(points, true) + 0.05 * torch.randn(4, 68, 3, generator=generator(8))
    log_beta = torch.randn(4, 68, generator=generator(9))
    plain = solve_pose(points, image, log_beta)
    for level in (-200.0, 5.0, 300.0):
        for one, other in zip(solve_pose(points, image, log_beta + level), plain, strict=True):
            torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)
    alike = solve_pose(points, image, torch.full((4, 68), 7.0))
    for one, other in zip(alike, solve_pose(points, image, None), strict=True):
        torch.testing.assert_close(one, other)


def test_learned_weights_halve_the_error_of_uniform_ones_under_outliers():
    """A fifth of the points is off by far; beta is the error's scale, as a trained map tells it."""
    count, points = 64, face_points().expand(64, -1, -1)
    true = poses(count)
    sigma = torch.full((count, 68), 0.01)
    worst = torch.rand(count, 68, generator=generator(10)).argsort(1)[:, :14]
    sigma.scatter_(1, worst, 0.4)
    image = shown(points, true)
    image = image + sigma[..., None] * torch.randn(image.shape, generator=generator(11))
    told = sigma.log() + 0.3 * torch.randn(sigma.shape, generator=generator(12))
    uniform, learned = (
        angle_deg(solve_pose(points, image, b).rotation, true.rotation) for b in (None, told)
    )
    assert uniform > 1
    assert learned < 0.5 * uniform, (learned, uniform)


# turned back


def test_the_mean_face_is_turned_back_onto_itself():
    mean = face_points(324)
    solver = affine_solver(mean)
    assert solver.shape == (4, 324)
    image = shown(mean.expand(16, -1, -1), poses(16))
    torch.testing.assert_close(
        unposed(image, mean, solver), torch.zeros(16, 324, 3), atol=1e-4, rtol=0
    )


def test_another_shape_is_turned_back_as_the_solved_pose_would():
    """Procrustes to the mean face and the affine way agree up to what the shape itself bends."""
    mean = face_points(324)
    solver = affine_solver(mean)
    modes = 0.03 * torch.randn(16, 324, 3, generator=generator(13))
    shape = mean + modes - modes.mean(1, keepdim=True)
    image = shown(shape, poses(16))
    back = unposed(image, mean, solver)
    assert (back - (shape - mean)).norm(dim=-1).mean() < 0.1 * modes.norm(dim=-1).mean()
    pose = solve_pose(mean.expand(16, -1, -1), image, None)
    target = image * FLIP
    centred = target - target.mean(1, keepdim=True)
    solved = centred @ pose.rotation / pose.scale[:, None, None] - mean
    assert (back - solved).norm(dim=-1).mean() < 0.1 * modes.norm(dim=-1).mean()


def test_what_is_turned_back_does_not_depend_on_pose():
    mean = face_points(68)
    shape = (mean + 0.05 * torch.randn(68, 3, generator=generator(14))).expand(8, -1, -1)
    back = unposed(shown(shape, poses(8)), mean, affine_solver(mean))
    torch.testing.assert_close(back, back[:1].expand(8, -1, -1), atol=1e-4, rtol=0)


def test_no_gradient_flows_through_the_pose_of_what_is_turned_back():
    mean = face_points(68)
    image = shown(mean.expand(2, -1, -1), poses(2)).requires_grad_()
    back = unposed(image, mean, affine_solver(mean))
    back[:, 5].sum().backward()
    assert image.grad is not None
    others = torch.arange(68) != 5
    assert image.grad[:, 5].abs().max() > 0 and not image.grad[:, others].any()


def test_the_rotation_by_plain_arithmetic_is_that_of_the_singular_values():
    matrix = torch.eye(3) + 0.3 * torch.randn(64, 3, 3, generator=generator(15))
    matrix = poses(64).rotation @ matrix * torch.linspace(0.1, 5, 64)[:, None, None]
    matrix = matrix[torch.linalg.svdvals(matrix)[:, 2] > 0.2 * torch.linalg.svdvals(matrix)[:, 0]]
    matrix = matrix[torch.linalg.det(matrix) > 0]
    assert len(matrix) > 30
    u, _, vh = torch.linalg.svd(matrix)
    torch.testing.assert_close(_nearest(matrix), u @ vh, atol=1e-4, rtol=0)


def test_points_that_are_no_face_give_finite_answers():
    mean = face_points(68)
    solver = affine_solver(mean)
    wild = torch.randn(64, 68, 3, generator=generator(16))
    faces = shown(mean.expand(4, -1, -1), poses(4))
    images = (wild, 100 * wild, 1e-6 * wild, 0 * wild, faces * torch.tensor([-1.0, 1, 1]),
              faces * torch.tensor([1.0, 1, 0]))  # fmt: skip
    for image in images:
        assert unposed(image, mean, solver).isfinite().all()
