"""Faces of functions in a crop, for the scores of detailed surfaces: balls, reliefs, their meshes.

The crop is 96 px wide and shows 240 mm; the face is an ellipse in its middle.
"""

from __future__ import annotations

import numpy as np

SIZE, HALF_MM = 96, 120.0
RADIUS_MM = 90.0


def pixel_grid(size: int = SIZE, half_mm: float = HALF_MM):
    """X and y (s, s) in mm of the pixels' centres; y up."""
    along = ((np.arange(size) + 0.5) * 2 / size - 1) * half_mm
    return np.meshgrid(along, -along)


def ball(x, y, radius=RADIUS_MM, center=(0.0, 0.0, 0.0)):
    """Depth of a ball's front; NaN beside it."""
    inside = radius**2 - (x - center[0]) ** 2 - (y - center[1]) ** 2
    with np.errstate(invalid="ignore"):
        return center[2] + np.sqrt(inside)


def relief(x, y):
    """A ball with a nose, a bump on one cheek only, and wrinkles of 0.6 mm."""
    nose = 18 * np.exp(-((x / 12) ** 2) - ((y + 5) / 22) ** 2)
    cheek = 6 * np.exp(-(((x - 38) / 14) ** 2) - ((y - 20) / 14) ** 2)
    return ball(x, y) + nose + cheek + wrinkles(x, y)


def smooth_relief(x, y):
    """The same without wrinkles."""
    return relief(x, y) - wrinkles(x, y)


def wrinkles(x, y):
    """Ripples with a period of 12 mm, of one sign to the left and another to the right."""
    return 0.6 * np.sin(2 * np.pi * y / 12) * np.sin(2 * np.pi * (x + 3) / 14)


def normals_of_depth(z, x, y, step=1e-3):
    """Unit normals (..., 3) of a height field z(x, y)."""
    slope_x = (z(x + step, y) - z(x - step, y)) / (2 * step)
    slope_y = (z(x, y + step) - z(x, y - step)) / (2 * step)
    normal = np.stack((-slope_x, -slope_y, np.ones_like(slope_x)), -1)
    return normal / np.linalg.norm(normal, axis=-1, keepdims=True)


def crop_of(z, size: int = SIZE, half_mm: float = HALF_MM):
    """Depth, normals and region map of a face z(x, y): an ellipse with eyes, lips and nose."""
    x, y = pixel_grid(size, half_mm)
    inside = (x / 62) ** 2 + (y / 72) ** 2 < 1
    region = np.where(inside, 4, 8).astype(np.uint8)
    for k, (u, v, a, b) in {
        0: (0, -5, 12, 22), 1: (0, -40, 20, 8), 2: (-28, 25, 12, 6), 3: (28, 40, 14, 5),
    }.items():  # fmt: skip
        region[((x - u) / a) ** 2 + ((y - v) / b) ** 2 < 1] = k
    depth = np.where(inside, z(x, y), np.nan).astype(np.float64)
    normals = np.where(inside[..., None], normals_of_depth(z, x, y), 0.0)
    return depth, normals, region


def sheet(z, half=(80.0, 80.0), step=1.0):
    """A mesh of the height field z(x, y), finer than the crop; faces look to +z."""
    x, y = np.meshgrid(*(np.arange(-h, h + step / 2, step) for h in half))
    rows, columns = x.shape
    a = (np.arange(rows - 1)[:, None] * columns + np.arange(columns - 1)).reshape(-1)
    faces = np.concatenate(
        [np.stack((a, a + 1, a + columns), 1), np.stack((a + 1, a + columns + 1, a + columns), 1)]
    )
    vertices = np.stack((x, y, z(x, y)), -1).reshape(-1, 3)
    kept = np.isfinite(vertices[faces]).all((1, 2))
    used, faces = np.unique(faces[kept], return_inverse=True)
    return vertices[used], faces.reshape(-1, 3)
