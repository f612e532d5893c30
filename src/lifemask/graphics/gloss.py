"""Gloss: what a surface of some roughness mirrors of a panorama, as glTF's engines show it.

The split sum of Karis 2013 ("Real shading in Unreal Engine 4"): the panorama is blurred once per
roughness by the GGX lobe, and the rest of the reflection integral is a table.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from lifemask.graphics.panoramas import panorama_directions

DIELECTRIC = 0.04
"""Reflectance at normal incidence of glTF's non-metals; skin has 0.028, a wet eye 0.025."""
_LEVELS = (0.1, 0.25, 0.4, 0.55, 0.75, 1.0)
_SHARP_ROWS, _SOURCE_ROWS, _BLURRED_ROWS = 64, 40, 24
_TABLE_SIDE, _TABLE_SAMPLES = 24, 256


@dataclass(frozen=True)
class GlossMap:
    """A panorama blurred by the lobes of several roughnesses.

    Attributes:
        levels: (3, k, h, w + 2), roughness rising; a column of the other end at both sides.
    """

    levels: Float[Tensor, "3 k h w"]


@torch.no_grad()
def blur_for_gloss(radiance: Float[Tensor, "h w 3"]) -> GlossMap:
    """Prepare a panorama (about 0.2 s).

    Args:
        radiance: (h, w, 3) linear RGB, laid out as in `lighting.project_environment`.
    """
    picture = radiance.float().movedim(-1, 0)[None]
    sharp, coarse = (
        functional.adaptive_avg_pool2d(picture, (rows, 2 * rows))[0]
        for rows in (_SHARP_ROWS, _SOURCE_ROWS)
    )
    source, area = (t.float().flatten(0, 1) for t in panorama_directions(_SOURCE_ROWS))
    target = panorama_directions(_BLURRED_ROWS)[0].float().flatten(0, 1)
    cosine = target @ source.T
    levels = [sharp]
    for roughness in _LEVELS[1:]:
        weight = _lobe(cosine, roughness) * area
        blurred = (weight @ coarse.flatten(1).T) / weight.sum(1, keepdim=True)
        small = _wrap(blurred.T.reshape(1, 3, _BLURRED_ROWS, -1))
        levels.append(_enlarged(small))
    return GlossMap(_wrap(torch.stack(levels, dim=1)))


def mirrored(
    gloss: GlossMap, directions: Float[Tensor, "p 3"], roughness: Float[Tensor, "p"]
) -> Float[Tensor, "p 3"]:
    """Blurred radiance (p, 3) that comes from some directions.

    Args:
        gloss: of the panorama.
        directions: (p, 3) unit, in the panorama's frame.
        roughness: (p,) in [0, 1], perceptual (glTF): GGX's alpha is its square.
    """
    levels = gloss.levels.to(directions)
    _, count, height, width = levels.shape
    x, y, z = directions.unbind(-1)
    column = (torch.atan2(x, -z) / (2 * math.pi) + 0.5) * (width - 2) + 0.5
    row = (0.5 - torch.asin(y.clamp(-1, 1)) / math.pi) * height - 0.5
    steps = roughness.new_tensor(_LEVELS)
    above = torch.bucketize(roughness, steps).clamp(1, count - 1)
    low, high = steps[above - 1], steps[above]
    level = above - 1 + ((roughness - low) / (high - low)).clamp(0, 1)
    place = torch.stack(
        [2 * at / (n - 1) - 1 for at, n in ((column, width), (row, height), (level, count))], dim=-1
    )
    values = functional.grid_sample(
        levels[None], place.view(1, 1, 1, -1, 3), padding_mode="border", align_corners=True
    )
    return values.view(3, -1).T


def reflectance(roughness: Float[Tensor, "p"], cosine: Float[Tensor, "p"]) -> Float[Tensor, "p"]:
    """Share of even light that a non-metal's surface throws back, Fresnel and shadowing included.

    The second factor of the split sum: GGX, Smith's shadowing and Schlick's Fresnel.

    Args:
        roughness: (p,) perceptual.
        cosine: (p,) of the angle between normal and view.
    """
    table = _reflectance_table().to(cosine)
    place = torch.stack((2 * cosine.clamp(0, 1) - 1, 2 * roughness.clamp(0, 1) - 1), dim=-1)
    shares = functional.grid_sample(
        table[None, None], place[None, None], padding_mode="border", align_corners=True
    )
    return shares.view(-1)


@lru_cache(maxsize=1)
def _reflectance_table() -> Float[Tensor, "r c"]:
    """Shares on an even grid of roughness and cosine, by importance sampling (Karis 2013)."""
    grid = torch.linspace(0, 1, _TABLE_SIDE, dtype=torch.float64)
    alpha = grid.clamp(min=0.02).square().view(-1, 1, 1)
    cosine = grid.clamp(min=0.01).view(1, -1, 1)
    index = torch.arange(_TABLE_SAMPLES, dtype=torch.float64)
    angle = 2 * math.pi * ((index * (math.sqrt(5) - 1) / 2) % 1)  # a golden spiral of lobes
    share = (index + 0.5) / _TABLE_SAMPLES
    half_z = ((1 - share) / (1 + (alpha**2 - 1) * share)).sqrt()
    half_x = (1 - half_z**2).clamp(min=0).sqrt() * angle.cos()
    meets = (1 - cosine**2).sqrt() * half_x + cosine * half_z
    light_z = 2 * meets * half_z - cosine
    up = (light_z > 0) & (meets > 0)
    light_z, meets = light_z.clamp(min=1e-6), meets.clamp(min=0)
    k = alpha / 2
    shadow = light_z / (light_z * (1 - k) + k) * (cosine / (cosine * (1 - k) + k))
    fresnel = DIELECTRIC + (1 - DIELECTRIC) * (1 - meets) ** 5
    weight = fresnel * shadow * meets / (half_z * cosine).clamp(min=1e-9)
    return (weight * up).mean(-1).clamp(0, 1).float()


def _lobe(cosine: Tensor, roughness: float) -> Tensor:
    """GGX about the mirrored direction, seen along the normal: `D(h) (n.l)`, h between both."""
    half_squared = ((1 + cosine) / 2).clamp(0, 1)
    spread = roughness**4
    return cosine.clamp(min=0) / (half_squared * (spread - 1) + 1) ** 2


def _enlarged(small: Tensor) -> Tensor:
    """A wrapped panorama (1, 3, h, w + 2) at the size of the sharp one, (3, h', w')."""
    width = small.shape[-1] - 2
    columns = (torch.arange(2 * _SHARP_ROWS) + 0.5) / (2 * _SHARP_ROWS) * width + 1
    rows = (torch.arange(_SHARP_ROWS) + 0.5) / _SHARP_ROWS
    y, x = torch.meshgrid(2 * rows - 1, 2 * columns / (width + 2) - 1, indexing="ij")
    grid = torch.stack((x, y), dim=-1)[None]
    return functional.grid_sample(small, grid, padding_mode="border", align_corners=False)[0]


def _wrap(picture: Tensor) -> Tensor:
    """One column of the other end at both sides."""
    return torch.cat((picture[..., -1:], picture, picture[..., :1]), dim=-1)
