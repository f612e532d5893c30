"""A page of faces and the surfaces that RAFaRe finds in them.

    python tools/rafare_page.py PHOTO... -o page.png [--weights open|research] [--name NAME ...]

A row each: photo, the guide's head, the surface's three levels, the same turned, and the head that
carries it. With `--name` one column for each of these weights instead of the levels. Photos without
a usable face are told and left out.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from lifemask.facemodel import load_face_model
from lifemask.graphics.camera import camera_for_crop, orthographic_camera, rotation_from_euler_deg
from lifemask.head import Head, render_head, to_picture
from lifemask.methods._rafare_carry import carry_surface
from lifemask.methods._rafare_field import Surface
from lifemask.methods._rafare_view import cut_crop, guide_of
from lifemask.methods.rafare import (
    LEVELS,
    RafarePredictConfig,
    RafarePredictor,
    crop_regions,
    load_rafare,
)
from lifemask.pipeline import Pipeline
from lifemask.pipeline_config import PipelineConfig
from lifemask.pipeline_input import read_photo
from lifemask.types import Camera, Crop, Geometry
from pages import write_page

PANEL = 256
TURN_DEG = 55.0
_UNIT_MM = 120.0


def row(pipeline: Pipeline, finders: list[RafarePredictor], path: Path) -> list[Image.Image]:
    """The panels of one photo."""
    photo = read_photo(path)
    seen = pipeline.look_for(photo)
    geometry = pipeline.find_geometry(seen)
    model = pipeline.model
    crop = cut_crop(photo, geometry, model, finders[0].size)
    camera = camera_for_crop(geometry.camera, crop.center_px, crop.side_px, PANEL)
    panels = [_picture(crop), _clay(geometry, camera)]
    guide, _ = guide_of(geometry, model, crop)
    region = crop_regions(crop, pipeline.find_regions(photo, geometry), guide).numpy()
    pixels = (crop.image * 255).round().byte().permute(1, 2, 0).numpy()
    found = [
        finder.surface(pixels, region, guide if finder.config.guide else None, level)
        for finder in finders
        for level in (LEVELS if len(finders) == 1 else (finder.config.level,))
    ]
    panels += [_clay(_free(surface), _front()) for surface in found]
    panels += [_clay(_free(surface), _front(TURN_DEG)) for surface in found[-1:]]
    free = finders[-1](photo, geometry, model, pipeline.find_regions(photo, geometry))
    carried = carry_surface(replace(geometry, surface=free), free, model)
    panels.append(_clay(carried, camera))
    return panels


def _free(surface: Surface) -> Geometry:
    return Geometry(surface.vertices * _UNIT_MM, surface.faces, _front())


def _front(yaw_deg: float = 0.0) -> Camera:
    """A camera that shows the cube's front, turned, on a panel."""
    half: Float[Tensor, "2"] = torch.full((2,), PANEL / 2 - 0.5)
    rotation = rotation_from_euler_deg(torch.tensor([0.0, yaw_deg, 0.0]))
    return orthographic_camera(rotation, PANEL / 2 / _UNIT_MM, half)


def _clay(geometry: Geometry, camera: Camera) -> Image.Image:
    from lifemask.types import Face

    head = Head(Face((0, 0, 1, 1), 1.0), geometry, None, (PANEL, PANEL), "open")
    return to_picture(*render_head(head, camera, PANEL, PANEL, clay=True))


def _picture(crop: Crop) -> Image.Image:
    pixels = (crop.image.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
    return Image.fromarray(pixels).resize((PANEL, PANEL), Image.Resampling.LANCZOS)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("photos", type=Path, nargs="+")
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--weights", choices=("open", "research"), default="open")
    parser.add_argument("--name", action="append", default=[], help="of other weights")
    parser.add_argument("--no-guide", action="store_true", help="the networks see the crop alone")
    options = parser.parse_args()
    pipeline = Pipeline(
        PipelineConfig(weights=options.weights, refine=False), model=load_face_model("lifemask")
    )
    plain = RafarePredictConfig(guide=not options.no_guide)
    finders = [
        load_rafare(options.weights, replace(plain, weights=name)) for name in options.name or [""]
    ]
    write_page(options.photos, lambda path: row(pipeline, finders, path), PANEL, options.out)


if __name__ == "__main__":
    main()
