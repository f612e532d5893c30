"""Region masks of the head model, from the study's masks, ICT's regions and simple geometry."""

from __future__ import annotations

import numpy as np

from head_model import lips
from head_model.skin import SKIN, Skin, adjacency, grow

NARROW_FACE_MM = 90.0  # from the tip of the nose
BROW_MM = 5.5  # from the line through the brow landmarks


def skin_regions(
    skin: Skin, table: dict[str, np.ndarray], mirror: np.ndarray, brow_points: np.ndarray
) -> dict[str, np.ndarray]:
    """Masks (4200,) by name; symmetric.

    "lips" is the red of the lips, "mouth" the skin round it as well; "brows" is a texture mask
    round the brow landmarks (10, 3).
    """
    out = {
        name: table[f"region_{source}"][:SKIN].copy()
        for name, source in (
            ("nose", "nose"),
            ("mouth", "mouth"),
            ("eyes", "eyes"),
            ("forehead", "forehead"),
            ("chin", "chin"),
            ("cheeks", "cheeks"),
        )
    }
    face = table["face"][:SKIN]
    out["face"] = face.copy()
    out["narrow_face"] = face & (
        _distance(skin.mean, _nose_tip(skin.mean, face)[None]) < NARROW_FACE_MM
    )
    out["brows"] = face & (_distance(skin.mean, _densify(brow_points)) < BROW_MM)
    out["lips"] = lips.lip_mask(skin, table["region_mouth"][:SKIN], mirror[:SKIN])
    out["inner_mouth"] = skin.mouth_cavity
    out["eye_socket_interior"] = skin.eye_sockets
    out["ears"] = _ears(skin)
    rest = ~(face | out["ears"] | skin.mouth_cavity | skin.eye_sockets)
    y, z = skin.mean[:, 1], skin.mean[:, 2]
    out["neck"] = rest & (
        y < -35.0 + 0.55 * np.minimum(z, 60.0) * (z < 0) - 0.45 * np.maximum(z, 0.0)
    )
    out["scalp"] = rest & ~out["neck"] & (y > -35.0)
    return {name: mask | mask[mirror[:SKIN]] for name, mask in out.items()}


def _ears(skin: Skin) -> np.ndarray:
    """Vertices of the ears: the densely meshed bumps at the sides of the head."""
    graph = adjacency(skin.faces, SKIN).tocoo()
    length = np.linalg.norm(skin.mean[graph.row] - skin.mean[graph.col], axis=1)
    count = np.bincount(graph.row, minlength=SKIN)
    edge = np.bincount(graph.row, length, SKIN) / np.maximum(count, 1)
    x, y, z = np.abs(skin.mean[:, 0]), skin.mean[:, 1], skin.mean[:, 2]
    core = (edge < 6.0) & (x > 66.0) & (y > -40.0) & (y < 45.0) & (z > -28.0) & (z < 28.0)
    ring = adjacency(skin.faces, SKIN)
    closed = ~grow(~grow(core, ring, 1), ring, 1)
    return closed | core


def _distance(points: np.ndarray, targets: np.ndarray) -> np.ndarray:
    return np.linalg.norm(points[:, None] - targets, axis=-1).min(1)


def _nose_tip(points: np.ndarray, face: np.ndarray) -> np.ndarray:
    ids = np.flatnonzero(face)
    return points[ids[points[ids, 2].argmax()]]


def _densify(brow_points: np.ndarray) -> np.ndarray:
    """Ten points on each segment of the two brow lines (10, 3)."""
    steps = np.linspace(0, 1, 10)[:, None]
    rows = [
        a + steps * (b - a)
        for brow in (brow_points[:5], brow_points[5:])
        for a, b in zip(brow[:-1], brow[1:], strict=True)
    ]
    return np.concatenate(rows)
