"""Full truth of a render: maps at pixel centres, and any landmark set in 2D and 3D."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from lifemask.data import _synthetic_kernels as kernels
from lifemask.data._synthetic_kernels import NO_UV
from lifemask.data._synthetic_render import Shot, glazed, visible_points
from lifemask.data._synthetic_scene import ORTHOGRAPHIC_MM
from lifemask.data._synthetic_shade import truth_maps

if TYPE_CHECKING:
    from lifemask.data._synthetic_scene import Scene
    from lifemask.data.synthetic import Banks, Generator
    from lifemask.facemodel.base import FaceModel

EMPTY = 255
"""`Maps.material` where nothing but the background is seen."""


@dataclass(frozen=True)
class LandmarkTruth:
    """One landmark set of one image.

    Attributes:
        image_px: (n, 3) u, v, w in px.
        camera_mm: (n, 3) in the frame of the image's `types.Camera`.
        visible: (n,) the surface at the landmark is seen.
    """

    image_px: NDArray[np.float32]
    camera_mm: NDArray[np.float32]
    visible: NDArray[np.bool_]


@dataclass(frozen=True)
class Maps:
    """What the centre of each pixel shows; glass is a layer in front and counts as nothing here.

    Where there is no key light and no gloss, `linear = albedo * ambient * shading(normals, sh)`
    on one surface, with `graphics.lighting.shading`.

    Attributes:
        depth_mm: (h, w) -z in the camera frame of `types.Camera`, larger is farther; NaN = empty.
        normals: (h, w, 3) unit, camera frame, of the interpolated vertex normals; 0 = empty.
        uv: (h, w, 2) the face model's own texture coordinates on the skin of its face, NaN
            elsewhere and where the model has none.
        albedo: (h, w, 3) linear colour that the light is multiplied with; 0 = empty.
        ambient: (h, w) share of the surroundings that the surface sees, a factor on the light.
        key: (h, w) share of the key light that is not in shadow.
        material: (h, w) uint8 index in `MATERIALS`; `EMPTY` where only the background is seen.
        model: (h, w) bool, the surface belongs to the face model, not to a prop.
        glass: (h, w) share of the pixel's light that glass replaces.
        linear: (h, w, 3) radiance that the camera gets, before exposure; `Sample.gain` times it
            is what the camera's curve and faults turn into the image.
    """

    depth_mm: NDArray[np.float32]
    normals: NDArray[np.float32]
    uv: NDArray[np.float32]
    albedo: NDArray[np.float32]
    ambient: NDArray[np.float32]
    key: NDArray[np.float32]
    material: NDArray[np.uint8]
    model: NDArray[np.bool_]
    glass: NDArray[np.float32]
    linear: NDArray[np.float32]


def create_maps(generator: Generator, banks: Banks, scene: Scene, shot: Shot) -> Maps:
    """Read the truth maps of a shot with one sample at each pixel's centre.

    Args:
        generator: that drew the scene.
        banks: of its shard.
        scene: what was rendered.
        shot: what came out of it.
    """
    size, soup, tone = generator.config.size, shot.soup, scene.tone
    screen = scene.view.project(soup.points)
    inverse = np.empty((size, size), np.float32)
    ids = np.empty((size, size), np.int32)
    kernels.rasterize_scene(
        screen, soup.faces, soup.face_uv, soup.material, soup.cull, scene.materials,
        generator.noise, inverse, ids,
    )  # fmt: skip
    normals, albedo = np.empty((2, size, size, 3), np.float32)
    uv, light = np.empty((2, size, size, 2), np.float32)
    material = np.empty((size, size), np.uint8)
    truth_maps(
        screen, soup.points, soup.normals, soup.occlusion, shot.lit, soup.faces, soup.face_uv,
        soup.material, scene.materials, generator.noise, banks.skins[tone.skin], tone.lut, tone.mix,
        shot.card, generator.rig.model_uv, inverse, ids, normals, albedo, uv, light, material,
    )  # fmt: skip
    uv[uv < NO_UV / 2] = np.nan
    model = (ids >= 0) & (ids < len(generator.rig.faces))
    return Maps(
        _depth_mm(inverse, scene.view.orthographic), normals, uv, albedo,
        light[..., 0], light[..., 1], material, model, shot.cover, glazed(scene, shot),
    )  # fmt: skip


def _depth_mm(inverse: NDArray[np.float32], orthographic: bool) -> NDArray[np.float32]:
    with np.errstate(divide="ignore"):
        depth = np.where(inverse > 0, 1 / inverse.astype(np.float64), np.nan)
    return (depth - ORTHOGRAPHIC_MM * orthographic).astype(np.float32)


def landmark_truth(
    generator: Generator, scene: Scene, shot: Shot, names: Sequence[str]
) -> Mapping[str, LandmarkTruth]:
    """Landmark sets of a scene by name; "vertices" is the whole mesh of the face model.

    Raises:
        UserError: the model neither has a set nor one that it can be made from.
    """
    out, view = {}, scene.view
    for name in names:
        points = model_points(generator.rig.model, scene.head_mm, name)
        eye = view.to_camera(points)
        visible = visible_points(generator, scene, shot, view.project(eye))
        camera = points @ view.rotation.T if view.orthographic else eye
        out[name] = LandmarkTruth(view.image_points(points), camera, visible)
    return out


def model_points(model: FaceModel, head_mm: NDArray[np.float32], name: str) -> NDArray[np.float32]:
    """Points (n, 3) of a landmark set on a head (v, 3), converted from another set if need be.

    Raises:
        UserError: the model neither has the set nor one that it can be made from.
    """
    import torch

    from lifemask.assets import UserError
    from lifemask.facemodel.landmarks import convert

    if name == "vertices":
        return head_mm
    vertices = torch.from_numpy(head_mm)
    if name in model.landmark_embeddings:
        return model.landmarks(vertices, name).numpy().astype(np.float32)
    for source in model.landmark_embeddings:
        try:
            points = convert(model.landmarks(vertices, source), source, name)
        except KeyError:
            continue
        return points.numpy().astype(np.float32)
    known = ", ".join(sorted(model.landmark_embeddings))
    raise UserError(f"{model.name} has no landmark set {name!r}, nor one it follows from: {known}")
