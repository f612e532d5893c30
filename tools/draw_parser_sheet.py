"""Draw what the region parser does for a head's texture: photo, regions, head without and with.

    python tools/draw_parser_sheet.py PHOTO... --weights open -o docs/images/parser-texture.jpg

`sample` stands for scikit-image's astronaut; `CACHE:N` for picture N of the first shard of a cache
of renders, whose own region map is drawn beside the found one.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from lifemask.data.regions import load_region_cache
from lifemask.faces.crop import crop_square
from lifemask.head import Head, render_head, to_picture, view_camera
from lifemask.pipeline import Pipeline, PipelineConfig, read_photo

COLORS = np.array(
    [
        (228, 87, 86), (214, 106, 190), (84, 194, 214), (240, 206, 88), (214, 178, 142),
        (122, 34, 40), (96, 168, 92), (84, 92, 176), (24, 26, 30),
    ],
    np.uint8,
)  # fmt: skip
"""Of the nine regions, for pictures."""
SIDE = 220


def read(name: str) -> np.ndarray:
    """A photo (H, W, 3) uint8."""
    if name == "sample":
        from skimage import data

        return data.astronaut()
    folder, _, number = name.rpartition(":")
    if folder and Path(folder).is_dir():
        return load_region_cache(Path(folder), slice(0, 1)).gather(np.array([int(number)]))[0][0]
    return read_photo(name)


def row(pipeline: Pipeline, photo: np.ndarray) -> np.ndarray:
    """Photo, regions, and the head from two sides without and with regions (SIDE, 6 SIDE, 3)."""
    face = pipeline.find_faces(photo)[0]
    seen = pipeline.look(photo, face)
    geometry = pipeline.find_geometry(seen)
    regions = pipeline.find_regions(photo, geometry)
    assert regions is not None
    cut = crop_square(photo, regions.center_px, regions.side_px, SIDE).image
    panels = [(cut * 255).byte().permute(1, 2, 0).numpy()]
    classes = Image.fromarray(COLORS[regions.classes.numpy()])
    panels.append(np.asarray(classes.resize((SIDE, SIDE), Image.Resampling.NEAREST)))
    for used in (None, regions):
        refined = pipeline.refine(photo, geometry, seen.landmarks, used)
        appearance = pipeline.dress(photo, refined, used)
        head = Head(
            face=face, geometry=refined, appearance=appearance, image_size=seen.image_size,
            weights=pipeline.config.weights, model=pipeline.model, warnings=(),
        )  # fmt: skip
        for yaw in (-30.0, 30.0):
            camera = view_camera(refined.vertices_mm, SIDE, yaw_deg=yaw)
            panels.append(np.asarray(to_picture(*render_head(head, camera, SIDE, SIDE))))
    return np.hstack(panels)


def main() -> None:
    """Command line."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("photos", nargs="+")
    options.add_argument("--weights", choices=("open", "research"), default="open")
    options.add_argument("-o", "--output", type=Path, required=True)
    given = options.parse_args()
    torch.set_num_threads(1)
    pipeline = Pipeline(PipelineConfig(weights=given.weights, threads=1))
    rows = [row(pipeline, read(name)) for name in given.photos]
    Image.fromarray(np.vstack(rows)).save(given.output, quality=90)


if __name__ == "__main__":
    main()
