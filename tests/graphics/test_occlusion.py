"""Shadowed radiance transfer against analytic occluders."""

import math

import pytest
import torch
from torch import Tensor

from lifemask.graphics.camera import orthographic_camera, rotation_from_euler_deg
from lifemask.graphics.lighting import (
    ambient_light,
    directional_light,
    lambert_transfer,
    rotate_sh,
    studio_light,
    transferred,
)
from lifemask.graphics.mesh import vertex_normals
from lifemask.graphics.occlusion import radiance_transfer
from lifemask.graphics.render import render


def _patch(origin: Tensor, right: Tensor, up: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """A flat grid whose normal is right x up."""
    t = torch.linspace(0, 1, steps + 1)
    points = origin + t[:, None, None] * up + t[None, :, None] * right
    index = torch.arange((steps + 1) ** 2).view(steps + 1, -1)
    p, q, r, s = index[:-1, :-1], index[:-1, 1:], index[1:, 1:], index[1:, :-1]
    faces = torch.cat((torch.stack((p, q, r), -1), torch.stack((p, r, s), -1))).reshape(-1, 3)
    return points.reshape(-1, 3), faces


def _sphere(steps: int = 20) -> tuple[Tensor, Tensor]:
    """A sphere of radius 50 mm with open, tiny poles."""
    lat = torch.linspace(0.02, math.pi - 0.02, steps + 1)[:, None]
    lon = torch.arange(2 * steps)[None] * math.pi / steps
    ring = lat.sin()
    points = torch.stack((ring * lon.sin(), lat.cos().expand(-1, 2 * steps), ring * lon.cos()), -1)
    index = torch.arange((steps + 1) * 2 * steps).view(steps + 1, -1)
    p, q, r, s = index[:-1], index[1:], index[1:].roll(-1, 1), index[:-1].roll(-1, 1)
    faces = torch.cat((torch.stack((p, q, r), -1), torch.stack((p, r, s), -1))).reshape(-1, 3)
    return 50 * points.reshape(-1, 3), faces


def test_a_convex_body_shadows_itself_nowhere() -> None:
    vertices, faces = _sphere()
    free = lambert_transfer(vertex_normals(vertices, faces))
    got = radiance_transfer(vertices, faces, directions=64, size=128)
    inner = vertices[:, 1].abs() < 45
    assert float((got - free)[inner].abs().max()) < 0.02


def test_floor_beside_a_tall_wall_loses_half_the_sky() -> None:
    """At the foot of a wall on the left (-x), ambient light halves and light from it is gone."""
    x, y, z = torch.eye(3)
    floor, faces = _patch(-60 * z, 120 * z, 120 * x, 30)
    wall, wall_faces = _patch(-200 * z - 0.01 * x, 200 * y, 400 * z, 10)
    near = ((floor - torch.tensor([8.0, 0.0, 0.0])).norm(dim=-1) < 0.1).nonzero()[0, 0]
    vertices = torch.cat((floor, wall))
    normal = vertex_normals(vertices, torch.cat((faces, wall_faces + len(floor))))[near]
    assert torch.allclose(normal, y, atol=1e-5)
    both = torch.cat((faces, wall_faces + len(floor)))
    transfer = radiance_transfer(vertices, both, size=256, bias_mm=2.5)[near]
    ambient = transferred(transfer, ambient_light().sh)[0]
    assert float(ambient) == pytest.approx(0.5, abs=0.08)
    sides = [
        transferred(transfer, directional_light(side * x + y, torch.ones(3), 30.0).sh)[0]
        for side in (-1, 1)
    ]
    assert sides[0] < 0.4 * sides[1]


def test_render_with_free_transfer_equals_render_by_normals_at_any_pose() -> None:
    vertices, faces = _sphere()
    normals = vertices / torch.linalg.vector_norm(vertices, dim=-1, keepdim=True)
    rotation = rotation_from_euler_deg(torch.tensor([20.0, -50.0, 35.0]))
    camera = orthographic_camera(rotation, 0.5, torch.tensor([31.5, 31.5]))
    light = studio_light("key")
    options = {
        "uvs": torch.zeros(1, 2),
        "faces_uv": torch.zeros_like(faces),
        "albedo": torch.full((1, 3, 2, 2), 0.5),
        "lighting": light,
        "normals": normals[None],
    }
    plain = render(vertices[None], faces, camera, 64, 64, **options)
    free = lambert_transfer(normals)[None]
    shadowed = render(vertices[None], faces, camera, 64, 64, transfer=free, **options)
    assert torch.allclose(plain.image, shadowed.image, atol=0.01)
    turned = transferred(lambert_transfer(normals @ rotation.mT), light.sh)
    back = transferred(lambert_transfer(normals), rotate_sh(light.sh, rotation.mT))
    assert torch.allclose(turned, back, atol=1e-5)
