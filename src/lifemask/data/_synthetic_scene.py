"""Light, backgrounds, screen-space occluders and camera artefacts of the generator."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numba import njit
from numpy.typing import NDArray

from lifemask.data._synthetic_skins import noise_field

BACKGROUND_SIZE = 192
_A_OVER_PI = np.array([1, *[2 / 3] * 3, *[1 / 4] * 5], np.float32)


@dataclass(frozen=True)
class Surroundings:
    """Environments and photo crops that all images of a run draw from.

    Attributes:
        maps: equirectangular linear radiance (h, w, 3), mean luminance 1.
        photos: (n, s, s, 3) uint8 real pictures for backgrounds and occluders, or None.
    """

    maps: tuple[NDArray[np.float32], ...]
    photos: NDArray[np.uint8] | None = None


def load_environments(folder: Path) -> tuple[NDArray[np.float32], ...]:
    """All `.exr` maps of a folder as linear RGB of mean luminance 1, at most 512 wide.

    Raises:
        FileNotFoundError: no `.exr` in the folder.
    """
    import OpenEXR  # pyright: ignore[reportMissingImports]

    maps = []
    for file in sorted(Path(folder).glob("*.exr")):
        with OpenEXR.File(str(file)) as exr:
            channels = exr.channels()
            key = next(k for k in ("RGB", "RGBA") if k in channels)
            pixels = np.asarray(channels[key].pixels, np.float32)[..., :3]
        step = max(1, pixels.shape[1] // 512)
        pixels = np.nan_to_num(pixels[::step, ::step], posinf=1e3)
        luminance = (pixels @ np.array([0.21, 0.72, 0.07], np.float32)).mean()
        maps.append(np.ascontiguousarray(np.clip(pixels / max(luminance, 1e-6), 0, 2e3)))
    if not maps:
        raise FileNotFoundError(f"no .exr environments in {folder}")
    return tuple(maps)


def sh_basis(d: NDArray[np.float32]) -> NDArray[np.float32]:
    """Real spherical harmonics (n, 9) at unit directions (n, 3), ordered as `types.Lighting`."""
    x, y, z = d[:, 0], d[:, 1], d[:, 2]
    return np.stack(
        [
            0.282095 + 0 * x, 0.488603 * y, 0.488603 * z, 0.488603 * x, 1.092548 * x * y,
            1.092548 * y * z, 0.315392 * (3 * z * z - 1), 1.092548 * x * z,
            0.546274 * (x * x - y * y),
        ], 1,
    )  # fmt: skip


def random_light(surroundings: Surroundings, rng: np.random.Generator) -> NDArray[np.float32]:
    """SH (9, 3), premultiplied by A_l / pi, of one environment turned at random."""
    env = surroundings.maps[rng.integers(len(surroundings.maps))]
    step = max(1, env.shape[0] // 24)
    small = env[step // 2 :: step, step // 2 :: step]
    h, w = small.shape[:2]
    theta = (np.arange(h) + 0.5) / h * np.pi
    phi = (np.arange(w) + 0.5) / w * 2 * np.pi + rng.uniform(0, 2 * np.pi)
    tilt = rng.normal(0, 0.25)
    t, p = np.meshgrid(theta, phi, indexing="ij")
    d = np.stack([np.sin(t) * np.sin(p), np.cos(t), np.sin(t) * np.cos(p)], -1).reshape(-1, 3)
    c, s = np.cos(tilt), np.sin(tilt)
    d = d @ np.array([[1, 0, 0], [0, c, -s], [0, s, c]])
    solid = (np.sin(t) * (np.pi / h) * (2 * np.pi / w)).reshape(-1, 1)
    radiance = np.minimum(small.reshape(-1, 3), 60.0) * solid
    sh = sh_basis(d).T @ radiance
    tint = rng.lognormal(0, 0.12, 3)
    grey = sh.mean(1, keepdims=True)
    k = rng.uniform(0, 1)
    sh = (k * sh + (1 - k) * grey) * tint
    if rng.random() < 0.25:
        sh[1:] *= rng.uniform(0, 0.8)
    return (sh * _A_OVER_PI[:, None]).astype(np.float32)


def background_bank(surroundings: Surroundings, rng, count: int) -> NDArray[np.uint8]:
    """Backgrounds (count, s, s, 3) uint8: environment views, photos, gradients, noise, shapes."""
    out = np.empty((count, BACKGROUND_SIZE, BACKGROUND_SIZE, 3), np.uint8)
    for i in range(count):
        kind = rng.random()
        if surroundings.photos is not None and kind < 0.6:
            photo = surroundings.photos[rng.integers(len(surroundings.photos))]
            image = _resize(photo[::-1].astype(np.float32) / 255, BACKGROUND_SIZE)
        elif kind < 0.75:
            image = _environment_view(surroundings, rng)
        else:
            image = _pattern(rng)
        out[i] = np.clip(image * 255, 0, 255).astype(np.uint8)
    return out


def _resize(image, size):
    from PIL import Image

    pil = Image.fromarray(np.clip(image * 255, 0, 255).astype(np.uint8))
    return np.asarray(pil.resize((size, size), Image.Resampling.BILINEAR), np.float32) / 255


def _environment_view(surroundings, rng):
    """Perspective view of an environment, tone-mapped."""
    from scipy.ndimage import map_coordinates

    env = surroundings.maps[rng.integers(len(surroundings.maps))]
    h, w = env.shape[:2]
    half = np.tan(np.deg2rad(rng.uniform(15, 50)))
    g = np.linspace(-half, half, BACKGROUND_SIZE)
    x, y = np.meshgrid(g, -g)
    phi = np.arctan2(x, 1.0) + rng.uniform(0, 2 * np.pi)
    theta = np.pi / 2 - np.arctan2(y + rng.normal(0, 0.25), np.hypot(x, 1.0))
    rows, columns = theta / np.pi * h - 0.5, (phi / (2 * np.pi) * w - 0.5) % w
    view = np.stack(
        [map_coordinates(env[..., k], [rows, columns], order=1, mode="nearest") for k in range(3)],
        -1,
    )
    view = view / (np.percentile(view, 80) + 1e-4) * rng.uniform(0.4, 1.2)
    return np.clip(view, 0, 1) ** (1 / 2.2)


def _pattern(rng):
    n = BACKGROUND_SIZE
    y, x = np.mgrid[:n, :n] / n
    a, b = rng.random((2, 3))
    angle = rng.uniform(0, 6.28)
    t = np.clip(0.5 + (x - 0.5) * np.cos(angle) + (y - 0.5) * np.sin(angle), 0, 1)[..., None]
    image = a * (1 - t) + b * t
    if rng.random() < 0.6:
        for _ in range(rng.integers(1, 4)):
            field = noise_field(rng, (n, n), rng.uniform(2, 60))[..., None]
            image = image + field * rng.normal(0, 0.12, 3)
    for _ in range(rng.integers(0, 14)):
        c, r = rng.random(2), rng.uniform(0.03, 0.4, 2)
        dx, dy = np.abs(x - c[0]) / r[0], np.abs(y - c[1]) / r[1]
        inside = (dx < 1) & (dy < 1) if rng.random() < 0.6 else dx**2 + dy**2 < 1
        image[inside] = rng.random(3) * (0.6 + 0.4 * image[inside])
    return np.clip(image, 0, 1)


@njit(cache=True, nogil=True)
def _sample_crop(bank_image, x0, y0, scale, flip, gain, table, out):
    """Bilinear crop of a uint8 picture into linear float `out` (h, w, 3)."""
    h, w = bank_image.shape[0], bank_image.shape[1]
    for y in range(out.shape[0]):
        for x in range(out.shape[1]):
            sx = x0 + (out.shape[1] - 1 - x if flip else x) * scale
            sy = y0 + y * scale
            ix, iy = int(sx), int(sy)
            fx, fy = sx - ix, sy - iy
            jx, jy = min(ix + 1, w - 1), min(iy + 1, h - 1)
            for c in range(3):
                top = bank_image[iy, ix, c] * (1 - fx) + bank_image[iy, jx, c] * fx
                low = bank_image[jy, ix, c] * (1 - fx) + bank_image[jy, jx, c] * fx
                out[y, x, c] = table[int(top * (1 - fy) + low * fy)] * gain[c]


SRGB_TO_LINEAR = (
    np.where(
        np.arange(256) / 255 <= 0.04045,
        np.arange(256) / 255 / 12.92,
        ((np.arange(256) / 255 + 0.055) / 1.055) ** 2.4,
    )
).astype(np.float32)


def random_crop(bank: NDArray[np.uint8], rng: np.random.Generator, size: int) -> NDArray:
    """A random crop of a random bank picture, linear (size, size, 3)."""
    picture = bank[rng.integers(len(bank))]
    share = rng.uniform(0.4, 1.0)
    scale = share * (BACKGROUND_SIZE - 1) / (size - 1)
    rest = (1 - share) * (BACKGROUND_SIZE - 1) * 0.999
    out = np.empty((size, size, 3), np.float32)
    gain = (rng.lognormal(0, 0.3) * rng.lognormal(0, 0.1, 3)).astype(np.float32)
    _sample_crop(
        picture, rng.random() * rest, rng.random() * rest, scale * 0.999, rng.random() < 0.5,
        gain, SRGB_TO_LINEAR, out,
    )  # fmt: skip
    return out


def random_occluder(
    bank: NDArray[np.uint8], rng: np.random.Generator, size: int, skin: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """A thing in front of the face: soft mask (size, size) and linear colour (size, size, 3).

    Args:
        bank: pictures for the texture.
        rng: decides shape and place.
        size: image side.
        skin: (3,) linear colour for hands.
    """
    y, x = np.mgrid[:size, :size].astype(np.float32)
    cx, cy = rng.uniform(0.1, 0.9, 2) * size
    kind = rng.random()
    colour = random_crop(bank, rng, size)
    if kind < 0.35:  # fingers: capsules side by side
        angle = rng.uniform(0, 2 * np.pi)
        ax, ay = np.cos(angle), np.sin(angle)
        width = rng.uniform(0.028, 0.06) * size
        mask = np.zeros((size, size), np.float32)
        height = np.zeros_like(mask)
        for k in range(rng.integers(1, 6)):
            bend = angle + rng.normal(0, 0.06)
            bx, by = np.cos(bend), np.sin(bend)
            ox, oy = cx - ay * k * width * 1.9, cy + ax * k * width * 1.9
            u = (x - ox) * bx + (y - oy) * by
            v = (x - ox) * by - (y - oy) * bx
            u = np.maximum(-u - rng.uniform(-4, 4), 0)
            d = np.hypot(u, v) / width
            mask = np.maximum(mask, np.clip((1 - d) * width, 0, 1))
            height = np.maximum(height, np.sqrt(np.clip(1 - d * d, 0.05, 1)))
        colour = skin * (0.35 + 0.65 * height[..., None]) * rng.uniform(0.5, 1.2)
    elif kind < 0.7:
        a, b = rng.uniform(0.06, 0.3, 2) * size
        t = rng.uniform(0, np.pi)
        u = (x - cx) * np.cos(t) + (y - cy) * np.sin(t)
        v = (y - cy) * np.cos(t) - (x - cx) * np.sin(t)
        mask = np.clip((1 - np.hypot(u / a, v / b)) * min(a, b), 0, 1)
    else:  # convex polygon as half-planes
        mask = np.full((size, size), 1e9, np.float32)
        for t in np.sort(rng.uniform(0, 2 * np.pi, rng.integers(3, 7))):
            r = rng.uniform(0.05, 0.28) * size
            mask = np.minimum(mask, r - (x - cx) * np.cos(t) - (y - cy) * np.sin(t))
        mask = np.clip(mask, 0, 1)
    return mask.astype(np.float32), colour.astype(np.float32)


@njit(cache=True, nogil=True, fastmath=True)
def _tone(linear, gain, contrast, saturation, gamma_table, out):
    """Linear RGB to sRGB floats in [0, 1] with gain, contrast and saturation."""
    n = gamma_table.shape[0] - 1
    for y in range(linear.shape[0]):
        for x in range(linear.shape[1]):
            mean = 0.0
            for c in range(3):
                v = linear[y, x, c] * gain[c]
                v = v / (1 + 0.25 * max(0.0, v - 0.6))
                v = gamma_table[int(min(max(v, 0.0), 1.0) * n)]
                v = (v - 0.5) * contrast + 0.5
                out[y, x, c] = v
                mean += v / 3
            for c in range(3):
                out[y, x, c] = mean + (out[y, x, c] - mean) * saturation


_GRID = np.linspace(0, 1, 4096)
_TO_SRGB = np.where(_GRID <= 0.0031308, 12.92 * _GRID, 1.055 * _GRID ** (1 / 2.4) - 0.055)


def photograph(
    linear: NDArray[np.float32], gain: NDArray, rng: np.random.Generator
) -> NDArray[np.uint8]:
    """What a camera makes of it: tone, blur, low resolution, noise, JPEG, grey; uint8 sRGB."""
    from PIL import Image, ImageFilter

    size = linear.shape[0]
    image = np.empty_like(linear)
    gamma = rng.normal(1, 0.12)
    table = (_TO_SRGB ** np.clip(gamma, 0.65, 1.5)).astype(np.float32)
    saturation = 0.0 if rng.random() < 0.1 else np.clip(rng.normal(1, 0.22), 0.2, 1.7)
    _tone(linear, gain.astype(np.float32), rng.normal(1, 0.12), saturation, table, image)
    pil = Image.fromarray((np.clip(image, 0, 1) * 255 + 0.5).astype(np.uint8))
    draw = rng.random(4)
    if draw[0] < 0.3:
        pil = pil.filter(ImageFilter.GaussianBlur(abs(rng.normal(0, 0.9))))
    if draw[1] < 0.25:
        small = int(size * rng.uniform(0.28, 0.85))
        mode = Image.Resampling.BILINEAR if rng.random() < 0.6 else Image.Resampling.BICUBIC
        pil = pil.resize((small, small), mode).resize((size, size), mode)
    if draw[2] < 0.6:
        noise = rng.standard_normal((size, size, 3), dtype=np.float32)
        if rng.random() < 0.4:
            noise[:] = noise[..., :1]
        sigma = abs(rng.normal(0, 6.0))
        pil = Image.fromarray(
            np.clip(np.asarray(pil, np.float32) + sigma * noise, 0, 255).astype(np.uint8)
        )
    if draw[3] < 0.5:
        buffer = io.BytesIO()
        pil.save(buffer, "JPEG", quality=int(rng.uniform(25, 95)))
        pil = Image.open(io.BytesIO(buffer.getvalue()))
    return np.asarray(pil.convert("RGB"))
