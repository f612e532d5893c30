"""Hair, headwear and beards, cut from the shell around the skull or lifted from the skin."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lifemask.data import _synthetic_kernels as kernels
from lifemask.data._synthetic_mesh import Mesh, create_mesh, grid_faces
from lifemask.data._synthetic_rig import HeadRig
from lifemask.data._synthetic_shell import Shell, end_arc, follow, resample


def _profile(azimuth, values, knots=(0, 32, 55, 78, 95, 115, 180)):
    return np.interp(np.abs(azimuth), knots, values).astype(np.float32)


def hair(
    shell: Shell, rig: HeadRig, head: NDArray[np.float32], rng: np.random.Generator, style: str
) -> Mesh:
    """Hair on a head (v, 3), style "cropped", "short", "bangs", "long", "behind" or "big"."""
    lm = rig.landmarks68_mm
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
    t = shell.arc_mm / np.maximum(end_arc(shell, end), 1.0)
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
    points = shell.base_mm + follow(shell, rig.mean_mm, head) + shell.outward * offset[..., None]
    if style in ("long", "behind"):
        sway = rng.uniform(0, 5) * np.sin(shell.arc_mm / rng.uniform(12, 30) + rng.uniform(0, 6))
        points = points + shell.outward * (sway * fall * (t > 0.5))[..., None]
    use = (t < 1.35).reshape(-1)
    faces = shell.faces[use[shell.faces].any(1)]
    s = np.broadcast_to(az / 360.0, t.shape)
    uv = np.stack([s, t], -1).reshape(-1, 2).astype(np.float32)
    uv[:, 0] = np.abs(uv[:, 0]) + (uv[:, 0] < 0) * 0.013
    occlusion = np.clip(1.05 - 0.45 * (t > 0.75) * fall, 0.3, 1).astype(np.float32)
    return create_mesh(points, faces, uv, kernels.HAIR, occlusion)


def hat(
    shell: Shell, rig: HeadRig, head: NDArray[np.float32], rng: np.random.Generator
) -> list[Mesh]:
    """A cap, a beanie, a brimmed hat, or a scarf over the head (v, 3)."""
    lm = rig.landmarks68_mm
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
    arc_end = end_arc(shell, end.astype(np.float32))
    thick = rng.uniform(10, 16) if kind != "scarf" else rng.uniform(6, 14)
    puff = rng.uniform(0, 22) if kind in ("beanie", "cap", "brim") else 0.0
    share = np.linspace(0, 1, len(shell.base_mm))[:, None]
    base = resample(shell.base_mm + follow(shell, rig.mean_mm, head), shell.arc_mm, share * arc_end)
    out = resample(shell.outward, shell.arc_mm, share * arc_end)
    offset = thick + puff * np.clip(1 - share * 1.3, 0, 1)
    points = base + out * offset[..., None]
    s = np.broadcast_to(az / 360.0, points.shape[:2])
    t = np.broadcast_to(share, points.shape[:2])
    uv = np.stack([s, t], -1).reshape(-1, 2)
    meshes = [create_mesh(points, shell.faces, uv, kernels.HAT)]
    if kind in ("cap", "brim"):
        reach = np.clip(1.1 - np.abs(az) / 62.0, 0, 1) ** 0.5 if kind == "cap" else np.ones(len(az))
        length = rng.uniform(45, 85) * reach
        rim = points[-1]
        flat = np.stack([np.sin(np.deg2rad(az)), 0 * az, np.cos(np.deg2rad(az))], 1)
        droop = rng.uniform(-0.1, 0.45)
        tip = rim + flat * length[:, None] - np.array([0, 1, 0]) * (droop * length)[:, None]
        brim = np.stack([rim, (rim + tip) / 2, tip])
        s3 = np.stack([np.broadcast_to(az / 360.0, brim.shape[:2])] * 2, -1)
        faces = grid_faces(3, len(az), True)
        meshes.append(create_mesh(brim, faces, s3, kernels.HAT))
    return meshes


def beard(
    rig: HeadRig, weight: NDArray[np.float32], head, normals, rng: np.random.Generator, cut: str
) -> Mesh:
    """Hair on the lower face: skin triangles lifted along their normals where the cut is dense.

    Args:
        rig: of the model.
        weight: (v,) density of the cut, from `beard_weights`.
        head: (v, 3) mm.
        normals: (v, 3) of the head.
        rng: decides the length.
        cut: name of the cut.
    """
    faces = rig.faces[rig.face_material == kernels.SKIN]
    faces = faces[(weight[faces] > 0.12).all(1)]
    ids, inverse = np.unique(faces, return_inverse=True)
    length = 2.5 * 8 ** rng.uniform(0, 1) if cut != "moustache" else rng.uniform(2, 5)
    w = weight[ids][:, None]
    down = np.array([0, -0.5, 0.15], np.float32)
    points = head[ids] + (normals[ids] + down) * (length * w)
    s = np.abs(rig.mean_mm[ids, 0]) / 160.0 + 0.2 * (rig.mean_mm[ids, 0] < 0)
    uv = np.stack([s, 1 - weight[ids] * rng.uniform(0.85, 1.0)], 1)
    return create_mesh(points, inverse.reshape(-1, 3), uv, kernels.BEARD, 0.85)


def beard_weights(rig: HeadRig) -> dict[str, NDArray[np.float32]]:
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
