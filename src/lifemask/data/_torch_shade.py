"""Colour and light of samples on any torch device: the batch twin of `_synthetic_shade`."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor
from torch.nn.functional import normalize

from lifemask.data import _synthetic_kernels as kernels
from lifemask.data._synthetic_shade import MIN_ALBEDO
from lifemask.data._torch_raster import finer, noise1

WRAP = (0.18, 0.07, 0.03)
"""How far the key light wraps around skin, per channel."""


@dataclass(frozen=True)
class Surfaces:
    """All triangles of a batch and what colours them; b images, v vertices, f faces.

    Attributes:
        screen: (v, 3) u, v in px of the image and inverse distance.
        points: (v, 3) mm, camera axes, eye at the origin; normals: (v, 3) unit.
        occlusion: (v,); lit: (v,) share of the key light that arrives.
        faces: (f, 3) vertex ids that run through the batch; face_image: (f,).
        face_uv: (f, 3, 2); material: (f,); cull: (f,); casts: (f,).
        materials: (b, m, 16); noise: (n,).
        textures: (b, th, tw, 3) uint8; lut: (b, 256, 3); mix: (b, 3, 3).
        sh: (b, 9, 3) times A_l / pi; key_direction: (b, 3); key_colour: (b, 3); down: (b, 3).
        background: (b, s, s, 3) radiance; card: (b, s, s, 3) albedo.
    """

    screen: Float[Tensor, "v 3"]
    points: Float[Tensor, "v 3"]
    normals: Float[Tensor, "v 3"]
    occlusion: Float[Tensor, "v"]
    lit: Float[Tensor, "v"]
    faces: Int[Tensor, "f 3"]
    face_image: Int[Tensor, "f"]
    face_uv: Float[Tensor, "f 3 2"]
    material: Int[Tensor, "f"]
    cull: Bool[Tensor, "f"]
    casts: Bool[Tensor, "f"]
    materials: Float[Tensor, "b m k"]
    noise: Float[Tensor, "n"]
    textures: UInt8[Tensor, "b th tw 3"]
    lut: Float[Tensor, "b 256 3"]
    mix: Float[Tensor, "b 3 3"]
    sh: Float[Tensor, "b 9 3"]
    key_direction: Float[Tensor, "b 3"]
    key_colour: Float[Tensor, "b 3"]
    down: Float[Tensor, "b 3"]
    background: Float[Tensor, "b s s 3"]
    card: Float[Tensor, "b s s 3"]


@dataclass(frozen=True)
class Hits:
    """What the covered samples of a raster show, p of them.

    Attributes:
        image: (p,); y: (p,) and x: (p,) sample position.
        face: (p,); weights: (p, 3) its perspective-correct barycentrics; material: (p,).
        uv: (p, 2) material coordinates.
        normals: (p, 3) unit, towards the viewer on two-sided props; view: (p, 3) unit, to the eye.
        facing: (p,) cosine between the two.
        occlusion: (p,); lit: (p,).
    """

    image: Int[Tensor, "p"]
    y: Int[Tensor, "p"]
    x: Int[Tensor, "p"]
    face: Int[Tensor, "p"]
    weights: Float[Tensor, "p 3"]
    material: Int[Tensor, "p"]
    uv: Float[Tensor, "p 2"]
    normals: Float[Tensor, "p 3"]
    view: Float[Tensor, "p 3"]
    facing: Float[Tensor, "p"]
    occlusion: Float[Tensor, "p"]
    lit: Float[Tensor, "p"]


def hits(
    scene: Surfaces,
    inverse: Float[Tensor, "b s s"],
    ids: Int[Tensor, "b s s"],
    ss: int,
) -> Hits:
    """The surface at every covered sample of a raster with `ss` samples per px and axis."""
    image, y, x = (ids >= 0).nonzero(as_tuple=True)
    face = ids[image, y, x]
    corner = scene.faces[face]
    weights = _perspective_weights(finer(scene.screen, ss)[corner], x, y, inverse[image, y, x])

    def mixed(values: Tensor) -> Tensor:
        return (weights[..., None] * values).sum(1)

    normals = normalize(mixed(scene.normals[corner]), dim=1)
    view = normalize(-mixed(scene.points[corner]), dim=1)
    facing = (normals * view).sum(1)
    material = scene.material[face]
    flip = torch.where((material >= kernels.HAIR) & (facing < 0), -1.0, 1.0)
    return Hits(
        image, y, x, face, weights, material, mixed(scene.face_uv[face]),
        normals * flip[:, None], view, facing * flip,
        (weights * scene.occlusion[corner]).sum(1), (weights * scene.lit[corner]).sum(1),
    )  # fmt: skip


def _perspective_weights(corner: Tensor, x: Tensor, y: Tensor, inverse: Tensor) -> Tensor:
    """Perspective-correct barycentrics (p, 3) of samples in triangles (p, 3, 3)."""
    (ax, ay, az), (bx, by, bz), (cx, cy, cz) = (c.unbind(1) for c in corner.unbind(1))
    k = 1 / ((bx - ax) * (cy - ay) - (cx - ax) * (by - ay))
    dx, dy = x - cx, y - cy
    w0 = (dx * (by - cy) + dy * (cx - bx)) * k
    w1 = (dx * (cy - ay) + dy * (ax - cx)) * k
    return torch.stack((w0 * az, w1 * bz, (1 - w0 - w1) * cz), 1) / inverse[:, None]


def albedo(scene: Surfaces, hit: Hits, ss: int) -> Float[Tensor, "p 3"]:
    """Linear albedo of the samples, without the shine of hair."""
    m = scene.materials[hit.image, hit.material]
    s, t = hit.uv.unbind(1)
    out = m[:, :3].clone()

    def paint(mask: Tensor, colour) -> None:
        rows = mask.nonzero()[:, 0]
        if len(rows):
            out[rows] = colour(rows)

    kind = hit.material
    paint(kind == kernels.SKIN, lambda r: _skin(scene, hit.image[r], s[r], t[r]))
    paint(kind == kernels.EYE, lambda r: _eye(m[r], scene.noise, s[r], t[r]))
    strands = (kind == kernels.HAIR) | (kind == kernels.BEARD)
    paint(strands, lambda r: _strand_colour(m[r], scene.noise, s[r], t[r]))
    woven = (kind == kernels.CLOTH) | (kind == kernels.HAT) | (kind == kernels.OBJECT)
    paint(woven, lambda r: _pattern(m[r], scene.noise, s[r], t[r]))
    paint(kind == kernels.CARD, lambda r: scene.card[hit.image[r], hit.y[r] // ss, hit.x[r] // ss])
    return out


def _skin(scene: Surfaces, image: Tensor, s: Tensor, t: Tensor) -> Tensor:
    height, width = scene.textures.shape[1:3]
    tx, ty = s.clamp(0, width - 1.001), t.clamp(0, height - 1.001)
    ix, iy = tx.long(), ty.long()
    fx, fy = (tx - ix)[:, None], (ty - iy)[:, None]
    channel = torch.arange(3, device=s.device)

    def texel(dy: int, dx: int) -> Tensor:
        value = scene.textures[image, iy + dy, ix + dx].long()
        return scene.lut[image[:, None], value, channel]

    top = texel(0, 0) * (1 - fx) + texel(0, 1) * fx
    low = texel(1, 0) * (1 - fx) + texel(1, 1) * fx
    linear = top * (1 - fy) + low * fy
    return (scene.mix[image] @ linear[..., None])[..., 0].clamp(min=MIN_ALBEDO)


def bilinear(
    planes: Float[Tensor, "b h w"], image: Int[Tensor, "p"], uv: Float[Tensor, "p 2"]
) -> Float[Tensor, "p"]:
    """Planes between their texels' centres, held at the borders."""
    x, y = (uv[:, k].clamp(0, planes.shape[2 - k] - 1.001) for k in (0, 1))
    ix, iy = x.long(), y.long()
    fx, fy = x - ix, y - iy
    above = planes[image, iy, ix] * (1 - fx) + planes[image, iy, ix + 1] * fx
    below = planes[image, iy + 1, ix] * (1 - fx) + planes[image, iy + 1, ix + 1] * fx
    return above * (1 - fy) + below * fy


def _eye(m: Tensor, noise: Tensor, s: Tensor, t: Tensor) -> Tensor:
    radius = torch.hypot(s, t)
    ray = noise1(noise, (torch.atan2(t, s) + 3.1416) * 12 + m[:, 13])
    edge = 1 - 0.75 * (radius / m[:, 6] - 0.75).clamp(min=0) * 4
    iris = m[:, :3] * ((0.6 + 0.8 * ray) * edge.clamp(min=0.15))[:, None]
    red = ((radius - m[:, 6]) * 1.2).clamp(0, 1) * m[:, 9]
    white = torch.stack((m[:, 3], m[:, 4] * (1 - 0.4 * red), m[:, 5] * (1 - 0.4 * red)), 1)
    pupil = m.new_tensor([0.008, 0.008, 0.01])
    inner = torch.where((radius < m[:, 6] * m[:, 8])[:, None], pupil, iris)
    return torch.where((radius < m[:, 6])[:, None], inner, white)


def _strands(m: Tensor, noise: Tensor, s: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    fine = noise1(noise, s * m[:, 8] * 4 + m[:, 14] * t + m[:, 13])
    return fine, noise1(noise, s * m[:, 8] * 0.9 + 3 * m[:, 14] * t + 11 + m[:, 13])


def _strand_colour(m: Tensor, noise: Tensor, s: Tensor, t: Tensor) -> Tensor:
    fine, mid = _strands(m, noise, s, t)
    return (m[:, :3] * (1 + m[:, 9] * (fine + mid - 1))[:, None]).clamp(min=0.002)


def _pattern(m: Tensor, noise: Tensor, s: Tensor, t: Tensor) -> Tensor:
    patch = noise1(noise, s * m[:, 8] + m[:, 13]) * noise1(noise, t * m[:, 8] * 1.7 + 5)
    patch = ((patch - 0.2) * 4).clamp(0, 1)
    wave = torch.where(m[:, 14] > 0.5, t, s) * m[:, 8] + m[:, 13]
    stripe = (wave - wave.floor() < m[:, 15]).to(m)
    grain = m[:, 9] * noise1(noise, (s + 0.37 * t) * 170 + m[:, 13])
    share = torch.where(m[:, 12] > 1.5, patch, torch.where(m[:, 12] > 0.5, stripe, grain))
    return m[:, :3] + (m[:, 3:6] - m[:, :3]) * share[:, None]


def radiance(scene: Surfaces, hit: Hits, colour: Float[Tensor, "p 3"]) -> Float[Tensor, "p 3"]:
    """Linear radiance of samples with an albedo: environment, key light, gloss."""
    m = scene.materials[hit.image, hit.material]
    light, key = scene.key_direction[hit.image], scene.key_colour[hit.image]
    half = normalize(light + hit.view, dim=1)
    gloss = m[:, 10].clone()
    hair = (hit.material == kernels.HAIR).nonzero()[:, 0]
    if len(hair):
        shine = _hair_shine(scene, hit, m, half, hair)
        colour = colour.index_add(0, hair, m[hair, :3] * shine[:, None])
        gloss[hair] = 0
    cosine = (hit.normals * light).sum(1)
    direct = cosine.clamp(min=0)[:, None].expand(-1, 3)
    skin = (hit.material == kernels.SKIN) | (hit.material == kernels.SKIN_PLAIN)
    wrap = colour.new_tensor(WRAP)
    soft = ((cosine[:, None] + wrap) / (1 + wrap)).clamp(min=0)
    direct = torch.where((skin | (hit.material == kernels.HAND))[:, None], soft, direct)
    sky = _irradiance(scene.sh[hit.image], hit.normals) * hit.occlusion[:, None]
    arriving = sky + direct * hit.lit[:, None] * key
    dot = (hit.normals * half).sum(1)
    lobe = gloss * torch.exp((dot - 1) * m[:, 11]) * cosine * hit.lit
    lobe = torch.where((dot > 0.3) & (cosine > 0), lobe, torch.zeros_like(lobe))
    rim = (1 - hit.facing.clamp(min=0)) ** 3 * gloss * 0.3 * hit.occlusion
    return colour * arriving + lobe[:, None] * key + rim[:, None] * arriving


def _irradiance(sh: Float[Tensor, "p 9 3"], n: Float[Tensor, "p 3"]) -> Float[Tensor, "p 3"]:
    x, y, z = n.unbind(1)
    basis = torch.stack(
        (
            torch.full_like(x, 0.282095), 0.488603 * y, 0.488603 * z, 0.488603 * x,
            1.092548 * x * y, 1.092548 * y * z, 0.315392 * (3 * z * z - 1), 1.092548 * x * z,
            0.546274 * (x * x - y * y),
        ), 1,
    )  # fmt: skip
    return (basis[:, None] @ sh)[:, 0].clamp(min=0)


def _hair_shine(scene: Surfaces, hit: Hits, m: Tensor, half: Tensor, rows: Tensor) -> Tensor:
    """Highlight (r,) across strands that flow down the head (Kajiya and Kay 1989)."""
    s, t = hit.uv[rows].unbind(1)
    fine, mid = _strands(m[rows], scene.noise, s, t)
    down, normal = scene.down[hit.image[rows]], hit.normals[rows]
    strand = normalize(down - (down * normal).sum(1, keepdim=True) * normal, dim=1)
    along = (strand * half[rows]).sum(1) + 0.25 * (mid - 0.5)
    return m[rows, 10] * (1 - along * along).clamp(min=0) ** 16 * fine


def smooth_blocks(
    ids: Int[Tensor, "b s s"], inverse: Float[Tensor, "b s s"], material: Int[Tensor, "f"]
) -> Bool[Tensor, "b h w"]:
    """2 x 2 blocks of samples on one surface, whose colour two diagonal samples give."""
    kind = torch.where(ids >= 0, material[ids.clamp(min=0)], -1)
    blocks = kind.unfold(1, 2, 2).unfold(2, 2, 2).flatten(3)
    depth = inverse.unfold(1, 2, 2).unfold(2, 2, 2).flatten(3)
    low, high = depth.amin(3), depth.amax(3)
    first = blocks[..., 0]
    same = (blocks == blocks[..., :1]).all(3)
    plain = (first != kernels.HAIR) & (first != kernels.FRAME)
    return same & ((first < 0) | (plain & (high - low < 6 * low * low)))


def shade_batch(
    scene: Surfaces, inverse: Float[Tensor, "b s s"], ids: Int[Tensor, "b s s"], ss: int
) -> Float[Tensor, "b h w 3"]:
    """Linear radiance of every pixel, the twin of `_synthetic_shade.shade_scene`."""
    hit = hits(scene, inverse, ids, ss)
    fine = scene.background.repeat_interleave(ss, 1).repeat_interleave(ss, 2)
    fine[hit.image, hit.y, hit.x] = radiance(scene, hit, albedo(scene, hit, ss))
    size = ids.shape[1] // ss
    blocks = fine.view(len(ids), size, ss, size, ss, 3).movedim(3, 2).flatten(3, 4)
    mean = blocks.mean(3)
    if ss != 2:
        return mean
    diagonal = (blocks[..., 0, :] + blocks[..., 3, :]) / 2
    return torch.where(smooth_blocks(ids, inverse, scene.material)[..., None], diagonal, mean)
