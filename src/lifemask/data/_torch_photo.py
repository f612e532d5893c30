"""What cameras make of linear light, for a batch on any torch device: twin of `_synthetic_photo`.

Tone, vignette and motion are the same arithmetic. Blur is a true Gaussian (Pillow's is three box
filters), noise has its own generator (same seed, other numbers), and JPEG is worked out here: DCT,
quantisation with the standard tables, chroma at half size. The tests state how close they come.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional

from lifemask.data._synthetic_photo import TO_SRGB, Exposure, Faults

Pictures = Float[Tensor, "b h w 3"]

_LUMA = (
    (16, 11, 10, 16, 24, 40, 51, 61), (12, 12, 14, 19, 26, 58, 60, 55),
    (14, 13, 16, 24, 40, 57, 69, 56), (14, 17, 22, 29, 51, 87, 80, 62),
    (18, 22, 37, 56, 68, 109, 103, 77), (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101), (72, 92, 95, 98, 112, 100, 103, 99),
)  # fmt: skip
_CHROMA = (
    (17, 18, 24, 47, 99, 99, 99, 99), (18, 21, 26, 66, 99, 99, 99, 99),
    (24, 26, 56, 99, 99, 99, 99, 99), (47, 66, 99, 99, 99, 99, 99, 99),
    *(((99,) * 8,) * 4),
)  # fmt: skip
"""ITU-T T.81, annex K."""


def exposure_gains(
    exposures: Sequence[Exposure], linear: Pictures, labels: Float[Tensor, "b n 3"]
) -> Float[Tensor, "b 3"]:
    """Gains of automatic exposures metered at face and picture, as `exposure_gain`."""
    side = linear.shape[1] - 1
    x, y = (labels[..., k].round().long().clamp(0, side) for k in (0, 1))
    image = torch.arange(len(linear), device=linear.device)[:, None]
    face = linear[image, y, x].flatten(1).quantile(0.5, dim=1)
    level = (0.6 * face + 0.4 * linear.clamp(max=1.5).mean((1, 2, 3))).clamp(min=0.004)
    power = linear.new_tensor([e.power for e in exposures])
    own = torch.stack([torch.from_numpy(e.gain) for e in exposures]).to(linear)
    return ((0.2 / level) ** power).clamp(0.4, 9.0)[:, None] * own


def photograph_batch(
    linear: Pictures, gains: Float[Tensor, "b 3"], faults: Sequence[Faults]
) -> UInt8[Tensor, "b h w 3"]:
    """Pictures in sRGB, each by its own camera."""
    picture = _tone(linear, gains, faults)
    for k, fault in enumerate(faults):
        if fault.motion_px.any():
            picture[k] = _smear(picture[k], fault.motion_px)
    picture = (picture.clamp(0, 1) * 255 + 0.5).floor()
    picture = _blur(picture, faults)
    for k, fault in enumerate(faults):
        if fault.small_px:
            picture[k] = _shrink_and_grow(picture[k], fault)
        if fault.noise:
            picture[k] = _noisy(picture[k], fault)
    return _jpeg(picture, [f.jpeg for f in faults]).to(torch.uint8)


def _tone(linear: Pictures, gains: Tensor, faults: Sequence[Faults]) -> Pictures:
    """Vignette, gain, shoulder, curve, contrast, saturation; floats about [0, 1]."""
    size = linear.shape[1]
    line = torch.linspace(-1, 1, size, device=linear.device, dtype=linear.dtype) ** 2
    column = {
        name: linear.new_tensor([getattr(f, name) for f in faults])[:, None, None, None]
        for name in ("vignette", "contrast", "saturation", "gamma")
    }
    lens = 1 - column["vignette"] * 0.5 * (line[:, None] + line[None])[None, ..., None]
    value = linear * gains[:, None, None] * lens
    value = value / (1 + 0.25 * (value - 0.6).clamp(min=0))
    table = torch.from_numpy(TO_SRGB).to(linear)
    value = table[(value.clamp(0, 1) * (len(table) - 1)).long()] ** column["gamma"]
    value = (value - 0.5) * column["contrast"] + 0.5
    mean = value.mean(-1, keepdim=True)
    return mean + (value - mean) * column["saturation"]


def _smear(picture: Float[Tensor, "h w 3"], vector) -> Float[Tensor, "h w 3"]:
    """Mean of five copies shifted by whole pixels along a vector (2,)."""
    steps = [(t * vector[0], t * vector[1]) for t in (-0.5, -0.25, 0.0, 0.25, 0.5)]
    shifts = {(round(float(dx)), round(float(dy))) for dx, dy in steps}
    height, width = picture.shape[:2]
    rows = torch.arange(height, device=picture.device)
    columns = torch.arange(width, device=picture.device)
    total = torch.zeros_like(picture)
    for dx, dy in shifts:
        moved = picture[(rows + dy).clamp(0, height - 1)]
        total += moved[:, (columns + dx).clamp(0, width - 1)]
    return total / len(shifts)


def _blur(picture: Pictures, faults: Sequence[Faults]) -> Pictures:
    """Gaussian blur of the images that have one, rounded to grey levels."""
    rows = [k for k, f in enumerate(faults) if f.blur_px > 0]
    if not rows:
        return picture
    sigma = picture.new_tensor([faults[k].blur_px for k in rows])
    radius = max(1, math.ceil(3 * float(sigma.max())))
    offset = torch.arange(-radius, radius + 1, device=picture.device, dtype=picture.dtype)
    kernel = torch.exp(-0.5 * (offset / sigma[:, None].clamp(min=1e-2)) ** 2)
    kernel = (kernel / kernel.sum(1, keepdim=True)).repeat_interleave(3, 0)
    planes = picture[rows].permute(0, 3, 1, 2).flatten(0, 1)[None]
    groups = planes.shape[1]
    planes = functional.pad(planes, (radius,) * 4, mode="replicate")
    planes = functional.conv2d(planes, kernel[:, None, None, :], groups=groups)
    planes = functional.conv2d(planes, kernel[:, None, :, None], groups=groups)
    picture[rows] = planes[0].unflatten(0, (-1, 3)).permute(0, 2, 3, 1).add(0.5).floor()
    return picture


def _shrink_and_grow(picture: Float[Tensor, "h w 3"], fault: Faults) -> Float[Tensor, "h w 3"]:
    """Shrunk to `small_px` and grown again, with Pillow's antialiased filters."""
    mode = "bicubic" if fault.bicubic else "bilinear"
    planes, size = picture.permute(2, 0, 1)[None], picture.shape[0]
    for side in (fault.small_px, size):
        planes = functional.interpolate(planes, (side, side), mode=mode, antialias=True)
        planes = planes.add(0.5).floor().clamp(0, 255)
    return planes[0].permute(1, 2, 0)


def _noisy(picture: Float[Tensor, "h w 3"], fault: Faults) -> Float[Tensor, "h w 3"]:
    generator = torch.Generator(picture.device).manual_seed(fault.noise_seed)
    shape = (*picture.shape[:2], 1 if fault.grey_noise else 3)
    noise = torch.randn(shape, generator=generator, device=picture.device) * fault.noise
    if fault.shot:
        noise = noise * (picture / 128 + 0.1).sqrt()
    return (picture + noise).clamp(0, 255).floor()


def _jpeg(picture: Pictures, quality: Sequence[int]) -> Pictures:
    """Pictures in grey levels after JPEG at each one's quality; 0 leaves a picture as it is."""
    rows = [k for k, q in enumerate(quality) if q > 0]
    if not rows:
        return picture
    scale = picture.new_tensor([_quality_scale(quality[k]) for k in rows])
    height, width = picture.shape[1:3]
    planes = picture[rows].permute(0, 3, 1, 2)
    padding = (0, -width % 16, 0, -height % 16)
    planes = functional.pad(planes, padding, mode="replicate")
    red, green, blue = planes.unbind(1)
    luma = 0.299 * red + 0.587 * green + 0.114 * blue
    chroma = torch.stack(((blue - luma) / 1.772, (red - luma) / 1.402), 1)
    chroma = functional.avg_pool2d(chroma.round(), 2).round()
    luma = _quantised(luma.round()[:, None] - 128, _LUMA, scale)[:, 0] + 128
    chroma = _quantised(chroma, _CHROMA, scale).round().clamp(-128, 127)
    cb, cr = functional.interpolate(
        chroma, scale_factor=2, mode="bilinear", align_corners=False
    ).unbind(1)
    luma = luma.round().clamp(0, 255)
    green = luma - 0.344136 * cb - 0.714136 * cr
    out = torch.stack((luma + 1.402 * cr, green, luma + 1.772 * cb), -1)
    picture[rows] = out[:, :height, :width].add(0.5).floor().clamp(0, 255)
    return picture


def _quality_scale(quality: int) -> float:
    """Percentage by which libjpeg scales its quantisation tables."""
    return 5000 // quality if quality < 50 else 200 - 2 * quality


def _quantised(
    planes: Float[Tensor, "b c h w"], table: tuple[tuple[int, ...], ...], scale: Tensor
) -> Float[Tensor, "b c h w"]:
    """Planes after their 8 x 8 blocks' cosine coefficients were rounded to the table's steps."""
    step = torch.tensor(table, device=planes.device, dtype=planes.dtype)
    step = ((step * scale[:, None, None] + 50) / 100).floor().clamp(1, 255)
    basis = _cosines(planes.device, planes.dtype)
    blocks = planes.unfold(2, 8, 8).unfold(3, 8, 8)  # (b, c, h / 8, w / 8, 8, 8)
    coefficients = basis @ blocks @ basis.T
    step = step[:, None, None, None]
    units = coefficients / step
    units = units.sign() * (units.abs() + 0.5).floor()  # halves away from zero, as libjpeg
    restored = basis.T @ (units * step) @ basis
    return restored.transpose(3, 4).reshape(planes.shape)


@lru_cache(maxsize=4)
def _cosines(device: torch.device, dtype: torch.dtype) -> Float[Tensor, "8 8"]:
    """Orthonormal cosine basis, one frequency per row."""
    k = torch.arange(8, dtype=torch.float64)
    basis = torch.cos((2 * k[None] + 1) * k[:, None] * math.pi / 16) / 2
    basis[0] /= math.sqrt(2)
    return basis.to(device, dtype)
