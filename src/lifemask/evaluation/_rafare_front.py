"""What a crop shows of a surface from the front: of a true head as samples, of a mesh as triangles.

Frame: the cube of the crop times half its side in mm: x right, y up, z towards the viewer. A pixel
(u, v) of a crop of S px has its centre at `x = ((u + 0.5) * 2 / S - 1) * half_mm` and
`y = (1 - (v + 0.5) * 2 / S) * half_mm`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int, Integer
from numpy import ndarray

from lifemask.evaluation._detail import Base, displacement, smooth_base
from lifemask.evaluation._shape_errors import normals_of
from lifemask.evaluation.meshes import Triangles
from lifemask.evaluation.surface import SurfaceTree
from lifemask.graphics.rasterize import rasterize
from lifemask.types import FACE_CLASSES, REGION_NAMES

"""Region classes below this one belong to the face."""
_NO_RELIEF = ("eyes", "mouth_interior")
SPACING_MM = 2.0  # about, between samples: detail is compared against a mean over 6 mm
STEEPEST = 0.2  # n_z; where a surface turns further away, a pixel is a step and no sample of it
BEHIND_MM = 10.0  # how far behind the front a mesh still counts; mouth bags lie deeper


@dataclass(frozen=True)
class TrueFront:
    """The face that a crop shows, as samples and as a surface.

    Attributes:
        size: side S of the crop in px.
        half_mm: half the crop's side.
        spacing_mm: between samples, in the picture.
        depth_mm: (S, S) z; NaN off the face.
        pixels: (n,) flat ids of the sampled pixels.
        points: (n, 3) mm.
        normals: (n, 3) unit.
        areas: (n,) mm^2 that each sample stands for.
        classes: (n,) region class.
        tree: the surface through all pixels of the face.
        base: smooth base for the detail score, of the samples on skin, lips and brows: the edges
            of lids and teeth are steps of millimetres, which would drown all relief.
        base_mm: (k,) the truth's displacements from it.
    """

    size: int
    half_mm: float
    spacing_mm: float
    depth_mm: Float[ndarray, "s s"]
    pixels: Int[ndarray, "n"]
    points: Float[ndarray, "n 3"]
    normals: Float[ndarray, "n 3"]
    areas: Float[ndarray, "n"]
    classes: Int[ndarray, "n"]
    tree: SurfaceTree
    base: Base
    base_mm: Float[ndarray, "k"]


@dataclass(frozen=True)
class Front:
    """The part of a mesh that a crop can show.

    Attributes:
        vertices: (v, 3) mm, all of the mesh.
        faces: (f, 3) of the front.
        normals: (v, 3) unit, of the whole mesh.
        inside_out: on the whole the front's normals point away from the viewer.
    """

    vertices: Float[ndarray, "v 3"]
    faces: Int[ndarray, "f 3"]
    normals: Float[ndarray, "v 3"]
    inside_out: bool


@dataclass(frozen=True)
class Seen:
    """What a crop's pixels see of a mesh.

    Attributes:
        depth_mm: (S, S) z of the nearest surface; NaN without one.
        face: (S, S) row of the triangle; -1 without one.
    """

    depth_mm: Float[ndarray, "s s"]
    face: Integer[ndarray, "s s"]


def true_front(
    depth_mm: Float[ndarray, "s s"],
    normals: Float[ndarray, "s s 3"],
    region: Integer[ndarray, "s s"],
    half_mm: float,
) -> TrueFront | None:
    """The face that a crop shows.

    Args:
        depth_mm: z of the true surface at each pixel's centre; NaN where there is none.
        normals: unit, camera frame; 0 where there is none.
        region: class of each pixel (`types.REGION_NAMES`).
        half_mm: half the crop's side.

    Returns:
        None for a crop without a face.
    """
    size = len(depth_mm)
    shown = np.isfinite(depth_mm) & (region < FACE_CLASSES) & (np.abs(normals).sum(-1) > 0)
    depth = np.where(shown, depth_mm, np.nan).astype(np.float64)
    vertices, faces = grid_mesh(depth, half_mm)
    stride = max(round(SPACING_MM * size / (2 * half_mm)), 1)
    on_grid = np.zeros_like(shown)
    on_grid[::stride, ::stride] = True
    pixels = np.flatnonzero(shown & on_grid)
    if len(faces) == 0 or len(pixels) == 0:
        return None
    points = pixel_points(depth, half_mm).reshape(-1, 3)[pixels]
    normal = normals.reshape(-1, 3)[pixels].astype(np.float64)
    spacing = stride * 2 * half_mm / size
    areas = pixel_areas(normal[:, 2], spacing)
    classes = region.reshape(-1)[pixels].astype(np.int64)
    skin = ~np.isin(classes, [REGION_NAMES.index(name) for name in _NO_RELIEF])
    tree, base = SurfaceTree(vertices, faces), smooth_base(points[skin], normal[skin], areas[skin])
    return TrueFront(
        size, half_mm, spacing, depth, pixels, points, normal, areas, classes, tree,
        base, displacement(base, tree),
    )  # fmt: skip


def pixel_points(depth_mm: Float[ndarray, "s s"], half_mm: float) -> Float[ndarray, "s s 3"]:
    """Where each pixel's centre lies in mm."""
    size = len(depth_mm)
    along = ((np.arange(size) + 0.5) * 2 / size - 1) * half_mm
    x, y = np.meshgrid(along, -along)
    return np.stack((x, y, depth_mm), -1)


def grid_mesh(depth_mm: Float[ndarray, "s s"], half_mm: float) -> Triangles:
    """A depth map as a mesh: two triangles between four neighbours.

    Triangles with a corner off the surface are left out, and those with a step steeper than
    `STEEPEST`: there the near part hides the far one.
    """
    size = len(depth_mm)
    a = (np.arange(size - 1)[:, None] * size + np.arange(size - 1)).reshape(-1)
    below, beside, across = a + size, a + 1, a + size + 1
    faces = np.concatenate([np.stack((a, below, beside), 1), np.stack((beside, below, across), 1)])
    corners = depth_mm.reshape(-1)[faces]
    limit = np.sqrt(1 / STEEPEST**2 - 1) * 2 * half_mm / size
    step = corners.max(1) - corners.min(1)  # NaN, and so no face, where a corner is missing
    used, kept = np.unique(faces[step <= limit], return_inverse=True)
    return pixel_points(depth_mm, half_mm).reshape(-1, 3)[used], kept.reshape(-1, 3)


def see(
    vertices: Float[ndarray, "v 3"], faces: Int[ndarray, "f 3"], size: int, half_mm: float
) -> Seen:
    """What the pixels of a crop see of a mesh; both sides of a triangle count."""
    column = (vertices[:, 0] / half_mm + 1) * size / 2 - 0.5
    row = (1 - vertices[:, 1] / half_mm) * size / 2 - 0.5
    screen = torch.from_numpy(np.stack((column, row, vertices[:, 2]), 1)[None])
    found = rasterize(screen, torch.from_numpy(np.ascontiguousarray(faces)), size, size)
    depth = found.depth[0].double().numpy()
    return Seen(np.where(found.mask[0].numpy(), depth, np.nan), found.face_ids[0].numpy())


def front_of(mesh: Triangles, size: int, half_mm: float) -> Front | None:
    """The part of a mesh that a crop can show; None where nothing of it lies in the crop.

    Triangles count whose middle lies in the crop, at most `BEHIND_MM` behind what is seen there,
    and that face the way in which most of the visible ones do. So the back of a head, the mouth
    bag and what noses hide are left out.
    """
    vertices, faces = np.asarray(mesh[0], np.float64), np.asarray(mesh[1], np.int64)
    seen = see(vertices, faces, size, half_mm)
    middle = vertices[faces].mean(1)
    column = np.floor((middle[:, 0] / half_mm + 1) * size / 2).astype(int)
    row = np.floor((1 - middle[:, 1] / half_mm) * size / 2).astype(int)
    inside = (column >= 0) & (column < size) & (row >= 0) & (row < size)
    front = np.full(len(faces), np.nan)
    front[inside] = seen.depth_mm[row[inside], column[inside]]
    near = middle[:, 2] >= front - BEHIND_MM  # False for NaN
    if not near.any():
        return None
    toward = facing(vertices, faces)
    inside_out = bool(toward[seen.face[seen.face >= 0]].sum() < 0)
    kept = near & ((toward < 0) == inside_out)
    if not kept.any():
        return None
    return Front(vertices, faces[kept], normals_of(vertices, faces), inside_out)


def facing(vertices: Float[ndarray, "v 3"], faces: Int[ndarray, "f 3"]) -> Float[ndarray, "f"]:
    """n_z of each triangle's unit normal."""
    a, b, c = (vertices[faces[:, k]] for k in range(3))
    normal = np.cross(b - a, c - a)
    return normal[:, 2] / np.maximum(np.linalg.norm(normal, axis=1), 1e-12)


def pixel_areas(toward: Float[ndarray, "n"], side_mm: float) -> Float[ndarray, "n"]:
    """Area in mm^2 of a surface behind squares of the picture; n_z counts from `STEEPEST` on."""
    return side_mm**2 / np.maximum(toward, STEEPEST)
