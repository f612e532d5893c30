"""Make the README's pictures from the sample portrait: python tools/readme_picture.py."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import torch
from PIL import Image
from skimage import data

import lifemask
from lifemask.export import neutral_and_deltas
from lifemask.graphics.lighting import studio_light
from lifemask.head import Head, render_head, to_picture, view_camera
from lifemask.preview import PANEL, preview
from lifemask.types import Lighting

FOLDER = Path(__file__).resolve().parents[1] / "docs" / "images"
WIDTH_PX, TILE_PX = 1200, 300
FACES: tuple[tuple[float, dict[str, float]], ...] = (
    (-20.0, {}),
    (-8.0, {"jawOpen": 0.55, "browInnerUp": 0.8, "eyeWideLeft": 0.7, "eyeWideRight": 0.7}),
    (8.0, {"eyeBlinkLeft": 1.0, "mouthSmileLeft": 0.9, "cheekSquintLeft": 0.7}),
    (20.0, {"mouthPucker": 0.9, "browDownLeft": 0.7, "browDownRight": 0.7}),
)
"""Turn of the head in degrees, and the activations of its blendshapes."""


def main(weights: str = "open") -> None:
    """Reconstruct the astronaut (NASA, public domain); save the preview and what can be done."""
    photo = data.astronaut()
    config = lifemask.PipelineConfig(weights=weights)  # pyright: ignore[reportArgumentType]
    head = lifemask.reconstruct(photo, config)
    save(preview(head, photo, "astronaut"), FOLDER / "sample.jpg")
    save(use(head), FOLDER / "use.jpg")


def use(head: Head) -> Image.Image:
    """A row of lights, the first of them none but the colour of the skin, and one of faces."""
    assert head.appearance is not None
    flat = Lighting(studio_light("neutral").sh * 1.5)
    lit = [(head, flat, 0.0), *((head, studio_light(n), 15.0) for n in ("soft", "rim", "sunset"))]
    posed = [(with_expression(head, face), studio_light("key"), yaw) for yaw, face in FACES]
    page = Image.new("RGB", (4 * TILE_PX, 2 * TILE_PX), PANEL)
    for number, (shown, light, yaw) in enumerate([*lit, *posed]):
        camera = view_camera(head.geometry.vertices_mm, TILE_PX, yaw)
        image, mask = render_head(shown, camera, TILE_PX, TILE_PX, lighting=light, supersample=3)
        red, green, blue = (c / 255 for c in PANEL)
        tile = to_picture(image, mask, (red, green, blue))
        page.paste(tile, (number % 4 * TILE_PX, number // 4 * TILE_PX))
    return page


def with_expression(head: Head, activations: dict[str, float]) -> Head:
    """The head with these blendshapes, the others at rest."""
    assert head.model is not None
    neutral, deltas = neutral_and_deltas(head.geometry, head.model)
    names = head.model.expression_names
    values = torch.tensor([activations.get(name, 0.0) for name in names])
    moved = neutral + torch.einsum("e,evc->vc", values, deltas)
    return replace(head, geometry=replace(head.geometry, vertices_mm=moved))


def save(picture: Image.Image, path: Path) -> None:
    """A picture as JPEG of the README's width."""
    height = round(picture.height * WIDTH_PX / picture.width)
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.resize((WIDTH_PX, height)).convert("RGB").save(path, quality=88, optimize=True)
    print(f"{path}: {path.stat().st_size // 1024} kB")


if __name__ == "__main__":
    main(*sys.argv[1:])
