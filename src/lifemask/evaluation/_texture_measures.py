"""What a face's colours on its map are measured by: whole, fixed in changing light, without seams.

All functions are pure; maps are linear RGB of n x n texels with the face's mirror line between the
two middle columns (`methods._retexture_chart`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from lifemask.graphics.lighting import linear_to_srgb

WHOLE = 0.01, 0.99
"""Linear luminance between which a texel counts as filled."""
HIGH_PASS_SIGMA = 2.0
"""Texels; what a Gaussian of this width takes away is fine detail."""
FEWEST = 100
"""Texels or steps below which a ratio says nothing."""
SEAM_REACH = 6
"""Texels; steps this near to a seam, beyond its own bleeding, are its surroundings."""
_LUMINANCE = (0.2126, 0.7152, 0.0722)
_MIN_MEAN = 1e-3


@dataclass(frozen=True)
class Steps:
    """Some of the steps from a texel to the next one.

    Attributes:
        columns: (n, n - 1) steps to the right.
        rows: (n - 1, n) steps down.
    """

    columns: Bool[Tensor, "n m"]
    rows: Bool[Tensor, "m n"]


def completeness(albedo: Float[Tensor, "3 n n"], mask: Bool[Tensor, "n n"]) -> float:
    """Share of the mask's texels that are finite and whose luminance lies inside `WHOLE`.

    Single channels may leave it: the blue of dark brows is below 0.01 in truth.
    """
    values = luminance(albedo)[mask]
    return float(((values > WHOLE[0]) & (values < WHOLE[1])).float().mean())


def luminance(albedo: Float[Tensor, "3 n n"]) -> Float[Tensor, "n n"]:
    """Luminance of a linear map; not finite where a channel is not."""
    return torch.einsum("chw,c->hw", albedo, albedo.new_tensor(_LUMINANCE))


def high_pass_ratio(
    albedo: Float[Tensor, "3 n n"], mask: Bool[Tensor, "n n"], visible: Bool[Tensor, "n n"]
) -> float:
    """Mean energy of fine detail of luminance on hidden texels over that on visible ones.

    Below 1: what was filled in is smoother than what was seen. Texels near the mask's border or
    near the line between hidden and visible do not count: a seam is no detail. NaN where one side
    has fewer than `FEWEST` texels.
    """
    light = luminance(albedo)
    weight = mask.to(light)
    low = _blur(torch.stack((light * weight, weight)), HIGH_PASS_SIGMA)
    energy = (light - low[0] / low[1].clamp(min=1e-6)) ** 2
    shown, hidden = (_shrunk(mask & side, 4) for side in (visible, ~visible))
    if min(int(shown.sum()), int(hidden.sum())) < FEWEST or float(energy[shown].mean()) == 0:
        return float("nan")
    return float(energy[hidden].mean() / energy[shown].mean())


def light_spread(maps: Float[Tensor, "k 3 n n"], texels: Bool[Tensor, "n n"]) -> float:
    """How much colours change from light to light: mean over texels and channels of std / mean.

    Each map is first divided by its own mean over the texels: exposure does not count. A constant
    colour is perfect here: read it with the colour's error.

    Args:
        maps: of one face in k lights.
        texels: those that count.
    """
    if len(maps) < 2 or int(texels.sum()) < FEWEST:
        return float("nan")
    values = maps[:, :, texels].double()
    values = values / values.mean((1, 2), keepdim=True).clamp(min=_MIN_MEAN)
    spread = values.std(0, unbiased=False) / values.mean(0).clamp(min=_MIN_MEAN)
    return float(spread.mean())


def hue_error_deg(
    predicted: Float[Tensor, "3 n n"], truth: Float[Tensor, "3 n n"], mask: Bool[Tensor, "n n"]
) -> float:
    """Mean angle in degrees between predicted and true linear RGB: wrong colour, not brightness."""
    a, b = (functional.normalize(values[:, mask].double(), dim=0) for values in (predicted, truth))
    chord = (a - b).norm(dim=0) / 2
    return float(torch.rad2deg(2 * torch.asin(chord.clamp(max=1))).mean())


def mirror_steps(size: int) -> Steps:
    """The steps across the mirror line of a map of n x n texels, n even."""
    columns = torch.zeros(size, size - 1, dtype=torch.bool)
    columns[:, size // 2 - 1] = True
    return Steps(columns, torch.zeros(size - 1, size, dtype=torch.bool))


def border_steps(labels: Tensor) -> Steps:
    """The steps between texels with different labels (n, n)."""
    return Steps(labels[:, 1:] != labels[:, :-1], labels[1:] != labels[:-1])


def seam_ratio(albedo: Float[Tensor, "3 n n"], mask: Bool[Tensor, "n n"], seam: Steps) -> float:
    """Mean sRGB difference across a seam over that of the steps around it; 1 without a seam.

    Args:
        albedo: map.
        mask: texels that count; both ends of a step must.
        seam: the steps across.

    Returns:
        NaN where fewer than `FEWEST` / 2 steps cross.
    """
    coded = linear_to_srgb(albedo.clamp(0, 1))
    right = (coded[:, :, 1:] - coded[:, :, :-1]).abs().mean(0)
    down = (coded[:, 1:] - coded[:, :-1]).abs().mean(0)
    across, around = [], []
    for steps, size, inside in (
        (seam.columns, right, mask[:, 1:] & mask[:, :-1]),
        (seam.rows, down, mask[1:] & mask[:-1]),
    ):
        across.append(size[steps & inside])
        around.append(size[_grown(steps, SEAM_REACH) & ~_grown(steps, 1) & inside])
    crossing, other = torch.cat(across), torch.cat(around)
    if len(crossing) < FEWEST // 2 or len(other) < FEWEST // 2:
        return float("nan")
    return float(crossing.mean() / other.mean().clamp(min=1e-6))


def _grown(mask: Tensor, reach: int) -> Bool[Tensor, "h w"]:
    """Everything within a square of `reach` of the mask."""
    wide = functional.max_pool2d(mask[None, None].float(), (1, 2 * reach + 1), 1, (0, reach))
    return functional.max_pool2d(wide, (2 * reach + 1, 1), 1, (reach, 0))[0, 0] > 0


def _shrunk(mask: Tensor, reach: int) -> Bool[Tensor, "h w"]:
    return ~_grown(~mask, reach)


def _blur(maps: Tensor, sigma: float) -> Tensor:
    """Maps (c, n, n) under a Gaussian; 0 beyond the border."""
    radius = math.ceil(3 * sigma)
    line = gaussian_window(2 * radius + 1, sigma).to(maps)
    maps = functional.conv2d(maps[:, None], line.view(1, 1, 1, -1), padding=(0, radius))
    return functional.conv2d(maps, line.view(1, 1, -1, 1), padding=(radius, 0))[:, 0]


def gaussian_window(size: int, sigma: float) -> Float[Tensor, "k"]:
    """Weights (k,) of a Gaussian about the middle of `size` places; they sum to 1."""
    place = torch.arange(size, dtype=torch.float64) - (size - 1) / 2
    weights = torch.exp(-0.5 * (place / sigma) ** 2)
    return (weights / weights.sum()).float()
