"""Tangent frames of textured meshes, and normal maps in them."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from lifemask.graphics.mesh import corners, vertex_normals
from lifemask.graphics.uv import UvAtlas

MAX_SLOPE = 0.6
"""Relief in a normal map gets no steeper."""


def texture_axes(
    vertices: Float[Tensor, "v 3"],
    faces: Int[Tensor, "f 3"],
    uvs: Float[Tensor, "t 2"],
    faces_uv: Int[Tensor, "f 3"],
) -> Float[Tensor, "f 3 2"]:
    """What the surface point moves by per unit of u and of v (v up) in each face.

    0 for faces whose uvs span no area.

    Args:
        vertices: (v, 3) mm.
        faces: (f, 3) vertex ids.
        uvs: (t, 2), v up.
        faces_uv: (f, 3) ids into `uvs`.
    """
    p, t = corners(vertices, faces), corners(uvs.to(vertices), faces_uv)
    edges = torch.stack((p[:, 1] - p[:, 0], p[:, 2] - p[:, 0]), dim=-1)
    (du1, dv1), (du2, dv2) = (t[:, 1] - t[:, 0]).unbind(-1), (t[:, 2] - t[:, 0]).unbind(-1)
    area = du1 * dv2 - du2 * dv1
    inverse = torch.stack((dv2, -du2, -dv1, du1), dim=-1).view(-1, 2, 2)
    flat = area.abs() < 1e-14
    inverse = inverse / torch.where(flat, torch.ones_like(area), area).view(-1, 1, 1)
    return (edges @ inverse).masked_fill(flat.view(-1, 1, 1), 0)


def uv_tangents(
    vertices: Float[Tensor, "v 3"],
    faces: Int[Tensor, "f 3"],
    uvs: Float[Tensor, "t 2"],
    faces_uv: Int[Tensor, "f 3"],
    normals: Float[Tensor, "v 3"],
) -> Float[Tensor, "t 4"]:
    """Unit tangents (x, y, z) and handedness w of each uv, as MikkTSpace defines them.

    The tangent is the mean, weighted by the corners' angles, of the faces' directions of growing
    u, made orthogonal to the normal; the bitangent is `w (normal x tangent)` and points along
    growing v. Charts do not mix, as each corner of a chart has a uv of its own.

    Args:
        vertices: (v, 3) mm.
        faces: (f, 3) vertex ids.
        uvs: (t, 2), v up.
        faces_uv: (f, 3) ids into `uvs`.
        normals: (v, 3) unit.
    """
    along_u, along_v = texture_axes(vertices, faces, uvs, faces_uv).unbind(-1)
    angle = _corner_angles(vertices, faces)
    total = vertices.new_zeros(len(uvs), 3)
    sense = vertices.new_zeros(len(uvs))
    owner = torch.zeros(len(uvs), dtype=torch.long, device=vertices.device)
    for k in range(3):
        own, at = faces[:, k].long(), faces_uv[:, k].long()
        normal = normals[own]
        direction = functional.normalize(_beside(along_u, normal), dim=-1)
        total = total.index_add(0, at, angle[:, k : k + 1] * direction)
        turn = (torch.linalg.cross(normal, along_u) * along_v).sum(-1).sign()
        sense = sense.index_add(0, at, angle[:, k] * turn)
        owner[at] = own
    normal = normals[owner]
    lost = torch.linalg.vector_norm(total, dim=-1, keepdim=True) < 1e-9
    total = torch.where(lost, _beside(_least_axis(normal), normal), total)
    tangent = functional.normalize(_beside(total, normal), dim=-1)
    hand = torch.where(sense < 0, -torch.ones_like(sense), torch.ones_like(sense))
    return torch.cat((tangent, hand[:, None]), dim=-1)


def bend_normals(
    normals: Float[Tensor, "*b 3"],
    tangents: Float[Tensor, "*b 4"],
    relief: Float[Tensor, "*b 3"],
) -> Float[Tensor, "*b 3"]:
    """Unit normals that a normal map's vectors stand for on a surface.

    Args:
        normals: (*b, 3) unit, of the smooth surface.
        tangents: (*b, 4) interpolated from `uv_tangents`; need not be orthogonal any more.
        relief: (*b, 3) the map: x along the tangent, y along the bitangent, z along the normal.
    """
    tangent, bitangent = _frame(normals, tangents)
    x, y, z = relief.unsqueeze(-2).unbind(-1)
    return functional.normalize(x * tangent + y * bitangent + z * normals, dim=-1)


def relief_normals(
    height_mm: Float[Tensor, "t"], vertices: Float[Tensor, "v 3"], atlas: UvAtlas
) -> Float[Tensor, "3 n n"]:
    """Tangent-space normals of a height map, `normalize(n - grad h)`, in `uv_tangents`' frames.

    Slopes are taken in 3D, whatever the uvs stretch, shear or mirror, and bent below `MAX_SLOPE`.

    Args:
        height_mm: (t,) along the normal, outward, at the atlas's texels.
        vertices: (v, 3) mm of the mesh.
        atlas: of the mesh.

    Returns:
        (3, n, n) unit: x to the texture's right, y up in it, z out; (0, 0, 1) where nothing is.
    """
    steps = _texture_slopes(height_mm, atlas)
    axes = texture_axes(vertices, atlas.faces, atlas.uvs, atlas.faces_uv)
    metric = axes.mT @ axes
    flat = torch.linalg.det(metric) < 1e-9
    metric = torch.where(flat[:, None, None], torch.eye(2).to(metric), metric)
    to_surface = (axes @ torch.linalg.inv(metric))[atlas.face_ids.long()]
    slope = (to_surface @ steps[..., None])[..., 0]
    smooth = vertex_normals(vertices, atlas.faces)
    frames = uv_tangents(vertices, atlas.faces, atlas.uvs, atlas.faces_uv, smooth)
    own = atlas.faces_uv.long()[atlas.face_ids.long()]
    tangent = (frames[own] * atlas.barycentric[..., None].to(frames)).sum(1)
    normal = functional.normalize(atlas.interpolate(smooth), dim=-1)
    right, up = _frame(normal, tangent)
    x, y = ((slope * axis).sum(-1) for axis in (right, up))
    steep = torch.hypot(x, y).clamp(min=1e-9)
    bent = MAX_SLOPE * torch.tanh(steep / MAX_SLOPE) / steep
    rows = torch.stack((-x * bent, -y * bent, torch.ones_like(x)), dim=-1)
    picture = atlas.scatter(functional.normalize(rows, dim=-1))
    picture[2][(picture == 0).all(0)] = 1
    return picture


def _texture_slopes(height: Tensor, atlas: UvAtlas) -> Float[Tensor, "t 2"]:
    """Change of a height per unit of u and of v, by central differences over the texels."""
    padded = functional.pad(atlas.scatter(height[:, None]), (1, 1, 1, 1), mode="replicate")[0]
    right = (padded[1:-1, 2:] - padded[1:-1, :-2]) / 2
    up = (padded[:-2, 1:-1] - padded[2:, 1:-1]) / 2
    return atlas.gather(torch.stack((right, up)) * atlas.size)


def _frame(normals: Tensor, tangents: Tensor) -> tuple[Tensor, Tensor]:
    """Unit tangent and bitangent of interpolated tangents, orthogonal to the normals."""
    tangent = functional.normalize(_beside(tangents[..., :3], normals), dim=-1)
    hand = torch.where(tangents[..., 3:] < 0, -1.0, 1.0).to(normals)
    return tangent, hand * torch.linalg.cross(normals, tangent)


def _beside(direction: Tensor, normal: Tensor) -> Tensor:
    """The part of a direction that is orthogonal to the unit normal."""
    return direction - (direction * normal).sum(-1, keepdim=True) * normal


def _least_axis(normal: Tensor) -> Tensor:
    """The coordinate axis farthest from each normal."""
    return torch.eye(3).to(normal)[normal.abs().argmin(-1)]


def _corner_angles(vertices: Tensor, faces: Tensor) -> Tensor:
    """Angles (f, 3) at the corners, radians."""
    p = corners(vertices, faces)
    to_next = functional.normalize(p.roll(-1, 1) - p, dim=-1)
    to_last = functional.normalize(p.roll(1, 1) - p, dim=-1)
    return torch.arccos((to_next * to_last).sum(-1).clamp(-1, 1))
