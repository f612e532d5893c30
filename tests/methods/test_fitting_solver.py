"""The solver's parts against naive twins: gradients, bounds, surface points, contour normals."""

import pytest
import roma
import torch

from lifemask.facemodel.base import FaceModel, LandmarkEmbedding, Topology
from lifemask.graphics.pose import project_with_jacobian
from lifemask.methods._fitting_contour import outline_normals
from lifemask.methods._fitting_render import (
    Look,
    Picture,
    colour_jacobian,
    colour_residuals,
    make_picture,
)
from lifemask.methods._fitting_samples import SkinSamples
from lifemask.methods._fitting_solver import (
    Observation,
    Penalty,
    State,
    bounded_newton_step,
    energy,
    move,
    normal_equations,
)
from lifemask.methods._fitting_surface import (
    Prior,
    SurfacePoints,
    expression_pairs,
    surface_points,
    vertex_basis,
)
from lifemask.types import Camera

F64 = torch.float64


def random_state(model: str, p: int) -> State:
    rotation = roma.rotvec_to_rotmat(torch.tensor([0.2, -0.4, 0.1], dtype=F64))
    if model == "orthographic":
        place, size = torch.tensor([60.0, 50.0, 0.0]), 0.7
    else:
        place, size = torch.tensor([10.0, -5.0, -700.0]), 900.0
    camera = Camera(
        model,
        rotation,
        place.double(),
        torch.tensor(size, dtype=F64),
        torch.tensor([50.0, 48.0], dtype=F64),
    )
    coefficients = 0.5 * torch.randn(p, dtype=F64, generator=torch.manual_seed(1))
    return State(camera, coefficients, torch.tensor(2.0, dtype=F64))


def random_points(n: int, p: int, seed: int = 0) -> SurfacePoints:
    generator = torch.Generator().manual_seed(seed)
    mean = 50 * torch.randn(n, 3, generator=generator, dtype=F64)
    return SurfacePoints(mean, 3 * torch.randn(n, 3, p, generator=generator, dtype=F64))


@pytest.mark.parametrize("camera_model", ["orthographic", "pinhole"])
def test_gradient_and_matrix_equal_finite_differences(camera_model: str) -> None:
    p, n = 4, 9
    state, points = random_state(camera_model, p), random_points(n, p)
    image = project_with_jacobian(points.at(state.coefficients), state.camera)[0]
    target = image + torch.randn(n, 3, dtype=F64, generator=torch.manual_seed(2))
    whitening = torch.randn(n, 3, 3, dtype=F64, generator=torch.manual_seed(3))
    observation = Observation(points, target, whitening)
    prior = Prior(*(torch.zeros(s, dtype=F64) for s in ((p, p), (p,), (p,), (p,))))
    penalty = Penalty(0.7, outlier_sigma=4.0, noise=1.5)
    value, gradient, matrix = normal_equations(state, observation, penalty)
    assert torch.allclose(value, energy(state, observation, prior, penalty))
    unused = 5 if camera_model == "orthographic" else None
    for k in range(8 + p):
        step = torch.zeros(8 + p, dtype=F64)
        step[k] = 1e-6
        forward = energy(move(state, step), observation, prior, penalty)
        backward = energy(move(state, -step), observation, prior, penalty)
        if k != unused:
            assert torch.allclose((forward - backward) / 2e-6, gradient[k], rtol=1e-4, atol=1e-5)
    assert torch.allclose(matrix, matrix.T)
    assert torch.linalg.eigvalsh(matrix).min() > -1e-6


def test_bounded_step_equals_projected_gradient_descent() -> None:
    generator = torch.Generator().manual_seed(4)
    for _ in range(5):
        root = torch.randn(12, 12, generator=generator, dtype=F64)
        matrix = root @ root.T + 0.5 * torch.eye(12, dtype=F64)
        gradient = 3 * torch.randn(12, generator=generator, dtype=F64)
        low = -torch.rand(12, generator=generator, dtype=F64)
        high = torch.rand(12, generator=generator, dtype=F64)
        high[:2] = low[:2] = 0
        step = bounded_newton_step(matrix, gradient, low, high, rounds=20)
        slow = torch.zeros(12, dtype=F64)
        rate = 1 / torch.linalg.eigvalsh(matrix).max()
        for _ in range(2000):
            slow = (slow - rate * (gradient + matrix @ slow)).clamp(low, high)
        assert torch.allclose(step, slow, atol=1e-4)


def test_expression_pairs_leave_out_opposites() -> None:
    names = ("eyeBlinkLeft", "eyeBlinkRight", "jawLeft", "jawRight", "jawOpen", "mouthSmileRight")
    assert expression_pairs(names) == [(0, 1)]


def test_outline_normals_point_out_also_when_rolled() -> None:
    angle = torch.linspace(torch.pi, 0, 17, dtype=F64)
    outline = 50 * torch.stack((torch.cos(angle), 1.3 * torch.sin(angle)), -1)
    for roll in (0.0, 0.8, -2.0, 3.0):
        turn = torch.tensor([[1.0, 0.0], [0.0, 1.0]], dtype=F64) * torch.cos(torch.tensor(roll))
        turn = turn + torch.tensor([[0.0, -1.0], [1.0, 0.0]]) * torch.sin(torch.tensor(roll))
        normals = outline_normals(outline @ turn.T)
        outward = outline @ turn.T
        assert ((normals * outward).sum(-1) > 0).all()
        assert torch.allclose(normals.norm(dim=-1), torch.ones(17, dtype=F64))


class CurvedModel(FaceModel):
    """Three vertices that bend with the square of the identity."""

    name = "curved"
    identity_size = 1
    expression_names = ("jawOpen",)

    def __init__(self):
        super().__init__()
        table = torch.zeros(1, 3, dtype=torch.int64)
        self.landmark_embeddings = {"one": LandmarkEmbedding(table, torch.ones(1, 3) / 3, table)}
        uv = torch.zeros(3, 2)
        self.topology = Topology(table, uv, table, table[0], ("skin",), torch.arange(3), {})

    def forward(self, identity, expression):
        base = torch.arange(9.0).reshape(3, 3)
        return base + identity[..., :1, None] ** 2 + 2 * expression[..., :1, None]


def test_any_model_is_linearised_where_it_is_needed() -> None:
    model = CurvedModel()
    basis = vertex_basis(model)
    assert torch.allclose(basis.basis[..., 1], torch.full((3, 3), 2.0))
    points = surface_points(model, torch.tensor([[0, 1, 2]]), torch.tensor([[0.5, 0.25, 0.25]]))
    expected = torch.tensor([0.5, 0.25, 0.25]) @ basis.mean
    assert torch.allclose(points.mean[0].float(), expected)


@pytest.mark.parametrize("camera_model", ["orthographic", "pinhole"])
def test_colour_jacobian_equals_finite_differences(camera_model: str) -> None:
    p, n, k = 3, 6, 2
    generator = torch.Generator().manual_seed(7)
    state = random_state(camera_model, p)
    camera = state.camera
    points = random_points(n, p)
    points = SurfacePoints(points.mean * 0.2, points.basis)
    normals = SurfacePoints(
        torch.randn(n, 3, generator=generator, dtype=F64),
        0.1 * torch.randn(n, 3, p, generator=generator, dtype=F64),
    )
    samples = SkinSamples(
        points,
        normals,
        0.2 + 0.5 * torch.rand(n, 3, generator=generator, dtype=F64),
        0.05 * torch.randn(n, 3, k, generator=generator, dtype=F64),
        torch.zeros(n, 2),
    )
    light = 0.3 * torch.randn(9, 3, generator=generator, dtype=F64)
    light[0] = 3.0
    look = Look(light, torch.randn(k, generator=generator, dtype=F64))
    # A picture that is linear in (u, v), so that bilinear look-up has no kinks.
    v, u = torch.meshgrid(torch.arange(100.0), torch.arange(100.0), indexing="ij")
    image = torch.stack((u, v, u + 2 * v)).double() / 400
    picture = make_picture(image, 0.0)
    _, jacobian = colour_jacobian(state.coefficients, camera, look, samples, picture)

    def residual(step: torch.Tensor) -> torch.Tensor:
        moved = move(state, step[: 8 + p])
        own = step[8 + p :]
        other = Look(light + own[:27].reshape(9, 3), look.albedo + own[27:])
        return colour_residuals(moved.coefficients, moved.camera, other, samples, picture)

    for column in range(8 + p + 27 + k):
        if column == 7 or (column == 5 and camera_model == "orthographic"):
            continue
        step = torch.zeros(8 + p + 27 + k, dtype=F64)
        step[column] = 1e-5
        numeric = (residual(step) - residual(-step)) / 2e-5
        assert torch.allclose(numeric, jacobian[..., column], atol=2e-6, rtol=1e-4), column


def test_a_picture_keeps_colour_and_slope() -> None:
    v, u = torch.meshgrid(torch.arange(40.0), torch.arange(30.0), indexing="ij")
    image = torch.stack((u, v, u - v)).double() / 100
    for blur in (0.0, 1.5):
        picture: Picture = make_picture(image, blur)
        colour, slope = picture.at(torch.tensor([[12.3, 20.7], [15.0, 15.0]], dtype=F64))
        expected = torch.tensor([[12.3, 20.7, -8.4], [15.0, 15.0, 0.0]], dtype=F64) / 100
        assert torch.allclose(colour, expected, atol=1e-9)
        by_uv = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, -1.0]], dtype=F64) / 100
        assert torch.allclose(slope, by_uv.expand(2, 3, 2), atol=1e-9)
