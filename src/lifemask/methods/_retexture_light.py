"""Light per texel: shading, rendering through the map, and the published code's numbers."""

from __future__ import annotations

import math
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from lifemask.graphics.lighting import (
    lambert_transfer,
    linear_to_srgb,
    sh_from_deep3d,
    sh_to_deep3d,
    srgb_to_linear,
)

Sh = Literal["lifemask", "deep3d"]
"""How light meets albedo: in linear RGB, or as the published code has it, in coded RGB."""
NEUTRAL = math.sqrt(4 * math.pi)
"""First coefficient of white light that shades everything with 1."""

_PULL = (0.001, 0.02, 0.02, 0.02, 0.1, 0.1, 0.1, 0.1, 0.1)
"""Pull of each coefficient towards light from everywhere, relative to the data."""
_HUBER = 0.15


def texel_transfer(normals: Float[Tensor, "b 3 n m"]) -> Float[Tensor, "b 9 n m"]:
    """What each coefficient of the light does to texels with these normals (unit)."""
    return lambert_transfer(normals.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def global_shading(
    transfer: Float[Tensor, "b 9 n m"], light: Float[Tensor, "b 9 3"]
) -> Float[Tensor, "b 3 n m"]:
    """Linear RGB shading of texels under one light each."""
    return torch.einsum("bknm,bkc->bcnm", transfer, light)


def detail_shading(
    transfer: Float[Tensor, "b 9 n m"], detail: Float[Tensor, "b 27 j k"]
) -> Float[Tensor, "b 3 n m"]:
    """Linear RGB shading of texels that have a light of their own each.

    Args:
        transfer: of the texels' normals.
        detail: channel-major lights, of each texel or of a coarser grid; bilinear in between.
    """
    size = transfer.shape[-2:]
    if detail.shape[-2:] != size:
        detail = functional.interpolate(detail, size, mode="bilinear", align_corners=False)
    # a channel at a time: a third of the memory, which is what this waits for
    return torch.stack([(part * transfer).sum(1) for part in detail.split(9, 1)], 1)


def spread_light(light: Float[Tensor, "b 9 3"], like: Tensor) -> Float[Tensor, "b 27 n m"]:
    """One light for every place of a grid of the size of `like` (b, _, n, m), channel-major."""
    flat = light.transpose(1, 2).flatten(1)[..., None, None]
    return flat.expand(-1, -1, *like.shape[-2:])


def lit(
    albedo: Float[Tensor, "b 3 n m"], shading: Float[Tensor, "b 3 n m"], sh: Sh = "lifemask"
) -> Float[Tensor, "b 3 n m"]:
    """The map as the photo would show it, sRGB, clipped below 0 and above 1 softly.

    Args:
        albedo: linear.
        shading: linear; with "deep3d" it multiplies coded albedo, as the published code does.
        sh: see `Sh`.
    """
    if sh == "deep3d":
        return _shoulder(linear_to_srgb(albedo) * shading.clamp(min=0.0))
    return _shoulder(linear_to_srgb((albedo * shading).clamp(min=0.0)))


def _shoulder(coded: Tensor) -> Tensor:
    """Values up to 1 as they are; above, a slope of 0.1, so that over-exposure keeps a gradient."""
    return torch.where(coded > 1, 1 + 0.1 * (coded - 1), coded)


def unlit(
    texture: Float[Tensor, "b 3 n m"],
    shading: Float[Tensor, "b 3 n m"],
    floor: float = 0.15,
    sh: Sh = "lifemask",
) -> Float[Tensor, "b 3 n m"]:
    """Linear albedo that a photo's colours (sRGB) have if the shading is right.

    Shading below `floor` of its mean over the map divides no further: there is only noise.
    """
    low = floor * shading.mean((1, 2, 3), keepdim=True).clamp(min=0.02)
    if sh == "deep3d":
        return srgb_to_linear((texture / torch.maximum(shading, low)).clamp(0, 1))
    return (srgb_to_linear(texture) / torch.maximum(shading, low)).clamp(0, 1)


@torch.no_grad()
def solved_light(
    texture: Float[Tensor, "b 3 n m"],
    weight: Float[Tensor, "b 1 n m"],
    transfer: Float[Tensor, "b 9 n m"],
    albedo: Float[Tensor, "#b 3 n m"],
) -> Float[Tensor, "b 9 3"]:
    """The one light that explains a photo best if the skin were this one: robust ridge regression.

    `srgb_to_linear(texture) / albedo = transfer @ light`, twice reweighted by its own error, so
    that beards, gloss and cast shadows count less; pulled towards light from everywhere. Whatever
    the skin's tone is in truth stays in the light. Takes no gradient.

    Args:
        texture: the photo's colours, sRGB.
        weight: trust in each texel, in [0, 1].
        transfer: of the texels' normals.
        albedo: linear.
    """
    ratio = (srgb_to_linear(texture) / albedo.clamp(min=0.01)).clamp(0, 8).float().flatten(2)
    basis, trust = transfer.float().flatten(2), weight.float().flatten(2)
    level = (ratio * trust).sum(2) + 0.01 * 0.8
    level = level / (trust.sum(2) + 0.01)
    ambient = functional.pad(NEUTRAL * level[:, None], (0, 0, 0, 8))
    pull = torch.tensor(_PULL, device=ratio.device) * (basis[:, :1] ** 2).mean()
    ridge = torch.eye(9, device=pull.device) * pull
    robust, light = trust, ambient
    for _ in range(3):
        total = robust.sum(2, keepdim=True).clamp(min=1.0)
        normal = (basis * robust / total) @ basis.transpose(1, 2) + ridge
        right = (basis * robust / total) @ ratio.transpose(1, 2) + pull[:, None] * ambient
        light = solve_positive(normal, right)
        error = (ratio - light.transpose(1, 2) @ basis).mean(1, keepdim=True).abs() / level.mean(1)[
            :, None, None
        ]
        robust = trust * (_HUBER / error.clamp(min=_HUBER))
    return light


def solve_positive(
    matrix: Float[Tensor, "*b n n"], right: Float[Tensor, "*b n k"]
) -> Float[Tensor, "*b n k"]:
    """The x of `matrix x = right` for a positive definite matrix, by plain elimination.

    No pivoting and no solver of a library: an exported graph of the network holds it, too.
    """
    size = matrix.shape[-1]
    rows = torch.cat((matrix, right), -1)
    for k, unit in enumerate(torch.eye(size, dtype=matrix.dtype, device=matrix.device)):
        row = rows[..., k : k + 1, :] / rows[..., k : k + 1, k : k + 1]
        rows = rows + (unit[:, None] - rows[..., k : k + 1]) * row
    return rows[..., size:]


def vector_from_light(light: Float[Tensor, "*b 9 3"]) -> Float[Tensor, "*b 27"]:
    """The published code's 27 numbers of a light, channel-major, for normals of the same frame."""
    return sh_to_deep3d(light).flatten(-2)


def light_from_vector(vector: Float[Tensor, "*b 27"]) -> Float[Tensor, "*b 9 3"]:
    """Inverse of `vector_from_light`."""
    return sh_from_deep3d(vector.unflatten(-1, (3, 9)))
