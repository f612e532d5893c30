"""Self-shadowing: how much of the light from each direction reaches each vertex of a mesh."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from lifemask.graphics.lighting import lambert_transfer, sh_basis
from lifemask.graphics.mesh import vertex_normals
from lifemask.graphics.rasterize import rasterize

_DIRECTIONS_AT_ONCE = 8


@torch.no_grad()
def radiance_transfer(
    vertices: Float[Tensor, "v 3"],
    faces: Int[Tensor, "f 3"],
    *,
    directions: int = 128,
    size: int = 192,
    bias_mm: float = 1.0,
) -> Float[Tensor, "v 9"]:
    """Coefficients T with shading `sum_k T_k L_k` under a light L, shadows included.

    `T_k = 1/pi integral V(w) max(0, n.w) Y_k(w) dw` (Sloan et al. 2002, diffuse shadowed
    transfer), V from depth maps seen from many directions. Only the part that is in shadow is
    summed numerically, so an unoccluded vertex has exactly `(A_l / pi) Y_k(n)`.

    Args:
        vertices: (v, 3) mm. The result and the light it is used with are in the same frame.
        faces: (f, 3) vertex ids, counter-clockwise from outside.
        directions: how many, evenly over the sphere; shadows get smoother with more.
        size: side of the depth maps in px; the mesh fills them.
        bias_mm: shadows of things nearer than this are ignored; hides the maps' coarseness.
    """
    normals = vertex_normals(vertices, faces)
    sphere = _fibonacci_sphere(directions).to(vertices)
    center = (vertices.amin(0) + vertices.amax(0)) / 2
    radius = torch.linalg.vector_norm(vertices - center, dim=-1).amax()
    px_per_mm = (size / 2 - 1.5) / radius.clamp(min=1e-6)
    transfer = lambert_transfer(normals)
    for towards in sphere.split(_DIRECTIONS_AT_ONCE):
        frame = _view_frames(towards)
        seen = ((vertices - center) @ frame.mT) * px_per_mm
        screen = torch.cat((seen[..., :2] + (size - 1) / 2, seen[..., 2:]), dim=-1)
        depth = rasterize(screen, faces, size, size).depth
        lifted = (normals * bias_mm) @ frame.mT * px_per_mm
        hidden = _hidden(screen + lifted, depth, bias_mm * px_per_mm)
        cosine = (normals @ towards.mT).clamp(min=0)
        lost = (cosine * hidden.T) @ sh_basis(towards)
        transfer = transfer - 4.0 / directions * lost
    return transfer


def _hidden(points: Tensor, depth: Tensor, tolerance: Tensor) -> Tensor:
    """(d, v) in [0, 1]: the share of the four pixels around each point that lie nearer."""
    count, height, width = depth.shape
    u, v = points[..., 0], points[..., 1]
    left, top = u.floor().long(), v.floor().long()
    total = torch.zeros_like(u)
    for dy in (0, 1):
        for dx in (0, 1):
            x, y = (left + dx).clamp(0, width - 1), (top + dy).clamp(0, height - 1)
            nearest = depth.view(count, -1).gather(1, y * width + x)
            weight = (1 - (u - (left + dx)).abs()) * (1 - (v - (top + dy)).abs())
            total = total + weight * (nearest > points[..., 2] + tolerance)
    return total


def _view_frames(towards: Tensor) -> Tensor:
    """Rotations (d, 3, 3) whose third row is the direction (d, 3), so that z is nearness."""
    axis = torch.eye(3).to(towards)[towards.abs().argmin(-1)]
    right = functional.normalize(torch.linalg.cross(axis, towards), dim=-1)
    return torch.stack((right, torch.linalg.cross(towards, right), towards), dim=1)


def _fibonacci_sphere(count: int) -> Tensor:
    """Evenly spread unit vectors (count, 3)."""
    index = torch.arange(count, dtype=torch.float64) + 0.5
    z = 1 - 2 * index / count
    turn = math.pi * (1 + math.sqrt(5)) * index
    ring = (1 - z * z).sqrt()
    return torch.stack((ring * turn.cos(), ring * turn.sin(), z), dim=-1)
