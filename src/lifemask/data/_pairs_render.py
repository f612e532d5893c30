"""Renders a head with relief into a crop: colours, coverage and region classes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from lifemask.data import _synthetic_kernels as kernels
from lifemask.data import _synthetic_regions as regions
from lifemask.data._pairs_masks import parts_of
from lifemask.data._synthetic_look import random_skin_tone
from lifemask.data._synthetic_render import A_OVER_PI, finer
from lifemask.data._synthetic_sample import rotation_from_angles
from lifemask.data._synthetic_scene import ORTHOGRAPHIC_MM, Tone, View
from lifemask.data._synthetic_shade import shade_scene
from lifemask.facemodel.gaze import LOOK_DEG
from lifemask.graphics.pose import nearest_rotation

if TYPE_CHECKING:
    from lifemask.data._pairs_head import PlacedHead
    from lifemask.data._synthetic_rig import HeadRig
    from lifemask.data._synthetic_surroundings import Light
    from lifemask.data.synthetic import Generator
    from lifemask.types import Camera

SUPERSAMPLE = 2
CAVITY = 0.9
"""How much darker a vertex is that lies deeper than its neighbours by their distance."""
CAVITY_LIMIT = 0.45
ISLAND_SHARE = 0.05
"""Parts of the face smaller than this share of the largest are none."""
GLOSS = 0.25
"""Share of the generator's gloss: the light of a photo has no key, and a rim of sheen is all that
would be left of it, which the match of colours makes brighter still."""


@dataclass(frozen=True)
class Look:
    """What a head wears in a render.

    Attributes:
        skin: (rows, columns, 3) uint8 texture; marks: (2, rows, columns) uint8, above 127 where it
            shows brows, and lips; tone: its colours.
        materials: (m, MATERIAL_SIZE).
        gaze_deg: (2, 2) pitch and yaw of the eye at +x and the eye at -x.
    """

    skin: NDArray[np.uint8]
    marks: NDArray[np.uint8]
    tone: Tone
    materials: NDArray[np.float32]
    gaze_deg: NDArray[np.float32]


@dataclass(frozen=True)
class Dressed:
    """What a head model needs to be rendered finely; see `HeadRig`.

    Attributes:
        rig: of the model.
        parents: (d,) the model's triangles that are drawn.
        times: subdivisions.
        corner_uv: (g, 3, 2) of the fine triangles; material, occlusion: (g,), (g, 3).
    """

    rig: HeadRig
    parents: NDArray[np.int64]
    times: int
    corner_uv: NDArray[np.float32]
    material: NDArray[np.uint8]
    occlusion: NDArray[np.float32]


@dataclass(frozen=True)
class Shot:
    """A head in a crop.

    Attributes:
        region: (S, S) uint8 class of each pixel; `regions.SCALP` on the skull.
        cover: (S, S) share of each pixel that the head covers.
        linear: (S, S, 3) radiance of the head over black.
    """

    region: NDArray[np.uint8]
    cover: NDArray[np.float32]
    linear: NDArray[np.float32]


def dress(rig: HeadRig, parents: NDArray[np.int64], times: int) -> Dressed:
    """Prepare a rig for heads that are subdivided `times` times.

    Args:
        rig: of the model.
        parents: (len(rig.faces),) the triangle of the model that each of the rig's is.
        times: subdivisions.
    """
    corner = rig.occlusion[rig.faces][..., None]
    return Dressed(
        rig, parents, times, split_corners(rig.face_uv, times),
        np.repeat(rig.face_material, 4**times), split_corners(corner, times)[..., 0],
    )  # fmt: skip


def split_corners(corners: NDArray[np.float32], times: int) -> NDArray[np.float32]:
    """Corner values (f, 3, c) at the corners of the subdivided triangles (f 4^times, 3, c).

    The order is that of `graphics.subdivide.refine`.
    """
    for _ in range(times):
        a, b, c = corners[:, 0], corners[:, 1], corners[:, 2]
        ab, bc, ca = (a + b) / 2, (b + c) / 2, (c + a) / 2
        children = [(a, ab, ca), (ab, b, bc), (ca, bc, c), (ab, bc, ca)]
        corners = np.stack([np.stack(child, 1) for child in children], 1)
        corners = corners.reshape(-1, *corners.shape[2:])
    return np.ascontiguousarray(corners, np.float32)


def view_of(camera: Camera) -> View:
    """A scaled orthographic camera as the generator's kernels take it."""
    far = np.array([0, 0, -ORTHOGRAPHIC_MM], np.float32)
    return View(
        True, camera.rotation.numpy().astype(np.float32), far, float(camera.scale),
        camera.translation[:2].double().numpy(),
    )  # fmt: skip


def turn_between(source: NDArray, target: NDArray) -> NDArray[np.float32]:
    """Rotation (3, 3) that best turns points (n, 3) about their middle onto others."""
    a, b = source - source.mean(0), target - target.mean(0)
    return nearest_rotation(torch.from_numpy(b.T @ a).double()).float().numpy()


def draw_tone(
    rig: HeadRig, texture: NDArray[np.uint8], skin: int, freedom: float, rng: np.random.Generator
) -> Tone:
    """A random tone of a skin.

    Args:
        rig: of the skin's layout.
        texture: (rows, columns, 3) the skin.
        skin: its number.
        freedom: how far it may be moved, in [0, 1].
        rng: decides.
    """
    rows, columns = rig.cheek_texels.T
    colours = texture[rows, columns]
    lut, mix = random_skin_tone(rng, freedom, colours)
    linear = np.stack([lut[colours[:, c], c].mean() for c in range(3)])
    return Tone(skin, lut, mix, np.clip(mix @ linear, 0.003, 1).astype(np.float32))


def toned(tone: Tone, wanted: NDArray[np.float32]) -> Tone:
    """The tone with another mean colour (3,) linear, so far as the skin's own can become it."""
    gain = np.clip(wanted / tone.plain, 0.1, 8.0).astype(np.float32)
    plain = np.clip(tone.plain * gain, 0.003, 1).astype(np.float32)
    return replace(tone, mix=np.ascontiguousarray(gain[:, None] * tone.mix), plain=plain)


def less_gloss(materials: NDArray[np.float32]) -> NDArray[np.float32]:
    """Materials (m, MATERIAL_SIZE) with less sheen on the skin."""
    out = materials.copy()
    out[[kernels.SKIN, kernels.SKIN_PLAIN], 10] *= GLOSS
    return out


def without_insides(materials: NDArray[np.float32]) -> NDArray[np.float32]:
    """Materials (m, MATERIAL_SIZE) whose eyes, teeth and mouth are black holes."""
    out = materials.copy()
    out[[kernels.EYE, kernels.TEETH, kernels.MOUTH], :6] = 0
    out[[kernels.EYE, kernels.TEETH, kernels.MOUTH], 10] = 0
    return out


def gaze_of(names: tuple[str, ...], expression: NDArray[np.float32]) -> NDArray[np.float32]:
    """Pitch and yaw (2, 2) of the eyes at +x and at -x that ARKit's eyeLook shapes stand for."""
    value = dict(zip(names, expression.tolist(), strict=True))
    out = []
    for side, outward in (("Left", 1.0), ("Right", -1.0)):
        up, down, away, towards = (
            value.get(f"eyeLook{w}{side}", 0.0) for w in ("Up", "Down", "Out", "In")
        )
        pitch = up * LOOK_DEG["up"] - down * LOOK_DEG["down"]
        out.append([pitch, outward * (away - towards) * LOOK_DEG["side"]])
    return np.array(out, np.float32)


def shoot(
    generator: Generator, dressed: Dressed, placed: PlacedHead, look: Look, light: Light
) -> Shot:
    """Rasterise, classify and shade a head.

    Args:
        generator: of the head's model.
        dressed: the same.
        placed: the head.
        look: its skin and eyes.
        light: distant light, camera frame, in the photo's exposure.
    """
    size, view = placed.frame.size, view_of(placed.frame.camera)
    faces, points, normals, occlusion = _mesh(dressed, placed)
    corner_uv = _with_eyes(dressed, placed, look)
    eye = view.to_camera(points)
    screen = finer(view.project(eye), SUPERSAMPLE)
    depth = np.empty((size * SUPERSAMPLE,) * 2, np.float32)
    ids = np.empty(depth.shape, np.int32)
    kernels.rasterize_scene(
        screen, faces, corner_uv, dressed.material, np.ones(len(faces), np.bool_),
        look.materials, generator.noise, depth, ids,
    )  # fmt: skip
    region = np.empty((size, size), np.uint8)
    regions.region_map(
        screen, faces, corner_uv, regions.face_regions(dressed.material), generator.texel_region,
        look.marks, regions.SCALP, depth, ids, SUPERSAMPLE, region,
    )  # fmt: skip
    linear = np.empty((size, size, 3), np.float32)
    black = np.zeros_like(linear)
    shade_scene(
        screen, eye, np.ascontiguousarray(normals @ view.rotation.T), occlusion,
        np.ones(len(points), np.float32), faces, corner_uv, dressed.material, look.materials,
        generator.noise, look.skin, look.tone.lut, look.tone.mix, light.sh * A_OVER_PI[:, None],
        light.key_direction, light.key_colour, np.ascontiguousarray(-view.rotation[:, 1]), black,
        black, depth, ids, SUPERSAMPLE, linear,
    )  # fmt: skip
    _drop_islands(region)
    blocks = (ids >= 0).reshape(size, SUPERSAMPLE, size, SUPERSAMPLE)
    return Shot(region, blocks.mean((1, 3)).astype(np.float32), linear)


def _drop_islands(region: NDArray[np.uint8]) -> None:
    """Call skin that lies apart from the face neck: the collar of a model, a bit behind an ear."""
    parts = parts_of(region <= regions.MOUTH)
    areas = parts.areas()
    region[parts.only(areas < ISLAND_SHARE * areas.max())] = regions.NECK


def _mesh(dressed: Dressed, placed: PlacedHead):
    """Faces, points, normals and ambient visibility of the triangles that are drawn."""
    fine = placed.fine
    drawn = (dressed.parents[:, None] * 4**dressed.times + np.arange(4**dressed.times)).ravel()
    faces = np.ascontiguousarray(fine.faces.numpy()[drawn], np.int32)
    points = np.ascontiguousarray(fine.vertices.numpy(), np.float32)
    normals = np.empty_like(points)
    kernels.vertex_normals_into(points, faces, normals)
    occlusion = np.ones(len(points), np.float32)
    occlusion[faces] = dressed.occlusion
    skin = faces[dressed.material == kernels.SKIN]
    return faces, points, normals, occlusion * cavities(points, skin, normals)


def cavities(
    points: NDArray[np.float32], faces: NDArray[np.int32], normals: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Share (v,) of light that reaches vertices in creases: 1 on flat and convex skin.

    A vertex sees less the deeper it lies below the mean of its neighbours, in units of their
    distance: what the ambient visibility of the smooth head knows nothing of.
    """
    count = len(points)
    a, b = faces.ravel(), faces[:, [1, 2, 0]].ravel()
    number = np.maximum(np.bincount(a, minlength=count), 1)
    offset = points[b] - points[a]
    depth = np.bincount(a, np.einsum("nk,nk->n", offset, normals[a]), count) / number
    length = np.bincount(a, np.linalg.norm(offset, axis=1), count) / number
    hidden = CAVITY * np.maximum(depth, 0) / np.maximum(length, 1e-6)
    return (1 - np.minimum(hidden, CAVITY_LIMIT)).astype(np.float32)


def _with_eyes(dressed: Dressed, placed: PlacedHead, look: Look) -> NDArray[np.float32]:
    """Material coordinates of the fine triangles, with each iris where the gaze has it."""
    rig, head = dressed.rig, placed.vertices_mm.numpy()
    out = dressed.corner_uv.copy()
    if not len(rig.eye_faces):
        return out
    local = np.zeros((len(head), 2), np.float32)
    for eye, gaze in zip(rig.eyes, look.gaze_deg, strict=True):
        if len(eye.vertices):
            wanted = rotation_from_angles(np.array([gaze[0], gaze[1], 0], np.float32))
            turned = eye.directions @ turn_between(eye.rest_mm, head[eye.vertices]).T
            local[eye.vertices] = (turned @ wanted)[:, :2]
    fine = split_corners(local[rig.faces[rig.eye_faces]], dressed.times)
    many = 4**dressed.times
    out[(rig.eye_faces[:, None] * many + np.arange(many)).ravel()] = fine
    return out
