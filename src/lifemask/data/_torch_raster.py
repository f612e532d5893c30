"""Rasterising many scenes at once on any torch device: the batch twin of `_synthetic_kernels`.

The scenes of a batch lie one behind the other: vertex and face ids run through, `face_image` says
whose a face is. Faces are spread to their (face, pixel) pairs, which are tested all at once; the
nearest pair of a pixel is found by an atomic maximum over keys (inverse distance, then lower face
id), so the result does not depend on the order of execution.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lifemask.data._synthetic_kernels import BEARD, HAIR

PAIRS_PER_CHUNK = 1 << 23
EDGE = -1e-6
_LOW = 0x7FFFFFFF


@dataclass(frozen=True)
class Pairs:
    """(face, pixel) pairs inside a face's bounding box whose pixel lies in the face.

    Attributes:
        face: (p,) face id; x: (p,) and y: (p,) pixel.
        weights: (p, 3) screen-space barycentrics.
    """

    face: Int[Tensor, "p"]
    x: Int[Tensor, "p"]
    y: Int[Tensor, "p"]
    weights: Float[Tensor, "p 3"]


def pairs_inside(
    screen: Float[Tensor, "v 3"],
    faces: Int[Tensor, "f 3"],
    chosen: Bool[Tensor, "f"],
    side: int,
    *,
    cull: Bool[Tensor, "f"] | None = None,
    edge: float = 0.0,
) -> Iterator[Pairs]:
    """Pairs of the chosen faces in a picture of `side` px, in chunks.

    Args:
        screen: (v, 3), u and v in px first.
        faces: (f, 3) vertex ids.
        chosen: (f,) faces to draw.
        side: of every picture, px.
        cull: (f,) faces that are not drawn from behind.
        edge: smallest barycentric that counts as inside.
    """
    corner = screen[faces][..., :2]
    p0, p1, p2 = corner.unbind(1)
    area = (p1[:, 0] - p0[:, 0]) * (p2[:, 1] - p0[:, 1]) - (p2[:, 0] - p0[:, 0]) * (
        p1[:, 1] - p0[:, 1]
    )
    low = corner.amin(1).ceil().clamp(min=0, max=side).long()
    high = corner.amax(1).floor().clamp(min=-1, max=side - 1).long()
    span = (high - low + 1).clamp(min=0)
    count = span.prod(1)
    drawn = chosen & (area != 0) & (count > 0)
    if cull is not None:
        drawn = drawn & ~(cull & (area > 0))
    ids = drawn.nonzero()[:, 0]
    last = count[ids].cumsum(0)
    total = int(last[-1]) if len(ids) else 0
    for start in range(0, total, PAIRS_PER_CHUNK):
        pair = torch.arange(start, min(start + PAIRS_PER_CHUNK, total), device=screen.device)
        row = torch.searchsorted(last, pair, right=True)
        face = ids[row]
        inside = pair - (last[row] - count[face])
        x = low[face, 0] + inside % span[face, 0]
        y = low[face, 1] + torch.div(inside, span[face, 0], rounding_mode="floor")
        a, b, c = p0[face], p1[face], p2[face]
        dx, dy = x - c[:, 0], y - c[:, 1]
        k = 1 / area[face]
        w0 = (dx * (b[:, 1] - c[:, 1]) + dy * (c[:, 0] - b[:, 0])) * k
        w1 = (dx * (c[:, 1] - a[:, 1]) + dy * (a[:, 0] - c[:, 0])) * k
        weights = torch.stack((w0, w1, 1 - w0 - w1), 1)
        keep = (weights >= edge).all(1)
        yield Pairs(face[keep], x[keep], y[keep], weights[keep])


def rasterize_batch(
    screen: Float[Tensor, "v 3"],
    faces: Int[Tensor, "f 3"],
    face_uv: Float[Tensor, "f 3 2"],
    material: Int[Tensor, "f"],
    face_image: Int[Tensor, "f"],
    cull: Bool[Tensor, "f"],
    materials: Float[Tensor, "b m k"],
    noise: Float[Tensor, "n"],
    side: int,
) -> tuple[Float[Tensor, "b s s"], Int[Tensor, "b s s"]]:
    """Inverse distance (b, s, s), 0 = empty, and nearest face (b, s, s), -1 = empty.

    The rule of `_synthetic_kernels.rasterize_scene`, alpha-tested hair included.
    """
    images = len(materials)
    keys = torch.full((images * side * side,), -1, dtype=torch.int64, device=screen.device)
    near = (screen[faces][..., 2] > 0).all(1)
    for pairs in pairs_inside(screen, faces, near, side, cull=cull, edge=EDGE):
        inverse = (screen[faces[pairs.face]][..., 2] * pairs.weights).sum(1)
        solid = (inverse > 0) & _solid(
            pairs, screen, faces, face_uv, material, face_image, materials, noise, inverse
        )
        pixel = (face_image[pairs.face] * side + pairs.y) * side + pairs.x
        bits = inverse.to(torch.float32).view(torch.int32).to(torch.int64)
        key = (bits << 32) | (_LOW - pairs.face)
        keys.scatter_reduce_(0, pixel[solid], key[solid], "amax")
    return unpack(keys.view(images, side, side))


def unpack(keys: Int[Tensor, "b s s"]) -> tuple[Float[Tensor, "b s s"], Int[Tensor, "b s s"]]:
    """Inverse distance and face id of the keys, as `rasterize_batch` returns them."""
    empty = keys < 0
    inverse = (keys >> 32).to(torch.int32).view(torch.float32)
    face = _LOW - (keys & 0xFFFFFFFF)
    return inverse.masked_fill(empty, 0.0), face.masked_fill(empty, -1)


def _solid(pairs, screen, faces, face_uv, material, face_image, materials, noise, inverse):
    """Which pairs are not a hole between strands of hair."""
    kind = material[pairs.face]
    solid = torch.ones_like(kind, dtype=torch.bool)
    hairy = ((kind == HAIR) | (kind == BEARD)).nonzero()[:, 0]
    if len(hairy):
        face = pairs.face[hairy]
        weights = pairs.weights[hairy] * screen[faces[face]][..., 2] / inverse[hairy, None]
        s, t = (weights[..., None] * face_uv[face]).sum(1).unbind(1)
        solid[hairy] = strand_alpha(s, t, materials[face_image[face], kind[hairy]], noise) > 0.5
    return solid


def strand_alpha(s: Tensor, t: Tensor, m: Float[Tensor, "p k"], noise: Tensor) -> Tensor:
    """Coverage of hair (p,) at strand coordinates; below 0.5 is a hole."""
    ragged = noise1(noise, s * m[:, 8] + m[:, 13]) - 0.5
    ragged = ragged + 0.6 * (noise1(noise, s * m[:, 8] * 3.1 + 7.7 + m[:, 13]) - 0.5)
    return 0.5 + (m[:, 6] - t + m[:, 7] * ragged) * 8


def noise1(table: Float[Tensor, "n"], x: Float[Tensor, "p"]) -> Float[Tensor, "p"]:
    """Linear value noise of a periodic table, in [0, 1]."""
    cell = x.floor()
    k = cell.long() % len(table)
    a, b = table[k], table[(k + 1) % len(table)]
    return a + (b - a) * (x - cell)


def depth_maps(
    screen: Float[Tensor, "v 3"],
    faces: Int[Tensor, "f 3"],
    face_image: Int[Tensor, "f"],
    chosen: Bool[Tensor, "f"],
    images: int,
    side: int,
) -> Float[Tensor, "b s s"]:
    """Nearest depth (larger = nearer) of the chosen faces, both sides; -1e30 = empty."""
    out = screen.new_full((images * side * side,), -1e30)
    for pairs in pairs_inside(screen, faces, chosen, side):
        depth = (screen[faces[pairs.face]][..., 2] * pairs.weights).sum(1)
        pixel = (face_image[pairs.face] * side + pairs.y) * side + pairs.x
        out.scatter_reduce_(0, pixel, depth, "amax")
    return out.view(images, side, side)


def cover_layer(
    screen: Float[Tensor, "v 3"],
    faces: Int[Tensor, "f 3"],
    face_image: Int[Tensor, "f"],
    depth: Float[Tensor, "b s s"],
    ss: int,
) -> Float[Tensor, "b h w"]:
    """Share of each pixel where a layer lies before the depth buffer; twin of `lens_layer`."""
    images, side, _ = depth.shape
    size = side // ss
    out = depth.new_zeros(images * size * size)
    chosen = torch.ones(len(faces), dtype=torch.bool, device=faces.device)
    for pairs in pairs_inside(screen, faces, chosen, side):
        inverse = (screen[faces[pairs.face]][..., 2] * pairs.weights).sum(1)
        image = face_image[pairs.face]
        front = (inverse > depth[image, pairs.y, pairs.x]) & (pairs.weights[:, 2] > 0)
        pixel = (image * size + pairs.y // ss) * size + pairs.x // ss
        out.index_add_(0, pixel[front], torch.full_like(inverse[front], 1 / ss**2))
    return out.view(images, size, size)


def finer(screen: Float[Tensor, "v 3"], ss: int) -> Float[Tensor, "v 3"]:
    """Screen points on the super-sampled grid."""
    return torch.cat(((screen[:, :2] + 0.5) * ss - 0.5, screen[:, 2:]), 1)
