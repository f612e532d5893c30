"""Midpoint subdivision that rounds: edges bend after the normals at their ends."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lifemask.graphics.mesh import vertex_normals


@dataclass(frozen=True)
class Subdivision:
    """One step from a mesh to one with four times the faces; the old vertices come first.

    Attributes:
        edges: (e, 2) ends of the edge that each new vertex splits.
        faces: (4 f, 3) of the finer mesh; face 4 k + c lies in the old face k, c = 3 in its middle.
    """

    edges: Int[Tensor, "e 2"]
    faces: Int[Tensor, "g 3"]

    def attributes(self, values: Float[Tensor, "*b v c"]) -> Float[Tensor, "*b w c"]:
        """Values of the finer mesh's vertices: old ones kept, new ones the mean of two."""
        ends = self.edges.long()
        middle = (values[..., ends[:, 0], :] + values[..., ends[:, 1], :]) / 2
        return torch.cat((values, middle), dim=-2)

    def positions(
        self, vertices: Float[Tensor, "*b v 3"], normals: Float[Tensor, "*b v 3"]
    ) -> Float[Tensor, "*b w 3"]:
        """Positions of the finer mesh: new vertices lie on the edges' cubic curves.

        The middle of the cubic Bezier edge of a point-normal triangle (Vlachos et al. 2001):
        `(p + q) / 2 - ((q - p).n_p n_p + (p - q).n_q n_q) / 8`. It depends on the edge alone, so
        the mesh stays closed; a flat mesh stays flat.
        """
        a, b = self.edges.long().unbind(-1)
        p, q, n, m = (
            vertices[..., a, :],
            vertices[..., b, :],
            normals[..., a, :],
            normals[..., b, :],
        )
        along = ((q - p) * n).sum(-1, keepdim=True) * n + ((p - q) * m).sum(-1, keepdim=True) * m
        return torch.cat((vertices, (p + q) / 2 - along / 8), dim=-2)


def subdivide(faces: Int[Tensor, "f 3"], vertex_count: int) -> Subdivision:
    """The subdivision of a triangle mesh; ids of new vertices start at `vertex_count`."""
    triangles = faces.long()
    half = torch.stack([triangles[:, [k, (k + 1) % 3]] for k in range(3)], dim=1)  # (f, 3, 2)
    keys = (half.amin(-1) << 32) | half.amax(-1)
    unique, index = torch.unique(keys, return_inverse=True)
    edges = torch.stack((unique >> 32, unique & 0xFFFFFFFF), dim=-1)
    ab, bc, ca = (index + vertex_count).unbind(-1)
    a, b, c = triangles.unbind(-1)
    children = [(a, ab, ca), (ab, b, bc), (ca, bc, c), (ab, bc, ca)]
    fine = torch.stack([torch.stack(child, dim=-1) for child in children], dim=1)
    return Subdivision(edges.to(faces), fine.reshape(-1, 3).to(faces))


@dataclass(frozen=True)
class FineMesh:
    """A subdivided mesh with UVs.

    Attributes:
        vertices: (v, 3) mm.
        faces: (f, 3).
        uvs: (t, 2).
        faces_uv: (f, 3).
        parent: (f,) face of the coarse mesh that each face lies in.
    """

    vertices: Float[Tensor, "v 3"]
    faces: Int[Tensor, "f 3"]
    uvs: Float[Tensor, "t 2"]
    faces_uv: Int[Tensor, "f 3"]
    parent: Int[Tensor, "f"]


def refine(
    vertices: Float[Tensor, "v 3"],
    faces: Int[Tensor, "f 3"],
    uvs: Float[Tensor, "t 2"],
    faces_uv: Int[Tensor, "f 3"],
    times: int = 2,
) -> FineMesh:
    """The mesh subdivided `times` times, with its UVs; charts keep their borders."""
    parent = torch.arange(len(faces), device=faces.device)
    for _ in range(times):
        shape, chart = subdivide(faces, len(vertices)), subdivide(faces_uv, len(uvs))
        vertices = shape.positions(vertices, vertex_normals(vertices, faces))
        uvs = chart.attributes(uvs)
        faces, faces_uv = shape.faces, chart.faces
        parent = parent.repeat_interleave(4)
    return FineMesh(vertices, faces, uvs, faces_uv, parent)
