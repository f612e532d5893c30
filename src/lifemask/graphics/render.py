"""Deferred rendering: geometry and camera to per-pixel surface, then texture and light to image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from lifemask.graphics.antialias import antialias as antialias_image
from lifemask.graphics.camera import (
    inverse_depth,
    project,
    screen_depth,
    supersampled_camera,
    to_camera_frame,
)
from lifemask.graphics.lighting import rotate_sh, shading, shadowed_shading
from lifemask.graphics.mesh import vertex_normals
from lifemask.graphics.rasterize import (
    Backend,
    Fragments,
    barycentric_at_pixels,
    interpolate,
    rasterize,
)
from lifemask.types import Camera, Lighting


@dataclass(frozen=True)
class Surface:
    """The nearest surface in each pixel; all but the fragments is differentiable.

    Attributes:
        fragments: face ids and screen depth.
        points_screen: (b, v, 3) what was rasterised: (u, v) px and screen depth.
        bary: (b, h, w, 3) perspective-correct barycentrics, 0 where nothing is drawn.
        normals: (b, h, w, 3) unit, camera frame, 0 where nothing is drawn.
        depth_mm: (b, h, w) camera-frame z in mm, larger = nearer, 0 where nothing is drawn.
    """

    fragments: Fragments
    points_screen: Float[Tensor, "b v 3"]
    bary: Float[Tensor, "b h w 3"]
    normals: Float[Tensor, "b h w 3"]
    depth_mm: Float[Tensor, "b h w"]


@dataclass(frozen=True)
class RenderResult:
    """A rendered image and what was seen in it.

    Attributes:
        image: (b, 3, h, w) linear RGB, not clipped, over the background.
        mask: (b, h, w) coverage in [0, 1]; fractional where antialiased or supersampled.
        depth_mm: (b, h, w) camera-frame z in mm, larger = nearer, 0 outside the mask.
        normals: (b, 3, h, w) unit, camera frame, 0 outside.
        uv: (b, h, w, 2) texture coordinates, v up, 0 outside.
        face_ids: (b, h, w) int32, -1 outside.
    """

    image: Float[Tensor, "b 3 h w"]
    mask: Float[Tensor, "b h w"]
    depth_mm: Float[Tensor, "b h w"]
    normals: Float[Tensor, "b 3 h w"]
    uv: Float[Tensor, "b h w 2"]
    face_ids: Int[Tensor, "b h w"]


def draw_surface(
    vertices: Float[Tensor, "b v 3"],
    faces: Int[Tensor, "f 3"],
    camera: Camera,
    height: int,
    width: int,
    *,
    normals: Float[Tensor, "b v 3"] | None = None,
    cull_backfaces: bool = False,
    backend: Backend = "auto",
) -> Surface:
    """Rasterise a mesh and interpolate its normals and depth.

    Args:
        vertices: (b, v, 3) mm, model frame.
        faces: (f, 3) vertex ids, counter-clockwise from outside.
        camera: unbatched or (b,), to px of the image.
        height: rows of the image.
        width: columns of the image.
        normals: (b, v, 3) unit, model frame; None for those of the mesh.
        cull_backfaces: leave out faces seen from behind.
        backend: see `rasterize`.
    """
    normals = vertex_normals(vertices, faces) if normals is None else normals
    depth = screen_depth(vertices, camera)
    screen = torch.cat((project(vertices, camera)[..., :2], depth.unsqueeze(-1)), dim=-1)
    fragments = rasterize(
        screen, faces, height, width, backend=backend, cull_backfaces=cull_backfaces
    )
    near = inverse_depth(vertices, camera)
    bary = barycentric_at_pixels(screen, faces, fragments.face_ids, near)
    z = to_camera_frame(vertices, camera)[..., 2:]
    attributes = torch.cat((normals @ camera.rotation.mT, z), dim=-1)
    values = interpolate(attributes, faces, fragments.face_ids, bary)
    unit = functional.normalize(values[..., :3], dim=-1)
    return Surface(fragments, screen, bary, unit, values[..., 3])


def sample_texture(
    texture: Float[Tensor, "_ c _ _"], uv: Float[Tensor, "b h w 2"]
) -> Float[Tensor, "b c h w"]:
    """Bilinear samples (b, c, h, w); differentiable in both. Beyond the border: the border.

    Args:
        texture: (b or 1, c, n, m); texel (row i, column j) lies at ((j + 0.5) / m,
            1 - (i + 0.5) / n).
        uv: (b, h, w, 2), v up.
    """
    grid = torch.stack((2 * uv[..., 0] - 1, 1 - 2 * uv[..., 1]), dim=-1)
    texture = texture.to(grid).expand(len(uv), -1, -1, -1)
    return functional.grid_sample(
        texture, grid, mode="bilinear", padding_mode="border", align_corners=False
    )


def sample_parts(
    textures: Sequence[Float[Tensor, "_ c _ _"]],
    uv: Float[Tensor, "b h w 2"],
    face_ids: Int[Tensor, "b h w"],
    face_part: Int[Tensor, " f"],
) -> Float[Tensor, "b c h w"]:
    """Samples (b, c, h, w) of each pixel from the texture of its face's part, 0 outside.

    Args:
        textures: by part, (b or 1, c, n, m) each; sizes may differ.
        uv: (b, h, w, 2), v up.
        face_ids: (b, h, w), -1 where nothing is drawn.
        face_part: (f,) index into `textures` of each face.

    Raises:
        ValueError: a visible part has no texture.
    """
    part = torch.where(face_ids >= 0, face_part.long()[face_ids.clamp(min=0).long()], -1)
    present = [int(p) for p in part.unique() if p >= 0]
    if present and present[-1] >= len(textures):
        raise ValueError(f"faces of part {present[-1]} but only {len(textures)} textures")
    colors = uv.new_zeros(len(uv), textures[0].shape[1], *uv.shape[1:3])
    for p in present:
        colors = torch.where((part == p).unsqueeze(1), sample_texture(textures[p], uv), colors)
    return colors


def shade(
    albedo: Float[Tensor, "b 3 h w"],
    normals: Float[Tensor, "b h w 3"],
    lighting: Lighting | None,
) -> Float[Tensor, "b 3 h w"]:
    """Linear RGB of Lambertian pixels; shading is clamped at 0. No light leaves the albedo."""
    if lighting is None:
        return albedo
    lit = shading(normals, lighting.sh.to(normals)).clamp(min=0)
    return albedo * lit.movedim(-1, 1)


def render(
    vertices: Float[Tensor, "b v 3"],
    faces: Int[Tensor, "f 3"],
    camera: Camera,
    height: int,
    width: int,
    *,
    uvs: Float[Tensor, "t 2"],
    faces_uv: Int[Tensor, "f 3"],
    albedo: Float[Tensor, "_ 3 _ _"] | Sequence[Float[Tensor, "_ 3 _ _"]],
    face_part: Int[Tensor, " f"] | None = None,
    lighting: Lighting | None = None,
    background: Float[Tensor, "*b 3 h w"] | None = None,
    normals: Float[Tensor, "b v 3"] | None = None,
    transfer: Float[Tensor, "_ v 9"] | None = None,
    supersample: int = 1,
    antialias: bool = False,
    cull_backfaces: bool = False,
    backend: Backend = "auto",
) -> RenderResult:
    """Render a textured mesh; differentiable in vertices, camera, albedo, light and background.

    Without `antialias` no gradient reaches the outline, only what is inside it.

    Args:
        vertices: (b, v, 3) mm, model frame.
        faces: (f, 3) vertex ids, counter-clockwise from outside.
        camera: unbatched or (b,), to px of the image.
        height: rows of the image.
        width: columns of the image.
        uvs: (t, 2) texture coordinates, v up.
        faces_uv: (f, 3) ids into `uvs`.
        albedo: (b or 1, 3, n, m) linear RGB, row 0 at v = 1; or one per part.
        face_part: (f,) index into a sequence of albedos; None when there is one.
        lighting: unbatched or (b,), camera frame; None shows the albedo.
        background: (3, h, w) or (b, 3, h, w) linear RGB; None is black.
        normals: (b, v, 3) unit, model frame; None for those of the mesh.
        transfer: (b or 1, v, 9) shadowed transfer in the model frame, from
            `occlusion.radiance_transfer`; None shades by normals alone, without shadows.
        supersample: render s x s samples per pixel and average.
        antialias: blend silhouettes analytically (`antialias.antialias`).
        cull_backfaces: leave out faces seen from behind.
        backend: see `rasterize`.

    Raises:
        ValueError: shapes that do not fit, several albedos without `face_part`.
    """
    textures = [albedo] if isinstance(albedo, Tensor) else list(albedo)
    if face_part is None:
        if len(textures) != 1:
            raise ValueError(f"{len(textures)} albedos need face_part to tell which is whose")
        face_part = torch.zeros(len(faces), dtype=torch.long, device=vertices.device)
    scene = _Scene(vertices, faces, uvs, faces_uv, textures, face_part, lighting, normals, transfer)
    options = _Options(cull_backfaces, backend, antialias)
    surface, uv, rgba = _draw(scene, camera, height, width, options)
    if supersample > 1:
        fine = supersampled_camera(camera, supersample)
        rgba = _draw(scene, fine, height * supersample, width * supersample, options)[2]
        rgba = functional.avg_pool2d(rgba, supersample)
    image, mask = rgba[:, :3], rgba[:, 3]
    if background is not None:
        image = image + (1 - mask).unsqueeze(1) * background.to(image)
    return RenderResult(
        image,
        mask,
        surface.depth_mm,
        surface.normals.movedim(-1, 1),
        uv,
        surface.fragments.face_ids,
    )


@dataclass(frozen=True)
class _Scene:
    """What `render` draws, for any camera."""

    vertices: Tensor
    faces: Tensor
    uvs: Tensor
    faces_uv: Tensor
    textures: list[Tensor]
    face_part: Tensor
    lighting: Lighting | None
    normals: Tensor | None
    transfer: Tensor | None


@dataclass(frozen=True)
class _Options:
    """How `render` draws."""

    cull_backfaces: bool
    backend: Backend
    antialias: bool


def _draw(
    scene: _Scene, camera: Camera, height: int, width: int, options: _Options
) -> tuple[Surface, Tensor, Tensor]:
    """Surface, uv (b, h, w, 2) and lit colour over black with coverage (b, 4, h, w)."""
    surface = draw_surface(
        scene.vertices,
        scene.faces,
        camera,
        height,
        width,
        normals=scene.normals,
        cull_backfaces=options.cull_backfaces,
        backend=options.backend,
    )
    ids = surface.fragments.face_ids
    uv = interpolate(scene.uvs.to(scene.vertices)[None], scene.faces_uv, ids, surface.bary)
    albedo = sample_parts(scene.textures, uv, ids, scene.face_part)
    if scene.transfer is None or scene.lighting is None:
        color = shade(albedo, surface.normals, scene.lighting)
    else:
        transfer = interpolate(scene.transfer.to(albedo), scene.faces, ids, surface.bary)
        sh = rotate_sh(scene.lighting.sh.to(albedo), camera.rotation.mT)
        color = albedo * shadowed_shading(transfer, sh).movedim(-1, 1)
    mask = surface.fragments.mask.unsqueeze(1).to(color)
    rgba = torch.cat((color * mask, mask), dim=1)
    if options.antialias:
        pixels = rgba.movedim(1, -1)
        blended = antialias_image(pixels, surface.points_screen, scene.faces, surface.fragments)
        rgba = blended.movedim(-1, 1)
    return surface, uv, rgba
