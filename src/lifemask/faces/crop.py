"""Square crops of photos and the exact way between crop pixels and photo pixels."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from lifemask.types import Crop, Face

Box = tuple[float, float, float, float]
_BAR_LEVELS = 12
"""Largest difference (of 255) from a bar's colour in it: what JPEG leaves beside the photo."""


def crop_face(
    image: UInt8[np.ndarray, "h w 3"], face: Face | Box, size: int, expand: float = 1.0
) -> Crop:
    """The square around a face.

    Args:
        image: photo, (H, W, 3) uint8 RGB.
        face: a face or a box (x0, y0, x1, y1) in photo px.
        size: side of the result in px.
        expand: side of the square in units of the box's longer side.

    Returns:
        The crop, centred on the box.
    """
    x0, y0, x1, y1 = face.box if isinstance(face, Face) else face
    center = ((x0 + x1) / 2, (y0 + y1) / 2)
    return crop_square(image, center, expand * max(x1 - x0, y1 - y0), size)


def crop_square(
    image: UInt8[np.ndarray, "h w 3"],
    center_px: tuple[float, float],
    side_px: float,
    size: int,
) -> Crop:
    """Cut a square at any sub-pixel place, antialiased; the border colour continues outside.

    Args:
        image: photo, (H, W, 3) uint8 RGB.
        center_px: (u, v) of the square's centre in photo px.
        side_px: its side in photo px, > 0.
        size: side of the result in px.

    Returns:
        The crop; `crop_to_photo` and `photo_to_crop` convert its points exactly.

    Raises:
        ValueError: a side or centre that is not positive and finite.
    """
    from PIL import Image

    if not (side_px > 0 and math.isfinite(side_px) and all(map(math.isfinite, center_px))):
        raise ValueError(f"crop with centre {center_px} and side {side_px} px is impossible")
    # PIL counts from the corner of the first pixel, so its coordinates are ours plus one half.
    left, top = (c + 0.5 - side_px / 2 for c in center_px)
    x0, y0 = math.floor(left) - 1, math.floor(top) - 1
    x1, y1 = math.ceil(left + side_px) + 1, math.ceil(top + side_px) + 1
    patch = _patch(image, x0, y0, x1, y1)
    box = (left - x0, top - y0, left - x0 + side_px, top - y0 + side_px)
    resized = Image.fromarray(patch).resize((size, size), Image.Resampling.BILINEAR, box)
    pixels = torch.from_numpy(np.array(resized)).permute(2, 0, 1).float() / 255
    return Crop(pixels.contiguous(), (float(center_px[0]), float(center_px[1])), float(side_px))


@dataclass(frozen=True)
class Window:
    """A rectangle of whole photo pixels, reduced by a whole factor; nothing is made up outside.

    Attributes:
        image: (h, w, 3) uint8 RGB.
        center_px: (u, v), with `side_px` and `size` the square crop that has the same pixels, for
            `graphics.camera.camera_for_crop`.
        side_px: see `center_px`.
        size: see `center_px`.
    """

    image: UInt8[np.ndarray, "h w 3"]
    center_px: tuple[float, float]
    side_px: float
    size: int


def cut_window(image: UInt8[np.ndarray, "h w 3"], box: Box, max_side: int) -> Window | None:
    """The part of a box that lies in the photo, box-averaged until it is small enough.

    Bars of one colour around the photo are outside it, as what lies beyond the picture is.

    Args:
        image: photo, (H, W, 3) uint8 RGB.
        box: (x0, y0, x1, y1) in photo px.
        max_side: longest side of the result in px.

    Returns:
        The window; None when the box lies outside the photo.
    """
    from PIL import Image

    left, top, right, bottom = without_bars(image)
    x0, y0 = max(left, math.floor(box[0])), max(top, math.floor(box[1]))
    x1, y1 = min(right, math.ceil(box[2]) + 1), min(bottom, math.ceil(box[3]) + 1)
    if x1 <= x0 or y1 <= y0:
        return None
    factor = math.ceil(max(x1 - x0, y1 - y0) / max_side)
    columns, rows = max(1, (x1 - x0) // factor), max(1, (y1 - y0) // factor)
    part = Image.fromarray(image[y0 : y0 + rows * factor, x0 : x0 + columns * factor])
    reduced = part.reduce(factor) if factor > 1 else part
    size = max(columns, rows)
    side = float(size * factor)
    center = (x0 - 0.5 + side / 2, y0 - 0.5 + side / 2)
    return Window(np.array(reduced), center, side, size)


def without_bars(image: UInt8[np.ndarray, "h w 3"]) -> tuple[int, int, int, int]:
    """The part of a picture that is no bar: padding of one colour, whichever, along its sides.

    A row or column belongs to a bar when all of it, and all between it and the picture's border,
    has one colour; a plain wall can be a bar, a head cannot.

    Args:
        image: (H, W, 3) uint8 RGB.

    Returns:
        Half-open px (x0, y0, x1, y1), columns x0..x1 and rows y0..y1; the whole picture when it
        is nothing but bars.
    """
    height, width = image.shape[:2]
    y0, y1 = _bar_lines(image), height - _bar_lines(image[::-1])
    columns = image[y0:y1].swapaxes(0, 1) if y0 < y1 else image.swapaxes(0, 1)
    x0, x1 = _bar_lines(columns), width - _bar_lines(columns[::-1])
    return (x0, y0, x1, y1) if x0 < x1 and y0 < y1 else (0, 0, width, height)


def _bar_lines(lines: UInt8[np.ndarray, "n m 3"]) -> int:
    """How many of the first lines have no pixel of another colour than the first line's."""
    color = np.median(lines[0], axis=0)
    for count, line in enumerate(lines):
        if np.abs(line - color).max() > _BAR_LEVELS:
            return count
    return len(lines)


def crop_to_photo(points: Float[Tensor, "*b n d"], crop: Crop) -> Float[Tensor, "*b n d"]:
    """Crop pixels (u, v) or (u, v, w) to photo pixels; w scales with the crop."""
    scale = crop.side_px / crop.size
    origin = [c - crop.side_px / 2 + 0.5 * scale for c in crop.center_px]
    return points * scale + points.new_tensor([*origin, 0.0][: points.shape[-1]])


def photo_to_crop(points: Float[Tensor, "*b n d"], crop: Crop) -> Float[Tensor, "*b n d"]:
    """Photo pixels (u, v) or (u, v, w) to crop pixels; the inverse of `crop_to_photo`."""
    scale = crop.side_px / crop.size
    origin = [c - crop.side_px / 2 + 0.5 * scale for c in crop.center_px]
    return (points - points.new_tensor([*origin, 0.0][: points.shape[-1]])) / scale


def square_box(points: Float[Tensor, "n d"]) -> tuple[tuple[float, float], float]:
    """The landmark square of 3DDFA: centre of the points' box, side sqrt(2) max(w, h).

    Args:
        points: (n, 2) or (n, 3) in px; only u and v count.

    Returns:
        (centre (u, v), side) in px. Source: Zhu et al., "Face alignment across large poses" (code).
    """
    low, high = points[:, :2].amin(0), points[:, :2].amax(0)
    center = (low + high) / 2
    return (float(center[0]), float(center[1])), float((high - low).max()) * math.sqrt(2)


def _patch(
    image: UInt8[np.ndarray, "h w 3"], x0: int, y0: int, x1: int, y1: int
) -> UInt8[np.ndarray, "h w 3"]:
    """Rows y0..y1 and columns x0..x1; beyond the photo its nearest pixel repeats."""
    height, width = image.shape[:2]
    if x0 >= 0 and y0 >= 0 and x1 <= width and y1 <= height:
        return image[y0:y1, x0:x1]
    rows = np.clip(np.arange(y0, y1), 0, height - 1)
    columns = np.clip(np.arange(x0, x1), 0, width - 1)
    return image[rows[:, None], columns]
