"""Make the README's picture from the sample portrait: python tools/readme_picture.py."""

from __future__ import annotations

import sys
from pathlib import Path

from skimage import data

import lifemask
from lifemask.preview import preview

PICTURE = Path(__file__).resolve().parents[1] / "docs" / "images" / "sample.jpg"
WIDTH_PX = 1200


def main(weights: str = "open") -> None:
    """Reconstruct the astronaut (NASA, public domain) and save the preview as JPEG."""
    photo = data.astronaut()
    config = lifemask.PipelineConfig(weights=weights)  # pyright: ignore[reportArgumentType]
    picture = preview(lifemask.reconstruct(photo, config), photo, "astronaut")
    PICTURE.parent.mkdir(parents=True, exist_ok=True)
    height = round(picture.height * WIDTH_PX / picture.width)
    picture.resize((WIDTH_PX, height)).convert("RGB").save(PICTURE, quality=88, optimize=True)
    print(f"{PICTURE}: {PICTURE.stat().st_size // 1024} kB")


if __name__ == "__main__":
    main(*sys.argv[1:])
