"""Appearance methods by name, as the measures of textures call them: baselines and our own."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from lifemask.assets import UserError
from lifemask.evaluation._retexture_cases import Dresser
from lifemask.facemodel.base import FaceModel
from lifemask.faces.parsing import Regions
from lifemask.graphics.lighting import (
    ambient_light,
    lambert_transfer,
    rotate_sh,
    srgb_to_linear,
)
from lifemask.graphics.uv import UnwrapResult, sample_uv, unwrap
from lifemask.methods._retexture_finish import FinishConfig, on_texture
from lifemask.methods._texture_layout import TextureLayout, texture_layout
from lifemask.methods._texture_light import LUMINANCE, LightEstimate, estimate_light
from lifemask.methods._texture_regions import clear_share
from lifemask.methods.retexture import RetexturePredictConfig, load_retexturer
from lifemask.methods.texture import TextureConfig, texture_from_photo
from lifemask.types import Appearance, Geometry, Lighting

SIZE, PART_SIZE, GUTTER_PX = 1024, 64, 6
"""Side of the textures, fine enough for the chart; parts (eyes, teeth) are not judged."""


def create_dresser(name: str, model: FaceModel) -> Dresser:
    """The method of a name of `DRESSERS`.

    Raises:
        UserError: an unknown name.
    """
    if name not in DRESSERS:
        raise UserError(f"unknown method {name!r}; valid: {', '.join(DRESSERS)}")
    return DRESSERS[name](model)


def photo_as_albedo(model: FaceModel) -> Dresser:
    """The photo's colours as they are; hidden texels from the other side, else the mean colour."""

    def dress(image: Tensor, geometry: Geometry, regions: Regions | None) -> Appearance:
        layout = texture_layout(model, SIZE, PART_SIZE, GUTTER_PX)
        seen, weight = _seen(image, geometry, regions, layout)
        shown = weight > 0.5
        marked = torch.cat((seen.colors * shown[:, None], shown[:, None].float()), 1)
        other = sample_uv(layout.atlas.scatter(marked), layout.mirrored)
        mean = seen.colors[shown].mean(0) if bool(shown.any()) else seen.colors.new_full((3,), 0.2)
        colors = torch.where(
            other[:, 3:] > 0.5,
            other[:, :3] / other[:, 3:].clamp(min=1e-3),
            mean.expand(len(other), 3),
        )
        colors = torch.where(shown[:, None], seen.colors, colors)
        albedo = layout.atlas.scatter(colors)
        return Appearance(_without_gaps(albedo, mean), ambient_light(1.0))

    return dress


def prior_in_tone(model: FaceModel) -> Dresser:
    """The mean skin in the tone that the photo tells, with the light that goes with it."""

    def dress(image: Tensor, geometry: Geometry, regions: Regions | None) -> Appearance:
        layout = texture_layout(model, SIZE, PART_SIZE, GUTTER_PX)
        seen, weight = _seen(image, geometry, regions, layout)
        light = _light(image, seen, weight, layout, geometry)
        albedo = layout.atlas.scatter(layout.prior.log_albedo(light.tone).exp().clamp(0, 1))
        return Appearance(_without_gaps(albedo, light.tone.exp()), light.lighting)

    return dress


def first_texture(model: FaceModel) -> Dresser:
    """`methods.texture`: the photo with its light divided out, completed."""
    config = TextureConfig(size=SIZE, part_size=PART_SIZE, gutter_px=GUTTER_PX)

    def dress(image: Tensor, geometry: Geometry, regions: Regions | None) -> Appearance:
        return texture_from_photo(image, geometry, model, config, regions)

    return dress


def retexture(weights: Literal["open", "research"], model: FaceModel) -> Dresser:
    """`methods.retexture` with the shipped weights of a family."""
    finish = FinishConfig(size=SIZE, part_size=PART_SIZE, gutter_px=GUTTER_PX)
    return load_retexturer(weights, model, RetexturePredictConfig(finish))


def retexture_prior(weights: Literal["open", "research"], model: FaceModel) -> Dresser:
    """What the network of a family says before its refinement: prior albedo and one light."""
    network = load_retexturer(weights, model)

    def dress(image: Tensor, geometry: Geometry, regions: Regions | None) -> Appearance:
        _, said = network.explain(image, geometry, regions)
        layout = texture_layout(model, SIZE, PART_SIZE, GUTTER_PX)
        albedo = layout.atlas.scatter(on_texture(said.prior[0], network.chart, layout))
        mean = network.chart.gather(said.prior[0]).mean(0)
        return Appearance(_without_gaps(albedo, mean), Lighting(said.light[0]))

    return dress


DRESSERS: dict[str, Callable[[FaceModel], Dresser]] = {
    "photo": photo_as_albedo,
    "prior": prior_in_tone,
    "texture": first_texture,
    "retexture-open": partial(retexture, "open"),
    "retexture-research": partial(retexture, "research"),
    "prior-open": partial(retexture_prior, "open"),
    "prior-research": partial(retexture_prior, "research"),
}
"""By name; "photo" is the baseline that knows nothing of light, "prior" knows one skin."""


def _seen(
    image: Tensor, geometry: Geometry, regions: Regions | None, layout: TextureLayout
) -> tuple[UnwrapResult, Tensor]:
    """Linear colours of the photo on the texels, and how far each (t,) shows bare skin."""
    linear = srgb_to_linear(image)
    seen = unwrap(linear, geometry.vertices_mm.float(), geometry.camera, layout.atlas)
    weight = seen.visible.float()
    if regions is not None:
        weight = weight * clear_share(seen.points[:, :2], regions, layout.prior.scalp)
    return seen, weight


def _light(
    image: Tensor, seen: UnwrapResult, weight: Tensor, layout: TextureLayout, geometry: Geometry
) -> LightEstimate:
    """Light, camera frame, and tone from the bare skin, as the first texture finds them."""
    luminance = torch.einsum("chw,c->hw", srgb_to_linear(image), torch.tensor(LUMINANCE))
    camera = geometry.camera.rotation.float()
    transfer = lambert_transfer(seen.normals @ camera)
    found = estimate_light(
        seen.colors, transfer, layout.prior.mean, layout.prior.slope,
        seen.confidence * weight * layout.texel_core, layout.prior.tones,
        float(luminance.flatten().quantile(0.99)),
    )  # fmt: skip
    turned = Lighting(rotate_sh(found.lighting.sh, camera))
    return LightEstimate(turned, found.tone, found.residual, found.samples)


def _without_gaps(albedo: Tensor, color: Tensor) -> Tensor:
    """The texture with a colour where its layout has nothing."""
    return torch.where((albedo.sum(0) == 0)[None], color[:, None, None], albedo)
