"""Textures of eyes, teeth, tongue and of the inside of the mouth: painted, not photographed.

A photo shows too little of them, and what it shows has a gaze and highlights baked in.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from lifemask.facemodel.base import Topology
from lifemask.faces.parsing import GLASSES, Regions
from lifemask.graphics.lighting import shading
from lifemask.graphics.uv import UvAtlas, create_uv_atlas, fill_holes, unwrap
from lifemask.types import Geometry, Lighting

LIMBUS_DEG, PUPIL_DEG = 24.0, 8.5
"""Rim of the iris and of the pupil, as angles from the eye's axis (+z of the neutral head)."""
_EYE_BACK_DEG = 140.0
_BROWN_IRIS = (0.085, 0.040, 0.018)
_SCLERA, _SCLERA_BACK = (0.58, 0.52, 0.48), (0.42, 0.22, 0.18)
_ENAMEL, _ENAMEL_NECK, _GUM = (0.72, 0.66, 0.53), (0.55, 0.43, 0.28), (0.42, 0.13, 0.12)
_GUM_BELOW_V = 0.35
"""In the teeth's texture crowns lie above this v and gums below."""
_TONGUE, _TONGUE_MIDDLE = (0.46, 0.17, 0.16), (0.36, 0.12, 0.12)
_MOUTH_FRONT, _MOUTH_BACK, _SOCKET = (0.26, 0.07, 0.065), (0.045, 0.010, 0.009), (0.42, 0.19, 0.16)
_MIN_IRIS_SAMPLES, _MIN_EYE_PX = 40, 9.0


@dataclass(frozen=True)
class PartLayout:
    """What depends only on the model and the texture's size.

    Attributes:
        painted: (3, n, n) finished textures of the parts that no photo changes, by name.
        eyes: atlas of the eyeballs; None for a model without.
        mean_mm: (v, 3) the neutral mean head.
    """

    painted: Mapping[str, Float[Tensor, "3 n n"]]
    eyes: UvAtlas | None
    mean_mm: Float[Tensor, "v 3"]


def create_part_layout(topology: Topology, mean_mm: Float[Tensor, "v 3"], size: int) -> PartLayout:
    """Atlases and textures (size, size) of the parts other than the skin that have faces."""
    painted, eyes = {}, None
    for index, name in enumerate(topology.part_names):
        mask = topology.face_part == index
        if name == "skin" or not bool(mask.any()):
            continue
        if name == "eyes":
            mask = mask & ~_eye_backs(topology.faces, mask, mean_mm)
        atlas = create_uv_atlas(
            topology.uvs, topology.faces_uv, topology.faces, size, face_mask=mask, gutter_px=6
        )
        if name == "eyes":
            eyes = atlas
        elif name == "teeth":
            painted[name] = _texture(atlas, _teeth_colors(atlas))
        else:
            painted[name] = _texture(atlas, _tongue_colors(atlas, mean_mm))
    return PartLayout(painted, eyes, mean_mm)


def part_textures(
    linear: Float[Tensor, "3 h w"],
    geometry: Geometry,
    layout: PartLayout,
    lighting: Lighting,
    regions: Regions | None = None,
) -> dict[str, Float[Tensor, "3 n n"]]:
    """Linear albedo of each part other than the skin, by part name.

    Args:
        linear: the photo, linear RGB; the iris's colour is taken from it where it shows enough.
        geometry: posed head.
        layout: of the model.
        lighting: the photo's light, camera frame.
        regions: of the photo: an iris behind dark glass does not show its colour.
    """
    textures = dict(layout.painted)
    if layout.eyes is not None:
        iris = iris_color(linear, geometry, layout.eyes, lighting, layout.mean_mm, regions)
        textures["eyes"] = _texture(layout.eyes, eye_colors(layout.eyes, layout.mean_mm, iris))
    return textures


def _texture(atlas: UvAtlas, colors: Tensor) -> Tensor:
    """Texels as a texture whose empty places continue them."""
    covered = atlas.scatter(torch.ones(len(atlas), 1))[0]
    return fill_holes(atlas.scatter(colors), covered).clamp(0, 1)


def cavity_colors(
    atlas: UvAtlas,
    mean_mm: Float[Tensor, "v 3"],
    roles: Float[Tensor, "f 2"],
    ict68: Float[Tensor, "68 3"],
) -> Float[Tensor, "t 3"]:
    """Linear RGB of the skin's hidden charts: mouth, eye sockets; NaN where it is plain skin.

    Args:
        atlas: texels of those charts.
        mean_mm: (v, 3) the neutral mean head.
        roles: (f, 2) which faces are the mouth's and which the sockets'.
        ict68: (68, 3) landmarks of the mean head.
    """
    p = atlas.interpolate(mean_mm)
    mouth, socket = (roles[atlas.face_ids.long()] > 0).unbind(-1)
    depth = ((ict68[48:60, 2].mean() - p[:, 2]) / 55).clamp(0, 1).sqrt()[:, None]
    front, back = p.new_tensor(_MOUTH_FRONT), p.new_tensor(_MOUTH_BACK)
    colors = torch.full_like(p, float("nan"))
    colors = torch.where(socket[:, None], p.new_tensor(_SOCKET), colors)
    return torch.where(mouth[:, None], front + depth * (back - front), colors)


def eye_colors(
    atlas: UvAtlas, mean_mm: Float[Tensor, "v 3"], iris: Float[Tensor, "3"]
) -> Float[Tensor, "t 3"]:
    """Linear RGB of the eyeballs: pupil, fibrous iris, dark limbal ring, veined sclera."""
    angle, around, up = _eye_angles(atlas, mean_mm)
    sclera = _sclera(angle, around, up, atlas)
    edge = _smooth(angle, LIMBUS_DEG - 1.6, LIMBUS_DEG + 1.8)[:, None]
    colors = _iris(angle, around, iris) * (1 - edge) + sclera * edge
    pupil = (1 - _smooth(angle, PUPIL_DEG - 0.7, PUPIL_DEG + 0.7))[:, None]
    return colors * (1 - pupil) + colors.new_tensor([0.004, 0.004, 0.004]) * pupil


def _iris(angle: Tensor, around: Tensor, base: Tensor) -> Tensor:
    """Radial fibres, a lighter collarette around the pupil, a dark rim."""
    radius = ((angle - PUPIL_DEG) / (LIMBUS_DEG - PUPIL_DEG)).clamp(0, 1)
    generator = torch.Generator().manual_seed(7)
    fibres = torch.zeros_like(angle)
    for k in (9, 17, 29, 43, 61):
        phase, bend = torch.rand(2, generator=generator) * 2 * math.pi
        fibres = fibres + torch.sin(k * around + phase + 1.5 * torch.sin(2 * around + bend)) / 5
    collarette = torch.exp(-(((radius - 0.22) / 0.16) ** 2))
    rim = 1 - 0.72 * _smooth(radius, 0.72, 1.0)
    value = (1 + 0.42 * fibres * (0.4 + radius)) * (0.85 + 0.55 * collarette) * rim
    warm = 1 + collarette[:, None] * base.new_tensor([0.18, 0.06, -0.06])
    return base * value[:, None] * warm


def _sclera(angle: Tensor, around: Tensor, up: Tensor, atlas: UvAtlas) -> Tensor:
    """Warm white, redder towards the corners, faint veins, and the lids' shadow above."""
    white, back = angle.new_tensor(_SCLERA), angle.new_tensor(_SCLERA_BACK)
    color = white + _smooth(angle, 32, 62)[:, None] * (back - white)
    generator = torch.Generator().manual_seed(11)
    veins = torch.zeros_like(angle)
    for k in (5, 8, 13, 21):
        phase, bend = torch.rand(2, generator=generator) * 2 * math.pi
        wave = around * k + phase + 1.2 * torch.sin(angle * 0.11 * (1 + k / 20) + bend)
        veins = veins + torch.exp(-((torch.sin(wave / 2) / 0.05) ** 2))
    strength = 0.16 * _smooth(angle, 30, 60) * veins.clamp(max=1)
    color = color * (1 - strength[:, None] * angle.new_tensor([0.2, 0.9, 0.9]))
    shadow = 1 - 0.5 * _smooth(up, 8, 30) - 0.25 * _smooth(-up, 14, 34)
    return color * shadow[:, None]


def _eye_angles(atlas: UvAtlas, mean_mm: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Per texel: degrees from the eye's axis, direction around it, degrees above the horizon."""
    p = atlas.interpolate(mean_mm)
    direction = torch.zeros_like(p)
    ids = atlas.corners.unique()
    for side in (-1, 1):
        texels, vertices = p[:, 0] * side > 0, ids[mean_mm[ids, 0] * side > 0]
        if bool(texels.any()) and len(vertices) >= 4:
            center = _sphere_center(mean_mm[vertices])
            offset = (p[texels] - center) * p.new_tensor([side, 1.0, 1.0])
            direction[texels] = torch.nn.functional.normalize(offset, dim=-1)
    angle = torch.rad2deg(torch.arccos(direction[:, 2].clamp(-1, 1)))
    around = torch.atan2(direction[:, 1], direction[:, 0])
    return angle, around, torch.rad2deg(torch.arcsin(direction[:, 1].clamp(-1, 1)))


def _eye_backs(faces: Tensor, mask: Tensor, mean_mm: Tensor) -> Tensor:
    """Faces (f,) around the eyeballs' back poles, which their polar chart folds over its front."""
    centre = mean_mm[faces.long()].mean(1)
    back = torch.zeros_like(mask)
    for side in (-1, 1):
        own = mask & (centre[:, 0] * side > 0)
        if bool(own.any()):
            middle = _sphere_center(mean_mm[faces[own].unique().long()])
            offset = torch.nn.functional.normalize(centre - middle, dim=-1)
            back |= own & (offset[:, 2] < math.cos(math.radians(_EYE_BACK_DEG)))
    return back


def _sphere_center(points: Tensor) -> Tensor:
    """Least-squares center (3,) of a sphere through points (n, 3): |p|^2 = 2 c p + const."""
    middle = points.mean(0)
    local = (points - middle).double()
    system = torch.cat((2 * local, torch.ones(len(local), 1).double()), dim=1)
    solution = torch.linalg.lstsq(system, (local**2).sum(1, keepdim=True)).solution
    return solution[:3, 0].to(points) + middle


def iris_color(
    linear: Float[Tensor, "3 h w"],
    geometry: Geometry,
    atlas: UvAtlas,
    lighting: Lighting,
    mean_mm: Float[Tensor, "v 3"],
    regions: Regions | None = None,
) -> Float[Tensor, "3"]:
    """Linear albedo of the iris in the photo, drawn towards brown the less the photo shows.

    The gaze is not known: of the texels within 36 degrees of the axis, those clearly darker than
    the sclera are iris, except for the darkest (pupil, lashes).
    """
    brown = torch.tensor(_BROWN_IRIS)
    seen = unwrap(linear, geometry.vertices_mm.float(), geometry.camera, atlas)
    angle = _eye_angles(atlas, mean_mm)[0]
    near = seen.visible & (angle < 36)
    if regions is not None:
        near &= regions.sample(seen.points[:, :2], GLASSES, outside=0.0) < 0.5
    if int(near.sum()) < _MIN_IRIS_SAMPLES:
        return brown
    width_px = float(seen.points[near, 0].max() - seen.points[near, 0].min()) / 2
    level = shading(seen.normals[near], lighting.sh).mean(0).clamp(min=0.1)
    colors = seen.colors[near] / level
    light = colors.mean(-1)
    low, middle = light.quantile(0.12), (light.quantile(0.05) + light.quantile(0.9)) / 2
    chosen = colors[(light > low) & (light < middle)]
    if len(chosen) < _MIN_IRIS_SAMPLES // 2 or width_px < _MIN_EYE_PX:
        return brown
    color = chosen.median(0).values.clamp(0.006, 0.3) * 1.25
    share = min(1.0, (width_px - _MIN_EYE_PX) / 30) * 0.8
    return torch.exp(share * color.log() + (1 - share) * brown.log()).clamp(0.01, 0.25)


def _teeth_colors(atlas: UvAtlas) -> Tensor:
    """Enamel, yellower at the neck of the tooth and darker at the back; gums below."""
    u, v = (atlas.columns + 0.5) / atlas.size, 1 - (atlas.rows + 0.5) / atlas.size
    enamel, neck, gum = (u.new_tensor(c) for c in (_ENAMEL, _ENAMEL_NECK, _GUM))
    upper = v > 0.69
    height = torch.where(upper, (v - 0.7) / 0.2, (0.66 - v) / 0.2).clamp(0, 1)
    back = 1 - 0.75 * _smooth((u - 0.5).abs(), 0.12, 0.40)
    crown = enamel + (height**1.5)[:, None] * (neck - enamel)
    colors = torch.where((v > _GUM_BELOW_V)[:, None], crown, gum)
    return colors * back[:, None]


def _tongue_colors(atlas: UvAtlas, mean_mm: Tensor) -> Tensor:
    """Pink, with a darker furrow and a dark root."""
    p = atlas.interpolate(mean_mm)
    rim, middle = p.new_tensor(_TONGUE), p.new_tensor(_TONGUE_MIDDLE)
    furrow = torch.exp(-((p[:, 0] / 3) ** 2))[:, None]
    front = p[:, 2].max()
    root = 1 - 0.7 * _smooth(front - p[:, 2], 15, 55)
    return (rim + 0.7 * furrow * (middle - rim)) * root[:, None]


def _smooth(x: Tensor, low: float, high: float) -> Tensor:
    """0 below `low`, 1 above `high`, smooth between."""
    t = ((x - low) / (high - low)).clamp(0, 1)
    return t * t * (3 - 2 * t)
