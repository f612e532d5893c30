"""Light and skin tone of a photo from visible skin: robust, with priors on both."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from lifemask.types import Lighting

LUMINANCE = (0.2126, 0.7152, 0.0722)
_RIDGE = torch.tensor([1e-4, 0.01, 0.01, 0.01, 0.05, 0.05, 0.05, 0.05, 0.05])
"""Pull of each coefficient towards 0, relative to the data; order 2 is seen least."""
_TINT_RIDGE = 0.3
"""Pull of each channel's coefficients towards white light (times the channel's exposure)."""
_EXPOSURE, _EXPOSURE_LOG_SD, _BALANCE_LOG_SD = 0.95, 0.3, 0.13
"""Cameras expose for shading near 1 and balance white; how far they miss (log units)."""
_WHITE_POINT_POWER = 0.35
"""How far exposure follows the brightest things in the photo, which are white in most, not all.

Kept low: taking a dark photo of dark skin for an underexposed one of light skin is the worse error.
"""
_LIGHTEST_CHANNEL, _LIGHTEST_LUMINANCE = 0.76, 0.46
"""No skin reflects more than this; what is brighter is light."""
_TONE_EXTRA_SD = 0.12
"""People vary more than the prior's skins: added to each channel's log tone."""
_HUBER = 0.15
_ITERATIONS = 5
_SAMPLES = 6000


@dataclass(frozen=True)
class LightEstimate:
    """Light, in the frame of the transfer, and the tone it leaves.

    Attributes:
        lighting: radiance coefficients (9, 3).
        tone: (3,) log linear RGB of the skin, as in the prior.
        residual: robust spread of log(photo / rendering) on the skin used.
        samples: how many texels were used.
    """

    lighting: Lighting
    tone: Float[Tensor, "3"]
    residual: float
    samples: int


def estimate_light(
    colors: Float[Tensor, "n 3"],
    transfer: Float[Tensor, "n 9"],
    relative: Float[Tensor, "n 3"],
    slope: Float[Tensor, "n 3"],
    weights: Float[Tensor, "n"],
    tones: Float[Tensor, "k 3"],
    white_point: float = 1.0,
) -> LightEstimate:
    """SH light of order 2 and skin tone from `color = exp(tone + D(tone)) * transfer @ sh`.

    Alternates a ridge solve for light (white-light prior, Huber weights) with the tone: the
    product of tone and exposure is what a photo shows; it is split by the maximum a posteriori
    under a Gaussian over the prior's tones and one over exposure and white balance.

    Args:
        colors: (n, 3) linear RGB of skin.
        transfer: (n, 9) `shading = transfer @ sh` (`graphics.occlusion`), in any frame.
        relative: (n, 3) log albedo relative to the tone, `D = relative + slope * luminance(tone)`.
        slope: (n, 3), see above.
        weights: (n,) trust in each sample.
        tones: (k, 3) log tones of known skins.
        white_point: linear luminance of the brightest things in the photo.
    """
    exposure = math.log(_EXPOSURE * min(1.0, max(0.15, white_point)) ** _WHITE_POINT_POWER)
    keep = (weights > 0.02) & (colors.amin(-1) > 0.002) & (colors.amax(-1) < 0.98)
    index = keep.nonzero().squeeze(-1)
    if len(index) < 50:
        return LightEstimate(_flat_light(), tones.median(0).values, float("nan"), len(index))
    index = index[:: max(1, len(index) // _SAMPLES)]
    colors, weights = colors[index].clamp(min=1e-3), weights[index]
    relative, slope, basis = relative[index], slope[index], transfer[index]
    luminance = colors.new_tensor(LUMINANCE)
    sh = _flat_light().sh
    tone, robust = tones.mean(0), torch.ones_like(weights)
    for _ in range(_ITERATIONS):
        shade = (basis @ sh).clamp(min=0.05)
        level = (weights[:, None] * robust[:, None] * shade).sum(0) / (weights * robust).sum()
        unlit = colors.log() - (shade / level).log() - relative
        unlit = unlit - slope * (tone @ luminance)
        tone = _split_tone(_weighted_median(unlit, weights * robust), tones, exposure)
        albedo = (tone + relative + slope * (tone @ luminance)).exp()
        sh = _solve_light(colors / albedo, basis, weights * robust, luminance)
        error = (colors.log() - (albedo * (basis @ sh).clamp(min=0.05)).log()) @ luminance
        robust = (_HUBER / error.abs().clamp(min=_HUBER)) ** 2
    spread = float(_weighted_median(error.abs()[:, None], weights)[0]) * 1.4826
    return LightEstimate(Lighting(sh), tone, spread, len(index))


def _flat_light() -> Lighting:
    sh = torch.zeros(9, 3)
    sh[0] = math.sqrt(4 * math.pi)
    return Lighting(sh)


def _split_tone(total: Tensor, tones: Tensor, exposure_log: float) -> Tensor:
    """MAP of the log tone given log(tone * exposure) = total, not lighter than skin can be."""
    mean = tones.mean(0)
    centred = (tones - mean).double()
    eye, ones = torch.eye(3).double(), torch.ones(3, 3).double()
    of_tone = centred.T @ centred / len(tones) + _TONE_EXTRA_SD**2 * eye
    of_light = _EXPOSURE_LOG_SD**2 * ones + _BALANCE_LOG_SD**2 * eye
    gap = (total - exposure_log - mean).double()
    tone = mean + (of_tone @ torch.linalg.solve(of_tone + of_light, gap)).to(mean)
    luminance = (tone.exp() @ tone.new_tensor(LUMINANCE)).log()
    excess = torch.maximum(
        tone.max() - math.log(_LIGHTEST_CHANNEL), luminance - math.log(_LIGHTEST_LUMINANCE)
    )
    return tone - excess.clamp(min=0)


def _solve_light(ratio: Tensor, basis: Tensor, weights: Tensor, luminance: Tensor) -> Tensor:
    """(9, 3): ridge for the luminance, then each channel pulled towards its share of it."""
    total = weights.sum()
    normal = basis.T @ (basis * weights[:, None]) / total
    right = basis.T @ (ratio * weights[:, None]) / total
    grey = torch.linalg.solve(normal + torch.diag(_RIDGE), right @ luminance)
    exposure = right[0] / (right[0] @ luminance)
    target = grey[:, None] * exposure
    ridge = torch.diag(_RIDGE * 0.5 + _TINT_RIDGE * normal.diagonal())
    return torch.linalg.solve(normal + ridge, right + ridge @ target)


def _weighted_median(values: Tensor, weights: Tensor) -> Tensor:
    """Median (c,) of values (n, c) under weights (n,)."""
    ordered, index = values.sort(dim=0)
    cumulated = weights[index].cumsum(0)
    place = (cumulated < cumulated[-1:] / 2).sum(0).clamp(max=len(values) - 1)
    return ordered.gather(0, place[None])[0]
