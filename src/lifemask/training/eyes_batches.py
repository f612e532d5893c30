"""Batches of eyes: windows of renders, turned into crops such as photos and methods make."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, UInt8
from numpy import ndarray
from torch import Tensor
from torch.nn import functional

from lifemask.data.eye_windows import MARGIN, EyeWindows
from lifemask.faces.eyes import HEIGHT, WIDTH
from lifemask.nn.eye_net import eye_targets


@dataclass(frozen=True)
class EyeAugmentConfig:
    """How crops differ from the renders' own.

    Attributes:
        shift: standard deviation of the place, in widths of the crop.
        scale: of the logarithm of the size.
        turn_deg: of the turn in the image.
        view_deg: of the direction of the camera.
        lashes: share of the eyes that get a dark edge and lashes on the upper lid.
        shade: share of the eyes that lie in shadow: the eyeball darker than the skin around it, or
            all that is above the lower lid.
        lens: share behind dark or mirroring glass.
        coarse: share of the crops that are seen with fewer pixels, down to an eighth.
        colour: share of the crops whose contrast, tone curve and colour balance change.
        grey: share without colour.
        noise: largest standard deviation of the pixels' noise.
        hide: share with a patch of plain colour somewhere.
    """

    shift: float = 0.04
    scale: float = 0.08
    turn_deg: float = 5.0
    view_deg: float = 5.0
    lashes: float = 0.6
    shade: float = 0.5
    lens: float = 0.06
    coarse: float = 0.5
    colour: float = 0.7
    grey: float = 0.15
    noise: float = 0.06
    hide: float = 0.1


NO_EYE_AUGMENTATION = EyeAugmentConfig(*[0.0] * 12)


@dataclass(frozen=True)
class EyeBatch:
    """Crops (b, 3, 48, 64) in [0, 1], directions (b, 3), targets (b, 3) of `eye_targets`."""

    crops: Float[Tensor, "b 3 h w"]
    directions: Float[Tensor, "b 3"]
    targets: Float[Tensor, "b 3"]


def make_batch(
    eyes: EyeWindows, ids: ndarray, rng: np.random.Generator, config: EyeAugmentConfig
) -> EyeBatch:
    """The crops of some eyes.

    Args:
        eyes: a cache.
        ids: (b,) which of them.
        rng: decides everything.
        config: strengths.
    """
    windows = eyes.windows[ids].copy()
    for k in np.flatnonzero(rng.random(len(ids)) < config.lashes):
        windows[k] = with_lashes(windows[k], eyes.lids[ids[k]], float(eyes.opening[ids[k]]), rng)
    for k in np.flatnonzero(rng.random(len(ids)) < config.shade):
        windows[k] = in_shadow(windows[k], eyes.lids[ids[k]], rng)
    for k in np.flatnonzero(rng.random(len(ids)) < config.lens):
        windows[k] = behind_glass(windows[k], rng)
    pixels = torch.from_numpy(windows).permute(0, 3, 1, 2).float() / 255
    crops = _faults(_placed(pixels, rng, config), rng, config)
    directions = eyes.direction[ids] + np.deg2rad(config.view_deg) * rng.standard_normal(
        (len(ids), 3)
    )
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    targets = eye_targets(
        torch.from_numpy(eyes.opening[ids]).float(), torch.from_numpy(eyes.gaze_deg[ids]).float()
    )
    return EyeBatch(crops, torch.from_numpy(directions.astype(np.float32)), targets)


def _placed(pixels: Tensor, rng: np.random.Generator, config: EyeAugmentConfig) -> Tensor:
    """The crops inside windows, moved, resized and turned a little."""
    count = len(pixels)
    size = np.exp(config.scale * rng.standard_normal(count)) / MARGIN
    turn = np.deg2rad(config.turn_deg) * rng.standard_normal(count)
    shift = 2 * config.shift / MARGIN * rng.standard_normal((count, 2))
    aspect = HEIGHT / WIDTH
    cosine, sine = size * np.cos(turn), size * np.sin(turn)
    matrix = np.stack(
        (cosine, -sine * aspect, shift[:, 0], sine / aspect, cosine, shift[:, 1] / aspect), 1
    ).reshape(count, 2, 3)
    theta = torch.from_numpy(matrix.astype(np.float32))
    grid = functional.affine_grid(theta, [count, 3, HEIGHT, WIDTH], align_corners=False)
    return functional.grid_sample(pixels, grid, padding_mode="border", align_corners=False)


def _faults(crops: Tensor, rng: np.random.Generator, config: EyeAugmentConfig) -> Tensor:
    """Colour, coarseness, noise and patches."""
    count = len(crops)

    def some(share: float) -> ndarray:
        return np.flatnonzero(rng.random(count) < share)

    def draw(low: float, high: float, *shape: int) -> Tensor:
        return torch.from_numpy(rng.uniform(low, high, shape).astype(np.float32))

    ids = some(config.colour)
    if len(ids):
        gamma = draw(-0.5, 0.5, len(ids), 1, 1, 1).exp()
        gain = draw(0.7, 1.3, len(ids), 3, 1, 1)
        low = draw(-0.1, 0.15, len(ids), 1, 1, 1)
        crops[ids] = ((crops[ids].clamp(1e-3, 1) ** gamma) * gain + low).clamp(0, 1)
    for k in some(config.hide):
        rows, columns = rng.integers(6, HEIGHT // 2), rng.integers(6, WIDTH // 2)
        top, left = rng.integers(0, HEIGHT - rows), rng.integers(0, WIDTH - columns)
        crops[k, :, top : top + rows, left : left + columns] = draw(0, 1, 3, 1, 1)
    for k in some(config.coarse):
        factor = np.exp(rng.uniform(0, np.log(8)))
        shape = (max(4, round(HEIGHT / factor)), max(5, round(WIDTH / factor)))
        small = functional.interpolate(crops[k : k + 1], shape, mode="area")
        crops[k] = functional.interpolate(
            small, (HEIGHT, WIDTH), mode="bilinear", align_corners=False
        )[0]
    ids = some(config.grey)
    crops[ids] = crops[ids].mean(1, keepdim=True)
    strength = torch.from_numpy(rng.uniform(0, config.noise, (count, 1, 1, 1)).astype(np.float32))
    noise = torch.from_numpy(rng.standard_normal(tuple(crops.shape), dtype=np.float32))
    return (crops + strength * noise).clamp(0, 1).contiguous()


def with_lashes(
    window: UInt8[ndarray, "r c 3"],
    lids: Float[ndarray, "6 2"],
    opening: float,
    rng: np.random.Generator,
) -> UInt8[ndarray, "r c 3"]:
    """A window with a dark edge along the upper lid, and lashes on it; the head has none.

    Lashes point up from open eyes and down from shut ones.

    Args:
        window: of one eye.
        lids: its "ict68" points in px of the window, the outer corner first.
        opening: of its lids.
        rng: decides.
    """
    from PIL import Image, ImageDraw

    scale = 3
    rows, columns = window.shape[:2]
    mask = Image.new("L", (columns * scale, rows * scale))
    pen = ImageDraw.Draw(mask)
    along = np.linspace(0, 1, 24)
    upper = np.stack([np.interp(along, [0, 0.33, 0.67, 1], lids[:4, i]) for i in (0, 1)], 1)
    bow = np.stack([np.convolve(np.pad(c, 3, "edge"), np.ones(7) / 7, "valid") for c in upper.T], 1)
    line = [tuple(p) for p in (bow + 0.5) * scale]
    pen.line(line, fill=255, width=max(1, round(scale * rng.uniform(0.3, 1.3))), joint="curve")
    length = rng.uniform(0, 5.5) if rng.random() < 0.7 else 0.0
    tilt = np.interp(opening, [0.06, 0.2, 0.32], [0.9, -0.2, -0.9]) + rng.normal(0, 0.15)
    for x, y in bow[:: rng.integers(1, 3)]:
        own = length * rng.uniform(0.5, 1.1)
        out = np.sign(columns / 2 - x) * -0.35 * own * abs(x - columns / 2) / (columns / 4)
        end = ((x + out + 0.5) * scale, (y + tilt * own + 0.5) * scale)
        pen.line([((x + 0.5) * scale, (y + 0.5) * scale), end], fill=200, width=1)
    if rng.random() < 0.3:  # the lower lid's edge
        lower = [tuple((lids[i] + 0.5) * scale) for i in (3, 4, 5, 0)]
        pen.line(lower, fill=round(255 * rng.uniform(0.2, 0.7)), width=max(1, scale // 2))
    alpha = np.asarray(mask.resize((columns, rows), Image.Resampling.BOX), np.float32) / 255
    alpha = (alpha * rng.uniform(0.3, 1.0))[..., None]
    dark = np.float32(rng.uniform(0.0, 0.35)) * window.mean((0, 1)).astype(np.float32)
    return (window * (1 - alpha) + dark * alpha).round().astype(np.uint8)


def in_shadow(
    window: UInt8[ndarray, "r c 3"], lids: Float[ndarray, "6 2"], rng: np.random.Generator
) -> UInt8[ndarray, "r c 3"]:
    """A window whose eyeball lies in shadow, and now and then the lid and the brow with it.

    Renders have bright whites; in photos lids and lashes darken them until an open eye is one dark
    spot, which must not be taken for a shut one.

    Args:
        window: of one eye.
        lids: its "ict68" points in px of the window.
        rng: decides.
    """
    from PIL import Image, ImageDraw, ImageFilter

    rows, columns = window.shape[:2]
    mask = Image.new("L", (columns, rows))
    pen = ImageDraw.Draw(mask)
    pen.polygon([(float(x), float(y)) for x, y in lids], fill=255)
    if rng.random() < 0.35:
        depth = max(float(lids[:, 1].mean() + rng.uniform(-1, 5)), 0.0)
        pen.rectangle((0, -1, columns, depth), fill=round(255 * rng.uniform(0.3, 1)))
    soft = mask.filter(ImageFilter.GaussianBlur(rng.uniform(0.5, 2.5)))
    share = np.asarray(soft, np.float32)[..., None] / 255
    dark = rng.uniform(0.15, 1.0) * rng.uniform(0.8, 1.1, 3)
    return np.clip(window * (1 - share * (1 - dark)), 0, 255).astype(np.uint8)


def behind_glass(
    window: UInt8[ndarray, "r c 3"], rng: np.random.Generator
) -> UInt8[ndarray, "r c 3"]:
    """A window behind dark or mirroring glass with a rim: nothing, or next to nothing, is seen."""
    from PIL import Image, ImageDraw

    rows, columns = window.shape[:2]
    mask = Image.new("L", (columns, rows))
    pen = ImageDraw.Draw(mask)
    half = np.array([rng.uniform(0.22, 0.5) * columns, rng.uniform(0.2, 0.45) * rows])
    middle = np.array([columns, rows]) * rng.uniform(0.42, 0.58, 2)
    box = (*(middle - half), *(middle + half))
    radius = float(rng.uniform(0.2, 0.9) * half.min())
    pen.rounded_rectangle(box, radius, fill=round(255 * rng.uniform(0.8, 1.0)))
    alpha = np.asarray(mask, np.float32)[..., None] / 255
    top, bottom = rng.uniform(0, 1, 2) ** 2 * (80 if rng.random() < 0.7 else 230)
    tint = np.linspace(top, bottom, rows)[:, None, None] * rng.uniform(0.7, 1.1, 3)
    result = np.clip(window * (1 - alpha) + tint * alpha, 0, 255).astype(np.uint8)
    picture = Image.fromarray(result)
    if rng.random() < 0.7:
        colour = tuple(int(x) for x in rng.integers(0, 90, 3))
        ImageDraw.Draw(picture).rounded_rectangle(
            box, radius, outline=colour, width=int(rng.integers(1, 4))
        )
    return np.asarray(picture)
