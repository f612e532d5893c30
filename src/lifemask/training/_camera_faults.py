"""What cameras do to training pictures: exposure, white balance, tone curve, blur, noise, JPEG."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray
from torch import Tensor

from lifemask.data.augment import NO_AUGMENTATION, change_colours
from lifemask.graphics.lighting import linear_to_srgb, srgb_to_linear

FAULTS = replace(NO_AUGMENTATION, noise=0.03, blur=0.3)
CURVED = 0.5
"""Share of the pictures with a tone curve."""
_GAIN, _TINT = 0.25, 0.06  # standard deviations of log gain, common and per channel


def taken_by_camera(
    photo: Float[Tensor, "3 s s"], rng: np.random.Generator
) -> tuple[Float[Tensor, "3 s s"], Float[Tensor, "3"]]:
    """A picture with another exposure, white balance and tone curve, blur, noise and JPEG.

    Args:
        photo: sRGB in [0, 1].
        rng: source of randomness.

    Returns:
        (picture, gain): the gain of each channel is linear, so it is one of the light.
    """
    gain = np.exp(rng.normal(0, _GAIN) + rng.normal(0, _TINT, 3)).astype(np.float32)
    linear = srgb_to_linear(photo) * torch.from_numpy(gain)[:, None, None]
    coded = linear_to_srgb(linear).clamp(0, 1)
    if rng.random() < CURVED:
        coded = curved(coded, rng)
    pixels = (coded * 255).permute(1, 2, 0).numpy()
    pixels = change_colours(rng, FAULTS, np.ascontiguousarray(pixels)[None])[0]
    if rng.random() < 0.4:
        pixels = _compressed(pixels, int(rng.uniform(30, 96)))
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous(), torch.from_numpy(gain)


def curved(coded: Float[Tensor, "3 s s"], rng: np.random.Generator) -> Float[Tensor, "3 s s"]:
    """A camera's or an editor's tone curve: contrast, and another gamma for each channel."""
    gamma = np.exp(rng.normal(0, 0.08) + rng.normal(0, 0.05, 3)).astype(np.float32)
    bent = coded ** torch.from_numpy(gamma)[:, None, None]
    return bent + float(rng.uniform(-0.15, 0.6)) * (bent * bent * (3 - 2 * bent) - bent)


def _compressed(pixels: Float[ndarray, "s s 3"], quality: int) -> Float[ndarray, "s s 3"]:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray((pixels * 255 + 0.5).astype(np.uint8)).save(buffer, "JPEG", quality=quality)
    return np.asarray(Image.open(buffer), np.float32) / 255
