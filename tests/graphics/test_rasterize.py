"""The rasteriser's kernels against exact arithmetic, each other, and analytic triangles."""

import math
import os
from fractions import Fraction

import pytest
import torch
from torch import Tensor

from lifemask.graphics.rasterize import (
    SUBPIXELS,
    Backend,
    barycentric_at_pixels,
    interpolate,
    rasterize,
)

FAST: tuple[Backend, ...] = ("torch", "numba")


def _random_mesh(seed: int, batch: int = 2, spread: float = 20.0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    points = spread * torch.randn(batch, 60, 3, generator=generator)
    points[..., :2] += torch.tensor([16.0, 12.0])
    return points, torch.randint(0, 60, (150, 3), generator=generator)


def _cases() -> dict[str, tuple[Tensor, Tensor]]:
    """Meshes that stress the rule, all for an image of 24 x 33."""
    cases = {"random": _random_mesh(0), "tiny": _random_mesh(1, spread=1.0)}
    points, faces = _random_mesh(2)
    cases["on the grid"] = (points.round(), faces)
    points, faces = _random_mesh(3)
    points[..., 2] = 0.0
    cases["equal depth"] = (points, faces)
    points, faces = _random_mesh(4)
    points[..., 2] = torch.where(points[..., 2] > 0, 0.0, -0.0)
    cases["zeros of both signs"] = (points, faces)
    points, faces = _random_mesh(5)
    points[:, ::3, 1] = points[:, 1::3, 1] + 1e-3 * points[:, 2::3, 1]
    cases["slivers"] = (points, torch.arange(60).view(20, 3))
    points, faces = _random_mesh(6)
    points[0, :10, 0], points[1, 10:20, 1] = math.nan, math.inf
    points[0, 20:30, 2], points[1, 40, 2] = -math.inf, math.nan
    cases["not finite"] = (points, faces)
    points, faces = _random_mesh(7)
    points[:, ::4, :2] *= 3000
    points[:, 1, 0] = 4e5
    cases["far off the image"] = (points, faces)
    points, faces = _random_mesh(8)
    cases["off the image"] = (points + torch.tensor([500.0, 0.0, 0.0]), faces)
    faces = faces.clone()
    faces[::3, 1] = faces[::3, 0]
    cases["degenerate"] = (points, faces)
    cases["no faces"] = (points, faces[:0])
    points, faces = _random_mesh(9)
    cases["steep"] = (points * torch.tensor([1.0, 1.0, 1e6]), faces)
    return cases


@pytest.mark.parametrize("cull", [False, True])
@pytest.mark.parametrize("name", list(_cases()))
def test_numba_agrees_with_torch_on_every_pixel(name: str, cull: bool) -> None:
    points, faces = _cases()[name]
    one, two = (
        rasterize(points, faces, 24, 33, backend=backend, cull_backfaces=cull) for backend in FAST
    )
    assert torch.equal(one.face_ids, two.face_ids)
    assert torch.equal(one.depth, two.depth)
    assert torch.equal(one.mask, one.depth.isfinite())


def test_chunks_of_the_reference_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    points, faces = _cases()["random"]
    whole = rasterize(points, faces, 24, 33, backend="torch")
    monkeypatch.setattr("lifemask.graphics.rasterize._CANDIDATES_PER_CHUNK", 100)
    parts = rasterize(points, faces, 24, 33, backend="torch")
    assert torch.equal(whole.face_ids, parts.face_ids) and torch.equal(whole.depth, parts.depth)


@pytest.mark.parametrize("name", ["random", "on the grid", "slivers", "not finite"])
def test_triton_agrees_with_numba_on_every_pixel(name: str) -> None:
    pytest.importorskip("triton")
    cuda = torch.cuda.is_available()
    if not cuda and os.environ.get("TRITON_INTERPRET") != "1":
        pytest.skip("needs CUDA, or TRITON_INTERPRET=1")
    points, faces = _cases()[name]
    faces = faces[:40]
    expected = rasterize(points, faces, 24, 33, backend="numba")
    device = "cuda" if cuda else "cpu"
    got = rasterize(points.to(device), faces.to(device), 24, 33, backend="triton")
    assert torch.equal(got.face_ids.cpu(), expected.face_ids)
    assert torch.equal(got.depth.cpu(), expected.depth)


def _exact_owner(points: Tensor, faces: Tensor, x: int, y: int) -> tuple[int, Fraction | None]:
    """Nearest face at a pixel in rational arithmetic; a naive twin of the rule."""
    best: tuple[int, Fraction | None] = (-1, None)
    for face, row in enumerate(faces.tolist()):
        corner = [
            (
                Fraction(round(Fraction(float(points[i, 0])) * SUBPIXELS), SUBPIXELS),
                Fraction(round(Fraction(float(points[i, 1])) * SUBPIXELS), SUBPIXELS),
            )
            for i in row
        ]
        z = [Fraction(float(points[i, 2])) for i in row]
        area = _cross(corner[0], corner[1], corner[2])
        if area == 0:
            continue
        if area < 0:
            corner, z, area = [corner[k] for k in (0, 2, 1)], [z[k] for k in (0, 2, 1)], -area
        weights = []
        for k in range(3):
            start, end = corner[(k + 1) % 3], corner[(k + 2) % 3]
            value = _cross(start, end, (Fraction(x), Fraction(y)))
            dx, dy = end[0] - start[0], end[1] - start[1]
            owns = dy < 0 or (dy == 0 and dx > 0)
            if value < 0 or (value == 0 and not owns):
                break
            weights.append(value / area)
        if len(weights) == 3:
            depth = sum((w * d for w, d in zip(weights, z, strict=True)), Fraction(0))
            if best[1] is None or depth > best[1]:
                best = (face, depth)
    return best


def _cross(a: tuple, b: tuple, c: tuple) -> Fraction:
    return (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])


@pytest.mark.parametrize("name", ["random", "on the grid", "slivers", "tiny"])
def test_rule_holds_in_exact_arithmetic(name: str) -> None:
    points, faces = _cases()[name]
    faces = faces[:40]
    got = rasterize(points[:1], faces, 24, 33)
    for y in range(0, 24, 2):
        for x in range(0, 33, 3):
            face, depth = _exact_owner(points[0], faces, x, y)
            assert int(got.face_ids[0, y, x]) == face
            if depth is not None:
                assert float(got.depth[0, y, x]) == pytest.approx(float(depth), rel=1e-6)


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("on_grid", [False, True])
def test_shared_edges_have_no_gap_and_no_double_hit(backend: Backend, on_grid: bool) -> None:
    """A fan that fills the image: each pixel belongs to exactly one face."""
    generator = torch.Generator().manual_seed(0)
    angle = (torch.rand(40, generator=generator) * 2 * math.pi).sort().values
    rim = torch.stack((angle.cos(), angle.sin()), -1) * 80 + 16
    center = torch.tensor([[16.0, 15.0]])
    points = torch.cat((rim, center))
    points = (points if not on_grid else points.round()).unsqueeze(0)
    points = torch.cat((points, torch.zeros_like(points[..., :1])), -1)
    faces = torch.stack((torch.arange(40), (torch.arange(40) + 1) % 40, torch.full((40,), 40)), -1)
    owners = torch.zeros(32, 32)
    for face in faces:
        owners += rasterize(points, face[None], 32, 32, backend=backend).mask[0]
    assert (owners == 1).all()


@pytest.mark.parametrize("backend", FAST)
def test_top_left_rule_on_a_square(backend: Backend) -> None:
    square = torch.tensor([[[2.0, 3, 0], [6, 3, 0], [6, 8, 0], [2, 8, 0]]])
    faces = torch.tensor([[0, 1, 2], [0, 2, 3]])
    mask = rasterize(square, faces, 12, 12, backend=backend).mask[0]
    expected = torch.zeros(12, 12, dtype=torch.bool)
    expected[3:8, 2:6] = True
    assert torch.equal(mask, expected)


@pytest.mark.parametrize("backend", FAST)
def test_nearer_wins_and_the_lower_id_where_equal(backend: Backend) -> None:
    flat = torch.tensor([[0.0, 0], [20, 0], [0, 20]])
    depth = torch.tensor([1.0, 3.0, 3.0, 2.0]).repeat_interleave(3).unsqueeze(-1)
    points = torch.cat((flat.repeat(4, 1), depth), -1).unsqueeze(0)
    got = rasterize(points, torch.arange(12).view(4, 3), 8, 8, backend=backend)
    assert (got.face_ids == 1).all() and (got.depth == 3).all()


@pytest.mark.parametrize("backend", FAST)
def test_culling_leaves_out_faces_seen_from_behind(backend: Backend) -> None:
    # Counter-clockwise with y up, as seen: bottom left, bottom right, top.
    points = torch.tensor([[[0.0, 9, 0], [9, 9, 0], [4, 0, 0]]])
    front, back = torch.tensor([[0, 1, 2]]), torch.tensor([[0, 2, 1]])
    for faces, seen in ((front, True), (back, False)):
        mask = rasterize(points, faces, 10, 10, backend=backend, cull_backfaces=True).mask
        assert bool(mask.any()) == seen


def test_wrong_input_is_named() -> None:
    points, faces = _random_mesh(0)
    with pytest.raises(ValueError, match="points_screen"):
        rasterize(points[0], faces, 8, 8)
    with pytest.raises(ValueError, match="integer"):
        rasterize(points, faces.float(), 8, 8)
    with pytest.raises(ValueError, match="outside 0..59"):
        rasterize(points, faces + 1, 8, 8)
    with pytest.raises(ValueError, match="image sides"):
        rasterize(points, faces, 0, 8)
    with pytest.raises(ValueError, match="choose auto"):
        rasterize(points, faces, 8, 8, backend="opengl")  # type: ignore[arg-type]


def test_barycentrics_are_those_of_the_pixel_centre() -> None:
    points, faces = _random_mesh(11)
    points = points.double()
    ids = rasterize(points, faces, 24, 33).face_ids
    bary = barycentric_at_pixels(points, faces, ids)
    covered = ids >= 0
    assert torch.allclose(bary.sum(-1), covered.double(), atol=1e-9)
    position = interpolate(points[..., :2], faces, ids, bary)
    v, u = torch.meshgrid(torch.arange(24.0), torch.arange(33.0), indexing="ij")
    expected = torch.stack((u, v), -1).double() * covered[..., None]
    assert torch.allclose(position, expected, atol=1e-6)


def test_perspective_correct_barycentrics_hit_the_ray() -> None:
    """The interpolated 3D point projects back to the pixel's centre."""
    generator = torch.Generator().manual_seed(1)
    points = torch.randn(1, 3, 3, generator=generator, dtype=torch.float64) * 40
    points[..., 2] -= 200.0
    near = 1 / -points[..., 2]
    uv = torch.stack((16 + 90 * points[..., 0] * near, 12 - 90 * points[..., 1] * near), -1)
    faces = torch.tensor([[0, 1, 2]])
    ids = rasterize(torch.cat((uv, near[..., None]), -1), faces, 24, 33).face_ids
    bary = barycentric_at_pixels(uv, faces, ids, near)
    hit = interpolate(points, faces, ids, bary)[ids >= 0]
    row, column = (ids[0] >= 0).nonzero(as_tuple=True)
    assert len(row) > 20
    assert torch.allclose(16 - 90 * hit[:, 0] / hit[:, 2], column.double(), atol=1e-6)
    assert torch.allclose(12 + 90 * hit[:, 1] / hit[:, 2], row.double(), atol=1e-6)


def test_barycentric_and_interpolation_gradients() -> None:
    generator = torch.Generator().manual_seed(3)
    uv = torch.rand(2, 5, 2, generator=generator, dtype=torch.float64) * 9
    near = torch.rand(2, 5, generator=generator, dtype=torch.float64) + 1
    values = torch.randn(1, 5, 3, generator=generator, dtype=torch.float64)
    faces = torch.tensor([[0, 1, 2], [2, 1, 3], [3, 4, 0]])
    ids = rasterize(torch.cat((uv, near[..., None]), -1), faces, 9, 9).face_ids
    assert (ids >= 0).sum() > 10

    def image(uv: Tensor, near: Tensor, values: Tensor) -> Tensor:
        flat = barycentric_at_pixels(uv, faces, ids)
        deep = barycentric_at_pixels(uv, faces, ids, near)
        return interpolate(values, faces, ids, flat) + interpolate(values, faces, ids, deep)

    inputs = (uv.requires_grad_(), near.requires_grad_(), values.requires_grad_())
    assert torch.autograd.gradcheck(image, inputs)


def test_vertices_without_depth_do_not_poison_gradients() -> None:
    points, faces = _random_mesh(12)
    points[:, 0] = math.nan
    points[:, 1, 2] = math.nan
    points.requires_grad_()
    ids = rasterize(points, faces, 24, 33).face_ids
    bary = barycentric_at_pixels(points, faces, ids, 1 + points[..., 2].sigmoid())
    assert (ids >= 0).any() and bool(bary.isfinite().all())
    bary.square().sum().backward()
    assert points.grad is not None and bool(points.grad[:, 2:].isfinite().all())


def test_batch_equals_single_calls() -> None:
    points, faces = _random_mesh(13, batch=3)
    together = rasterize(points, faces, 24, 33).face_ids
    for i in range(3):
        assert torch.equal(together[i], rasterize(points[i : i + 1], faces, 24, 33).face_ids[0])
