"""Tangent frames and normal maps: analytic surfaces, sheared and mirrored uvs."""

import math

import numpy as np
import pytest
import torch

from helpers.ball import RADIUS_MM, ball_scene
from lifemask.graphics.mesh import vertex_normals
from lifemask.graphics.tangents import (
    MAX_SLOPE,
    bend_normals,
    relief_normals,
    texture_axes,
    uv_tangents,
)
from lifemask.graphics.uv import create_uv_atlas, sample_uv


def ball(mirrored: bool = False):
    scene = ball_scene(mirrored=mirrored)
    (primitive,) = scene.primitives
    arrays = (scene.positions_mm, primitive.faces, scene.uvs, primitive.faces_uv)
    return tuple(torch.from_numpy(a) for a in arrays)


def random_plane(seed: int, mirrored: bool = False):
    """A turned square plate of 4 x 4 quads whose uvs are an affine map of it; J is (3, 2) mm."""
    generator = torch.Generator().manual_seed(seed)
    step = torch.linspace(0, 1, 5)
    uvs = torch.cartesian_prod(step, step)
    axes = torch.randn(3, 2, generator=generator, dtype=torch.float64).float() * 40
    if mirrored:
        axes = axes.flip(1)
    i = (torch.arange(4)[:, None] * 5 + torch.arange(4)).reshape(-1)
    faces = torch.cat([torch.stack((i, i + 5, i + 6), -1), torch.stack((i, i + 6, i + 1), -1)])
    return uvs @ axes.T, faces, uvs, axes


def test_texture_axes_are_the_derivative_of_the_chart():
    vertices, faces, uvs, axes = random_plane(0)
    found = texture_axes(vertices, faces, uvs, faces)
    torch.testing.assert_close(found, axes.expand_as(found), atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize("mirrored", [False, True])
def test_tangents_of_a_ball_run_east(mirrored):
    vertices, faces, uvs, faces_uv = ball(mirrored)
    normals = vertex_normals(vertices, faces)
    tangents = uv_tangents(vertices, faces, uvs, faces_uv, normals)
    owner = torch.zeros(len(uvs), dtype=torch.long)
    owner[faces_uv.reshape(-1).long()] = faces.reshape(-1).long()
    place = vertices[owner] / RADIUS_MM
    east = torch.stack((place[:, 2], 0 * place[:, 0], -place[:, 0]), -1)
    inner = torch.linalg.vector_norm(east, dim=-1) > 0.2  # away from the poles
    east = torch.nn.functional.normalize(east, dim=-1) * (-1 if mirrored else 1)
    assert float((tangents[inner, :3] * east[inner]).sum(-1).min()) > 0.999
    assert set(tangents[inner, 3].tolist()) == {-1.0 if mirrored else 1.0}
    dots = (tangents[:, :3] * normals[owner]).sum(-1)
    torch.testing.assert_close(dots, torch.zeros_like(dots), atol=1e-5, rtol=0)
    lengths = torch.linalg.vector_norm(tangents[:, :3], dim=-1)
    torch.testing.assert_close(lengths, torch.ones_like(lengths))


def test_tangents_turn_with_the_mesh():
    vertices, faces, uvs, faces_uv = ball()
    turn = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(4)))[0]
    turn = turn * torch.linalg.det(turn)  # a proper rotation
    normals = vertex_normals(vertices, faces)
    before = uv_tangents(vertices, faces, uvs, faces_uv, normals)
    after = uv_tangents(vertices @ turn.T, faces, uvs, faces_uv, normals @ turn.T)
    inner = (uvs[:, 1] - 0.5).abs() < 0.48
    torch.testing.assert_close(after[inner, :3], (before[:, :3] @ turn.T)[inner], atol=1e-4, rtol=0)
    assert torch.equal(after[inner, 3], before[inner, 3])


def test_uvs_without_area_still_give_frames():
    vertices, faces, uvs, _ = random_plane(1)
    normals = vertex_normals(vertices, faces)
    tangents = uv_tangents(vertices, faces, torch.zeros_like(uvs), faces, normals)
    assert bool(tangents.isfinite().all())
    dots = (tangents[:, :3] * normals).sum(-1)
    torch.testing.assert_close(dots, torch.zeros_like(dots), atol=1e-5, rtol=0)


def test_flat_relief_bends_nothing_and_a_tilt_leans_along_the_tangent():
    normals = torch.nn.functional.normalize(
        torch.randn(50, 3, generator=torch.Generator().manual_seed(0)), dim=-1
    )
    tangents = torch.cat((torch.randn(50, 3), torch.ones(50, 1)), -1)
    flat = torch.tensor([0.0, 0.0, 1.0]).expand(50, 3)
    torch.testing.assert_close(bend_normals(normals, tangents, flat), normals)
    angle = math.radians(30)
    tilt = torch.tensor([math.sin(angle), 0.0, math.cos(angle)]).expand(50, 3)
    bent = bend_normals(normals, tangents, tilt)
    cosine = (bent * normals).sum(-1)
    torch.testing.assert_close(cosine, torch.full_like(cosine, math.cos(angle)))
    assert float((bent * tangents[:, :3]).sum(-1).min()) > float(
        (normals * tangents[:, :3]).sum(-1).min()
    )


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("seed", [2, 3])
def test_a_slope_in_space_is_that_slope_in_the_map_whatever_the_uvs_do(seed, mirrored):
    vertices, faces, uvs, axes = random_plane(seed, mirrored)
    atlas = create_uv_atlas(uvs, faces, faces, 32)
    normals = vertex_normals(vertices, faces)
    in_plane = torch.nn.functional.normalize(axes @ torch.tensor([0.3, 0.7]), dim=0)
    height = atlas.interpolate(vertices) @ in_plane * 0.2  # rises 0.2 mm per mm
    picture = relief_normals(height, vertices, atlas)
    inner = uvs.new_tensor([[0.4, 0.5], [0.6, 0.6]])
    tangents = uv_tangents(vertices, faces, uvs, faces, normals)[:1].expand(2, 4)
    bent = bend_normals(normals[:1].expand(2, 3), tangents, sample_uv(picture, inner))
    slope = MAX_SLOPE * math.tanh(0.2 / MAX_SLOPE)
    expected = torch.nn.functional.normalize(normals[0] - slope * in_plane, dim=0)
    torch.testing.assert_close(bent, expected.expand(2, 3), atol=2e-3, rtol=0)


def test_relief_of_nothing_is_flat_and_all_maps_are_unit():
    vertices, faces, uvs, _ = random_plane(5)
    atlas = create_uv_atlas(uvs * 0.5 + 0.1, faces, faces, 64)
    flat = relief_normals(torch.zeros(len(atlas)), vertices, atlas)
    assert np.array_equal(flat[:, 0, 0], [0, 0, 1]) and float((flat[2] - 1).abs().max()) == 0
    rough = relief_normals(torch.randn(len(atlas)), vertices, atlas)
    lengths = torch.linalg.vector_norm(rough, dim=0)
    torch.testing.assert_close(lengths, torch.ones_like(lengths))
    assert float(rough[2].min()) > 1 / math.hypot(1, MAX_SLOPE) - 1e-4
