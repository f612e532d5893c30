"""The fused kernels against the graphics package and against analytic cases."""

import numpy as np
import pytest
import torch

from lifemask.data import _synthetic_kernels as kernels
from lifemask.data import _synthetic_surroundings as around
from lifemask.data._synthetic_render import finer
from lifemask.data._synthetic_sample import frame_face, rotation_from_angles
from lifemask.data._synthetic_scene import View
from lifemask.data._synthetic_shade import shade_scene
from lifemask.facemodel import load_face_model
from lifemask.facemodel.landmarks import flip_table
from lifemask.graphics import lighting
from lifemask.graphics.camera import rotation_from_euler_deg
from lifemask.graphics.rasterize import rasterize

SIZE = 128


def _no_props():
    return np.zeros((13, kernels.MATERIAL_SIZE), np.float32), np.zeros(8, np.float32)


@pytest.fixture(scope="module")
def head():
    model = load_face_model("lifemask")
    with torch.no_grad():
        vertices = model(torch.zeros(80), torch.zeros(52))
        points = model.landmarks(vertices, "lifemask392").numpy()
    return vertices.numpy(), points, model.topology.faces.numpy().astype(np.int32)


def _view(vertices, points, angles, ss=2):
    """Screen vertices and landmarks on the fine grid, camera-frame vertices."""
    rotation = rotation_from_angles(np.array(angles, np.float32))
    shift = np.array([0, 0, -800], np.float32)
    posed, marks = vertices @ rotation.T + shift, points @ rotation.T + shift
    view = View(False, rotation, shift, *frame_face(marks[68:136], SIZE, 1.25))
    screen = finer(view.project(posed), ss)
    return screen, finer(view.project(marks), ss), posed.astype(np.float32)


def _rasterize(screen, faces, cull=True):
    materials, noise = _no_props()
    depth = np.empty((2 * SIZE, 2 * SIZE), np.float32)
    ids = np.empty(depth.shape, np.int32)
    n = len(faces)
    kernels.rasterize_scene(
        screen, faces, np.zeros((n, 3, 2), np.float32), np.full(n, kernels.MOUTH, np.uint8),
        np.full(n, cull), materials, noise, depth, ids,
    )  # fmt: skip
    return depth, ids


@pytest.mark.parametrize("angles", [(0, 0, 0), (10, 55, -20)])
def test_rasterizer_agrees_with_graphics(head, angles):
    vertices, points, faces = head
    screen, _, _ = _view(vertices, points, angles)
    depth, ids = _rasterize(screen, faces)
    reference = rasterize(
        torch.from_numpy(screen)[None], torch.from_numpy(faces).long(), 2 * SIZE, 2 * SIZE,
        cull_backfaces=True,
    )  # fmt: skip
    theirs = reference.face_ids[0].numpy()
    assert (ids == theirs).mean() > 0.999
    both = (ids >= 0) & (theirs >= 0)
    near = np.abs(1 / depth[both] - 1 / reference.depth[0].numpy()[both])
    assert np.quantile(near, 0.999) < 0.2, "distances agree to 0.2 mm"


def test_rotation_and_harmonics_are_those_of_graphics():
    rng = np.random.default_rng(0)
    for angles in rng.uniform(-90, 90, (20, 3)).astype(np.float32):
        expected = rotation_from_euler_deg(torch.from_numpy(angles)).numpy()
        np.testing.assert_allclose(rotation_from_angles(angles), expected, atol=1e-6)
    normals = rng.normal(size=(50, 3)).astype(np.float32)
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    expected = lighting.sh_basis(torch.from_numpy(normals)).numpy()
    np.testing.assert_allclose(around.sh_basis(normals), expected, atol=1e-5)


def test_light_is_that_of_graphics():
    rng = np.random.default_rng(1)
    sh = rng.normal(size=(9, 3)).astype(np.float32)
    rotation = rotation_from_angles(np.array([20, 50, -10], np.float32))
    expected = lighting.rotate_sh(torch.from_numpy(sh), torch.from_numpy(rotation)).numpy()
    np.testing.assert_allclose(around.rotate_sh(sh, rotation), expected, atol=1e-4)
    lamp = lighting.directional_light(torch.tensor([0.6, 0.0, 0.8]), torch.ones(3), 50.0)
    ours = around.directional_sh(np.array([0.6, 0, 0.8]), np.ones(3))
    np.testing.assert_allclose(ours, lamp.sh.numpy(), atol=1e-4)


def test_environment_is_split_into_its_sun_and_the_rest():
    directions, area = around.panorama_directions(64, 128)
    sun = np.array([0.5, 0.5, -0.7071])
    panorama = np.full((64, 128, 3), 0.5, np.float32)
    panorama[directions @ sun > np.cos(np.deg2rad(6))] = 60
    assert area.sum() == pytest.approx(4 * np.pi, rel=1e-6)
    found = around.create_environment(panorama)
    assert np.rad2deg(np.arccos(found.key_direction @ sun)) < 3
    whole = lighting.project_environment(torch.from_numpy(found.picture)).numpy()
    key = np.pi * around.sh_basis(found.key_direction[None])[0][:, None] * found.key_colour[None]
    np.testing.assert_allclose(found.sh + key, whole, atol=0.03 * np.abs(whole).max())
    turn = around._turn(np.pi / 4, 0.0)
    np.testing.assert_allclose(turn @ [np.sqrt(0.5), 0, -np.sqrt(0.5)], [0, 0, -1], atol=1e-9)


def test_shading_of_a_plain_surface_is_albedo_times_sh(head):
    vertices, points, faces = head
    screen, _, posed = _view(vertices, points, (0, 20, 0))
    depth, ids = _rasterize(screen, faces)
    materials, noise = _no_props()
    albedo = np.array([0.6, 0.3, 0.1], np.float32)
    materials[kernels.MOUTH, :3] = albedo
    normals = np.empty_like(posed)
    kernels.vertex_normals_into(posed, faces, normals)
    sh = np.random.default_rng(0).normal(0, 0.1, (9, 3)).astype(np.float32)
    sh[0] = np.sqrt(4 * np.pi)
    premultiplied = sh * np.array([1, *[2 / 3] * 3, *[1 / 4] * 5], np.float32)[:, None]
    n, v = len(faces), len(posed)
    out = np.empty((SIZE, SIZE, 3), np.float32)
    background = np.full((SIZE, SIZE, 3), 0.25, np.float32)
    shade_scene(
        screen, posed, normals, np.ones(v, np.float32), np.ones(v, np.float32), faces,
        np.zeros((n, 3, 2), np.float32), np.full(n, kernels.MOUTH, np.uint8), materials, noise,
        np.zeros((2, 2, 3), np.uint8), np.zeros((256, 3), np.float32), np.eye(3, dtype=np.float32),
        premultiplied, np.array([0, 0, 1], np.float32), np.zeros(3, np.float32),
        np.array([0, -1, 0], np.float32), background, background, depth, ids, 2, out,
    )  # fmt: skip
    assert np.allclose(out[0, 0], 0.25)
    block = ids.reshape(SIZE, 2, SIZE, 2).transpose(0, 2, 1, 3).reshape(SIZE, SIZE, 4)
    inside = (block == block[..., :1]).all(-1) & (block[..., 0] >= 0)
    mean_normals = normals[faces[block[inside][:, 0]]].mean(1)
    mean_normals /= np.linalg.norm(mean_normals, axis=1, keepdims=True)
    shade = lighting.shading(torch.from_numpy(mean_normals), torch.from_numpy(sh)).numpy()
    error = np.abs(out[inside] - albedo * np.maximum(shade, 0))
    assert np.median(error) < 0.01 and np.quantile(error, 0.95) < 0.06


def test_frontal_face_is_seen_and_profile_hides_the_far_side(head):
    vertices, points, faces = head
    _, marks, _ = _view(vertices, points, (0, 0, 0))
    seen = _visible(vertices, points, faces, (0, 0, 0))
    assert seen[17:60].all(), "brows, nose, eyes, outer lips"
    assert seen[136:].mean() > 0.85
    right = _visible(vertices, points, faces, (0, 75, 0))
    assert right[[36, 37, 41, 17, 18]].all() != right[[45, 44, 46, 26, 25]].any()


def _visible(vertices, points, faces, angles):
    screen, marks, _ = _view(vertices, points, angles)
    depth, _ = _rasterize(screen, faces)
    visible = np.zeros(len(marks), np.bool_)
    kernels.points_visible(marks, depth, 4.0, visible)
    return visible


@pytest.mark.parametrize("yaw", [0, 35, 70])
def test_mirrored_pose_mirrors_points_and_visibility(head, yaw):
    vertices, points, faces = head
    flip = np.asarray(flip_table("lifemask392").tolist())
    _, marks, _ = _view(vertices, points, (8, yaw, 12))
    _, mirrored, _ = _view(vertices, points, (8, -yaw, -12))
    side = 2 * SIZE - 1
    np.testing.assert_allclose(mirrored[flip, 0], side - marks[:, 0], atol=1.0)
    np.testing.assert_allclose(mirrored[flip, 1], marks[:, 1], atol=1.0)
    a = _visible(vertices, points, faces, (8, yaw, 12))
    b = _visible(vertices, points, faces, (8, -yaw, -12))
    assert (a == b[flip]).mean() > 0.97


def test_hidden_points_fail_by_depth_only():
    depth = np.full((9, 9), 1 / 500, np.float32)
    screen = np.array([[4, 4, 1 / 503], [4, 4, 1 / 510], [4, 4, 1 / 480], [40, 4, 1 / 480]])
    visible = np.ones(4, np.bool_)
    kernels.points_visible(screen.astype(np.float32), depth, 4.0, visible)
    assert visible.tolist() == [True, False, True, False]


def test_shadow_falls_behind_the_blocker():
    points = np.array([[-1, -1, 5], [1, -1, 5], [0, 1, 5], [0, 0, 0], [9, 0, 0]], np.float32)
    screen = points * np.array([4, 4, 1], np.float32) + np.array([10, 10, 0], np.float32)
    depth = np.empty((60, 60), np.float32)
    kernels.depth_map(screen, np.array([[0, 1, 2]], np.int32), depth)
    lit = np.empty(5, np.float32)
    kernels.lit_share(screen, depth, np.float32(0.5), lit)
    assert lit[3] == 0 and lit[4] == 1 and (lit[:3] == 1).all()
