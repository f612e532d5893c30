"""Batches of eyes: windows of renders, turned into crops such as photos and methods make."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, UInt8
from numpy import ndarray
from torch import Tensor

from lifemask.data.eye_windows import MARGIN, EyeWindows
from lifemask.faces.eyes import HEIGHT, WIDTH
from lifemask.nn.eye_net import eye_targets
from lifemask.training._closeup_batches import CloseupFaults, placed, turned, with_faults


@dataclass(frozen=True)
class EyeAugmentConfig(CloseupFaults):
    """How crops differ from the renders' own.

    Attributes:
        lashes: share of the eyes that get a dark edge and lashes on the upper lid.
        shade: share of the eyes that lie in shadow: the eyeball darker than the skin around it, or
            all that is above the lower lid.
        lens: share behind dark or mirroring glass.
    """

    lashes: float = 0.6
    shade: float = 0.5
    lens: float = 0.06


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
    crops = with_faults(placed(pixels, (HEIGHT, WIDTH), MARGIN, rng, config), rng, config)
    directions = turned(eyes.direction[ids], config.view_deg, rng)
    targets = eye_targets(
        torch.from_numpy(eyes.opening[ids]).float(), torch.from_numpy(eyes.gaze_deg[ids]).float()
    )
    return EyeBatch(crops, directions, targets)


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
