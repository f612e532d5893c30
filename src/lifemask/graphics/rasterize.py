"""Which triangle covers which pixel: one signature, three kernels that agree on every pixel.

The rule, the same in all of them (the tests compare them pixel by pixel):

1. Corners are rounded to 1/4096 px. Faces are skipped when a corner is not finite, lies beyond
   `MAX_COORDINATE_PX`, or when the rounded corners are collinear.
2. A face covers the pixel (x, y) when the point (x, y) lies inside; points on an edge belong to
   the face only if the edge is a top or a left one. Edge functions are exact integers, so
   triangles that share an edge leave no gap and never both own a pixel.
3. Depth is the face's plane evaluated in float64 in a fixed order and rounded to float32; the
   larger (nearer) wins, the lower face id where two are equal.

Kernels return face ids and depth only. Barycentrics are recomputed here in torch from the ids, and
through them everything that is interpolated is differentiable.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

Backend = Literal["auto", "torch", "numba", "triton"]

SUBPIXEL_BITS = 12
SUBPIXELS = 1 << SUBPIXEL_BITS
MAX_COORDINATE_PX = 1 << 17
MAX_IMAGE_SIDE = 1 << 15
_CANDIDATES_PER_CHUNK = 1 << 22


@dataclass(frozen=True)
class Fragments:
    """What the rasteriser saw in each pixel.

    Attributes:
        face_ids: (b, h, w) int32, index of the nearest face, -1 where there is none.
        depth: (b, h, w) float32, the face's depth in the unit given, -inf where there is none.
    """

    face_ids: Int[Tensor, "b h w"]
    depth: Float[Tensor, "b h w"]

    @property
    def mask(self) -> Tensor:
        """(b, h, w) bool, True where a face covers the pixel's centre."""
        return self.face_ids >= 0


@torch.no_grad()
def rasterize(
    points_screen: Float[Tensor, "b v 3"],
    faces: Int[Tensor, "f 3"],
    height: int,
    width: int,
    *,
    backend: Backend = "auto",
    cull_backfaces: bool = False,
) -> Fragments:
    """The nearest face in each pixel of an image, by the rule in the module's docstring.

    Args:
        points_screen: (b, v, 3), (u, v) in px and a depth that is affine in screen space, larger =
            nearer (`camera.screen_depth`). Read as float32.
        faces: (f, 3) vertex ids, counter-clockwise (seen with y up) from the front.
        height: rows of the image.
        width: columns of the image.
        backend: "auto" takes Triton on CUDA and numba on the CPU where they are installed, else
            torch, which runs on every device.
        cull_backfaces: leave out faces seen from behind.

    Raises:
        ValueError: wrong shapes, a vertex id out of range, an unknown or unsuitable backend.
        ImportError: the backend asked for is not installed.
    """
    _check(points_screen, faces, height, width)
    device = points_screen.device
    chosen = _choose(backend, device)
    points = points_screen.detach().to(torch.float32).contiguous()
    if chosen == "numba":
        from lifemask.graphics._rasterize_numba import rasterize_numba as kernel
    elif chosen == "triton":
        from lifemask.graphics._rasterize_triton import rasterize_triton as kernel
    else:
        kernel = _rasterize_torch
    ids, depth = kernel(points, faces.to(device), height, width, cull_backfaces)
    return Fragments(ids, depth)


def barycentric_at_pixels(
    points_screen: Float[Tensor, "b v k"],
    faces: Int[Tensor, "f 3"],
    face_ids: Int[Tensor, "b h w"],
    inverse_depth: Float[Tensor, "b v"] | None = None,
) -> Float[Tensor, "b h w 3"]:
    """Barycentrics of each pixel's centre in its face, differentiable in the points.

    They sum to 1 where a face is drawn and are 0 elsewhere. They may be slightly negative at edges,
    because the rasteriser rounds corners to 1/4096 px and this function does not.

    Args:
        points_screen: (b, v, 2 or 3), (u, v) in px first.
        faces: (f, 3) vertex ids.
        face_ids: (b, h, w) from `rasterize`, -1 where there is no face.
        inverse_depth: (b, v), 1 / distance along the optical axis, makes the result
            perspective-correct; None for an orthographic camera.
    """
    batch, y, x, face = _covered(face_ids)
    corners = _corner_rows(faces, face, batch, points_screen.shape[1])
    u = points_screen[..., 0].reshape(-1).index_select(0, corners.reshape(-1)).view(-1, 3)
    v = points_screen[..., 1].reshape(-1).index_select(0, corners.reshape(-1)).view(-1, 3)
    weights = _triangle_weights(u - x.unsqueeze(-1).to(u), v - y.unsqueeze(-1).to(v))
    if inverse_depth is not None:
        near = inverse_depth.reshape(-1).index_select(0, corners.reshape(-1)).view(-1, 3)
        weights = weights * near
        weights = weights / weights.sum(-1, keepdim=True)
    return _scatter(weights, face_ids)


def interpolate(
    attributes: Float[Tensor, "_ v c"],
    faces: Int[Tensor, "f 3"],
    face_ids: Int[Tensor, "b h w"],
    bary: Float[Tensor, "b h w 3"],
) -> Float[Tensor, "b h w c"]:
    """Vertex attributes at each pixel, 0 where there is no face; differentiable.

    Args:
        attributes: (b, v, c), or (1, v, c) shared by the batch.
        faces: (f, 3) ids into the attributes (`faces_uv` for texture coordinates).
        face_ids: (b, h, w) from `rasterize`.
        bary: (b, h, w, 3) from `barycentric_at_pixels`.
    """
    if attributes.shape[0] not in (1, face_ids.shape[0]):
        raise ValueError(f"attributes of {attributes.shape[0]} meshes, ids of {face_ids.shape[0]}")
    batch, y, x, face = _covered(face_ids)
    owner = batch if attributes.shape[0] > 1 else torch.zeros_like(batch)
    corners = _corner_rows(faces, face, owner, attributes.shape[1])
    flat = attributes.reshape(-1, attributes.shape[-1])
    weights = bary[batch, y, x]
    values = flat.index_select(0, corners[:, 0]) * weights[:, 0:1]
    for k in (1, 2):
        values = values + flat.index_select(0, corners[:, k]) * weights[:, k : k + 1]
    return _scatter(values, face_ids)


def _triangle_weights(du: Tensor, dv: Tensor) -> Tensor:
    """Barycentrics (p, 3) of the origin in triangles with corners (du, dv) (p, 3)."""
    doubled = torch.stack(
        [
            du[:, 1] * dv[:, 2] - du[:, 2] * dv[:, 1],
            du[:, 2] * dv[:, 0] - du[:, 0] * dv[:, 2],
            du[:, 0] * dv[:, 1] - du[:, 1] * dv[:, 0],
        ],
        dim=-1,
    )
    area = doubled.sum(-1, keepdim=True)
    tiny = torch.finfo(area.dtype).tiny
    return doubled / torch.where(area.abs() < tiny, torch.full_like(area, tiny), area)


def _covered(face_ids: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Batch, row, column and face id of the covered pixels, each (p,) int64."""
    batch, y, x = (face_ids >= 0).nonzero(as_tuple=True)
    return batch, y, x, face_ids[batch, y, x].long()


def _corner_rows(faces: Tensor, face: Tensor, batch: Tensor, vertices: int) -> Tensor:
    """Rows (p, 3) of each pixel's three corners in attributes flattened to (b * v, c)."""
    return faces.long().index_select(0, face) + (batch * vertices).unsqueeze(-1)


def _scatter(values: Tensor, face_ids: Tensor) -> Tensor:
    """Values (p, c) of the covered pixels to an image (b, h, w, c), 0 elsewhere."""
    image = values.new_zeros(face_ids.numel(), values.shape[-1])
    rows = (face_ids.reshape(-1) >= 0).nonzero().squeeze(-1)
    return image.index_copy(0, rows, values).view(*face_ids.shape, -1)


def _check(points: Tensor, faces: Tensor, height: int, width: int) -> None:
    if points.ndim != 3 or points.shape[-1] != 3:
        raise ValueError(f"points_screen must be (b, v, 3), not {tuple(points.shape)}")
    if faces.ndim != 2 or faces.shape[-1] != 3 or faces.is_floating_point():
        raise ValueError(f"faces must be integer (f, 3), not {faces.dtype} {tuple(faces.shape)}")
    if not (0 < height <= MAX_IMAGE_SIDE and 0 < width <= MAX_IMAGE_SIDE):
        raise ValueError(f"image sides must be in 1..{MAX_IMAGE_SIDE}, not {height} x {width}")
    if len(faces) and (int(faces.min()) < 0 or int(faces.max()) >= points.shape[1]):
        raise ValueError(f"faces name vertices outside 0..{points.shape[1] - 1}")


def _choose(backend: Backend, device: torch.device) -> str:
    """The backend to run; "auto" resolved by device and by what is installed."""
    on_cpu = device.type == "cpu"
    if backend == "auto":
        wanted = "numba" if on_cpu else "triton" if device.type == "cuda" else "torch"
        return wanted if importlib.util.find_spec(wanted) else "torch"
    if backend not in ("torch", "numba", "triton"):
        raise ValueError(f"unknown backend {backend!r}; choose auto, torch, numba or triton")
    if backend == "numba" and not on_cpu:
        raise ValueError("the numba rasteriser needs CPU tensors; use backend='auto'")
    if backend != "torch" and not importlib.util.find_spec(backend):
        raise ImportError(f"backend {backend!r} needs the package {backend}; or use 'auto'")
    return backend


@dataclass(frozen=True)
class FaceSetup:
    """Faces ready to draw: bounding boxes, edge functions and depth planes, (n,) each.

    The value of edge k at pixel (x, y) is `edge[k] + step_x[k] * x + step_y[k] * y`, int64, at
    least 0 inside; depth is `(z0 + slope_y * (4096 y - y0)) + slope_x * (4096 x - x0)`.
    """

    image: Tensor
    face: Tensor
    box: Tensor
    edge: Tensor
    step_x: Tensor
    step_y: Tensor
    origin: Tensor
    z0: Tensor
    slope_x: Tensor
    slope_y: Tensor


def setup_faces(points: Tensor, faces: Tensor, height: int, width: int, cull: bool) -> FaceSetup:
    """Rounding, orientation, edge functions and planes of the faces that meet the image.

    Args:
        points: (b, v, 3) float32, as in `rasterize`.
        faces: (f, 3) vertex ids on the same device.
        height: rows of the image.
        width: columns of the image.
        cull: leave out faces seen from behind.
    """
    usable = points.isfinite().all(-1) & (points[..., :2].abs() <= MAX_COORDINATE_PX).all(-1)
    safe = torch.where(usable.unsqueeze(-1), points, torch.zeros_like(points))
    fixed = torch.round(safe[..., :2] * SUBPIXELS).long()[:, faces.long()]
    z = safe[..., 2][:, faces.long()].double()
    usable = usable[:, faces.long()].all(-1)
    area = _cross(fixed[..., 1, :] - fixed[..., 0, :], fixed[..., 2, :] - fixed[..., 0, :])
    low = (fixed.amin(-2) + (SUBPIXELS - 1)) >> SUBPIXEL_BITS
    high = fixed.amax(-2) >> SUBPIXEL_BITS
    low, limit = low.clamp(min=0), torch.tensor([width - 1, height - 1], device=points.device)
    high = torch.minimum(high, limit)
    keep = usable & ((area < 0) if cull else (area != 0)) & (low <= high).all(-1)
    image, face = keep.nonzero(as_tuple=True)
    fixed, z, area = fixed[keep], z[keep], area[keep]
    swap = (area < 0).unsqueeze(-1)
    order = torch.where(
        swap, torch.tensor([0, 2, 1], device=points.device), torch.arange(3).to(z.device)
    )
    fixed = fixed.gather(1, order.unsqueeze(-1).expand(-1, -1, 2))
    z = z.gather(1, order)
    box = torch.cat((low[keep], high[keep]), dim=-1)
    return _edges_and_planes(image, face, box, fixed, z, area.abs())


def _edges_and_planes(
    image: Tensor, face: Tensor, box: Tensor, fixed: Tensor, z: Tensor, area: Tensor
) -> FaceSetup:
    """The setup of oriented faces: corners `fixed` (n, 3, 2), depths (n, 3), areas (n,) > 0."""
    start, end = fixed, fixed.roll(-1, dims=1)
    delta_x, delta_y = (end - start).unbind(-1)
    inclusive = (delta_y < 0) | ((delta_y == 0) & (delta_x > 0))
    edge = delta_y * start[..., 0] - delta_x * start[..., 1] - (~inclusive).long()
    (x0, y0), (x1, y1), (x2, y2) = (corner.unbind(-1) for corner in fixed.unbind(1))
    rise1, rise2 = z[:, 1] - z[:, 0], z[:, 2] - z[:, 0]
    area = area.double()
    slope_x = (rise1 * (y2 - y0).double() - rise2 * (y1 - y0).double()) / area
    slope_y = (rise2 * (x1 - x0).double() - rise1 * (x2 - x0).double()) / area
    return FaceSetup(
        image,
        face,
        box,
        edge.contiguous(),
        (-delta_y * SUBPIXELS).contiguous(),
        (delta_x * SUBPIXELS).contiguous(),
        fixed[:, 0].contiguous(),
        z[:, 0].contiguous(),
        slope_x,
        slope_y,
    )


def _cross(a: Tensor, b: Tensor) -> Tensor:
    return a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]


def pack_key(depth: Tensor, face: Tensor) -> Tensor:
    """int64 keys whose maximum is the nearest depth and, among equals, the lowest face id."""
    depth = torch.where(depth == 0, torch.zeros_like(depth), depth)  # -0.0 equals 0.0
    bits = depth.view(torch.int32).long()
    ordered = torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits)
    return (ordered << 32) | (0x7FFFFFFF - face)


EMPTY_KEY = -(1 << 63)


def unpack_key(keys: Tensor) -> tuple[Tensor, Tensor]:
    """Face ids int32 and depths float32 of keys; -1 and -inf where nothing was drawn."""
    empty = keys == EMPTY_KEY
    ids = (0x7FFFFFFF - (keys & 0xFFFFFFFF)).masked_fill(empty, -1)
    ordered = keys >> 32
    bits = torch.where(ordered < 0, ordered ^ 0x7FFFFFFF, ordered).to(torch.int32)
    return ids.to(torch.int32), bits.view(torch.float32).masked_fill(empty, float("-inf"))


def _rasterize_torch(
    points: Tensor, faces: Tensor, height: int, width: int, cull: bool
) -> tuple[Tensor, Tensor]:
    """The reference: all pixels of all bounding boxes, tested at once, nearest by scatter-max."""
    setup = setup_faces(points, faces, height, width, cull)
    size = setup.box[:, 2:] - setup.box[:, :2] + 1
    count = size[:, 0] * size[:, 1]
    keys = torch.full((len(points) * height * width,), EMPTY_KEY, device=points.device)
    end = count.cumsum(0)
    first = 0
    while first < len(count):
        done = int(end[first] - count[first])
        last = max(
            int(torch.searchsorted(end, done + _CANDIDATES_PER_CHUNK, right=True)), first + 1
        )
        _draw(setup, slice(first, last), size, count, keys, height, width)
        first = last
    ids, depth = unpack_key(keys)
    shape = (len(points), height, width)
    return ids.view(shape), depth.view(shape)


def _draw(
    setup: FaceSetup,
    part: slice,
    size: Tensor,
    count: Tensor,
    keys: Tensor,
    height: int,
    width: int,
) -> None:
    """Draw some of the faces into the keys, in place."""
    count = count[part]
    row = torch.repeat_interleave(torch.arange(len(count), device=keys.device), count)
    offset = torch.arange(len(row), device=keys.device) - (count.cumsum(0) - count)[row]
    row = row + part.start
    columns = size[row, 0]
    x = setup.box[row, 0] + offset % columns
    y = setup.box[row, 1] + offset // columns
    steps = setup.step_x[row] * x.unsqueeze(-1) + setup.step_y[row] * y.unsqueeze(-1)
    inside = (setup.edge[row] + steps >= 0).all(-1)
    row, x, y = row[inside], x[inside], y[inside]
    from_x = (x * SUBPIXELS - setup.origin[row, 0]).double()
    from_y = (y * SUBPIXELS - setup.origin[row, 1]).double()
    depth = (setup.z0[row] + setup.slope_y[row] * from_y) + setup.slope_x[row] * from_x
    pixel = (setup.image[row] * height + y) * width + x
    key = pack_key(depth.to(torch.float32), setup.face[row])
    keys.scatter_reduce_(0, pixel, key, "amax")
