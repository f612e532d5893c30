"""First appearance method: unwrap the photo, divide its light out, complete what it hides.

One photo and a geometry become a complete albedo texture and the photo's light. The steps are
those of `texture_from_photo`, top to bottom; a learned method can stand behind the same signature.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from lifemask.facemodel.base import FaceModel
from lifemask.faces.parsing import Regions
from lifemask.graphics.lighting import rotate_sh, srgb_to_linear, transferred
from lifemask.graphics.uv import UnwrapResult, unwrap
from lifemask.methods._texture_complete import (
    MAX_FIELD,
    Scalp,
    assemble,
    complete,
    hair_beside,
    hair_color,
    luminance,
    skin_likelihood,
    texel_transfer,
    trusted,
    without_hidden,
)
from lifemask.methods._texture_layout import TextureLayout, mean_head, texture_layout
from lifemask.methods._texture_light import LightEstimate, estimate_light
from lifemask.methods._texture_parts import part_textures
from lifemask.types import Appearance, Geometry, Lighting

LOGGER = logging.getLogger(__name__)

_MIN_SHADE = 0.22
"""Shadows darker than this share of the mean are lifted no further: they hold noise."""
_GLOSS_LOG = 0.2, 0.8
"""From and up to how far above a person's skin (log units) brightness becomes gloss."""


@dataclass(frozen=True)
class TextureConfig:
    """Settings of the first texture method.

    Attributes:
        size: side of the albedo texture in texels; 512 is fast, 2048 keeps pores.
        part_size: side of the textures of eyes, teeth and tongue.
        remove_light: divide the estimated light out; False keeps the photo's shading as albedo.
        remove_residual: share of what light of order 2 leaves (soft shadows) that is removed as
            well; its left-right difference is removed whole. 0 switches it off.
        mirror: fill hidden texels from the other side of the face before the prior.
        scalp: "auto" gives short hair in the photo's hair colour unless the photo shows skin
            there; "hair" and "skin" force it.
        gutter_px: texels around each chart that repeat its border.
    """

    size: int = 1024
    part_size: int = 512
    remove_light: bool = True
    remove_residual: float = 0.4
    mirror: bool = True
    scalp: Scalp = "auto"
    gutter_px: int = 6


def texture_from_photo(
    image: Float[Tensor, "3 h w"],
    geometry: Geometry,
    model: FaceModel,
    config: TextureConfig | None = None,
    regions: Regions | None = None,
) -> Appearance:
    """A complete, light-free texture of the head in a photo, and the photo's light.

    Args:
        image: (3, h, w) sRGB in [0, 1].
        geometry: posed head with the model's topology, camera to the image's pixels.
        model: names the topology, UVs and parts.
        config: settings; None for the defaults.
        regions: region maps in the image's pixels; what they say hides the skin (hair, hands,
            cloth) is left out. None: colours alone must tell.

    Returns:
        Linear albedo (3, size, size) without holes, the light (camera frame), the texels the
        photo shows, and the textures of the other parts.

    Raises:
        ValueError: the geometry does not have the model's vertices.
    """
    config = config or TextureConfig()
    if len(geometry.vertices_mm) != len(mean_head(model)):
        raise ValueError(
            f"the geometry has {len(geometry.vertices_mm)} vertices, {model.name} "
            f"{len(mean_head(model))}: a texture needs the model's topology"
        )
    layout = texture_layout(model, config.size, config.part_size, config.gutter_px)
    linear = srgb_to_linear(image.detach().float().cpu())
    seen = unwrap(linear, geometry.vertices_mm.float(), geometry.camera, layout.atlas)
    seen = without_hidden(seen, regions, layout)
    transfer = texel_transfer(geometry, layout)
    light = _estimate(linear, seen, transfer, layout)
    unlit = _remove_light(seen, transfer, light, config)
    skin = skin_likelihood(unlit, seen, layout)
    unlit = _remove_residual(unlit, seen, skin, light, layout, config)
    unlit = _remove_highlights(unlit, light, layout)
    beside = None if regions is None else hair_beside(linear, seen, regions, transfer, light)
    hair = hair_color(unlit, seen, skin, layout, config.scalp, beside, regions)
    trust = trusted(unlit, seen, skin, hair, layout)
    trust = trust * (1 - layout.lids.folded(geometry))
    albedo = complete(unlit, trust, skin, light, hair, layout, config.mirror)
    lighting = Lighting(rotate_sh(light.lighting.sh, geometry.camera.rotation.float()))
    parts = part_textures(linear, geometry, layout.parts, lighting, regions)
    return Appearance(
        albedo=assemble(albedo, light, layout),
        lighting=lighting,
        visible=layout.atlas.scatter(seen.visible[:, None].float(), gutter=False)[0] > 0,
        part_albedo=parts,
    )


def _estimate(
    linear: Tensor, seen: UnwrapResult, transfer: Tensor, layout: TextureLayout
) -> LightEstimate:
    """Light (model frame) and tone from the bare skin of the face."""
    prior = layout.prior
    step = max(1, max(linear.shape[1:]) // 400)
    white_point = float(luminance(linear[:, ::step, ::step].reshape(3, -1).T).quantile(0.99))
    return estimate_light(
        seen.colors,
        transfer,
        prior.mean,
        prior.slope,
        seen.confidence * layout.texel_core,
        prior.tones,
        white_point,
    )


def _remove_light(
    seen: UnwrapResult, transfer: Tensor, light: LightEstimate, config: TextureConfig
) -> Tensor:
    """Linear albedo (t, 3) where visible."""
    if not config.remove_light or not bool(seen.visible.any()):
        return seen.colors.clamp(0.002, 0.98)
    shade = transferred(transfer, light.lighting.sh)
    floor = _MIN_SHADE * shade[seen.visible].mean(0)
    return (seen.colors / torch.maximum(shade, floor)).clamp(0.002, 0.98)


def _remove_residual(
    unlit: Tensor,
    seen: UnwrapResult,
    skin: Tensor,
    light: LightEstimate,
    layout: TextureLayout,
    config: TextureConfig,
) -> Tensor:
    """Divide out soft shadows that light of order 2 misses: smooth, grey, mostly one-sided."""
    if config.remove_residual == 0 or not config.remove_light:
        return unlit
    expected = luminance(layout.prior.log_albedo(light.tone).exp()).clamp(min=2e-3)
    gap = (luminance(unlit).clamp(min=2e-3) / expected).log().clamp(-1.2, 1.2)
    weight = seen.confidence * skin * layout.texel_core
    values, weights = layout.smoother.gather(gap[:, None], weight)
    field = layout.smoother.solve(values, weights, stiffness=3.0, decay=0.02)
    known = (weights / 0.3).clamp(max=1)
    both = known * known[layout.mirror]
    odd = (field - field[layout.mirror]) / 2 * both[:, None]
    even = (field - odd) * config.remove_residual
    smooth = layout.atlas.interpolate((odd + even).clamp(-MAX_FIELD, MAX_FIELD))
    return (unlit * torch.exp(-smooth)).clamp(0.002, 0.98)


def _remove_highlights(unlit: Tensor, light: LightEstimate, layout: TextureLayout) -> Tensor:
    """Pull gloss and spots of sun on skin towards the skin's own colour."""
    expected = layout.prior.log_albedo(light.tone)
    excess = (luminance(unlit) / luminance(expected.exp())).log()
    t = ((excess - _GLOSS_LOG[0]) / (_GLOSS_LOG[1] - _GLOSS_LOG[0])).clamp(0, 1)
    share = 0.85 * t * t * (3 - 2 * t) * layout.texel_core
    return (unlit.log() + share[:, None] * (expected - unlit.log())).exp()
