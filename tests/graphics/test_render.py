"""The deferred renderer against analytic spheres and naive sampling."""

import math

import pytest
import torch
from torch import Tensor

from lifemask.graphics.camera import orthographic_camera, pinhole_camera
from lifemask.graphics.lighting import shading, studio_light
from lifemask.graphics.render import RenderResult, draw_surface, render, sample_texture
from lifemask.types import Camera, Lighting

RADIUS_MM = 50.0


def _sphere(steps: int = 40) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Vertices (1, v, 3), faces, uvs (u = azimuth, v = height) and faces_uv of a sphere."""
    lat = torch.linspace(1e-3, math.pi - 1e-3, steps + 1)
    lon = torch.linspace(-math.pi, math.pi, 2 * steps + 1)
    a, o = torch.meshgrid(lat, lon, indexing="ij")
    points = torch.stack((a.sin() * o.sin(), a.cos(), a.sin() * o.cos()), -1).reshape(1, -1, 3)
    uvs = torch.stack(((o / (2 * math.pi) + 0.5), 1 - a / math.pi), -1).reshape(-1, 2)
    index = torch.arange((steps + 1) * (2 * steps + 1)).view(steps + 1, -1)
    p, q, r, s = index[:-1, :-1], index[1:, :-1], index[1:, 1:], index[:-1, 1:]
    faces = torch.cat(
        (torch.stack((p, q, r), -1).reshape(-1, 3), torch.stack((p, r, s), -1).reshape(-1, 3))
    )
    return RADIUS_MM * points, faces, uvs, faces


def _cameras() -> list[Camera]:
    eye, center = torch.eye(3), torch.tensor([39.5, 39.5])
    return [
        orthographic_camera(eye, 0.7, center),
        pinhole_camera(eye, torch.tensor([0.0, 0.0, -400.0]), 280.0, center),
    ]


def _draw(camera: Camera, albedo: Tensor | None = None, **options: object) -> RenderResult:
    vertices, faces, uvs, faces_uv = _sphere()
    texture = torch.full((1, 3, 4, 4), 0.5) if albedo is None else albedo
    return render(
        vertices,
        faces,
        camera,
        80,
        80,
        uvs=uvs,
        faces_uv=faces_uv,
        albedo=texture,
        normals=vertices / RADIUS_MM,
        **options,  # type: ignore[arg-type]
    )


def _true_sphere(camera: Camera) -> tuple[Tensor, Tensor, Tensor]:
    """Hit mask (80, 80), point in the camera frame and unit normal, by intersecting rays."""
    v, u = torch.meshgrid(torch.arange(80.0), torch.arange(80.0), indexing="ij")
    x, y = (u - 39.5), -(v - 39.5)
    if camera.model == "orthographic":
        x, y = x / 0.7, y / 0.7
        inside = RADIUS_MM**2 - x * x - y * y
        normal = torch.stack((x, y, inside.clamp(min=0).sqrt()), -1) / RADIUS_MM
        return inside > 0, normal * RADIUS_MM, normal
    ray = torch.nn.functional.normalize(torch.stack((x, y, torch.full_like(x, -280.0)), -1), dim=-1)
    middle = -400 * ray[..., 2]
    inside = middle**2 - (400**2 - RADIUS_MM**2)
    hit = (middle - inside.clamp(min=0).sqrt()).unsqueeze(-1) * ray
    return inside > 0, hit, (hit - torch.tensor([0.0, 0.0, -400.0])) / RADIUS_MM


@pytest.mark.parametrize("index", [0, 1])
def test_sphere_matches_ray_tracing(index: int) -> None:
    camera = _cameras()[index]
    light = studio_light("key")
    result = _draw(camera, lighting=light)
    hit, point, normal = _true_sphere(camera)
    assert (hit != (result.mask[0] > 0)).float().mean() < 0.01
    safe = hit & (result.mask[0] > 0) & (normal[..., 2] > 0.3)
    got_normal = result.normals[0].movedim(0, -1)
    assert float((got_normal - normal)[safe].abs().max()) < 0.02
    assert float((result.depth_mm[0] - point[..., 2])[safe].abs().max()) < 0.4
    expected = 0.5 * shading(normal, light.sh).movedim(-1, 0)
    assert float((result.image[0] - expected)[:, safe].abs().max()) < 0.02
    longitude = torch.atan2(normal[..., 0], normal[..., 2]) / (2 * math.pi) + 0.5
    assert float((result.uv[0, ..., 0] - longitude)[safe].abs().max()) < 5e-3


def test_outside_is_empty_and_background_shows() -> None:
    background = torch.rand(3, 80, 80)
    result = _draw(_cameras()[0], background=background, lighting=studio_light("soft"))
    outside = result.mask[0] == 0
    assert outside.any() and torch.equal(outside, result.face_ids[0] < 0)
    assert torch.equal(result.image[0][:, outside], background[:, outside])
    assert (result.depth_mm[0][outside] == 0).all() and (result.uv[0][outside] == 0).all()
    assert (result.normals[0][:, outside] == 0).all()


@pytest.mark.parametrize("options", [{"supersample": 3}, {"antialias": True}])
def test_coverage_is_the_area_of_the_disc(options: dict[str, object]) -> None:
    background = torch.full((3, 80, 80), 0.5)
    result = _draw(_cameras()[0], background=background, **options)
    assert float(result.mask.sum()) == pytest.approx(math.pi * (0.7 * RADIUS_MM) ** 2, rel=5e-3)
    assert ((result.mask > 0.01) & (result.mask < 0.99)).sum() > 100
    # Albedo 0.5 over 0.5 is invisible only if coverage and colour blend alike.
    assert torch.allclose(result.image, torch.full_like(result.image, 0.5), atol=1e-5)


def test_texels_sit_at_their_documented_places() -> None:
    generator = torch.Generator().manual_seed(0)
    texture = torch.rand(1, 3, 5, 7, generator=generator)
    i, j = torch.meshgrid(torch.arange(5.0), torch.arange(7.0), indexing="ij")
    uv = torch.stack(((j + 0.5) / 7, 1 - (i + 0.5) / 5), -1).unsqueeze(0)
    assert torch.allclose(sample_texture(texture, uv), texture, atol=1e-5)
    between = sample_texture(texture, uv[:, :, :-1] + torch.tensor([0.5 / 7, 0.0]))
    assert torch.allclose(between, (texture[..., 1:] + texture[..., :-1]) / 2, atol=1e-5)
    corner = sample_texture(texture, torch.tensor([[[[-1.0, 2.0]]]]))
    assert torch.allclose(corner[0, :, 0, 0], texture[0, :, 0, 0], atol=1e-6)


def test_parts_wear_their_own_textures() -> None:
    vertices, faces, uvs, faces_uv = _sphere(20)
    height = vertices[0, faces].mean(1)[:, 1]
    part = (height < 0).long()
    colors = torch.tensor([[0.9, 0.1, 0.1], [0.1, 0.1, 0.8]])
    textures = [c.view(1, 3, 1, 1).expand(1, 3, 2 + k, 2) for k, c in enumerate(colors)]
    options = {"uvs": uvs, "faces_uv": faces_uv, "albedo": textures}
    camera = _cameras()[0]
    result = render(vertices, faces, camera, 80, 80, face_part=part, **options)
    ids = result.face_ids[0].long()
    assert torch.allclose(result.image[0].movedim(0, -1)[ids >= 0], colors[part[ids[ids >= 0]]])
    with pytest.raises(ValueError, match="face_part"):
        render(vertices, faces, camera, 80, 80, **options)
    with pytest.raises(ValueError, match="only 2 textures"):
        render(vertices, faces, camera, 80, 80, face_part=part + 1, **options)


def test_texture_is_perspective_correct() -> None:
    """A tilted textured square under a pinhole: uv at each pixel equals that of the ray's hit."""
    corners = torch.tensor([[[-40.0, -30, 80], [40, -30, 80], [40, 30, -120], [-40, 30, -120]]])
    uvs = torch.tensor([[0.0, 0], [1, 0], [1, 1], [0, 1]])
    faces = torch.tensor([[0, 1, 2], [0, 2, 3]])
    camera = _cameras()[1]
    texture = torch.rand(1, 3, 8, 8)
    result = render(corners, faces, camera, 80, 80, uvs=uvs, faces_uv=faces, albedo=texture)
    covered = result.mask[0] > 0
    assert covered.sum() > 500
    v, u = torch.meshgrid(torch.arange(80.0), torch.arange(80.0), indexing="ij")
    ray = torch.stack((u - 39.5, 39.5 - v, torch.full_like(u, -280.0)), -1)
    normal = torch.linalg.cross(corners[0, 1] - corners[0, 0], corners[0, 3] - corners[0, 0])
    origin = corners[0, 0] - torch.tensor([0.0, 0.0, 400.0])
    hit = ray * ((origin @ normal) / (ray @ normal)).unsqueeze(-1)
    expected = torch.stack(((hit[..., 0] + 40) / 80, (hit[..., 1] + 30) / 60), -1)
    assert torch.allclose(result.uv[0][covered], expected[covered], atol=1e-4)


def test_gradients_reach_everything() -> None:
    vertices, faces, uvs, faces_uv = (
        t.double() if t.is_floating_point() else t for t in _sphere(8)
    )
    camera = _cameras()[1]
    sh = studio_light("key").sh.double().requires_grad_()
    texture = torch.rand(1, 3, 6, 6, dtype=torch.float64, requires_grad=True)
    points = vertices.clone().requires_grad_()
    shift = camera.translation.double().requires_grad_()
    moved = Camera(
        "pinhole", camera.rotation.double(), shift, camera.scale.double(), camera.center.double()
    )
    result = render(
        points,
        faces,
        moved,
        40,
        40,
        uvs=uvs,
        faces_uv=faces_uv,
        albedo=texture,
        lighting=Lighting(sh),
        antialias=True,
    )
    result.image.square().sum().backward()
    for tensor in (points, shift, texture, sh):
        assert tensor.grad is not None
        assert bool(tensor.grad.isfinite().all()) and float(tensor.grad.abs().sum()) > 0


def test_shape_gradient_inside_matches_finite_differences() -> None:
    """With the visible faces held by a small step, position moves texture, normals and shade."""
    vertices, faces, uvs, faces_uv = (
        t.double() if t.is_floating_point() else t for t in _sphere(8)
    )
    eye, center = torch.eye(3).double(), torch.tensor([39.5, 39.5])
    camera = orthographic_camera(eye, 0.7, center)
    texture = torch.rand(1, 3, 4, 4, generator=torch.Generator().manual_seed(0)).double()
    direction = torch.randn(vertices.shape, generator=torch.Generator().manual_seed(1)).double()
    weight = torch.rand(1, 3, 80, 80, generator=torch.Generator().manual_seed(2)).double()
    light = Lighting(studio_light("soft").sh.double())

    def loss(amount: Tensor) -> Tensor:
        moved = vertices + amount * direction
        result = render(
            moved,
            faces,
            camera,
            80,
            80,
            uvs=uvs,
            faces_uv=faces_uv,
            albedo=texture,
            lighting=light,
        )
        return (result.image * weight).sum()

    zero = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    gradient = float(torch.autograd.grad(loss(zero), zero)[0])
    step = torch.full((1,), 1e-5, dtype=torch.float64)
    numeric = float((loss(step) - loss(-step)) / 2e-5)
    assert gradient == pytest.approx(numeric, rel=1e-3)


def test_batch_with_shared_texture_and_camera_equals_single_calls() -> None:
    vertices, faces, uvs, faces_uv = _sphere(12)
    pair = torch.cat((vertices, 0.6 * vertices))
    texture = torch.rand(1, 3, 4, 4)
    light = Lighting(torch.stack((studio_light("key").sh, studio_light("rim").sh)))
    options = {"uvs": uvs, "faces_uv": faces_uv, "albedo": texture}
    camera = _cameras()[1]
    both = render(pair, faces, camera, 80, 80, lighting=light, **options)
    for i in range(2):
        alone = Lighting(light.sh[i])
        single = render(pair[i : i + 1], faces, camera, 80, 80, lighting=alone, **options)
        assert torch.allclose(both.image[i], single.image[0], atol=1e-6)


def test_backends_draw_the_same_surface() -> None:
    vertices, faces, _, _ = _sphere(12)
    one, two = (
        draw_surface(vertices, faces, _cameras()[1], 80, 80, backend=backend)
        for backend in ("torch", "numba")
    )
    assert torch.equal(one.fragments.face_ids, two.fragments.face_ids)
    assert torch.equal(one.normals, two.normals)
