"""The smoothest field of moves that takes a head's texels to their targets.

Moves d (one vector per vertex) minimise, over the head's surface,

    integral  w |d - target|^2 + rest |d|^2 + wish |d - wished|^2
            + (bend / 2 pi)^4 |laplace d|^2 + (STRETCH / 2 pi)^2 |grad d|^2

so that waves shorter than `bend` mm stay out, whatever the size of the triangles.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from lifemask.graphics.mesh import corners, unique_edges, vertex_areas, vertex_normals
from lifemask.methods._rafare_carry_layout import CarryLayout

STRETCH_MM = 3.0
"""Where nothing is known over more than this, moves level out instead of running on."""
SEAM_MM = 1.0
"""Lips that lie closer than about this keep together."""
SEAM = 60.0
"""How firmly, as a weight of an edge in `stretch`."""


@dataclass(frozen=True)
class MoveSolver:
    """The operators on a head; k of its vertices may move.

    Attributes:
        free: (k,) ids of the vertices that may move; the others' moves are 0.
        at_texels: sparse (t, k), moves at the texels.
        texel_area: (t,) mm^2.
        area: (k,) mm^2 of surface about each vertex.
        bend: sparse (k, k), integral of |laplace d|^2.
        stretch: sparse (k, k), integral of |grad d|^2.
        rest: (k,) of the layout.
    """

    free: np.ndarray
    at_texels: Any
    texel_area: np.ndarray
    area: np.ndarray
    bend: Any
    stretch: Any
    rest: np.ndarray

    def __call__(
        self,
        target_mm: Float[Tensor, "t 3"],
        weight: Float[Tensor, "t"],
        bend_mm: float,
        wished_mm: Float[Tensor, "v 3"],
        wish: Float[Tensor, "v"],
    ) -> Float[Tensor, "v 3"]:
        """The moves of all vertices, mm; 0 outside the skin near the face.

        Args:
            target_mm: (t, 3) move that each texel wants.
            weight: (t,) how much it is believed; 0 leaves it out.
            bend_mm: shortest wave that is let through.
            wished_mm: (v, 3) moves wanted by vertices themselves.
            wish: (v,) how much.
        """
        from scipy.sparse import diags
        from scipy.sparse.linalg import splu

        believed = weight.double().numpy() * self.texel_area
        wanted = wish.double().numpy()[self.free] * self.area
        matrix = self.at_texels.T @ diags(believed) @ self.at_texels
        matrix = matrix + (bend_mm / (2 * math.pi)) ** 4 * self.bend
        matrix = matrix + (STRETCH_MM / (2 * math.pi)) ** 2 * self.stretch
        matrix = matrix + diags(self.rest * self.area + wanted + 1e-6 * self.area)
        right = self.at_texels.T @ (believed[:, None] * target_mm.double().numpy())
        right = right + wanted[:, None] * wished_mm.double().numpy()[self.free]
        moves = np.zeros((len(wish), 3))
        moves[self.free] = splu(matrix.tocsc(), permc_spec="MMD_AT_PLUS_A").solve(right)
        return torch.from_numpy(moves).float()

    def share(self, values: Float[Tensor, "t"], count: int) -> Float[Tensor, "v"]:
        """Means of texels' values about each of `count` vertices; 0 where no texel is."""
        total = self.at_texels.T @ (self.texel_area * values.double().numpy())
        mass = self.at_texels.T @ self.texel_area
        means = np.zeros(count)
        means[self.free] = total / np.maximum(mass, 1e-9)
        return torch.from_numpy(means).float()


def create_solver(
    layout: CarryLayout, vertices_mm: Float[Tensor, "v 3"], faces: Tensor
) -> MoveSolver:
    """The solver of one head.

    Args:
        layout: of its model.
        vertices_mm: (v, 3) the head before anything moves.
        faces: (f, 3) all its faces.
    """
    from scipy.sparse import coo_matrix, diags

    free = (layout.skin & (layout.rest < 1)).nonzero()[:, 0]
    index = torch.full((len(vertices_mm),), -1)
    index[free] = torch.arange(len(free))
    own = faces.long()[layout.skin[faces.long()].all(1)]
    area = vertex_areas(vertices_mm.double(), own).clamp(min=0.2).numpy()
    stretch = _stiffness(vertices_mm.double(), own)
    chosen = free.numpy()
    inner = stretch[:, chosen]
    stretch = (stretch + _seam(layout, vertices_mm, own)).tocsr()
    texels, count = np.arange(len(layout.corner_ids)).repeat(3), len(layout.corner_ids)
    columns = index[layout.corner_ids].numpy().ravel()
    weights = layout.corner_weights.double().numpy().ravel()
    inside = columns >= 0
    at_texels = coo_matrix(
        (weights[inside], (texels[inside], columns[inside])), shape=(count, len(chosen))
    ).tocsr()
    return MoveSolver(
        free=chosen,
        at_texels=at_texels,
        texel_area=_texel_areas(layout, vertices_mm),
        area=area[chosen],
        bend=(inner.T @ diags(1 / area) @ inner).tocsr(),
        stretch=stretch[chosen][:, chosen],
        rest=layout.rest.double().numpy()[chosen],
    )


def _seam(layout: CarryLayout, vertices_mm: Tensor, faces: Tensor) -> Any:
    """Stiffness (v, v) between closed lips, where they face each other."""
    from scipy.sparse import coo_matrix, diags

    count, ids = len(vertices_mm), layout.red
    if not len(ids):
        return coo_matrix((count, count))
    normals = vertex_normals(vertices_mm, faces)[ids]
    gap = torch.cdist(vertices_mm[ids], vertices_mm[ids])
    gap, other = torch.where(normals @ normals.T < 0, gap, torch.inf).min(1)
    weight = (SEAM * torch.exp(-((gap / SEAM_MM) ** 2))).double().numpy()
    links = coo_matrix((weight, (ids.numpy(), ids[other].numpy())), shape=(count, count))
    links = links + links.T
    return diags(np.asarray(links.sum(1)).ravel()) - links


def _texel_areas(layout: CarryLayout, vertices_mm: Tensor) -> np.ndarray:
    """The surface (t,) that each texel stands for: its face's, shared among the face's texels."""
    p = corners(vertices_mm.double(), layout.corner_ids)
    area = torch.linalg.cross(p[:, 1] - p[:, 0], p[:, 2] - p[:, 0]).norm(dim=-1) / 2
    key = layout.corner_ids.sort(1).values
    _, face, count = key.unique(dim=0, return_inverse=True, return_counts=True)
    return (area / count[face]).numpy()


def _stiffness(vertices_mm: Tensor, faces: Tensor) -> Any:
    """Cotangent stiffness (v, v), its edges' weights held within what well-shaped faces have."""
    from scipy.sparse import coo_matrix, diags

    edges = unique_edges(faces).numpy()
    count = len(vertices_mm)
    weight = np.clip(_cotangents(vertices_mm, faces, edges), 0.05, 3.0)
    links = coo_matrix((weight, tuple(edges.T)), shape=(count, count))
    links = links + links.T
    return (diags(np.asarray(links.sum(1)).ravel()) - links).tocsr()


def _cotangents(vertices_mm: Tensor, faces: Tensor, edges: np.ndarray) -> np.ndarray:
    """Half the sum of the cotangents opposite each edge (e,)."""
    p = corners(vertices_mm, faces)
    keys = edges[:, 0].astype(np.int64) << 32 | edges[:, 1]
    total = np.zeros(len(edges))
    for k in range(3):
        to_i, to_j = p[:, (k + 1) % 3] - p[:, k], p[:, (k + 2) % 3] - p[:, k]
        doubled = torch.linalg.cross(to_i, to_j).norm(dim=-1).clamp(min=1e-9)
        cotangent = ((to_i * to_j).sum(-1) / doubled).numpy()
        ends = faces[:, [(k + 1) % 3, (k + 2) % 3]].sort(1).values.numpy()
        place = np.searchsorted(keys, ends[:, 0] << 32 | ends[:, 1])
        np.add.at(total, place, cotangent / 2)
    return total
