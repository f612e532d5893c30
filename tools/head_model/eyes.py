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


# Radius of the eyeball over the angle from its axis: ICT's outer shell less 0.25 mm, so that the
# lids lie on it. The back is a sphere of 15.0 mm; the front carries the cornea.
PROFILE_DEG = np.array([0.0, 10.0, 17.0, 24.0, 32.0, 42.0, 55.0, 70.0, 180.0])
PROFILE_MM = np.array([16.75, 16.6, 16.3, 15.75, 15.45, 15.3, 15.15, 15.0, 15.0])
CENTRE_MM = np.array([31.2, 36.1, 78.9])  # the left eye's centre in ICT's mean


def profile_mm(offsets: np.ndarray, axis: np.ndarray | None = None) -> np.ndarray:
    """Radius (n,) of an eyeball in the direction of offsets (n, 3) from its centre.

    Args:
        offsets: (n, 3), any length.
        axis: (3,) unit gaze; straight ahead (+z) when None.
    """
    forward = np.array([0.0, 0.0, 1.0]) if axis is None else axis
    cosine = offsets @ forward / np.maximum(np.linalg.norm(offsets, axis=1), 1e-9)
    angle = np.rad2deg(np.arccos(np.clip(cosine, -1.0, 1.0)))
    return np.interp(angle, PROFILE_DEG, PROFILE_MM)


def ball_motion(ict_offsets: np.ndarray, deltas: np.ndarray) -> np.ndarray:
    """Least squares of an ICT eyeball's deltas (n, 3) = t + s * offsets (n, 3): (4,) = (t, s)."""
    mean = ict_offsets.mean(0)
    centred = ict_offsets - mean
    s = float((centred * (deltas - deltas.mean(0))).sum() / (centred**2).sum())
    return np.concatenate([deltas.mean(0) - s * mean, [s]])


def lid_motion(
    offsets: np.ndarray, deltas: np.ndarray, prior: np.ndarray, trust: float = 0.15
) -> np.ndarray:
    """Translation and scale (4,) of a ball that keeps the lids' clearance to first order.

    Solves `n . (t + s o) = n . delta` over lid vertices with offsets o and n = o / |o|, pulled to
    the motion of ICT's own eyeball (`prior`) by `trust`.
    """
    normal = offsets / np.linalg.norm(offsets, axis=1, keepdims=True)
    rows = np.concatenate([normal, np.linalg.norm(offsets, axis=1)[:, None]], 1)
    units = np.array([1.0, 1.0, 1.0, 15.0]) * trust * np.sqrt(len(rows))
    right = (normal * deltas).sum(1)
    system = np.concatenate([rows, np.diag(units)])
    return np.linalg.lstsq(system, np.concatenate([right, units * prior]), rcond=None)[0]


def gaze_rotation(name: str, sign: float) -> np.ndarray | None:
    """Rotation (3, 3) of an eyeball for an eyeLook shape at activation 1, or None.

    Args:
        name: ARKit name.
        sign: +1 for the subject's left eye (x > 0), -1 for the right.
    """
    if not name.startswith("eyeLook") or name.endswith("Left") != (sign > 0):
        return None
    kind = name.removeprefix("eyeLook").removesuffix("Left").removesuffix("Right")
    pitch = {"Up": -25.0, "Down": 27.0}.get(kind, 0.0)
    yaw = {"Out": 32.0 * sign, "In": -32.0 * sign}.get(kind, 0.0)
    a, b = np.deg2rad(pitch), np.deg2rad(yaw)
    about_x = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    about_y = np.array([[np.cos(b), 0, np.sin(b)], [0, 1, 0], [-np.sin(b), 0, np.cos(b)]])
    return about_y @ about_x
