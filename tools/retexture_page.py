"""A page of faces and what the re-renderable texture makes of them.

    python tools/retexture_page.py PHOTO... -o page.png [--weights open|research]

A row each: photo, albedo, light on grey skin, re-render over the photo, and the head in three
other lights. Photos without a usable face are told and left out.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from lifemask.evaluation._retexture_cases import FaceCase, photo_case
from lifemask.evaluation.retexture import judged, rerender
from lifemask.facemodel import load_face_model
from lifemask.graphics.camera import camera_for_crop
from lifemask.graphics.lighting import STUDIO_LIGHTS, ambient_light, studio_light
from lifemask.head import render_head, to_picture
from lifemask.pipeline import Pipeline
from lifemask.pipeline_config import PipelineConfig
from lifemask.pipeline_input import read_photo
from lifemask.preview import frame_in_photo
from pages import write_page

PANEL = 192
RELIGHTS = ("key", "sunset", "rim")
GREY = 0.4


def row(pipeline: Pipeline, path: Path) -> list[Image.Image]:
    """The panels of one photo."""
    photo = read_photo(path)
    head = pipeline(photo)[0]
    assert head.appearance is not None and head.face is not None
    center, side = frame_in_photo(head)
    camera = camera_for_crop(head.geometry.camera, torch.tensor(center), side * 0.75, PANEL)

    def drawn(light: object) -> Image.Image:
        return to_picture(*render_head(head, camera, PANEL, PANEL, lighting=light))  # type: ignore[arg-type]

    case = photo_case(path.stem, photo, pipeline, head.face)
    answer = judged(head.appearance, case)
    grey = replace(answer, albedo=torch.full_like(answer.albedo, GREY))
    return [
        _tensor_picture(case.photos[0]),
        drawn(ambient_light(1.0)),
        _tensor_picture(_on_black(rerender(case, 0, grey), case)),
        _tensor_picture(rerender(case, 0, answer)),
        *(drawn(studio_light(name)) for name in RELIGHTS if name in STUDIO_LIGHTS),
    ]


def _on_black(picture: Tensor, case: FaceCase) -> Tensor:
    return picture * case.pixels


def _tensor_picture(image: Tensor) -> Image.Image:
    pixels = (image.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
    return Image.fromarray(pixels).resize((PANEL, PANEL), Image.Resampling.LANCZOS)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("photos", type=Path, nargs="+")
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--weights", choices=("open", "research"), default="open")
    parser.add_argument("--texture", default="retexture")
    options = parser.parse_args()
    config = PipelineConfig(weights=options.weights, texture=options.texture)
    pipeline = Pipeline(config, model=load_face_model("lifemask"))
    write_page(options.photos, lambda path: row(pipeline, path), PANEL, options.out)


if __name__ == "__main__":
    main()
