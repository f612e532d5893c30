"""Random views of labelled crops: one affine map for image and points, then changes of colour.

Everything is a function of a numpy generator, so a batch can be made again from its seed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8
from numba import njit
from numpy import ndarray


@dataclass(frozen=True)
class AugmentConfig:
    """Strengths; all zero gives the nominal crop.

    Attributes:
        rotation_deg: in-plane rotation, uniform in +- this.
        scale: relative size, log-uniform in +- this.
        shift: of the centre in crop sides, uniform in +- this.
        flip: probability of a mirror image.
        gain: standard deviation of log gain, common and (half of it) per channel.
        bias: standard deviation of the offset in units of full range.
        gamma: standard deviation of log gamma.
        grey: probability of a grey image.
        noise: largest standard deviation of the noise in units of full range (half of the images).
        blur: probability of a blur of one to four binomial passes.
        cutout: probability of a rectangle from another image or of one colour.
    """

    rotation_deg: float = 28.0
    scale: float = 0.12
    shift: float = 0.06
    flip: float = 0.5
    gain: float = 0.2
    bias: float = 0.05
    gamma: float = 0.2
    grey: float = 0.12
    noise: float = 0.05
    blur: float = 0.25
    cutout: float = 0.25


NO_AUGMENTATION = AugmentConfig(*([0.0] * 11))


@dataclass(frozen=True)
class View:
    """Affine maps from source px to crop px, `p' = matrix p + offset`, and the size ratio.

    Attributes:
        matrix: (b, 2, 2).
        offset: (b, 2) px.
        scale: (b,) crop px per source px; nearness w scales by it.
        flipped: (b,) the map mirrors, so left and right landmarks change places.
    """

    matrix: Float[ndarray, "b 2 2"]
    offset: Float[ndarray, "b 2"]
    scale: Float[ndarray, "b"]
    flipped: Bool[ndarray, "b"]


def draw_views(
    rng: np.random.Generator,
    config: AugmentConfig,
    count: int,
    source_size: int,
    nominal_side_px: float,
    size: int,
) -> View:
    """Random views of `count` images.

    Args:
        rng: source of randomness.
        config: strengths.
        count: number of images b.
        source_size: side of the source images in px.
        nominal_side_px: side of the nominal crop, centred in the source, in source px.
        size: side of the result in px.
    """
    angle = np.radians(rng.uniform(-1, 1, count) * config.rotation_deg)
    scale = size / nominal_side_px * np.exp(rng.uniform(-1, 1, count) * config.scale)
    shift = rng.uniform(-1, 1, (count, 2)) * config.shift * size
    flipped = rng.random(count) < config.flip
    c, s = np.cos(angle), np.sin(angle)
    rotation = np.stack((np.stack((c, -s), -1), np.stack((s, c), -1)), -2)
    mirror = np.where(flipped, -1.0, 1.0)
    matrix = scale[:, None, None] * rotation
    matrix[:, :, 0] *= mirror[:, None]
    center = np.full(2, source_size / 2 - 0.5)
    offset = size / 2 - 0.5 + shift - matrix @ center
    return View(matrix, offset, scale, flipped)


def move_points(
    points: Float[ndarray, "b k d"], view: View, flip_table: Int[ndarray, "k"]
) -> Float[ndarray, "b k d"]:
    """Points of the source images in the views' crop px, partners exchanged where mirrored."""
    moved = points.astype(np.float32).copy()
    moved[..., :2] = points[..., :2] @ view.matrix.swapaxes(1, 2) + view.offset[:, None]
    if points.shape[-1] == 3:
        moved[..., 2] = points[..., 2] * view.scale[:, None]
    moved[view.flipped] = moved[view.flipped][:, flip_table]
    return moved


def warp(
    images: UInt8[ndarray, "b s s 3"], view: View, size: int
) -> Float[ndarray, "b size size 3"]:
    """Bilinear views (b, size, size, 3) in 0..255 float32; the border colour continues outside."""
    inverse = np.linalg.inv(view.matrix)
    back = -(inverse @ view.offset[..., None])[..., 0]
    out = np.empty((len(images), size, size, 3), np.float32)
    single = (inverse.astype(np.float32), back.astype(np.float32))
    _warp(np.ascontiguousarray(images), *single, out)
    return out


def change_colours(
    rng: np.random.Generator, config: AugmentConfig, crops: Float[ndarray, "b s s 3"]
) -> Float[ndarray, "b s s 3"]:
    """Blur, cut-outs, gain, offset, gamma, grey and noise, in place; result in [0, 1].

    Args:
        rng: source of randomness.
        config: strengths.
        crops: (b, s, s, 3) float32 in 0..255; overwritten.
    """
    count, size = crops.shape[:2]
    passes = np.where(rng.random(count) < config.blur, rng.integers(1, 5, count), 0)
    boxes = _draw_boxes(rng, config, count, size)
    donors = np.where(rng.random(count) < 0.5, rng.integers(0, count, count), -1)
    fills = rng.uniform(0, 255, (count, 3)).astype(np.float32)
    tables = _draw_tables(rng, config, count)
    grey = rng.random(count) < config.grey
    noise = rng.uniform(0, config.noise, count) * (rng.random(count) < 0.5)
    seeds = rng.integers(1, 2**31 - 1, count)
    _change(crops, passes, boxes, donors, fills, tables, grey, noise.astype(np.float32), seeds)
    return crops


def _draw_boxes(rng: np.random.Generator, config: AugmentConfig, count: int, size: int) -> ndarray:
    """Rectangles (count, 4) of a cut-out, rows and columns [r0, r1) x [c0, c1); empty if none."""
    sides = rng.uniform(0.12, 0.45, (count, 2)) * size
    corner = rng.uniform(-0.1, 0.9, (count, 2)) * size
    low = np.clip(corner, 0, size)
    high = np.clip(corner + sides, 0, size)
    high = np.where((rng.random(count) < config.cutout)[:, None], high, low)
    return np.stack((low[:, 0], high[:, 0], low[:, 1], high[:, 1]), 1).astype(np.int64)


def _draw_tables(rng: np.random.Generator, config: AugmentConfig, count: int) -> ndarray:
    """Tone curves (count, 3, 256) from 0..255 to [0, 1] float32."""
    gain = rng.normal(0, config.gain, (count, 1)) + rng.normal(0, config.gain / 2, (count, 3))
    bias = rng.normal(0, 1, (count, 1)) * config.bias + rng.normal(0, 0.5, (count, 3)) * config.bias
    gamma = np.exp(rng.normal(0, 1, (count, 1, 1)) * config.gamma)
    line = (np.arange(256) / 255)[None, None] ** gamma
    return np.clip(line * np.exp(gain)[..., None] + bias[..., None], 0, 1).astype(np.float32)


@njit(nogil=True, cache=True, fastmath=True)
def _warp(images, inverse, back, out):  # pragma: no cover - compiled
    count, size = out.shape[0], out.shape[1]
    top = images.shape[1] - 1
    zero, edge = np.float32(0), np.float32(top)
    for b in range(count):
        a00, a01 = inverse[b, 0, 0], inverse[b, 0, 1]
        a10, a11 = inverse[b, 1, 0], inverse[b, 1, 1]
        for i in range(size):
            for j in range(size):
                fj, fi = np.float32(j), np.float32(i)
                x = min(max(a00 * fj + a01 * fi + back[b, 0], zero), edge)
                y = min(max(a10 * fj + a11 * fi + back[b, 1], zero), edge)
                x0, y0 = np.int64(x), np.int64(y)
                x1, y1 = min(x0 + 1, top), min(y0 + 1, top)
                fx, fy = x - np.float32(x0), y - np.float32(y0)
                for c in range(3):
                    p00, p01 = np.float32(images[b, y0, x0, c]), np.float32(images[b, y0, x1, c])
                    p10, p11 = np.float32(images[b, y1, x0, c]), np.float32(images[b, y1, x1, c])
                    upper = p00 + (p01 - p00) * fx
                    lower = p10 + (p11 - p10) * fx
                    out[b, i, j, c] = upper + (lower - upper) * fy


@njit(nogil=True, cache=True)
def _blur(image):  # pragma: no cover - compiled
    """One binomial (1, 2, 1) pass along rows and columns, in place."""
    size = image.shape[0]
    for c in range(3):
        for i in range(size):
            before = image[i, 0, c]
            for j in range(size):
                here = image[i, j, c]
                after = image[i, min(j + 1, size - 1), c]
                image[i, j, c] = 0.25 * before + 0.5 * here + 0.25 * after
                before = here
        for j in range(size):
            before = image[0, j, c]
            for i in range(size):
                here = image[i, j, c]
                after = image[min(i + 1, size - 1), j, c]
                image[i, j, c] = 0.25 * before + 0.5 * here + 0.25 * after
                before = here


@njit(nogil=True, cache=True)
def _change(crops, passes, boxes, donors, fills, tables, grey, noise, seeds):  # pragma: no cover
    count, size = crops.shape[0], crops.shape[1]
    for b in range(count):
        for _ in range(passes[b]):
            _blur(crops[b])
    for b in range(count):
        for i in range(boxes[b, 0], boxes[b, 1]):
            for j in range(boxes[b, 2], boxes[b, 3]):
                for c in range(3):
                    # Already toned donors are in [0, 1]; later ones still in 0..255.
                    if donors[b] > b:
                        crops[b, i, j, c] = crops[donors[b], size - 1 - i, j, c]
                    else:
                        crops[b, i, j, c] = fills[b, c]
        state = np.uint32(seeds[b])
        for i in range(size):
            for j in range(size):
                for c in range(3):
                    level = min(max(int(crops[b, i, j, c] + 0.5), 0), 255)
                    crops[b, i, j, c] = tables[b, c, level]
                if grey[b]:
                    tone = (
                        0.299 * crops[b, i, j, 0]
                        + 0.587 * crops[b, i, j, 1]
                        + 0.114 * crops[b, i, j, 2]
                    )
                    for c in range(3):
                        crops[b, i, j, c] = tone
                if noise[b] > 0:
                    for c in range(3):
                        total = 0.0
                        for _ in range(2):  # sum of two uniform numbers: variance 1/6
                            state ^= np.uint32(state << np.uint32(13))
                            state ^= np.uint32(state >> np.uint32(17))
                            state ^= np.uint32(state << np.uint32(5))
                            total += state / 4294967296.0 - 0.5
                        value = crops[b, i, j, c] + noise[b] * 2.45 * total
                        crops[b, i, j, c] = min(max(value, 0.0), 1.0)
