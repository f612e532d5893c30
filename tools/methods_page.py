"""Draw docs/images/methods.jpg: the geometry methods side by side, before colours refine them.

    python tools/methods_page.py --data DIR [--weights open] [--photos FOLDER --out PAGE.png]

One row per face: the photo, then for each method the head laid over it and without colour from two
sides. Faces are those of `tools/gallery.py`, or the photos of a folder.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image
from skimage import data

import lifemask
from gallery import BACKGROUND, CELL_PX, synthetic_portraits
from lifemask.faces.image import load_image
from lifemask.graphics.camera import camera_for_crop
from lifemask.head import Head
from lifemask.pipeline import METHODS, Pipeline, PipelineConfig
from lifemask.preview import draw_wireframe, frame_in_photo

PICTURE = Path(__file__).resolve().parents[1] / "docs" / "images" / "methods.jpg"
SUFFIXES = (".jpg", ".jpeg", ".png")


def cells(photo: np.ndarray, heads: list[Head]) -> list[Image.Image]:
    """The photo cut to the face, and three views of each head."""
    (u, v), side = frame_in_photo(heads[0])
    left, top, size = round(u - side / 2), round(v - side / 2), round(side)
    cut = (
        Image.fromarray(photo)
        .crop((left, top, left + size, top + size))
        .resize((CELL_PX, CELL_PX), Image.Resampling.LANCZOS)
    )
    row = [cut]
    for head in heads:
        camera = camera_for_crop(head.geometry.camera, (u, v), side, CELL_PX)
        row += [draw_wireframe(cut, head, camera), head.render(CELL_PX)]
        row.append(head.render(CELL_PX, yaw_deg=60))
    return row


def main() -> None:
    """Reconstruct every face by every method and save the page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--data", type=Path, help="folder with skins and hdri")
    parser.add_argument("--photos", type=Path, help="folder of photos in place of the gallery's")
    parser.add_argument("--weights", choices=("open", "research"), default="open")
    parser.add_argument("--faces", type=int, default=4, help="synthetic portraits")
    parser.add_argument("--out", type=Path, default=PICTURE)
    options = parser.parse_args()
    if options.photos:
        files = sorted(p for p in options.photos.iterdir() if p.suffix.lower() in SUFFIXES)
        photos = [load_image(path) for path in files]
    elif options.data:
        photos = [data.astronaut(), *synthetic_portraits(options.data, options.faces)]
    else:
        parser.error("give --data or --photos")
    pipelines = [
        Pipeline(PipelineConfig(options.weights, name, texture="none", refine=False))
        for name in METHODS
    ]
    rows = []
    for photo in photos:
        try:
            rows.append(cells(photo, [pipeline(photo)[0] for pipeline in pipelines]))
        except lifemask.UserError as error:
            print(f"left out: {error}")
    page = Image.new("RGB", (CELL_PX * len(rows[0]), CELL_PX * len(rows)), BACKGROUND)
    for i, row in enumerate(rows):
        for j, cell in enumerate(row):
            page.paste(cell.convert("RGB"), (j * CELL_PX, i * CELL_PX))
    page.save(options.out, quality=85, optimize=True)
    print(f"{options.out.name}: {options.out.stat().st_size // 1024} kB")


if __name__ == "__main__":
    main()
