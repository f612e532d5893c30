"""Contact sheet of labelled renders: python tools/synth_sheet.py OUT.png --data DIR [--maps].

Without --maps, the images. With it one row per image: the image with its landmarks, linear albedo,
normals, depth, uv, light that arrives, regions, and materials.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from lifemask.data._synthetic_kernels import MATERIALS
from lifemask.data.synthetic import (
    CameraChoice,
    Family,
    Sample,
    SyntheticConfig,
    create_generator,
)
from lifemask.facemodel import load_face_model
from lifemask.types import REGION_NAMES

COLUMNS = 10


def _colours(count: int) -> NDArray[np.uint8]:
    """Colours (256, 3) that tell `count` classes apart; black for the rest."""
    out = np.zeros((256, 3), np.uint8)
    hue = np.arange(count) * 0.381966 % 1
    out[:count] = 255 * np.clip(np.abs((hue[:, None] + [0, 2 / 3, 1 / 3]) % 1 * 6 - 3) - 1, 0, 1)
    return out


def _grey(values: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Values (h, w), NaN allowed, stretched over [0, 255] as RGB."""
    low, high = np.nanmin(values), np.nanmax(values)
    scaled = np.nan_to_num((values - low) / max(high - low, 1e-6))
    return np.repeat((255 * scaled).astype(np.uint8)[..., None], 3, -1)


def map_row(sample: Sample) -> NDArray[np.uint8]:
    """The image and its truth side by side, (h, 8 w, 3) uint8."""
    maps = sample.maps
    if maps is None:
        raise ValueError("the sample was rendered without maps")
    marked = Image.fromarray(sample.image)
    draw = ImageDraw.Draw(marked)
    for (u, v, _), seen in zip(sample.points, sample.visible, strict=True):
        draw.point((u, v), (60, 255, 60) if seen else (255, 60, 60))
    uv = np.nan_to_num(np.concatenate([maps.uv, np.zeros_like(maps.uv[..., :1])], -1))
    light = np.stack([maps.ambient, maps.key, 0 * maps.key], -1)
    shown = maps.material[..., None] < len(MATERIALS)
    tiles = [
        np.asarray(marked), np.clip(maps.albedo, 0, 1) ** (1 / 2.2) * 255,
        (maps.normals * 0.5 + 0.5) * 255 * shown, _grey(-maps.depth_mm), uv * 255, light * 255,
        _colours(len(REGION_NAMES))[sample.region], _colours(len(MATERIALS))[maps.material],
    ]  # fmt: skip
    return np.concatenate([np.asarray(t).astype(np.uint8) for t in tiles], 1)


def main() -> None:
    """Render the images and write the sheet."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--data", type=Path, required=True, help="folder with skins/ and hdri/")
    parser.add_argument("--count", type=int, default=60)
    parser.add_argument("--first", type=int, default=0, help="number of the first image")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--bank", type=int, default=30, help="skins to draw from")
    parser.add_argument("--camera", choices=get_args(CameraChoice), default="perspective")
    parser.add_argument("--maps", action="store_true", help="one row of truth maps per image")
    parser.add_argument("--photo-skins", type=Path, help="npz of photo textures: research only")
    parser.add_argument("--face-model", default="lifemask")
    parser.add_argument("--face-model-path", type=Path)
    args = parser.parse_args()
    family: Family = "open" if args.photo_skins is None else "research"
    config = SyntheticConfig(
        family=family, seed=args.seed, size=args.size, bank_size=args.bank, camera=args.camera
    )
    model = load_face_model(args.face_model, args.face_model_path)
    generator = create_generator(config, args.data, model, args.photo_skins)
    indices = range(args.first, args.first + args.count)
    samples = generator.render(list(indices), "maps" if args.maps else "labels")
    if args.maps:
        rows = [map_row(sample) for sample in samples]
    else:
        images = [sample.image for sample in samples]
        images += [np.zeros_like(images[0])] * (-len(images) % COLUMNS)
        rows = [np.concatenate(images[i : i + COLUMNS], 1) for i in range(0, len(images), COLUMNS)]
    Image.fromarray(np.concatenate(rows)).save(args.out)
    print(f"{len(samples)} images on {args.out}")


if __name__ == "__main__":
    main()
