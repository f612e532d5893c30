"""Things around the head: hair, hats, scarves, beards, glasses and shoulders, as small meshes.

Props are built on the mean head (mm, model frame) and follow each head through anchor vertices.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from lifemask.data import _synthetic_kernels as kernels
from lifemask.data._synthetic_rig import HeadRig

COLUMNS, CROWN_ROWS, FALL_ROWS, FALL_MM = 72, 10, 11, 260.0


@dataclass
class Mesh:
    """One prop: `points` (n, 3) mm in the head's frame, `faces` (f, 3), `uv` per vertex (n, 2).

    `material` is one index or one per face; `cull` hides back faces; `occlusion` is per vertex.
    """

    points: NDArray[np.float32]
    faces: NDArray[np.int32]
    uv: NDArray[np.float32]
    material: int | NDArray[np.uint8]
    occlusion: NDArray[np.float32]
    body: bool = False


@dataclass(frozen=True)
class Shell:
    """A grid of directions around the skull that hair and hats are cut from.

    Attributes:
        azimuth_deg: (c,) 0 = front, positive to +x.
        base_mm: (r, c, 3) points on the (convex) outside of the mean head, crown first.
        outward: (r, c, 3) unit directions away from the head.
        arc_mm: (r, c) length along the column from the crown.
        anchor: (r, c) id of the head vertex that each point follows.
        faces: (f, 3) of the grid, column-periodic.
    """

    azimuth_deg: NDArray[np.float32]
    base_mm: NDArray[np.float32]
    outward: NDArray[np.float32]
    arc_mm: NDArray[np.float32]
    anchor: NDArray[np.int64]
    faces: NDArray[np.int32]


@dataclass(frozen=True)
class PropKit:
    """Prepared prop geometry of one rig: shell, beard weights, neck ring."""

    rig: HeadRig
    shell: Shell
    beards: dict[str, NDArray[np.float32]]
    neck_mm: NDArray[np.float32]
    neck_anchor: NDArray[np.int64]
    eye_front_mm: float
    ear_anchor: tuple[int, int] = field(default=(0, 0))


def create_props(rig: HeadRig) -> PropKit:
    """Prepare the shell around the mean head, the beard masks and the shoulders' anchors."""
    mean = rig.mean_mm
    low = mean[:, 1] < mean[:, 1].min() + 12
    neck = np.array([0, mean[low, 1].mean(), mean[low, 2].mean()], np.float32)
    lm = rig.landmarks68_mm
    left, right = (
        int(np.argmin(np.linalg.norm(mean - (lm[i] + [0, 8, -14]), axis=1))) for i in (0, 16)
    )
    eye = mean[rig.eye_vertices, 2].max() if len(rig.eye_vertices) else lm[[37, 44], 2].mean()
    return PropKit(
        rig,
        _create_shell(rig),
        _beard_weights(rig),
        neck,
        np.flatnonzero(low),
        float(eye),
        (left, right),
    )


def _create_shell(rig: HeadRig) -> Shell:
    mean, lm = rig.mean_mm, rig.landmarks68_mm
    skin = rig.faces[rig.face_material == kernels.SKIN]
    upper = mean[np.unique(skin)]
    upper = upper[upper[:, 1] > lm[27, 1]]
    centre = np.array([0, lm[36:48, 1].mean() + 28, 0], np.float32)
    centre[2] = (upper[:, 2].min() + upper[:, 2].max()) / 2
    azimuth = np.linspace(-180, 180, COLUMNS, endpoint=False).astype(np.float32)
    a = np.deg2rad(azimuth)
    flat = np.stack([np.sin(a), np.zeros_like(a), np.cos(a)], 1)
    crown = []
    elevation = np.deg2rad(np.linspace(89, 0, CROWN_ROWS))
    directions = np.cos(elevation)[:, None, None] * flat[None]
    directions[..., 1] = np.sin(elevation)[:, None]
    radius = _cast(np.broadcast_to(centre, directions.shape), directions, mean, skin)
    radius = _smooth_columns(np.where(np.isfinite(radius), radius, np.nanmedian(radius)))
    crown = centre + directions * radius[..., None]
    drop = np.linspace(0, FALL_MM, FALL_ROWS + 1)[1:]
    origin = np.broadcast_to(centre, (FALL_ROWS, COLUMNS, 3)).copy()
    origin[..., 1] -= drop[:, None]
    around = np.broadcast_to(flat, origin.shape)
    inside = origin[:, 0, 1] > lm[8, 1] + 5
    wide = _cast(origin, around, mean, skin)
    wide = np.where(np.isfinite(wide) & inside[:, None], wide, 0)
    hang = np.maximum.accumulate(np.concatenate([radius[-1:], wide]), axis=0)[1:]
    front = np.abs(azimuth) < 40  # over the face the hair falls straight, it does not cling
    hang[:, front] = radius[-1, front]
    fall = origin + around * _smooth_columns(hang)[..., None]
    base = np.concatenate([crown, fall]).astype(np.float32)
    outward = np.concatenate([directions, around]).astype(np.float32)
    step = np.linalg.norm(np.diff(base, axis=0), axis=-1)
    arc = np.concatenate([np.zeros((1, COLUMNS)), np.cumsum(step, 0)]).astype(np.float32)
    from scipy.spatial import KDTree

    ids = np.unique(skin)
    ids = ids[mean[ids, 1] > lm[30, 1]]
    anchor = ids.astype(np.int64)[KDTree(mean[ids]).query(base)[1]]
    return Shell(azimuth, base, outward, arc, anchor, _grid_faces(len(base), COLUMNS, True))


def _smooth_columns(radius):
    """Binomial smoothing over the periodic columns."""
    for _ in range(2):
        radius = 0.5 * radius + 0.25 * (np.roll(radius, 1, -1) + np.roll(radius, -1, -1))
    return radius


def _cast(origins, directions, vertices, faces):
    """Largest ray parameter at which each ray (…, 3) crosses the mesh, NaN where it misses."""
    o = origins.reshape(-1, 3).astype(np.float64)
    d = directions.reshape(-1, 3).astype(np.float64)
    a, b, c = (vertices[faces[:, k]].astype(np.float64) for k in range(3))
    e1, e2 = b - a, c - a
    out = np.full(len(o), np.nan)
    for i in range(len(o)):
        p = np.cross(d[i], e2)
        det = (e1 * p).sum(1)
        with np.errstate(divide="ignore", invalid="ignore"):
            s = o[i] - a
            u = (s * p).sum(1) / det
            q = np.cross(s, e1)
            v = (q @ d[i]) / det
            t = (e2 * q).sum(1) / det
            hit = (u >= 0) & (v >= 0) & (u + v <= 1) & (t > 0)
        if hit.any():
            out[i] = t[hit].max()
    return out.reshape(origins.shape[:-1])


@lru_cache(maxsize=16)
def _grid_faces(rows: int, columns: int, periodic: bool) -> NDArray[np.int32]:
    r, c = np.meshgrid(
        np.arange(rows - 1), np.arange(columns if periodic else columns - 1), indexing="ij"
    )
    n = (c + 1) % columns
    i00, i01 = r * columns + c, r * columns + n
    i10, i11 = i00 + columns, i01 + columns
    # outward is the side from which azimuth grows to the right: counter-clockwise
    quads = np.stack([i00, i10, i11, i00, i11, i01], -1).reshape(-1, 3)
    return quads.astype(np.int32)


def _beard_weights(rig: HeadRig) -> dict[str, NDArray[np.float32]]:
    """Per-vertex beard density of three cuts, from positions relative to the landmarks."""
    mean, lm = rig.mean_mm, rig.landmarks68_mm
    x, y, z = np.abs(mean[:, 0]), mean[:, 1], mean[:, 2]
    lip_top, lip_low, chin = lm[51, 1], lm[57, 1], lm[8, 1]
    mouth = 1 - np.exp(-(((x / 27) ** 4) + ((y - (lip_top + lip_low) / 2) / 11) ** 4))
    jaw_top = lm[33, 1] + 6 + (lm[2, 1] + 18 - lm[33, 1]) * np.clip(x / 70, 0, 1) ** 3
    jaw_top -= 24 * np.exp(-(((x - 44) / 16) ** 2))
    below = 1 / (1 + np.exp((y - jaw_top) / 3.0))
    under = 1 / (1 + np.exp((chin - 22 - y) / 4.0))
    front = 1 / (1 + np.exp((lm[2, 2] - 12 - z) / 5.0))
    full = below * under * front * mouth
    goatee = full * np.exp(-((x / 30) ** 6))
    moustache = full * np.exp(-((x / 33) ** 6)) / (1 + np.exp((lip_top - 9 - y) / 2.0))
    cuts = {"full": full, "goatee": goatee, "moustache": moustache}
    return {name: np.asarray(weight, np.float32) for name, weight in cuts.items()}


def _follow(kit: PropKit, head: NDArray[np.float32]) -> NDArray[np.float32]:
    """Displacement (r, c, 3) of the shell for a head (v, 3), smoothed over the grid."""
    anchor = kit.shell.anchor
    delta = head[anchor] - kit.rig.mean_mm[anchor]
    for _ in range(2):
        delta = 0.5 * delta + 0.25 * (np.roll(delta, 1, 1) + np.roll(delta, -1, 1))
        inner = 0.5 * delta[1:-1] + 0.25 * (delta[:-2] + delta[2:])
        delta = np.concatenate([delta[:1], inner, delta[-1:]])
    return delta


def _end_arc(shell: Shell, end_y: NDArray[np.float32]) -> NDArray[np.float32]:
    """Arc length (c,) at which each column falls below the height `end_y` (c,) mm."""
    y = shell.base_mm[..., 1]
    below = y <= end_y
    row = np.where(below.any(0), below.argmax(0), len(y) - 1)
    row = np.maximum(row, 1)
    c = np.arange(y.shape[1])
    y0, y1 = y[row - 1, c], y[row, c]
    t = np.clip((y0 - end_y) / np.maximum(y0 - y1, 1e-3), 0, 1)
    return (shell.arc_mm[row - 1, c] * (1 - t) + shell.arc_mm[row, c] * t).astype(np.float32)


def _profile(azimuth, values, knots=(0, 32, 55, 78, 95, 115, 180)):
    return np.interp(np.abs(azimuth), knots, values).astype(np.float32)


def hair(kit: PropKit, head: NDArray[np.float32], rng: np.random.Generator, style: str) -> Mesh:
    """Hair on a head (v, 3), style "cropped", "short", "bangs", "long", "behind" or "big"."""
    shell, lm = kit.shell, kit.rig.landmarks68_mm
    brow, eye, nose, chin = lm[19, 1], lm[37, 1], lm[30, 1], lm[8, 1]
    line = brow + rng.uniform(38, 66)
    temple = line - rng.uniform(-4, 22)
    sideburn = rng.uniform(nose + 10, eye + 28)
    ear = eye + rng.uniform(14, 32)
    nape = chin + rng.uniform(-15, 40)
    if style == "bangs":
        line = brow + rng.uniform(-9, 24)
        temple = line - rng.uniform(0, 14)
    az = shell.azimuth_deg
    end = _profile(az, (line, line - rng.uniform(-8, 6), temple, sideburn, ear, nape, nape))
    tilt = rng.normal(0, 5) * np.clip(az / 40, -1, 1)
    fall = np.zeros(len(az), np.float32)
    if style in ("long", "behind") or (style in ("bangs", "big") and rng.random() < 0.5):
        for sign in (-1, 1):
            start = rng.uniform(100, 112) if style == "behind" else rng.uniform(34, 74)
            side = np.clip((az * sign - start) / 9.0, 0, 1)
            fall = np.maximum(fall, side)
        length = chin - rng.uniform(-25, 130)
        end = end * (1 - fall) + length * fall
    end = end + tilt * (1 - fall)
    thick = {"cropped": (2, 6), "short": (7, 20), "big": (24, 60)}.get(style, (8, 24))
    crown = rng.uniform(*thick)
    t = shell.arc_mm / np.maximum(_end_arc(shell, end), 1.0)
    edge = np.clip((t - 0.35) / 0.65, 0, 1)
    keep = 0.35 if style == "big" else 0.0
    taper = 1 - edge * edge * (3 - 2 * edge) * (1 - keep)
    offset = 1.5 + crown * taper * (1 - fall) + (4 + 0.6 * crown) * fall
    lumps = rng.normal(0, 1, (len(t) // 3 + 2, len(az) // 4))
    lumps = np.kron(lumps, np.ones((3, 4)))[: len(t), : len(az)]
    for _ in range(2):
        lumps = 0.5 * lumps + 0.25 * (np.roll(lumps, 1, 1) + np.roll(lumps, -1, 1))
        lumps[1:-1] = 0.5 * lumps[1:-1] + 0.25 * (lumps[:-2] + lumps[2:])
    offset = offset * (1 + rng.uniform(0, 0.5) * lumps * (0.3 + fall))
    offset = np.maximum(offset, 0.8)
    points = shell.base_mm + _follow(kit, head) + shell.outward * offset[..., None]
    if style in ("long", "behind"):
        sway = rng.uniform(0, 5) * np.sin(shell.arc_mm / rng.uniform(12, 30) + rng.uniform(0, 6))
        points = points + shell.outward * (sway * fall * (t > 0.5))[..., None]
    use = (t < 1.35).reshape(-1)
    faces = shell.faces[use[shell.faces].any(1)]
    s = np.broadcast_to(az / 360.0, t.shape)
    uv = np.stack([s, t], -1).reshape(-1, 2).astype(np.float32)
    uv[:, 0] = np.abs(uv[:, 0]) + (uv[:, 0] < 0) * 0.013
    occlusion = np.clip(1.05 - 0.45 * (t > 0.75) * fall, 0.3, 1).astype(np.float32)
    return Mesh(_f32(points), faces, uv, kernels.HAIR, occlusion.reshape(-1))


def hat(kit: PropKit, head: NDArray[np.float32], rng: np.random.Generator) -> list[Mesh]:
    """A cap, a beanie, a brimmed hat, or a scarf over the head."""
    shell, lm = kit.shell, kit.rig.landmarks68_mm
    kind = rng.choice(["cap", "beanie", "brim", "scarf"], p=[0.35, 0.3, 0.15, 0.2])
    az = shell.azimuth_deg
    front = lm[19, 1] + rng.uniform(6, 44)
    slope = rng.uniform(-4, 26) if kind != "scarf" else 0.0
    end = (
        front - slope * (1 - np.cos(np.deg2rad(az))) / 2 + rng.normal(0, 4) * np.sin(np.deg2rad(az))
    )
    if kind == "scarf":
        opening = rng.uniform(42, 66)
        side = np.clip((np.abs(az) - opening) / 16.0, 0, 1)
        end = end * (1 - side) + (lm[8, 1] - rng.uniform(20, 110)) * side
    arc_end = _end_arc(shell, end.astype(np.float32))
    thick = rng.uniform(10, 16) if kind != "scarf" else rng.uniform(6, 14)
    puff = rng.uniform(0, 22) if kind in ("beanie", "cap", "brim") else 0.0
    share = np.linspace(0, 1, len(shell.base_mm))[:, None]
    base = _resample(shell.base_mm + _follow(kit, head), shell.arc_mm, share * arc_end)
    out = _resample(shell.outward, shell.arc_mm, share * arc_end)
    offset = thick + puff * np.clip(1 - share * 1.3, 0, 1)
    points = base + out * offset[..., None]
    s = np.broadcast_to(az / 360.0, points.shape[:2])
    t = np.broadcast_to(share, points.shape[:2])
    uv = np.stack([s, t], -1).reshape(-1, 2)
    ones = np.ones(points[..., 0].size, np.float32)
    meshes = [Mesh(_f32(points), shell.faces, _f32(uv, 2), kernels.HAT, ones)]
    if kind in ("cap", "brim"):
        reach = np.clip(1.1 - np.abs(az) / 62.0, 0, 1) ** 0.5 if kind == "cap" else np.ones(len(az))
        length = rng.uniform(45, 85) * reach
        rim = points[-1]
        flat = np.stack([np.sin(np.deg2rad(az)), 0 * az, np.cos(np.deg2rad(az))], 1)
        droop = rng.uniform(-0.1, 0.45)
        tip = rim + flat * length[:, None] - np.array([0, 1, 0]) * (droop * length)[:, None]
        brim = np.stack([rim, (rim + tip) / 2, tip])
        s3 = np.stack([np.broadcast_to(az / 360.0, brim.shape[:2])] * 2, -1)
        faces = _grid_faces(3, len(az), True)
        meshes.append(
            Mesh(_f32(brim), faces, _f32(s3, 2), kernels.HAT, np.ones(3 * len(az), np.float32))
        )
    return meshes


def _resample(grid, arc, wanted):
    """Columns of a grid (r, c, 3) at arc lengths `wanted` (k, c)."""
    out = np.empty((*wanted.shape, 3), np.float32)
    for c in range(grid.shape[1]):
        for k in range(3):
            out[:, c, k] = np.interp(wanted[:, c], arc[:, c], grid[:, c, k])
    return out


def beard(kit: PropKit, head, normals, rng: np.random.Generator, cut: str) -> Mesh:
    """Hair on the lower face: skin triangles lifted along their normals where the cut is dense."""
    weight = kit.beards[cut]
    faces = kit.rig.faces[kit.rig.face_material == kernels.SKIN]
    faces = faces[(weight[faces] > 0.12).all(1)]
    ids, inverse = np.unique(faces, return_inverse=True)
    length = rng.uniform(2.5, 12) if cut != "moustache" else rng.uniform(2, 5)
    w = weight[ids][:, None]
    down = np.array([0, -0.5, 0.15], np.float32)
    points = head[ids] + (normals[ids] + down) * (length * w)
    s = np.abs(kit.rig.mean_mm[ids, 0]) / 160.0 + 0.2 * (kit.rig.mean_mm[ids, 0] < 0)
    uv = np.stack([s, 1 - weight[ids] * rng.uniform(0.85, 1.0)], 1)
    return Mesh(
        _f32(points), inverse.reshape(-1, 3).astype(np.int32), _f32(uv, 2), kernels.BEARD,
        np.full(len(ids), 0.85, np.float32),
    )  # fmt: skip


def glasses(kit: PropKit, head, landmarks68, rng: np.random.Generator) -> tuple[Mesh, Mesh]:
    """A frame with temples, and the lens surfaces (drawn as a separate layer)."""
    left, right = landmarks68[36:42].mean(0), landmarks68[42:48].mean(0)
    centre = (left + right) / 2
    eye_front = head[kit.rig.eye_vertices, 2].max() if len(kit.rig.eye_vertices) else centre[2] + 5
    z_mm = max(eye_front, landmarks68[27, 2] - 4) + rng.uniform(4, 11)
    half_w, half_h = rng.uniform(22, 33), rng.uniform(13, 27)
    power, thick = rng.uniform(2, 6), rng.choice([rng.uniform(0.8, 2), rng.uniform(2, 6)])
    gap = max((right[0] - left[0]) / 2 + rng.uniform(-1, 3), half_w + 4)
    y_mm = centre[1] - rng.uniform(-1, 7)
    angle = np.linspace(0, 2 * np.pi, 28, endpoint=False)
    c, s = np.cos(angle), np.sin(angle)
    radius = (np.abs(c) ** power + np.abs(s) ** power) ** (-1 / power)
    curve = rng.uniform(0.0005, 0.003)

    def ring(sign, grow, back=0.0):
        x = sign * gap + c * radius * (half_w + grow) + centre[0]
        y = y_mm + s * radius * (half_h + grow)
        return np.stack([x, y, z_mm - back - curve * (x - centre[0]) ** 2], 1)

    points, faces, lens_points, lens_faces = [], [], [], []
    total = 0
    for sign in (-1, 1):
        rings = np.concatenate([ring(sign, 0), ring(sign, thick), ring(sign, thick, 4.0)])
        points.append(rings)
        faces.append(_grid_faces(3, 28, True) + total)
        total += len(rings)
        lens_points.append(np.concatenate([ring(sign, 0), ring(sign, 0).mean(0)[None]]))
        base = 29 * len(lens_faces)
        k = np.arange(28)
        lens_faces.append(np.stack([k + base, (k + 1) % 28 + base, np.full(28, 28 + base)], 1))
    bars = [_bar(points[0][28], points[1][28 + 14], max(thick, 1.5), centre[2], z_mm)]
    for index, sign in ((0, -1), (1, 1)):
        hinge = ring(sign, thick)[14 if sign < 0 else 0] + [0, half_h * rng.uniform(0.2, 0.5), -1]
        ear = head[kit.ear_anchor[index]] + [sign * 5.0, 2, 0]
        bars.append(_bar(hinge, ear, max(thick, 1.2) * rng.uniform(0.8, 2.2), None, None))
    for bar_points, bar_faces in bars:
        points.append(bar_points)
        faces.append(bar_faces + total)
        total += len(bar_points)
    p, lp = np.concatenate(points), np.concatenate(lens_points)
    zeros = np.zeros((len(p), 2), np.float32)
    frame = Mesh(
        _f32(p), np.concatenate(faces).astype(np.int32), zeros, kernels.FRAME,
        np.ones(len(p), np.float32),
    )  # fmt: skip
    lens = Mesh(
        _f32(lp), np.concatenate(lens_faces).astype(np.int32), zeros[:1], kernels.FRAME,
        np.ones(len(lp), np.float32),
    )  # fmt: skip
    return frame, lens


def _bar(a, b, height, bow_z, top_z):
    """A thin box from a to b (two crossing strips), bowed forward for a nose bridge."""
    t = np.linspace(0, 1, 5)[:, None]
    mid = a * (1 - t) + b * t
    if bow_z is not None:
        mid[:, 2] = max(top_z, mid[:, 2].max())
    rows = [mid + [0, height / 2, 0], mid - [0, height / 2, 0], mid - [0, height / 2, 2.5]]
    return np.concatenate(rows), _grid_faces(3, 5, False)


def shoulders(kit: PropKit, head, rng: np.random.Generator) -> Mesh:
    """Neck base, chest and shoulders; cloth below a random neckline, skin above it."""
    ids = kit.neck_anchor
    base = kit.neck_mm + (head[ids] - kit.rig.mean_mm[ids]).mean(0)
    ring = head[ids] - base
    rx, rz = np.abs(ring[:, 0]).max(), np.ptp(ring[:, 2]) / 2
    wide, up = rng.uniform(0.8, 1.25), rng.uniform(-6, 26)
    profile = np.array(
        [
            [up + 3, rx * 1.02 + rng.uniform(-3, 10), rz * 1.02 + rng.uniform(-3, 9)],
            [-6, rx * 1.12 + 3, rz * 1.1 + 2],
            [-22, rx * 1.6, rz * 1.25],
            [-48, 140 * wide, rz * 1.5],
            [-80, 190 * wide, rz * 1.8],
            [-150, 215 * wide, rz * 2.0],
            [-420, 200 * wide, rz * 2.1],
        ]
    )
    n = 32
    a = np.linspace(-np.pi, np.pi, n, endpoint=False)
    points = np.empty((len(profile), n, 3))
    points[..., 0] = profile[:, 1:2] * np.sin(a)
    points[..., 1] = profile[:, :1] - 12 * np.clip(np.cos(a), 0, 1) * (profile[:, :1] < -4)
    points[..., 2] = profile[:, 2:3] * np.cos(a)
    points += base
    rows = np.arange(len(profile))[:, None] / (len(profile) - 1.0)
    uv = np.stack([np.broadcast_to(a / (2 * np.pi), points.shape[:2]),
                   np.broadcast_to(rows, points.shape[:2])], -1)  # fmt: skip
    faces = _grid_faces(len(profile), n, True)
    centre = points.reshape(-1, 3)[faces].mean(1) - base
    depth = rng.choice([40.0, rng.uniform(0, 25), -rng.uniform(5, 110)], p=[0.35, 0.3, 0.35])
    toward = np.clip(centre[:, 2] / (np.abs(centre[:, 0]) + 30), 0, 1)
    line = np.where(depth < 0, depth * toward + 4, depth)
    material = np.where(centre[:, 1] > line, kernels.SKIN_PLAIN, kernels.CLOTH).astype(np.uint8)
    ones = np.full(points[..., 0].size, 0.85, np.float32)
    return Mesh(_f32(points), faces, _f32(uv, 2), material, ones, body=True)


def _f32(values, columns: int = 3) -> NDArray[np.float32]:
    return np.ascontiguousarray(values.reshape(-1, columns), np.float32)
