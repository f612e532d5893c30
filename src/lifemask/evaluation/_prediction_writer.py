"""Reconstructed heads as mesh predictions: which of a head's meshes, and in which frame."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray
from torch import Tensor

from lifemask.assets import UserError
from lifemask.evaluation._seven import SEVEN_FROM_68
from lifemask.evaluation.head_files import View, write_head, write_triangles
from lifemask.evaluation.meshes import Triangles
from lifemask.facemodel.base import FaceModel
from lifemask.types import Geometry

if TYPE_CHECKING:
    from lifemask.head import Head

Shape = Literal["photo", "neutral"]
MeshKind = Literal["head", "detailed", "surface"]
"""The head model's mesh; the same, subdivided, with its displacement map; the free surface."""
LANDMARKS = ("ict68", "ibug68-3d-bfm")
_SUBDIVISIONS = 2


@torch.no_grad()
def write_fitted_head(
    folder: Path, name: str, head: Head, shape: Shape, views: bool, mesh: MeshKind = "head"
) -> None:
    """Write a reconstructed head as a prediction in mm, in the model's frame.

    Args:
        folder: of the predictions.
        name: of the item.
        head: with its face model.
        shape: which shape is the prediction's mesh.
        views: also write pose, image points, neutral shape and albedo.
        mesh: which mesh is the prediction's.
    """
    model, geometry = known(head)
    neutral = neutral_vertices(geometry, model)
    vertices = neutral if shape == "neutral" else geometry.vertices_mm
    landmarks = {s: model.landmarks(vertices, s).numpy() for s in LANDMARKS}
    chosen = vertices.numpy(), geometry.faces.numpy()
    if mesh == "surface":
        free = surface_geometry(geometry, model)
        chosen = free.vertices_mm.numpy(), free.faces.numpy()
        landmarks = _on_surface(free)
    elif mesh == "detailed":
        chosen = detailed_mesh(geometry, model, vertices)
    own = views and mesh != "surface"
    albedo = head.appearance.albedo.numpy() if views and head.appearance is not None else None
    write_head(
        folder,
        name,
        chosen,
        landmarks_mm=landmarks | _seven(landmarks),
        view=_view(geometry, model) if views else None,
        neutral=(neutral.numpy(), geometry.faces.numpy()) if own else None,
        albedo=albedo,
    )


@torch.no_grad()
def write_in_photo(folder: Path, name: str, head: Head, mesh: MeshKind = "head") -> None:
    """Write a head as its photo shows it: half image sides, x right, y up, z towards the viewer.

    Args:
        folder: of the predictions.
        name: of the item.
        head: with its face model, in a square photo.
        mesh: which mesh is the prediction's.

    Raises:
        UserError: the photo is not square.
    """
    from lifemask.graphics.camera import project

    model, geometry = known(head)
    width, height = head.image_size
    if width != height:
        raise UserError(f"the photo of {name} is {width} x {height} px; the protocol's are square")
    if mesh == "surface":
        surface = surface_geometry(geometry, model).surface
        if surface is None:
            raise ValueError("a free geometry without its surface")
        points, faces = surface.vertices_px, surface.faces.numpy()
    else:
        chosen = geometry.vertices_mm.numpy(), geometry.faces.numpy()
        if mesh == "detailed":
            chosen = detailed_mesh(geometry, model, geometry.vertices_mm)
        points, faces = project(torch.from_numpy(chosen[0]), geometry.camera), chosen[1]
    u, v, w = points.double().numpy().T
    half = width / 2
    vertices = np.stack(((u + 0.5) / half - 1, 1 - (v + 0.5) / half, w / half), 1)
    write_triangles(folder / f"{name}.ply", (vertices, faces))


def known(head: Head) -> tuple[FaceModel, Geometry]:
    """A head's face model and its geometry.

    Raises:
        ValueError: a free mesh.
    """
    if head.model is None or head.geometry.params is None:
        raise ValueError("only heads of a face model are written")
    return head.model, head.geometry


def neutral_vertices(geometry: Geometry, model: FaceModel) -> Float[Tensor, "v 3"]:
    """The head without expression (v, 3) mm; what a surface added to it stays."""
    if geometry.params is None:
        raise ValueError("only heads of a face model have a neutral shape")
    neutral = model(geometry.params.identity, torch.zeros_like(geometry.params.expression))
    return neutral if geometry.detail is None else neutral + geometry.detail.offsets_mm


def surface_geometry(geometry: Geometry, model: FaceModel) -> Geometry:
    """The free surface of a head in mm, model frame, with landmarks on it.

    Raises:
        UserError: the method found none, or one that covers too little of the face.
    """
    from lifemask.methods._rafare_carry import free_geometry

    if geometry.surface is None:
        raise UserError("this method finds no free surface; predict the mesh 'head'")
    return free_geometry(geometry, geometry.surface, model)


def detailed_mesh(
    geometry: Geometry, model: FaceModel, vertices_mm: Float[Tensor, "v 3"]
) -> Triangles:
    """The skin of a head, subdivided, with its displacement map, and its other parts as they are.

    Args:
        geometry: of the face model; without `detail` the skin is only rounded.
        model: has UVs.
        vertices_mm: of the head, in any expression.
    """
    from lifemask.graphics.mesh import vertex_normals
    from lifemask.graphics.subdivide import refine
    from lifemask.graphics.uv import sample_uv

    topology = model.topology
    faces, part = topology.faces.long().cpu(), topology.face_part.cpu()
    skin = part == topology.part_names.index("skin") if "skin" in topology.part_names else part == 0
    faces_uv, uvs = topology.faces_uv.long().cpu()[skin], topology.uvs.float().cpu()
    fine = refine(vertices_mm.float(), faces[skin], uvs, faces_uv, _SUBDIVISIONS)
    points = fine.vertices
    if geometry.detail is not None:
        normals = vertex_normals(points, fine.faces)
        height = sample_uv(geometry.detail.displacement_mm.float()[None], fine.uvs)[:, 0]
        at_vertices = points.new_zeros(len(points))
        at_vertices[fine.faces.reshape(-1)] = height[fine.faces_uv.reshape(-1)]
        points = points + at_vertices[:, None] * normals
    return points.numpy(), torch.cat((fine.faces, faces[~skin])).numpy()


def _on_surface(free: Geometry) -> dict[str, Float[ndarray, "k 3"]]:
    """The inner 51 landmarks on a free surface; the jaw's points need not lie on it."""
    from lifemask.facemodel.landmarks import convert

    if free.landmarks68_mm is None:
        return {}
    points = free.landmarks68_mm
    return {"ict68": points.numpy(), "ibug51": convert(points, "ict68", "ibug51").numpy()}


def _seven(landmarks: Mapping[str, ndarray]) -> dict[str, ndarray]:
    if "ict68" not in landmarks:
        return {}
    seven = landmarks["ict68"][list(SEVEN_FROM_68)]
    return {"now7": seven, "stirling7": seven}


def _view(geometry: Geometry, model: FaceModel) -> View:
    from lifemask.graphics.camera import project

    points = {
        s: project(model.landmarks(geometry.vertices_mm, s), geometry.camera)[:, :2].numpy()
        for s in LANDMARKS
    }
    return View(geometry.camera.rotation.double().numpy(), points)
