"""The cube's lattice of voxel centres: points, columns seen in the image, box filter, cells.

The cube [-1, 1]^3 is the square crop in half-crops, x right, y up, z towards the viewer. A lattice
of N voxels a side has its samples at the voxels' centres, `(i + 0.5) * 2 / N - 1`; arrays are
indexed [ix, iy, iz]. A column is all voxels of one (ix, iy): what an orthographic camera sees
behind one another. Cells lie between eight neighbouring samples; cell (i, j, k) has sample
(i, j, k) as its lowest corner.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

WALL = 1.0
"""Field of columns that show no face, half-crops."""
BORDER = 0.04
"""Field in the border of the cube, half-crops."""


def voxel_centres(grid: int, device: torch.device | str | None = None) -> Float[Tensor, "n"]:
    """Coordinates (N,) in half-crops of the voxels' centres along one axis, ascending."""
    return (torch.arange(grid, device=device, dtype=torch.float32) + 0.5) * (2 / grid) - 1


def voxel_points(ids: Int[Tensor, "n"], grid: int) -> Float[Tensor, "n 3"]:
    """Points (n, 3) in half-crops of voxels given by flat index, `(ix N + iy) N + iz`."""
    axes = torch.stack((ids // (grid * grid), ids // grid % grid, ids % grid), -1)
    return (axes.to(torch.float32) + 0.5) * (2 / grid) - 1


def nearest_odd(count: float) -> int:
    """The odd number >= 1 that is nearest; of two, the lower."""
    return max(1, 2 * math.ceil((count - 1) / 2 - 0.5 - 1e-9) + 1)


def box_voxels(grid: int, width: float) -> int:
    """Side in voxels, odd, of the box nearest to a width in half-crops; of two, the smaller."""
    return nearest_odd(width * grid / 2)


def box_filter(volume: Float[Tensor, "x y z"], voxels: int) -> Float[Tensor, "x y z"]:
    """Mean of the voxels^3 samples around each sample; those at the border repeat outwards.

    Args:
        volume: (X, Y, Z).
        voxels: odd side of the box; 1 returns the volume itself.

    Raises:
        ValueError: an even side.
    """
    _check_odd(voxels)
    if voxels == 1:
        return volume
    for axis in range(volume.ndim):
        first, last = volume.narrow(axis, 0, 1), volume.narrow(axis, -1, 1)
        rim = voxels // 2
        padded = torch.cat([first] * rim + [volume] + [last] * rim, axis)
        size = volume.shape[axis]
        volume = padded.narrow(axis, 0, size).clone()
        for step in range(1, voxels):
            volume += padded.narrow(axis, step, size)
        volume /= voxels
    return volume


def widened(flags: Bool[Tensor, "*n"], voxels: int) -> Bool[Tensor, "*n"]:
    """Samples that have a flagged one in the box of an odd side around them, along all axes.

    Raises:
        ValueError: an even side.
    """
    _check_odd(voxels)
    for axis in range(flags.ndim):
        wide = flags.clone()
        for step in range(1, min(voxels // 2, flags.shape[axis] - 1) + 1):
            size = flags.shape[axis] - step
            wide.narrow(axis, 0, size).logical_or_(flags.narrow(axis, step, size))
            wide.narrow(axis, step, size).logical_or_(flags.narrow(axis, 0, size))
        flags = wide
    return flags


def crossing_cells(sdf: Float[Tensor, "n n n"]) -> Bool[Tensor, "m m m"]:
    """Cells (N - 1, N - 1, N - 1) whose corners lie on both sides of the zero; inside is < 0."""
    some = every = sdf < 0
    for axis in range(3):
        size = some.shape[axis] - 1
        some = some.narrow(axis, 0, size) | some.narrow(axis, 1, size)
        every = every.narrow(axis, 0, size) & every.narrow(axis, 1, size)
    return some & ~every


def cell_corners(cells: Bool[Tensor, "m m m"]) -> Bool[Tensor, "n n n"]:
    """Samples (N, N, N) that are corners of any of the flagged cells (N - 1, N - 1, N - 1)."""
    padded = functional.pad(cells, (1, 1) * 3)
    for axis in range(3):
        size = padded.shape[axis] - 1
        padded = padded.narrow(axis, 0, size) | padded.narrow(axis, 1, size)
    return padded


class Samples:
    """Samples at every or every second voxel of a lattice, interpolated in between.

    Args:
        grid: N; even if only every second voxel is sampled.
        every: 1 or 2, voxels from a sample to the next along each axis, the first at voxel 0.
        device: of the volumes.
    """

    def __init__(self, grid: int, every: int, device: torch.device) -> None:
        self._own = (slice(None, None, every),) * 3
        self._every = every
        self._values = torch.zeros((grid // every,) * 3, device=device)
        self._known = torch.zeros_like(self._values, dtype=torch.bool)

    def missing(self, voxels: Bool[Tensor, "n n n"]) -> Bool[Tensor, "n n n"]:
        """Sampled voxels not stored yet that the flagged voxels' values are made of."""
        flags = torch.zeros_like(voxels)
        flags[self._own] = widened(voxels, 2 * self._every - 1)[self._own] & ~self._known
        return flags

    def store(self, voxels: Bool[Tensor, "n n n"], values: Float[Tensor, "k"]) -> None:
        """Values at flagged sampled voxels, in the order of their flat indices."""
        flags = voxels[self._own]
        self._values[flags] = values
        self._known |= flags

    def everywhere(self) -> Float[Tensor, "n n n"]:
        """The whole lattice; zeros, and means with zeros, where nothing near is stored."""
        full = self._values
        for axis in range(3 if self._every == 2 else 0):
            last = full.shape[axis] - 1
            after = torch.cat((full.narrow(axis, 1, last), full.narrow(axis, last, 1)), axis)
            full = torch.stack((full, (full + after) / 2), axis + 1).flatten(axis, axis + 1)
        return full


def sample_columns(image: Float[Tensor, "*c s s"], grid: int) -> Float[Tensor, "*c n n"]:
    """An image's values (*c, N, N), [ix, iy], at the columns: bilinear, its border repeated.

    Pixel (u, v) of S x S has its centre at x = (u + 0.5) 2 / S - 1, y = 1 - (v + 0.5) 2 / S. Where
    N = S / 2 this is the mean of 2 x 2 pixels.
    """
    axis = voxel_centres(grid, image.device).to(image.dtype)
    x, y = torch.meshgrid(axis, -axis, indexing="ij")
    flat = image.reshape(1, -1, *image.shape[-2:])
    where = torch.stack((x, y), -1)[None]
    values = functional.grid_sample(flat, where, padding_mode="border", align_corners=False)
    return values.reshape(*image.shape[:-2], grid, grid)


@dataclass(frozen=True)
class Room:
    """The part of the lattice in which the field speaks of a face.

    Attributes:
        columns: (N, N), [ix, iy], columns that may show the face, the cube's border left out.
        border: voxels at each side of the cube that the face never reaches.
    """

    columns: Bool[Tensor, "n n"]
    border: int

    @property
    def grid(self) -> int:
        """N."""
        return self.columns.shape[0]

    @cached_property
    def voxels(self) -> Bool[Tensor, "n n n"]:
        """(N, N, N) voxels where the field is the networks'."""
        return self.columns[:, :, None] & self._depths

    @cached_property
    def cells(self) -> Bool[Tensor, "m m m"]:
        """(N - 1, N - 1, N - 1) cells whose eight corners are the networks'."""
        return self.cell_columns[:, :, None] & (self._depths[:-1] & self._depths[1:])

    @property
    def cell_columns(self) -> Bool[Tensor, "m m"]:
        """(N - 1, N - 1) columns of cells whose four columns of voxels may show the face."""
        rows = self.columns[:-1] & self.columns[1:]
        return rows[:, :-1] & rows[:, 1:]

    @property
    def _depths(self) -> Bool[Tensor, "n"]:
        index = torch.arange(self.grid, device=self.columns.device)
        return (index >= self.border) & (index < self.grid - self.border)

    def wall(self, sdf: Float[Tensor, "n n n"]) -> Float[Tensor, "n n n"]:
        """The field with `WALL` outside the columns and `BORDER` in the border, so that it closes.

        Its zero then has faces that are no surface; `cells` tells where the true ones are.
        """
        walled = torch.where(self.columns[:, :, None], sdf, WALL)
        if self.border:
            for axis in range(3):
                walled.narrow(axis, 0, self.border).fill_(BORDER)
                walled.narrow(axis, -self.border, self.border).fill_(BORDER)
        return walled


def create_room(mask_face: Bool[Tensor, "s s"], grid: int, erode: float, outer: float) -> Room:
    """Room behind a face mask.

    Args:
        mask_face: (S, S), row 0 at the top, True where the crop shows the face. The room lies on
            its device.
        grid: N.
        erode: what is *not* face is eroded by a square of this share of the side (13 of 256 px),
            so that the room is a little wider than the mask.
        outer: share of the cube's side that is left out at each of its six sides.
    """
    size = mask_face.shape[-1]
    wide = widened(mask_face, nearest_odd(erode * size))
    columns = sample_columns(wide.float(), grid) > 0.5 - 1e-4  # a tie counts, on either side
    border = max(1, round(outer * grid)) if outer > 0 else 0
    inner = torch.zeros_like(columns)
    inner[border : grid - border, border : grid - border] = True
    return Room(columns & inner, border)


def _check_odd(voxels: int) -> None:
    if voxels < 1 or voxels % 2 == 0:
        raise ValueError(f"the side of a box must be odd, got {voxels}")
