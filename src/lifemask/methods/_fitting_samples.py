"""Visible skin samples of a posed head: where they lie, how they face, how both change."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from lifemask.facemodel.base import FaceModel, Topology
from lifemask.graphics.camera import camera_like, inverse_depth, project, screen_depth
from lifemask.graphics.rasterize import barycentric_at_pixels, rasterize
from lifemask.methods._fitting_albedo import AlbedoModel
from lifemask.methods._fitting_surface import SurfacePoints, surface_points, vertex_basis
from lifemask.types import Camera

_MIN_FACING = 0.25  # cosine between normal and view below which a pixel is too slanted to trust
# Regions whose colour the albedo model does not know.
_NOT_SKIN = ("brows", "inner_mouth", "eye_socket_interior", "eyeballs", "teeth", "gums", "tongue")


@dataclass(frozen=True)
class SkinSamples:
    """Points fixed on the visible skin, float32.

    Attributes:
        points: n surface points.
        normals: n unnormalised normals, linear around the coefficients they were built at.
        albedo_mean: (n, 3) linear RGB.
        albedo_basis: (n, 3, k).
        pixels: (n, 2) integer (u, v) of the pixel that each sample was drawn from.
    """

    points: SurfacePoints
    normals: SurfacePoints
    albedo_mean: Float[Tensor, "n 3"]
    albedo_basis: Float[Tensor, "n 3 k"]
    pixels: Tensor


def skin_samples(
    model: FaceModel,
    coefficients: Float[Tensor, " p"],
    camera: Camera,
    albedo: AlbedoModel,
    size: int,
    count: int,
    margin: int = 1,
    mask: Tensor | None = None,
) -> SkinSamples:
    """About `count` samples on a regular grid of the pixels that show skin of the face.

    Args:
        model: linear face model.
        coefficients: (p,) where normals are linearised.
        camera: unbatched, to px of a `size` x `size` crop.
        albedo: per vertex.
        size: side of the crop in px.
        count: how many samples to aim at.
        margin: distance in px that a sample keeps from whatever is not skin of the face, so that
            blurred foreign colour does not reach it.
        mask: (size, size) bool, pixels that may be used; None for all.
    """
    everything = vertex_basis(model)
    vertices = everything.at(coefficients.to(everything.mean))
    camera = camera_like(camera, vertices)
    faces = model.topology.faces.to(vertices.device)
    face_ids, bary = _draw(vertices, faces, camera, size)
    usable = skin_faces(model.topology).to(vertices.device)
    keep = (face_ids >= 0) & usable[face_ids.clamp_min(0).long()]
    if mask is not None:
        keep &= mask
    keep = _eroded(keep, margin)
    keep &= _facing(vertices, faces, camera)[face_ids.clamp_min(0).long()] > _MIN_FACING
    rows, columns = _grid(keep, count)
    corners = faces[face_ids[rows, columns].long()]
    weights = bary[rows, columns].to(vertices)
    points = surface_points(model, corners, weights, torch.float32)
    normals = _normals(vertices, everything.basis, faces[usable], corners, weights, coefficients)
    mean = torch.einsum("nkc,nk->nc", albedo.mean[corners], weights)
    basis = torch.einsum("nkcj,nk->ncj", albedo.basis[corners], weights)
    return SkinSamples(points, normals, mean, basis, torch.stack((columns, rows), -1))


def _draw(vertices: Tensor, faces: Tensor, camera: Camera, size: int) -> tuple[Tensor, Tensor]:
    """Face ids (size, size) and barycentrics (size, size, 3)."""
    image = project(vertices, camera)
    screen = torch.cat((image[:, :2], screen_depth(vertices, camera)[:, None]), -1)[None]
    face_ids = rasterize(screen, faces, size, size).face_ids
    near = inverse_depth(vertices, camera)
    bary = barycentric_at_pixels(screen, faces, face_ids, None if near is None else near[None])
    return face_ids[0], bary[0]


def skin_faces(topology: Topology) -> Tensor:
    """(f,) True for faces of skin, wholly in the face region, without brows, eyes, mouth."""
    mask = topology.regions["face"].clone()
    for name in _NOT_SKIN:
        if name in topology.regions:
            mask &= ~topology.regions[name]
    usable = mask[topology.faces].all(-1)
    if "skin" in topology.part_names:
        usable &= topology.face_part == topology.part_names.index("skin")
    return usable


def _facing(vertices: Tensor, faces: Tensor, camera: Camera) -> Tensor:
    """(f,) cosine between each face's normal and the direction to the viewer."""
    turned = vertices @ camera.rotation.T
    a, b, c = turned[faces].unbind(1)
    normal = torch.nn.functional.normalize(torch.linalg.cross(b - a, c - a), dim=-1)
    if camera.model == "orthographic":
        return normal[:, 2]
    view = torch.nn.functional.normalize((a + b + c) / 3 + camera.translation, dim=-1)
    return -(normal * view).sum(-1)


def _eroded(keep: Tensor, margin: int) -> Tensor:
    outside = (~keep)[None, None].float()
    near = torch.nn.functional.max_pool2d(outside, 2 * margin + 1, 1, margin)
    return near[0, 0] == 0


def _grid(keep: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Rows and columns of kept pixels, thinned evenly to about `count`."""
    rows, columns = keep.nonzero().unbind(-1)
    step = max(1, round(len(rows) / max(count, 1)))
    phase = (rows * 7 + columns * 3) % step  # a slanted lattice, so that no row is left out
    chosen = phase == 0
    return rows[chosen], columns[chosen]


def _normals(
    vertices: Tensor,
    basis: Tensor,
    faces: Tensor,
    corners: Tensor,
    weights: Tensor,
    coefficients: Tensor,
) -> SurfacePoints:
    """Interpolated area-weighted vertex normals and their derivative by the coefficients."""
    a, b, c = faces.unbind(-1)
    e, g = vertices[b] - vertices[a], vertices[c] - vertices[a]
    de, dg = basis[b] - basis[a], basis[c] - basis[a]
    normal = torch.linalg.cross(e, g)
    change = _cross(e, dg) - _cross(g, de)
    at_vertex = torch.zeros_like(vertices)
    by_vertex = torch.zeros_like(basis)
    for k in range(3):
        at_vertex.index_add_(0, faces[:, k], normal)
        by_vertex.index_add_(0, faces[:, k], change)
    length = at_vertex.norm(dim=-1, keepdim=True).clamp_min(1e-9)
    unit, by_vertex = at_vertex / length, by_vertex / length[..., None]
    along = (unit[..., None] * by_vertex).sum(1, keepdim=True)
    by_vertex = by_vertex - unit[..., None] * along
    mean = torch.einsum("nkc,nk->nc", unit[corners], weights)
    slope = weights[:, 0, None, None] * by_vertex[corners[:, 0]]
    for k in (1, 2):
        slope += weights[:, k, None, None] * by_vertex[corners[:, k]]
    origin = mean - slope @ coefficients.to(slope)
    return SurfacePoints(origin, slope)


def _cross(a: Tensor, b: Tensor) -> Tensor:
    """A (f, 3) cross each column of b (f, 3, p)."""
    x, y, z = a[:, 0, None], a[:, 1, None], a[:, 2, None]
    u, v, w = b.unbind(1)
    return torch.stack((y * w - z * v, z * u - x * w, x * v - y * u), 1)
