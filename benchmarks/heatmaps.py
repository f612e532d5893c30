"""Pictures of errors on a surface: each vertex's distance as a colour, seen from three sides."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw

from lifemask.graphics.camera import orthographic_camera, rotation_from_euler_deg
from lifemask.graphics.rasterize import interpolate
from lifemask.graphics.render import draw_surface

ANCHORS = ((0, (48, 78, 168)), (1 / 3, (70, 190, 190)), (2 / 3, (245, 215, 90)), (1, (190, 30, 45)))
YAWS_DEG = (0.0, 35.0, 80.0)
GREY = (150, 150, 150)


def colours(values: np.ndarray, limit: float) -> np.ndarray:
    """RGB (n, 3) in [0, 1] of values from 0 (blue) to `limit` (red); grey where undefined."""
    share = np.clip(np.nan_to_num(values) / limit, 0, 1)
    places = [a for a, _ in ANCHORS]
    rgb = np.stack([np.interp(share, places, [c[k] for _, c in ANCHORS]) for k in range(3)], axis=1)
    rgb[~np.isfinite(values)] = GREY
    return rgb / 255


def draw_heatmap(
    vertices_mm: np.ndarray,
    faces: np.ndarray,
    values: np.ndarray,
    path: Path,
    *,
    limit: float,
    title: str,
    center_mm: np.ndarray | None = None,
    height_mm: float = 240.0,
    size: int = 360,
) -> None:
    """Write a PNG of a surface coloured by values, from the front, the side and between.

    Args:
        vertices_mm: (v, 3) upright, face to +z.
        faces: (f, 3).
        values: (v,) NaN where undefined.
        path: of the PNG.
        limit: value that is red.
        title: printed on the picture, with the limit.
        center_mm: (3,) middle of the picture; None for the middle of the vertices.
        height_mm: what the picture shows.
        size: side of each view in px.
    """
    points = torch.from_numpy(np.asarray(vertices_mm, np.float32))
    rgb = torch.from_numpy(colours(values, limit).astype(np.float32))
    table = torch.from_numpy(np.asarray(faces, np.int64))
    middle = points.mean(0) if center_mm is None else torch.tensor(center_mm).float()
    views = [_view(points - middle, table, rgb, yaw, size / height_mm, size) for yaw in YAWS_DEG]
    sheet = Image.fromarray(np.concatenate(views, axis=1))
    ImageDraw.Draw(sheet).text((8, 6), f"{title}   red = {limit:g} or more", fill=(30, 30, 30))
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path)


def _view(
    points: torch.Tensor,
    faces: torch.Tensor,
    rgb: torch.Tensor,
    yaw_deg: float,
    scale: float,
    size: int,
) -> np.ndarray:
    rotation = rotation_from_euler_deg(torch.tensor([0.0, yaw_deg, 0.0]))
    half = (size - 1) / 2
    camera = orthographic_camera(rotation, scale, torch.tensor([half, half]))
    surface = draw_surface(points[None], faces, camera, size, size)
    colour = interpolate(rgb[None], faces, surface.fragments.face_ids, surface.bary)[0]
    light = 0.35 + 0.65 * surface.normals[0][..., 2:].clamp(0, 1)
    drawn = (surface.fragments.face_ids[0] >= 0)[..., None]
    picture = torch.where(drawn, colour * light, torch.ones(3))
    return (picture.clamp(0, 1) * 255).byte().numpy()
