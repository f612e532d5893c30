"""Method 4: the face's surface without a face model, from one photo (RAFaRe, arXiv 2302.05486).

    crop -> regions -> f_base(x) --box filter--+
                    -> f_fine(x) --x 0.001-----+-> signed distance -> carved by normals -> mesh
                    -> normals ----------------------------------------^

The mesh lies in the cube before the crop; the photo's parametric head, its *guide*, says where that
cube is and how large. `docs/methods/rafare.md` has the formulas and the numbers.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import cv2
import numpy as np
import torch
from jaxtyping import UInt8
from scipy.ndimage import binary_dilation, distance_transform_edt
from torch import Tensor
from torch.nn import functional

from lifemask.assets import UserError
from lifemask.facemodel.base import FaceModel
from lifemask.faces.crop import crop_to_photo
from lifemask.faces.parsing import Regions
from lifemask.methods._rafare_engine import (
    Level,
    OnnxRafare,
    RafareNet,
    SurfaceNetworks,
    TorchRafare,
)
from lifemask.methods._rafare_field import FieldConfig, Surface, extract_surface
from lifemask.methods._rafare_view import (
    Guide,
    create_view,
    cut_crop,
    face_mask,
    guide_of,
    px_from_cube,
)
from lifemask.nn.sdf import FieldNetConfig, NormalNetConfig
from lifemask.nn.shipped import Engine, check_engine, described, family_name, with_weights
from lifemask.types import FACE_CLASSES, REGION_NAMES, Crop, FreeSurface, Geometry

LEVELS: tuple[Level, ...] = ("base", "fine", "normals")
"""From coarse to fine: `f_base` alone, with `f_fine`, and carved by the normals."""
_SKIN, _HAIR, _BACKGROUND = (REGION_NAMES.index(n) for n in ("skin", "hair", "background"))
_MARGIN = 0.02
"""Share of the crop's side by which a face may be wider than its guide."""
_STRIP = 0.07
"""Half the width, as a share of the crop's side, of what is too narrow in hair to be the face."""


@dataclass(frozen=True)
class RafareConfig:
    """The networks and how a surface is made of them.

    Attributes:
        base: of `f_base`.
        fine: of `f_fine`.
        normals: of the normal network.
        normals_back: of the one that tells the back's normals; None for none.
        field: grid, box filter, carving and cleaning.
        share: of the surface's difference from the guide that is right on average, for heads that
            carry it (`FreeSurface.share`); measured by `lifemask.training.rafare_share`.
    """

    base: FieldNetConfig = field(default_factory=FieldNetConfig)
    fine: FieldNetConfig = field(
        default_factory=lambda: FieldNetConfig(widths=(64,), pool=False, residual=False, stacks=0)
    )
    normals: NormalNetConfig = field(default_factory=NormalNetConfig)
    field: FieldConfig = field(default_factory=FieldConfig)
    normals_back: NormalNetConfig | None = None
    share: float = 1.0

    @property
    def size(self) -> int:
        """Side of the crop in px."""
        return self.base.size


@dataclass(frozen=True)
class RafarePredictConfig:
    """How a photo is asked.

    Attributes:
        level: how fine the surface is.
        guide: let the networks see the parametric head of the photo; without it they see the
            crop alone, and the head only says where the cube is.
        grid: voxels along a side; None for the weights' own.
        share: how far a head that carries the surface moves, 0 to 1; None for the weights' own.
        back: keep the back of the head, at the level "normals", carved by what a network says of
            its normals. Nobody sees it, and the shipped weights have no such network.
        weights: folder-less name of other weights than the shipped ones, for trials; "" for them.
    """

    level: Level = "normals"
    guide: bool = True
    grid: int | None = None
    share: float | None = None
    back: bool = False
    weights: str = ""

    def __post_init__(self) -> None:
        """Refuse what cannot work.

        Raises:
            UserError: with the range.
        """
        if self.share is not None and not 0 <= self.share <= 1:
            raise UserError(f"share is {self.share}; it lies in 0 to 1")


class RafarePredictor:
    """Finds the surface of faces with trained networks.

    Args:
        network: trained, in torch (moved to evaluation mode) or their exported graphs.
        config: how photos are asked.
        threads: of torch while it computes; 0 leaves them as they are.

    Raises:
        UserError: the back is asked for, and the weights have no network for it.
    """

    def __init__(
        self,
        network: RafareNet | SurfaceNetworks,
        config: RafarePredictConfig | None = None,
        threads: int = 0,
    ) -> None:
        self.networks = TorchRafare(network) if isinstance(network, RafareNet) else network
        self.config = config or RafarePredictConfig()
        self.threads = threads
        if self.config.back and self.networks.config.normals_back is None:
            raise UserError(
                "these weights have no network for normals of the back: leave `back` off, or train"
                " one (lifemask train rafare-normals --set net.back=true) and export it with"
                " --normals-back"
            )

    @property
    def size(self) -> int:
        """Side of the crop in px."""
        return self.networks.config.size

    @property
    def network(self) -> RafareNet:
        """The networks themselves, where the engine is torch.

        Raises:
            ValueError: onnxruntime runs them.
        """
        if not isinstance(self.networks, TorchRafare):
            raise ValueError("the networks are graphs of onnxruntime; load them with engine torch")
        return self.networks.network

    @torch.no_grad()
    def surface(
        self,
        image: UInt8[np.ndarray, "s s 3"],
        region: UInt8[np.ndarray, "s s"],
        guide: Guide | None = None,
        level: Level | None = None,
        *,
        blind: bool = False,
        **changes: Any,
    ) -> Surface:
        """The surface of a crop's face, in the cube.

        Args:
            image: crop, sRGB.
            region: ids of `types.REGION_NAMES`.
            guide: a parametric head on the crop's pixels; None for none.
            level: how fine; None as configured.
            blind: `f_fine` sees no image (a control: the surface must get worse).
            changes: of the `FieldConfig`, by name.

        Raises:
            UserError: the crop shows no face, or there is no surface in it.
        """
        with _threads(self.threads):
            return self._surface(image, region, guide, level or self.config.level, blind, changes)

    def _surface(
        self,
        image: np.ndarray,
        region: np.ndarray,
        guide: Guide | None,
        level: Level,
        blind: bool,
        changes: dict[str, Any],
    ) -> Surface:
        pixels = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None].float() / 255
        regions = torch.from_numpy(np.ascontiguousarray(region))[None]
        seen = () if guide is None else (guide.depth[None], guide.normals[None])
        own: dict[str, Any] = {} if self.config.grid is None else {"grid": self.config.grid}
        if self.config.back and level == "normals":
            own |= {"back": True, "front": False}
        settings = replace(self.networks.config.field, **(own | changes))
        if level != "normals":
            settings = replace(settings, carve="none")
        said = self.networks.look(create_view(pixels, regions, *seen), level, blind)
        mask = face_mask(regions)[0]
        back = said.normals_back
        return extract_surface(said.base, said.fine, mask, said.normals, back, settings)

    def __call__(
        self,
        image: UInt8[np.ndarray, "h w 3"],
        geometry: Geometry,
        model: FaceModel,
        regions: Regions | None = None,
    ) -> FreeSurface:
        """The surface of a photo's face, in photo px.

        Args:
            image: photo, sRGB.
            geometry: the guide, a head of `model` in the photo.
            model: face model of the guide.
            regions: region maps of the face; None: everything where the guide shows its face.

        Raises:
            UserError: the photo shows too little of the face.
        """
        crop = cut_crop(image, geometry, model, self.size)
        guide, middle = guide_of(geometry, model, crop)
        region = crop_regions(crop, regions, guide)
        pixels = (crop.image * 255).round().byte().permute(1, 2, 0).numpy()
        found = self.surface(pixels, region.numpy(), guide if self.config.guide else None)
        points = found.vertices.cpu() + found.vertices.new_tensor([0.0, 0.0, middle]).cpu()
        px = crop_to_photo(px_from_cube(points, crop.size), crop)
        asked = self.config.share
        share = self.networks.config.share if asked is None else asked
        return FreeSurface(px, found.faces.cpu(), share)


def crop_regions(crop: Crop, regions: Regions | None, guide: Guide) -> UInt8[Tensor, "s s"]:
    """Region ids on a crop's pixels; what was not parsed is background.

    A parser takes bare shoulders and hair in the dark for skin. So what lies beside the guide's
    head by more than `_MARGIN` is background, too, and so are narrow strips of skin in hair.
    Without regions, skin is wherever the guide is.
    """
    size = crop.size
    if regions is None:
        return torch.where(guide.depth.isfinite(), _SKIN, _BACKGROUND).byte()
    steps = torch.arange(size, dtype=torch.float32)
    v, u = torch.meshgrid(steps, steps, indexing="ij")
    places = crop_to_photo(torch.stack((u, v), -1), crop)
    grid = (places - places.new_tensor(regions.center_px)) / (regions.side_px / 2)
    maps = regions.probabilities.detach().float().cpu()
    found = functional.grid_sample(maps[None], grid[None], align_corners=False)[0]
    inside = (grid.abs() <= 1).all(-1)
    reach = max(1, round(_MARGIN * size))
    there = guide.depth.isfinite().float()[None]
    beside = functional.max_pool2d(there, 2 * reach + 1, 1, reach)[0] > 0
    return without_strips(torch.where(inside & beside, found.argmax(0), _BACKGROUND).byte())


def without_strips(region: UInt8[Tensor, "s s"]) -> UInt8[Tensor, "s s"]:
    """Region ids, narrow strips of skin that touch hair made background.

    Partings, thin hair and reflections read as skin, and a surface would grow horns there. What an
    opening of the face by a disc (radius `_STRIP` of the side) takes away is such a strip if it
    touches hair; a nose in profile is as narrow, but stands before the background.
    """
    ids = region.cpu().numpy()
    face = ids < FACE_CLASSES
    radius = _STRIP * len(ids)
    core = np.asarray(distance_transform_edt(face)) > radius
    if not core.any():
        return region
    narrow = face & (np.asarray(distance_transform_edt(~core)) > radius) & (ids == _SKIN)
    parts = cv2.connectedComponents(narrow.astype(np.uint8))[1]
    beside = np.unique(parts[binary_dilation(ids == _HAIR, np.ones((3, 3)))])
    strips = np.isin(parts, beside[beside > 0])
    return torch.where(torch.from_numpy(strips).to(region.device), _BACKGROUND, region)


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """So many threads of torch within the block; 0 for as many as there are."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def create_rafare(config: RafareConfig) -> RafareNet:
    """The untrained networks."""
    return RafareNet(config)


def load_rafare(
    weights: Literal["open", "research"],
    config: RafarePredictConfig | None = None,
    threads: int = 0,
    engine: Engine = "onnx",
) -> RafarePredictor:
    """The shipped networks.

    Args:
        weights: "open" learned from heads put into renders; "research" also from heads put into
            photos whose terms allow research only.
        config: how photos are asked.
        threads: of torch and of onnxruntime; 0 lets them choose.
        engine: "onnx" (onnxruntime) or "torch".

    Raises:
        AssetError: their weights are missing or damaged.
        ValueError: an unknown family or engine.
    """
    check_engine(engine)
    config = config or RafarePredictConfig()
    name = config.weights or family_name("rafare", weights)
    if engine == "onnx":
        networks = OnnxRafare(name, described(name, config_from_dict), threads)
        return RafarePredictor(networks, config, threads)
    network = described(name, lambda card: create_rafare(config_from_dict(card)))
    return RafarePredictor(with_weights(network, name).float(), config, threads)


def config_from_dict(values: dict[str, Any]) -> RafareConfig:
    """The settings that a weight card lists.

    Raises:
        TypeError: an unknown or missing setting.
    """

    def plain(part: dict[str, Any]) -> dict[str, Any]:
        return {k: tuple(v) if isinstance(v, list) else v for k, v in part.items()}

    back = values.get("normals_back")
    return RafareConfig(
        FieldNetConfig(**plain(values["base"])),
        FieldNetConfig(**plain(values["fine"])),
        NormalNetConfig(**plain(values["normals"])),
        FieldConfig(**plain(values["field"])),
        None if back is None else NormalNetConfig(**plain(back)),
        float(values.get("share", 1.0)),
    )
