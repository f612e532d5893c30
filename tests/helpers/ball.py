"""A ball as a mesh scene, with longitude and latitude as its uvs."""

from __future__ import annotations

import math

import numpy as np

from lifemask.graphics.meshio import Material, MeshPrimitive, MeshScene

RADIUS_MM = 100.0


def ball_scene(
    material: Material | None = None, rows: int = 48, columns: int = 96, *, mirrored: bool = False
) -> MeshScene:
    """A ball of `RADIUS_MM`: u grows with the longitude from the back, v with the latitude.

    The seam at the back is one column of vertices with two columns of uvs.

    Args:
        material: of all faces.
        rows: of quads.
        columns: of quads.
        mirrored: u runs the other way.
    """
    v, u = np.meshgrid(np.linspace(0, 1, rows + 1), np.linspace(0, 1, columns + 1), indexing="ij")
    latitude, longitude = (v - 0.5) * 0.996 * math.pi, (u - 0.5) * 2 * math.pi
    unit = np.stack(
        [np.cos(latitude) * np.sin(longitude), np.sin(latitude),
         np.cos(latitude) * np.cos(longitude)], -1,
    )  # fmt: skip
    uvs = np.stack([1 - u if mirrored else u, v], -1).reshape(-1, 2).astype(np.float32)
    i = (np.arange(rows)[:, None] * (columns + 1) + np.arange(columns)).reshape(-1)
    faces_uv = np.concatenate(
        [np.stack([i, i + 1, i + columns + 2], -1),
         np.stack([i, i + columns + 2, i + columns + 1], -1)]
    ).astype(np.int32)  # fmt: skip
    row, column = np.divmod(faces_uv, columns + 1)
    faces = (row * columns + column % columns).astype(np.int32)
    unit = unit[:, :-1].reshape(-1, 3)
    return MeshScene(
        (unit * RADIUS_MM).astype(np.float32),
        (MeshPrimitive("ball", faces, faces_uv, material or Material("ball")),),
        normals=unit.astype(np.float32),
        uvs=uvs,
    )
