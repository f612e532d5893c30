"""The closed head: holes, winding numbers, distances, eyeballs, its front."""

import numpy as np
import pytest
import torch

from helpers.pair_solids import ball_mesh, ball_solid
from lifemask.data._pairs_solid import (
    Frame,
    boundary_loops,
    fit_ball,
    middle_depth,
    neighbours,
    outer_faces,
    plan_head,
    plan_solid,
)
from lifemask.facemodel import load_face_model
from lifemask.graphics.camera import orthographic_camera, project, rotation_from_euler_deg
from lifemask.graphics.subdivide import refine


@pytest.fixture(scope="module")
def model():
    return load_face_model("lifemask")


def test_fans_close_every_hole():
    vertices, faces = ball_mesh(rows=10, columns=12)
    assert sorted(len(loop) for loop in boundary_loops(faces)) == [12, 12]
    solid = plan_solid(faces).solid(vertices)
    assert boundary_loops(solid.faces) == []
    assert solid.skin == len(faces) and len(solid.faces) == len(faces) + 24
    a, b, c = np.moveaxis(solid.vertices[solid.faces], 1, 0)
    volume = np.einsum("fk,fk->", a, np.cross(b, c)) / 6
    assert 0.9 < volume / (4 / 3 * np.pi * 0.6**3) < 1, "all faces look outwards, fans too"


def test_neighbours_share_an_edge():
    faces = ball_solid(rows=6, columns=7).faces
    for face, around in enumerate(neighbours(faces)):
        for edge, other in enumerate(around):
            here = {faces[face, edge], faces[face, (edge + 1) % 3]}
            assert other != face and here <= set(faces[other])


def test_winding_is_one_inside_and_zero_outside_also_exactly_below_vertices():
    solid = ball_solid(rows=12, columns=16)
    rng = np.random.default_rng(0)
    points = rng.uniform(-0.8, 0.8, (4000, 3))
    points[:500, :2] = solid.vertices[rng.integers(len(solid.vertices), size=500), :2]
    points[500:600, 0] = solid.vertices[rng.integers(len(solid.vertices), size=100), 0]
    radius = np.linalg.norm(points, axis=1)
    clear = (radius < 0.53) | (radius > 0.61)
    assert np.array_equal(solid.winding(points)[clear], (radius < 0.55)[clear].astype(np.int32))


def test_winding_equals_the_solid_angle(model):
    igl = pytest.importorskip("igl")
    with torch.no_grad():
        head = model(torch.randn(80, generator=torch.Generator().manual_seed(0)), torch.zeros(52))
    fine = refine(head, model.topology.faces, model.topology.uvs, model.topology.faces_uv, 0)
    vertices = fine.vertices.double().numpy() / 120
    solid = plan_head(model, fine).solid(vertices)
    points = np.random.default_rng(1).uniform(-1, 1, (5000, 3))
    angle = igl.winding_number(solid.vertices, solid.faces, points)
    assert np.array_equal(solid.winding(points) > 0.5, angle > 0.5)
    assert 0.05 < (angle > 0.5).mean() < 0.6


def test_distance_of_a_ball_is_its_radius_and_the_eyeball_counts():
    pytest.importorskip("igl")
    solid = ball_solid(rows=200, columns=300, eyes=[(0.0, 0.0, 0.55, 0.2)])
    points = np.random.default_rng(2).uniform(-1, 1, (2000, 3))
    away = np.linalg.norm(points[:, :2], axis=1) > 0.15  # of the fans at the poles
    away |= np.abs(points[:, 1]) < 0.3
    ball = np.linalg.norm(points, axis=1) - 0.6
    eye = np.linalg.norm(points - [0, 0, 0.55], axis=1) - 0.2
    wrong = np.abs(solid.distance(points) - np.minimum(ball, eye))[away]
    assert wrong.max() < 5e-3, "the fans are flat"


def test_a_sphere_is_found_in_points_of_its_front():
    rng = np.random.default_rng(3)
    unit = rng.standard_normal((50, 3)) * [1, 1, 0.2] + [0, 0, 1]
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    assert np.allclose(fit_ball([3, -2, 80] + 12.5 * unit), [3, -2, 80, 12.5])


def test_the_cube_is_the_crop():
    rotation = rotation_from_euler_deg(torch.tensor([10.0, 35.0, -8.0]))
    camera = orthographic_camera(rotation, 0.4, torch.tensor([30.0, 34.0]))
    points = torch.randn(20, 3, generator=torch.Generator().manual_seed(0)) * 50
    frame = Frame(camera, 64, 0.25)
    cube, (u, v, w) = frame.to_cube(points), project(points, camera).double().unbind(-1)
    assert np.allclose((cube[:, 0] + 1) * 32 - 0.5, u, atol=1e-4)
    assert np.allclose((1 - cube[:, 1]) * 32 - 0.5, v, atol=1e-4)
    assert np.allclose((cube[:, 2] + 0.25) * 32, w, atol=1e-4)
    corners = np.array([[-1 + 1 / 64, 1 - 1 / 64]])
    assert np.allclose((corners + 1) * 32 - 0.5, [[0, 63]]), "outer pixels end at the cube's sides"


def test_the_middle_of_the_face_has_no_depth(model):
    with torch.no_grad():
        head = model(torch.zeros(80), torch.zeros(52))
    camera = orthographic_camera(torch.eye(3), 0.3, torch.tensor([32.0, 32.0]))
    frame = Frame(camera, 64, middle_depth(model, head, camera, 64))
    z = frame.to_cube(head[model.topology.regions["face"]])[:, 2]
    assert abs(z.max() + z.min()) < 1e-5


def test_the_front_of_a_ball():
    size = 64
    solid = ball_solid(rows=200, columns=300, eyes=[(0.1, 0.1, 0.45, 0.2)])
    depth, normals = solid.front(size)
    x, y = np.meshgrid(*2 * [(np.arange(size) + 0.5) * 2 / size - 1])
    skin = np.sqrt(np.maximum(0.36 - x**2 - y**2, 0))
    eye = 0.45 + np.sqrt(np.maximum(0.04 - (x - 0.1) ** 2 - (-y - 0.1) ** 2, 0))
    on_eye = ((x - 0.1) ** 2 + (-y - 0.1) ** 2 < 0.04) & (eye > skin)
    inner = (x**2 + y**2 < 0.5**2) & (np.abs(y) < 0.5)
    true = np.where(on_eye, eye, skin)
    assert np.abs(depth - true)[inner].max() < 2e-3
    expected = np.where(
        on_eye[..., None], np.stack([x - 0.1, -y - 0.1, eye - 0.45], -1) / 0.2,
        np.stack([x, -y, skin], -1) / 0.6,
    )  # fmt: skip
    assert (normals * expected).sum(-1)[inner].min() > 0.999
    assert np.isnan(depth[x**2 + y**2 > 0.4]).all()
    assert not normals[x**2 + y**2 > 0.4].any()


def test_the_head_is_bounded_by_its_outer_skin(model):
    topology = model.topology
    outer = outer_faces(model)
    assert (topology.face_part[outer] == 0).all()
    for name in ("inner_mouth", "eye_socket_interior"):
        assert not topology.regions[name][topology.faces[outer]].all(1).any()
    assert len(boundary_loops(topology.faces[outer].numpy())) == 4, "mouth, eyes, neck"
