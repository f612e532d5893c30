"""A tiny REALY in the official layout: scans in their normalised unit."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from helpers.scan_shapes import lopsided_head, write_obj

UNIT_MM = (9.0, 8.0)
SCALE = 9.0
_REGIONS = {
    "nose": ((0, -2, 103), 32), "mouth": ((0, -38, 80), 34),
    "forehead": ((0, 50, 75), 58), "cheek": ((40, -20, 65), 36),
}  # fmt: skip
_ROWS = {
    "nose": [*range(27, 36), 70, 71],
    "mouth": [*range(48, 61), 64],
    "forehead": [*range(17, 27), *range(36, 48)],
    "cheek": [76, 77, 7, 8, 9],
}
_SEVEN = {
    36: (-0.5, 0.3), 39: (-0.2, 0.3), 42: (0.2, 0.3), 45: (0.5, 0.3), 33: (0, -0.1),
    48: (-0.3, -0.4), 54: (0.3, -0.4),
}  # fmt: skip


def realy_head() -> tuple[np.ndarray, np.ndarray]:
    """The lopsided head in units of 9 mm."""
    vertices, faces = lopsided_head(26)
    return vertices / SCALE, faces


def realy_keypoints(vertices: np.ndarray) -> np.ndarray:
    """85 vertices: those of a region lie in it, the seven of the start where they should."""
    rng = np.random.default_rng(5)
    unit = vertices / np.linalg.norm(vertices, axis=1, keepdims=True)
    ids = rng.choice(np.flatnonzero(unit[:, 2] > 0.35), 85, replace=False)
    for name, rows in _ROWS.items():
        ids[rows] = rng.choice(np.flatnonzero(near(name, vertices)), len(rows), replace=False)
    for row, (x, y) in _SEVEN.items():
        toward = np.array([x, y, np.sqrt(1 - x * x - y * y)])
        ids[row] = int((unit @ toward).argmax())
    return vertices[ids]


def near(name: str, vertices: np.ndarray) -> np.ndarray:
    """Vertices (v,) of a region."""
    center, radius = _REGIONS[name]
    return np.linalg.norm(vertices * SCALE - np.array(center), axis=1) < radius


def region(name: str, vertices: np.ndarray, faces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Faces of the head that lie in a region, with their vertices alone."""
    kept = faces[near(name, vertices)[faces].all(axis=1)]
    used, place = np.unique(kept.reshape(-1), return_inverse=True)
    return vertices[used], place.reshape(-1, 3)


def write_realy(root: Path, photos: bool = True) -> None:
    """Two scans of the same head; photos of a front and a side view of the first."""
    vertices, faces = realy_head()
    for number in (1, 2):
        for name in _REGIONS:
            write_obj(root / "REALY_scan_region" / str(number) / f"{name}.obj",
                      *region(name, vertices, faces))  # fmt: skip
        rows = [f"v {x:.9g} {y:.9g} {z:.9g}" for x, y, z in realy_keypoints(vertices)]
        path = root / "REALY_HIFI3D_keypoints" / f"{number}.obj"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(rows) + "\n", encoding="utf-8")
    (root / "metrical_scale.txt").write_text("\n".join(f"{u:.18e}" for u in UNIT_MM) + "\n")
    if photos:
        for name in ("1.png", "1_2.png", "2.png"):
            path = root / "REALY_image" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"picture")
