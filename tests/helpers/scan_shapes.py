"""Small surfaces with known properties for the scan protocols: spheres and lopsided heads."""

from __future__ import annotations

import numpy as np

DIRECTIONS7 = np.array(
    [
        [-0.50, 0.30, 0.81], [-0.18, 0.28, 0.94], [0.18, 0.28, 0.94], [0.50, 0.30, 0.81],
        [0.00, -0.12, 0.99], [-0.28, -0.45, 0.85], [0.28, -0.45, 0.85],
    ]
)  # fmt: skip
"""Where the seven landmarks lie, seen from the middle of the head."""


def sphere(radius: float = 80.0, rings: int = 32) -> tuple[np.ndarray, np.ndarray]:
    """Vertices and outward faces of a sphere about the origin, poles at +-y."""
    sectors = 2 * rings
    polar = np.linspace(0, np.pi, rings + 1)[1:-1]
    around = np.arange(sectors) * 2 * np.pi / sectors
    ring = np.stack(
        [
            np.outer(np.sin(polar), np.sin(around)),
            np.outer(np.cos(polar), np.ones(sectors)),
            np.outer(np.sin(polar), np.cos(around)),
        ],
        axis=-1,
    ).reshape(-1, 3)
    vertices = radius * np.concatenate([ring, [[0.0, 1.0, 0.0], [0.0, -1.0, 0.0]]])
    k, i = np.meshgrid(np.arange(rings - 2), np.arange(sectors), indexing="ij")
    a, b = k * sectors + i, k * sectors + (i + 1) % sectors
    c, d = a + sectors, b + sectors
    middle = np.concatenate([np.stack(t, -1).reshape(-1, 3) for t in ((a, c, b), (b, c, d))])
    edge = np.arange(sectors)
    top = np.stack([edge, (edge + 1) % sectors, np.full(sectors, len(ring))], -1)
    low = edge + (rings - 2) * sectors
    bottom = np.stack([(edge + 1) % sectors + low[0], low, np.full(sectors, len(ring) + 1)], -1)
    return vertices, np.concatenate([middle, top, bottom]).astype(np.int64)


def lopsided_head(rings: int = 18) -> tuple[np.ndarray, np.ndarray]:
    """An egg with a nose and a bump on one cheek only: no mirror symmetry, no axis."""
    vertices, faces = sphere(1.0, rings)
    unit = vertices.copy()
    shape = unit * np.array([70.0, 95.0, 85.0])
    for center, height, width in (
        ((0.0, -0.02, 1.0), 18.0, 0.22),
        ((0.55, -0.35, 0.76), 12.0, 0.30),
        ((-0.3, 0.6, 0.74), -6.0, 0.35),
    ):
        toward = np.array(center) / np.linalg.norm(center)
        angle = np.arccos(np.clip(unit @ toward, -1, 1))
        shape = shape + height * np.exp(-((angle / width) ** 2))[:, None] * unit
    return shape, faces


def landmarks7(vertices: np.ndarray) -> np.ndarray:
    """The vertices that lie nearest to `DIRECTIONS7` as seen from the origin."""
    unit = vertices / np.linalg.norm(vertices, axis=1, keepdims=True)
    toward = DIRECTIONS7 / np.linalg.norm(DIRECTIONS7, axis=1, keepdims=True)
    return vertices[(unit @ toward.T).argmax(0)]


def write_obj(path, vertices: np.ndarray, faces: np.ndarray) -> None:
    """A plain OBJ with `v` and `f` lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [f"v {x:.9g} {y:.9g} {z:.9g}" for x, y, z in vertices]
    lines += [f"f {a} {b} {c}" for a, b, c in faces + 1]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def rotation(angles_deg) -> np.ndarray:
    """Rotation matrix about x, then y, then z."""
    x, y, z = np.deg2rad(angles_deg)
    rx = np.array([[1, 0, 0], [0, np.cos(x), -np.sin(x)], [0, np.sin(x), np.cos(x)]])
    ry = np.array([[np.cos(y), 0, np.sin(y)], [0, 1, 0], [-np.sin(y), 0, np.cos(y)]])
    rz = np.array([[np.cos(z), -np.sin(z), 0], [np.sin(z), np.cos(z), 0], [0, 0, 1]])
    return rz @ ry @ rx
