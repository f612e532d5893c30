"""Silhouette gradients against finite differences and exact areas."""

import pytest
import torch
from torch import Tensor

from lifemask.graphics.antialias import antialias
from lifemask.graphics.rasterize import rasterize

SIZE = 24


def _image(points: Tensor, faces: Tensor, colors: Tensor, background: Tensor) -> Tensor:
    """Flat-coloured faces (f, c) over a background (c,), antialiased: (b, h, w, c)."""
    fragments = rasterize(points, faces, SIZE, SIZE)
    table = torch.cat((colors, background[None]))
    return antialias(table[fragments.face_ids.long()], points, faces, fragments)


def _quad(seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    base = torch.tensor([[4.0, 5.0], [19.0, 4.0], [18.0, 19.0], [5.0, 18.0]], dtype=torch.float64)
    base = base + torch.rand(4, 2, generator=generator, dtype=torch.float64)
    points = torch.cat((base, torch.zeros(4, 1, dtype=torch.float64)), -1).unsqueeze(0)
    return points, torch.tensor([[0, 2, 1], [0, 3, 2]])


def _grid(points: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """The quad, subdivided."""
    t = torch.linspace(0, 1, steps + 1, dtype=points.dtype)
    s, r = t[:, None, None], t[None, :, None]
    a, b, c, d = points[0]
    fine = (1 - s) * ((1 - r) * a + r * b) + s * ((1 - r) * d + r * c)
    index = torch.arange((steps + 1) ** 2).view(steps + 1, steps + 1)
    p, q, u, v = index[:-1, :-1], index[:-1, 1:], index[1:, 1:], index[1:, :-1]
    first, second = torch.stack((p, u, q), -1), torch.stack((p, v, u), -1)
    return fine.reshape(1, -1, 3), torch.cat((first.reshape(-1, 3), second.reshape(-1, 3)))


def _area(points: Tensor) -> Tensor:
    after = points.roll(-1, 0)
    return (points[:, 0] * after[:, 1] - after[:, 0] * points[:, 1]).sum() / 2


@pytest.mark.parametrize("steps", [1, 7, 60])
def test_coverage_is_the_area_and_its_gradient_is_that_of_the_area(steps: int) -> None:
    """Also where the triangles are smaller than the pixels, and the outline is not the pixel's."""
    corners, _ = _quad()
    corners = corners.clone().requires_grad_()
    points, faces = _grid(corners, steps)
    one, zero = torch.ones(len(faces), 1, dtype=torch.float64), torch.zeros(1).double()
    coverage = _image(points, faces, one, zero).sum()
    area = _area(corners[0, :, :2])
    assert float(coverage.detach()) == pytest.approx(float(area.detach()), rel=0.01)
    got = torch.autograd.grad(coverage, corners)[0][0, :, :2]
    expected = torch.autograd.grad(area, corners)[0][0, :, :2]
    assert float((got - expected).norm() / expected.norm()) < 0.12


@pytest.mark.parametrize("seed", range(4))
def test_gradient_matches_finite_differences(seed: int) -> None:
    """Two overlapping flat triangles over a background, every corner moved."""
    generator = torch.Generator().manual_seed(seed)
    points = torch.rand(1, 6, 2, generator=generator, dtype=torch.float64) * 20 + 2
    depth = torch.tensor([1.0, 1, 1, 2, 2, 2], dtype=torch.float64)
    faces = torch.tensor([[0, 1, 2], [3, 4, 5]])
    colors = torch.rand(2, 2, generator=generator, dtype=torch.float64)
    weights = torch.rand(SIZE, SIZE, 2, generator=generator, dtype=torch.float64)
    background = torch.rand(2, generator=generator, dtype=torch.float64)

    def loss(uv: Tensor) -> Tensor:
        screen = torch.cat((uv, depth.expand(1, -1).unsqueeze(-1)), -1)
        return (_image(screen, faces, colors, background) * weights).sum()

    uv = points.clone().requires_grad_()
    gradient = torch.autograd.grad(loss(uv), uv)[0]
    step = 1e-5  # small enough that no pixel changes its face
    numeric = torch.zeros_like(gradient)
    for i in range(6):
        for k in range(2):
            shift = torch.zeros_like(points)
            shift[0, i, k] = step
            numeric[0, i, k] = (loss(points + shift) - loss(points - shift)) / (2 * step)
    assert torch.allclose(gradient, numeric, atol=1e-6)
    assert float(numeric.abs().max()) > 0.1


def test_image_changes_continuously_as_an_edge_passes_over_pixels() -> None:
    faces = torch.tensor([[0, 2, 1], [0, 3, 2]])
    one, zero = torch.ones(2, 1, dtype=torch.float64), torch.zeros(1).double()
    previous = None
    for x in torch.linspace(10, 12, 81):
        rectangle = [[3.3, 2.6, 0], [float(x), 2.6, 0], [float(x), 20.2, 0], [3.3, 20.2, 0]]
        points = torch.tensor([rectangle], dtype=torch.float64)
        row = _image(points, faces, one, zero)[0, 10, :, 0]
        assert float(row.sum()) == pytest.approx(float(x) - 3.3, abs=1e-6)
        if previous is not None:
            assert float((row - previous).abs().max()) < 0.03
        previous = row


def test_inner_edges_are_left_alone() -> None:
    points, faces = _grid(_quad()[0], 9)
    generator = torch.Generator().manual_seed(0)
    colors = torch.rand(len(faces), 3, generator=generator, dtype=torch.float64)
    fragments = rasterize(points, faces, SIZE, SIZE)
    raw = torch.cat((colors, torch.zeros(1, 3).double()))[fragments.face_ids.long()]
    smooth = antialias(raw, points, faces, fragments)
    inside = fragments.mask[0, 1:-1, 1:-1].clone()
    for dy, dx in ((0, 1), (2, 1), (1, 0), (1, 2)):
        inside &= fragments.mask[0, dy : dy + SIZE - 2, dx : dx + SIZE - 2]
    assert inside.sum() > 100
    assert torch.equal(smooth[0, 1:-1, 1:-1][inside], raw[0, 1:-1, 1:-1][inside])


def test_nothing_drawn_changes_nothing() -> None:
    points, faces = _quad()
    image = torch.rand(1, SIZE, SIZE, 3)
    fragments = rasterize(points + 500, faces, SIZE, SIZE)
    assert torch.equal(antialias(image, points + 500, faces, fragments), image)


def test_an_outline_is_recovered_by_gradient_descent() -> None:
    """What the gradients are for: silhouettes alone bring a moved square back."""
    points, faces = _quad()
    one, zero = torch.ones(2, 1, dtype=torch.float64), torch.zeros(1).double()
    target = _image(points, faces, one, zero).detach()
    shift = torch.tensor([1.7, -1.2, 0.0], dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([shift], lr=0.1)
    for _ in range(60):
        optimizer.zero_grad()
        loss = (_image(points + shift, faces, one, zero) - target).square().sum()
        loss.backward()
        assert shift.grad is not None
        shift.grad[2] = 0
        optimizer.step()
    assert float(shift.detach()[:2].abs().max()) < 0.05
