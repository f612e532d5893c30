"""The swap of PGN: a frame redrawn with the colours that another frame of the person shows.

The target's mesh is drawn once; a pixel's surface point is looked up in the source frame through
the source's geometry, and its colour is taken from there. So gradients reach both geometries,
through the coordinates and through the barycentrics. Lengths are half-crops (`methods._targets`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from lifemask.graphics.mesh import corners, vertex_normals
from lifemask.graphics.rasterize import barycentric_at_pixels, interpolate, rasterize
from lifemask.nn.census_flow import resized

Light = Literal["normal", "constant", "none"]

LEAST_FACING = 0.2  # n_z of the normal of a vertex that counts as seen
DEPTH_SLACK_MM = 1.5  # how far behind the z-buffer a vertex may lie and still be seen
_GAIN_RANGE = (0.3, 3.0)
_LEAST_SHARE = 0.01  # of the image, covered by the mask: with less the light is left as it is
_GAIN_RIDGE, _NORMAL_RIDGE, _OFFSET_RIDGE = 1e-5, 1e-3, 0.3  # against mean colours squared


@dataclass(frozen=True)
class PosedFrames:
    """Posed meshes of one topology with the crops they are seen in.

    Attributes:
        vertices: (b, v, 3) half-crops (u, v, w), w is nearness; differentiable.
        crops: (b, 3, s, s) sRGB in [0, 1].
        half_crops_per_mm: (b,) scale of each mesh.
        trust: (b, 1, t, t) over the crop, in [0, 1], how far a place shows the face and nothing in
            front of it; None: everywhere.
    """

    vertices: Float[Tensor, "b v 3"]
    crops: Float[Tensor, "b 3 s s"]
    half_crops_per_mm: Float[Tensor, "b"]
    trust: Float[Tensor, "b 1 t t"] | None = None


@dataclass(frozen=True)
class Swapped:
    """Target frames redrawn with colours of the source frames.

    Attributes:
        image: (b, 3, n, n) sRGB, not clipped; the target's own pixels where the mask is 0.
        mask: (b, n, n) in [0, 1], pixels whose colour comes from the source; detached.
        reference: (b, 3, n, n) the target frames at that size.
    """

    image: Float[Tensor, "b 3 n n"]
    mask: Float[Tensor, "b n n"]
    reference: Float[Tensor, "b 3 n n"]


def swap(
    source: PosedFrames,
    target: PosedFrames,
    faces: Int[Tensor, "f 3"],
    size: int = 64,
    counted: Bool[Tensor, "v"] | None = None,
    light: Light = "normal",
) -> Swapped:
    """The target frames with the colours of the source frames where both see the surface.

    A pixel counts if all corners of its face are seen in both frames.

    Args:
        source: frame k, whose colours are taken.
        target: frame l of the same people, which is redrawn.
        faces: (f, 3) counter-clockwise from outside: all that can be seen or can hide.
        size: side n of the result in px.
        counted: (v,) vertices whose surface may be swapped, e.g. the region "face"; None: all.
        light: what frames in different light may differ by, see `light_change`; "none" takes the
            colours as they are.
    """
    drawn = _draw(target, faces, size)
    bary = barycentric_at_pixels(drawn.screen, faces, drawn.face_ids)
    place = interpolate(source.vertices[..., :2], faces, drawn.face_ids, bary)
    with torch.no_grad():
        seen = _visible(drawn, faces, target) & visible_vertices(source, faces, size)
        seen = seen if counted is None else seen & counted
        mask = _covered(seen, faces, drawn.face_ids) & (place.abs() < 1).all(-1)
        mask = mask * _trust(source, target, place, size)
        normals = interpolate(drawn.normals, faces, drawn.face_ids, bary).movedim(-1, 1)
    reference = resized(target.crops, size).to(place)
    colors = _sample(resized(source.crops, size), place)
    if light != "none":
        basis = normals if light == "normal" else None
        gain, offset = light_change(colors, reference, mask, basis)
        colors = gain * colors + offset
    share = mask.unsqueeze(1)
    return Swapped(share * colors + (1 - share) * reference, mask, reference)


def visible_vertices(
    frames: PosedFrames, faces: Int[Tensor, "f 3"], size: int = 64
) -> Bool[Tensor, "b v"]:
    """Vertices that a frame sees: facing it, in the crop, and nothing in front of them.

    A vertex faces the frame if its normal has n_z > 0.2. It is hidden if the face drawn at its
    pixel lies more than 1.5 mm before it. That face's plane is continued from the pixel's centre
    to the vertex, at most to the depths of its own corners: on slopes half a pixel of a coarse
    image is more than 1.5 mm.

    Args:
        frames: the posed meshes.
        faces: (f, 3) counter-clockwise from outside.
        size: side of the z-buffer in px.
    """
    return _visible(_draw(frames, faces, size), faces, frames)


@torch.no_grad()
def light_change(
    source: Float[Tensor, "b 3 n n"],
    target: Float[Tensor, "b 3 n n"],
    mask: Float[Tensor, "b n n"],
    normals: Float[Tensor, "b 3 n n"] | None = None,
) -> tuple[Float[Tensor, "b 3 _ _"], Float[Tensor, "b 3 1 1"]]:
    """Gain and offset of each channel from source to target colours, by least squares.

    `sum M ((g + h n) source + o - target)^2` over g, o and, with normals n, h: the first order of
    what another light, or the same light on a turned head, does to colours. Ridges hold the
    unknowns near (1, 0, 0), which they are where the mask is nearly empty. That of the offset is
    strong: light multiplies, and frames that do not fit would else be explained by a gain near 0
    and a large offset, which takes the contrast, and with it the pull, out of what is compared.
    Detached.

    Args:
        source: sRGB.
        target: sRGB.
        mask: weight of each pixel, in [0, 1].
        normals: unit normals at the pixels; None leaves h out.

    Returns:
        Gain (b, 3, n, n), or (b, 3, 1, 1) without normals, held in [0.3, 3]; offset (b, 3, 1, 1).
    """
    columns = torch.ones_like(source[:, :1])
    columns = columns if normals is None else torch.cat((columns, normals), 1)
    basis = source.unsqueeze(2) * columns.unsqueeze(1)
    basis = torch.cat((basis, torch.ones_like(basis[:, :, :1])), 2).flatten(3).double()
    slopes = [_NORMAL_RIDGE] * (columns.shape[1] - 1)
    ridge = torch.diag(basis.new_tensor([_GAIN_RIDGE, *slopes, _OFFSET_RIDGE]))
    total = mask.sum((1, 2)).view(-1, 1, 1, 1)
    share = mask.unsqueeze(1) / total.clamp_min(1e-6)
    weighted = basis * share.flatten(2).double().unsqueeze(2)
    wanted = (target - source).flatten(2).double().unsqueeze(-1)
    found = torch.linalg.solve(weighted @ basis.mT + ridge, weighted @ wanted).squeeze(-1)
    change = torch.einsum("bck,bkij->bcij", found[..., :-1].to(source), columns)
    gain = (1 + (change[..., :1, :1] if normals is None else change)).clamp(*_GAIN_RANGE)
    rest = (share * (target - gain * source)).sum((2, 3), keepdim=True) / (1 + _OFFSET_RIDGE)
    known = total >= _LEAST_SHARE * mask[0].numel()
    return torch.where(known, gain, 1.0), torch.where(known, rest, 0.0)


@dataclass(frozen=True)
class _Drawn:
    """Frames as the rasteriser saw them; normals are unit, v up, and detached."""

    screen: Float[Tensor, "b v 3"]
    face_ids: Int[Tensor, "b n n"]
    normals: Float[Tensor, "b v 3"]


def _draw(frames: PosedFrames, faces: Tensor, size: int) -> _Drawn:
    half = size / 2
    shift = frames.vertices.new_tensor([half - 0.5, half - 0.5, 0.0])
    screen = frames.vertices * half + shift
    upright = frames.vertices.detach() * shift.new_tensor([1.0, -1.0, 1.0])
    face_ids = rasterize(screen, faces, size, size).face_ids
    return _Drawn(screen, face_ids, vertex_normals(upright, faces))


@torch.no_grad()
def _visible(drawn: _Drawn, faces: Tensor, frames: PosedFrames) -> Bool[Tensor, "b v"]:
    """See `visible_vertices`."""
    size = drawn.face_ids.shape[-1]
    pixel = drawn.screen[..., :2].round()
    inside = ((pixel >= 0) & (pixel < size)).all(-1)
    u, v = pixel.nan_to_num(0).clamp(0, size - 1).long().unbind(-1)
    face = drawn.face_ids.flatten(1).gather(1, v * size + u)
    front = _plane_depth(drawn.screen, faces, face.clamp_min(0))
    slack = DEPTH_SLACK_MM * frames.half_crops_per_mm * size / 2
    hidden = (face >= 0) & (front - drawn.screen[..., 2] > slack.unsqueeze(-1))
    return (drawn.normals[..., 2] > LEAST_FACING) & inside & ~hidden


def _plane_depth(screen: Tensor, faces: Tensor, face: Tensor) -> Float[Tensor, "b v"]:
    """Depth at each vertex of the plane of its face (b, v), within that face's corners."""
    batch = torch.arange(len(screen), device=screen.device).view(-1, 1, 1)
    points = screen[batch, faces.long()[face]]
    (u0, v0, w0), (u1, v1, w1), (u2, v2, w2) = (p.unbind(-1) for p in points.unbind(-2))
    area = (u1 - u0) * (v2 - v0) - (u2 - u0) * (v1 - v0)
    du, dv = screen[..., 0] - u0, screen[..., 1] - v0
    along1 = du * (v2 - v0) - dv * (u2 - u0)
    along2 = dv * (u1 - u0) - du * (v1 - v0)
    depth = w0 + (along1 * (w1 - w0) + along2 * (w2 - w0)) / torch.where(area == 0, 1.0, area)
    return torch.minimum(torch.maximum(depth, points[..., 2].amin(-1)), points[..., 2].amax(-1))


def _covered(seen: Tensor, faces: Tensor, face_ids: Tensor) -> Bool[Tensor, "b n n"]:
    """Pixels whose face has three seen corners."""
    whole = corners(seen.unsqueeze(-1), faces).squeeze(-1).all(-1)
    face = face_ids.flatten(1).long()
    return (whole.gather(1, face.clamp_min(0)) & (face >= 0)).view(face_ids.shape)


def _trust(
    source: PosedFrames, target: PosedFrames, place: Tensor, size: int
) -> Float[Tensor, "b n n"]:
    """Product of both frames' trust at each pixel."""
    trust = place.new_ones(place.shape[:-1])
    if target.trust is not None:
        trust = trust * resized(target.trust, size)[:, 0]
    if source.trust is not None:
        trust = trust * _sample(resized(source.trust, size), place)[:, 0]
    return trust


def _sample(image: Tensor, place: Float[Tensor, "b n n 2"]) -> Float[Tensor, "b c n n"]:
    """Bilinear samples at half-crops, which are grid_sample's own coordinates."""
    return functional.grid_sample(
        image.to(place), place, padding_mode="border", align_corners=False
    )
