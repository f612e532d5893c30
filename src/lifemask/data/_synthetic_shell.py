"""A grid of directions around the skull that hair and hats are cut from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lifemask.data import _synthetic_kernels as kernels
from lifemask.data._synthetic_mesh import grid_faces
from lifemask.data._synthetic_rig import HeadRig

COLUMNS, CROWN_ROWS, FALL_ROWS, FALL_MM = 72, 10, 11, 260.0


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


def create_shell(rig: HeadRig) -> Shell:
    """The shell around a rig's mean head, smoothed; a head without a skull gets a round one."""
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
    return Shell(azimuth, base, outward, arc, anchor, grid_faces(len(base), COLUMNS, True))


def _smooth_columns(radius):
    """Binomial smoothing over the periodic columns."""
    for _ in range(2):
        radius = 0.5 * radius + 0.25 * (np.roll(radius, 1, -1) + np.roll(radius, -1, -1))
    return radius


def _cast(origins, directions, vertices, faces):
    """Largest ray parameter at which rays (r, c, 3) cross the mesh, NaN where they miss.

    The rays of a row share their origin; each is tested against the triangles whose cone of
    directions, seen from there, holds it.
    """
    corners = vertices[faces].astype(np.float64)
    out = np.full(origins.shape[:2], np.nan)
    for row in range(len(origins)):
        origin = origins[row, 0].astype(np.float64)
        seen = corners - origin
        unit = seen / np.maximum(np.linalg.norm(seen, axis=-1, keepdims=True), 1e-9)
        axis = unit.sum(1)
        axis /= np.maximum(np.linalg.norm(axis, axis=1, keepdims=True), 1e-9)
        reach = np.einsum("fkc,fc->fk", unit, axis).min(1) - 1e-6
        reach[reach < 0.2] = -1  # triangles around the origin: no cone
        for k, direction in enumerate(directions[row].astype(np.float64)):
            out[row, k] = _farthest(direction, seen[axis @ direction >= reach])
    return out


def _farthest(direction, corners) -> float:
    """Largest parameter of a ray from the origin in triangles (n, 3, 3) (Moeller 1997)."""
    a, e1, e2 = corners[:, 0], corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    p = np.cross(direction, e2)
    det = (e1 * p).sum(1)
    with np.errstate(divide="ignore", invalid="ignore"):
        u = -(a * p).sum(1) / det
        q = np.cross(-a, e1)
        v = (q @ direction) / det
        t = (e2 * q).sum(1) / det
        hit = (u >= 0) & (v >= 0) & (u + v <= 1) & (t > 0)
    return float(t[hit].max()) if hit.any() else np.nan


def follow(shell: Shell, mean: NDArray[np.float32], head: NDArray[np.float32]) -> NDArray:
    """Displacement (r, c, 3) of the shell for a head (v, 3), smoothed over the grid."""
    delta = head[shell.anchor] - mean[shell.anchor]
    for _ in range(2):
        delta = 0.5 * delta + 0.25 * (np.roll(delta, 1, 1) + np.roll(delta, -1, 1))
        inner = 0.5 * delta[1:-1] + 0.25 * (delta[:-2] + delta[2:])
        delta = np.concatenate([delta[:1], inner, delta[-1:]])
    return delta


def end_arc(shell: Shell, end_y: NDArray[np.float32]) -> NDArray[np.float32]:
    """Arc length (c,) at which each column falls below the height `end_y` (c,) mm."""
    y = shell.base_mm[..., 1]
    below = y <= end_y
    row = np.where(below.any(0), below.argmax(0), len(y) - 1)
    row = np.maximum(row, 1)
    c = np.arange(y.shape[1])
    y0, y1 = y[row - 1, c], y[row, c]
    t = np.clip((y0 - end_y) / np.maximum(y0 - y1, 1e-3), 0, 1)
    return (shell.arc_mm[row - 1, c] * (1 - t) + shell.arc_mm[row, c] * t).astype(np.float32)


def resample(grid, arc, wanted):
    """Columns of a grid (r, c, 3) at arc lengths `wanted` (k, c)."""
    out = np.empty((*wanted.shape, 3), np.float32)
    for c in range(grid.shape[1]):
        for k in range(3):
            out[:, c, k] = np.interp(wanted[:, c], arc[:, c], grid[:, c, k])
    return out
