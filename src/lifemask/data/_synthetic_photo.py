"""What a camera makes of linear light: exposure, tone, blur, low resolution, noise, JPEG."""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray


@dataclass(frozen=True)
class Exposure:
    """An automatic exposure: gain = clip((0.2 / metered level) ** power, 0.4, 9) * gain.

    Attributes:
        power: 1 compensates the metered brightness entirely, 0 not at all.
        gain: (3,) further factor per channel: a wrong exposure and white balance.
    """

    power: float
    gain: NDArray[np.float32]


@dataclass(frozen=True)
class Faults:
    """Everything that happens to an image between the lens and the file; 0 switches a fault off.

    Attributes:
        vignette: loss of light in the corners, as a share.
        gamma: exponent on the sRGB curve; contrast about mid grey; saturation (0 = grey picture).
        motion_px: (2,) vector along which the picture smears.
        blur_px: sigma of a Gaussian blur.
        small_px: side to which the picture is shrunk before it is grown again.
        bicubic: how that is done, else bilinear.
        noise: standard deviation in grey levels of 255; `shot` makes it grow with the root of
            brightness; `grey_noise` gives all channels the same.
        noise_seed: of the noise, which is not part of a scene.
        jpeg: quality.
    """

    vignette: float
    gamma: float
    contrast: float
    saturation: float
    motion_px: NDArray[np.float32]
    blur_px: float
    small_px: int
    bicubic: bool
    noise: float
    shot: bool
    grey_noise: bool
    noise_seed: int
    jpeg: int


def draw_exposure(rng: np.random.Generator) -> Exposure:
    """An exposure that compensates a third to nine tenths of the face's brightness."""
    gain = rng.lognormal(0.05, 0.22) * rng.lognormal(0, 0.05, 3)
    return Exposure(float(rng.uniform(0.4, 0.92)), gain.astype(np.float32))


def draw_faults(rng: np.random.Generator, size: int) -> Faults:
    """Faults of a random camera for a picture of `size` px."""
    chance = rng.random(7)
    angle, length = rng.uniform(0, np.pi), rng.uniform(1, 4.5) * size / 128
    return Faults(
        vignette=float(rng.uniform(0.05, 0.45)) if chance[0] < 0.25 else 0.0,
        gamma=float(np.clip(rng.normal(1, 0.1), 0.7, 1.4)),
        contrast=float(rng.normal(1, 0.11)),
        saturation=0.0 if chance[1] < 0.09 else float(np.clip(rng.normal(1, 0.2), 0.25, 1.6)),
        motion_px=np.array([np.cos(angle), np.sin(angle)], np.float32)
        * np.float32(length if chance[2] < 0.06 else 0),
        blur_px=float(abs(rng.normal(0, 0.9))) * size / 128 if chance[3] < 0.3 else 0.0,
        small_px=int(size * rng.uniform(0.28, 0.85)) if chance[4] < 0.22 else 0,
        bicubic=bool(rng.random() < 0.4),
        noise=float(abs(rng.normal(0, 6.0))) if chance[5] < 0.6 else 0.0,
        shot=bool(rng.random() < 0.5),
        grey_noise=bool(rng.random() < 0.4),
        noise_seed=int(rng.integers(2**31)),
        jpeg=int(rng.uniform(25, 96)) if chance[6] < 0.5 else 0,
    )


def no_faults() -> Faults:
    """A camera without any fault: the plain sRGB curve, eight bits."""
    zero = np.zeros(2, np.float32)
    return Faults(0.0, 1.0, 1.0, 1.0, zero, 0.0, 0, False, 0.0, False, False, 0, 0)


def exposure_gain(
    exposure: Exposure, linear: NDArray[np.float32], labels: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Gain (3,) of an exposure for a linear picture (h, w, 3) with face points (n, >= 2) px.

    The camera meters 0.6 of the median at the points and 0.4 of the mean of the picture, in which
    nothing counts for more than 1.5.
    """
    x = np.clip(np.rint(labels[:, 0]).astype(int), 0, linear.shape[1] - 1)
    y = np.clip(np.rint(labels[:, 1]).astype(int), 0, linear.shape[0] - 1)
    face, whole = np.median(linear[y, x]), np.minimum(linear, 1.5).mean()
    level = max(float(0.6 * face + 0.4 * whole), 0.004)
    auto = np.clip((0.2 / level) ** exposure.power, 0.4, 9.0)
    return (auto * exposure.gain).astype(np.float32)


@njit(cache=True, nogil=True, fastmath=True)
def _tone(linear, gain, contrast, saturation, vignette, gamma_table, out):
    """Linear RGB to sRGB floats in [0, 1]: vignette, gain, shoulder, curve, contrast, colour."""
    n = gamma_table.shape[0] - 1
    height, width = linear.shape[0], linear.shape[1]
    for y in range(height):
        for x in range(width):
            mean = 0.0
            dx, dy = 2.0 * x / (width - 1) - 1.0, 2.0 * y / (height - 1) - 1.0
            lens = 1.0 - vignette * 0.5 * (dx * dx + dy * dy)
            for c in range(3):
                v = linear[y, x, c] * gain[c] * lens
                v = v / (1 + 0.25 * max(0.0, v - 0.6))
                v = gamma_table[int(min(max(v, 0.0), 1.0) * n)]
                v = (v - 0.5) * contrast + 0.5
                out[y, x, c] = v
                mean += v / 3
            for c in range(3):
                out[y, x, c] = mean + (out[y, x, c] - mean) * saturation


_GRID = np.linspace(0, 1, 4096)
TO_SRGB = np.where(_GRID <= 0.0031308, 12.92 * _GRID, 1.055 * _GRID ** (1 / 2.4) - 0.055)
"""sRGB of 4096 evenly spaced linear values in [0, 1]."""


def photograph(
    linear: NDArray[np.float32], gain: NDArray[np.float32], faults: Faults
) -> NDArray[np.uint8]:
    """The picture (h, w, 3) uint8 sRGB that a camera makes of linear light (h, w, 3)."""
    from PIL import Image, ImageFilter

    size = linear.shape[0]
    image = np.empty_like(linear)
    table = (TO_SRGB**faults.gamma).astype(np.float32)
    _tone(linear, gain, faults.contrast, faults.saturation, faults.vignette, table, image)
    if faults.motion_px.any():
        image = _smear(image, faults.motion_px)
    pil = Image.fromarray((np.clip(image, 0, 1) * 255 + 0.5).astype(np.uint8))
    if faults.blur_px:
        pil = pil.filter(ImageFilter.GaussianBlur(faults.blur_px))
    if faults.small_px:
        mode = Image.Resampling.BICUBIC if faults.bicubic else Image.Resampling.BILINEAR
        pil = pil.resize((faults.small_px, faults.small_px), mode).resize((size, size), mode)
    if faults.noise:
        pil = Image.fromarray(_noisy(np.asarray(pil, np.float32), faults))
    if faults.jpeg:
        buffer = io.BytesIO()
        pil.save(buffer, "JPEG", quality=faults.jpeg)
        pil = Image.open(buffer)
    return np.asarray(pil.convert("RGB"))


def _smear(image: NDArray[np.float32], vector: NDArray[np.float32]) -> NDArray[np.float32]:
    """Mean of five copies shifted by whole pixels along a vector (2,)."""
    shifts = {tuple(np.rint(t * vector).astype(int).tolist()) for t in np.linspace(-0.5, 0.5, 5)}
    total = np.zeros_like(image)
    for dx, dy in shifts:
        padded = np.pad(image, ((abs(dy),) * 2, (abs(dx),) * 2, (0, 0)), mode="edge")
        y, x = abs(dy) + dy, abs(dx) + dx
        total += padded[y : y + image.shape[0], x : x + image.shape[1]]
    return total / np.float32(len(shifts))


def _noisy(image: NDArray[np.float32], faults: Faults) -> NDArray[np.uint8]:
    """Seeded sensor noise on an image in [0, 255]."""
    rng = np.random.default_rng(faults.noise_seed)
    shape = image.shape[:2] + ((1,) if faults.grey_noise else (3,))
    noise = rng.standard_normal(shape, dtype=np.float32) * np.float32(faults.noise)
    if faults.shot:
        noise = noise * np.sqrt(image / 128 + 0.1)
    return np.clip(image + noise, 0, 255).astype(np.uint8)
