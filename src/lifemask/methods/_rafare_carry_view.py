"""What a camera sees of a mesh, as a map of nearness, and where lines meet that surface."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from lifemask.graphics.camera import project, screen_depth, to_camera_frame
from lifemask.graphics.mesh import boundary_edges, face_normals, vertex_normals
from lifemask.graphics.rasterize import rasterize
from lifemask.types import Camera

STEP_MM = 0.75
"""Lines are followed in such steps; what is thinner may be passed unseen."""
JUMP_PX = 8.0
"""Neighbouring pixels whose nearness differs by more than so many pixels lie on a silhouette."""


@dataclass(frozen=True)
class MeshView:
    """A mesh as a camera sees it.

    Attributes:
        camera: model frame to the px of the square maps.
        z_mm: (n, n) nearness, camera-frame z of the surface; NaN off the mesh and at silhouettes.
        face_ids: (n, n) the face seen, -1 where there is none.
        normals: (f, 3) unit normals of the faces, model frame.
    """

    camera: Camera
    z_mm: Float[Tensor, "n n"]
    face_ids: Int[Tensor, "n n"]
    normals: Float[Tensor, "f 3"]

    def nearness(self, points_mm: Float[Tensor, "*n 3"]) -> Float[Tensor, "*n"]:
        """How far points lie in front of the surface along the view, mm; NaN where it is not seen.

        Args:
            points_mm: (*n, 3) model frame.
        """
        rows = points_mm.reshape(-1, 3)
        behind = _bilinear(self.z_mm, project(rows, self.camera)[:, :2])
        return (to_camera_frame(rows, self.camera)[:, 2] - behind).view(points_mm.shape[:-1])

    def face_at(self, points_mm: Float[Tensor, "n 3"]) -> Int[Tensor, "n"]:
        """The face seen in the pixel of each point, -1 for none."""
        size = self.face_ids.shape[0]
        place = project(points_mm, self.camera)[:, :2].nan_to_num(-1.0).round().long()
        inside = ((place >= 0) & (place < size)).all(-1)
        column, row = place.clamp(0, size - 1).unbind(-1)
        return torch.where(inside, self.face_ids[row, column].long(), -1)


def view_mesh(
    vertices_mm: Float[Tensor, "v 3"], faces: Int[Tensor, "f 3"], camera: Camera, size: int
) -> MeshView:
    """The view of a mesh.

    Args:
        vertices_mm: (v, 3) model frame.
        faces: (f, 3) vertex ids.
        camera: model frame to the px of a square picture.
        size: its side.
    """
    depth = screen_depth(vertices_mm, camera)
    screen = torch.cat((project(vertices_mm, camera)[:, :2], depth[:, None]), dim=-1)
    seen = rasterize(screen[None], faces, size, size, cull_backfaces=True)
    ids, near = seen.face_ids[0], seen.depth[0]
    if camera.model == "orthographic":
        z_mm, px_mm = near / camera.scale, 1 / float(camera.scale)
    else:
        z_mm, px_mm = -1 / near, float(-camera.translation[2] / camera.scale)
    z_mm = torch.where(ids >= 0, z_mm, torch.nan)
    steep = _jumps(z_mm, JUMP_PX * px_mm)
    z_mm = torch.where(steep, torch.nan, z_mm)
    return MeshView(camera, z_mm, ids, face_normals(vertices_mm, faces))


@dataclass(frozen=True)
class Hits:
    """Where lines along normals meet a surface.

    Attributes:
        distance_mm: (s,) along the normal, positive outward; 0 without a hit.
        found: (s,) whether there is one.
    """

    distance_mm: Float[Tensor, "s"]
    found: Bool[Tensor, "s"]


def shoot(
    view: MeshView,
    points_mm: Float[Tensor, "s 3"],
    normals: Float[Tensor, "s 3"],
    reach_mm: float,
    min_cosine: float = 0.5,
) -> Hits:
    """The nearest crossing of each point's normal, both ways, with the surface that is seen.

    A crossing counts where the line leaves the surface outward and its face's normal agrees.

    Args:
        view: of the surface.
        points_mm: (s, 3) model frame.
        normals: (s, 3) unit.
        reach_mm: how far to look.
        min_cosine: of the angle between the normal and that of the face that is met.
    """
    steps = max(2, round(reach_mm / STEP_MM))
    along = torch.linspace(-reach_mm, reach_mm, 2 * steps + 1).to(points_mm)
    line = points_mm[:, None] + along[:, None] * normals[:, None]
    front = view.nearness(line)
    leaves = (front[:, :-1] < 0) & (front[:, 1:] >= 0)  # NaN compares false
    middle = (along[:-1] + along[1:]).abs() / 2
    first = torch.where(leaves, middle, torch.inf).argmin(1, keepdim=True)
    found = leaves.gather(1, first)[:, 0]
    low, high = along[first[:, 0]], along[first[:, 0] + 1]
    below, above = front.gather(1, first)[:, 0], front.gather(1, first + 1)[:, 0]
    for _ in range(2):
        share = (-below / (above - below)).nan_to_num(0.5).clamp(0, 1)
        at = low + share * (high - low)
        value = view.nearness(points_mm + at[:, None] * normals).nan_to_num(0.0)
        inside = value < 0
        low, below = torch.where(inside, at, low), torch.where(inside, value, below)
        high, above = torch.where(inside, high, at), torch.where(inside, above, value)
    share = (-below / (above - below)).nan_to_num(0.5).clamp(0, 1)
    at = low + share * (high - low)
    face = view.face_at(points_mm + at[:, None] * normals)
    agrees = (view.normals[face.clamp(min=0)] * normals).sum(-1) > min_cosine
    found = found & (face >= 0) & agrees
    return Hits(torch.where(found, at, 0.0), found)


@dataclass(frozen=True)
class Outline:
    """The points of a surface, for texels whose normals pass it by.

    Attributes:
        tree: over the points.
        points: (p, 3) model frame.
        normals: (p, 3) unit.
        rim: (p,) points at the surface's own end, beyond which it says nothing.
    """

    tree: Any
    points: Float[Tensor, "p 3"]
    normals: Float[Tensor, "p 3"]
    rim: Bool[Tensor, "p"]

    def nearest(
        self,
        points_mm: Float[Tensor, "s 3"],
        normals: Float[Tensor, "s 3"],
        reach_mm: float,
        min_cosine: float = 0.6,
    ) -> Hits:
        """How far along their normals points lie from their nearest neighbours of like normal.

        Args:
            points_mm: (s, 3) model frame.
            normals: (s, 3) unit.
            reach_mm: how far to look.
            min_cosine: of the angle between the two normals.
        """
        ids = torch.from_numpy(self.tree.query(points_mm.numpy(), k=8)[1]).long()
        away = self.points[ids] - points_mm[:, None]
        alike = (self.normals[ids] * normals[:, None]).sum(-1) > min_cosine
        length = torch.where(alike, torch.linalg.vector_norm(away, dim=-1), torch.inf)
        length, first = length.min(1)
        found = (length < reach_mm) & ~self.rim[ids.gather(1, first[:, None])[:, 0]]
        chosen = away.gather(1, first[:, None, None].expand(-1, 1, 3))[:, 0]
        return Hits(torch.where(found, (chosen * normals).sum(-1), 0.0), found)


def outline(
    vertices_mm: Float[Tensor, "v 3"], faces: Int[Tensor, "f 3"], camera: Camera, least: float
) -> Outline:
    """The part of a surface that is not turned away from the camera by more than `least`.

    Args:
        vertices_mm: (v, 3) model frame.
        faces: (f, 3) vertex ids.
        camera: that saw it.
        least: cosine between normal and view.
    """
    from scipy.spatial import KDTree

    normals = vertex_normals(vertices_mm, faces)
    rim = torch.zeros(len(vertices_mm), dtype=torch.bool)
    rim[boundary_edges(faces).reshape(-1)] = True
    kept = (normals.norm(dim=-1) > 0.5) & (facing(vertices_mm, normals, camera) > least)
    points = vertices_mm[kept].contiguous()
    return Outline(KDTree(points.numpy()), points, normals[kept], rim[kept])


def facing(
    points_mm: Float[Tensor, "s 3"], normals: Float[Tensor, "s 3"], camera: Camera
) -> Float[Tensor, "s"]:
    """Cosine of the angle between normals and the direction to the camera."""
    turned = normals @ camera.rotation.mT
    if camera.model == "orthographic":
        return turned[:, 2]
    towards = functional.normalize(-to_camera_frame(points_mm, camera), dim=-1)
    return (turned * towards).sum(-1)


def _jumps(z_mm: Tensor, limit_mm: float) -> Bool[Tensor, "n n"]:
    """Pixels beside a step in nearness; a border with nothing is none."""
    steep = torch.zeros_like(z_mm, dtype=torch.bool)
    down = (z_mm[1:] - z_mm[:-1]).abs() > limit_mm
    right = (z_mm[:, 1:] - z_mm[:, :-1]).abs() > limit_mm
    steep[1:] |= down
    steep[:-1] |= down
    steep[:, 1:] |= right
    steep[:, :-1] |= right
    return steep


def _bilinear(picture: Float[Tensor, "n n"], at: Float[Tensor, "s 2"]) -> Float[Tensor, "s"]:
    """Samples at px (u, v); NaN outside, and where one of the four pixels is."""
    size = picture.shape[0]
    at = torch.where(at.isfinite(), at, -9.0)
    corner = at.floor()
    u, v = (at - corner).unbind(-1)
    column, row = corner.long().unbind(-1)
    inside = (column >= 0) & (row >= 0) & (column < size - 1) & (row < size - 1)
    place = row.clamp(0, size - 2) * size + column.clamp(0, size - 2)
    flat = picture.reshape(-1)
    upper = flat[place] * (1 - u) + flat[place + 1] * u
    lower = flat[place + size] * (1 - u) + flat[place + size + 1] * u
    return torch.where(inside, upper * (1 - v) + lower * v, torch.nan)
