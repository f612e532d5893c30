"""Eyeballs: a polar mesh, a sphere per eye, and how ICT's eyeballs move it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

SEGMENTS = 24
# Polar angles of the rings in degrees; 8 is the pupil's rim and 24 the limbus.
RINGS_DEG = (4.0, 8.0, 13.0, 18.5, 24.0, 30.0, 40.0, 52.0, 66.0, 82.0, 100.0, 120.0, 145.0)
LIMBUS_RING = 4


@dataclass(frozen=True)
class EyeMesh:
    """A unit eyeball that looks along +z: one pole, rings of `SEGMENTS`, the back pole.

    Attributes:
        points: (v, 3) on the unit sphere.
        faces: (f, 3) counter-clockwise from outside.
        quads: (q, 4), -1 last for the polar triangles.
        uvs: (v, 2) polar chart in [-1, 1], radius 1 at the back pole; u follows x, v follows y.
    """

    points: np.ndarray
    faces: np.ndarray
    quads: np.ndarray
    uvs: np.ndarray


def unit_eye() -> EyeMesh:
    """The mesh of the subject's left eye; mirror x for the right one."""
    theta = np.deg2rad(np.array(RINGS_DEG))
    phi = np.arange(SEGMENTS) * (2 * np.pi / SEGMENTS)
    ring = np.stack(
        [
            np.sin(theta)[:, None] * np.cos(phi),
            np.sin(theta)[:, None] * np.sin(phi),
            np.repeat(np.cos(theta)[:, None], SEGMENTS, 1),
        ],
        -1,
    ).reshape(-1, 3)
    points = np.concatenate([[[0.0, 0.0, 1.0]], ring, [[0.0, 0.0, -1.0]]])
    last = len(points) - 1
    quads = []
    for s in range(SEGMENTS):
        t = (s + 1) % SEGMENTS
        quads.append((0, 1 + s, 1 + t, -1))
        for r in range(len(RINGS_DEG) - 1):
            a = 1 + r * SEGMENTS
            b = a + SEGMENTS
            quads.append((a + s, b + s, b + t, a + t))
        end = 1 + (len(RINGS_DEG) - 1) * SEGMENTS
        quads.append((end + s, last, end + t, -1))
    polygons = np.array(quads)
    radius = (np.concatenate([[0.0], np.repeat(RINGS_DEG, SEGMENTS), [180.0]]) / 180.0) ** 0.6
    angle = np.concatenate([[0.0], np.tile(phi, len(RINGS_DEG)), [0.0]])
    uvs = np.stack([radius * np.cos(angle), radius * np.sin(angle)], -1)
    return EyeMesh(points, triangulate(polygons), polygons, uvs)


def triangulate(polygons: np.ndarray) -> np.ndarray:
    """Quads (p, 4) with -1 for triangles to triangles, quad by quad."""
    rows = []
    for a, b, c, d in polygons:
        rows.append((a, b, c))
        if d >= 0:
            rows.append((a, c, d))
    return np.array(rows)


def fit_sphere(points: np.ndarray) -> tuple[np.ndarray, float]:
    """Centre (3,) and radius of the least-squares sphere through points (n, 3)."""
    design = np.concatenate([2 * points, np.ones((len(points), 1))], 1)
    solution = np.linalg.lstsq(design, (points**2).sum(1), rcond=None)[0]
    centre = solution[:3]
    return centre, float(np.sqrt(solution[3] + centre @ centre))


def sclera(points: np.ndarray) -> np.ndarray:
    """The points of an ICT eyeball behind its cornea: True where they lie on the main sphere."""
    keep = points[:, 2] < points[:, 2].max() - 6.0
    for _ in range(5):
        centre, radius = fit_sphere(points[keep])
        keep = np.abs(np.linalg.norm(points - centre, axis=1) - radius) < 0.25
    return keep


def translation_and_scale(offsets: np.ndarray, deltas: np.ndarray) -> np.ndarray:
    """Least squares of deltas (n, 3) = t + s * offsets (n, 3): (4,) = (t, s)."""
    mean = offsets.mean(0)
    centred = offsets - mean
    s = float((centred * (deltas - deltas.mean(0))).sum() / (centred**2).sum())
    return np.concatenate([deltas.mean(0) - s * mean, [s]])


def rotation_between(offsets: np.ndarray, moved: np.ndarray) -> np.ndarray:
    """Kabsch: the rotation (3, 3) that best maps offsets (n, 3) from a centre onto moved."""
    u, _, vt = np.linalg.svd(moved.T @ offsets)
    return (u * np.array([1.0, 1.0, np.sign(np.linalg.det(u @ vt))])) @ vt
