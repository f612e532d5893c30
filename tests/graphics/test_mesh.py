"""Mesh operators against analytic shapes and naive twins."""

import pytest
import torch
from torch import Tensor

from lifemask.graphics import mesh


def _sphere(steps: int = 24) -> tuple[Tensor, Tensor]:
    """A closed unit sphere of latitude rings and two poles, faces counter-clockwise outside."""
    lat = torch.linspace(0, torch.pi, steps + 1, dtype=torch.float64)[1:-1, None]
    lon = torch.arange(2 * steps, dtype=torch.float64)[None] * torch.pi / steps
    rings = torch.stack(
        (lat.sin() * lon.sin(), lat.cos().expand(-1, 2 * steps), lat.sin() * lon.cos()), dim=-1
    )
    poles = torch.tensor([[0.0, 1.0, 0.0], [0.0, -1.0, 0.0]], dtype=torch.float64)
    vertices = torch.cat((rings.reshape(-1, 3), poles))
    index = torch.arange(len(vertices) - 2).view(steps - 1, 2 * steps)
    after = index.roll(-1, 1)
    north, south = len(vertices) - 2, len(vertices) - 1
    upper = torch.stack((torch.full_like(index[0], north), index[0], after[0]), -1)
    lower = torch.stack((torch.full_like(index[0], south), after[-1], index[-1]), -1)
    first = torch.stack((index[:-1], index[1:], after[1:]), -1).reshape(-1, 3)
    second = torch.stack((index[:-1], after[1:], after[:-1]), -1).reshape(-1, 3)
    return vertices, torch.cat((upper, first, second, lower))


def test_sphere_normals_point_outwards() -> None:
    vertices, faces = _sphere()
    assert float((mesh.vertex_normals(vertices, faces) * vertices).sum(-1).min()) > 0.999
    centers = torch.nn.functional.normalize(mesh.corners(vertices, faces).mean(-2), dim=-1)
    assert float((mesh.face_normals(vertices, faces) * centers).sum(-1).min()) > 0.999


def test_sphere_area() -> None:
    vertices, faces = _sphere(48)
    area = float(mesh.face_areas(vertices, faces).sum())
    assert area == pytest.approx(4 * torch.pi, rel=5e-3)
    assert float(mesh.vertex_areas(vertices, faces).sum()) == pytest.approx(area, rel=1e-12)


def test_normals_take_batches_and_gradients() -> None:
    vertices, faces = _sphere(3)
    generator = torch.Generator().manual_seed(0)
    noise = 0.2 * torch.randn(2, *vertices.shape, generator=generator, dtype=torch.float64)
    batch = vertices + noise
    for function in (mesh.vertex_normals, mesh.face_normals, mesh.vertex_areas):
        together = function(batch, faces)
        assert torch.allclose(together[1], function(batch[1], faces), atol=1e-12)
        points = batch[:1].clone().requires_grad_()
        assert torch.autograd.gradcheck(lambda p, f=function: f(p, faces), points)


def test_lonely_vertices_have_no_normal() -> None:
    vertices = torch.randn(4, 3)
    assert mesh.vertex_normals(vertices, torch.tensor([[0, 1, 2]]))[3].tolist() == [0, 0, 0]


def test_edges_and_neighbors_of_a_closed_mesh() -> None:
    vertices, faces = _sphere(5)
    edges = mesh.unique_edges(faces)
    assert len(vertices) - len(edges) + len(faces) == 2  # Euler
    assert len(mesh.boundary_edges(faces)) == 0
    neighbors = mesh.face_neighbors(faces)
    for face, row in enumerate(neighbors.tolist()):
        for k, other in enumerate(row):
            shared = {int(faces[face, k]), int(faces[face, (k + 1) % 3])}
            assert shared <= set(faces[other].tolist()) and other != face


def test_boundary_has_no_neighbor_and_keeps_its_direction() -> None:
    faces = torch.tensor([[0, 1, 2], [2, 1, 3]])
    assert mesh.face_neighbors(faces).tolist() == [[-1, 1, -1], [0, -1, -1]]
    assert sorted(mesh.boundary_edges(faces).tolist()) == [[0, 1], [1, 3], [2, 0], [3, 2]]


def test_edges_of_three_faces_count_as_boundary_for_neighbors() -> None:
    faces = torch.tensor([[0, 1, 2], [1, 0, 3], [0, 1, 4]])
    assert (mesh.face_neighbors(faces)[:, 0] == -1).all()


def test_uniform_laplacian_is_vertex_minus_mean_of_neighbors() -> None:
    vertices, faces = _sphere(4)
    vertices = torch.cat((vertices, torch.ones(1, 3, dtype=torch.float64))).float()
    adjacency = mesh.vertex_adjacency(faces, len(vertices)).to_dense()
    assert torch.equal(adjacency, adjacency.T) and adjacency.diagonal().sum() == 0
    got = mesh.laplacian(faces, len(vertices)) @ vertices
    for i in range(len(vertices) - 1):
        mean = vertices[adjacency[i] > 0].mean(0)
        assert torch.allclose(got[i], vertices[i] - mean, atol=1e-6)
    assert got[-1].tolist() == [0, 0, 0]


def test_cotangent_laplacian_gives_the_curvature_of_a_sphere() -> None:
    vertices, faces = _sphere(24)
    stiffness = mesh.cotangent_laplacian(vertices, faces)
    assert torch.allclose(stiffness.to_dense(), stiffness.to_dense().T, atol=1e-12)
    assert float((stiffness @ torch.ones(len(vertices), 1).double()).abs().max()) < 1e-10
    mean_curvature = (stiffness @ vertices)[:-2] / mesh.vertex_areas(vertices, faces)[:-2, None]
    away = vertices[:-2, 1].abs() < 0.9  # equal rings; the poles' fans have obtuse corners
    assert torch.allclose(mean_curvature[away], 2 * vertices[:-2][away], atol=0.05)
