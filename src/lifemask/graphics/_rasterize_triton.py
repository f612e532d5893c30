"""The rasteriser's CUDA kernel; the rule it follows stands in `rasterize.py`.

Rounding, edge functions and depth planes come from the torch reference's `setup_faces`. The kernel
draws one face per program: it tests the pixels of the face's bounding box and keeps the largest
key (nearest depth, then lowest face id) of each by an atomic maximum, so the order in which the
programs run does not matter.
"""

from __future__ import annotations

import torch
import triton  # pyright: ignore[reportMissingImports]
import triton.language as tl  # pyright: ignore[reportMissingImports]
from torch import Tensor

from lifemask.graphics.rasterize import EMPTY_KEY, SUBPIXELS, setup_faces, unpack_key

_BLOCK = 128


def rasterize_triton(
    points: Tensor, faces: Tensor, height: int, width: int, cull: bool
) -> tuple[Tensor, Tensor]:
    """Face ids (b, h, w) int32 and depth (b, h, w) float32; see `rasterize.rasterize`."""
    setup = setup_faces(points, faces, height, width, cull)
    shape = (len(points), height, width)
    keys = torch.full(shape, EMPTY_KEY, dtype=torch.int64, device=points.device)
    integers = torch.cat(
        [
            setup.box,
            setup.edge,
            setup.step_x,
            setup.step_y,
            setup.origin,
            setup.image.unsqueeze(-1),
            setup.face.unsqueeze(-1),
        ],
        dim=-1,
    ).contiguous()
    planes = torch.stack((setup.z0, setup.slope_x, setup.slope_y), dim=-1).contiguous()
    if len(integers):
        # Without fused multiply-add, depths round as in the other kernels.
        _draw_faces[(len(integers),)](  # pyright: ignore[reportIndexIssue]
            integers,
            planes,
            keys,
            height,
            width,
            SUBPIXELS,
            BLOCK=_BLOCK,
            num_warps=_BLOCK // 32,
            enable_fp_fusion=False,
        )
    return unpack_key(keys)


_INTEGERS = tl.constexpr(17)
"""int64 per face: box 4, edge 3, step_x 3, step_y 3, origin 2, image, face."""


@triton.jit
def _draw_faces(integers, planes, keys, height, width, subpixels, BLOCK: tl.constexpr):
    """Draw face number `program_id` into the keys."""
    row = tl.program_id(0).to(tl.int64)
    at = integers + row * _INTEGERS
    x_low, y_low, x_high, y_high = tl.load(at), tl.load(at + 1), tl.load(at + 2), tl.load(at + 3)
    edge0, edge1, edge2 = tl.load(at + 4), tl.load(at + 5), tl.load(at + 6)
    step_x0, step_x1, step_x2 = tl.load(at + 7), tl.load(at + 8), tl.load(at + 9)
    step_y0, step_y1, step_y2 = tl.load(at + 10), tl.load(at + 11), tl.load(at + 12)
    x0, y0 = tl.load(at + 13), tl.load(at + 14)
    image, face = tl.load(at + 15), tl.load(at + 16)
    z0 = tl.load(planes + row * 3)
    slope_x = tl.load(planes + row * 3 + 1)
    slope_y = tl.load(planes + row * 3 + 2)

    columns = x_high - x_low + 1
    total = columns * (y_high - y_low + 1)
    for first in range(0, total, BLOCK):
        offset = first + tl.arange(0, BLOCK)
        x = x_low + offset % columns
        y = y_low + offset // columns
        value0 = edge0 + step_x0 * x + step_y0 * y
        value1 = edge1 + step_x1 * x + step_y1 * y
        value2 = edge2 + step_x2 * x + step_y2 * y
        inside = (offset < total) & ((value0 | value1 | value2) >= 0)

        from_x = (x * subpixels - x0).to(tl.float64)
        from_y = (y * subpixels - y0).to(tl.float64)
        depth = ((z0 + slope_y * from_y) + slope_x * from_x).to(tl.float32)
        depth = tl.where(depth == 0, 0.0, depth)  # -0.0 equals 0.0
        bits = depth.to(tl.int32, bitcast=True).to(tl.int64)
        ordered = tl.where(bits < 0, bits ^ 0x7FFFFFFF, bits)
        key = (ordered << 32) | (0x7FFFFFFF - face)
        pixel = (image * height + y) * width + x
        tl.atomic_max(keys + pixel, key, mask=inside, sem="relaxed")
