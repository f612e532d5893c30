"""Draws the sheet by which the head model is judged: mean, modes, random heads, expressions.

Run: python tools/head_model_sheet.py --out docs/images/head_model_sheet.jpg [--model FILE]
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from lifemask.facemodel import load_face_model
from lifemask.facemodel.linear import LinearFaceModel
from lifemask.graphics.rasterize import barycentric_at_pixels, interpolate, rasterize

COLUMNS = 12
COLOURS = {"skin": (0.75, 0.58, 0.5), "eyes": (0.85, 0.84, 0.82), "teeth": (0.82, 0.78, 0.68)}
REGIONS = {
    "gums": (0.62, 0.28, 0.28),
    "tongue": (0.62, 0.25, 0.25),
    "inner_mouth": (0.36, 0.13, 0.13),
    "lips": (0.66, 0.42, 0.38),
}
KEY = torch.nn.functional.normalize(torch.tensor([0.4, 0.5, 0.75]), dim=0)
FILL = torch.nn.functional.normalize(torch.tensor([-0.8, 0.1, 0.5]), dim=0)


def face_colours(model: LinearFaceModel) -> Tensor:
    """Linear RGB (f, 3): parts, lips and mouth, and a painted iris."""
    topology = model.topology
    rows = [COLOURS.get(name, REGIONS["tongue"]) for name in topology.part_names]
    colours = torch.tensor(rows)[topology.face_part]
    for name, value in REGIONS.items():
        colours[topology.regions[name][topology.faces].all(1)] = torch.tensor(value)
    uv = topology.uvs[topology.faces_uv].mean(1)
    eyes = topology.face_part == topology.part_names.index("eyes")
    centres = torch.tensor([[0.25, 0.5], [0.75, 0.5]])
    radius = (uv[:, None] - centres).norm(dim=-1).amin(1)
    colours[eyes & (radius < 0.0717)] = torch.tensor([0.16, 0.25, 0.33])
    colours[eyes & (radius < 0.0371)] = torch.tensor([0.01, 0.01, 0.01])
    return colours


def normals(points: Tensor, faces: Tensor) -> Tensor:
    """Area-weighted vertex normals (v, 3)."""
    corner = points[faces]
    cross = torch.linalg.cross(corner[:, 1] - corner[:, 0], corner[:, 2] - corner[:, 0])
    total = torch.zeros_like(points)
    for i in range(3):
        total.index_add_(0, faces[:, i], cross)
    return torch.nn.functional.normalize(total, dim=-1)


def tile(
    points: Tensor,
    faces: Tensor,
    colours: Tensor,
    yaw_deg: float,
    size: int,
    centre: tuple[float, float, float] = (0.0, 10.0, 30.0),
    span_mm: float = 275.0,
) -> Tensor:
    """One clay view (size, size, 3), sRGB-like in [0, 1]; nose to image right for yaw > 0."""
    yaw = math.radians(yaw_deg)
    turn = torch.tensor(
        [[math.cos(yaw), 0, math.sin(yaw)], [0, 1, 0], [-math.sin(yaw), 0, math.cos(yaw)]]
    )
    posed = (points - torch.tensor(centre)) @ turn.T
    side = 2 * size
    scale = side / span_mm
    screen = torch.stack(
        (side / 2 + scale * posed[:, 0], side / 2 - scale * posed[:, 1], scale * posed[:, 2]), 1
    )[None]
    fragments = rasterize(screen, faces, side, side, cull_backfaces=True)
    bary = barycentric_at_pixels(screen, faces, fragments.face_ids)
    normal = interpolate(normals(posed, faces)[None], faces, fragments.face_ids, bary)[0]
    normal = torch.nn.functional.normalize(normal, dim=-1)
    light = 0.18 + 0.75 * (normal @ KEY).clamp(min=0) + 0.22 * (normal @ FILL).clamp(min=0)
    ids = fragments.face_ids[0].long()
    image = colours[ids.clamp(min=0)] * light[..., None]
    image = torch.where((ids >= 0)[..., None], image.clamp(0, 1) ** (1 / 1.7), torch.ones(3))
    return image.reshape(size, 2, size, 2, 3).mean((1, 3))


def sheet(model: LinearFaceModel, size: int) -> Tensor:
    """All tiles as one picture (h, w, 3)."""
    faces, colours = model.topology.faces, face_colours(model)
    tiles = []

    def add(points: Tensor, yaw_deg: float = 0.0, **view) -> None:
        tiles.append(tile(points, faces, colours, yaw_deg, size, **view))

    for yaw in (-90.0, -60.0, -30.0, 0.0, 30.0, 60.0, 90.0):
        add(model.mean, yaw)
    eye, mouth = (33.0, 36.0, 95.0), (0.0, -35.0, 100.0)
    names = model.expression_names

    def shape(**values: float) -> Tensor:
        b = torch.tensor([values.get(name, 0.0) for name in names])
        return model(torch.zeros(model.identity_size), b)

    add(model.mean, 0.0, centre=eye, span_mm=50.0)
    add(shape(eyeBlinkLeft=1.0), 20.0, centre=eye, span_mm=50.0)
    smile = dict.fromkeys(("mouthSmileLeft", "mouthSmileRight"), 0.9) | {"jawOpen": 0.15}
    lift = dict.fromkeys(("mouthUpperUpLeft", "mouthUpperUpRight"), 0.4)
    add(shape(**smile, **lift), 15.0, centre=mouth, span_mm=90.0)
    add(shape(jawOpen=0.8), 0.0, centre=(0.0, -50.0, 100.0), span_mm=110.0)
    add(shape(jawOpen=0.5, tongueOut=1.0), 40.0, centre=mouth, span_mm=120.0)
    for sign in (3.0, -3.0):
        for i in range(10):
            add(model.mean + sign * model.identity_basis[i])
        add(model.mean + sign * model.identity_basis[0], 60.0)
        add(model.mean + sign * model.identity_basis[1], 60.0)
    generator = torch.Generator().manual_seed(1)
    for i in range(24):
        a = torch.randn(model.identity_size, generator=generator)
        add(model(a, torch.zeros(len(names))), (0.0, 35.0, 75.0)[i % 3])
    for name in names:
        values = {name: 1.0} | ({"jawOpen": 1.0} if name == "mouthClose" else {})
        yaw = 25.0 if name.endswith("Left") else 0.0
        add(shape(**values), yaw, centre=(0.0, -5.0, 60.0), span_mm=190.0)
    tiles += [torch.ones(size, size, 3)] * (-len(tiles) % COLUMNS)
    rows = [torch.cat(tiles[i : i + COLUMNS], 1) for i in range(0, len(tiles), COLUMNS)]
    return torch.cat(rows)


def main() -> None:
    """Writes the picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--model", type=Path, help="another asset than the committed one")
    parser.add_argument("--size", type=int, default=140, help="side of a tile in px")
    options = parser.parse_args()
    model = load_face_model("lifemask", options.model)
    assert isinstance(model, LinearFaceModel)
    picture = (sheet(model, options.size) * 255).round().to(torch.uint8).numpy()
    options.out.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(options.out, quality=82, optimize=True)
    print(options.out, picture.shape, options.out.stat().st_size, "bytes")


if __name__ == "__main__":
    main()
