"""Fused numba kernels of the synthetic-face generator: depth, shading, layers, visibility.

All kernels work on one image. A scene is one triangle soup with a material per triangle; vertices
come as screen points (u, v, 1/distance), so depth is affine in screen space and larger is nearer.
The super-sampled image has side `size * ss`; pixel centres are integers in both grids.
"""

from __future__ import annotations

import numpy as np
from numba import njit

SKIN, EYE, MOUTH, TEETH, HAIR, CLOTH, HAT, BEARD, FRAME, SKIN_PLAIN = range(10)
ALPHA_TESTED = (HAIR, BEARD)
MATERIAL_SIZE = 16
"""Floats per material: 0:3 linear colour, 3:6 second colour, 6 alpha edge, 7 alpha softness,
8 frequency, 9 contrast, 10 specular strength, 11 specular exponent, 12 pattern, 13 phase, 14-15."""

_FAST = {"cache": True, "fastmath": True, "nogil": True, "error_model": "numpy"}


@njit(inline="always", **_FAST)
def _noise1(table, x):
    """Linear value noise of a 1D table, period = its length, in [0, 1]."""
    k = int(np.floor(x))
    t = x - k
    n = table.shape[0]
    a = table[k % n]
    b = table[(k + 1) % n]
    return a + (b - a) * t


@njit(inline="always", **_FAST)
def _strand_alpha(s, t, material, noise):
    """Coverage of hair at strand coordinate s and length t; below 0.5 is a hole."""
    freq = material[8]
    phase = material[13]
    ragged = _noise1(noise, s * freq + phase) - 0.5
    ragged += 0.6 * (_noise1(noise, s * freq * 3.1 + 7.7 + phase) - 0.5)
    return 0.5 + (material[6] - t + material[7] * ragged) * 8.0


@njit(**_FAST)
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


@njit(inline="always", **_FAST)
def _shade_sh(sh, c, x, y, z):
    """Irradiance / pi of channel c for a unit normal; `sh` already carries A_l / pi."""
    e = 0.282095 * sh[0, c] + 0.488603 * (y * sh[1, c] + z * sh[2, c] + x * sh[3, c])
    e += 1.092548 * (x * y * sh[4, c] + y * z * sh[5, c] + x * z * sh[7, c])
    e += 0.315392 * (3.0 * z * z - 1.0) * sh[6, c] + 0.546274 * (x * x - y * y) * sh[8, c]
    return max(e, 0.0)


@njit(inline="always", **_FAST)
def _is_smooth(ids, depth, face_material, y, x):
    """Whether a 2 x 2 block lies on one surface: same material, distances within 1 %."""
    f0, f1, f2, f3 = ids[y, x], ids[y, x + 1], ids[y + 1, x], ids[y + 1, x + 1]
    if f0 < 0 or f1 < 0 or f2 < 0 or f3 < 0:
        return f0 < 0 and f1 < 0 and f2 < 0 and f3 < 0
    m = face_material[f0]
    if face_material[f1] != m or face_material[f2] != m or face_material[f3] != m:
        return False
    a, b = depth[y, x], depth[y + 1, x + 1]
    c, d = depth[y, x + 1], depth[y + 1, x]
    low = min(min(a, b), min(c, d))
    high = max(max(a, b), max(c, d))
    return m != HAIR and m != FRAME and high < low * 1.01


@njit(**_FAST)
def shade_scene(
    screen, points, normals, occlusion, shadow, faces, face_uv, face_material,
    materials, noise, texture, skin_lut, skin_mix, sh, key_direction, key_colour, down,
    background, depth, ids, ss, out,
):  # fmt: skip
    """Shade every super-sample and box-filter to `out` (h, w, 3) linear RGB; no return value.

    Args:
        screen: (v, 3) as in `rasterize_scene`.
        points: (v, 3) camera frame, mm.
        normals: (v, 3) unit, camera frame.
        occlusion: (v,) ambient visibility in [0, 1].
        shadow: (v,) share of the key light that arrives, in [0, 1].
        faces: (f, 3) as in `rasterize_scene`.
        face_uv: (f, 3, 2) as in `rasterize_scene`.
        face_material: (f,) as in `rasterize_scene`.
        materials: (m, MATERIAL_SIZE).
        noise: (n,) table in [0, 1].
        texture: (th, tw, 3) uint8 skin colour; corner coordinates are texel positions.
        skin_lut: (256, 3) texel value to linear albedo.
        skin_mix: (3, 3) colour matrix applied after the table.
        sh: (9, 3) light, already multiplied by A_l / pi.
        key_direction: (3,) unit vector to the key light.
        key_colour: (3,) its irradiance / pi.
        down: (3,) unit vector down the head, camera frame (hair flows along it).
        background: (h, w, 3) linear.
        depth: (h * ss, w * ss) from `rasterize_scene`.
        ids: (h * ss, w * ss) from `rasterize_scene`.
        ss: super-samples per axis.
        out: (h, w, 3) float32, overwritten.
    """
    height, width = out.shape[0], out.shape[1]
    th, tw = texture.shape[0], texture.shape[1]
    full_weight = 1.0 / (ss * ss)
    lx, ly, lz = key_direction[0], key_direction[1], key_direction[2]
    for y in range(height):
        for x in range(width):
            sum_r, sum_g, sum_b = 0.0, 0.0, 0.0
            smooth = ss == 2 and _is_smooth(ids, depth, face_material, y * 2, x * 2)
            weight = 0.5 if smooth else full_weight
            for sub in range(ss * ss):
                if smooth and (sub == 1 or sub == 2):
                    continue  # inside one surface two diagonal samples are enough
                sy = y * ss + sub // ss
                sx = x * ss + sub % ss
                f = ids[sy, sx]
                if f < 0:
                    sum_r += background[y, x, 0]
                    sum_g += background[y, x, 1]
                    sum_b += background[y, x, 2]
                    continue
                i0, i1, i2 = faces[f, 0], faces[f, 1], faces[f, 2]
                x0, y0 = screen[i0, 0], screen[i0, 1]
                x1, y1 = screen[i1, 0], screen[i1, 1]
                x2, y2 = screen[i2, 0], screen[i2, 1]
                k = 1.0 / ((x1 - x0) * (y2 - y0) - (x2 - x0) * (y1 - y0))
                p0 = ((sx - x2) * (y1 - y2) + (sy - y2) * (x2 - x1)) * k
                p1 = ((sx - x2) * (y2 - y0) + (sy - y2) * (x0 - x2)) * k
                p2 = 1.0 - p0 - p1
                z = depth[sy, sx]
                p0 *= screen[i0, 2] / z
                p1 *= screen[i1, 2] / z
                p2 *= screen[i2, 2] / z
                s = p0 * face_uv[f, 0, 0] + p1 * face_uv[f, 1, 0] + p2 * face_uv[f, 2, 0]
                t = p0 * face_uv[f, 0, 1] + p1 * face_uv[f, 1, 1] + p2 * face_uv[f, 2, 1]
                nx = p0 * normals[i0, 0] + p1 * normals[i1, 0] + p2 * normals[i2, 0]
                ny = p0 * normals[i0, 1] + p1 * normals[i1, 1] + p2 * normals[i2, 1]
                nz = p0 * normals[i0, 2] + p1 * normals[i1, 2] + p2 * normals[i2, 2]
                ao = p0 * occlusion[i0] + p1 * occlusion[i1] + p2 * occlusion[i2]
                lit = p0 * shadow[i0] + p1 * shadow[i1] + p2 * shadow[i2]
                vx = -(p0 * points[i0, 0] + p1 * points[i1, 0] + p2 * points[i2, 0])
                vy = -(p0 * points[i0, 1] + p1 * points[i1, 1] + p2 * points[i2, 1])
                vz = -(p0 * points[i0, 2] + p1 * points[i1, 2] + p2 * points[i2, 2])
                kv = 1.0 / np.sqrt(vx * vx + vy * vy + vz * vz + 1e-12)
                vx *= kv
                vy *= kv
                vz *= kv
                kn = 1.0 / np.sqrt(nx * nx + ny * ny + nz * nz + 1e-12)
                material = face_material[f]
                two_sided = material >= HAIR
                if two_sided and nx * vx + ny * vy + nz * vz < 0.0:
                    kn = -kn
                nx *= kn
                ny *= kn
                nz *= kn
                m = materials[material]
                spec_gain = m[10]
                spec_exp = m[11]
                # ---- albedo
                if material == SKIN:
                    tx = min(max(s, 0.0), tw - 1.001)
                    ty = min(max(t, 0.0), th - 1.001)
                    ix, iy = int(tx), int(ty)
                    fx, fy = tx - ix, ty - iy
                    c00 = (1.0 - fx) * (1.0 - fy)
                    c10 = fx * (1.0 - fy)
                    c01 = (1.0 - fx) * fy
                    c11 = fx * fy
                    q0 = (
                        c00 * skin_lut[texture[iy, ix, 0], 0]
                        + c10 * skin_lut[texture[iy, ix + 1, 0], 0]
                        + c01 * skin_lut[texture[iy + 1, ix, 0], 0]
                        + c11 * skin_lut[texture[iy + 1, ix + 1, 0], 0]
                    )
                    q1 = (
                        c00 * skin_lut[texture[iy, ix, 1], 1]
                        + c10 * skin_lut[texture[iy, ix + 1, 1], 1]
                        + c01 * skin_lut[texture[iy + 1, ix, 1], 1]
                        + c11 * skin_lut[texture[iy + 1, ix + 1, 1], 1]
                    )
                    q2 = (
                        c00 * skin_lut[texture[iy, ix, 2], 2]
                        + c10 * skin_lut[texture[iy, ix + 1, 2], 2]
                        + c01 * skin_lut[texture[iy + 1, ix, 2], 2]
                        + c11 * skin_lut[texture[iy + 1, ix + 1, 2], 2]
                    )
                    r = max(skin_mix[0, 0] * q0 + skin_mix[0, 1] * q1 + skin_mix[0, 2] * q2, 0.003)
                    g = max(skin_mix[1, 0] * q0 + skin_mix[1, 1] * q1 + skin_mix[1, 2] * q2, 0.003)
                    b = max(skin_mix[2, 0] * q0 + skin_mix[2, 1] * q1 + skin_mix[2, 2] * q2, 0.003)
                elif material == EYE:
                    radius = np.sqrt(s * s + t * t)
                    if radius < m[6] * m[8]:
                        r, g, b = 0.008, 0.008, 0.01
                    elif radius < m[6]:
                        ray = _noise1(noise, (np.arctan2(t, s) + 3.1416) * 12.0 + m[13])
                        edge = 1.0 - 0.75 * max(0.0, radius / m[6] - 0.75) * 4.0
                        gain = (0.6 + 0.8 * ray) * max(edge, 0.15)
                        r, g, b = m[0] * gain, m[1] * gain, m[2] * gain
                    else:
                        red = min(1.0, max(0.0, (radius - m[6]) * 1.2)) * m[9]
                        r, g, b = m[3], m[4] * (1.0 - 0.4 * red), m[5] * (1.0 - 0.4 * red)
                elif material == HAIR or material == BEARD:
                    fine = _noise1(noise, s * m[8] * 4.0 + m[14] * t + m[13])
                    mid = _noise1(noise, s * m[8] * 0.9 + 3.0 * m[14] * t + 11.0 + m[13])
                    gain = 1.0 + m[9] * (fine + mid - 1.0)
                    if material == HAIR:
                        dot = down[0] * nx + down[1] * ny + down[2] * nz
                        hx, hy, hz = lx + vx, ly + vy, lz + vz
                        kh = 1.0 / np.sqrt(hx * hx + hy * hy + hz * hz + 1e-12)
                        tx, ty, tz = down[0] - dot * nx, down[1] - dot * ny, down[2] - dot * nz
                        kt = 1.0 / np.sqrt(tx * tx + ty * ty + tz * tz + 1e-6)
                        th_dot = (tx * hx + ty * hy + tz * hz) * kh * kt + 0.25 * (mid - 0.5)
                        shine = max(0.0, 1.0 - th_dot * th_dot)
                        shine = shine * shine
                        shine = shine * shine
                        shine = shine * shine
                        gain += spec_gain * shine * shine * fine
                        spec_gain = 0.0
                    r, g, b = m[0] * gain, m[1] * gain, m[2] * gain
                    r = max(r, 0.002)
                    g = max(g, 0.002)
                    b = max(b, 0.002)
                elif material == CLOTH or material == HAT:
                    if m[12] > 1.5:
                        mix = _noise1(noise, s * m[8] + m[13]) * _noise1(
                            noise, t * m[8] * 1.7 + 5.0
                        )
                        mix = min(1.0, max(0.0, (mix - 0.2) * 4.0))
                    elif m[12] > 0.5:
                        wave = (t if m[14] > 0.5 else s) * m[8] + m[13]
                        mix = 1.0 if wave - np.floor(wave) < m[15] else 0.0
                    else:
                        mix = m[9] * _noise1(noise, (s + 0.37 * t) * 170.0 + m[13])
                    r = m[0] + (m[3] - m[0]) * mix
                    g = m[1] + (m[4] - m[1]) * mix
                    b = m[2] + (m[5] - m[2]) * mix
                else:
                    r, g, b = m[0], m[1], m[2]
                # ---- light: environment, then the key with a soft wrap (redder under skin)
                er = _shade_sh(sh, 0, nx, ny, nz) * ao
                eg = _shade_sh(sh, 1, nx, ny, nz) * ao
                eb = _shade_sh(sh, 2, nx, ny, nz) * ao
                cosine = nx * lx + ny * ly + nz * lz
                if material == SKIN:
                    kr = max(0.0, (cosine + 0.18) / 1.18)
                    kg = max(0.0, (cosine + 0.07) / 1.07)
                    kb = max(0.0, (cosine + 0.03) / 1.03)
                else:
                    kr = max(0.0, cosine)
                    kg = kr
                    kb = kr
                er += kr * lit * key_colour[0]
                eg += kg * lit * key_colour[1]
                eb += kb * lit * key_colour[2]
                r *= er
                g *= eg
                b *= eb
                if spec_gain > 0.0:
                    hx, hy, hz = lx + vx, ly + vy, lz + vz
                    kh = 1.0 / np.sqrt(hx * hx + hy * hy + hz * hz + 1e-12)
                    dot = (nx * hx + ny * hy + nz * hz) * kh
                    if dot > 0.3 and cosine > 0.0:
                        lobe = spec_gain * np.exp((dot - 1.0) * spec_exp) * cosine * lit
                        r += lobe * key_colour[0]
                        g += lobe * key_colour[1]
                        b += lobe * key_colour[2]
                    rim = 1.0 - max(0.0, nx * vx + ny * vy + nz * vz)
                    rim = rim * rim * rim * spec_gain * 0.3 * ao
                    r += rim * er
                    g += rim * eg
                    b += rim * eb
                sum_r += r
                sum_g += g
                sum_b += b
            out[y, x, 0] = sum_r * weight
            out[y, x, 1] = sum_g * weight
            out[y, x, 2] = sum_b * weight


@njit(**_FAST)
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


@njit(**_FAST)
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


@njit(**_FAST)
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


@njit(**_FAST)
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


@njit(**_FAST)
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
