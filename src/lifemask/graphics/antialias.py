"""Analytic antialiasing of silhouettes, the one place where gradients reach a shape's outline.

After Laine et al. 2020 (nvdiffrast): where two neighbouring pixels are separated by a silhouette,
both are blended by the exact point at which it crosses the line between their centres. Unlike
there, the silhouette need not belong to the triangle at the nearer pixel: the line is followed over
the surface, from triangle to triangle, so that meshes finer than the pixels are handled too.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lifemask.graphics.mesh import corners, face_neighbors
from lifemask.graphics.rasterize import Fragments

_MAX_STEPS = 32


@dataclass(frozen=True)
class _Pairs:
    """Neighbouring pixels with different faces, seen from the nearer of the two; (p,) each.

    Attributes:
        image: index in the batch.
        source: flat index y * w + x of the nearer pixel.
        other: flat index of its neighbour.
        along: coordinate of the nearer pixel on the line through both.
        across: coordinate of both pixels on the other axis.
        direction: +1 or -1, from the nearer pixel to the other.
        face: face at the nearer pixel.
        behind: face at the other pixel, -1 where there is none.
    """

    image: Tensor
    source: Tensor
    other: Tensor
    along: Tensor
    across: Tensor
    direction: Tensor
    face: Tensor
    behind: Tensor

    def select(self, index: Tensor) -> _Pairs:
        """Some of the pairs."""
        return _Pairs(*(getattr(self, name)[index] for name in self.__dataclass_fields__))


def antialias(
    image: Float[Tensor, "b h w c"],
    points_screen: Float[Tensor, "b v k"],
    faces: Int[Tensor, "f 3"],
    fragments: Fragments,
    neighbors: Int[Tensor, "f 3"] | None = None,
) -> Float[Tensor, "b h w c"]:
    """The image, blended across silhouettes; differentiable in colours and in (u, v).

    Every channel is treated alike, so a coverage mask can ride along. Blending is right for
    linear colour.

    Args:
        image: (b, h, w, c), composited over its background.
        points_screen: (b, v, 2 or 3), (u, v) in px first; as given to `rasterize`.
        faces: (f, 3) vertex ids.
        fragments: what `rasterize` returned for them.
        neighbors: `mesh.face_neighbors(faces)` if known, which saves a sort.
    """
    if neighbors is None:
        neighbors = face_neighbors(faces)
    uv = points_screen[..., :2]
    neighbors = neighbors.long()
    flat = image.flatten(1, 2)
    result = flat
    for axis in (0, 1):
        pairs = _find_pairs(fragments, axis)
        pairs, edge = _follow(pairs, uv.detach(), faces, neighbors, axis)
        steep = _is_across(pairs, edge, uv.detach(), axis)
        pairs, edge = pairs.select(steep), edge[steep]
        reach = _crossing(pairs, edge, uv, axis)
        result = result + _blend(flat, pairs, reach)
    return result.view_as(image)


def _find_pairs(fragments: Fragments, axis: int) -> _Pairs:
    """Pixel pairs along u (axis 0) or v (axis 1) whose faces differ."""
    ids, depth = fragments.face_ids.long(), fragments.depth
    _, height, width = ids.shape
    dim = 2 - axis
    length = ids.shape[dim]
    first, second = ids.narrow(dim, 0, length - 1), ids.narrow(dim, 1, length - 1)
    near_first, near_second = depth.narrow(dim, 0, length - 1), depth.narrow(dim, 1, length - 1)
    image, y, x = ((first != second) & (near_first != near_second)).nonzero(as_tuple=True)
    forward = (near_first > near_second)[image, y, x]
    low = y * width + x
    high = low + (1 if axis == 0 else width)
    at = torch.where(forward, 0, 1)
    along, across = (x, y) if axis == 0 else (y, x)
    return _Pairs(
        image=image,
        source=torch.where(forward, low, high),
        other=torch.where(forward, high, low),
        along=along + at,
        across=across,
        direction=1 - 2 * at,
        face=torch.where(forward, first[image, y, x], second[image, y, x]),
        behind=torch.where(forward, second[image, y, x], first[image, y, x]),
    )


def _follow(
    pairs: _Pairs, uv: Tensor, faces: Tensor, neighbors: Tensor, axis: int
) -> tuple[_Pairs, Tensor]:
    """Walk from each nearer pixel towards the other one until the surface's outline.

    Returns:
        The pairs that a silhouette separates, and its vertices (p, 2).
    """
    winding = _winding(uv, faces)
    faces = faces.long()
    pairs = pairs.select(~_is_joined(pairs, winding, neighbors))
    face, entry = pairs.face, torch.full_like(pairs.face, -1)
    found, edges = [], []
    alive = torch.arange(len(face), device=face.device)
    for _ in range(_MAX_STEPS):
        if len(alive) == 0:
            break
        part = pairs.select(alive)
        exit_edge, reach = _exit(part, face, entry, uv, faces, axis)
        beyond = neighbors[face, exit_edge]
        turns = winding[part.image, beyond.clamp(min=0)] != winding[part.image, face]
        within = (reach >= 0) & (reach <= 1)
        outline = within & ((beyond < 0) | turns)
        start, end = faces[face, exit_edge], faces[face, (exit_edge + 1) % 3]
        found.append(alive[outline])
        edges.append(torch.stack((start, end), -1)[outline])
        go_on = within & ~outline
        alive, came_from, face = alive[go_on], face[go_on], beyond[go_on]
        entry = (neighbors[face] == came_from.unsqueeze(-1)).long().argmax(-1)
    index = torch.cat(found) if found else alive
    ends = torch.cat(edges) if edges else faces.new_zeros(0, 2)
    return pairs.select(index), ends


def _is_joined(pairs: _Pairs, winding: Tensor, neighbors: Tensor) -> Tensor:
    """(p,) bool, True where the two faces share an edge that is no outline: nothing to blend."""
    adjacent = (neighbors[pairs.face] == pairs.behind.unsqueeze(-1)).any(-1) & (pairs.behind >= 0)
    behind = winding[pairs.image, pairs.behind.clamp(min=0)]
    return adjacent & (behind == winding[pairs.image, pairs.face])


def _exit(
    pairs: _Pairs, face: Tensor, entry: Tensor, uv: Tensor, faces: Tensor, axis: int
) -> tuple[Tensor, Tensor]:
    """The edge (p,) by which each line leaves its face and how far that is, in px (p,).

    A line crosses two of a triangle's edges (or none, in a degenerate start): of the first face
    it leaves by the farther, of later ones by the edge it did not enter.
    """
    points = uv[pairs.image.unsqueeze(-1), faces[face]]
    along = points[..., axis] - pairs.along.unsqueeze(-1).to(uv)
    across = points[..., 1 - axis] - pairs.across.unsqueeze(-1).to(uv)
    crossed = (across > 0) != (across > 0).roll(-1, -1)
    reach = _intersect(along, across, along.roll(-1, -1), across.roll(-1, -1))
    reach = reach * pairs.direction.unsqueeze(-1).to(uv)
    usable = crossed & (torch.arange(3, device=uv.device) != entry.unsqueeze(-1))
    score = torch.where(usable, reach, torch.full_like(reach, -torch.inf))
    best = score.argmax(-1, keepdim=True)
    return best.squeeze(-1), score.gather(-1, best).squeeze(-1)


def _intersect(along0: Tensor, across0: Tensor, along1: Tensor, across1: Tensor) -> Tensor:
    """Where the edge between two points meets the line across = 0."""
    rise = across1 - across0
    rise = torch.where(rise == 0, torch.ones_like(rise), rise)
    return along0 - across0 * (along1 - along0) / rise


def _is_across(pairs: _Pairs, edge: Tensor, uv: Tensor, axis: int) -> Tensor:
    """(p,) bool, True where the outline runs rather across the line than along it.

    The others belong to the pixel pairs of the other axis; blending along both would count their
    gradient twice.
    """
    extent = (uv[pairs.image, edge[:, 1]] - uv[pairs.image, edge[:, 0]]).abs()
    along, across = extent[:, axis], extent[:, 1 - axis]
    return along < across if axis == 0 else along <= across


def _crossing(pairs: _Pairs, edge: Tensor, uv: Tensor, axis: int) -> Tensor:
    """Distance (p,) in [0, 1] from the nearer pixel to the outline; differentiable in uv."""
    rows = edge + (pairs.image * uv.shape[1]).unsqueeze(-1)
    ends = uv.reshape(-1, 2).index_select(0, rows.reshape(-1)).view(-1, 2, 2)
    along = ends[..., axis] - pairs.along.unsqueeze(-1).to(uv)
    across = ends[..., 1 - axis] - pairs.across.unsqueeze(-1).to(uv)
    reach = _intersect(along[:, 0], across[:, 0], along[:, 1], across[:, 1])
    return reach * pairs.direction.to(uv)


def _blend(flat: Tensor, pairs: _Pairs, reach: Tensor) -> Tensor:
    """What the pairs add to the image (b, h * w, c)."""
    batch, pixels, channels = flat.shape
    rows = flat.reshape(-1, channels)
    source, other = pairs.source + pairs.image * pixels, pairs.other + pairs.image * pixels
    difference = rows.index_select(0, source) - rows.index_select(0, other)
    weight = (reach - 0.5).unsqueeze(-1)
    target = torch.where(reach > 0.5, other, source)
    added = torch.zeros_like(rows).index_add(0, target, weight.to(rows) * difference)
    return added.view(batch, pixels, channels)


def _winding(uv: Tensor, faces: Tensor) -> Tensor:
    """(b, f) bool, True for faces seen from the back (positive doubled area in (u, v))."""
    a, b, c = corners(uv, faces).unbind(-2)
    ab, ac = b - a, c - a
    return ab[..., 0] * ac[..., 1] > ab[..., 1] * ac[..., 0]
