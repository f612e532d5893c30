"""From albedo on the face's map to the whole head's texture, with the photo's own fine detail."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from lifemask.faces.parsing import Regions
from lifemask.graphics.lighting import lambert_transfer, rotate_sh, transferred
from lifemask.graphics.uv import UnwrapResult, sample_uv
from lifemask.methods._retexture_chart import TextureChart
from lifemask.methods._retexture_light import detail_shading, texel_transfer, unlit
from lifemask.methods._retexture_net import smooth_step, softened, well_lit
from lifemask.methods._retexture_types import RetextureInput, RetextureOutput
from lifemask.methods._texture_complete import (
    Scalp,
    assemble,
    complete,
    grain_level,
    hair_beside,
    hair_color,
    luminance,
    mirror_image,
    skin_likelihood,
    trusted,
)
from lifemask.methods._texture_complete import texel_transfer as shadowed_transfer
from lifemask.methods._texture_layout import TextureLayout
from lifemask.methods._texture_light import LightEstimate
from lifemask.methods._texture_parts import part_textures
from lifemask.types import Appearance, Geometry, Lighting

_MIN_SHADE = 0.15
"""Share of the mean shading below which nothing is divided out: there is only noise."""
_MAX_DETAIL = 0.35
"""Largest change (log units) by detail that the map is too coarse for."""
_BAND = 2 / 128
"""Standard deviation (share of the map's side) of the blur below which albedo is low band."""
_MIRROR = 0.35
"""Share of the low band that a hidden texel takes from its visible mirror image."""
_LIFT = 1.25
"""Strength of the fine band of hidden texels: sampling the map for the texture softens it, and so
does mixing what the network says with the mirror image. With it development heads have as much fine
detail on hidden skin, over that on visible skin, as their truth has."""
_TINT = 0.3, 0.5
"""From where on the low band's chroma (log ratios of channels) is held back in how far it differs
from the prior's beyond the face's usual difference, and the most it may: of true skins half a
percent is beyond the first, and a coloured lamp's clipped highlight reached 1.8."""
_RIM = 0.02, 0.10
"""From and up to which distance to the map's rim (shares of its side) the map counts."""


@dataclass(frozen=True)
class FinishConfig:
    """How the texture is made of what the network says.

    Attributes:
        size: side of the albedo texture in texels.
        part_size: side of the textures of eyes, teeth and tongue.
        detail: share of the photo's detail finer than the map that is kept.
        scalp: "auto" gives short hair in the photo's hair colour unless the photo shows skin
            there; "hair" and "skin" force it.
        gutter_px: texels around each chart that repeat its border.
    """

    size: int = 1024
    part_size: int = 512
    detail: float = 1.0
    scalp: Scalp = "auto"
    gutter_px: int = 6


def dressed(
    linear: Float[Tensor, "3 h w"],
    geometry: Geometry,
    seen: RetextureInput,
    said: RetextureOutput,
    texels: UnwrapResult,
    chart: TextureChart,
    layout: TextureLayout,
    config: FinishConfig,
    regions: Regions | None,
) -> Appearance:
    """The whole head's texture.

    Args:
        linear: the photo, linear RGB.
        geometry: posed head.
        seen: what the network saw, a batch of one.
        said: what it says.
        texels: the photo on the texture's t texels; what hides the skin is without confidence.
        chart: the map.
        layout: the texture's.
        config: settings.
        regions: region maps in the image's px, or None.
    """
    place = _MapPlace.create(chart, layout)
    lighting = Lighting(said.light[0])
    fine_shade = detail_shading(texel_transfer(seen.normals), said.detail)
    shown = (softened(seen.visible) * well_lit(seen.texture, fine_shade, seen.visible))[0, 0]
    skin_tinted = like_skin(said.albedo[0], said.prior[0], chart)
    albedo = place.sample(_inside(with_hidden(skin_tinted, shown, chart), chart))
    shade, flat_shade = _shadings(place, said, texels, geometry, layout)
    own = _divided(texels.colors, shade)
    beyond = _divided(texels.colors, flat_shade)
    detail, share = _detail(own, seen, fine_shade, shown, texels, chart, place)
    other, other_share = mirror_image(detail[:, None].expand(-1, 3), share, layout)
    level = grain_level(own.clamp(min=2e-3).log(), share * layout.texel_core, layout)
    filled = other_share * other[:, 0] + (1 - other_share) * layout.grain * level
    fine = config.detail * (share * detail + (1 - share) * filled)
    on_map = albedo * fine[:, None].exp()
    light = LightEstimate(
        Lighting(rotate_sh(lighting.sh, geometry.camera.rotation.float().mT)),
        _tone(albedo, place.weight, layout), float("nan"), 0,
    )  # fmt: skip
    weight = place.weight
    skin = skin_likelihood(beyond + weight[:, None] * (on_map - beyond), texels, layout)
    beside = None
    if regions is not None:
        transfer = lambert_transfer(texels.normals)
        in_camera = LightEstimate(lighting, light.tone, float("nan"), 0)
        beside = hair_beside(linear, texels, regions, transfer, in_camera)
    hair = hair_color(beyond, texels, skin, layout, config.scalp, beside, regions)
    around = (1 - weight) * trusted(beyond, texels, skin, hair, layout)
    bald = 1 - layout.prior.scalp * (hair is not None)
    trust = (weight * torch.maximum(bald, share) + around).clamp(max=1)
    trust = trust * (1 - layout.lids.folded(geometry))
    # in the map's rim the photo counts as far as it shows skin: hair beside a cheek would darken it
    both = (weight + around).clamp(min=1e-4)
    whole = ((weight / both)[:, None] * on_map + (around / both)[:, None] * beyond).clamp(max=0.98)
    skin = torch.where(texels.visible, skin, weight)  # what hides is completed from the map's skin
    finished = complete(whole, trust, skin, light, hair, layout)
    return Appearance(
        albedo=assemble(finished, light, layout),
        lighting=lighting,
        visible=layout.atlas.scatter(texels.visible[:, None].float(), gutter=False)[0] > 0,
        part_albedo=part_textures(linear, geometry, layout.parts, lighting, regions),
        detail_light=said.detail[0],
    )


@dataclass(frozen=True)
class _MapPlace:
    """Where the texture's t texels lie in the map.

    Attributes:
        uv: (t, 2) map coordinates in [0, 1], v up.
        weight: (t,) how far the map counts there: 0 outside, rising to 1 behind its rim.
    """

    uv: Tensor
    weight: Tensor

    @staticmethod
    def create(chart: TextureChart, layout: TextureLayout) -> _MapPlace:
        uv = layout.atlas.interpolate(torch.nan_to_num(chart.vertex_uv))
        within = chart.in_map[layout.atlas.face_ids.long()].float()
        weight = sample_uv(_rim_distance(chart)[None], uv)[:, 0] / chart.size
        return _MapPlace(uv, within * smooth_step(weight, *_RIM))

    def sample(self, maps: Float[Tensor, "c n n"]) -> Float[Tensor, "t c"]:
        """Bilinear samples of a map."""
        return sample_uv(maps, self.uv)


def on_texture(
    maps: Float[Tensor, "c n n"], chart: TextureChart, layout: TextureLayout
) -> Float[Tensor, "t c"]:
    """A map at the texture's texels; beyond the face the nearest texel of it."""
    return _MapPlace.create(chart, layout).sample(_inside(maps, chart))


def _rim_distance(chart: TextureChart) -> Float[Tensor, "n n"]:
    """Texels to the map's outer rim; eyes and mouth are no rim."""
    from scipy.ndimage import binary_fill_holes, distance_transform_edt

    solid = binary_fill_holes(chart.inside.numpy())
    framed = torch.nn.functional.pad(torch.from_numpy(solid), (1, 1, 1, 1)).numpy()
    distance = distance_transform_edt(framed)[1:-1, 1:-1]  # type: ignore[index]
    return torch.from_numpy(distance).float()


def with_hidden(
    albedo: Float[Tensor, "3 n n"], shown: Float[Tensor, "n n"], chart: TextureChart
) -> Float[Tensor, "3 n n"]:
    """The map, its hidden texels brought to what the photo shows of the face's other side.

    A network says of hidden skin what is likely, and so less than there is. Where the mirror image
    is seen, its fine band takes the place of the hidden texel's and a share of its low band too;
    where neither side is seen, grain as strong as that of the visible skin is added.

    Args:
        albedo: linear.
        shown: how far the photo shows each texel well lit, in [0, 1].
        chart: the map.
    """
    mask = chart.inside.to(albedo)
    log = albedo.clamp(min=2e-3).log()
    low = _blurred(log, mask)
    fine = (log - low) * mask
    hidden = 1 - shown
    borrowed = _blurred(shown.flip(-1)[None] * mask, mask)[0] * hidden
    both = hidden - borrowed
    seen = shown * mask
    level = ((fine.mean(0) ** 2 * seen).sum() / seen.sum().clamp(min=1)).sqrt().clamp(max=0.06)
    generator = torch.Generator().manual_seed(chart.size)
    grain = torch.randn(1, *mask.shape, generator=generator) * level
    low = low + _MIRROR * borrowed * (low.flip(-1) - low)
    other = borrowed * (fine.flip(-1) - fine) + both * grain
    fine = fine + other * _LIFT + hidden * (_LIFT - 1) * fine
    return (low + fine).exp().clamp(0, 1)


def like_skin(
    albedo: Float[Tensor, "3 n n"], prior: Float[Tensor, "3 n n"], chart: TextureChart
) -> Float[Tensor, "3 n n"]:
    """The map without tints that no skin has.

    Where a channel is clipped, or a coloured lamp meets another light, dividing by the light leaves
    yellow or green patches. Chroma varies over a face, and the prior knows how; what differs from
    it smoothly by more than true skins do is held back, at the same luminance. Fine detail stays.

    Args:
        albedo: linear.
        prior: of the same face.
        chart: the map.
    """
    mask = chart.inside.to(albedo)
    log, guess = albedo.clamp(min=2e-3).log(), prior.clamp(min=2e-3).log()
    tint = _blurred(_chroma(log) - _chroma(guess), mask)
    usual = tint[:, chart.inside].median(1).values[:, None, None]
    off = tint - usual
    start, most = _TINT
    over = (off.abs() - start).clamp(min=0)
    held = off.sign() * (over - (most - start) * torch.tanh(over / (most - start)))
    if not bool((held != 0).any()):
        return albedo
    red, blue = -held[0], held[1]  # red over green falls by held[0], green over blue by held[1]
    out = torch.stack((log[0] + red, log[1], log[2] + blue)).exp()
    ratio = _luminance_map(albedo) / _luminance_map(out).clamp(min=1e-4)
    return (out * ratio).clamp(0, 1)


def _chroma(log: Float[Tensor, "3 n n"]) -> Float[Tensor, "2 n n"]:
    """Logarithms of red over green and green over blue."""
    return log[:-1] - log[1:]


def _luminance_map(albedo: Float[Tensor, "3 n n"]) -> Float[Tensor, "1 n n"]:
    return luminance(albedo.movedim(0, -1))[None]


def _matched_tone(log: Tensor, mean: Tensor, slope: Tensor) -> Float[Tensor, "3"]:
    """The log tone (3,) in which the mean skin is nearest to these texels (k, 3)."""
    tone = (log - mean).median(0).values
    for _ in range(4):
        tone = (log - mean - slope * luminance(tone[None])).median(0).values
    return tone


def _blurred(maps: Float[Tensor, "c n n"], mask: Float[Tensor, "n n"]) -> Float[Tensor, "c n n"]:
    """Gaussian blur that knows only texels of the mask."""
    sigma = _BAND * mask.shape[-1]
    reach = max(1, round(3 * sigma))
    line = torch.exp(-0.5 * (torch.arange(-reach, reach + 1) / sigma) ** 2)
    line = (line / line.sum()).to(maps)
    stacked = torch.cat((maps * mask, mask[None]))[:, None]
    for kernel in (line.view(1, 1, 1, -1), line.view(1, 1, -1, 1)):
        padding = (kernel.shape[2] // 2, kernel.shape[3] // 2)
        stacked = torch.nn.functional.conv2d(stacked, kernel, padding=padding)
    return stacked[:-1, 0] / stacked[-1:, 0].clamp(min=1e-4)


def _inside(maps: Float[Tensor, "c n n"], chart: TextureChart) -> Float[Tensor, "c n n"]:
    """The map, what lies outside the face replaced by the nearest texel of it."""
    return chart.spread(chart.gather(maps))


def _shadings(
    place: _MapPlace, said: RetextureOutput, texels: UnwrapResult, geometry: Geometry,
    layout: TextureLayout,
) -> tuple[Float[Tensor, "t 3"], Float[Tensor, "t 3"]]:  # fmt: skip
    """Linear shading of the texels by the map's light, and by the one light with self-shadowing."""
    transfer = lambert_transfer(texels.normals)
    detail = place.sample(said.detail[0]).unflatten(1, (3, 9))
    own = (detail * transfer[:, None]).sum(2)
    turned = rotate_sh(said.light[0], geometry.camera.rotation.float().mT)
    return own, transferred(shadowed_transfer(geometry, layout), turned)


def _divided(colors: Tensor, shade: Tensor) -> Float[Tensor, "t 3"]:
    floor = _MIN_SHADE * shade.mean(0, keepdim=True).clamp(min=0.02)
    return (colors / torch.maximum(shade, floor)).clamp(0.002, 0.98)


def _detail(
    own: Tensor, seen: RetextureInput, shading: Tensor, shown: Tensor, texels: UnwrapResult,
    chart: TextureChart, place: _MapPlace,
) -> tuple[Float[Tensor, "t"], Float[Tensor, "t"]]:  # fmt: skip
    """What the photo shows that the map is too coarse for, log luminance, and its share (t,)."""
    coarse = unlit(seen.texture, shading, _MIN_SHADE)[0].clamp(0.002, 0.98)
    fine = luminance(own).log() - luminance(place.sample(_inside(coarse, chart))).log()
    share = place.sample(shown[None])[:, 0] * texels.confidence * place.weight
    return fine.clamp(-_MAX_DETAIL, _MAX_DETAIL), share


def _tone(albedo: Tensor, weight: Tensor, layout: TextureLayout) -> Float[Tensor, "3"]:
    """The log tone whose bare skin is nearest to the albedo on the face's bare skin."""
    core = (layout.texel_core > 0.7) & (weight > 0.9)
    log = albedo[core].clamp(min=2e-3).log()
    return _matched_tone(log, layout.prior.mean[core], layout.prior.slope[core])
