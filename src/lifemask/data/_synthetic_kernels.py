"""Numba kernels of the synthetic-face generator: depth, shadows, visibility, vertex normals.

All kernels work on one image. A scene is one triangle soup with a material per triangle; vertices
come as screen points (u, v, 1/distance), so depth is affine in screen space and larger is nearer.
The super-sampled image has side `size * ss`; pixel centres are integers in both grids.
"""

from __future__ import annotations

import numpy as np
from numba import njit

MATERIALS = (
    "skin", "eye", "mouth", "teeth", "hair", "cloth", "hat", "beard", "frame", "plain skin", "hand",
    "object", "card",
)  # fmt: skip
"""Materials of a scene by id: what a truth map's `material` says."""
SKIN, EYE, MOUTH, TEETH, HAIR, CLOTH, HAT, BEARD, FRAME, SKIN_PLAIN, HAND, OBJECT, CARD = range(13)
NO_UV = -1e4
"""Texture coordinate of what has none (these kernels know no NaN)."""
MATERIAL_SIZE = 16
"""Floats per material: 0:3 linear colour, 3:6 second colour, 6 alpha edge, 7 alpha softness,
8 frequency, 9 contrast, 10 specular strength, 11 specular exponent, 12 pattern, 13 phase, 14-15."""

FAST = {"cache": True, "fastmath": True, "nogil": True, "error_model": "numpy"}


@njit(inline="always", **FAST)
def noise1(table, x):
    """Linear value noise of a 1D table, period = its length, in [0, 1]."""
    k = int(np.floor(x))
    t = x - k
    n = table.shape[0]
    a = table[k % n]
    b = table[(k + 1) % n]
    return a + (b - a) * t


@njit(inline="always", **FAST)
def _strand_alpha(s, t, material, noise):
    """Coverage of hair at strand coordinate s and length t; below 0.5 is a hole."""
    freq = material[8]
    phase = material[13]
    ragged = noise1(noise, s * freq + phase) - 0.5
    ragged += 0.6 * (noise1(noise, s * freq * 3.1 + 7.7 + phase) - 0.5)
    return 0.5 + (material[6] - t + material[7] * ragged) * 8.0


@njit(**FAST)
def rasterize_scene(screen, faces, face_uv, face_material, cull, materials, noise, depth, ids):
    """Fill `depth` (h, w) and `ids` (h, w) with the nearest triangle (alpha-tested hair included).

    Args:
        screen: (v, 3) u, v in super-sampled px and inverse distance.
        faces: (f, 3) vertex ids, counter-clockwise from outside.
        face_uv: (f, 3, 2) material coordinates per corner.
        face_material: (f,) material index.
        cull: (f,) true where back faces are skipped.
        materials: (m, MATERIAL_SIZE).
        noise: (n,) table in [0, 1].
        depth: (h, w) float32, overwritten; 0 = empty.
        ids: (h, w) int32, overwritten; -1 = empty.
    """
    height, width = depth.shape
    depth[:] = 0.0
    ids[:] = -1
    for f in range(faces.shape[0]):
        i0, i1, i2 = faces[f, 0], faces[f, 1], faces[f, 2]
        z0, z1, z2 = screen[i0, 2], screen[i1, 2], screen[i2, 2]
        if z0 <= 0.0 or z1 <= 0.0 or z2 <= 0.0:
            continue
        x0, y0 = screen[i0, 0], screen[i0, 1]
        x1, y1 = screen[i1, 0], screen[i1, 1]
        x2, y2 = screen[i2, 0], screen[i2, 1]
        area = (x1 - x0) * (y2 - y0) - (x2 - x0) * (y1 - y0)
        if area == 0.0 or (cull[f] and area > 0.0):
            continue
        left = max(0, int(np.ceil(min(x0, x1, x2))))
        right = min(width - 1, int(np.floor(max(x0, x1, x2))))
        top = max(0, int(np.ceil(min(y0, y1, y2))))
        bottom = min(height - 1, int(np.floor(max(y0, y1, y2))))
        if left > right or top > bottom:
            continue
        k = 1.0 / area
        material = face_material[f]
        tested = material == HAIR or material == BEARD
        ax, ay = (y1 - y2) * k, (x2 - x1) * k
        bx, by = (y2 - y0) * k, (x0 - x2) * k
        for y in range(top, bottom + 1):
            w0 = (left - x2) * ax + (y - y2) * ay
            w1 = (left - x2) * bx + (y - y2) * by
            for x in range(left, right + 1):
                w2 = 1.0 - w0 - w1
                if w0 >= -1e-6 and w1 >= -1e-6 and w2 >= -1e-6:
                    z = w0 * z0 + w1 * z1 + w2 * z2
                    if z > depth[y, x]:
                        keep = True
                        if tested:
                            p0 = w0 * z0 / z
                            p1 = w1 * z1 / z
                            p2 = 1.0 - p0 - p1
                            s = (
                                p0 * face_uv[f, 0, 0]
                                + p1 * face_uv[f, 1, 0]
                                + p2 * face_uv[f, 2, 0]
                            )
                            t = (
                                p0 * face_uv[f, 0, 1]
                                + p1 * face_uv[f, 1, 1]
                                + p2 * face_uv[f, 2, 1]
                            )
                            keep = _strand_alpha(s, t, materials[material], noise) > 0.5
                        if keep:
                            depth[y, x] = z
                            ids[y, x] = f
                w0 += ax
                w1 += bx


@njit(**FAST)
def vertex_normals_into(points, faces, normals):
    """Area-weighted unit vertex normals of `points` (v, 3) into `normals` (v, 3)."""
    normals[:] = 0.0
    for f in range(faces.shape[0]):
        i, j, k = faces[f, 0], faces[f, 1], faces[f, 2]
        ax = points[j, 0] - points[i, 0]
        ay = points[j, 1] - points[i, 1]
        az = points[j, 2] - points[i, 2]
        bx = points[k, 0] - points[i, 0]
        by = points[k, 1] - points[i, 1]
        bz = points[k, 2] - points[i, 2]
        cx = ay * bz - az * by
        cy = az * bx - ax * bz
        cz = ax * by - ay * bx
        for v in (i, j, k):
            normals[v, 0] += cx
            normals[v, 1] += cy
            normals[v, 2] += cz
    for v in range(normals.shape[0]):
        n = normals[v, 0] ** 2 + normals[v, 1] ** 2 + normals[v, 2] ** 2
        s = 1.0 / np.sqrt(n + 1e-20)
        normals[v, 0] *= s
        normals[v, 1] *= s
        normals[v, 2] *= s


@njit(**FAST)
def depth_map(screen, faces, depth):
    """Nearest depth (larger = nearer) of all triangles, both sides, into `depth` (h, w)."""
    height, width = depth.shape
    depth[:] = -1e30
    for f in range(faces.shape[0]):
        i0, i1, i2 = faces[f, 0], faces[f, 1], faces[f, 2]
        x0, y0 = screen[i0, 0], screen[i0, 1]
        x1, y1 = screen[i1, 0], screen[i1, 1]
        x2, y2 = screen[i2, 0], screen[i2, 1]
        area = (x1 - x0) * (y2 - y0) - (x2 - x0) * (y1 - y0)
        if area == 0.0:
            continue
        left = max(0, int(np.ceil(min(x0, x1, x2))))
        right = min(width - 1, int(np.floor(max(x0, x1, x2))))
        top = max(0, int(np.ceil(min(y0, y1, y2))))
        bottom = min(height - 1, int(np.floor(max(y0, y1, y2))))
        k = 1.0 / area
        z0, z1, z2 = screen[i0, 2], screen[i1, 2], screen[i2, 2]
        for y in range(top, bottom + 1):
            for x in range(left, right + 1):
                w0 = ((x - x2) * (y1 - y2) + (y - y2) * (x2 - x1)) * k
                w1 = ((x - x2) * (y2 - y0) + (y - y2) * (x0 - x2)) * k
                w2 = 1.0 - w0 - w1
                if w0 >= 0.0 and w1 >= 0.0 and w2 >= 0.0:
                    z = w0 * z0 + w1 * z1 + w2 * z2
                    if z > depth[y, x]:
                        depth[y, x] = z


@njit(**FAST)
def lit_share(screen, depth, bias, lit):
    """Share (v,) of 5 taps of a depth map that see each vertex (percentage-closer shadows)."""
    height, width = depth.shape
    for v in range(screen.shape[0]):
        total = 0.0
        for tap in range(5):
            x = int(screen[v, 0] + 0.5) + (1 if tap == 1 else -1 if tap == 2 else 0)
            y = int(screen[v, 1] + 0.5) + (1 if tap == 3 else -1 if tap == 4 else 0)
            seen = True
            if 0 <= x < width and 0 <= y < height:
                seen = screen[v, 2] + bias >= depth[y, x]
            total += 0.2 if seen else 0.0
        lit[v] = total


@njit(**FAST)
def points_visible(screen, depth, tolerance_mm, visible):
    """Whether each point (n, 3) is in front of the depth buffer to a tolerance; into `visible`.

    A point passes when, at its own super-sample or a neighbour, it lies at most `tolerance_mm`
    (own) or a third of it (neighbours) behind the nearest surface.
    """
    height, width = depth.shape
    for i in range(screen.shape[0]):
        x, y = int(np.floor(screen[i, 0] + 0.5)), int(np.floor(screen[i, 1] + 0.5))
        distance = 1.0 / screen[i, 2]
        seen = False
        for dy in range(-1, 2):
            for dx in range(-1, 2):
                px, py = x + dx, y + dy
                if 0 <= px < width and 0 <= py < height:
                    z = depth[py, px]
                    limit = tolerance_mm if dx == 0 and dy == 0 else tolerance_mm / 3.0
                    if z > 0.0 and distance - 1.0 / z < limit:
                        seen = True
        visible[i] = seen


@njit(**FAST)
def lens_layer(screen, faces, depth, ss, cover):
    """Share of each pixel of `cover` (h, w) where a lens is in front of the depth buffer."""
    height, width = depth.shape
    cover[:] = 0.0
    weight = 1.0 / (ss * ss)
    for f in range(faces.shape[0]):
        i0, i1, i2 = faces[f, 0], faces[f, 1], faces[f, 2]
        x0, y0 = screen[i0, 0], screen[i0, 1]
        x1, y1 = screen[i1, 0], screen[i1, 1]
        x2, y2 = screen[i2, 0], screen[i2, 1]
        area = (x1 - x0) * (y2 - y0) - (x2 - x0) * (y1 - y0)
        if area == 0.0:
            continue
        left = max(0, int(np.ceil(min(x0, x1, x2))))
        right = min(width - 1, int(np.floor(max(x0, x1, x2))))
        top = max(0, int(np.ceil(min(y0, y1, y2))))
        bottom = min(height - 1, int(np.floor(max(y0, y1, y2))))
        k = 1.0 / area
        for y in range(top, bottom + 1):
            for x in range(left, right + 1):
                w0 = ((x - x2) * (y1 - y2) + (y - y2) * (x2 - x1)) * k
                w1 = ((x - x2) * (y2 - y0) + (y - y2) * (x0 - x2)) * k
                w2 = 1.0 - w0 - w1
                if w0 >= 0.0 and w1 >= 0.0 and w2 > 0.0:
                    z = w0 * screen[i0, 2] + w1 * screen[i1, 2] + w2 * screen[i2, 2]
                    if z > depth[y, x]:
                        cover[y // ss, x // ss] += weight
