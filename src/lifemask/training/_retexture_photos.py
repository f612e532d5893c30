"""Photos of faces for the re-renderable texture: fitted heads and what hides them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from numpy import ndarray
from torch import Tensor

from lifemask.data.base import CropSet
from lifemask.faces.crop import Box, crop_square
from lifemask.faces.parsing import Regions
from lifemask.graphics.camera import camera_for_crop, euler_deg_from_rotation
from lifemask.methods._retexture_chart import (
    OUTSIDE,
    TextureChart,
    pixel_places,
    sample_map,
    view_chart,
)
from lifemask.methods._texture_regions import clear_share
from lifemask.pipeline import Pipeline
from lifemask.pipeline_config import PipelineConfig
from lifemask.training._retexture_cache import HeadRecord
from lifemask.training._retexture_renders import unit_points
from lifemask.types import Geometry

MOST_YAW_DEG = 70.0
MOST_YAW_ERROR_DEG = 20.0
"""Between the label and the fit; beyond, one of them is wrong."""
LEAST_CLEAR = 0.6
"""Share of the fitted face's pixels that show its skin."""
LEAST_COVERED = 0.8
"""Share of the parser's skin that the fitted head covers."""
LEAST_COLOUR = 0.04
"""Spread of a picture's colours across their main axis over that along it; less is one tint."""


def create_fitter(family: Literal["open", "research"] = "research") -> Pipeline:
    """The pipeline whose geometry and regions the photos get: PGN, not refined."""
    return Pipeline(PipelineConfig(method="pgn", weights=family, refine=False))


def order_of_photos(crops: CropSet, seed: int) -> Int[ndarray, "m"]:
    """Numbers of the crops that are not too far turned, in random order."""
    ids = np.nonzero(np.abs(crops.yaw_deg) <= MOST_YAW_DEG)[0]
    return np.random.default_rng([seed, 12]).permutation(ids)


def photo_heads(
    crops: CropSet, ids: Int[ndarray, "m"], fitter: Pipeline, chart: TextureChart
) -> Iterator[HeadRecord | None]:
    """A head for each of some crops; None where the fit is doubtful or the picture is grey.

    Args:
        crops: whole images are nominal crops.
        ids: of the crops.
        fitter: from `create_fitter`.
        chart: of the fitter's model.
    """
    for number in ids:
        image = np.ascontiguousarray(crops.gather(np.array([number]))[0])
        yield _fitted(image, int(number), float(crops.yaw_deg[number]), fitter, chart)


def _fitted(
    image: UInt8[ndarray, "h w 3"],
    person: int,
    yaw_deg: float,
    fitter: Pipeline,
    chart: TextureChart,
) -> HeadRecord | None:
    if not _coloured(image):
        return None
    side = float(len(image))
    middle = (side - 1) / 2
    box: Box = (-0.5, -0.5, side - 0.5, side - 0.5)
    geometry = fitter.find_geometry(fitter.look(image, box))
    found = float(euler_deg_from_rotation(geometry.camera.rotation)[1])
    if abs(found - yaw_deg) > MOST_YAW_ERROR_DEG:
        return None
    regions = fitter.find_regions(image, geometry)
    assert regions is not None, "the default face model has a parser"
    regions = regions.seen_in((middle, middle), side, chart.size)
    photo = crop_square(image, (middle, middle), side, chart.size).image
    camera = camera_for_crop(geometry.camera, (middle, middle), side, chart.size)
    seen = replace(geometry, camera=camera)
    return _record(photo, seen, regions, chart, person, found)


def _record(
    photo: Float[Tensor, "3 n n"],
    seen: Geometry,
    regions: Regions,
    chart: TextureChart,
    person: int,
    yaw_deg: float,
) -> HeadRecord | None:
    size = chart.size
    places, shown = pixel_places(seen.vertices_mm, seen.camera, chart, size)
    mask = _clear_pixels(places, shown, regions, chart)
    if not _trusted(mask, shown, regions):
        return None
    view = view_chart(photo, seen.vertices_mm, seen.camera, chart, regions)
    return HeadRecord(
        photo=(photo * 255).round().byte().numpy()[None],
        light=np.zeros((1, 9, 3), np.float32),
        points=unit_points(view.points, size),
        places=places,
        visible=view.visible,
        mask=mask,
        normals=view.normals,
        albedo=torch.zeros(3, size, size),
        truth=torch.zeros(size, size),
        person=person,
        tone=float("nan"),
        yaw_deg=yaw_deg,
    )


def _pixels(size: int) -> Float[Tensor, "m 2"]:
    rows, columns = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    return torch.stack((columns, rows), -1).reshape(-1, 2).float()


def _clear_pixels(
    places: Float[Tensor, "n n 2"],
    shown: Bool[Tensor, "n n"],
    regions: Regions,
    chart: TextureChart,
) -> Float[Tensor, "n n"]:
    """How far pixels show the map's skin and nothing before it."""
    at = torch.where(places > OUTSIDE - 0.5, 0.0, places)[None]
    scalp = sample_map(chart.spread(chart.scalp[:, None])[None], at)[0, 0]
    clear = clear_share(_pixels(len(shown)), regions, scalp.reshape(-1))
    return clear.view(shown.shape) * shown


def _trusted(mask: Float[Tensor, "n n"], shown: Bool[Tensor, "n n"], regions: Regions) -> bool:
    """Whether the fitted face and the parsed one agree."""
    total = float(mask.sum())
    if total < LEAST_CLEAR * float(shown.sum()) or total < 0.1 * mask.numel():
        return False
    skin = regions.sample(_pixels(len(shown)), "nose", "lips", "brows", "skin", outside=0.0)
    skin = skin.view(shown.shape) > 0.5
    return float((skin & shown).sum()) >= LEAST_COVERED * float(skin.sum())


def _coloured(image: UInt8[ndarray, "h w 3"]) -> bool:
    """Whether a picture is neither black and white nor of one tint."""
    pixels = image.reshape(-1, 3) / 255.0
    pixels = pixels[pixels.sum(1) > 0.05]
    if len(pixels) < 3:
        return False
    spread = np.sqrt(np.maximum(np.linalg.eigvalsh(np.cov(pixels.T)), 0))
    return bool(spread[1] > LEAST_COLOUR * spread[2])
