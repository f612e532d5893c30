"""Draw docs/images/gallery.jpg: python tools/gallery.py --data DIR [--weights open].

One row per face: the photo, the fitted head laid over it, front, three-quarter and two lights. The
first row is the astronaut portrait (NASA, public domain); the others are people who do not exist,
rendered by `lifemask.data.synthetic`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image
from skimage import data

import lifemask
from lifemask.data.synthetic import Sample, SyntheticConfig, create_generator
from lifemask.head import Head
from lifemask.preview import draw_wireframe, frame_in_photo

PICTURE = Path(__file__).resolve().parents[1] / "docs" / "images" / "gallery.jpg"
CELL_PX = 220
SIZE_PX = 320
CLEARLY = 0.01
"""Share of a picture that glasses cover at least to be worth a row."""
BACKGROUND = (26, 27, 31)


def synthetic_portraits(folder: Path, count: int, seed: int = 14) -> list[np.ndarray]:
    """The first renders (s, s, 3) uint8 of a seed without occluders, the last one with glasses."""
    generator = create_generator(SyntheticConfig(seed=seed, size=SIZE_PX, expand=1.5), folder)
    samples = generator.render(range(16 * count))
    free = [s for s in samples if not s.flags[2] and _like_skin(s)]  # occluder
    plain = [s.image for s in free if not s.flags[0]]
    worn = [s.image for s in free if s.glasses.mean() > CLEARLY]
    return [*plain[: count - 1], *worn[:1]]


def _like_skin(sample: Sample) -> bool:
    """Whether the visible landmarks have a colour that skin has: the renders are recoloured."""
    u, v = sample.points[sample.visible, :2].round().astype(int).clip(0, SIZE_PX - 1).T
    red, green, blue = sample.image[v, u].astype(float).mean(0)
    return len(u) > 150 and red > green > blue and 1.15 < red / blue < 2.2 and red > 70


def row(photo: np.ndarray, head: Head) -> list[Image.Image]:
    """The cells of one face."""
    (u, v), side = frame_in_photo(head)
    box = tuple(round(x) for x in (u - side / 2, v - side / 2, u + side / 2, v + side / 2))
    cut = Image.fromarray(photo).crop(box).resize((CELL_PX, CELL_PX), Image.Resampling.LANCZOS)
    views = [head.render(CELL_PX), head.render(CELL_PX, yaw_deg=40)]
    lights = [
        head.relight(name).render(CELL_PX, yaw_deg=yaw)
        for name, yaw in (("key", -25), ("sunset", 20))
    ]
    return [cut, _overlay(cut, head, (u, v), side), *views, *lights]


def _overlay(cut: Image.Image, head: Head, center: tuple[float, float], side: float) -> Image.Image:
    from lifemask.graphics.camera import camera_for_crop

    camera = camera_for_crop(head.geometry.camera, center, side, CELL_PX)
    return draw_wireframe(cut, head, camera)


def main() -> None:
    """Reconstruct the faces and save the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with skins and hdri")
    parser.add_argument("--weights", choices=("open", "research"), default="open")
    parser.add_argument("--faces", type=int, default=5, help="synthetic portraits")
    options = parser.parse_args()
    config = lifemask.PipelineConfig(weights=options.weights)
    rows = []
    for photo in [data.astronaut(), *synthetic_portraits(options.data, options.faces)]:
        try:
            rows.append(row(photo, lifemask.reconstruct(photo, config)))
        except lifemask.UserError:
            print("no face found in a portrait: left out")
    page = Image.new("RGB", (CELL_PX * len(rows[0]), CELL_PX * len(rows)), BACKGROUND)
    for i, cells in enumerate(rows):
        for j, cell in enumerate(cells):
            page.paste(cell.convert("RGB"), (j * CELL_PX, i * CELL_PX))
    page.save(PICTURE, quality=85, optimize=True)
    print(f"{PICTURE}: {PICTURE.stat().st_size // 1024} kB")


if __name__ == "__main__":
    main()
