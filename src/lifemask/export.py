"""A head as mesh files: GLB with ARKit morph targets, OBJ, PLY, and its record as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from lifemask.assets import UserError
from lifemask.facemodel.base import FaceModel, Topology
from lifemask.graphics.lighting import linear_to_srgb
from lifemask.graphics.mesh import vertex_normals
from lifemask.graphics.meshio import (
    Material,
    MeshPrimitive,
    MeshScene,
    MorphTarget,
    encode_image,
    encode_normals,
    polygons_of_part,
    write_atomic,
    write_glb,
    write_obj,
    write_ply,
)
from lifemask.methods.surface_maps import (
    DISPLACEMENT_ENDING,
    SurfaceMap,
    displacement_pixels,
    surface_maps,
)
from lifemask.types import Appearance, Geometry

if TYPE_CHECKING:
    from lifemask.head import Head

ROUGHNESS = {"skin": 0.55, "eyes": 0.1, "teeth": 0.2, "tongue": 0.4}
"""Of each part, perceptual (glTF); the skin's where it has no map. Eyes and mouth are wet."""
PLAIN_COLOR = (0.42, 0.42, 0.42)
SUFFIXES = (".glb", ".obj", ".ply", ".json")


def export_head(head: Head, path: Path, *, maps: bool = True) -> None:
    """Write one file; the suffix chooses the format, see `Head.export`.

    Args:
        head: what to write.
        path: of the file.
        maps: give the skin's material a normal and a roughness map, where the format has them, and
            write the displacement of a head that has one beside it.

    Raises:
        UserError: another suffix, or a path that cannot be written.
    """
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise UserError(f"{path}: unknown mesh format {suffix!r}; valid: {', '.join(SUFFIXES)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if suffix == ".json":
            _write_record(head, path)
        elif suffix == ".glb":
            write_glb(animated_scene(head, maps=maps), path)
        elif suffix == ".obj":
            write_obj(posed_scene(head, maps=maps), path)
        else:
            write_ply(posed_scene(head, maps=False), path)
        if maps and head.geometry.detail is not None and suffix in (".glb", ".obj"):
            pixels = displacement_pixels(head.geometry.detail.displacement_mm)
            place = path.with_name(path.stem + DISPLACEMENT_ENDING)
            write_atomic(place, encode_image(pixels, "png"))
    except OSError as error:
        raise UserError(f"cannot write {path} ({error.strerror or error})") from error


def export_surface(head: Head, path: Path, photo: UInt8[np.ndarray, "h w 3"] | None = None) -> None:
    """Write the free surface behind a head as PLY, mm, model frame.

    Args:
        head: one with `surface`.
        path: of the file.
        photo: colours the vertices that face its camera; None for none.

    Raises:
        UserError: a path that cannot be written.
    """
    try:
        write_ply(surface_scene(head, photo), path)
    except OSError as error:
        raise UserError(f"cannot write {path} ({error.strerror or error})") from error


def surface_scene(head: Head, photo: UInt8[np.ndarray, "h w 3"] | None = None) -> MeshScene:
    """The free surface behind a head; see `export_surface`."""
    surface, found = head.geometry.surface, head.surface
    assert surface is not None and found is not None
    vertices, faces = torch.from_numpy(found[0]).float(), surface.faces
    normals, colors = vertex_normals(vertices, faces), None
    if photo is not None:
        last = torch.tensor([photo.shape[1] - 1, photo.shape[0] - 1])
        u, v = surface.vertices_px[:, :2].round().long().clamp(min=0).minimum(last).numpy().T
        away = (normals @ head.geometry.camera.rotation.mT)[:, 2].numpy() <= 0
        colors = np.where(away[:, None], 128, photo[v, u]).astype(np.uint8)
    primitive = MeshPrimitive("surface", _int32(faces), None, Material("surface"))
    return MeshScene(_float32(vertices), (primitive,), _float32(normals), colors=colors)


def posed_scene(head: Head, *, maps: bool = True) -> MeshScene:
    """The head with the photo's expression, in the model frame, without morph targets.

    Args:
        head: what to show.
        maps: with normal and roughness maps of the skin (`methods.surface_maps`).
    """
    return _scene(head, head.geometry.vertices_mm, maps)


def animated_scene(head: Head, *, maps: bool = True) -> MeshScene:
    """The neutral head with a morph target per expression, their weights set to the photo's.

    What the geometry has beyond its parameters (a refinement per vertex) stays in the neutral
    head, so that the weighted sum of targets gives the head of the photo.

    Args:
        head: what to show.
        maps: with normal and roughness maps of the skin (`methods.surface_maps`).
    """
    geometry, model = head.geometry, head.model
    if model is None or geometry.params is None:
        return posed_scene(head, maps=maps)
    neutral, deltas = neutral_and_deltas(geometry, model)
    normals = vertex_normals(neutral, geometry.faces)
    moved = vertex_normals(neutral + deltas, geometry.faces) - normals
    targets = {
        name: MorphTarget(_float32(delta), _float32(turn))
        for name, delta, turn in zip(model.expression_names, deltas, moved, strict=True)
    }
    return _scene(head, neutral, maps, targets, head.expression)


def neutral_and_deltas(
    geometry: Geometry, model: FaceModel
) -> tuple[Float[Tensor, "v 3"], Float[Tensor, "e v 3"]]:
    """The person's neutral head and what each expression adds to it at 1, mm, model frame."""
    assert geometry.params is not None
    identity, expression = geometry.params.identity, geometry.params.expression
    with torch.no_grad():
        rest = model(identity, torch.zeros_like(expression))
        each = torch.eye(len(expression), dtype=expression.dtype, device=expression.device)
        deltas = model(identity.expand(len(each), -1), each) - rest
        neutral = geometry.vertices_mm - torch.einsum("e,evc->vc", expression, deltas)
    return neutral, deltas


def texture_pixels(albedo: Float[Tensor, "3 n n"]) -> UInt8[np.ndarray, "n n 3"]:
    """Linear albedo as 8-bit sRGB, row 0 at v = 1."""
    pixels = (linear_to_srgb(albedo.clamp(0, 1)) * 255).round().clamp(0, 255).byte()
    return np.ascontiguousarray(pixels.permute(1, 2, 0).cpu().numpy())


def _scene(
    head: Head,
    vertices: Float[Tensor, "v 3"],
    maps: bool,
    targets: dict[str, MorphTarget] | None = None,
    weights: dict[str, float] | None = None,
) -> MeshScene:
    geometry, appearance = head.geometry, head.appearance
    topology = None if head.model is None else head.model.topology
    surface: Mapping[str, SurfaceMap] = {}
    if maps and appearance is not None and head.model is not None:
        surface = surface_maps(geometry, appearance, head.model)
    return MeshScene(
        positions_mm=_float32(vertices),
        primitives=_primitives(topology, geometry, appearance, surface),
        normals=_float32(vertex_normals(vertices, geometry.faces)),
        uvs=None if topology is None else _float32(topology.uvs),
        morph_targets=targets or {},
        morph_weights=weights or {},
    )


def _primitives(
    topology: Topology | None,
    geometry: Geometry,
    appearance: Appearance | None,
    surface: Mapping[str, SurfaceMap],
) -> tuple[MeshPrimitive, ...]:
    """One primitive per part of the topology that has faces."""
    faces = _int32(geometry.faces)
    if topology is None:
        return (MeshPrimitive("head", faces, None, Material("head", color=PLAIN_COLOR)),)
    part, faces_uv = topology.face_part.cpu().numpy(), _int32(topology.faces_uv)
    quads = None if topology.polygons is None else _int32(topology.polygons)
    primitives: list[MeshPrimitive] = []
    for index, name in enumerate(topology.part_names):
        chosen = part == index
        if chosen.any():
            corners = np.ascontiguousarray(faces[chosen])
            primitives.append(
                MeshPrimitive(
                    name,
                    corners,
                    np.ascontiguousarray(faces_uv[chosen]),
                    _material(name, appearance, surface.get(name)),
                    None if quads is None else polygons_of_part(quads, corners),
                )
            )
    return tuple(primitives)


def _material(part: str, appearance: Appearance | None, surface: SurfaceMap | None) -> Material:
    roughness = ROUGHNESS.get(part, 0.6)
    if appearance is None:
        return Material(part, color=PLAIN_COLOR, roughness=roughness)
    texture = texture_pixels(appearance.part_albedo.get(part, appearance.albedo))
    if surface is None:
        return Material(part, texture, roughness=roughness)
    return Material(
        part,
        texture,
        roughness=1.0,
        normal_texture=encode_normals(surface.normals),
        roughness_texture=np.round(surface.roughness * 255).astype(np.uint8),
    )


def _write_record(head: Head, path: Path) -> None:
    from lifemask.record import params_record, record_text

    write_atomic(path, record_text(params_record([head], "", [[path.name]])).encode())


def _float32(values: Tensor) -> np.ndarray:
    return np.ascontiguousarray(values.detach().cpu().numpy().astype(np.float32))


def _int32(values: Tensor) -> np.ndarray:
    return np.ascontiguousarray(values.detach().cpu().numpy().astype(np.int32))
