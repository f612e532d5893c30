"""Normal and roughness maps of a head's skin, so that its texture looks right in any light.

A base colour alone looks like plaster under an engine's lamps. What is fine comes from two
sources: grain that all skin has (the noise of `facemodel.detail`, in 3D, so that no chart's border
shows), and relief read from the texture, where dark is deep, inside the skin that the photo shows
and its mirror image. Roughness follows the parts of the face. Everything is a function of its
arguments: the same head gets the same maps. Where a surface was carried onto the head
(`Geometry.detail`) its displacement stands in the place of what the texture tells.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from weakref import WeakKeyDictionary

import numpy as np
import torch
from jaxtyping import Float, UInt16
from torch import Tensor

from lifemask.facemodel.base import FaceModel
from lifemask.facemodel.detail import value_noise
from lifemask.graphics.tangents import relief_normals
from lifemask.graphics.uv import UvAtlas, create_uv_atlas, mirror_texels, sample_uv
from lifemask.methods._surface_regions import SkinRegions, skin_regions
from lifemask.types import Appearance, Geometry

NEEDED_REGIONS = ("face", "lips", "brows", "scalp")
DISPLACEMENT_ENDING = "_displacement.png"
DISPLACEMENT_ZERO = 32768
DISPLACEMENT_STEPS_PER_MM = 8192
"""A displacement map's 16-bit grey is `zero + steps * mm`."""
_REFERENCE = 1024
"""Side of the texture for which widths in texels are given; a texel of the face is about 1 mm."""
_FINE_TEXELS, _COARSE_TEXELS = 0.8, 4.0
_BORDER_TEXELS = 8.0
"""Relief is flat at the border of a chart and rises over this width."""
_GAIN = 4.0
"""Relief in units of its limit per unit of log luminance, where it is small."""
_LUMINANCE = (0.2126, 0.7152, 0.0722)


@dataclass(frozen=True)
class SurfaceMapConfig:
    """Depths and switches.

    Attributes:
        grain_mm: amplitude of the grain; 0 switches it off.
        relief_mm: limit of the relief read from the texture; 0 switches it off.
        variation: how much roughness varies within a region; 0 switches it off.
    """

    grain_mm: float = 0.09
    relief_mm: float = 0.20
    variation: float = 0.05


@dataclass(frozen=True)
class SurfaceMap:
    """Maps of one part, on its texture's layout; row 0 is v = 1.

    Attributes:
        normals: (n, n, 3) unit, tangent space: x to the texture's right, y up in it, z out.
        roughness: (n, n) perceptual, in [0, 1].
    """

    normals: Float[np.ndarray, "n n 3"]
    roughness: Float[np.ndarray, "n n"]


@torch.no_grad()
def surface_maps(
    geometry: Geometry,
    appearance: Appearance,
    model: FaceModel,
    config: SurfaceMapConfig | None = None,
) -> dict[str, SurfaceMap]:
    """Maps by part name: the skin's, of the size of its texture; eyes and teeth need none.

    Empty for a model without the skin, landmarks ("ict68") or regions that the maps go by.

    Args:
        geometry: posed head with the model's topology, and its `detail` if it has one.
        appearance: complete albedo; `visible` tells where relief can be read, None means all of it.
        model: names the topology, UVs and regions.
        config: settings; None for the defaults.
    """
    topology = model.topology
    regions = all(name in topology.regions for name in NEEDED_REGIONS)
    if "skin" not in topology.part_names or "ict68" not in model.landmark_embeddings or not regions:
        return {}
    config = config or SurfaceMapConfig()
    layout = _layout(model, appearance.albedo.shape[-1])
    tone = _log_luminance(appearance, layout)
    relief = _relief(tone, appearance, layout, config)
    carried, known = _carried(geometry, layout)
    height = (config.grain_mm * layout.grain + (1 - known) * relief) * layout.fade + carried
    vertices = geometry.vertices_mm.detach().float().cpu()
    normals = relief_normals(height, vertices, layout.atlas).permute(1, 2, 0).contiguous().numpy()
    roughness = _roughness(tone, relief, layout, config)
    return {"skin": SurfaceMap(normals, roughness)}


def displacement_pixels(displacement_mm: Float[Tensor, "n n"]) -> UInt16[np.ndarray, "n n"]:
    """A displacement map as 16-bit grey, row 0 at v = 1."""
    steps = displacement_mm.detach().cpu().double().numpy() * DISPLACEMENT_STEPS_PER_MM
    return np.clip(np.round(steps + DISPLACEMENT_ZERO), 0, 65535).astype(np.uint16)


@dataclass(frozen=True)
class _MapLayout:
    """What depends only on the model and the size; t texels of the skin."""

    atlas: UvAtlas
    regions: SkinRegions
    mirrored: Float[Tensor, "t 2"]

    @property
    def scale(self) -> float:
        """Texels of this size per texel of the reference."""
        return self.atlas.size / _REFERENCE

    @cached_property
    def fade(self) -> Tensor:
        """(t,) 0 at the border of every chart, 1 inside."""
        from scipy.ndimage import distance_transform_edt

        covered = np.zeros((self.atlas.size,) * 2, bool)
        covered[self.atlas.rows.numpy(), self.atlas.columns.numpy()] = True
        distance = np.asarray(distance_transform_edt(covered))[covered]
        width = max(2.0, _BORDER_TEXELS * self.scale)
        return _smooth(torch.from_numpy((distance - 1) / width).float())

    @cached_property
    def grain(self) -> Tensor:
        """(t,) skin grain of unit amplitude: pores, lines of the lips, stubs of hair."""
        points = self.regions.points_mm.double().numpy()
        wave = max(0.9, 2.2 / self.scale)
        fine = torch.from_numpy(value_noise(points / wave, 11) - 0.5).float()
        coarse = torch.from_numpy(value_noise(points / (2.2 * wave), 12) - 0.5).float()
        lines = value_noise(points / [0.8 * wave, 4 * wave, 4 * wave], 13) - 0.5
        skin = 1.3 * fine + 0.9 * coarse
        lips = 2.2 * torch.from_numpy(lines).float() + 0.4 * coarse
        grain = skin * self.regions.pores + 2.4 * fine * self.regions.hair
        return grain + self.regions.lips * (lips - grain)

    @cached_property
    def blurred_open(self) -> tuple[np.ndarray, np.ndarray]:
        """The open skin (n, n) blurred finely and coarsely."""
        open_skin = _image(self.regions.open_skin, self.atlas)
        return self.blur(open_skin, _FINE_TEXELS), self.blur(open_skin, _COARSE_TEXELS)

    def blur(self, image: np.ndarray, texels: float) -> np.ndarray:
        """Gaussian blur; the width is that of the reference size."""
        from scipy.ndimage import gaussian_filter

        return gaussian_filter(image, texels * self.scale, truncate=3.0)


_LAYOUTS: WeakKeyDictionary[FaceModel, dict[int, _MapLayout]] = WeakKeyDictionary()


def _layout(model: FaceModel, size: int) -> _MapLayout:
    made = _LAYOUTS.setdefault(model, {})
    if size not in made:
        topology = model.topology
        skin = topology.face_part == topology.part_names.index("skin")
        atlas = create_uv_atlas(
            topology.uvs, topology.faces_uv, topology.faces, size, face_mask=skin, gutter_px=6
        )
        mirrored = mirror_texels(atlas, topology.mirror)
        made[size] = _MapLayout(atlas, skin_regions(model, atlas), mirrored)
    return made[size]


def _log_luminance(appearance: Appearance, layout: _MapLayout) -> Tensor:
    """(t,) log luminance of the albedo."""
    rows = layout.atlas.gather(appearance.albedo.detach().float().cpu())
    return (rows @ rows.new_tensor(_LUMINANCE)).clamp(min=2e-3).log()


def _relief(
    tone: Tensor, appearance: Appearance, layout: _MapLayout, config: SurfaceMapConfig
) -> Tensor:
    """(t,) mm: what is darker than its surroundings on open, visible skin lies deeper."""
    if config.relief_mm == 0:
        return torch.zeros_like(tone)
    # differences to the typical tone, so that a blur beside a hole does not darken
    middle = tone[layout.regions.open_skin > 0.5].median()
    picture = _image((tone - middle) * layout.regions.open_skin, layout.atlas)
    bands = [
        layout.blur(picture, texels) / np.maximum(weight, 1e-3)
        for texels, weight in zip((_FINE_TEXELS, _COARSE_TEXELS), layout.blurred_open, strict=True)
    ]
    band = _texels(bands[0] - bands[1], layout.atlas)
    share = layout.regions.open_skin * _seen(appearance, layout)
    return config.relief_mm * torch.tanh(_GAIN * band) * share


def _carried(geometry: Geometry, layout: _MapLayout) -> tuple[Tensor, Tensor]:
    """(t,) displacement in mm of a surface carried onto the head, and where it is known."""
    if geometry.detail is None:
        return torch.zeros(len(layout.atlas)), torch.zeros(len(layout.atlas))
    atlas = layout.atlas
    right, up = (atlas.columns + 0.5) / atlas.size, 1 - (atlas.rows + 0.5) / atlas.size
    maps = torch.stack((geometry.detail.displacement_mm, geometry.detail.known))
    rows = sample_uv(maps.detach().float().cpu(), torch.stack((right, up), dim=-1))
    return rows[:, 0], rows[:, 1]


def _seen(appearance: Appearance, layout: _MapLayout) -> Tensor:
    """(t,) in [0, 1], soft: the photo shows the texel or its mirror image."""
    if appearance.visible is None:
        return torch.ones(len(layout.atlas))
    shown = appearance.visible.detach().float().cpu()[None]
    own = layout.atlas.gather(shown)[:, 0]
    other = sample_uv(layout.atlas.scatter(own[:, None]), layout.mirrored)[:, 0]
    either = _image(torch.maximum(own, other), layout.atlas)
    soft = _texels(layout.blur(either, 6.0), layout.atlas)
    return _smooth((soft - 0.55) / 0.4)


def _roughness(
    tone: Tensor, relief: Tensor, layout: _MapLayout, config: SurfaceMapConfig
) -> np.ndarray:
    """Roughness (n, n): the region's, rougher in hair and stubble, varied finely."""
    regions = layout.regions
    smooth_tone = _texels(layout.blur(_image(tone, layout.atlas, gutter=True), 3.0), layout.atlas)
    middle = smooth_tone[regions.open_skin > 0.5].median()
    dark = _smooth((middle - smooth_tone - 0.10) / 0.5)
    rough = regions.roughness + 0.10 * regions.beard * dark
    rough = rough + regions.scalp * dark * (0.64 - rough)
    fine = 0.8 * layout.grain - 3.0 * relief / max(config.relief_mm, 1e-6)
    rough = rough - config.variation * torch.tanh(0.5 * fine) * regions.dry
    picture = layout.atlas.scatter(rough.clamp(0.2, 0.95)[:, None])[0]
    picture[picture == 0] = float(rough.median())
    return picture.numpy()


def _image(values: Tensor, atlas: UvAtlas, *, gutter: bool = False) -> np.ndarray:
    """Texels (t,) as a picture (n, n), 0 elsewhere."""
    return atlas.scatter(values[:, None].float(), gutter=gutter)[0].numpy()


def _texels(image: np.ndarray, atlas: UvAtlas) -> Tensor:
    """A picture's values (t,) at the texels."""
    return torch.from_numpy(image[atlas.rows.numpy(), atlas.columns.numpy()]).float()


def _smooth(t: Tensor) -> Tensor:
    t = t.clamp(0, 1)
    return t * t * (3 - 2 * t)
