"""From a field on the lattice to a clean triangle mesh in the cube.

Marching cubes at 0, the largest connected piece, and of that only what the field made: the walls
around the face mask and the cube's border close the mesh, so that floaters and bubbles come apart
from it, and are taken away afterwards.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lifemask.assets import UserError
from lifemask.graphics.mesh import vertex_normals
from lifemask.methods._rafare_lattice import Room, crossing_cells

_SNAP = 1e-3
"""Samples nearer to 0 than this many voxels are moved to it: no vertex falls on a sample, so no
triangle degenerates, for at most this error."""
_BINS_PER_EDGE = 2.0
"""Side of the bins that tell the foremost depth, in mean edges."""
NO_SURFACE = "no face surface in this crop: the predicted field has none inside the face mask"


@dataclass(frozen=True)
class Surface:
    """A triangle mesh in the cube, half-crops: x right, y up, z towards the viewer.

    Attributes:
        vertices: (v, 3) float32.
        faces: (f, 3) int64, counter-clockwise from outside; none degenerate, no lone vertices.
        normals: (v, 3) unit, outwards, area-weighted from the faces.
    """

    vertices: Float[Tensor, "v 3"]
    faces: Int[Tensor, "f 3"]
    normals: Float[Tensor, "v 3"]


def create_surface(vertices: Float[Tensor, "v 3"], faces: Int[Tensor, "f 3"]) -> Surface:
    """Surface with the normals of its faces."""
    return Surface(vertices, faces, vertex_normals(vertices, faces))


_RIM_NZ = 0.3
"""Faces at the rim whose unit normal's z is below this are seen from the side."""
_RIM_ROUNDS = 6


def march(sdf: Float[Tensor, "n n n"], room: Room) -> Surface:
    """Zero of a field inside the room: its largest piece, without the walls that closed it.

    Args:
        sdf: (N, N, N), [ix, iy, iz], half-crops, positive outside. Values outside the room do not
            matter.
        room: where the field speaks.

    Raises:
        UserError: the field has no zero in the room.
    """
    grid = room.grid
    walled = room.wall(sdf)
    vertices, faces = _marching_cubes(walled, crossing_cells(walled))
    faces = faces[_largest_piece(len(vertices), faces)]
    lowest = torch.from_numpy(np.floor(vertices[faces].mean(1)).astype(np.int64))
    true = room.cells.cpu()[lowest[:, 0], lowest[:, 1], lowest[:, 2]].numpy()
    if not true.any():
        raise UserError(NO_SURFACE)
    vertices, faces = _compact(vertices, faces[true])
    points = (vertices + 0.5) * (2 / grid) - 1
    return create_surface(torch.from_numpy(points.astype(np.float32)), torch.from_numpy(faces))


def front_sheet(surface: Surface, reach: float = 0.25) -> Surface:
    """The outer face alone: what lies at most `reach` behind what the viewer sees first.

    Drops the back of the head, sheets inside it and loose remains (only the largest piece is
    kept), and leaves the hidden sides of nose, chin and nostrils.

    Args:
        surface: at least one face.
        reach: half-crops.
    """
    vertices = surface.vertices.numpy()
    faces = surface.faces.numpy()
    edges = vertices[faces[:, 0]] - vertices[faces[:, 1]]
    side = max(_BINS_PER_EDGE * float(np.linalg.norm(edges, axis=1).mean()), 1e-3)
    count = int(2 / side) + 2
    column, row = np.floor((vertices[:, :2] + 1) / side).astype(np.int64).clip(0, count - 1).T
    place = column * count + row
    foremost = np.full(count * count, -np.inf)
    np.maximum.at(foremost, place, vertices[:, 2])
    near = vertices[:, 2] >= foremost[place] - reach
    kept = faces[near[faces].all(1)]
    kept = kept[_largest_piece(len(vertices), kept)]
    kept = peeled(vertices, kept)
    kept = kept[_largest_piece(len(vertices), kept)]
    points, kept = _compact(vertices, kept)
    return create_surface(torch.from_numpy(points), torch.from_numpy(kept))


def peeled(vertices: Float[np.ndarray, "v 3"], faces: Int[np.ndarray, "f 3"]) -> np.ndarray:
    """The faces (g, 3) without those at the rim that are seen from the side.

    Behind the outline of a mask of pixels a surface falls off in strands, one for each row of
    pixels. From the rim inwards, faces whose normal leans away from the viewer go; the hidden side
    of a nose is not at the rim and stays.
    """
    a, b, c = (vertices[faces[:, k]] for k in range(3))
    normal = np.cross(b - a, c - a)
    aside = normal[:, 2] < _RIM_NZ * np.linalg.norm(normal, axis=1)
    kept = np.ones(len(faces), bool)
    while True:
        rim = np.zeros(len(vertices), bool)
        rim[_rim_edges(faces[kept])] = True
        gone = kept & aside & rim[faces].any(1)
        if not gone.any() or gone.sum() == kept.sum():
            return faces[kept]
        kept &= ~gone


def smooth_rim(surface: Surface) -> Surface:
    """A surface whose rims are curves and not stairs of pixels; only vertices of rims move."""
    points = with_smooth_rim(surface.vertices.numpy(), surface.faces.numpy())
    return create_surface(torch.from_numpy(points), surface.faces)


def with_smooth_rim(
    vertices: Float[np.ndarray, "v 3"], faces: Int[np.ndarray, "f 3"]
) -> np.ndarray:
    """Vertices (v, 3) whose rims are curves and not stairs of pixels; the others stay."""
    edges = _rim_edges(faces)
    both = np.concatenate((edges, edges[:, ::-1]))
    count = np.bincount(both[:, 0], minlength=len(vertices))
    own = (count == 2)[:, None]
    points = vertices.astype(np.float64)
    for _ in range(_RIM_ROUNDS):
        total = np.zeros_like(points)
        np.add.at(total, both[:, 0], points[both[:, 1]])
        points = np.where(own, 0.5 * points + 0.25 * total, points)
    return points.astype(vertices.dtype)


def _rim_edges(faces: np.ndarray) -> np.ndarray:
    """Edges (e, 2) that one face has alone."""
    edges = np.concatenate((faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]))
    low, high = edges.min(1), edges.max(1)
    key = low * (int(edges.max(initial=0)) + 1) + high
    _, first, times = np.unique(key, return_index=True, return_counts=True)
    return edges[first[times == 1]]


def _marching_cubes(
    sdf: Float[Tensor, "n n n"], cells: Bool[Tensor, "m m m"]
) -> tuple[np.ndarray, np.ndarray]:
    """Vertices (v, 3) in voxels and faces (f, 3) of the zero in the given cells.

    scikit-image visits a cell if its mask is set at the cell's *highest* corner. Its default
    gradient direction turns faces towards positive values when axes come in the order x, y, z.
    """
    from skimage.measure import marching_cubes

    bounds = []
    for axis in range(3):
        used = cells.amax(tuple(a for a in range(3) if a != axis)).nonzero()
        if not len(used):
            raise UserError(NO_SURFACE)
        bounds.append((int(used.min()), int(used.max()) + 1))
    part = sdf[tuple(slice(low, high + 1) for low, high in bounds)]
    least = _SNAP * 2 / sdf.shape[0]
    part = torch.where(part.abs() < least, torch.where(part < 0, -least, least), part)
    mask = np.zeros(part.shape, bool)
    mask[1:, 1:, 1:] = cells[tuple(slice(low, high) for low, high in bounds)].cpu().numpy()
    found = marching_cubes(np.ascontiguousarray(part.cpu().numpy()), 0.0, mask=mask)
    vertices = found[0].astype(np.float64) + [low for low, _ in bounds]
    return vertices, found[1].astype(np.int64)


def _largest_piece(count: int, faces: np.ndarray) -> np.ndarray:
    """Mask (f,) of the faces of the connected piece that has most of them."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    edges = np.concatenate((faces[:, [0, 1]], faces[:, [1, 2]]))
    ones = np.ones(len(edges), np.int8)
    graph = coo_matrix((ones, (edges[:, 0], edges[:, 1])), shape=(count, count))
    label = connected_components(graph, directed=False)[1][faces[:, 0]]
    return label == np.bincount(label).argmax()


def _compact(vertices: np.ndarray, faces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The vertices that faces use, and the faces that use them."""
    used = np.zeros(len(vertices), bool)
    used[faces] = True
    index = np.cumsum(used) - 1
    return vertices[used], index[faces]
