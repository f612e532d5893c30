"""Pictures with a face-like oval before a background that goes on: gradients, stripes, edges."""

from __future__ import annotations

import numpy as np

from lifemask.data.regions import RegionSet


def pictures(count: int = 64, size: int = 48, seed: int = 0) -> RegionSet:
    """Pictures whose background is smooth, with upright or level edges or stripes on it."""
    rng = np.random.default_rng(seed)
    rows = [_picture(rng, size) for _ in range(count)]
    images, regions = (np.stack(column) for column in zip(*rows, strict=True))
    return RegionSet("renders", (images,), (regions,), float(size))


def _picture(rng: np.random.Generator, size: int) -> tuple[np.ndarray, np.ndarray]:
    y, x = np.mgrid[:size, :size] / size - 0.5
    along = x if rng.random() < 0.5 else y  # upright or level, as most edges of a room are
    colours = rng.uniform(0.1, 0.9, (2, 3))
    if rng.random() < 0.5:
        wave = 0.5 + 0.5 * np.tanh(8 * np.sin(2 * np.pi * rng.uniform(1, 4) * along + 3))
    else:
        wave = (along > rng.uniform(-0.25, 0.25)).astype(float)
    ramp = 0.15 * (rng.normal() * x + rng.normal() * y)[..., None]
    image = colours[0] + (colours[1] - colours[0]) * wave[..., None] + ramp
    cx, cy = rng.uniform(-0.08, 0.08, 2)
    face = ((x - cx) / rng.uniform(0.2, 0.28)) ** 2 + ((y - cy) / rng.uniform(0.26, 0.34)) ** 2 < 1
    image[face] = (0.75, 0.55, 0.45)
    bytes_ = (image.clip(0, 1) * 255).round().astype(np.uint8)
    return bytes_, np.where(face, 4, 8).astype(np.uint8)
