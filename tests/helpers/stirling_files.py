"""A tiny Stirling/ESRC challenge set in the layout that `lifemask.data.stirling` reads."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from helpers.scan_shapes import landmarks7, lopsided_head, write_obj

PHOTOS = ("HQ/F1001_a.jpg", "HQ/M1005/01.png", "LQ/f1001_17.jpg")


def write_lnd(path: Path, points: np.ndarray) -> None:
    """Lines "number x y z" as in the challenge's repository."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [f"{i + 1} {x:.9g} {y:.9g} {z:.9g}" for i, (x, y, z) in enumerate(points)]
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")


def write_stirling(root: Path) -> tuple[np.ndarray, np.ndarray]:
    """Two people, one with a second scan, three photos; returns the scan all share."""
    vertices, faces = lopsided_head()
    for place, name in (("F_3D_N", "f1001_N"), ("F_3D_N", "F1001b_N"), ("M_3D_N", "M1005_N")):
        write_obj(root / place / f"{name}.obj", vertices, faces)
        write_lnd(root / "annotations" / place / f"{name}.lnd", landmarks7(vertices))
    for photo in PHOTOS:
        (root / photo).parent.mkdir(parents=True, exist_ok=True)
        (root / photo).write_bytes(b"picture")
    return vertices, faces
