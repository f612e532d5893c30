"""Triangle meshes: normals, areas, edges, adjacency and Laplacians."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor


def face_normals(
    vertices: Float[Tensor, "*b v 3"], faces: Int[Tensor, "f 3"], *, unit: bool = True
) -> Float[Tensor, "*b f 3"]:
    """Normals (*b, f, 3) of counter-clockwise faces; differentiable.

    Args:
        vertices: (*b, v, 3).
        faces: (f, 3) vertex ids.
        unit: False keeps the cross product, whose length is twice the face's area.
    """
    a, b, c = corners(vertices, faces).unbind(-2)
    normal = torch.linalg.cross(b - a, c - a)
    return torch.nn.functional.normalize(normal, dim=-1) if unit else normal


def vertex_normals(
    vertices: Float[Tensor, "*b v 3"], faces: Int[Tensor, "f 3"]
) -> Float[Tensor, "*b v 3"]:
    """Unit normals (*b, v, 3): area-weighted mean of the faces around; 0 for a lone vertex.

    Args:
        vertices: (*b, v, 3).
        faces: (f, 3) vertex ids.
    """
    normal = face_normals(vertices, faces, unit=False)
    total = torch.zeros_like(vertices)
    for k in range(3):
        total = total.index_add(-2, faces[:, k].long(), normal)
    return torch.nn.functional.normalize(total, dim=-1)


def face_areas(
    vertices: Float[Tensor, "*b v 3"], faces: Int[Tensor, "f 3"]
) -> Float[Tensor, "*b f"]:
    """Areas (*b, f) in the vertices' unit squared."""
    return torch.linalg.vector_norm(face_normals(vertices, faces, unit=False), dim=-1) / 2


def vertex_areas(
    vertices: Float[Tensor, "*b v 3"], faces: Int[Tensor, "f 3"]
) -> Float[Tensor, "*b v"]:
    """A third of the area of the faces around each vertex (*b, v); they sum to the mesh's area."""
    area = face_areas(vertices, faces) / 3
    total = torch.zeros_like(vertices[..., 0])
    for k in range(3):
        total = total.index_add(-1, faces[:, k].long(), area)
    return total


def corners(
    vertices: Float[Tensor, "*b v c"], faces: Int[Tensor, "f 3"]
) -> Float[Tensor, "*b f 3 c"]:
    """Attributes (*b, f, 3, c) of each face's three corners."""
    rows = vertices.index_select(-2, faces.reshape(-1).long())
    return rows.unflatten(-2, (len(faces), 3))


def unique_edges(faces: Int[Tensor, "f 3"]) -> Int[Tensor, "e 2"]:
    """Undirected edges (e, 2), the lower vertex id first, sorted."""
    keys = torch.unique(_edge_keys(_half_edges(faces)))
    return torch.stack((keys >> 32, keys & 0xFFFFFFFF), dim=-1)


def boundary_edges(faces: Int[Tensor, "f 3"]) -> Int[Tensor, "e 2"]:
    """Directed edges (e, 2) that belong to a single face, in that face's direction."""
    half = _half_edges(faces)
    _, index, count = torch.unique(_edge_keys(half), return_inverse=True, return_counts=True)
    return half[count[index] == 1]


def face_neighbors(faces: Int[Tensor, "f 3"]) -> Int[Tensor, "f 3"]:
    """The face (f, 3) across the edge from corner k to corner k + 1.

    -1 at the boundary and at edges that more than two faces share.
    """
    count = len(faces)
    edges, index, uses = torch.unique(
        _edge_keys(_half_edges(faces)), return_inverse=True, return_counts=True
    )
    owner = torch.arange(count, device=faces.device).repeat(3)
    total = torch.zeros(len(edges), dtype=torch.long, device=faces.device)
    total.index_add_(0, index, owner)
    other = torch.where(uses[index] == 2, total[index] - owner, torch.full_like(owner, -1))
    return other.view(3, count).T.contiguous()


def vertex_adjacency(faces: Int[Tensor, "f 3"], vertex_count: int) -> Tensor:
    """Sparse symmetric (v, v) float32 matrix, 1 where two vertices share an edge."""
    edges = unique_edges(faces)
    index = torch.cat((edges, edges.flip(-1))).T
    values = torch.ones(index.shape[1], device=faces.device)
    return _sparse(index, values, vertex_count)


def laplacian(faces: Int[Tensor, "f 3"], vertex_count: int) -> Tensor:
    """Uniform Laplacian `I - D^-1 A`, sparse (v, v): a vertex minus the mean of its neighbours.

    Rows of vertices without neighbours are 0.
    """
    edges = unique_edges(faces)
    index = torch.cat((edges, edges.flip(-1))).T
    degree = torch.bincount(index[0], minlength=vertex_count).to(torch.float32)
    linked = degree.nonzero().squeeze(-1)
    index = torch.cat((index, linked.expand(2, -1)), dim=1)
    off_diagonal = -1 / degree[index[0, : 2 * len(edges)]]
    values = torch.cat((off_diagonal, torch.ones_like(linked, dtype=torch.float32)))
    return _sparse(index, values, vertex_count)


def cotangent_laplacian(vertices: Float[Tensor, "v 3"], faces: Int[Tensor, "f 3"]) -> Tensor:
    """Symmetric positive semi-definite cotangent stiffness matrix, sparse (v, v).

    `L_ij = -(cot a + cot b) / 2` (Pinkall and Polthier 1993); `L x` is the integrated mean
    curvature normal (mm). Divide by `vertex_areas` for the pointwise Laplace-Beltrami operator.
    """
    points = corners(vertices, faces)
    count = len(vertices)
    double_area = 2 * face_areas(vertices, faces).clamp(min=torch.finfo(vertices.dtype).tiny)
    rows, columns, values = [], [], []
    for k in range(3):
        i, j = faces[:, (k + 1) % 3].long(), faces[:, (k + 2) % 3].long()
        to_i, to_j = points[:, (k + 1) % 3] - points[:, k], points[:, (k + 2) % 3] - points[:, k]
        half_cot = (to_i * to_j).sum(-1) / double_area / 2
        rows += [i, j, i, j]
        columns += [j, i, i, j]
        values += [-half_cot, -half_cot, half_cot, half_cot]
    index = torch.stack((torch.cat(rows), torch.cat(columns)))
    return _sparse(index, torch.cat(values), count)


def _half_edges(faces: Tensor) -> Tensor:
    """(3 f, 2): all edges 0-1, then all 1-2, then all 2-0."""
    faces = faces.long()
    return torch.cat([faces[:, [k, (k + 1) % 3]] for k in range(3)])


def _edge_keys(edges: Tensor) -> Tensor:
    """One int64 per edge (e, 2), the same in both directions, ordered like (lower, higher)."""
    return (edges.amin(-1) << 32) | edges.amax(-1)


def _sparse(index: Tensor, values: Tensor, size: int) -> Tensor:
    """Square sparse matrix; values at the same place add up."""
    return torch.sparse_coo_tensor(index, values, (size, size), check_invariants=True).coalesce()
