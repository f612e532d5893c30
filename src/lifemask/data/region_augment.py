"""Random views of pictures with region maps: geometry, occluders, low resolution, JPEG, colours.

Everything is a function of a numpy generator, so a batch can be made again from its seed. What an
occluder hides becomes background in the map, as `types.REGION_NAMES` defines it.
"""

from __future__ import annotations

import io
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float, Int, UInt8
from numba import njit
from numpy import ndarray

from lifemask.data.augment import (
    NO_AUGMENTATION,
    AugmentConfig,
    View,
    change_colours,
    draw_views,
    warp,
)
from lifemask.data.regions import GLASSES, IGNORE, RegionSet
from lifemask.types import REGION_NAMES

BACKGROUND = REGION_NAMES.index("background")
SKIN = REGION_NAMES.index("skin")
_VIEW = AugmentConfig(rotation_deg=32.0, scale=0.22, shift=0.07, cutout=0.0)


@dataclass(frozen=True)
class RegionAugmentConfig:
    """Strengths; all zero (and `zoom` 1) gives the nominal view.

    Attributes:
        view: geometry, colours, blur and noise; its `cutout` stays 0: nothing would label it.
        zoom: median side of the view in nominal sides. With a `view.scale` of 0.22 the views span
            0.94 to 1.46 landmark squares, so the parser is at home in tight and in loose crops.
        occluder: probability of fingers, a bar or a patch in front of the face.
        low_resolution: probability of a picture of a half to an eighth of the resolution.
        jpeg: probability of JPEG artefacts (quality 12 to 70).
    """

    view: AugmentConfig = field(default_factory=lambda: _VIEW)
    zoom: float = 0.94
    occluder: float = 0.25
    low_resolution: float = 0.2
    jpeg: float = 0.15


NO_REGION_AUGMENTATION = RegionAugmentConfig(NO_AUGMENTATION, 1.0, 0.0, 0.0, 0.0)


def draw_batch(
    rng: np.random.Generator,
    source: RegionSet,
    ids: Int[ndarray, "b"],
    config: RegionAugmentConfig,
    size: int,
) -> tuple[Float[ndarray, "b size size 3"], UInt8[ndarray, "b size size"]]:
    """Augmented views of some pictures.

    Args:
        rng: source of randomness.
        source: pictures and maps.
        ids: (b,) which of them.
        config: strengths.
        size: side of the views in px.

    Returns:
        Views in [0, 1] (b, size, size, 3) float32 and their maps (b, size, size), `IGNORE` outside
        the picture; `GLASSES` is added where the source tells it (`regions.split_glasses`).
    """
    images, regions = source.gather(ids)
    side = source.view_side_px * config.zoom
    view = draw_views(rng, config.view, len(ids), images.shape[1], side, size)
    crops = warp(images, view, size)
    maps = warp_regions(regions, view, size)
    occlude(rng, config.occluder, crops, maps)
    lower_resolution(rng, config.low_resolution, crops)
    change_colours(rng, config.view, crops)
    compress(rng, config.jpeg, crops)
    return crops, maps


def warp_regions(
    regions: UInt8[ndarray, "b s s"], view: View, size: int
) -> UInt8[ndarray, "b size size"]:
    """Views of region maps: the class with the largest bilinear weight; `IGNORE` outside.

    `GLASSES` is told where it has half of the weight, whatever the class.
    """
    inverse = np.linalg.inv(view.matrix)
    back = -(inverse @ view.offset[..., None])[..., 0]
    out = np.empty((len(regions), size, size), np.uint8)
    single = (inverse.astype(np.float32), back.astype(np.float32))
    _warp_regions(np.ascontiguousarray(regions), *single, out)
    return out


def occlude(
    rng: np.random.Generator,
    chance: float,
    crops: Float[ndarray, "b s s 3"],
    maps: UInt8[ndarray, "b s s"],
) -> None:
    """Put things in front of some pictures (0..255), in place; their maps say background."""
    count, size = maps.shape[:2]
    donors = rng.integers(0, count, count)
    for i in np.nonzero(rng.random(count) < chance)[0]:
        strokes = _fingers(rng, size) if rng.random() < 0.45 else _bar(rng, size)
        skin = crops[i][maps[i] == SKIN]  # bare: glasses carry a flag
        if len(skin) and rng.random() < 0.6:
            colour = skin.mean(0) * np.exp(rng.normal(0, 0.25)) + rng.normal(0, 8, 3)
        else:
            colour = rng.uniform(0, 255, 3)
        textured = strokes.shape[0] == 1 and donors[i] != i and rng.random() < 0.5
        donor = crops[donors[i]][::-1] if textured else crops[:0, 0]
        paint = np.clip(colour, 0, 255).astype(np.float32)
        _stroke(crops[i], maps[i], strokes.astype(np.float32), paint, np.ascontiguousarray(donor))


def lower_resolution(
    rng: np.random.Generator, chance: float, crops: Float[ndarray, "b s s 3"]
) -> None:
    """Average some pictures over blocks of 2 to 8 px and enlarge them again, in place."""
    from PIL import Image

    size = crops.shape[1]
    for i in np.nonzero(rng.random(len(crops)) < chance)[0]:
        small = int(round(size / 2 ** rng.uniform(0.6, 2.6)))
        picture = Image.fromarray(np.clip(crops[i] + 0.5, 0, 255).astype(np.uint8))
        picture = picture.resize((small, small), Image.Resampling.BOX)
        crops[i] = np.asarray(picture.resize((size, size), Image.Resampling.BILINEAR))


def compress(rng: np.random.Generator, chance: float, crops: Float[ndarray, "b s s 3"]) -> None:
    """Send some pictures in [0, 1] through JPEG, in place."""
    from PIL import Image

    for i in np.nonzero(rng.random(len(crops)) < chance)[0]:
        stream = io.BytesIO()
        pixels = np.clip(crops[i] * 255 + 0.5, 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(stream, "JPEG", quality=int(rng.integers(12, 71)))
        with Image.open(stream) as picture:
            crops[i] = np.asarray(picture, np.float32) / 255


def _fingers(rng: np.random.Generator, size: int) -> ndarray:
    """Three or four parallel strokes (n, 5): x0, y0, x1, y1, radius in px."""
    count = int(rng.integers(2, 5))
    radius = rng.uniform(0.03, 0.07) * size
    angle = rng.uniform(0, 2 * np.pi)
    along = np.array([np.cos(angle), np.sin(angle)])
    across = np.array([-along[1], along[0]])
    tip = rng.uniform(0.15, 0.85, 2) * size
    rows = np.arange(count)[:, None] * 2.1 * radius
    starts = tip + across * rows + along * rng.normal(0, 1.2 * radius, (count, 1))
    ends = tip + across * rows + along * size
    return np.concatenate((starts, ends, np.full((count, 1), radius)), 1)


def _bar(rng: np.random.Generator, size: int) -> ndarray:
    """One thick stroke (1, 5): from a blob to a bar."""
    start = rng.uniform(0.0, 1.0, 2) * size
    end = start + rng.normal(0, 0.25, 2) * size
    return np.concatenate((start, end, [rng.uniform(0.05, 0.2) * size]))[None]


@njit(nogil=True, cache=True)
def _stroke(image, region, strokes, colour, donor):  # pragma: no cover - compiled
    """Paint capsules, darker towards their borders, or filled with `donor` where it has rows."""
    size = image.shape[0]
    textured = donor.shape[0] == size
    for k in range(strokes.shape[0]):
        x0, y0, x1, y1, radius = strokes[k]
        dx, dy = x1 - x0, y1 - y0
        length = dx * dx + dy * dy + np.float32(1e-6)
        for i in range(size):
            for j in range(size):
                t = ((j - x0) * dx + (i - y0) * dy) / length
                t = min(max(t, np.float32(0)), np.float32(1))
                ex, ey = j - x0 - t * dx, i - y0 - t * dy
                square = (ex * ex + ey * ey) / (radius * radius)
                if square < 1:
                    shade = np.float32(1) - np.float32(0.45) * square
                    for c in range(3):
                        image[i, j, c] = donor[i, j, c] if textured else colour[c] * shade
                    region[i, j] = BACKGROUND


@njit(nogil=True, cache=True, fastmath=True)
def _warp_regions(regions, inverse, back, out):  # pragma: no cover - compiled
    count, size = out.shape[0], out.shape[1]
    top = regions.shape[1] - 1
    low, high = np.float32(-0.5), np.float32(top + 0.5)
    for b in range(count):
        a00, a01 = inverse[b, 0, 0], inverse[b, 0, 1]
        a10, a11 = inverse[b, 1, 0], inverse[b, 1, 1]
        for i in range(size):
            for j in range(size):
                x = a00 * np.float32(j) + a01 * np.float32(i) + back[b, 0]
                y = a10 * np.float32(j) + a11 * np.float32(i) + back[b, 1]
                if x < low or x > high or y < low or y > high:
                    out[b, i, j] = IGNORE
                    continue
                x = min(max(x, np.float32(0)), np.float32(top))
                y = min(max(y, np.float32(0)), np.float32(top))
                x0, y0 = np.int64(x), np.int64(y)
                x1, y1 = min(x0 + 1, top), min(y0 + 1, top)
                r00, r01 = regions[b, y0, x0], regions[b, y0, x1]
                r10, r11 = regions[b, y1, x0], regions[b, y1, x1]
                if r00 == r01 and r00 == r10 and r00 == r11:
                    out[b, i, j] = r00
                    continue
                fx, fy = x - np.float32(x0), y - np.float32(y0)
                w00 = (1 - fx) * (1 - fy)
                w01, w10, w11 = fx * (1 - fy), (1 - fx) * fy, fx * fy
                worn = _worn(r00) * w00 + _worn(r01) * w01 + _worn(r10) * w10 + _worn(r11) * w11
                c00, c01, c10, c11 = _bare(r00), _bare(r01), _bare(r10), _bare(r11)
                found = _heaviest(c00, c01, c10, c11, w00, w01, w10, w11)
                if found != IGNORE and worn >= np.float32(0.5):
                    found |= np.uint8(GLASSES)
                out[b, i, j] = found


@njit(nogil=True, cache=True, inline="always")
def _worn(label):  # pragma: no cover - compiled
    """1 for glasses."""
    return np.float32(1) if label != IGNORE and label & np.uint8(GLASSES) else np.float32(0)


@njit(nogil=True, cache=True, inline="always")
def _bare(label):  # pragma: no cover - compiled
    """The class alone."""
    return label if label == IGNORE else label & np.uint8(GLASSES - 1)


@njit(nogil=True, cache=True, inline="always")
def _heaviest(r0, r1, r2, r3, w0, w1, w2, w3):  # pragma: no cover - compiled
    """The class with the largest sum of weights."""
    s0 = w0 + (w1 if r1 == r0 else 0) + (w2 if r2 == r0 else 0) + (w3 if r3 == r0 else 0)
    s1 = w1 + (w2 if r2 == r1 else 0) + (w3 if r3 == r1 else 0)
    s2 = w2 + (w3 if r3 == r2 else 0)
    best, winner = s0, r0
    if s1 > best:
        best, winner = s1, r1
    if s2 > best:
        best, winner = s2, r2
    if w3 > best:
        winner = r3
    return winner
