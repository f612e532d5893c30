"""Numba kernels that colour a rasterised scene, and that read its truth at pixel centres."""

from __future__ import annotations

import numpy as np
from numba import njit

from lifemask.data._synthetic_kernels import (
    BEARD,
    CARD,
    CLOTH,
    EYE,
    FAST,
    FRAME,
    HAIR,
    HAND,
    HAT,
    NO_UV,
    OBJECT,
    SKIN,
    SKIN_PLAIN,
    noise1,
)

MIN_ALBEDO = 0.003


@njit(**FAST)
def _irradiance(sh, c, x, y, z):
    """Irradiance / pi of channel c for a unit normal; `sh` already carries A_l / pi."""
    e = 0.282095 * sh[0, c] + 0.488603 * (y * sh[1, c] + z * sh[2, c] + x * sh[3, c])
    e += 1.092548 * (x * y * sh[4, c] + y * z * sh[5, c] + x * z * sh[7, c])
    e += 0.315392 * (3.0 * z * z - 1.0) * sh[6, c] + 0.546274 * (x * x - y * y) * sh[8, c]
    return max(e, 0.0)


@njit(**FAST)
def _is_smooth(ids, depth, face_material, y, x):
    """Whether a 2 x 2 block lies on one surface: same material, distances within 6 mm."""
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
    return m != HAIR and m != FRAME and high - low < 6.0 * low * low


@njit(**FAST)
def _weights(screen, i0, i1, i2, x, y, z):
    """Perspective-correct barycentrics of screen position (x, y) with inverse distance z."""
    x0, y0 = screen[i0, 0], screen[i0, 1]
    x1, y1 = screen[i1, 0], screen[i1, 1]
    x2, y2 = screen[i2, 0], screen[i2, 1]
    k = 1.0 / ((x1 - x0) * (y2 - y0) - (x2 - x0) * (y1 - y0))
    p0 = ((x - x2) * (y1 - y2) + (y - y2) * (x2 - x1)) * k
    p1 = ((x - x2) * (y2 - y0) + (y - y2) * (x0 - x2)) * k
    p2 = 1.0 - p0 - p1
    return p0 * screen[i0, 2] / z, p1 * screen[i1, 2] / z, p2 * screen[i2, 2] / z


@njit(**FAST)
def _mixed(values, i0, i1, i2, p0, p1, p2):
    """Three interpolated columns of `values`."""
    return (
        p0 * values[i0, 0] + p1 * values[i1, 0] + p2 * values[i2, 0],
        p0 * values[i0, 1] + p1 * values[i1, 1] + p2 * values[i2, 1],
        p0 * values[i0, 2] + p1 * values[i1, 2] + p2 * values[i2, 2],
    )


@njit(**FAST)
def _unit(x, y, z):
    k = 1.0 / np.sqrt(x * x + y * y + z * z + 1e-12)
    return x * k, y * k, z * k


@njit(**FAST)
def _skin_colour(texture, lut, mix, s, t):
    """Bilinear texel through the tone table and the colour matrix."""
    tx = min(max(s, 0.0), texture.shape[1] - 1.001)
    ty = min(max(t, 0.0), texture.shape[0] - 1.001)
    ix, iy = int(tx), int(ty)
    fx, fy = tx - ix, ty - iy
    c00, c10 = (1.0 - fx) * (1.0 - fy), fx * (1.0 - fy)
    c01, c11 = (1.0 - fx) * fy, fx * fy
    q0 = c00 * lut[texture[iy, ix, 0], 0] + c10 * lut[texture[iy, ix + 1, 0], 0]
    q0 += c01 * lut[texture[iy + 1, ix, 0], 0] + c11 * lut[texture[iy + 1, ix + 1, 0], 0]
    q1 = c00 * lut[texture[iy, ix, 1], 1] + c10 * lut[texture[iy, ix + 1, 1], 1]
    q1 += c01 * lut[texture[iy + 1, ix, 1], 1] + c11 * lut[texture[iy + 1, ix + 1, 1], 1]
    q2 = c00 * lut[texture[iy, ix, 2], 2] + c10 * lut[texture[iy, ix + 1, 2], 2]
    q2 += c01 * lut[texture[iy + 1, ix, 2], 2] + c11 * lut[texture[iy + 1, ix + 1, 2], 2]
    return (
        max(mix[0, 0] * q0 + mix[0, 1] * q1 + mix[0, 2] * q2, MIN_ALBEDO),
        max(mix[1, 0] * q0 + mix[1, 1] * q1 + mix[1, 2] * q2, MIN_ALBEDO),
        max(mix[2, 0] * q0 + mix[2, 1] * q1 + mix[2, 2] * q2, MIN_ALBEDO),
    )


@njit(**FAST)
def _eye_colour(m, noise, s, t):
    """Pupil, iris with rays and a dark rim, or white with redder corners; (s, t) on the sphere."""
    radius = np.sqrt(s * s + t * t)
    if radius < m[6] * m[8]:
        return 0.008, 0.008, 0.01
    if radius < m[6]:
        ray = noise1(noise, (np.arctan2(t, s) + 3.1416) * 12.0 + m[13])
        edge = 1.0 - 0.75 * max(0.0, radius / m[6] - 0.75) * 4.0
        gain = (0.6 + 0.8 * ray) * max(edge, 0.15)
        return m[0] * gain, m[1] * gain, m[2] * gain
    red = min(1.0, max(0.0, (radius - m[6]) * 1.2)) * m[9]
    return m[3], m[4] * (1.0 - 0.4 * red), m[5] * (1.0 - 0.4 * red)


@njit(**FAST)
def _strands(m, noise, s, t):
    """Fine and broad variation of hair along its width, both in [0, 1]."""
    fine = noise1(noise, s * m[8] * 4.0 + m[14] * t + m[13])
    return fine, noise1(noise, s * m[8] * 0.9 + 3.0 * m[14] * t + 11.0 + m[13])


@njit(**FAST)
def _pattern_mix(m, noise, s, t):
    """Share of the second colour of cloth and objects: patches, stripes or fine grain."""
    if m[12] > 1.5:
        mix = noise1(noise, s * m[8] + m[13]) * noise1(noise, t * m[8] * 1.7 + 5.0)
        return min(1.0, max(0.0, (mix - 0.2) * 4.0))
    if m[12] > 0.5:
        wave = (t if m[14] > 0.5 else s) * m[8] + m[13]
        return 1.0 if wave - np.floor(wave) < m[15] else 0.0
    return m[9] * noise1(noise, (s + 0.37 * t) * 170.0 + m[13])


@njit(**FAST)
def surface_colour(material, m, s, t, texture, lut, mix, noise, card, x, y):
    """Linear albedo (3 floats) of a material at its coordinates (s, t) and pixel (x, y)."""
    if material == SKIN:
        return _skin_colour(texture, lut, mix, s, t)
    if material == EYE:
        return _eye_colour(m, noise, s, t)
    if material == HAIR or material == BEARD:
        fine, mid = _strands(m, noise, s, t)
        gain = 1.0 + m[9] * (fine + mid - 1.0)
        return max(m[0] * gain, 0.002), max(m[1] * gain, 0.002), max(m[2] * gain, 0.002)
    if material == CLOTH or material == HAT or material == OBJECT:
        k = _pattern_mix(m, noise, s, t)
        return m[0] + (m[3] - m[0]) * k, m[1] + (m[4] - m[1]) * k, m[2] + (m[5] - m[2]) * k
    if material == CARD:
        return card[y, x, 0], card[y, x, 1], card[y, x, 2]
    return m[0], m[1], m[2]


@njit(**FAST)
def _hair_shine(m, noise, s, t, down, nx, ny, nz, hx, hy, hz):
    """Highlight across strands that flow down the head (Kajiya and Kay 1989)."""
    fine, mid = _strands(m, noise, s, t)
    dot = down[0] * nx + down[1] * ny + down[2] * nz
    tx, ty, tz = _unit(down[0] - dot * nx, down[1] - dot * ny, down[2] - dot * nz)
    along = tx * hx + ty * hy + tz * hz + 0.25 * (mid - 0.5)
    shine = max(0.0, 1.0 - along * along) ** 16
    return m[10] * shine * fine


@njit(**FAST)
def shade_scene(
    screen, points, normals, occlusion, shadow, faces, face_uv, face_material,
    materials, noise, texture, skin_lut, skin_mix, sh, key_direction, key_colour, down,
    background, card, depth, ids, ss, out,
):  # fmt: skip
    """Shade every super-sample and box-filter to `out` (h, w, 3) linear RGB; no return value.

    Args:
        screen: (v, 3) as in `rasterize_scene`.
        points: (v, 3) camera frame with the eye at the origin, mm.
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
        background: (h, w, 3) linear radiance.
        card: (h, w, 3) linear albedo of flat occluders, by pixel.
        depth: (h * ss, w * ss) from `rasterize_scene`.
        ids: (h * ss, w * ss) from `rasterize_scene`.
        ss: super-samples per axis.
        out: (h, w, 3) float32, overwritten.
    """
    full_weight = 1.0 / (ss * ss)
    lx, ly, lz = key_direction[0], key_direction[1], key_direction[2]
    for y in range(out.shape[0]):
        for x in range(out.shape[1]):
            sum_r, sum_g, sum_b = 0.0, 0.0, 0.0
            smooth = ss == 2 and _is_smooth(ids, depth, face_material, y * 2, x * 2)
            weight = 0.5 if smooth else full_weight
            for sub in range(ss * ss):
                if smooth and (sub == 1 or sub == 2):
                    continue  # inside one surface two diagonal samples are enough
                sy, sx = y * ss + sub // ss, x * ss + sub % ss
                f = ids[sy, sx]
                if f < 0:
                    sum_r += background[y, x, 0]
                    sum_g += background[y, x, 1]
                    sum_b += background[y, x, 2]
                    continue
                i0, i1, i2 = faces[f, 0], faces[f, 1], faces[f, 2]
                p0, p1, p2 = _weights(screen, i0, i1, i2, sx, sy, depth[sy, sx])
                s = p0 * face_uv[f, 0, 0] + p1 * face_uv[f, 1, 0] + p2 * face_uv[f, 2, 0]
                t = p0 * face_uv[f, 0, 1] + p1 * face_uv[f, 1, 1] + p2 * face_uv[f, 2, 1]
                nx, ny, nz = _mixed(normals, i0, i1, i2, p0, p1, p2)
                nx, ny, nz = _unit(nx, ny, nz)
                vx, vy, vz = _mixed(points, i0, i1, i2, p0, p1, p2)
                vx, vy, vz = _unit(-vx, -vy, -vz)
                ao = p0 * occlusion[i0] + p1 * occlusion[i1] + p2 * occlusion[i2]
                lit = p0 * shadow[i0] + p1 * shadow[i1] + p2 * shadow[i2]
                material = face_material[f]
                facing = nx * vx + ny * vy + nz * vz
                if material >= HAIR and facing < 0.0:
                    nx, ny, nz, facing = -nx, -ny, -nz, -facing
                m = materials[material]
                spec_gain, spec_exp = m[10], m[11]
                r, g, b = surface_colour(
                    material, m, s, t, texture, skin_lut, skin_mix, noise, card, x, y
                )
                hx, hy, hz = _unit(lx + vx, ly + vy, lz + vz)
                if material == HAIR:
                    shine = _hair_shine(m, noise, s, t, down, nx, ny, nz, hx, hy, hz)
                    r += m[0] * shine
                    g += m[1] * shine
                    b += m[2] * shine
                    spec_gain = 0.0
                # ---- light: environment, then the key with a soft wrap (redder under skin)
                er = _irradiance(sh, 0, nx, ny, nz) * ao
                eg = _irradiance(sh, 1, nx, ny, nz) * ao
                eb = _irradiance(sh, 2, nx, ny, nz) * ao
                cosine = nx * lx + ny * ly + nz * lz
                kr = kg = kb = max(0.0, cosine)
                if material == SKIN or material == SKIN_PLAIN or material == HAND:
                    kr = max(0.0, (cosine + 0.18) / 1.18)
                    kg = max(0.0, (cosine + 0.07) / 1.07)
                    kb = max(0.0, (cosine + 0.03) / 1.03)
                er += kr * lit * key_colour[0]
                eg += kg * lit * key_colour[1]
                eb += kb * lit * key_colour[2]
                r *= er
                g *= eg
                b *= eb
                if spec_gain > 0.0:
                    dot = nx * hx + ny * hy + nz * hz
                    if dot > 0.3 and cosine > 0.0:
                        lobe = spec_gain * np.exp((dot - 1.0) * spec_exp) * cosine * lit
                        r += lobe * key_colour[0]
                        g += lobe * key_colour[1]
                        b += lobe * key_colour[2]
                    rim = 1.0 - max(0.0, facing)
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


@njit(**FAST)
def truth_maps(
    screen, points, normals, occlusion, shadow, faces, face_uv, face_material, materials, noise,
    texture, skin_lut, skin_mix, card, model_uv, depth, ids,
    out_normal, out_albedo, out_uv, out_light, out_material,
):  # fmt: skip
    """What the centre of each pixel shows, from a raster of one sample per pixel.

    Args:
        screen: (v, 3) u, v in px and inverse distance.
        points: (v, 3) as in `shade_scene`.
        normals: (v, 3) as in `shade_scene`.
        occlusion: (v,).
        shadow: (v,).
        faces: (f, 3).
        face_uv: (f, 3, 2).
        face_material: (f,).
        materials: (m, MATERIAL_SIZE).
        noise: (n,).
        texture: (th, tw, 3).
        skin_lut: (256, 3).
        skin_mix: (3, 3).
        card: (h, w, 3).
        model_uv: (k, 3, 2) texture coordinates of the first k faces, those of the face model.
        depth: (h, w) from `rasterize_scene` at one sample per pixel.
        ids: (h, w) from the same.
        out_normal: (h, w, 3) unit, camera frame, towards the viewer on two-sided props; 0 = empty.
        out_albedo: (h, w, 3) linear; 0 = empty.
        out_uv: (h, w, 2) from `model_uv`, `NO_UV` off the face model.
        out_light: (h, w, 2) ambient visibility and share of the key light that arrives; 0 = empty.
        out_material: (h, w) uint8, 255 = empty.
    """
    for y in range(ids.shape[0]):
        for x in range(ids.shape[1]):
            f = ids[y, x]
            out_uv[y, x, 0] = out_uv[y, x, 1] = NO_UV
            if f < 0:
                out_normal[y, x] = 0.0
                out_albedo[y, x] = 0.0
                out_light[y, x] = 0.0
                out_material[y, x] = 255
                continue
            i0, i1, i2 = faces[f, 0], faces[f, 1], faces[f, 2]
            p0, p1, p2 = _weights(screen, i0, i1, i2, x, y, depth[y, x])
            s = p0 * face_uv[f, 0, 0] + p1 * face_uv[f, 1, 0] + p2 * face_uv[f, 2, 0]
            t = p0 * face_uv[f, 0, 1] + p1 * face_uv[f, 1, 1] + p2 * face_uv[f, 2, 1]
            nx, ny, nz = _mixed(normals, i0, i1, i2, p0, p1, p2)
            nx, ny, nz = _unit(nx, ny, nz)
            material = face_material[f]
            px, py, pz = _mixed(points, i0, i1, i2, p0, p1, p2)
            if material >= HAIR and nx * px + ny * py + nz * pz > 0.0:
                nx, ny, nz = -nx, -ny, -nz
            r, g, b = surface_colour(
                material, materials[material], s, t, texture, skin_lut, skin_mix, noise, card, x, y
            )
            out_normal[y, x, 0], out_normal[y, x, 1], out_normal[y, x, 2] = nx, ny, nz
            out_albedo[y, x, 0], out_albedo[y, x, 1], out_albedo[y, x, 2] = r, g, b
            out_light[y, x, 0] = p0 * occlusion[i0] + p1 * occlusion[i1] + p2 * occlusion[i2]
            out_light[y, x, 1] = p0 * shadow[i0] + p1 * shadow[i1] + p2 * shadow[i2]
            out_material[y, x] = material
            if f < model_uv.shape[0]:
                for c in range(2):
                    uv = p0 * model_uv[f, 0, c] + p1 * model_uv[f, 1, c] + p2 * model_uv[f, 2, c]
                    out_uv[y, x, c] = uv
