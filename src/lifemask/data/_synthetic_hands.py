"""What comes between a face and the camera: hands, held things, flat cards."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from lifemask.data import _synthetic_kernels as kernels
from lifemask.data._synthetic_mesh import Mesh, create_mesh, f32, joined, tube

_FINGERS = ((31.0, 40.0, 71.0, 8.6), (10.5, 45.0, 79.0, 8.9), (-10.0, 43.0, 73.0, 8.4),
            (-29.0, 35.0, 57.0, 7.4))  # fmt: skip
"""Index to little finger: x, y of the knuckle, length, radius at the knuckle, mm."""
_PHALANGES = (0.46, 0.30, 0.24)
_X, _Y, _Z = np.eye(3)


def hand(rng: np.random.Generator, curl_deg: float) -> Mesh:
    """A right hand with its forearm, in its own frame (mm).

    The palm's centre is the origin, +y points along the fingers, +z out of the back of the hand
    and +x to the thumb. Fingers are tubes along three bones that bend towards the palm.

    Args:
        rng: decides spread, size and sleeve.
        curl_deg: mean bend of the finger joints.
    """
    parts = [_palm(), _thumb(curl_deg)]
    spread = np.deg2rad(rng.uniform(0, 9))
    for k, (x, y, length, radius) in enumerate(_FINGERS):
        fan = (1.5 - k) * spread
        bend = np.deg2rad(np.clip(curl_deg * rng.normal(1, 0.12) + rng.normal(0, 4), -8, 95))
        parts.append(_finger(np.array([x, y, 0.0]), fan, bend, length, radius))
    parts.append(_forearm(sleeve=rng.random() < 0.6))
    mesh = joined(parts)
    return replace(mesh, points=mesh.points * np.float32(rng.uniform(0.86, 1.06)))


def _palm() -> Mesh:
    y = np.array([-50.0, -44, -25, 10, 36, 46])
    half = np.array([[27, 18], [29, 18], [37, 16], [42, 14], [41, 11], [36, 7]])
    path = np.stack([0 * y, y, np.array([0, 0, 0, 1.5, 2, 1])], 1)
    return tube(path, half, kernels.HAND, side=_X, sides=14, power=2.6, occlusion=0.95)


def _finger(knuckle, fan, bend, length, radius) -> Mesh:
    """Three bones from the knuckle, in steps so that the joints are round."""
    angle = np.cumsum([0.9 * bend, 1.1 * bend, 0.7 * bend])
    steps = np.repeat(np.array(_PHALANGES) * length / 3, 3)
    angles = np.repeat(angle, 3)
    angles = np.convolve(np.pad(angles, 1, mode="edge"), [0.25, 0.5, 0.25], "valid")
    direction = np.stack([np.sin(fan) * np.cos(angles), np.cos(fan) * np.cos(angles),
                          -np.sin(angles)], 1)  # fmt: skip
    inside = knuckle - 0.25 * length * np.array([[np.sin(fan), np.cos(fan), 0]])
    path = knuckle + np.cumsum(direction * steps[:, None], 0)
    path = np.concatenate([inside, path, path[-1:] + direction[-1] * radius * 0.4])
    knobs = np.array([1, 1.02, 0.97, 0.94, 0.97, 0.88, 0.84, 0.86, 0.78, 0.66, 0.3])
    shade = np.concatenate([[0.6, 0.6, 0.75], np.full(len(path) - 1, 0.95)])
    radii = np.stack([radius * knobs, radius * 0.92 * knobs], 1)
    return tube(path, radii, kernels.HAND, side=_X, occlusion=shade)


def _thumb(curl_deg: float) -> Mesh:
    lean = np.deg2rad(25 + 0.5 * np.clip(curl_deg, 0, 60))
    out = np.array([0.72, 0.66, -0.2]) * np.array([np.cos(lean), 1, 1])
    out[2] -= 0.5 * np.sin(lean)
    out /= np.linalg.norm(out)
    tip = out + np.array([-0.25, 0.4, -0.1])
    tip /= np.linalg.norm(tip)
    start = np.array([22.0, -28.0, -4.0])
    path = [start, start + 28 * out, start + 46 * out]
    path += [path[-1] + 14 * tip, path[-1] + 26 * tip, path[-1] + 32 * tip]
    radii = np.array([15, 13, 10.5, 10, 8, 3.5])[:, None] * np.array([1, 0.92])
    return tube(np.array(path), radii, kernels.HAND, side=_Z, occlusion=0.95)


def _forearm(sleeve: bool) -> Mesh:
    y = np.array([-38.0, -70, -72, -120, -280])
    wide = 1.18 if sleeve else 1.0
    half = np.array([[26, 18], [27, 20], [27 * wide, 20 * wide], [33 * wide, 28 * wide],
                     [44 * wide, 40 * wide]])  # fmt: skip
    path = np.stack([0 * y, y, 0 * y], 1)
    cloth = kernels.CLOTH if sleeve else kernels.HAND
    bands = np.array([kernels.HAND] * 2 + [cloth] * 4)
    return tube(path, half, bands, side=_X, sides=12, occlusion=0.95)


def _turned(mesh: Mesh, axes: NDArray, origin: NDArray, anchor: NDArray) -> Mesh:
    """The mesh with its x, y, z along the rows of `axes` and its point `anchor` at `origin`."""
    points = (mesh.points - anchor) @ axes + origin
    return replace(mesh, points=f32(points))


def _axes(along: NDArray, out: NDArray, mirrored: bool) -> NDArray:
    """Rows x, y, z of a frame with z = `out` and y as near to `along` as that allows."""
    z = out / np.linalg.norm(out)
    y = along - z * (along @ z)
    y /= np.linalg.norm(y)
    x = np.cross(y, z)
    return np.stack([-x if mirrored else x, y, z])


def _outward(point: NDArray, landmarks68: NDArray) -> NDArray:
    """Direction away from the head at a point of the face: from an axis behind the face."""
    depth = landmarks68[[0, 16], 2].mean() - 10
    out = point - np.array([0.35 * point[0], point[1], depth])
    return out / np.linalg.norm(out)


_TARGETS = ((62,), (8,), (30,), (2, 48), (14, 54), (36, 39), (42, 45), (19,), (24,), (1,), (15,))


def hand_at_face(landmarks68: NDArray, rng: np.random.Generator) -> list[Mesh]:
    """A hand before the mouth, chin, cheek, eye or ear of a head ("ict68" landmarks (68, 3))."""
    ids = list(_TARGETS[rng.integers(len(_TARGETS))])
    target = landmarks68[ids].mean(0).astype(np.float64)
    out = _outward(target, landmarks68)
    curl = float(rng.choice([rng.uniform(0, 14), rng.uniform(10, 38), rng.uniform(50, 85)]))
    side = np.sign(target[0]) if abs(target[0]) > 15 else rng.choice([-1.0, 1.0])
    lean = np.deg2rad(rng.normal(20, 30) if rng.random() < 0.85 else rng.uniform(-180, 180))
    along = np.array([-side * np.sin(lean), np.cos(lean), 0.1])
    back = 1.0 if rng.random() < 0.85 else -1.0  # which side of the hand the camera sees
    away = out + rng.normal(0, 0.2, 3)
    anchor = np.array([rng.uniform(-30, 30), rng.uniform(-5, 95), 0])
    axes = _axes(along, back * away, bool((side > 0) == (back > 0)))
    place = target + out * (rng.uniform(16, 60) + 0.3 * curl)
    return [_turned(hand(rng, curl), axes, place, anchor)]


def held_object(landmarks68: NDArray, rng: np.random.Generator) -> list[Mesh]:
    """A phone, a cup, a microphone or a sheet before the face, three quarters with a hand."""
    kind = rng.choice(["phone", "cup", "microphone", "sheet"], p=[0.35, 0.25, 0.25, 0.15])
    meshes, grip, along, out = _OBJECTS[kind](landmarks68.astype(np.float64), rng)
    if kind != "sheet" and rng.random() < 0.75:
        curl = rng.uniform(45, 75) if kind != "phone" else rng.uniform(20, 45)
        axes = _axes(along, out, bool(rng.random() < 0.5))
        anchor = np.array([0, rng.uniform(10, 40), -16.0])
        meshes.append(_turned(hand(rng, float(curl)), axes, grip, anchor))
    return meshes


def _box(half: NDArray, axes: NDArray, centre: NDArray) -> Mesh:
    """A rounded box with half sides (3,) whose y runs along its tube."""
    y = np.array([-1, -0.97, -0.9, 0.9, 0.97, 1]) * half[1]
    shrink = np.array([0.86, 0.96, 1, 1, 0.96, 0.86])[:, None]
    path = np.stack([0 * y, y, 0 * y], 1)
    mesh = tube(path, shrink * half[[0, 2]], kernels.OBJECT, side=_X, sides=16, power=9)
    return _turned(mesh, axes, centre, np.zeros(3))


def _phone(lm, rng):
    half = np.array([rng.uniform(33, 40), rng.uniform(68, 82), rng.uniform(4, 7)])
    if rng.random() < 0.6:  # at an ear
        ear = lm[0] if rng.random() < 0.5 else lm[16]
        out = np.array([np.sign(ear[0]), 0, 0.25]) + rng.normal(0, 0.08, 3)
        along = np.array([0, 1, rng.uniform(-0.8, -0.1)])
        centre = ear + out * 20 + np.array([0, rng.uniform(-45, 5), rng.uniform(5, 30)])
    else:  # before the face
        out = np.array([0, 0, 1.0]) + rng.normal(0, 0.15, 3)
        along = np.array([rng.normal(0, 0.4), 1, 0])
        centre = lm[rng.choice([8, 62, 30])] + [rng.normal(0, 35), rng.uniform(-60, 20), 0]
        centre = centre + out * rng.uniform(40, 160)
    axes = _axes(along, out, False)
    return [_box(half, axes, centre)], centre + out * 12 - axes[1] * 30, along, out


def _cup(lm, rng):
    radius, height = rng.uniform(30, 42), rng.uniform(75, 125)
    tilt = np.array([rng.normal(0, 0.15), 1.0, rng.uniform(-0.1, 0.6)])
    centre = lm[57] + np.array([rng.normal(0, 8), -0.35 * height, radius + rng.uniform(4, 45)])
    y = np.array([-0.5, -0.48, 0.48, 0.5]) * height
    taper = np.array([0.9, 0.92, 1.08, 1.06]) * (1 if rng.random() < 0.5 else 0.95)
    radii = np.repeat((radius * taper)[:, None], 2, 1)
    mesh = tube(np.stack([0 * y, y, 0 * y], 1), radii, kernels.OBJECT, side=_X, sides=18)
    axes = _axes(tilt, np.array([0, 0, 1.0]), False)
    side = rng.choice([-1.0, 1.0])
    out = np.array([side, 0, 0.8])
    grip = centre + out / np.linalg.norm(out) * radius - axes[1] * 10
    return [_turned(mesh, axes, centre, np.zeros(3))], grip, np.array([-side * 0.4, 0.5, 0.6]), out


def _microphone(lm, rng):
    ball = rng.uniform(19, 27)
    head = lm[62] + np.array([rng.normal(0, 14), rng.uniform(-40, -5), rng.uniform(28, 70)])
    down = np.array([rng.normal(0, 0.35), -1.0, rng.uniform(0.2, 0.9)])
    down /= np.linalg.norm(down)
    t = np.array([-1, -0.8, -0.3, 0.3, 0.8, 1.0, 1.05, 8.0])
    r = np.array([0.3, 0.62, 0.96, 0.96, 0.66, 0.6, 0.5, 0.42])
    path = head + (t * ball)[:, None] * down
    mesh = tube(path, np.repeat((r * ball)[:, None], 2, 1), kernels.OBJECT, side=_X, sides=12)
    along = np.cross(down, _Z) * rng.choice([-1.0, 1.0]) + 0.4 * _Y
    return [mesh], head + down * ball * rng.uniform(2.5, 5), along, np.array([0, 0.2, 1.0])


def _sheet(lm, rng):
    half = np.array([rng.uniform(60, 130), rng.uniform(50, 140), rng.uniform(1, 12)])
    along, out = np.array([rng.normal(0, 0.3), 1, 0.2]), np.array([rng.normal(0, 0.2), 0, 1])
    axes = _axes(along, out, False)
    top = lm[rng.choice([8, 62, 33, 30])] + np.array([rng.normal(0, 30), 0, rng.uniform(30, 120)])
    return [_box(half, axes, top - axes[1] * half[1])], top, _Y, _Z


_OBJECTS = {"phone": _phone, "cup": _cup, "microphone": _microphone, "sheet": _sheet}


def card(face_mm: NDArray, size_mm: float, rng: np.random.Generator) -> Mesh:
    """A flat polygon or ellipse between camera and face, coloured by a picture.

    Args:
        face_mm: (n, 3) points of the face, camera axes about the head's origin.
        size_mm: what the image side spans at the head.
        rng: decides.
    """
    low, high = face_mm.min(0), face_mm.max(0)
    centre = low + rng.uniform(-0.1, 1.1, 3) * (high - low)
    centre[2] = high[2] + rng.uniform(20, 60)
    n = 20 if rng.random() < 0.5 else int(rng.integers(3, 7))
    angle = np.sort(rng.uniform(0, 2 * np.pi, n)) if n < 20 else np.linspace(0, 2 * np.pi, n)
    turn = rng.uniform(0, np.pi)
    a, b = rng.uniform(0.06, 0.28, 2) * size_mm
    x, y = a * np.cos(angle), b * np.sin(angle)
    rim = np.stack([x * np.cos(turn) - y * np.sin(turn), x * np.sin(turn) + y * np.cos(turn),
                    x * rng.normal(0, 0.25)], 1)  # fmt: skip
    points = centre + np.concatenate([np.zeros((1, 3)), rim])
    k = np.arange(n)
    faces = np.stack([np.zeros(n, int), 1 + k, 1 + (k + 1) % n], 1)
    return create_mesh(points, faces, None, kernels.CARD, frame="camera", casts=False)
