"""What a head wears besides hair: glasses and shoulders; and the kit that all props share.

Props are built on the mean head (mm, model frame) and follow each head through anchor vertices.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from lifemask.data import _synthetic_kernels as kernels
from lifemask.data._synthetic_hair import beard_weights
from lifemask.data._synthetic_mesh import Mesh, create_mesh, grid_faces
from lifemask.data._synthetic_rig import HeadRig
from lifemask.data._synthetic_shell import Shell, create_shell

SKIN_ROWS = 5
"""Rows of the shoulders' grid above the neckline."""


@dataclass(frozen=True)
class PropKit:
    """Prepared prop geometry of one rig: shell, beard weights, neck ring."""

    rig: HeadRig
    shell: Shell
    beards: dict[str, NDArray[np.float32]]
    neck_mm: NDArray[np.float32]
    neck_anchor: NDArray[np.int64]
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
    return PropKit(
        rig,
        create_shell(rig),
        beard_weights(rig),
        neck,
        np.flatnonzero(low),
        (left, right),
    )


def glasses(kit: PropKit, head, landmarks68, rng: np.random.Generator) -> tuple[Mesh, Mesh]:
    """A frame with temples, and the lens surfaces (drawn as a separate layer)."""
    left, right = landmarks68[36:42].mean(0), landmarks68[42:48].mean(0)
    centre = (left + right) / 2
    balls = np.concatenate([eye.vertices for eye in kit.rig.eyes])
    eye_front = head[balls, 2].max() if len(balls) else centre[2] + 5
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
        faces.append(grid_faces(3, 28, True) + total)
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
    frame = create_mesh(np.concatenate(points), np.concatenate(faces), None, kernels.FRAME)
    lens = create_mesh(
        np.concatenate(lens_points), np.concatenate(lens_faces), None, kernels.FRAME, casts=False
    )
    return frame, lens


def _bar(a, b, height, bow_z, top_z):
    """A thin box from a to b (two crossing strips), bowed forward for a nose bridge."""
    t = np.linspace(0, 1, 5)[:, None]
    mid = a * (1 - t) + b * t
    if bow_z is not None:
        mid[:, 2] = max(top_z, mid[:, 2].max())
    rows = [mid + [0, height / 2, 0], mid - [0, height / 2, 0], mid - [0, height / 2, 2.5]]
    return np.concatenate(rows), grid_faces(3, 5, False)


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
    a = np.linspace(-np.pi, np.pi, 36, endpoint=False)
    depth = rng.choice([40.0, rng.uniform(0, 25), -rng.uniform(5, 110)], p=[0.35, 0.3, 0.35])
    line = 4 + depth * np.clip(np.cos(a), 0, 1) ** 1.5 if depth < 0 else np.full(len(a), depth)
    top = float(profile[0, 0])
    line = np.minimum(line, top)
    t = np.linspace(0, 1, SKIN_ROWS)[:, None]
    below = np.array([0.05, 0.12, 0.25, 0.5, 1.0])[:, None]
    height = np.concatenate([top + t * (line - top), line + below * (profile[-1, 0] - line)])
    down = profile[::-1]
    half_x, half_z = (np.interp(height, down[:, 0], down[:, k]) for k in (1, 2))
    chest = 12 * np.clip(np.cos(a), 0, 1) * np.clip(-height / 10, 0, 1)
    points = np.stack([half_x * np.sin(a), height - chest, half_z * np.cos(a)], -1) + base
    around = np.broadcast_to(a / (2 * np.pi), height.shape)
    uv = np.stack([around, np.clip(-height, 0, None) / 420], -1)
    rows, columns = height.shape
    material = np.full(rows - 1, kernels.CLOTH)
    material[: SKIN_ROWS - 1] = kernels.SKIN_PLAIN
    faces = grid_faces(rows, columns, True)
    ids = np.repeat(material, 2 * columns)
    return create_mesh(points, faces, uv, ids, 0.85, frame="body", casts=False)
