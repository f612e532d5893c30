"""Draws the sheet by which displacement detail is judged: smooth and detailed, side by side.

Run: python tools/detail_sheet.py --out sheet.png [--size 400] [--map 1024]
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from head_model_sheet import face_colours, tile
from lifemask.facemodel import load_face_model
from lifemask.facemodel.detail import create_detail, displace

CASES: tuple[tuple[str, dict[str, float], float], ...] = (
    ("neutral, young", {}, 0.1),
    ("neutral, old", {}, 1.0),
    ("brows up", {"browInnerUp": 1, "browOuterUpLeft": 1, "browOuterUpRight": 1}, 0.5),
    ("frown", {"browDownLeft": 1, "browDownRight": 1, "noseSneerLeft": 1, "noseSneerRight": 1,
               "eyeSquintLeft": 0.6, "eyeSquintRight": 0.6}, 0.5),
    ("smile", {"mouthSmileLeft": 0.9, "mouthSmileRight": 0.9, "cheekSquintLeft": 0.7,
               "cheekSquintRight": 0.7}, 0.6),
    ("pucker, chin", {"mouthPucker": 1, "mouthShrugLower": 0.8}, 0.6),
)  # fmt: skip


def main() -> None:
    """Write the sheet: one row per case, smooth, detailed, detailed from the side."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--size", type=int, default=400)
    parser.add_argument("--map", type=int, default=1024)
    args = parser.parse_args()
    model = load_face_model("lifemask")
    detail = create_detail(model, size=args.map)
    colours = face_colours(model)  # pyright: ignore[reportArgumentType]
    names = model.expression_names
    rows = []
    for person, (_, active, age) in enumerate(CASES):
        b = torch.tensor([active.get(name, 0.0) for name in names])
        identity = torch.randn(model.identity_size, generator=torch.Generator().manual_seed(person))
        head = model(0.6 * identity, b)
        height = detail.displacement_mm(b.numpy(), age, person)
        fine = displace(detail, head, height)
        smooth = displace(detail, head, 0 * height)
        view = {"centre": (0.0, 0.0, 60.0), "span_mm": 190.0}
        tiles = [
            tile(mesh.vertices, mesh.faces, colours[mesh.parent], yaw, args.size, **view)
            for mesh, yaw in ((smooth, 0.0), (fine, 0.0), (smooth, 50.0), (fine, 50.0))
        ]
        rows.append(torch.cat(tiles, 1))
    pairs = [torch.cat(rows[i : i + 2], 1) for i in range(0, len(rows), 2)]
    picture = (torch.cat(pairs).numpy() * 255).astype(np.uint8)
    Image.fromarray(picture).save(args.out)


if __name__ == "__main__":
    main()
