"""Pairs of bumpy balls, made in memory: shading tells the shape, as a photo does."""

from __future__ import annotations

import numpy as np
import torch

from lifemask.training.rafare_batches import PairArrays


def ball_pairs(count: int = 6, size: int = 32, grid: int = 24, seed: int = 0) -> PairArrays:
    """Pairs of balls with random radius and centre, lit from the upper left."""
    rng = np.random.default_rng(seed)
    rows = [_ball(rng, size, grid) for _ in range(count)]
    stacked = {k: torch.from_numpy(np.stack([row[k] for row in rows])) for k in rows[0]}
    return PairArrays(**stacked, grid=grid)


def _ball(rng: np.random.Generator, size: int, grid: int) -> dict[str, np.ndarray]:
    radius = float(rng.uniform(0.5, 0.75))
    centre = np.array([*rng.uniform(-0.15, 0.15, 2), 0.0])
    steps = (np.arange(size) + 0.5) * 2 / size - 1
    x, y = np.meshgrid(steps, -steps)
    squared = radius**2 - (x - centre[0]) ** 2 - (y - centre[1]) ** 2
    there = squared > 0.02
    z = np.sqrt(np.maximum(squared, 0))
    normals = np.stack((x - centre[0], y - centre[1], z)) / radius * there
    light = np.array([-0.5, 0.6, 0.62])
    shade = np.clip(np.einsum("c,chw->hw", light, normals), 0.05, 1)
    image = (np.stack([shade] * 3) * 255 * there).astype(np.uint8)
    index = rng.integers(0, grid, (4000, 3)).astype(np.int16)
    points = (index + 0.5) * 2 / grid - 1
    d = np.linalg.norm(points - centre, axis=1) - radius
    near = np.argsort(np.abs(d), kind="stable")[:1200]
    uniform = rng.uniform(-1, 1, (120, 3))
    anywhere = np.clip(np.linalg.norm(uniform - centre, axis=1) - radius, -0.04, 0.04)
    outward = rng.standard_normal((200, 3))
    outward /= np.linalg.norm(outward, axis=1, keepdims=True)
    return {
        "image": image,
        "region": np.where(there, 4, 8).astype(np.uint8),
        "normals": np.rint(normals * 127).astype(np.int8),
        "guide_depth": np.where(there, z + 0.05, np.nan).astype(np.float16),
        "guide_normals": np.rint(normals * 127).astype(np.int8),
        "points": index[near],
        "sdf": d[near].astype(np.float16),
        "fine": (d[near] * 20).astype(np.float16),
        "uniform": uniform.astype(np.float16),
        "uniform_sdf": anywhere.astype(np.float16),
        "surface": (centre + radius * outward).astype(np.float16),
        "surface_normals": outward.astype(np.float16),
    }
