"""The faces that textures are judged on: held-out heads in several lights, and photos of people."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from numpy import ndarray
from torch import Tensor

from lifemask.assets import UserError
from lifemask.evaluation._albedo_errors import face_triangles
from lifemask.facemodel.base import FaceModel
from lifemask.faces.crop import crop_square, square_box
from lifemask.faces.parsing import GLASSES, Regions
from lifemask.graphics.camera import camera_for_crop, project
from lifemask.graphics.lighting import (
    directional_light,
    linear_to_srgb,
    srgb_to_linear,
    with_mean_shading,
)
from lifemask.graphics.render import draw_surface
from lifemask.methods._retexture_chart import (
    TextureChart,
    create_texture_chart,
    pixel_places,
    sample_map,
    view_chart,
)
from lifemask.methods._texture_layout import mean_head
from lifemask.methods._texture_regions import skin_chart_faces
from lifemask.types import REGION_NAMES, Appearance, Face, Geometry, Lighting

Dresser = Callable[[Float[Tensor, "3 h w"], Geometry, Regions | None], Appearance]
"""An appearance method: (photo, sRGB in [0, 1]; posed head; region maps in the photo's px)."""
CHART_PX = IMAGE_PX = 256
EXPAND = 1.25
"""Side of a picture in units of the landmark square's."""
MAX_YAW_DEG = 60.0
_LEAST_SEEN = 0.15
_MAX_MIX = 0.1
"""Further from the identity than this a colour matrix makes faces of a drawing."""
_BEARDS = "full", "goatee"
_LEAST_BEARD = 0.02
"""Share of the chart that a beard covers at least to be judged."""
_SKIN = "nose", "lips", "brows", "skin"


@dataclass(frozen=True)
class Truth:
    """What is true of a rendered head in k lights.

    Attributes:
        albedo: (3, n, n) linear, on the chart.
        lights: (k, 9, 3) of the pictures, exposure included, camera frame; the key light as far
            as order 2 tells it.
        new_lights: (k, 9, 3) for the relight test, mean shading 1.
    """

    albedo: Float[Tensor, "3 n n"]
    lights: Float[Tensor, "k 9 3"]
    new_lights: Float[Tensor, "k 9 3"]


@dataclass(frozen=True)
class FaceCase:
    """One face in one pose, in k pictures that differ by light alone.

    Attributes:
        name: of the face.
        photos: (k, 3, s, s) sRGB in [0, 1].
        geometry: posed head, camera to px of the pictures.
        regions: region maps of the pictures, or None.
        model: of the geometry.
        chart: n x n texels.
        mask: (n, n) texels that count: the face's skin.
        visible: (n, n) texels that the pictures show.
        places: (s, s, 2) where each pixel looks on the chart, as `functional.grid_sample` takes it.
        pixels: (s, s) pixels that show texels of the mask with nothing in front.
        normals: (s, s, 3) unit, camera frame.
        truth: of rendered heads.
        beard: (n, n) texels that show a beard that stands off the skin; not of the mask.
    """

    name: str
    photos: Float[Tensor, "k 3 s s"]
    geometry: Geometry
    regions: Regions | None
    model: FaceModel
    chart: TextureChart
    mask: Bool[Tensor, "n n"]
    visible: Bool[Tensor, "n n"]
    places: Float[Tensor, "s s 2"]
    pixels: Bool[Tensor, "s s"]
    normals: Float[Tensor, "s s 3"]
    truth: Truth | None = None
    beard: Bool[Tensor, "n n"] | None = None

    def at_pixels(self, maps: Float[Tensor, "c m m"]) -> Float[Tensor, "c s s"]:
        """A map of any size seen by the pictures' pixels."""
        return sample_map(maps[None], self.places[None])[0]

    def photo_map(self, index: int) -> Float[Tensor, "3 n n"]:
        """A picture's own linear colours on the chart, 0 where nothing is visible."""
        linear = srgb_to_linear(self.photos[index])
        return view_chart(
            linear, self.geometry.vertices_mm, self.geometry.camera, self.chart
        ).texture


def held_out_heads(
    data: str | Path, heads: int, lights: int, seed: int, *, bearded: bool = False
) -> Iterator[FaceCase]:
    """Heads that nothing was trained on, each in one pose under several lights, by a clean camera.

    Clothes, hair, glasses and things in front are drawn as in training; the pose is within
    `MAX_YAW_DEG`, and heads of which hardly anything is seen or whose colours no skin has are
    left out. The same call gives the same pictures.

    Args:
        data: folder with `skins/` and `hdri/`.
        heads: people.
        lights: pictures of each.
        seed: of the people, at least `data.synthetic.HELD_OUT_SEED`.
        bearded: only heads that show a full beard or a goatee.

    Raises:
        UserError: a seed that training may use, or missing materials.
    """
    from lifemask.data.synthetic import HELD_OUT_SEED, SyntheticConfig, create_generator

    if seed < HELD_OUT_SEED:
        raise UserError(f"seed {seed} is not held out: test heads begin at {HELD_OUT_SEED}")
    config = SyntheticConfig(seed=seed, size=IMAGE_PX, expand=EXPAND)
    return lit_heads(create_generator(config, Path(data)), heads, lights, bearded=bearded)


def lit_heads(
    generator: Any, heads: int, lights: int, *, bearded: bool = False
) -> Iterator[FaceCase]:
    """The heads of a `data.synthetic.Generator` that `held_out_heads` accepts."""
    from lifemask.data._synthetic_draw import draw_scenes

    banks, found, index = generator.banks(0), 0, 0
    while found < heads:
        scene = next(draw_scenes(generator, banks, 0, [index]))
        natural = np.abs(scene.tone.mix - np.eye(3)).max() < _MAX_MIX
        wanted = scene.outfit.beard in _BEARDS or not bearded
        if wanted and natural and abs(float(scene.angles_deg[1])) <= MAX_YAW_DEG:
            case = _lit_head(generator, banks, scene, lights)
            seen = float(case.visible[case.mask].float().mean()) >= _LEAST_SEEN
            if seen and (not bearded or shows_beard(case)):
                found += 1
                yield case
        index += 1


def _lit_head(generator: Any, banks: Any, scene: Any, lights: int) -> FaceCase:
    """Render a drawn scene in several lights; only light and exposure differ."""
    from lifemask.data import _synthetic_kernels as kernels
    from lifemask.data._albedo_truth import bearded_albedo, layout_on_chart
    from lifemask.data._synthetic_photo import draw_exposure, no_faults
    from lifemask.data._synthetic_render import render_scene
    from lifemask.data._synthetic_surroundings import draw_light
    from lifemask.data._synthetic_truth import create_maps

    model, photos, shining = generator.rig.model, [], []
    maps = region = glasses = None
    for k in range(lights):
        rng = np.random.default_rng([generator.config.seed, 11, scene.index, k])
        lit = replace(
            scene, light=draw_light(generator.surroundings, rng, None),
            exposure=draw_exposure(rng), faults=no_faults(),
        )  # fmt: skip
        sample, shot = render_scene(generator, banks, lit)
        photos.append(torch.from_numpy(sample.image.copy()).permute(2, 0, 1).float() / 255)
        shining.append(_all_light(sample, torch.from_numpy(sample.gain)))
        if maps is None:
            maps = create_maps(generator, banks, lit, shot)
            region, glasses = sample.region, sample.glasses
    assert maps is not None and region is not None and glasses is not None
    rng = np.random.default_rng([generator.config.seed, 12, scene.index])
    new = [_all_light(draw_light(generator.surroundings, rng, None)) for _ in range(lights)]
    geometry = Geometry(
        torch.from_numpy(scene.head_mm), model.topology.faces, scene.view.camera(), model.name
    )
    clear = torch.from_numpy(maps.model & (maps.glass < 0.5))
    told = replace(_one_hot(region), glasses=torch.from_numpy(glasses).float())
    case = _posed(str(scene.index), torch.stack(photos), geometry, model, told, clear)
    bearded = torch.from_numpy(maps.material == kernels.BEARD)
    pixels = torch.from_numpy(maps.albedo).permute(2, 0, 1)
    skin = torch.from_numpy(scene.tone.albedo(banks.skins[scene.tone.skin])).permute(2, 0, 1)
    bare = linear_to_srgb(case.chart.spread(layout_on_chart(generator.rig, skin, case.chart)))
    view = view_chart(pixels, geometry.vertices_mm.float(), geometry.camera, case.chart)
    albedo, worn, _ = bearded_albedo(
        bare, pixels, bearded.float(), view.visible, torch.zeros_like(case.mask), view.points
    )
    truth = Truth(
        srgb_to_linear(albedo),
        torch.stack(shining),
        torch.stack([with_mean_shading(Lighting(sh)).sh for sh in new]),
    )
    mask = case.mask & ~_on_chart(bearded, case, 0.1)
    return replace(case, mask=mask, truth=truth, beard=case.mask & worn & (view.visible > 0))


def shows_beard(case: FaceCase) -> bool:
    """Whether enough of a beard is seen to be judged."""
    return case.beard is not None and float(case.beard.float().mean()) >= _LEAST_BEARD


def _all_light(light: Any, gain: Tensor | None = None) -> Float[Tensor, "9 3"]:
    """Surroundings and key light of a drawn light or a sample as one light."""
    direction, color = (torch.from_numpy(v) for v in (light.key_direction, light.key_colour))
    key = directional_light(direction, color)
    sh = torch.from_numpy(light.sh) + key.sh
    return sh if gain is None else sh * gain


def _one_hot(region: UInt8[ndarray, "s s"]) -> Regions:
    """True regions of a square picture as region maps in its px."""
    size = len(region)
    shares = torch.nn.functional.one_hot(torch.from_numpy(region).long(), len(REGION_NAMES))
    middle = (size - 1) / 2
    return Regions(shares.permute(2, 0, 1).float(), (middle, middle), float(size))


def _posed(
    name: str,
    photos: Float[Tensor, "k 3 s s"],
    geometry: Geometry,
    model: FaceModel,
    regions: Regions | None,
    clear: Bool[Tensor, "s s"],
) -> FaceCase:
    """A case without truth; `clear` are the pixels with nothing in front of the head."""
    chart, size = create_texture_chart(model, CHART_PX), photos.shape[-1]
    vertices, camera = geometry.vertices_mm.float(), geometry.camera
    mask = face_texels(model, chart)
    places, shown = pixel_places(vertices, camera, chart, size)
    surface = draw_surface(vertices[None], geometry.faces, camera, size, size)
    inside = sample_map(mask[None, None].float(), places[None])[0, 0] > 0.99
    case = FaceCase(
        name, photos, geometry, regions, model, chart, mask, mask, places, shown & inside & clear,
        surface.normals[0],
    )  # fmt: skip
    return replace(case, visible=_on_chart(clear, case, 0.9))


def face_texels(model: FaceModel, chart: TextureChart) -> Bool[Tensor, "n n"]:
    """Texels of the face's skin, without the insides of mouth, nose and eye sockets."""
    face = (face_triangles(model) & outer_faces(model))[chart.atlas.face_ids.long()]
    return chart.atlas.scatter(face[:, None].float(), gutter=False)[0] > 0


def outer_faces(model: FaceModel) -> Bool[Tensor, "f"]:
    """(f,) triangles of the head's outer skin."""
    mean = mean_head(model)
    return skin_chart_faces(model.topology, mean, model.landmarks(mean, "ict68")[30])


def _on_chart(pixels: Bool[Tensor, "s s"], case: FaceCase, share: float) -> Bool[Tensor, "n n"]:
    """Texels that the pictures show through at least this share of marked pixels."""
    image = pixels.float()[None].expand(3, -1, -1)
    geometry = case.geometry
    seen = view_chart(image, geometry.vertices_mm.float(), geometry.camera, case.chart)
    return (seen.visible > 0) & (seen.texture[0] > share)


def photo_case(name: str, image: UInt8[ndarray, "h w 3"], pipeline: Any, face: Any) -> FaceCase:
    """A photo's face with the pipeline's geometry and regions, cut to `IMAGE_PX`.

    Args:
        name: of the photo.
        image: (h, w, 3) sRGB.
        pipeline: a `pipeline.Pipeline` whose method answers with our face model.
        face: a `types.Face` or the landmark square (x0, y0, x1, y1).

    Raises:
        UserError: hardly any skin of the face is seen.
    """
    face = face if isinstance(face, Face) else tuple(float(v) for v in face)
    seen = pipeline.look(image, face)
    geometry = pipeline.find_geometry(seen)
    regions = pipeline.find_regions(image, geometry)
    geometry = pipeline.refine(image, geometry, seen.landmarks, regions)
    points = pipeline.model.landmarks(geometry.vertices_mm, "ibug68-3d-bfm")
    center, side = square_box(project(points, geometry.camera))
    crop = crop_square(image, center, side * EXPAND, IMAGE_PX)
    cut = (crop.center_px, crop.side_px, crop.size)
    geometry = replace(geometry, camera=camera_for_crop(geometry.camera, *cut))
    regions = None if regions is None else regions.seen_in(*cut)
    clear = torch.ones(IMAGE_PX, IMAGE_PX, dtype=torch.bool)
    if regions is not None:
        v, u = torch.meshgrid(*[torch.arange(IMAGE_PX).float()] * 2, indexing="ij")
        pixels = torch.stack((u, v), -1)
        clear = regions.sample(pixels, *_SKIN, outside=0.0) > 0.5
        clear &= regions.sample(pixels, GLASSES, outside=0.0) < 0.5
    case = _posed(name, crop.image[None], geometry, pipeline.model, regions, clear)
    if float(case.visible[case.mask].float().mean()) < _LEAST_SEEN:
        raise UserError(f"{name}: hardly any skin of the face is seen")
    return case
