"""Small meshes that dress a head: the type they share, grids and tubes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Frame = Literal["head", "body", "camera"]


@dataclass(frozen=True)
class Mesh:
    """One prop.

    Attributes:
        points: (n, 3) mm. In the head's model frame; "body" turns less than the head does, about
            the neck; "camera" has the camera's axes and the head's origin.
        faces: (f, 3) int32, drawn from both sides.
        uv: (n, 2) coordinates of its material.
        material: (f,) uint8 id, see `_synthetic_kernels.MATERIALS`.
        occlusion: (n,) ambient visibility in [0, 1].
        frame: of `points`.
        casts: whether it throws shadows.
    """

    points: NDArray[np.float32]
    faces: NDArray[np.int32]
    uv: NDArray[np.float32]
    material: NDArray[np.uint8]
    occlusion: NDArray[np.float32]
    frame: Frame = "head"
    casts: bool = True


def create_mesh(
    points: NDArray,
    faces: NDArray,
    uv: NDArray | None,
    material: int | NDArray,
    occlusion: float | NDArray = 1.0,
    frame: Frame = "head",
    casts: bool = True,
) -> Mesh:
    """A mesh from arrays of any leading shape; scalars are spread over faces and points."""
    points = f32(points)
    uv = np.zeros((len(points), 2), np.float32) if uv is None else f32(uv, 2)
    ids = np.broadcast_to(np.asarray(material, np.uint8), (len(faces),))
    shade = np.broadcast_to(np.asarray(occlusion, np.float32).reshape(-1), (len(points),))
    triangles = np.ascontiguousarray(faces, np.int32)
    return Mesh(
        points, triangles, uv, np.ascontiguousarray(ids), np.ascontiguousarray(shade), frame, casts
    )


def joined(meshes: Sequence[Mesh]) -> Mesh:
    """Several meshes of one frame as one."""
    start = np.cumsum([0, *(len(m.points) for m in meshes)])
    return Mesh(
        np.concatenate([m.points for m in meshes]),
        np.concatenate([m.faces + np.int32(s) for m, s in zip(meshes, start, strict=False)]),
        np.concatenate([m.uv for m in meshes]),
        np.concatenate([m.material for m in meshes]),
        np.concatenate([m.occlusion for m in meshes]),
        meshes[0].frame,
        meshes[0].casts,
    )


@lru_cache(maxsize=32)
def grid_faces(rows: int, columns: int, periodic: bool) -> NDArray[np.int32]:
    """Triangles of a grid of points (rows, columns); periodic joins its last and first columns."""
    r, c = np.meshgrid(
        np.arange(rows - 1), np.arange(columns if periodic else columns - 1), indexing="ij"
    )
    n = (c + 1) % columns
    i00, i01 = r * columns + c, r * columns + n
    i10, i11 = i00 + columns, i01 + columns
    # outward is the side from which azimuth grows to the right: counter-clockwise
    quads = np.stack([i00, i10, i11, i00, i11, i01], -1).reshape(-1, 3)
    return quads.astype(np.int32)


def tube(
    path: NDArray,
    radii: NDArray,
    material: int | NDArray,
    *,
    side: NDArray,
    sides: int = 8,
    power: float = 2.0,
    occlusion: float | NDArray = 1.0,
) -> Mesh:
    """A tube along a path, closed at both ends, with super-elliptic rings.

    Args:
        path: (k, 3) mm.
        radii: (k, 2) half axes along `side` and across it.
        material: id, or one for each of the k + 1 bands between rings (caps included).
        side: (3,) direction of the first half axis, roughly perpendicular to the path.
        sides: points per ring.
        power: 2 is an ellipse, more is boxier.
        occlusion: for all, or per ring (k + 2, caps included).

    Returns:
        A mesh of (k + 2) rings; uv runs around and along, in units of 100 mm.
    """
    path = np.asarray(path, np.float64)
    along = np.gradient(path, axis=0)
    along /= np.linalg.norm(along, axis=1, keepdims=True)
    first = side - along * (along @ side)[:, None]
    first /= np.linalg.norm(first, axis=1, keepdims=True)
    second = np.cross(first, along)
    angle = np.linspace(0, 2 * np.pi, sides, endpoint=False)
    c, s = np.cos(angle), np.sin(angle)
    reach = (np.abs(c) ** power + np.abs(s) ** power) ** (-1 / power)
    ring = (c * reach)[None, :, None] * (first * radii[:, :1])[:, None]
    ring = ring + (s * reach)[None, :, None] * (second * radii[:, 1:])[:, None] + path[:, None]
    ends = [np.repeat(p[None, None], sides, 1) for p in (path[0], path[-1])]
    rings = np.concatenate([ends[0], ring, ends[1]])
    length = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(path, axis=0), axis=1))])
    t = np.concatenate([length[:1], length, length[-1:]]) / 100
    uv = np.stack(np.broadcast_arrays(angle[None] / (2 * np.pi), t[:, None]), -1)
    faces = grid_faces(len(rings), sides, True)
    if np.ndim(material):
        material = np.repeat(np.asarray(material), 2 * sides)
    shade = np.repeat(np.broadcast_to(occlusion, (len(rings),)), sides)
    return create_mesh(rings, faces, uv, material, shade)


def f32(values: NDArray, columns: int = 3) -> NDArray[np.float32]:
    """Values as contiguous float32 rows of `columns`."""
    return np.ascontiguousarray(np.reshape(values, (-1, columns)), np.float32)
