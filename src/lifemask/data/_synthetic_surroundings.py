"""Environments of the generator: light with the key of the sun or a lamp, and backgrounds."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numba import njit
from numpy.typing import NDArray

from lifemask.data._synthetic_paint import noise_field

BACKGROUND_SIZE = 192
LUMINANCE = np.array([0.2126, 0.7152, 0.0722], np.float32)
KEY_CONE_DEG = 28.0
"""Around the brightest direction of an environment; what shines above the rest is its key light."""


@dataclass(frozen=True)
class Environment:
    """A panorama and what it shines, in the frame of `graphics.lighting.project_environment`.

    Attributes:
        picture: (h, w, 3) linear radiance, mean luminance 1, middle column behind the head.
        sh: (9, 3) radiance coefficients without the key light.
        key_direction: (3,) unit, towards the brightest spot.
        key_colour: (3,) irradiance / pi of that spot on a surface that faces it.
    """

    picture: NDArray[np.float32]
    sh: NDArray[np.float32]
    key_direction: NDArray[np.float32]
    key_colour: NDArray[np.float32]


@dataclass(frozen=True)
class Surroundings:
    """Environments and photo crops that all images of a run draw from.

    Attributes:
        environments: panoramas with their light.
        photos: (n, s, s, 3) uint8 real pictures for backgrounds and occluders, or None.
    """

    environments: tuple[Environment, ...]
    photos: NDArray[np.uint8] | None = None


@dataclass(frozen=True)
class Backgrounds:
    """Pictures (n, s, s, 3) uint8 sRGB of a shard.

    Where a picture is a view of an environment, `environment` (n,) is its index and `yaw` (n,)
    the direction of the view in radians; -1 and 0 elsewhere.
    """

    pictures: NDArray[np.uint8]
    environment: NDArray[np.int64]
    yaw: NDArray[np.float32]


@dataclass(frozen=True)
class Light:
    """Distant light of an image in the camera frame, linear RGB.

    Attributes:
        sh: (9, 3) radiance coefficients (`types.Lighting`).
        key_direction: (3,) unit vector to the key light.
        key_colour: (3,) its irradiance / pi; zeros without a key light.
        shadows: whether the key light casts shadows.
    """

    sh: NDArray[np.float32]
    key_direction: NDArray[np.float32]
    key_colour: NDArray[np.float32]
    shadows: bool


def load_environments(folder: Path) -> tuple[Environment, ...]:
    """All `.exr` panoramas of a folder, at most 512 wide, mean luminance 1.

    Raises:
        UserError: no `.exr` in the folder, or one that cannot be read.
    """
    from lifemask.assets import UserError
    from lifemask.graphics.environment import read_environment

    files = sorted(Path(folder).glob("*.exr"))
    if not files:
        raise UserError(f"no .exr environments in {folder}: put equirectangular panoramas there")
    return tuple(create_environment(read_environment(file)) for file in files)


def create_environment(radiance: NDArray[np.float32]) -> Environment:
    """A panorama (h, w, 3) of linear radiance split into its key light and the rest."""
    step = max(1, radiance.shape[1] // 512)
    picture = np.nan_to_num(radiance[::step, ::step], posinf=1e3)
    picture = picture / max(float((picture @ LUMINANCE).mean()), 1e-6)
    picture = np.ascontiguousarray(np.clip(picture, 0, 2e3), np.float32)
    small = _block_mean(picture, max(1, picture.shape[0] // 32))
    directions, area = panorama_directions(*small.shape[:2])
    weight = (small @ LUMINANCE) * area
    brightest = directions.reshape(-1, 3)[_smooth_peak(small @ LUMINANCE)]
    cone = directions @ brightest > np.cos(np.deg2rad(KEY_CONE_DEG))
    outside = small[~cone] @ LUMINANCE
    ceiling = 1.5 * float(np.average(outside, weights=area[~cone])) if len(outside) else 1.0
    share = np.clip(1 - ceiling / np.maximum(small @ LUMINANCE, 1e-6), 0, 1) * cone
    excess = small * share[..., None]
    colour = (excess * area[..., None]).sum((0, 1)) / np.pi
    direction = (directions * (weight * share)[..., None]).sum((0, 1)) + 1e-6 * brightest
    rest = (small - excess).reshape(-1, 3) * area.reshape(-1, 1)
    sh = sh_basis(directions.reshape(-1, 3)).T @ rest
    return Environment(picture, _f(sh), _f(direction / np.linalg.norm(direction)), _f(colour))


def _block_mean(picture, step):
    h, w = picture.shape[0] // step * step, picture.shape[1] // step * step
    blocks = picture[:h, :w].reshape(h // step, step, w // step, step, 3)
    return blocks.mean((1, 3))


def _smooth_peak(luminance) -> int:
    """Flat index of the brightest spot of a panorama after a small blur."""
    from scipy.ndimage import gaussian_filter1d

    around = gaussian_filter1d(luminance, 1.0, axis=1, mode="wrap")
    return int(np.argmax(gaussian_filter1d(around, 1.0, axis=0, mode="nearest")))


def panorama_directions(height: int, width: int) -> tuple[NDArray, NDArray]:
    """Unit directions (h, w, 3) and solid angles (h, w) of a panorama's pixels, camera frame."""
    edges = np.linspace(np.pi / 2, -np.pi / 2, height + 1)
    latitude = ((edges[:-1] + edges[1:]) / 2)[:, None]
    longitude = (((np.arange(width) + 0.5) / width - 0.5) * 2 * np.pi)[None]
    x, z = np.cos(latitude) * np.sin(longitude), -np.cos(latitude) * np.cos(longitude)
    area = (np.sin(edges[:-1]) - np.sin(edges[1:])) * (2 * np.pi / width)
    directions = np.stack([x, np.broadcast_to(np.sin(latitude), x.shape), z], -1)
    return directions, np.broadcast_to(area[:, None], x.shape)


def sh_basis(d: NDArray) -> NDArray:
    """Real spherical harmonics (n, 9) at unit directions (n, 3), ordered as `types.Lighting`."""
    x, y, z = d[:, 0], d[:, 1], d[:, 2]
    return np.stack(
        [
            0.282095 + 0 * x, 0.488603 * y, 0.488603 * z, 0.488603 * x, 1.092548 * x * y,
            1.092548 * y * z, 0.315392 * (3 * z * z - 1), 1.092548 * x * z,
            0.546274 * (x * x - y * y),
        ], 1,
    )  # fmt: skip


_CORNERS = np.array([(0, a, b * (1 + 5**0.5) / 2) for a in (-1, 1) for b in (-1, 1)])
_CORNERS = np.concatenate([np.roll(_CORNERS, k, 1) for k in range(3)])
_CORNERS /= np.linalg.norm(_CORNERS, axis=1, keepdims=True)


def rotate_sh(sh: NDArray, rotation: NDArray) -> NDArray[np.float32]:
    """Coefficients (9, 3) of the light turned by a rotation; twin of `graphics.lighting`."""
    mixing = sh_basis(_CORNERS).T @ sh_basis(_CORNERS @ rotation) * (4 * np.pi / 12)
    return _f(mixing @ sh)


def draw_light(
    surroundings: Surroundings, rng: np.random.Generator, view: tuple[int, float] | None
) -> Light:
    """The light of one image.

    Args:
        surroundings: environments to choose from.
        rng: decides.
        view: (index, yaw) of the environment that the background shows, which then lights the
            head; None draws an environment and turns it at random.

    Returns:
        Half of the lights keep the environment's own key, a quarter get a lamp from a random
        direction, the rest have order-2 light alone.
    """
    index, yaw = (int(rng.integers(len(surroundings.environments))), rng.uniform(0, 2 * np.pi))
    tilt = rng.normal(0, 0.2)
    if view is not None:
        (index, yaw), tilt = view, 0.0
    environment = surroundings.environments[index]
    turn = _turn(yaw, tilt)
    sh, direction = rotate_sh(environment.sh, turn), turn @ environment.key_direction
    colour, kind = environment.key_colour.astype(np.float64), rng.random()
    ambient = max(float(sh[0] @ LUMINANCE) * 0.282095, 1e-4)
    level = float(np.clip(rng.lognormal(-0.55, 0.45), 0.12, 1.4)) / ambient
    sh, colour = sh * level, colour * level
    if kind < 0.5:
        colour *= min(1.0, 2.2 / max(float(colour.max()), 1e-6))
    else:  # the environment's lamp becomes soft light
        sh = sh + directional_sh(direction, colour * min(1.0, 0.6 / max(colour.max(), 1e-6)))
        direction, colour = _lamp(rng) if kind < 0.75 else (direction, 0 * colour)
    sh, colour = _tint(sh, colour, rng)
    return Light(_f(sh), _f(direction), _f(colour), bool(rng.random() < 0.7))


def _turn(yaw: float, tilt: float) -> NDArray:
    """Rotation that brings the direction `yaw` of a panorama behind the head, then tilts."""
    c, s, ct, st = np.cos(yaw), np.sin(yaw), np.cos(tilt), np.sin(tilt)
    about_y = np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])
    return np.array([[1, 0, 0], [0, ct, -st], [0, st, ct]]) @ about_y


def directional_sh(direction: NDArray, colour: NDArray) -> NDArray:
    """Radiance coefficients (9, 3) of a lamp; twin of `graphics.lighting.directional_light`.

    A soft-box of 50 degrees radius, so that order 2 holds it without ringing.
    """
    cosine = np.cos(np.deg2rad(50.0))
    cap = np.array([1.0, (1 + cosine) / 2, cosine * (1 + cosine) / 2])[[0, 1, 1, 1, 2, 2, 2, 2, 2]]
    return np.pi * (sh_basis(direction[None])[0] * cap)[:, None] * colour[None]


def _lamp(rng: np.random.Generator) -> tuple[NDArray, NDArray]:
    azimuth, height = np.deg2rad(rng.normal(0, 60)), np.deg2rad(rng.normal(25, 28))
    direction = [np.sin(azimuth) * np.cos(height), np.sin(height), np.cos(azimuth) * np.cos(height)]
    power = np.clip(rng.lognormal(-0.5, 0.6), 0.05, 2.0)
    return np.array(direction), power * rng.lognormal(0, 0.08, 3) * np.array([1.05, 1.0, 0.95])


def _tint(sh: NDArray, colour: NDArray, rng: np.random.Generator) -> tuple[NDArray, NDArray]:
    """Light of another saturation and colour; a quarter are flatter than any environment."""
    k = rng.uniform(0, 1)
    tint = rng.lognormal(0, 0.1, 3)
    sh = (k * sh + (1 - k) * sh.mean(1, keepdims=True)) * tint
    if rng.random() < 0.25:
        sh[1:] *= rng.uniform(0, 0.8)
    return sh, (k * colour + (1 - k) * colour.mean()) * tint


def background_bank(surroundings: Surroundings, rng, count: int) -> Backgrounds:
    """Pictures of a shard: environment views, photos, gradients, noise, shapes."""
    pictures = np.empty((count, BACKGROUND_SIZE, BACKGROUND_SIZE, 3), np.uint8)
    environment, yaw = np.full(count, -1, np.int64), np.zeros(count, np.float32)
    for i in range(count):
        kind = rng.random()
        if surroundings.photos is not None and kind < 0.6:
            photo = surroundings.photos[rng.integers(len(surroundings.photos))]
            image = _resize(photo[::-1].astype(np.float32) / 255, BACKGROUND_SIZE)
        elif kind < 0.75:
            environment[i] = rng.integers(len(surroundings.environments))
            yaw[i] = rng.uniform(0, 2 * np.pi)
            panorama = surroundings.environments[environment[i]].picture
            image = environment_view(panorama, float(yaw[i]), rng)
        else:
            image = _pattern(rng)
        pictures[i] = np.clip(image * 255, 0, 255).astype(np.uint8)
    return Backgrounds(pictures, environment, yaw)


def _resize(image, size):
    from PIL import Image

    pil = Image.fromarray(np.clip(image * 255, 0, 255).astype(np.uint8))
    return np.asarray(pil.resize((size, size), Image.Resampling.BILINEAR), np.float32) / 255


def environment_view(panorama: NDArray, yaw: float, rng: np.random.Generator) -> NDArray:
    """Perspective view (s, s, 3) of a panorama towards `yaw` (radians), sRGB in [0, 1], blurred."""
    from scipy.ndimage import gaussian_filter, map_coordinates

    h, w = panorama.shape[:2]
    half = np.tan(np.deg2rad(rng.uniform(15, 50)))
    g = np.linspace(-half, half, BACKGROUND_SIZE)
    x, y = np.meshgrid(g, -g)
    longitude = np.arctan2(x, 1.0) + yaw
    latitude = np.arctan2(y + rng.normal(0, 0.25), np.hypot(x, 1.0))
    rows = (0.5 - latitude / np.pi) * h - 0.5
    columns = ((longitude / (2 * np.pi) + 0.5) * w - 0.5) % w
    view = np.stack(
        [
            map_coordinates(panorama[..., k], [rows, columns], order=1, mode="nearest")
            for k in range(3)
        ],
        -1,
    )
    if rng.random() < 0.6:  # out of focus
        sigma = rng.uniform(0.8, 6)
        view = gaussian_filter(view, (sigma, sigma, 0))
    view = view / (np.percentile(view, 85) + 1e-4) * rng.uniform(0.35, 1.0)
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


@dataclass(frozen=True)
class Cut:
    """A piece of a background picture: pixel (x, y) shows (x0 + x scale, y0 + y scale).

    Attributes:
        picture: index in the shard's `Backgrounds`.
        x0, y0: picture px of the first pixel; scale: picture px per pixel.
        flip: mirrored left to right.
        gain: (3,) factor on linear RGB.
    """

    picture: int
    x0: float
    y0: float
    scale: float
    flip: bool
    gain: NDArray[np.float32]


def draw_cut(count: int, rng: np.random.Generator, size: int) -> Cut:
    """A random cut of one of `count` pictures for an image of `size` px."""
    share = rng.uniform(0.4, 1.0)
    rest = (1 - share) * (BACKGROUND_SIZE - 1) * 0.999
    gain = rng.lognormal(-0.15, 0.3) * rng.lognormal(0, 0.08, 3)
    scale = share * (BACKGROUND_SIZE - 1) / (size - 1) * 0.999
    place = rng.random(2) * rest
    return Cut(
        int(rng.integers(count)), float(place[0]), float(place[1]), float(scale),
        bool(rng.random() < 0.5), gain.astype(np.float32),
    )  # fmt: skip


def cut_out(backgrounds: Backgrounds, cut: Cut, size: int) -> NDArray[np.float32]:
    """A cut as linear RGB (size, size, 3)."""
    out = np.empty((size, size, 3), np.float32)
    picture = backgrounds.pictures[cut.picture]
    _sample_cut(picture, cut.x0, cut.y0, cut.scale, cut.flip, cut.gain, SRGB_TO_LINEAR, out)
    return out


@njit(cache=True, nogil=True)
def _sample_cut(picture, x0, y0, scale, flip, gain, table, out):
    """Bilinear cut of a uint8 picture into linear float `out` (h, w, 3)."""
    h, w = picture.shape[0], picture.shape[1]
    for y in range(out.shape[0]):
        for x in range(out.shape[1]):
            sx = x0 + (out.shape[1] - 1 - x if flip else x) * scale
            sy = y0 + y * scale
            ix, iy = int(sx), int(sy)
            fx, fy = sx - ix, sy - iy
            jx, jy = min(ix + 1, w - 1), min(iy + 1, h - 1)
            for c in range(3):
                top = picture[iy, ix, c] * (1 - fx) + picture[iy, jx, c] * fx
                low = picture[jy, ix, c] * (1 - fx) + picture[jy, jx, c] * fx
                out[y, x, c] = table[int(top * (1 - fy) + low * fy)] * gain[c]


SRGB_TO_LINEAR = (
    np.where(
        np.arange(256) / 255 <= 0.04045,
        np.arange(256) / 255 / 12.92,
        ((np.arange(256) / 255 + 0.055) / 1.055) ** 2.4,
    )
).astype(np.float32)


def _f(a) -> NDArray[np.float32]:
    return np.ascontiguousarray(a, np.float32)
