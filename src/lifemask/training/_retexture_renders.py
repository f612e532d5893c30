"""Rendered heads for the re-renderable texture: several lights each, and all of their truth."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray
from torch import Tensor

from lifemask.data import _synthetic_kernels as kernels
from lifemask.data import _synthetic_photo as photo
from lifemask.data import _synthetic_sample as sampling
from lifemask.data._albedo_truth import GROWN, bearded_albedo, layout_on_chart
from lifemask.data._synthetic_draw import Draws, draw_scene
from lifemask.data._synthetic_render import render_scene
from lifemask.data._synthetic_scene import Scene, View
from lifemask.data._synthetic_surroundings import LUMINANCE, draw_light
from lifemask.data._synthetic_truth import Maps, create_maps
from lifemask.data.synthetic import Banks, Generator, Sample
from lifemask.graphics.lighting import directional_light, linear_to_srgb
from lifemask.methods._retexture_chart import TextureChart, pixel_places, view_chart
from lifemask.methods._retexture_net import smooth_step
from lifemask.training._retexture_cache import HeadRecord
from lifemask.types import Camera

MOST_YAW_DEG = 60.0, 75.0
"""Most heads turn no further than the first, a tenth as far as the second."""
GLASSES_SEEN = 0.25
"""Share of the heads whose glasses count as visible skin: a region parser misses some."""
_SURE = 0.3, 0.7
"""Share of own pixels around a texel from and up to which it counts as visible."""
_JITTER_DEG, _JITTER_SCALE, _JITTER_PX, _JITTER_SHAPE = 1.6, 0.009, 1.0, 0.3


@dataclass(frozen=True)
class Fitted:
    """The geometry that a fit would find: the true one, a little wrong.

    Attributes:
        vertices: (v, 3) mm of the whole head.
        camera: to px of the picture.
    """

    vertices: Float[Tensor, "v 3"]
    camera: Camera


def render_heads(
    generator: Generator,
    chart: TextureChart,
    shard: int,
    numbers: range,
    lights: int,
    jitter: float,
) -> Iterator[HeadRecord]:
    """Heads of one shard by their number in the run.

    Each follows from the run's seed, its shard's banks and its own number.

    Args:
        generator: decides everything; its pictures are as wide as the chart.
        chart: of the generator's model.
        shard: of the generator.
        numbers: of the heads, all of this shard.
        lights: pictures of each head.
        jitter: strength of the error of the geometry; 0 for none.
    """
    banks = generator.banks(shard)
    for number in numbers:
        rng = np.random.default_rng([generator.config.seed, 11, number])
        scene = _draw(generator, banks, shard, number, rng)
        yield _record(generator, banks, chart, scene, rng, lights, jitter)


def _draw(
    generator: Generator, banks: Banks, shard: int, number: int, rng: np.random.Generator
) -> Scene:
    """A scene whose face turns towards the camera and has a skin's colours, not a drawing's."""
    model, rig = generator.rig.model, generator.rig
    identity = sampling.random_identity(model.identity_size, rng)
    most = MOST_YAW_DEG[int(rng.random() < 0.1)]
    while True:
        face = sampling.random_face(model.expression_names, rng, model.expression_range)
        if abs(face.angles_deg[1]) > most:
            continue
        with torch.no_grad():
            head = model(torch.from_numpy(identity), torch.from_numpy(face.expression))
            sets = [rig.landmarks(head[None], name)[0] for name in
                    (rig.label_set, rig.box_set, rig.anatomy_set)]  # fmt: skip
        scene = draw_scene(
            generator, banks, Draws(rng, rng), shard, number, identity, face, head.numpy(), *sets
        )
        if np.abs(scene.tone.mix - np.eye(3)).max() < 0.1:
            return scene


def _record(
    generator: Generator,
    banks: Banks,
    chart: TextureChart,
    scene: Scene,
    rng: np.random.Generator,
    lights: int,
    jitter: float,
) -> HeadRecord:
    pictures, sheen = [], []
    maps: Maps | None = None
    for k in range(lights):
        lit = _relit(generator, scene, rng, anew=k > 0)
        sample, shot = render_scene(generator, banks, lit)
        maps = create_maps(generator, banks, lit, shot) if maps is None else maps
        pictures.append(np.ascontiguousarray(sample.image.transpose(2, 0, 1)))
        sheen.append(_light(sample))
    assert maps is not None
    fitted = _jittered(generator, scene, rng, float(rng.random()) * jitter)
    own, beard, glasses = _shown(maps)
    seen = own | beard | (glasses & (rng.random() < GLASSES_SEEN))
    layers = torch.from_numpy(np.stack((seen, beard, np.zeros_like(seen))).astype(np.float32))
    view = view_chart(layers, fitted.vertices, fitted.camera, chart)
    points = unit_points(view.points, chart.size)
    inside = chart.inside.float()
    at = points.permute(1, 2, 0)[None]
    shares = torch.nn.functional.grid_sample(layers[None], at, align_corners=False)[0] * inside
    places, shown = pixel_places(fitted.vertices, fitted.camera, chart, chart.size)
    visible = view.visible * smooth_step(shares[0], *_SURE)

    def on_chart(layout: ndarray) -> Tensor:
        channels = torch.from_numpy(layout).permute(2, 0, 1)
        return chart.atlas.scatter(layout_on_chart(generator.rig, channels, chart))

    skin = scene.tone.albedo(banks.skins[scene.tone.skin])
    albedo, known = linear_to_srgb(on_chart(skin)).clamp(0, 1), torch.ones_like(inside)
    if scene.outfit.beard:
        pixels = torch.from_numpy(maps.albedo).permute(2, 0, 1)
        grown = generator.masks.beard[scene.outfit.beard]
        grows = on_chart(grown[..., None])[0] > GROWN
        albedo, worn, bare = bearded_albedo(albedo, pixels, layers[1], visible, grows, view.points)
        known = (worn | bare).float()
    return HeadRecord(
        photo=np.stack(pictures),
        light=np.stack(sheen),
        points=points,
        places=places,
        visible=visible,
        mask=torch.from_numpy(own | beard) & shown,
        normals=view.normals,
        albedo=albedo,
        truth=inside * known,
        person=scene.index,
        tone=float(scene.tone.plain @ LUMINANCE),
        yaw_deg=float(scene.angles_deg[1]),
    )


def _relit(generator: Generator, scene: Scene, rng: np.random.Generator, *, anew: bool) -> Scene:
    """The scene in another light and exposure, before a camera with few faults.

    Noise, blur and compression are left to the batches.
    """
    light = draw_light(generator.surroundings, rng, None) if anew else scene.light
    faults = replace(
        photo.no_faults(),
        vignette=float(rng.uniform(0.05, 0.3)) if rng.random() < 0.15 else 0.0,
        gamma=float(np.clip(rng.normal(1, 0.04), 0.9, 1.1)),
        contrast=float(np.clip(rng.normal(1, 0.04), 0.9, 1.1)),
        saturation=float(np.clip(rng.normal(1, 0.08), 0.75, 1.25)),
    )
    exposure = photo.draw_exposure(rng) if anew else scene.exposure
    return replace(scene, light=light, exposure=exposure, faults=faults)


def _light(sample: Sample) -> Float[ndarray, "9 3"]:
    """Radiance coefficients of surroundings and key light, times the camera's gain."""
    direction, colour = (torch.from_numpy(v) for v in (sample.key_direction, sample.key_colour))
    return (sample.sh + directional_light(direction, colour).sh.numpy()) * sample.gain


def _shown(maps: Maps) -> tuple[ndarray, ndarray, ndarray]:
    """Pixels (n, n) that show the head's own skin, a beard, and glasses."""
    dark = maps.glass >= 0.5
    own = maps.model & (maps.material == kernels.SKIN) & ~dark
    beard = (maps.material == kernels.BEARD) & ~dark
    return own, beard, dark | (maps.material == kernels.FRAME)


def _jittered(
    generator: Generator, scene: Scene, rng: np.random.Generator, strength: float
) -> Fitted:
    """The scene's geometry with errors of pose, place, size and shape."""
    view, model = scene.view, generator.rig.model
    draws = rng.standard_normal(6).astype(np.float32) * np.float32(strength)
    turn = sampling.rotation_from_angles(draws[:3] * np.float32(_JITTER_DEG))
    zoom = float(np.exp(_JITTER_SCALE * draws[3]))
    px = _JITTER_PX * generator.config.size / 128
    middle = np.full(2, (generator.config.size - 1) / 2)
    centre = middle + (view.center_px - middle) * zoom + draws[4:] * px
    moved = replace(view, rotation=turn @ view.rotation, scale=view.scale * zoom, center_px=centre)
    change = rng.standard_normal(len(scene.identity)) * _JITTER_SHAPE * strength
    with torch.no_grad():
        vertices = model(
            torch.from_numpy((scene.identity + change).astype(np.float32)),
            torch.from_numpy(scene.expression),
        )
    return Fitted(_anchored(vertices, scene.head_mm), _about(moved, view, scene).camera())


def _anchored(vertices: Tensor, head_mm: ndarray) -> Tensor:
    """A shape moved so that its middle is that of the true head."""
    true = torch.from_numpy(head_mm)
    return vertices + (true.mean(0) - vertices.mean(0))


def _about(moved: View, view: View, scene: Scene) -> View:
    """A turned view shifted so that the head turns about its middle, not the model's origin."""
    middle = scene.head_mm.mean(0)
    shift = (view.rotation - moved.rotation) @ middle
    return replace(moved, translation_mm=(view.translation_mm + shift).astype(np.float32))


def unit_points(points: Float[Tensor, "2 n n"], size: int) -> Float[Tensor, "2 n n"]:
    """Pixel coordinates of a picture of `size` px as `functional.grid_sample` takes them."""
    return (points + 0.5) * (2 / size) - 1
