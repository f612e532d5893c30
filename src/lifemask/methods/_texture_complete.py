"""How a texture is completed: what hides the skin, which texels to trust, hair, and the rest.

Shared by the methods that dress a head: they say what albedo the visible texels have, and this
makes a whole head of it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from lifemask.faces.parsing import Regions
from lifemask.graphics.lighting import lambert_transfer, transferred
from lifemask.graphics.mesh import vertex_normals
from lifemask.graphics.occlusion import radiance_transfer
from lifemask.graphics.uv import UnwrapResult, sample_uv
from lifemask.methods._texture_layout import TextureLayout
from lifemask.methods._texture_light import LUMINANCE, LightEstimate
from lifemask.methods._texture_regions import clear_share
from lifemask.types import Geometry

Scalp = Literal["auto", "hair", "skin"]
MAX_FIELD = 0.7
"""Largest correction (log units) a smooth field may apply."""
_SHADOW_SHARE, _SHADOW_DIRECTIONS = 0.7, 64
"""Share of self-shadowing that is divided out; the rest is filled by light from skin to skin."""
_CHROMA_SD, _LIGHT_SD = 0.10, 0.30
"""Floors of the spread of a person's own skin in log chroma and log luminance."""
_SURELY_HAIR = 0.8
"""Probability above which the regions' hair tells the hair's colour."""
_ENOUGH = 0.01
"""Least share of the texels, or of the region maps, that tells it."""
_BLACK = 0.02
"""Linear albedo below which hair is black, of whatever hue."""
DARKEST = 0.013
"""Least luminance of an albedo, 30 in sRGB: nothing rough is darker, black hair included, and what
engines' tools call a valid base colour starts there."""
_MIN_FACING = 0.3
"""Least cosine to the view at which a texel does."""


def without_hidden(
    seen: UnwrapResult, regions: Regions | None, layout: TextureLayout
) -> UnwrapResult:
    """Less confidence where the regions say that something else is in front of the skin."""
    if regions is None:
        return seen
    rows = seen.visible.nonzero().squeeze(-1)
    clear = clear_share(seen.points[rows, :2], regions, layout.prior.scalp[rows])
    confidence = seen.confidence.clone()
    confidence[rows] *= clear
    return replace(seen, confidence=confidence)


def luminance(rows: Tensor) -> Tensor:
    """Luminance (t,) of linear RGB (t, 3)."""
    return rows @ rows.new_tensor(LUMINANCE)


def texel_transfer(geometry: Geometry, layout: TextureLayout) -> Float[Tensor, "t 9"]:
    """How light of order 2 becomes shading at each texel, model frame."""
    vertices, faces = geometry.vertices_mm.float(), geometry.faces
    shadowed = radiance_transfer(vertices, faces, directions=_SHADOW_DIRECTIONS, size=128)
    free = lambert_transfer(vertex_normals(vertices, faces))
    return layout.atlas.interpolate(free + _SHADOW_SHARE * (shadowed - free))


def skin_likelihood(unlit: Tensor, seen: UnwrapResult, layout: TextureLayout) -> Tensor:
    """How much each visible texel (t,) looks like the skin of this face's middle, in [0, 1]."""
    features = _color_features(unlit)
    core = seen.visible & (layout.texel_core > 0.7) & (seen.confidence > 0.3)
    if int(core.sum()) < 50:
        return seen.visible.float()
    center = features[core].median(0).values
    spread = (features[core] - center).abs().median(0).values * 1.4826
    floor = features.new_tensor([_CHROMA_SD, _CHROMA_SD, _LIGHT_SD])
    distance = (((features - center) / spread.clamp(min=floor, max=1.5 * floor)) ** 2).sum(-1)
    return torch.exp(-0.5 * (distance - 3).clamp(min=0)) * seen.visible


def _color_features(linear: Tensor) -> Tensor:
    """Two log chromaticities and log luminance (t, 3)."""
    r, g, b = linear.clamp(min=2e-3).log().unbind(-1)
    return torch.stack((r - g, g - b, luminance(linear).clamp(min=2e-3).log()), dim=-1)


def hair_beside(
    linear: Tensor, seen: UnwrapResult, regions: Regions, transfer: Tensor, light: LightEstimate
) -> Tensor | None:
    """Linear albedo (3,) of the hair anywhere in the photo, in the mean light of what is seen."""
    height, width = linear.shape[1:]
    mask = regions.probability("hair") > _SURELY_HAIR
    size = mask.shape[-1]
    rows, columns = mask.nonzero(as_tuple=True)
    place = (torch.stack((columns, rows), -1) + 0.5) * (regions.side_px / size)
    corner = place.new_tensor(regions.center_px) - regions.side_px / 2
    u, v = (place + corner).round().long().unbind(-1)
    inside = (u >= 0) & (u < width) & (v >= 0) & (v < height)
    if int(inside.sum()) < _ENOUGH * size**2 or not bool(seen.visible.any()):
        return None
    shade = transferred(transfer[seen.visible], light.lighting.sh).mean(0).clamp(min=1e-3)
    return linear[:, v[inside], u[inside]].median(1).values / shade


def hair_color(
    unlit: Tensor,
    seen: UnwrapResult,
    skin: Tensor,
    layout: TextureLayout,
    scalp: Scalp,
    beside: Tensor | None = None,
    regions: Regions | None = None,
) -> Tensor | None:
    """Log linear RGB (3,) of the hair on the scalp; None for a bare scalp.

    The first of these that is large enough and has a colour of hair: the texels that the regions
    call hair, anywhere on the head (a fringe hangs over the forehead); what is no skin on the
    scalp; `beside`, the hair in the rest of the photo; brown.

    Args:
        unlit: (t, 3) linear albedo where visible.
        seen: the photo on the texels.
        skin: (t,) likelihood of skin.
        layout: the texture's.
        scalp: "hair" and "skin" force it, "auto" looks at the scalp.
        beside: (3,) linear albedo, from `hair_beside`.
        regions: of the photo; None: colours alone must tell.
    """
    if scalp == "skin":
        return None
    on_scalp = seen.visible & (layout.prior.scalp > 0.6) & (seen.confidence > 0.2)
    shown = int(on_scalp.sum()) >= 0.002 * len(layout.atlas)
    if scalp == "auto" and shown and float(skin[on_scalp].median()) > 0.5:
        return None
    no_skin = on_scalp & (skin < 0.3) & shown
    colors = (
        None if regions is None else _median(unlit, _told_hair(seen, regions), _ENOUGH * len(skin)),
        _median(unlit, no_skin, 30),
        beside,
    )
    found = (_as_hair(color) for color in colors if color is not None)
    brown = torch.tensor([0.030, 0.020, 0.014]).log().to(layout.prior.tones)
    return next((color for color in found if color is not None), brown)


def _told_hair(seen: UnwrapResult, regions: Regions) -> Tensor:
    """The texels (t,), turned well to the camera, that the regions call hair."""
    hair = regions.sample(seen.points[:, :2], "hair", outside=0.0)
    return seen.visible & (seen.normals[:, 2] > _MIN_FACING) & (hair > _SURELY_HAIR)


def _median(colors: Tensor, where: Tensor, enough: float) -> Tensor | None:
    """Median (3,) of the colours (t, 3) where (t,) it is set; None where it is set too seldom."""
    return colors[where].median(0).values if int(where.sum()) >= enough else None


def _as_hair(color: Tensor) -> Tensor | None:
    """Log RGB (3,) if this is a colour of hair, black to blond or grey; a hat's colour is None."""
    color = color.clamp(min=0.008)
    r, g, b = color * (0.3 / color.max()).clamp(max=1)
    warm = bool(r >= g) and bool(b < 0.92 * g) and bool(r < 2.6 * g)
    grey = bool((torch.stack((r, b)) / g - 1).abs().max() < 0.22)
    black = bool(color.max() < _BLACK)  # whatever hue the light left in it
    return torch.stack((r, g, b)).log() if warm or grey or black else None


def trusted(
    unlit: Tensor, seen: UnwrapResult, skin: Tensor, hair: Tensor | None, layout: TextureLayout
) -> Tensor:
    """Weight (t,) in [0, 1] of the photo's own texels, smooth, without hair and background."""
    belongs = torch.maximum(layout.texel_interior * _plausible(unlit, skin), skin**2)
    if hair is not None:
        features = _color_features(unlit)
        gap = (features - _color_features(hair.exp()[None])) / features.new_tensor([0.2, 0.2, 0.5])
        like_hair = torch.exp(-0.5 * ((gap**2).sum(-1) - 2).clamp(min=0))
        belongs = torch.maximum(belongs, like_hair * layout.prior.scalp)
    raw = seen.confidence * belongs
    return _soften(raw, layout)


def _plausible(unlit: Tensor, skin: Tensor) -> Tensor:
    """0 for colours (t, 3) no face has, however it is lit: a microphone, a bright blue light."""
    features = _color_features(unlit)
    sure = skin > 0.5
    if int(sure.sum()) < 50:
        return torch.ones_like(skin)
    gap = (features - features[sure].median(0).values)[:, :2].norm(dim=-1)
    gap = gap * luminance(unlit) / (luminance(unlit) + 0.02)
    return torch.exp(-0.5 * ((gap - 0.75).clamp(min=0) / 0.2) ** 2)


def _soften(weight: Tensor, layout: TextureLayout) -> Tensor:
    """Shrink the trusted area by a few texels and feather it inwards."""
    rows, columns = layout.box
    reach = max(3, layout.atlas.size // 100) | 1
    image = layout.atlas.scatter(weight[:, None])[:, rows, columns][None]
    low = -functional.max_pool2d(-image, reach, 1, reach // 2)
    for _ in range(2):
        low = functional.avg_pool2d(low, reach, 1, reach // 2, count_include_pad=False)
    full = image.new_zeros(1, layout.atlas.size, layout.atlas.size)
    full[:, rows, columns] = torch.minimum(low, image)[0]
    soft = layout.atlas.gather(full)[:, 0]
    return (soft * soft * (3 - 2 * soft)).clamp(0, 1)


def complete(
    unlit: Tensor,
    trust: Tensor,
    skin: Tensor,
    light: LightEstimate,
    hair: Tensor | None,
    layout: TextureLayout,
    mirror: bool = True,
) -> Tensor:
    """Albedo (t, 3) of all texels: the photo where trusted, else its mirror image, else the prior.

    Sources are matched to the photo by smooth log-ratio fields on the mesh (a membrane, Perez et
    al. 2003) and feathered, so no edge shows, not even across UV seams.
    """
    bare = layout.prior.log_albedo(light.tone)
    own = unlit.clamp(min=2e-3).log()
    skin_trust = trust * skin * layout.texel_core
    mirrored, mirror_trust = own, torch.zeros_like(trust)
    if mirror:
        mirrored, mirror_trust = mirror_image(own, trust, layout)
        mirrored = mirrored + _membrane(own - mirrored, trust * mirror_trust, layout, 0.3)
        mirror_trust = mirror_trust * (1 - trust)
    bare = bare + _membrane(own - bare, skin_trust, layout, 1.0)
    noise = layout.grain * grain_level(own, trust * skin * layout.texel_core, layout)
    source = bare + noise[:, None]
    if hair is not None:
        strand = hair + layout.grain[:, None] * 0.10
        source = source + layout.prior.scalp[:, None] * 0.9 * (strand - source)
    source = source + mirror_trust[:, None] * (mirrored - source)
    return (source + trust[:, None] * (own - source)).exp().clamp(0.0, 1.0)


def mirror_image(values: Tensor, trust: Tensor, layout: TextureLayout) -> tuple[Tensor, Tensor]:
    """Values and trust of each texel's mirror image."""
    stacked = torch.cat((values * trust[:, None], trust[:, None]), dim=-1)
    sampled = sample_uv(layout.atlas.scatter(stacked), layout.mirrored)
    return sampled[:, :3] / sampled[:, 3:].clamp(min=1e-3), sampled[:, 3]


def _membrane(gap: Tensor, weight: Tensor, layout: TextureLayout, stiffness: float) -> Tensor:
    """Smooth continuation (t, c) over the mesh of a gap known where it has weight."""
    values, weights = layout.smoother.gather(gap.clamp(-1, 1), weight)
    field = layout.smoother.solve(values, weights, stiffness=stiffness)
    return layout.atlas.interpolate(field.clamp(-MAX_FIELD, MAX_FIELD))


def grain_level(own: Tensor, weight: Tensor, layout: TextureLayout) -> float:
    """Standard deviation of the photo's finest texture on skin, for skin it does not show."""
    rows, columns = layout.box
    light = layout.atlas.scatter(luminance(own)[:, None])[None, :, rows, columns]
    solid = layout.atlas.scatter((weight > 0.5).float()[:, None])[None, :, rows, columns]
    fine = (light - functional.avg_pool2d(light, 3, 1, 1))[solid > 0]
    if len(fine) < 100:
        return 0.01
    return min(0.06, float(fine.abs().median()) * 1.4826 * 1.2)


def physical(albedo: Float[Tensor, "t 3"]) -> Float[Tensor, "t 3"]:
    """Linear albedo that some surface can have: grey is added to what is darker than `DARKEST`."""
    return (albedo + (DARKEST - luminance(albedo)[:, None]).clamp(min=0)).clamp(max=1)


def assemble(albedo: Tensor, light: LightEstimate, layout: TextureLayout) -> Tensor:
    """The whole texture: charts, gutters, and skin colour in between for mipmaps."""
    texture = layout.atlas.scatter(physical(albedo))
    if layout.cavity is not None:
        tone = light.tone.exp()
        colors = layout.cavity_rgb
        colors = torch.where(colors.isnan(), tone.expand_as(colors), colors)
        texture = texture + layout.cavity.scatter(colors)
    empty = texture.sum(0) == 0
    texture[:, empty] = light.tone.exp()[:, None]
    return texture.clamp(0, 1)
