"""The back of solids and of pairs' heads: analytic shapes, mirrors, and what a pair shows."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from fake_pairs import noise_pair
from helpers.pair_solids import ball_mesh, ball_solid
from lifemask.data._pairs_back import behind
from lifemask.data._pairs_solid import neighbours, plan_solid
from lifemask.data.pairs import Pair, solid_back, true_back, true_solid
from lifemask.graphics.camera import rotation_from_euler_deg

SIZE = 64


def pixels(size: int = SIZE):
    return np.meshgrid(
        (np.arange(size) + 0.5) * 2 / size - 1, 1 - (np.arange(size) + 0.5) * 2 / size
    )


def test_the_back_of_an_ellipsoid_has_its_analytic_depth_and_normals():
    axes, centre = np.array([0.8, 1.2, 1.4]), np.array([0.05, -0.04, -0.1])
    vertices, faces = ball_mesh(rows=200, columns=300)
    solid = plan_solid(faces).solid(vertices * axes + centre)
    depth, normals = solid_back(solid, SIZE)
    x, y = pixels()
    u, v = (x - centre[0]) / (0.6 * axes[0]), (y - centre[1]) / (0.6 * axes[1])
    inner = (u**2 + v**2 < 0.8) & (np.abs(v) < 0.85)  # of the fans at the poles
    z = -0.6 * axes[2] * np.sqrt(np.maximum(1 - u**2 - v**2, 0))
    outward = np.stack([u / axes[0], v / axes[1], z / (0.6 * axes[2] ** 2)], -1)
    outward /= np.linalg.norm(outward, axis=-1, keepdims=True)
    assert np.abs(depth - (z + centre[2]))[inner].max() < 2e-3
    assert (normals * -outward).sum(-1)[inner].min() > 0.999, "inwards: turned to the viewer"
    assert (normals[inner][:, 2] > 0).all()
    outside = u**2 + v**2 > 1.05
    assert np.isnan(depth[outside]).all() and not normals[outside].any()


def test_front_and_back_bound_the_solid():
    solid = ball_solid(rows=80, columns=120, eyes=[(0.0, 0.0, 0.55, 0.2)])
    front, _ = solid.front(SIZE)
    back, _ = solid_back(solid, SIZE)
    both = np.isfinite(front) & np.isfinite(back)
    assert (both == np.isfinite(back)).mean() > 0.995
    x, y = pixels()
    inner = both & (x**2 + y**2 < 0.5**2)
    middle = np.stack([x, y, (front + back) / 2], -1).astype(np.float64)[inner]
    assert (solid.winding(middle) == 1).all()
    far = np.stack([x, y, back - 0.02], -1).astype(np.float64)[inner]
    assert (solid.winding(far) == 0).all()
    assert np.abs(back + np.sqrt(np.maximum(0.36 - x**2 - y**2, 0)))[inner].max() < 5e-3, (
        "the eyeball in front is not seen from behind"
    )


def test_the_solid_from_behind_is_closed_the_same_way():
    solid = ball_solid(rows=6, columns=7)
    turned = behind(solid)
    assert np.array_equal(turned.beside, neighbours(turned.faces))
    a, b, c = np.moveaxis(turned.vertices[turned.faces], 1, 0)
    assert np.einsum("fk,fk->", a, np.cross(b, c)) > 0, "its faces look outwards"


def head_pair(yaw_deg: float, mirror: bool = False) -> Pair:
    """The mean head, turned; with `mirror` as a mirrored picture shows it."""
    sign = -1 if mirror else 1
    rotation = rotation_from_euler_deg(torch.tensor([8.0, sign * yaw_deg, sign * 6.0])).numpy()
    pair = noise_pair()
    shift = np.array([SIZE - 1 - 34.0 if mirror else 34.0, 27.0], np.float32)
    return replace(
        pair, image=np.zeros((SIZE, SIZE, 3), np.uint8), rotation=rotation.astype(np.float32),
        scale=0.25, shift=shift, z_mid=0.1, identity=0 * pair.identity,
        expression=0 * pair.expression, age=0.0, detail_seed=-1,
        depth=np.zeros((SIZE, SIZE), np.float32),
    )  # fmt: skip


@pytest.fixture(scope="module")
def turned() -> Pair:
    return head_pair(25.0)


def test_a_mirrored_pair_has_the_mirrored_back(turned):
    depth, normals = true_back(turned)
    other_depth, other = true_back(head_pair(25.0, mirror=True))
    flipped = other[:, ::-1] * np.array([-1, 1, 1], np.float32)
    both = (np.linalg.norm(normals, axis=-1) > 0.5) & (np.linalg.norm(flipped, axis=-1) > 0.5)
    assert both.sum() > 0.98 * (np.linalg.norm(normals, axis=-1) > 0.5).sum() > 300
    assert np.median((normals * flipped).sum(-1)[both]) > 0.9999
    assert np.quantile((normals * flipped).sum(-1)[both], 0.02) > 0.99
    # the cube's middle is the head's, whose mirror image has the same
    assert np.nanmedian(np.abs(depth - other_depth[:, ::-1])[both]) < 1e-4


def test_the_back_of_a_head_lies_behind_its_front(turned):
    depth, normals = true_back(turned)
    front, facing = true_solid(turned).front(SIZE)
    there = np.isfinite(depth)
    assert (depth < front + 1e-4)[there].all() and np.median((front - depth)[there]) > 0.3
    lengths = np.linalg.norm(normals, axis=-1)
    assert np.allclose(lengths[there], 1, atol=1e-4) and not lengths[~there].any()
    assert (normals[there][:, 2] > -1e-3).mean() > 0.99, "turned to the viewer"
    assert (normals * facing).sum(-1)[there].mean() < 0.9, "they are not the front's"


def test_the_back_is_known_where_the_picture_shows_the_face(turned):
    shown = turned.depth.copy()
    shown[:, : SIZE // 2] = np.nan
    depth, normals = true_back(replace(turned, depth=shown))
    assert np.isnan(depth[:, : SIZE // 2]).all() and not normals[:, : SIZE // 2].any()
    whole_depth, whole = true_back(turned)
    assert np.array_equal(normals[:, SIZE // 2 :], whole[:, SIZE // 2 :])
    assert np.array_equal(depth[:, SIZE // 2 :], whole_depth[:, SIZE // 2 :], equal_nan=True)
