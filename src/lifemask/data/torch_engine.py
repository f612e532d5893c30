"""Renders drawn scenes in batches on any torch device, with the same truth as the CPU kernels.

`draw_scenes` decides everything on the CPU; this engine turns a list of scenes into images, labels
and truth maps at once. On CUDA a batch never leaves the device until it is asked for; on the CPU it
serves as the kernels' independent twin in the tests. `docs/synthetic.md` states the tolerances.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from lifemask.data import _synthetic_regions as regions
from lifemask.data import _torch_raster as raster
from lifemask.data import _torch_shade as shade
from lifemask.data._synthetic_kernels import FRAME, MATERIALS, NO_UV
from lifemask.data._synthetic_render import VISIBLE_TOLERANCE_MM
from lifemask.data._synthetic_scene import ORTHOGRAPHIC_MM
from lifemask.data._synthetic_truth import LandmarkTruth, Maps, model_points
from lifemask.data._torch_pack import Views, pack_surfaces, pack_views
from lifemask.data._torch_photo import exposure_gains, photograph_batch

if TYPE_CHECKING:
    from lifemask.data._synthetic_scene import Scene
    from lifemask.data.synthetic import Banks, Generator, Sample


@dataclass(frozen=True)
class BatchMaps:
    """Truth per pixel of b images; see `_synthetic_truth.Maps` for what each map says."""

    depth_mm: Float[Tensor, "b h w"]
    normals: Float[Tensor, "b h w 3"]
    uv: Float[Tensor, "b h w 2"]
    albedo: Float[Tensor, "b h w 3"]
    ambient: Float[Tensor, "b h w"]
    key: Float[Tensor, "b h w"]
    material: UInt8[Tensor, "b h w"]
    model: Bool[Tensor, "b h w"]
    glass: Float[Tensor, "b h w"]
    linear: Float[Tensor, "b h w 3"]

    def numpy(self) -> list[Maps]:
        """The maps of each image."""
        arrays = {f.name: getattr(self, f.name).cpu().numpy() for f in dataclasses.fields(self)}
        count = len(self.material)
        return [Maps(**{name: values[k] for name, values in arrays.items()}) for k in range(count)]


@dataclass(frozen=True)
class BatchLandmarks:
    """One landmark set of b images; see `_synthetic_truth.LandmarkTruth`."""

    image_px: Float[Tensor, "b n 3"]
    camera_mm: Float[Tensor, "b n 3"]
    visible: Bool[Tensor, "b n"]

    def numpy(self) -> list[LandmarkTruth]:
        """The set of each image."""
        arrays = (t.cpu().numpy() for t in (self.image_px, self.camera_mm, self.visible))
        return [LandmarkTruth(*row) for row in zip(*arrays, strict=True)]


@dataclass(frozen=True)
class RenderBatch:
    """Images of b scenes and their labels, on the device.

    Attributes:
        images: (b, s, s, 3) uint8 sRGB.
        points: (b, n, 3) the rig's label landmarks, (u, v, w) in px.
        visible: (b, n).
        region: (b, s, s) uint8, index into `types.REGION_NAMES`.
        glasses: (b, s, s) pixels that show a frame of glasses or dark glass.
        gain: (b, 3) exposure and white balance.
        linear: (b, s, s, 3) radiance before exposure, glass included.
        landmarks: further sets by name, if asked for.
        maps: truth per pixel, if asked for.
        scenes: what was drawn: parameters, cameras, light.
    """

    images: UInt8[Tensor, "b s s 3"]
    points: Float[Tensor, "b n 3"]
    visible: Bool[Tensor, "b n"]
    region: UInt8[Tensor, "b s s"]
    glasses: Bool[Tensor, "b s s"]
    gain: Float[Tensor, "b 3"]
    linear: Float[Tensor, "b s s 3"]
    landmarks: Mapping[str, BatchLandmarks]
    maps: BatchMaps | None
    scenes: tuple[Scene, ...]

    def samples(self) -> list[Sample]:
        """The batch as the CPU generator's samples, in numpy arrays."""
        fields = {
            name: getattr(self, name).cpu().numpy()
            for name in ("images", "points", "visible", "region", "glasses", "gain")
        }
        sets = {name: truth.numpy() for name, truth in self.landmarks.items()}
        maps = self.maps.numpy() if self.maps is not None else None
        return [_sample(scene, fields, sets, maps, k) for k, scene in enumerate(self.scenes)]


class TorchEngine:
    """Renders batches of one generator's scenes.

    Args:
        generator: draws the scenes.
        device: where to render.
    """

    def __init__(self, generator: Generator, device: torch.device | str = "cpu") -> None:
        self.generator = generator
        self.device = torch.device(device)
        self._model_uv = torch.from_numpy(generator.rig.model_uv).to(self.device)
        self._texel_region = torch.from_numpy(generator.texel_region).to(self.device)
        table = regions.face_regions(np.arange(len(MATERIALS), dtype=np.uint8))
        self._region_of_material = torch.from_numpy(table).to(self.device)

    def batches(
        self,
        indices: Sequence[int],
        batch: int = 64,
        *,
        maps: bool = False,
        sets: Sequence[str] = (),
    ) -> Iterator[RenderBatch]:
        """Images by their number in the run, `batch` at a time (the last one may be smaller)."""
        pending: list[tuple[Scene, Banks]] = []
        for pair in self.generator.scenes(indices):
            pending.append(pair)
            if len(pending) == batch:
                yield self.render(*zip(*pending, strict=True), maps=maps, sets=sets)
                pending = []
        if pending:
            yield self.render(*zip(*pending, strict=True), maps=maps, sets=sets)

    @torch.no_grad()
    def render(
        self,
        scenes: Sequence[Scene],
        banks: Sequence[Banks],
        *,
        maps: bool = False,
        sets: Sequence[str] = (),
    ) -> RenderBatch:
        """Render scenes, each with the banks of its shard.

        Args:
            scenes: b drawn scenes.
            banks: b banks; the same object may stand for several scenes.
            maps: add truth per pixel.
            sets: landmark sets to add; "vertices" is the whole mesh.

        Raises:
            UserError: the face model has no such landmark set.
        """
        config, ss = self.generator.config, self.generator.config.supersample
        views = pack_views(scenes, self.device)
        surfaces = pack_surfaces(self.generator, banks, scenes, views, self.device)
        inverse, ids = self._raster(surfaces, ss)
        linear = shade.shade_batch(surfaces, inverse, ids, ss)
        cover = self._cover(scenes, views, inverse, ss)
        dark = torch.tensor([s.lens is not None and s.lens.dark for s in scenes])
        hidden = (cover > 0.5) & dark.to(self.device)[:, None, None]
        labels = self._landmarks([s.points_mm for s in scenes], views, inverse, hidden)
        further = {
            name: self._landmarks(
                [model_points(self.generator.rig.model, s.head_mm, name) for s in scenes],
                views, inverse, hidden,
            )
            for name in sets
        }  # fmt: skip
        region = self._regions(surfaces, scenes, banks, inverse, ids, ss)
        region = region.masked_fill(hidden, regions.SKIN)
        glasses = hidden | _framed(surfaces.material, ids, ss)
        linear = self._glazed(scenes, linear, cover)
        gain = exposure_gains([s.exposure for s in scenes], linear, labels.image_px[:, ::7])
        images = photograph_batch(linear.clone(), gain, [s.faults for s in scenes])
        truth = self._maps(surfaces, views, cover, linear, config.size) if maps else None
        return RenderBatch(
            images, labels.image_px, labels.visible, region, glasses, gain, linear, further, truth,
            tuple(scenes),
        )  # fmt: skip

    def _raster(self, scene: shade.Surfaces, ss: int) -> tuple[Tensor, Tensor]:
        return raster.rasterize_batch(
            raster.finer(scene.screen, ss), scene.faces, scene.face_uv, scene.material,
            scene.face_image, scene.cull, scene.materials, scene.noise,
            scene.background.shape[1] * ss,
        )  # fmt: skip

    def _landmarks(
        self, points_mm: Sequence[np.ndarray], views: Views, inverse: Tensor, hidden: Tensor
    ) -> BatchLandmarks:
        """Points on the heads, b times (n, 3) mm: where they appear and whether they are seen."""
        model = torch.from_numpy(np.stack(points_mm)).to(self.device)
        count, n = model.shape[:2]
        image = torch.arange(count, device=self.device).repeat_interleave(n)
        eye = views.to_camera(model.flatten(0, 1), image)
        screen = views.project(eye, image)
        ss = inverse.shape[1] // hidden.shape[1]
        shape = (count, n, 3)
        seen = _visible(raster.finer(screen, ss).view(shape), inverse)
        screen = screen.view(shape)
        turned = model @ views.rotation.transpose(1, 2)
        near = turned[..., 2:] * views.scale_px_per_mm[:, None, None]
        image_px = torch.cat((screen[..., :2], near), -1)
        camera_mm = torch.where(views.orthographic[:, None, None], turned, eye.view(shape))
        return BatchLandmarks(image_px, camera_mm, seen & ~_at(hidden, screen))

    def _cover(self, scenes: Sequence[Scene], views: Views, inverse: Tensor, ss: int) -> Tensor:
        """Share (b, s, s) of each pixel's light that glass replaces."""
        size = inverse.shape[1] // ss
        cover = inverse.new_zeros((len(scenes), size, size))
        worn = [(k, s.lens) for k, s in enumerate(scenes) if s.lens is not None]
        if not worn:
            return cover
        counts = [len(lens.mesh.points) for _, lens in worn]
        first = np.cumsum([0, *counts[:-1]])
        faces = np.concatenate(
            [lens.mesh.faces + o for (_, lens), o in zip(worn, first, strict=True)]
        )
        image = np.array([k for k, _ in worn])
        of_vertex = torch.from_numpy(np.repeat(image, counts)).to(self.device)
        of_face = np.repeat(image, [len(lens.mesh.faces) for _, lens in worn])
        points = np.concatenate([lens.mesh.points for _, lens in worn]).astype(np.float32)
        eye = views.to_camera(torch.from_numpy(points).to(self.device), of_vertex)
        layer = raster.cover_layer(
            raster.finer(views.project(eye, of_vertex), ss),
            torch.from_numpy(faces.astype(np.int64)).to(self.device),
            torch.from_numpy(of_face).to(self.device), inverse, ss,
        ).clamp(max=1)  # fmt: skip
        for k, lens in worn:
            sheen = torch.linspace(*lens.sheen, size, device=self.device)[:, None]
            cover[k] = layer[k] * (lens.alpha * (sheen if lens.dark else 1.0))
        return cover

    def _glazed(self, scenes: Sequence[Scene], linear: Tensor, cover: Tensor) -> Tensor:
        """Radiance (b, s, s, 3) seen through the glass."""
        out = linear.clone()
        for k, scene in enumerate(scenes):
            if scene.lens is None:
                continue
            sheen = torch.linspace(*scene.lens.sheen, linear.shape[1], device=self.device)
            colour = torch.from_numpy(scene.lens.colour).to(linear)
            glass = colour * (2 - sheen[:, None, None])
            out[k] = linear[k] + cover[k, ..., None] * (glass - linear[k])
        return out

    def _regions(
        self, surfaces: shade.Surfaces, scenes, banks, inverse: Tensor, ids: Tensor, ss: int
    ) -> UInt8[Tensor, "b s s"]:
        """Most frequent class of each pixel's samples."""
        hit = shade.hits(surfaces, inverse, ids, ss)
        kind = self._region_of_material[hit.material].long()
        rows, columns = self._texel_region.shape
        texel = (regions.FINER * (hit.uv + 0.5)).long()
        found = self._texel_region[
            texel[:, 1].clamp(0, rows - 1), texel[:, 0].clamp(0, columns - 1)
        ].long()
        hair = [bool(b.scalp_hair[s.tone.skin]) for b, s in zip(banks, scenes, strict=True)]
        scalp = torch.tensor([regions.HAIR if h else regions.SKIN for h in hair], device=ids.device)
        pairs = zip(banks, scenes, strict=True)
        marks = torch.stack([torch.from_numpy(b.marks[s.tone.skin]) for b, s in pairs]).to(hit.uv)
        plain = found == regions.SKIN
        for plane, region in enumerate(regions.MARKED):
            shown = shade.bilinear(marks[:, plane], hit.image, hit.uv) > 127.5
            found = torch.where(plain & shown, region, found)
        found = torch.where(found == regions.SCALP, scalp[hit.image], found)
        kind = torch.where(kind == regions.LOOK_UP, found, kind)
        size = ids.shape[1] // ss
        classes = regions.SCALP + 1
        votes = torch.zeros((len(ids), size, size, classes), dtype=torch.long, device=ids.device)
        votes[..., regions.BACKGROUND] = ss * ss
        place = ((hit.image * size + hit.y // ss) * size + hit.x // ss) * classes
        flat, one = votes.view(-1), torch.ones_like(kind)
        flat.index_add_(0, place + regions.BACKGROUND, -one)
        flat.index_add_(0, place + kind, one)
        first = torch.arange(classes, 0, -1, device=ids.device)  # the lower class wins a tie
        return (votes * (classes + 1) + first).argmax(-1).to(torch.uint8)

    def _maps(
        self, surfaces: shade.Surfaces, views: Views, cover: Tensor, linear: Tensor, size: int
    ) -> BatchMaps:
        """Truth at pixel centres, from a raster with one sample per pixel."""
        inverse, ids = self._raster(surfaces, 1)
        hit = shade.hits(surfaces, inverse, ids, 1)
        at = (hit.image, hit.y, hit.x)
        shape = (len(ids), size, size)

        def picture(values: Tensor, fill: float = 0.0) -> Tensor:
            out = values.new_full((*shape, *values.shape[1:]), fill)
            out[at] = values
            return out

        head = len(self.generator.rig.faces)
        count = torch.bincount(surfaces.face_image, minlength=len(ids))
        start = count.cumsum(0) - count
        face = hit.face - start[hit.image]
        depth = 1 / inverse[at] - ORTHOGRAPHIC_MM * views.orthographic[hit.image]
        return BatchMaps(
            depth_mm=picture(depth, torch.nan),
            normals=picture(hit.normals),
            uv=picture(self._uv(face, hit.weights), torch.nan),
            albedo=picture(shade.albedo(surfaces, hit, 1)),
            ambient=picture(hit.occlusion),
            key=picture(hit.lit),
            material=picture(hit.material.to(torch.uint8), 255),
            model=picture(face < head, False),
            glass=cover,
            linear=linear,
        )

    def _uv(self, face: Int[Tensor, "p"], weights: Float[Tensor, "p 3"]) -> Float[Tensor, "p 2"]:
        """The model's texture coordinates at its faces; NaN off its skin and for props."""
        head = face < len(self._model_uv)
        corners = self._model_uv[face.clamp(max=len(self._model_uv) - 1)]
        uv = (weights[..., None] * corners).sum(1)
        return torch.where(head[:, None] & (uv > NO_UV / 2), uv, torch.nan)


def _sample(scene: Scene, fields, sets, maps, k: int) -> Sample:
    """Image k of a batch as a sample."""
    from lifemask.data.synthetic import Sample

    outfit = scene.outfit
    return Sample(
        image=fields["images"][k],
        points=fields["points"][k],
        visible=fields["visible"][k],
        view=scene.view,
        identity=scene.identity,
        expression=scene.expression,
        gaze_deg=scene.gaze_deg,
        age=scene.age,
        flags=np.array([outfit.glasses != "", outfit.beard != "", len(outfit.occluders) > 0]),
        region=fields["region"][k],
        glasses=fields["glasses"][k],
        sh=scene.light.sh,
        key_direction=scene.light.key_direction,
        key_colour=scene.light.key_colour,
        gain=fields["gain"][k],
        landmarks={name: rows[k] for name, rows in sets.items()},
        maps=None if maps is None else maps[k],
        person=scene.person,
    )


def _visible(fine: Float[Tensor, "b n 3"], inverse: Float[Tensor, "b s s"]) -> Bool[Tensor, "b n"]:
    """Whether each point lies in front of the depth buffer; twin of `points_visible`."""
    side = inverse.shape[1]
    image = torch.arange(len(fine), device=fine.device)[:, None]
    x, y = ((fine[..., k] + 0.5).floor().long() for k in (0, 1))
    distance = 1 / fine[..., 2]
    seen = torch.zeros_like(x, dtype=torch.bool)
    for dy in (-1, 0, 1):
        for dx in (-1, 0, 1):
            px, py = x + dx, y + dy
            inside = (px >= 0) & (px < side) & (py >= 0) & (py < side)
            near = inverse[image, py.clamp(0, side - 1), px.clamp(0, side - 1)]
            limit = VISIBLE_TOLERANCE_MM if dx == dy == 0 else VISIBLE_TOLERANCE_MM / 3
            seen |= inside & (near > 0) & (distance - 1 / near < limit)
    return seen


def _framed(
    material: UInt8[Tensor, "f"], ids: Int[Tensor, "b n n"], ss: int
) -> Bool[Tensor, "b s s"]:
    """Pixels of which a frame of glasses covers half or more."""
    frame = (material[ids.clamp(min=0)] == FRAME) & (ids >= 0)
    return torch.nn.functional.avg_pool2d(frame.float(), ss) >= 0.5


def _at(mask: Bool[Tensor, "b s s"], screen: Float[Tensor, "b n 3"]) -> Bool[Tensor, "b n"]:
    """The mask at the pixels nearest to some points."""
    image: Int[Tensor, "b 1"] = torch.arange(len(mask), device=mask.device)[:, None]
    x, y = (screen[..., k].round().long().clamp(0, mask.shape[1] - 1) for k in (0, 1))
    return mask[image, y, x]


@dataclass(frozen=True)
class DeviceSamples:
    """Samples of one shard's images rendered on a device, as `render_samples` gives them.

    Attributes:
        device: where to render.
        batch: images at a time.
    """

    device: str
    batch: int = 64

    def __call__(
        self,
        generator: Generator,
        banks: Banks,
        indices: Sequence[int],
        truth: str = "none",
        sets: Sequence[str] = (),
    ) -> Iterator[Sample]:
        """Yield the samples of `indices`, all of the shard whose banks these are."""
        from lifemask.data._synthetic_draw import draw_scenes

        engine = TorchEngine(generator, self.device)
        shard = indices[0] // generator.config.shard_size if indices else 0
        scenes = draw_scenes(generator, banks, shard, list(indices))
        while group := list(islice(scenes, self.batch)):
            batch = engine.render(group, [banks] * len(group), maps=truth == "maps", sets=sets)
            yield from batch.samples()
