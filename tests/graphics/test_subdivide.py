"""Subdivision: closed meshes stay closed, flat ones flat, spheres become rounder."""

import torch

from lifemask.graphics.mesh import boundary_edges, face_areas, vertex_normals
from lifemask.graphics.subdivide import refine, subdivide


def octahedron():
    axes = torch.eye(3, dtype=torch.float64)
    vertices = torch.cat((axes, -axes))
    faces = torch.tensor(
        [[0, 1, 2], [1, 3, 2], [3, 4, 2], [4, 0, 2], [1, 0, 5], [3, 1, 5], [4, 3, 5], [0, 4, 5]]
    )
    return vertices, faces


def test_four_faces_each_and_no_hole():
    vertices, faces = octahedron()
    step = subdivide(faces, len(vertices))
    assert len(step.faces) == 4 * len(faces) and len(step.edges) == 12
    assert len(boundary_edges(step.faces)) == 0


def test_children_tile_their_parent():
    vertices, faces = octahedron()
    step = subdivide(faces, len(vertices))
    areas = face_areas(step.attributes(vertices), step.faces).view(-1, 4)
    torch.testing.assert_close(areas.sum(1), face_areas(vertices, faces))


def test_a_sphere_becomes_rounder_and_outside_stays_outside():
    vertices, faces = octahedron()
    normals = vertex_normals(vertices, faces)
    step = subdivide(faces, len(vertices))
    flat = step.attributes(vertices).norm(dim=-1)
    bent = step.positions(vertices, normals)
    # the cubic of two perpendicular unit normals at 90 degrees has its middle at 3/4 of a + b
    torch.testing.assert_close(bent[len(vertices) :].norm(dim=-1), torch.full((12,), 0.625 * 2**0.5,
                               dtype=torch.float64))  # fmt: skip
    assert (flat[len(vertices) :] < 0.71).all()
    assert ((vertex_normals(bent, step.faces) * bent).sum(-1) > 0).all()


def test_a_plane_stays_a_plane_with_its_uvs():
    grid = torch.stack(torch.meshgrid(torch.arange(3.0), torch.arange(3.0), indexing="ij"), -1)
    plane = torch.cat((grid.reshape(-1, 2), torch.zeros(9, 1)), 1)
    faces = torch.tensor([[0, 3, 1], [3, 4, 1], [1, 4, 2], [4, 5, 2]])
    fine = refine(plane, faces, plane[:, :2] / 2, faces, times=2)
    assert fine.vertices[:, 2].abs().max() == 0
    assert len(fine.faces) == 64 and fine.parent.bincount().tolist() == [16] * 4
    corners = fine.vertices[fine.faces.long()][..., :2] / 2
    torch.testing.assert_close(fine.uvs[fine.faces_uv.long()], corners)
