"""The rasteriser's CPU kernel; the rule it follows stands in `rasterize.py`."""

from __future__ import annotations

import numba
import numpy as np
import torch
from torch import Tensor

from lifemask.graphics.rasterize import MAX_COORDINATE_PX, SUBPIXEL_BITS, SUBPIXELS


def rasterize_numba(
    points: Tensor, faces: Tensor, height: int, width: int, cull: bool
) -> tuple[Tensor, Tensor]:
    """Face ids (b, h, w) int32 and depth (b, h, w) float32; see `rasterize.rasterize`."""
    ids = np.full((len(points), height, width), -1, np.int32)
    depth = np.full((len(points), height, width), -np.inf, np.float32)
    corners = np.ascontiguousarray(faces.numpy(), dtype=np.int32)
    for image, points_np in enumerate(points.numpy()):
        _draw_mesh(points_np, corners, cull, ids[image], depth[image])
    return torch.from_numpy(ids), torch.from_numpy(depth)


@numba.njit(inline="always")
def _round_corner(value: np.float32) -> np.int64:
    """Position in px to 1/4096 px, half to even; the product is exact."""
    return np.int64(np.rint(np.float64(value) * SUBPIXELS))


@numba.njit(inline="always")
def _exclusive(delta_x: np.int64, delta_y: np.int64) -> np.int64:
    """0 for top and left edges, else 1: what keeps points on the edge outside."""
    return np.int64(0) if delta_y < 0 or (delta_y == 0 and delta_x > 0) else np.int64(1)


@numba.njit(
    "void(float32[:, ::1], int32[:, ::1], boolean, int32[:, ::1], float32[:, ::1])",
    nogil=True,
    cache=True,
    boundscheck=False,
)
def _draw_mesh(points, faces, cull, ids, depth):  # pragma: no cover (compiled)
    height, width = ids.shape
    count = len(points)
    fixed = np.empty((count, 2), np.int64)
    usable = np.empty(count, np.bool_)
    for i in range(count):
        u, v = points[i, 0], points[i, 1]
        usable[i] = (
            abs(u) <= MAX_COORDINATE_PX
            and abs(v) <= MAX_COORDINATE_PX
            and np.isfinite(points[i, 2])
        )
        if usable[i]:
            fixed[i, 0] = _round_corner(u)
            fixed[i, 1] = _round_corner(v)
    for face in range(len(faces)):
        a, b, c = faces[face, 0], faces[face, 1], faces[face, 2]
        if not (usable[a] and usable[b] and usable[c]):
            continue
        ax, ay = fixed[a, 0], fixed[a, 1]
        area = (fixed[b, 0] - ax) * (fixed[c, 1] - ay) - (fixed[b, 1] - ay) * (fixed[c, 0] - ax)
        if area == 0 or (cull and area > 0):
            continue
        if area < 0:
            b, c, area = c, b, -area
        bx, by, cx, cy = fixed[b, 0], fixed[b, 1], fixed[c, 0], fixed[c, 1]
        x_low = max((min(ax, bx, cx) + (SUBPIXELS - 1)) >> SUBPIXEL_BITS, 0)
        y_low = max((min(ay, by, cy) + (SUBPIXELS - 1)) >> SUBPIXEL_BITS, 0)
        x_high = min(max(ax, bx, cx) >> SUBPIXEL_BITS, width - 1)
        y_high = min(max(ay, by, cy) >> SUBPIXEL_BITS, height - 1)
        if x_low > x_high or y_low > y_high:
            continue
        z0 = np.float64(points[a, 2])
        rise1, rise2 = np.float64(points[b, 2]) - z0, np.float64(points[c, 2]) - z0
        scale = np.float64(area)
        slope_x = (rise1 * np.float64(cy - ay) - rise2 * np.float64(by - ay)) / scale
        slope_y = (rise2 * np.float64(bx - ax) - rise1 * np.float64(cx - ax)) / scale
        px, py = x_low << SUBPIXEL_BITS, y_low << SUBPIXEL_BITS
        row_ab = (bx - ax) * (py - ay) - (by - ay) * (px - ax) - _exclusive(bx - ax, by - ay)
        row_bc = (cx - bx) * (py - by) - (cy - by) * (px - bx) - _exclusive(cx - bx, cy - by)
        row_ca = (ax - cx) * (py - cy) - (ay - cy) * (px - cx) - _exclusive(ax - cx, ay - cy)
        step_ab, step_bc, step_ca = (
            (ay - by) << SUBPIXEL_BITS,
            (by - cy) << SUBPIXEL_BITS,
            (cy - ay) << SUBPIXEL_BITS,
        )
        for y in range(y_low, y_high + 1):
            ab, bc, ca = row_ab, row_bc, row_ca
            entered = False
            row_z = z0 + slope_y * np.float64((y << SUBPIXEL_BITS) - ay)
            for x in range(x_low, x_high + 1):
                if (ab | bc | ca) >= 0:
                    entered = True
                    z = np.float32(row_z + slope_x * np.float64((x << SUBPIXEL_BITS) - ax))
                    if z > depth[y, x]:
                        depth[y, x] = z
                        ids[y, x] = face
                elif entered:
                    break
                ab += step_ab
                bc += step_bc
                ca += step_ca
            row_ab += (bx - ax) << SUBPIXEL_BITS
            row_bc += (cx - bx) << SUBPIXEL_BITS
            row_ca += (ax - cx) << SUBPIXEL_BITS
