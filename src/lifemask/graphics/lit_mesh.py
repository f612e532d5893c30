"""A textured mesh under new light: relief and gloss of its materials, shadows of its shape.

`create_lit_mesh` makes one from what a mesh file holds, `look` sees it through a camera once, and
`illuminate` shades what was seen, as often as the light turns.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from lifemask.graphics.camera import supersampled_camera
from lifemask.graphics.environment import Environment
from lifemask.graphics.gloss import GlossMap, blur_for_gloss, mirrored, reflectance
from lifemask.graphics.lighting import (
    lambert_transfer,
    rotate_sh,
    sh_basis,
    srgb_to_linear,
    transferred,
)
from lifemask.graphics.mesh import vertex_normals
from lifemask.graphics.meshio import Material, MeshScene, decode_normals
from lifemask.graphics.occlusion import radiance_transfer
from lifemask.graphics.render import draw_surface
from lifemask.graphics.tangents import bend_normals, uv_tangents
from lifemask.graphics.uv import sample_uv
from lifemask.types import Camera, Lighting

_OPEN_SKY = 0.28209479
"""First coefficient of the transfer of a surface that nothing shadows, Y_00."""
_LEAST = 0.08
"""About the least share of the light's mean that a sample gets of what its openness allows."""
_USUAL_MM = 80.0, 2000.0
"""A head's longest side; meshes in another unit are scaled to `_HEAD_MM`."""
_HEAD_MM = 300.0


@dataclass(frozen=True)
class LitPart:
    """Material of some faces.

    Attributes:
        albedo: (3, n, m) linear RGB, row 0 at v = 1.
        roughness: (1, k, l), perceptual, in [0, 1].
        relief: (3, i, j) tangent-space normals, x right and y up in the texture; None if smooth.
    """

    albedo: Float[Tensor, "3 n m"]
    roughness: Float[Tensor, "1 k l"]
    relief: Float[Tensor, "3 i j"] | None = None


@dataclass(frozen=True)
class LitMesh:
    """A mesh, its materials, and how its own shape shadows it; model frame, mm.

    Attributes:
        vertices: (v, 3).
        faces: (f, 3) vertex ids.
        uvs: (t, 2), v up.
        faces_uv: (f, 3) ids into `uvs`.
        face_part: (f,) index into `parts`.
        parts: materials.
        normals: (v, 3) unit.
        tangents: (t, 4) per uv, see `tangents.uv_tangents`.
        transfer: (v, 9) shadowed radiance transfer, see `occlusion`.
    """

    vertices: Float[Tensor, "v 3"]
    faces: Int[Tensor, "f 3"]
    uvs: Float[Tensor, "t 2"]
    faces_uv: Int[Tensor, "f 3"]
    face_part: Int[Tensor, "f"]
    parts: tuple[LitPart, ...]
    normals: Float[Tensor, "v 3"]
    tangents: Float[Tensor, "t 4"]
    transfer: Float[Tensor, "v 9"]


@dataclass(frozen=True)
class Sight:
    """The p samples of a picture that show a mesh, before they are lit.

    Attributes:
        rows: (p,) flat index into the fine picture.
        albedo: (p, 3) linear RGB.
        roughness: (p,).
        normals: (p, 3) unit, camera frame, relief included.
        transfer: (p, 9) shadowed transfer, model frame, relief included.
        rotation: (3, 3) model frame to camera frame.
        size: (height, width) of the picture.
        supersample: samples per pixel along each side.
    """

    rows: Int[Tensor, "p"]
    albedo: Float[Tensor, "p 3"]
    roughness: Float[Tensor, "p"]
    normals: Float[Tensor, "p 3"]
    transfer: Float[Tensor, "p 9"]
    rotation: Float[Tensor, "3 3"]
    size: tuple[int, int]
    supersample: int


@dataclass(frozen=True)
class Shine:
    """A light made ready: spherical harmonics, and the blurred panoramas of gloss.

    Attributes:
        lighting: radiance coefficients, unturned, camera frame.
        gloss: None for light without gloss.
    """

    lighting: Lighting
    gloss: GlossMap | None


def create_shine(environment: Environment, *, gloss: bool = True) -> Shine:
    """Prepare a light; without gloss everything is matte."""
    return Shine(environment.lighting, blur_for_gloss(environment.radiance) if gloss else None)


@torch.no_grad()
def create_lit_mesh(scene: MeshScene) -> LitMesh:
    """The mesh of a file, its blendshapes at their weights, ready to be lit.

    Vertices that a file holds twice because of their uvs are joined, so that no seam is shaded;
    meshes that are not of a head's size in mm are scaled. A few seconds for a head.

    Args:
        scene: textured or in plain colours; `check()` holds.
    """
    posed, faces = _joined(scene)
    extent = float((posed.amax(0) - posed.amin(0)).max())
    if not _USUAL_MM[0] <= extent <= _USUAL_MM[1]:
        posed = posed * (_HEAD_MM / max(extent, 1e-12))
    uvs = torch.zeros(1, 2) if scene.uvs is None else torch.from_numpy(scene.uvs)
    corners, part = [], []
    for index, primitive in enumerate(scene.primitives):
        none = np.zeros_like(primitive.faces)
        corners.append(none if primitive.faces_uv is None else primitive.faces_uv)
        part += [index] * len(primitive.faces)
    faces_uv = torch.from_numpy(np.concatenate(corners).astype(np.int32))
    normals = vertex_normals(posed, faces)
    return LitMesh(
        vertices=posed,
        faces=faces,
        uvs=uvs,
        faces_uv=faces_uv,
        face_part=torch.tensor(part),
        parts=tuple(_part(primitive.material) for primitive in scene.primitives),
        normals=normals,
        tangents=uv_tangents(posed, faces, uvs, faces_uv, normals),
        transfer=radiance_transfer(posed, faces),
    )


def without_maps(mesh: LitMesh) -> LitMesh:
    """The same mesh, smooth, each part with the mean of its roughness."""
    plain = tuple(
        replace(part, relief=None, roughness=part.roughness.mean().view(1, 1, 1))
        for part in mesh.parts
    )
    return replace(mesh, parts=plain)


@torch.no_grad()
def look(mesh: LitMesh, camera: Camera, height: int, width: int, supersample: int = 2) -> Sight:
    """What an orthographic camera sees of a mesh.

    Args:
        mesh: model frame.
        camera: model frame to px of the picture.
        height: rows of the picture.
        width: columns of the picture.
        supersample: samples per pixel along each side.
    """
    fine = supersampled_camera(camera, supersample)
    surface = draw_surface(
        mesh.vertices[None],
        mesh.faces,
        fine,
        height * supersample,
        width * supersample,
        normals=mesh.normals[None],
    )
    ids = surface.fragments.face_ids.reshape(-1)
    rows = (ids >= 0).nonzero().squeeze(-1)
    face, weights = ids[rows].long(), surface.bary.view(-1, 3)[rows]

    def at(values: Tensor, corners: Tensor) -> Tensor:
        return (values[corners.long()[face]] * weights[..., None]).sum(1)

    uv, tangents = at(mesh.uvs, mesh.faces_uv), at(mesh.tangents, mesh.faces_uv)
    smooth = functional.normalize(at(mesh.normals, mesh.faces), dim=-1)
    transfer = at(mesh.transfer, mesh.faces)
    albedo, roughness, relief = _sample(mesh.parts, mesh.face_part[face], uv)
    bent = bend_normals(smooth, tangents, relief)
    seen = (transfer[:, 0] / _OPEN_SKY).clamp(0, 1)
    bending = lambert_transfer(bent) - lambert_transfer(smooth)
    transfer = transfer + seen[:, None] * bending
    return Sight(
        rows=rows,
        albedo=albedo,
        roughness=roughness,
        normals=bent @ camera.rotation.mT,
        transfer=transfer,
        rotation=camera.rotation,
        size=(height, width),
        supersample=supersample,
    )


@torch.no_grad()
def illuminate(
    sight: Sight, shine: Shine, turn: Float[Tensor, "3 3"] | None = None
) -> tuple[Float[Tensor, "3 h w"], Float[Tensor, "h w"]]:
    """The picture in a light.

    Args:
        sight: from `look`.
        shine: from `create_shine`.
        turn: rotation of the light in the camera frame; None leaves it.

    Returns:
        (linear RGB (3, h, w) over black, coverage (h, w) in [0, 1]).
    """
    sh = shine.lighting.sh.to(sight.albedo)
    turn = (torch.eye(3) if turn is None else turn).to(sh)
    of_model = rotate_sh(sh, sight.rotation.mT @ turn)
    color = sight.albedo * _shade(sight.transfer, of_model)
    if shine.gloss is not None:
        cosine = sight.normals[:, 2]  # the camera looks along -z
        towards = sight.normals * (2 * cosine[:, None])
        towards = towards - towards.new_tensor([0.0, 0.0, 1.0])
        share = reflectance(sight.roughness, cosine) * _visible(sight, towards) * (cosine > 0)
        glint = mirrored(shine.gloss, towards @ turn, sight.roughness)
        color = color * (1 - share[:, None]) + share[:, None] * glint
    (height, width), fine = sight.size, sight.supersample
    rgba = color.new_zeros(height * fine * width * fine, 4)
    rgba[sight.rows, :3] = color
    rgba[sight.rows, 3] = 1
    rgba = rgba.view(height, fine, width, fine, 4).mean((1, 3)).permute(2, 0, 1)
    return rgba[:3], rgba[3]


def _shade(transfer: Float[Tensor, "p 9"], sh: Float[Tensor, "9 3"]) -> Float[Tensor, "p 3"]:
    """Shading that goes to a dim floor in deep shadow, where order 2 would go below 0.

    The smooth maximum `(x + y + sqrt((x - y)^2 + y^2)) / 2` of shading x and floor y.
    """
    raw = transferred(transfer, sh)
    floor = _LEAST * transfer[:, :1].clamp(min=0) * sh[0].clamp(min=0)
    return (raw + floor + ((raw - floor).square() + floor.square()).sqrt()) / 2


def _visible(sight: Sight, towards: Tensor) -> Tensor:
    """How much of a direction (p, 3) of the camera frame the shape leaves open, in [0, 1].

    The shadowed transfer as a function of direction, over that of a surface in free space.
    """
    basis = sh_basis(towards @ sight.rotation)
    free = lambert_transfer(sight.normals @ sight.rotation)
    open_share = (sight.transfer * basis).sum(-1) / (free * basis).sum(-1).clamp(min=0.02)
    return open_share.clamp(0, 1)


def _sample(
    parts: tuple[LitPart, ...], part: Tensor, uv: Tensor
) -> tuple[Float[Tensor, "p 3"], Float[Tensor, "p"], Float[Tensor, "p 3"]]:
    """Albedo, roughness and relief of each sample from its part's textures."""
    albedo, roughness = uv.new_zeros(len(uv), 3), uv.new_zeros(len(uv))
    relief = uv.new_tensor([0.0, 0.0, 1.0]).expand(len(uv), 3).clone()
    for index, material in enumerate(parts):
        own = (part == index).nonzero().squeeze(-1)
        if not len(own):
            continue
        albedo[own] = sample_uv(material.albedo, uv[own])
        roughness[own] = sample_uv(material.roughness, uv[own])[:, 0]
        if material.relief is not None:
            relief[own] = functional.normalize(sample_uv(material.relief, uv[own]), dim=-1)
    return albedo, roughness, relief


def _part(material: Material | None) -> LitPart:
    material = material or Material()
    color = torch.tensor(material.color).view(3, 1, 1)
    albedo = color
    if material.texture is not None:
        texture = torch.from_numpy(material.texture).permute(2, 0, 1)
        albedo = srgb_to_linear(texture.float() / 255) * color
    roughness = torch.tensor(material.roughness).view(1, 1, 1)
    if material.roughness_texture is not None:
        roughness = torch.from_numpy(material.roughness_texture).float()[None] / 255 * roughness
    relief = None
    if material.normal_texture is not None:
        vectors = torch.from_numpy(decode_normals(material.normal_texture))
        relief = vectors.permute(2, 0, 1).contiguous()
    return LitPart(albedo.contiguous(), roughness.clamp(0.03, 1), relief)


def _joined(scene: MeshScene) -> tuple[Float[Tensor, "v 3"], Int[Tensor, "f 3"]]:
    """Posed positions and faces, vertices that differ in their uvs alone made one.

    Two vertices are one when their place, normal and place under the blendshapes agree.
    """
    posed = scene.positions_mm.astype(np.float64)
    for name, weight in scene.morph_weights.items():
        if weight and name in scene.morph_targets:
            posed = posed + weight * scene.morph_targets[name].positions_mm
    posed = posed.astype(np.float32)
    same = [scene.positions_mm, posed] + ([] if scene.normals is None else [scene.normals])
    keys = np.ascontiguousarray(np.concatenate(same, axis=1, dtype=np.float32)) + np.float32(0)
    rows = keys.view(np.dtype((np.void, keys.dtype.itemsize * keys.shape[1])))[:, 0]
    _, first, owner = np.unique(rows, return_index=True, return_inverse=True)
    faces = owner.reshape(-1)[scene.faces].astype(np.int32)
    return torch.from_numpy(posed[first]), torch.from_numpy(faces)
