"""Smooth fields on the mesh and seamless completion of what a photo does not show."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from lifemask.graphics.mesh import unique_edges


@dataclass(frozen=True)
class MeshSmoother:
    """Solves `sum_i w_i (x_i - d_i)^2 + sum_ij k_ij (x_i - x_j)^2 + decay sum_i x_i^2` on a mesh.

    A field on vertices has no texture seams. `k_ij` is one over the edge's length in mm.

    Attributes:
        stiffness: (v, v) scipy sparse matrix of the second term.
        corners: (t, 3) vertex ids and
        barycentric: (t, 3) weights of the texels that vertices gather from.
    """

    stiffness: object
    corners: Int[Tensor, "t 3"]
    barycentric: Float[Tensor, "t 3"]
    vertex_count: int

    def gather(
        self, values: Float[Tensor, "t c"], weights: Float[Tensor, "t"]
    ) -> tuple[Float[Tensor, "v c"], Float[Tensor, "v"]]:
        """Weighted mean of texel values around each vertex, and the share of weight there."""
        spread = self.barycentric * weights[:, None]
        total = torch.zeros(self.vertex_count)
        sums = torch.zeros(self.vertex_count, values.shape[1])
        area = torch.zeros(self.vertex_count)
        for k in range(3):
            total.index_add_(0, self.corners[:, k], spread[:, k])
            sums.index_add_(0, self.corners[:, k], spread[:, k : k + 1] * values)
            area.index_add_(0, self.corners[:, k], self.barycentric[:, k])
        return sums / total.clamp(min=1e-6)[:, None], total / area.clamp(min=1e-6)

    def solve(
        self,
        values: Float[Tensor, "v c"],
        weights: Float[Tensor, "v"],
        stiffness: float,
        decay: float = 1e-4,
    ) -> Float[Tensor, "v c"]:
        """The smooth field that follows the values where they have weight."""
        from scipy.sparse import diags_array
        from scipy.sparse.linalg import splu

        w = weights.double().numpy()
        system = stiffness * self.stiffness + diags_array(w + decay)  # type: ignore[operator]
        solved = splu(system.tocsc()).solve(w[:, None] * values.double().numpy())
        return torch.from_numpy(solved).to(values)


def create_mesh_smoother(
    vertices_mm: Float[Tensor, "v 3"],
    faces: Int[Tensor, "f 3"],
    corners: Int[Tensor, "t 3"],
    barycentric: Float[Tensor, "t 3"],
) -> MeshSmoother:
    """A smoother over a mesh's edges, for texels given by their face's corners and barycentrics."""
    from scipy.sparse import coo_array, diags_array

    edges = unique_edges(faces)
    length = torch.linalg.vector_norm(vertices_mm[edges[:, 0]] - vertices_mm[edges[:, 1]], dim=-1)
    k = 1 / length.clamp(min=0.3).double().numpy()
    i, j = edges.numpy().T
    count = len(vertices_mm)
    adjacency = coo_array((np.r_[k, k], (np.r_[i, j], np.r_[j, i])), shape=(count, count)).tocsr()
    stiffness = diags_array(np.asarray(adjacency.sum(axis=1)).reshape(-1)) - adjacency
    return MeshSmoother(stiffness, corners, barycentric, count)
