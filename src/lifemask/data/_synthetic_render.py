"""Renders a drawn scene on the CPU: triangles, light, glass, camera, labels."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from lifemask.data import _synthetic_kernels as kernels
from lifemask.data import _synthetic_photo as photo
from lifemask.data import _synthetic_regions as regions
from lifemask.data import _synthetic_surroundings as around
from lifemask.data._synthetic_rig import HeadRig, light_view
from lifemask.data._synthetic_sample import rotation_from_angles
from lifemask.data._synthetic_shade import shade_scene

if TYPE_CHECKING:
    from lifemask.data._synthetic_mesh import Mesh
    from lifemask.data._synthetic_scene import Scene
    from lifemask.data.synthetic import Banks, Generator, Sample

SHADOW_MAP = 256
SHADOW_BIAS_MM = 6.0
VISIBLE_TOLERANCE_MM = 4.0
HAIR_FRINGE = 0.97
"""Hair triangles whose strands reach this share of their length are too thin to throw shadows."""
A_OVER_PI = np.array([1, *[2 / 3] * 3, *[1 / 4] * 5], np.float32)


@dataclass(frozen=True)
class Soup:
    """Triangles of all parts of an image; the head's come first, in the model's order.

    Attributes:
        points: (v, 3) mm, camera axes, eye at the origin; normals: (v, 3) unit.
        occlusion: (v,) ambient visibility.
        faces: (f, 3); face_uv: (f, 3, 2); material: (f,).
        cull: (f,) back faces are not drawn; casts: (f,) throws shadows.
    """

    points: NDArray[np.float32]
    normals: NDArray[np.float32]
    occlusion: NDArray[np.float32]
    faces: NDArray[np.int32]
    face_uv: NDArray[np.float32]
    material: NDArray[np.uint8]
    cull: NDArray[np.bool_]
    casts: NDArray[np.bool_]


@dataclass(frozen=True)
class Shot:
    """What a scene looks like before glass and camera.

    Attributes:
        soup: its triangles; lit: (v,) share of the key light that reaches each vertex.
        linear: (size, size, 3) linear radiance.
        card: (size, size, 3) albedo of flat occluders.
        depth: (size * ss, size * ss) inverse distance, 0 = empty; ids: same shape, -1 = empty.
        cover: (size, size) share of each pixel that glass replaces.
    """

    soup: Soup
    lit: NDArray[np.float32]
    linear: NDArray[np.float32]
    card: NDArray[np.float32]
    depth: NDArray[np.float32]
    ids: NDArray[np.int32]
    cover: NDArray[np.float32]


def render_scene(generator: Generator, banks: Banks, scene: Scene) -> tuple[Sample, Shot]:
    """Render and label a scene.

    Args:
        generator: rig and settings that drew it.
        banks: of the scene's shard.
        scene: from `draw_scene`.

    Returns:
        The sample, and the intermediate results that truth maps are read from.
    """
    from lifemask.data.synthetic import Sample

    view = scene.view
    shot = _shoot(generator, banks, scene)
    points = view.image_points(scene.points_mm)
    screen = view.project(view.to_camera(scene.points_mm))
    visible = visible_points(generator, scene, shot, screen)
    region = _regions(generator, banks, scene, shot)
    linear = glazed(scene, shot)
    glasses = framed(shot)
    if scene.lens is not None and scene.lens.dark:
        region[shot.cover > 0.5] = regions.SKIN
        glasses |= shot.cover > 0.5
    gain = photo.exposure_gain(scene.exposure, linear, points[::7])
    image = photo.photograph(linear, gain, scene.faults)
    outfit = scene.outfit
    flags = np.array([outfit.glasses != "", outfit.beard != "", len(outfit.occluders) > 0])
    sample = Sample(
        image=image,
        points=points,
        visible=visible,
        view=view,
        identity=scene.identity,
        expression=scene.expression,
        gaze_deg=scene.gaze_deg,
        age=scene.age,
        flags=flags,
        region=region,
        glasses=glasses,
        sh=scene.light.sh,
        key_direction=scene.light.key_direction,
        key_colour=scene.light.key_colour,
        gain=gain,
        person=scene.person,
    )
    return sample, shot


def _shoot(generator: Generator, banks: Banks, scene: Scene) -> Shot:
    """Rasterise and shade."""
    ss, size = generator.config.supersample, generator.config.size
    soup = assemble(generator.rig, scene)
    fine = finer(scene.view.project(soup.points), ss)
    depth = np.empty((size * ss, size * ss), np.float32)
    ids = np.empty((size * ss, size * ss), np.int32)
    kernels.rasterize_scene(
        fine, soup.faces, soup.face_uv, soup.material, soup.cull, scene.materials, generator.noise,
        depth, ids,
    )  # fmt: skip
    lit = key_light(scene, soup)
    background = around.cut_out(banks.backgrounds, scene.background, size)
    card = background
    if "card" in scene.outfit.occluders:
        card = around.cut_out(banks.backgrounds, scene.card, size)
    linear = np.empty((size, size, 3), np.float32)
    tone, light = scene.tone, scene.light
    shade_scene(
        fine, soup.points, soup.normals, soup.occlusion, lit, soup.faces, soup.face_uv,
        soup.material, scene.materials, generator.noise, banks.skins[tone.skin], tone.lut, tone.mix,
        light.sh * A_OVER_PI[:, None], light.key_direction, light.key_colour,
        np.ascontiguousarray(-scene.view.rotation[:, 1]), background, card, depth, ids, ss, linear,
    )  # fmt: skip
    return Shot(soup, lit, linear, card, depth, ids, glass_cover(scene, depth, ss))


def glass_cover(scene: Scene, depth: NDArray[np.float32], ss: int) -> NDArray[np.float32]:
    """Share (size, size) of each pixel's light that glass replaces, from the depth buffer."""
    size = len(depth) // ss
    cover = np.zeros((size, size), np.float32)
    if scene.lens is None:
        return cover
    lens, view = scene.lens, scene.view
    screen = finer(view.project(view.to_camera(lens.mesh.points)), ss)
    kernels.lens_layer(screen, lens.mesh.faces, depth, ss, cover)
    sheen = np.linspace(*lens.sheen, size, dtype=np.float32)[:, None]
    alpha = np.float32(lens.alpha) * (sheen if lens.dark else np.ones_like(sheen))
    return np.minimum(cover, 1) * alpha


def framed(shot: Shot) -> NDArray[np.bool_]:
    """Pixels (size, size) of which a frame of glasses covers half or more."""
    size = len(shot.cover)
    ss = len(shot.ids) // size
    frame = np.append(shot.soup.material == kernels.FRAME, False)
    if not frame.any():
        return np.zeros((size, size), np.bool_)
    return frame[shot.ids].reshape(size, ss, size, ss).mean((1, 3)) >= 0.5


def glazed(scene: Scene, shot: Shot) -> NDArray[np.float32]:
    """Linear radiance (size, size, 3) seen through the glass."""
    lens = scene.lens
    if lens is None:
        return shot.linear
    sheen = np.linspace(*lens.sheen, len(shot.cover), dtype=np.float32)[:, None, None]
    glass = np.asarray(lens.colour * (2 - sheen), np.float32)
    return np.asarray(shot.linear + shot.cover[..., None] * (glass - shot.linear), np.float32)


def key_light(scene: Scene, soup: Soup) -> NDArray[np.float32]:
    """Share (v,) of the key light that reaches each vertex, by a shadow map."""
    lit = np.ones(len(soup.points), np.float32)
    if scene.light.shadows and scene.light.key_colour.any():
        view = light_view(soup.points, scene.light.key_direction, SHADOW_MAP)
        shadow = np.empty((SHADOW_MAP, SHADOW_MAP), np.float32)
        kernels.depth_map(view, soup.faces[soup.casts], shadow)
        kernels.lit_share(view, shadow, np.float32(SHADOW_BIAS_MM), lit)
    return lit


def finer(screen: NDArray[np.float32], ss: int) -> NDArray[np.float32]:
    """Screen points on the super-sampled grid."""
    out = screen.copy()
    out[:, :2] = (screen[:, :2] + 0.5) * ss - 0.5
    return out


def visible_points(
    generator: Generator, scene: Scene, shot: Shot, screen: NDArray[np.float32]
) -> NDArray[np.bool_]:
    """Whether the surface at each screen point (n, 3) is seen: nothing before it, no dark glass."""
    visible = np.zeros(len(screen), np.bool_)
    fine = finer(screen, generator.config.supersample)
    kernels.points_visible(fine, shot.depth, VISIBLE_TOLERANCE_MM, visible)
    if scene.lens is not None and scene.lens.dark:
        x = np.clip(np.rint(screen[:, 0]).astype(int), 0, shot.cover.shape[1] - 1)
        y = np.clip(np.rint(screen[:, 1]).astype(int), 0, shot.cover.shape[0] - 1)
        visible &= shot.cover[y, x] <= 0.5
    return visible


def _regions(generator: Generator, banks: Banks, scene: Scene, shot: Shot) -> NDArray[np.uint8]:
    ss, soup = generator.config.supersample, shot.soup
    region = np.empty(shot.cover.shape, np.uint8)
    scalp = regions.HAIR if banks.scalp_hair[scene.tone.skin] else regions.SKIN
    regions.region_map(
        finer(scene.view.project(soup.points), ss), soup.faces, soup.face_uv,
        regions.face_regions(soup.material), generator.texel_region,
        banks.marks[scene.tone.skin], scalp, shot.depth, shot.ids, ss, region,
    )  # fmt: skip
    return region


def assemble(rig: HeadRig, scene: Scene) -> Soup:
    """Head and props of a scene as one triangle soup."""
    head, view = scene.head_mm, scene.view
    normals = np.empty_like(head)
    kernels.vertex_normals_into(head, rig.faces, normals)
    n = len(rig.faces)
    parts = [
        Soup(
            view.to_camera(head), np.ascontiguousarray(normals @ view.rotation.T), rig.occlusion,
            rig.faces, head_uv(rig, scene), rig.face_material, np.ones(n, np.bool_),
            np.ones(n, np.bool_),
        )
    ]  # fmt: skip
    offset = len(head)
    for mesh in scene.props:
        parts.append(_mesh_part(mesh, offset, scene))
        offset += len(mesh.points)
    return Soup(*(np.concatenate([getattr(p, f.name) for p in parts]) for f in fields(Soup)))


def head_uv(rig: HeadRig, scene: Scene) -> NDArray[np.float32]:
    """Material coordinates (f, 3, 2) of the head: texels, and on eyes the turned sphere.

    The model's own shapes may turn the eyeballs; the iris is drawn where the gaze says.
    """
    face_uv = rig.face_uv.copy()
    local = np.zeros((len(scene.head_mm), 2), np.float32)
    for eye, gaze in zip(rig.eyes, scene.gaze_deg, strict=True):
        if len(eye.vertices) == 0:
            continue
        wanted = rotation_from_angles(np.array([gaze[0], gaze[1], 0], np.float32))
        turned = eye.directions @ _rotation_between(eye.rest_mm, scene.head_mm[eye.vertices]).T
        local[eye.vertices] = (turned @ wanted)[:, :2]
    face_uv[rig.eye_faces] = local[rig.faces[rig.eye_faces]]
    return face_uv


def _rotation_between(source: NDArray, target: NDArray) -> NDArray[np.float32]:
    """Rotation (3, 3) that best turns centred points onto others (Kabsch 1976)."""
    a, b = source - source.mean(0), target - target.mean(0)
    u, _, vt = np.linalg.svd((a.T @ b).astype(np.float64))
    flip = np.diag([1, 1, np.linalg.det(u @ vt)])
    return (vt.T @ flip @ u.T).astype(np.float32)


def _mesh_part(mesh: Mesh, offset: int, scene: Scene) -> Soup:
    view = scene.view
    if mesh.frame == "body":
        hung = (mesh.points - scene.pivot_mm) @ scene.body_rotation.T
        points = hung + scene.pivot_mm @ view.rotation.T + view.translation_mm
    elif mesh.frame == "camera":
        points = mesh.points + view.translation_mm
    else:
        points = mesh.points @ view.rotation.T + view.translation_mm
    points = np.ascontiguousarray(points, np.float32)
    normals = np.empty_like(points)
    kernels.vertex_normals_into(points, mesh.faces, normals)
    uv = mesh.uv[mesh.faces]
    fringe = (mesh.material == kernels.HAIR) & (uv[..., 1] >= HAIR_FRINGE).any(1)
    cull = np.zeros(len(mesh.faces), np.bool_)
    return Soup(
        points, normals, mesh.occlusion, mesh.faces + np.int32(offset), uv, mesh.material, cull,
        np.full(len(cull), mesh.casts) & ~fringe,
    )  # fmt: skip
