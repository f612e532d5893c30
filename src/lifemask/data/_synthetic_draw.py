"""One image of the generator: pose the head, dress it, light it, photograph it, label it."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from lifemask.data import _synthetic_kernels as kernels
from lifemask.data import _synthetic_look as look
from lifemask.data import _synthetic_props as props
from lifemask.data import _synthetic_regions as regions
from lifemask.data import _synthetic_sample as sampling
from lifemask.data import _synthetic_scene as scenery
from lifemask.data._synthetic_rig import HeadRig, light_view

if TYPE_CHECKING:
    from lifemask.data.synthetic import Banks, Generator, Sample

SHADOW_MAP = 144
VISIBLE_TOLERANCE_MM = 4.0


@dataclass
class Soup:
    """Triangles of all parts of an image, camera frame."""

    points: NDArray[np.float32]
    normals: NDArray[np.float32]
    occlusion: NDArray[np.float32]
    faces: NDArray[np.int32]
    face_uv: NDArray[np.float32]
    material: NDArray[np.uint8]
    cull: NDArray[np.bool_]
    casts: NDArray[np.bool_]


def rotation_from_angles(angles_deg: NDArray[np.float32]) -> NDArray[np.float32]:
    """(3, 3) model to camera frame from (pitch, yaw, roll): `R = Rx(-pitch) Ry(yaw) Rz(-roll)`.

    A numpy twin of `graphics.camera.rotation_from_euler_deg(angles, "XYZ")` for one pose.
    """
    x, y, z = np.deg2rad(np.asarray(angles_deg, np.float64)) * [-1, 1, -1]
    cx, sx, cy, sy, cz, sz = np.cos(x), np.sin(x), np.cos(y), np.sin(y), np.cos(z), np.sin(z)
    about_x = np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    about_z = np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
    return (about_x @ about_y @ about_z).astype(np.float32)


def draw_image(
    generator: Generator,
    banks: Banks,
    rng: np.random.Generator,
    identity: NDArray[np.float32],
    expression: NDArray[np.float32],
    head_mm: NDArray[np.float32],
    points_mm: NDArray[np.float32],
    box_mm: NDArray[np.float32],
    ict68_mm: NDArray[np.float32],
) -> Sample:
    """Render and label one head.

    Args:
        generator: rig, props and settings.
        banks: skins and backgrounds of the shard.
        rng: the image's own random numbers.
        identity: (i,), stored with the sample.
        expression: (e,), stored with the sample.
        head_mm: (v, 3) model frame.
        points_mm: (392, 3) landmarks that become the labels.
        box_mm: (68, 3) landmarks that define the crop.
        ict68_mm: (68, 3) landmarks that place the glasses.
    """
    from lifemask.data.synthetic import Sample

    config = generator.config
    angles = sampling.random_angles_deg(rng)
    rotation = rotation_from_angles(angles)
    translation = sampling.random_translation_mm(rng)
    f_px, center = sampling.frame_face(
        box_mm @ rotation.T + translation, config.size, config.expand
    )
    outfit = look.random_outfit(rng)
    soup, lens = _dress(generator, rng, outfit, head_mm, ict68_mm, angles, rotation, translation)
    skin = int(rng.integers(len(banks.skins)))
    lut, mix = look.random_skin_tone(rng, float(banks.skin_freedom[skin]))
    plain = _plain_skin(generator.rig, banks.skins[skin], lut, mix)
    light = look.random_lighting(generator.surroundings, rng)
    materials = look.random_materials(rng, plain)
    screen = sampling.project(soup.points, f_px, center)
    labels = sampling.project(points_mm @ rotation.T + translation, f_px, center)
    linear, depth, region = _shade(
        generator, rng, soup, screen, banks, skin, lut, mix, light, materials, -rotation[:, 1]
    )
    ss = config.supersample
    visible = np.zeros(len(labels), np.bool_)
    kernels.points_visible(_finer(labels, ss), depth, VISIBLE_TOLERANCE_MM, visible)
    if lens is not None:
        lens_points = lens.points @ rotation.T + translation
        lens_screen = _finer(sampling.project(lens_points, f_px, center), ss)
        _add_lens(linear, lens_screen, lens.faces, depth, ss, outfit, rng, labels, visible, region)
    for _ in range(outfit.occluders):
        mask, colour = scenery.random_occluder(banks.backgrounds, rng, config.size, plain)
        linear += mask[..., None] * (colour - linear)
        _hide(visible, labels, mask > 0.5)
        region[mask > 0.5] = regions.BACKGROUND
    image = scenery.photograph(linear, _exposure(linear, labels, rng), rng)
    points = labels.copy()
    relative = (points_mm @ rotation.T)[:, 2]
    points[:, 2] = f_px / -translation[2] * relative
    flags = np.array([outfit.glasses != "", outfit.beard != "", outfit.occluders > 0])
    return Sample(
        image, points, visible, rotation, translation, f_px, center.astype(np.float32), identity,
        expression, flags, region,
    )  # fmt: skip


def _exposure(linear, labels, rng) -> NDArray[np.float64]:
    """Gain (3,) of an automatic exposure that half compensates for the face's brightness."""
    x = np.clip(np.rint(labels[::7, 0]).astype(int), 0, linear.shape[1] - 1)
    y = np.clip(np.rint(labels[::7, 1]).astype(int), 0, linear.shape[0] - 1)
    level = max(float(np.median(linear[y, x])), 0.004)
    auto = np.clip((0.2 / level) ** rng.uniform(0.35, 0.9), 0.4, 9.0)
    return auto * rng.lognormal(0.05, 0.25) * rng.lognormal(0, 0.05, 3)


def _finer(screen: NDArray[np.float32], ss: int) -> NDArray[np.float32]:
    """Screen points on the super-sampled grid."""
    out = screen.copy()
    out[:, :2] = (screen[:, :2] + 0.5) * ss - 0.5
    return out


def _dress(generator, rng, outfit, head, ict68, angles, rotation, translation):
    """Head and props as one triangle soup in the camera frame, and the lens mesh or None."""
    rig, kit = generator.rig, generator.props
    meshes: list[props.Mesh] = []
    normals = np.empty_like(head)
    kernels.vertex_normals_into(head, rig.faces, normals)
    if outfit.hair != "none":
        meshes.append(props.hair(kit, head, rng, outfit.hair))
    if outfit.hat:
        meshes += props.hat(kit, head, rng)
    if outfit.beard:
        meshes.append(props.beard(kit, head, normals, rng, outfit.beard))
    lens = None
    if outfit.glasses:
        frame, lens = props.glasses(kit, head, ict68, rng)
        meshes.append(frame)
    meshes.append(props.shoulders(kit, head, rng))
    share = np.array([0.25, rng.uniform(0.2, 1.0), 0.25], np.float32)
    body_rotation = rotation_from_angles(angles * share)
    pivot = kit.neck_mm + (head[kit.neck_anchor] - rig.mean_mm[kit.neck_anchor]).mean(0)
    parts = [_head_part(rig, head, normals, rotation, translation, rng)]
    offset = len(head)
    for mesh in meshes:
        parts.append(_mesh_part(mesh, offset, rotation, body_rotation, pivot, translation))
        offset += len(mesh.points)
    soup = Soup(
        *(
            np.concatenate([getattr(part, f.name) for part in parts])  # type: ignore[arg-type]
            for f in fields(Soup)
        )
    )
    return soup, lens


def _head_part(rig: HeadRig, head, normals, rotation, translation, rng):
    face_uv = rig.face_uv.copy()
    gaze = rng.normal(0, 7 if rng.random() < 0.7 else 16, 2)
    turn = rotation_from_angles(np.array([gaze[0] * 0.6, gaze[1], 0], np.float32))
    local = np.zeros((len(head), 2), np.float32)
    local[rig.eye_vertices] = (rig.eye_directions @ turn)[:, :2]
    face_uv[rig.eye_faces] = local[rig.faces[rig.eye_faces]]
    n = len(rig.faces)
    return Soup(
        (head @ rotation.T + translation).astype(np.float32),
        (normals @ rotation.T).astype(np.float32),
        rig.occlusion, rig.faces, face_uv, rig.face_material,
        np.ones(n, np.bool_), np.ones(n, np.bool_),
    )  # fmt: skip


def _mesh_part(mesh: props.Mesh, offset, rotation, body_rotation, pivot, translation):
    if mesh.body:
        points = (mesh.points - pivot) @ body_rotation.T + pivot @ rotation.T + translation
    else:
        points = mesh.points @ rotation.T + translation
    points = np.ascontiguousarray(points, np.float32)
    normals = np.empty_like(points)
    kernels.vertex_normals_into(points, mesh.faces, normals)
    n = len(mesh.faces)
    material = np.broadcast_to(np.asarray(mesh.material, np.uint8), (n,))
    casts = np.full(n, not mesh.body)
    if isinstance(mesh.material, int) and mesh.material == kernels.HAIR:
        casts = (mesh.uv[mesh.faces, 1] < 0.97).all(1)
    uv = mesh.uv if len(mesh.uv) == len(points) else np.zeros((len(points), 2), np.float32)
    return Soup(
        points, normals, mesh.occlusion, mesh.faces + offset, uv[mesh.faces], material,
        np.zeros(n, np.bool_), casts,
    )  # fmt: skip


def _plain_skin(rig: HeadRig, skin, lut, mix):
    """Linear colour (3,) of the cheek, for chest and hands."""
    colours = skin[rig.cheek_texels[:, 0], rig.cheek_texels[:, 1]]
    linear = np.stack([lut[colours[:, c], c].mean() for c in range(3)])
    return np.clip(mix @ linear, 0.003, 1).astype(np.float32)


def _shade(generator, rng, soup, screen, banks, skin, lut, mix, light, materials, down):
    """Linear image (size, size, 3), the super-sampled depth buffer and the region map."""
    config = generator.config
    ss, size = config.supersample, config.size
    fine = _finer(screen, ss)
    depth = np.empty((size * ss, size * ss), np.float32)
    ids = np.empty((size * ss, size * ss), np.int32)
    kernels.rasterize_scene(
        fine, soup.faces, soup.face_uv, soup.material, soup.cull, materials, generator.noise,
        depth, ids,
    )  # fmt: skip
    lit = np.ones(len(soup.points), np.float32)
    if light.key_colour[0] > 0 and rng.random() < 0.6:
        view = light_view(soup.points, light.key_direction, SHADOW_MAP)
        shadow = np.empty((SHADOW_MAP, SHADOW_MAP), np.float32)
        kernels.depth_map(view, soup.faces[soup.casts], shadow)
        kernels.lit_share(view, shadow, np.float32(6.0), lit)
    background = scenery.random_crop(banks.backgrounds, rng, size)
    out = np.empty((size, size, 3), np.float32)
    kernels.shade_scene(
        fine, soup.points, soup.normals, soup.occlusion, lit, soup.faces, soup.face_uv,
        soup.material, materials, generator.noise, banks.skins[skin], lut, mix, light.sh,
        light.key_direction, light.key_colour, np.ascontiguousarray(down, np.float32), background,
        depth, ids, ss, out,
    )  # fmt: skip
    region = np.empty((size, size), np.uint8)
    scalp = regions.HAIR if banks.scalp_hair[skin] else regions.SKIN
    regions.region_map(
        fine, soup.faces, soup.face_uv, regions.face_regions(soup.material),
        generator.texel_region, scalp, depth, ids, ss, region,
    )  # fmt: skip
    return out, depth, region


def _add_lens(linear, lens_screen, faces, depth, ss, outfit, rng, labels, visible, region) -> None:
    """Blend the lenses over the image in place; dark ones hide the points behind them."""
    cover = np.empty(linear.shape[:2], np.float32)
    kernels.lens_layer(lens_screen, faces, depth, ss, cover)
    dark = outfit.glasses == "dark"
    alpha = rng.uniform(0.6, 0.98) if dark else rng.uniform(0.0, 0.25)
    colour = rng.uniform(0.0, 0.12, 3) if dark else rng.uniform(0.0, 1.0) * np.ones(3)
    cover = np.minimum(cover, 1)
    sheen = np.linspace(rng.uniform(0.5, 1.0), rng.uniform(0.3, 1.0), len(linear))[:, None]
    k = (alpha * cover * (sheen if dark else 1.0))[..., None].astype(np.float32)
    linear += k * (colour.astype(np.float32) * (1 + (1 - sheen[..., None])) - linear)
    if alpha > 0.75:
        _hide(visible, labels, k[..., 0] > 0.5)
        region[k[..., 0] > 0.5] = regions.SKIN


def _hide(visible, labels, mask) -> None:
    x = np.clip(np.rint(labels[:, 0]).astype(int), 0, mask.shape[1] - 1)
    y = np.clip(np.rint(labels[:, 1]).astype(int), 0, mask.shape[0] - 1)
    visible &= ~mask[y, x]
