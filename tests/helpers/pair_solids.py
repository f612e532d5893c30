"""Solids with a known distance, and photos of balls, for the tests of pairs."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from lifemask.data._pairs_fit import HeadMaps
from lifemask.data._pairs_solid import Solid, plan_solid
from lifemask.graphics.camera import orthographic_camera


def ball_mesh(rows: int = 40, columns: int = 64, radius: float = 0.6, centre=(0.0, 0.0, 0.0)):
    """Vertices and outward faces of a ball with a hole at each pole."""
    polar = np.linspace(0.12, np.pi - 0.12, rows)[:, None]
    around = np.arange(columns)[None] / columns * 2 * np.pi
    unit = np.stack(
        [
            np.sin(polar) * np.sin(around),
            np.cos(polar) + 0 * around,
            np.sin(polar) * np.cos(around),
        ],
        -1,
    ).reshape(-1, 3)
    a = (np.arange(rows - 1)[:, None] * columns + np.arange(columns)).ravel()
    b = (np.arange(rows - 1)[:, None] * columns + (np.arange(columns) + 1) % columns).ravel()
    faces = np.concatenate(
        [np.stack([a, a + columns, b + columns], 1), np.stack([a, b + columns, b], 1)]
    )
    return radius * unit + np.asarray(centre), faces.astype(np.int64)


def ball_solid(eyes=(), **shape) -> Solid:
    """A ball, closed by a fan at each pole, with eyeballs (x, y, z, radius)."""
    vertices, faces = ball_mesh(**shape)
    return plan_solid(faces).solid(vertices, np.array(eyes, float).reshape(-1, 4))


def ball_photo(size: int = 64, **given: Any) -> Any:
    """What `_pairs_fit.Fitted` says of a photo of a ball, whose middle is nose and rest skin."""
    x, y = np.meshgrid(*2 * [(np.arange(size) + 0.5) * 2 / size - 1])
    inside = 0.6**2 - x**2 - y**2
    there = inside > 0
    z = np.sqrt(np.maximum(inside, 0))
    normals = (np.stack([x, -y, z], -1) / 0.6 * there[..., None]).astype(np.float32)
    depth = np.where(there, z, np.nan).astype(np.float32)
    region = np.where(there, 4, 8).astype(np.uint8)
    region[x**2 + y**2 < 0.01] = 0
    facts = {
        "source": SimpleNamespace(index=7), "geometry": None, "center_px": (0.0, 0.0),
        "camera": orthographic_camera(torch.eye(3), size / 2, torch.full((2,), size / 2 - 0.5)),
        "side_px": float(size), "image": np.full((size, size, 3), 120, np.uint8),
        "region": region, "maps": HeadMaps(depth, normals, there, there), "residual": 1.0,
        "yaw_deg": 0.0, "cover": 1.0,
    }  # fmt: skip
    return facts | given
