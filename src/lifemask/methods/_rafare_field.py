"""A face's surface from the networks' field: evaluate, carve, march.

The field is a signed distance in the cube [-1, 1]^3 of the crop, in half-crops, positive outside:
`sdf = box(base) + fine_scale fine` (RAFaRe, arXiv 2302.05486). `_rafare_lattice` holds the frame,
`_rafare_carve` and `_rafare_integrate` what a normal map adds, `_rafare_surface` the mesh.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from lifemask.assets import UserError
from lifemask.methods._rafare_carve import bump_map, carving, fit_kappa, middle_depths
from lifemask.methods._rafare_integrate import integrate_normals
from lifemask.methods._rafare_lattice import (
    WALL,
    Room,
    Samples,
    box_filter,
    box_voxels,
    cell_corners,
    create_room,
    crossing_cells,
    voxel_points,
    widened,
)
from lifemask.methods._rafare_surface import (
    Surface,
    create_surface,
    front_sheet,
    march,
    smooth_rim,
)

__all__ = ["FieldConfig", "FieldFn", "FieldSampler", "Surface", "extract_surface", "fit_kappa",
           "front_sheet"]  # fmt: skip

FieldFn = Callable[[Float[Tensor, "n 3"]], Float[Tensor, "n"]]
"""Points (n, 3) in the cube to values (n,): d in half-crops, or the fine level's r."""
_FINE_REACH = 2.5
"""Most voxels around the zero of the base within which the fine level is asked at once."""
_LEAST_BOX = 5
"""Side in voxels of the box filter from which every second voxel is enough."""
_STEP = 5
"""Side in voxels of the box by which evaluation follows a surface that leaves what is known."""


@dataclass(frozen=True)
class FieldConfig:
    """Settings of `extract_surface`.

    Attributes:
        grid: N, voxels along a side of the lattice.
        box: side of the box filter on the base in half-crops, as when the fine level was trained
            (5 voxels of 192); it becomes the nearest odd number of voxels. 0 switches it off.
        fine_scale: half-crops per unit of the fine level.
        fine: False leaves the fine level out.
        evaluate: "full" asks the base at every voxel behind the face mask; "band" on a coarse
            lattice first, then near its zero, then wherever the surface leads. The surface is the
            same, but for pieces apart from all others that fall between the coarse samples.
        coarse: voxels along a side of that coarse lattice; from `grid` on, all is evaluated.
        band: half-crops around the zero of the interpolated coarse base in which "band" evaluates
            at once. Less than 0.04: fields whose training clamps distances there keep that value
            in all empty space. A smaller band costs rounds, not accuracy.
        every: 2: "band" asks the base at every second voxel along each axis and interpolates; the
            box filter takes away what that misses. 1: at every voxel, as is done anyway where the
            box's side is less than 5 voxels or N is odd.
        carve: what the normal map does: "none", "divergence" (published), "integrate", or "both":
            integrated first, then moved along its normals by what divergence would carve, because
            regressed normals are smoother than true ones.
        kappa: half-crops per unit of bump, for "divergence" and "both" (`fit_kappa`).
        kernel: side of the bump kernels in px at 512 px.
        back: False ignores a normal map of the back; with "integrate" and "both" it needs
            `front=False`, too.
        length: half-crops, for "integrate" and "both": details longer than 2 pi times it stay the
            field's.
        outer: share of the cube's side that is left out at each of its six sides.
        erode: share of the crop's side by which what is not face is eroded.
        front: keep only the outer face (`front_sheet`); False keeps the back of the head, too.
        rim: round the stairs that the mask's pixels leave at the rim, by less than a pixel.
        chunk: points per call of a network; bounds the memory.
    """

    grid: int = 192
    box: float = 5 * 2 / 192
    fine_scale: float = 1e-3
    fine: bool = True
    evaluate: Literal["full", "band"] = "band"
    coarse: int = 64
    band: float = 0.025
    every: Literal[1, 2] = 2
    carve: Literal["none", "divergence", "integrate", "both"] = "none"
    kappa: float = 5e-4
    kernel: int = 7
    back: bool = False
    length: float = 0.08
    outer: float = 0.02
    erode: float = 0.05
    front: bool = True
    rim: bool = False
    chunk: int = 65536


@torch.no_grad()
def extract_surface(
    base: FieldFn,
    fine: FieldFn | None,
    mask_face: Bool[Tensor, "s s"],
    normals: Float[Tensor, "s s 3"] | None = None,
    normals_back: Float[Tensor, "s s 3"] | None = None,
    config: FieldConfig | None = None,
) -> Surface:
    """The surface of a face in the cube, on the CPU.

    Args:
        base: distance d, half-crops, positive outside.
        fine: r, in units of `fine_scale`; None for the base alone.
        mask_face: (S, S), row 0 at the top, True where the crop shows the face. All volumes lie on
            its device, and points are given to the networks there.
        normals: (S, S, 3) unit, camera frame (x right, y up, z to the viewer), on the mask's
            device; needed to carve.
        normals_back: (S, S, 3) of the back of the head, turned to the viewer (n_z > 0).
        config: settings; None for the defaults.

    Raises:
        UserError: the face mask is empty, or the field has no surface behind it.
        ValueError: carving without normals, maps of another size than the mask, or an `every` that
            is neither 1 nor 2.
    """
    config = config or FieldConfig()
    _check(mask_face, normals, normals_back, config)
    room = create_room(mask_face, config.grid, config.erode, config.outer)
    sampler = FieldSampler(base, fine if config.fine else None, room, config)
    sdf = sampler.settle()
    back = normals_back if config.back else None
    if config.carve == "divergence" and normals is not None:
        front_bump = bump_map(normals, mask_face, config.kernel)
        back_bump = None if back is None else bump_map(back, mask_face, config.kernel)
        sdf = sampler.settle(carving(sdf, front_bump, back_bump, config.kappa))
    marched = march(sdf, room)
    if config.front:
        marched = front_sheet(marched)
    surface = refined(marched, normals, mask_face, config)
    if back is not None and not config.front:
        behind = refined_back(marched, back, mask_face, config)
        is_back = lies_behind(marched.vertices, middle_depths(sdf).cpu())[:, None]
        mixed = torch.where(is_back, behind.vertices, surface.vertices)
        surface = create_surface(mixed, marched.faces)
    return smooth_rim(surface) if config.rim else surface


def refined(
    surface: Surface,
    normals: Float[Tensor, "s s 3"] | None,
    mask_face: Bool[Tensor, "s s"],
    config: FieldConfig,
) -> Surface:
    """A surface whose front is carved by "integrate" or "both"; else the surface itself."""
    if config.carve not in ("integrate", "both") or normals is None:
        return surface
    surface = integrate_normals(surface, normals, mask_face, config.length)
    if config.carve == "both":
        surface = sharpened(surface, bump_map(normals, mask_face, config.kernel), config.kappa)
    return surface


def refined_back(
    surface: Surface,
    normals_back: Float[Tensor, "s s 3"],
    mask_face: Bool[Tensor, "s s"],
    config: FieldConfig,
) -> Surface:
    """The same for its back: that of the surface mirrored along the view, mirrored again.

    Args:
        surface: in the cube, with its back.
        normals_back: (S, S, 3) turned to the viewer. A mirror reverses their z, and what looks
            out of the head then is minus that.
        mask_face: (S, S).
        config: settings.
    """
    turned = normals_back * normals_back.new_tensor([-1.0, -1.0, 1.0])
    return mirrored(refined(mirrored(surface), turned, mask_face, config))


def mirrored(surface: Surface) -> Surface:
    """A surface mirrored along the view: its back in front."""
    flip = surface.vertices.new_tensor([1.0, 1.0, -1.0])
    return create_surface(surface.vertices * flip, surface.faces[:, [0, 2, 1]])


def lies_behind(points: Float[Tensor, "v 3"], middle: Float[Tensor, "n n"]) -> Bool[Tensor, "v"]:
    """Whether points of the cube lie behind the middle (N, N) of their column of the lattice."""
    grid = len(middle)
    index = ((points[:, :2] + 1) * (grid / 2)).floor().long().clamp(0, grid - 1)
    return points[:, 2] < middle[index[:, 0], index[:, 1]]


def sharpened(surface: Surface, bump: Float[Tensor, "s s"], kappa: float) -> Surface:
    """A surface moved outwards along its normals by `kappa` times the bump map before it.

    Args:
        surface: in the cube.
        bump: (S, S) from `bump_map`.
        kappa: half-crops per unit of bump.
    """
    grid = torch.stack((surface.vertices[:, 0], -surface.vertices[:, 1]), -1)[None, :, None]
    found = functional.grid_sample(bump[None, None].to(grid), grid, align_corners=False)
    moved = surface.vertices + kappa * found[0, 0] * surface.normals
    return create_surface(moved, surface.faces)


class FieldSampler:
    """Asks the networks where the surface is, and nowhere else.

    `settle` follows the surface: it evaluates until all corners of all cells in the room that the
    zero crosses are exact, that is `box(base) + fine_scale fine` with every base sample in the box
    asked for. So the surface is that of a full evaluation wherever it is connected to anything
    that the start showed, and what it is not connected to is not part of the largest piece.
    Elsewhere only the sign of the field counts. With `every` 2 a base sample between those asked
    for is their mean.
    """

    def __init__(self, base: FieldFn, fine: FieldFn | None, room: Room, config: FieldConfig):
        self._base, self._fine, self._room, self._config = base, fine, room, config
        self._box = box_voxels(config.grid, config.box)
        shape, device = (config.grid,) * 3, room.columns.device
        self._known = torch.zeros(shape, dtype=torch.bool, device=device)
        self._exact = torch.zeros_like(self._known)
        self._detail = torch.zeros(shape if fine else 1, device=device)
        banded = config.evaluate == "band"
        coarser = banded and self._box >= _LEAST_BOX and config.grid % 2 == 0
        self._samples = Samples(config.grid, config.every if coarser else 1, device)
        if banded and config.coarse < config.grid:
            self._volume = self._coarse()
            start = (self._volume.abs() < config.band) & room.voxels
        else:
            self._volume, start = torch.full(shape, WALL, device=device), room.voxels
        self._ask_base(start)
        reach = min(_FINE_REACH * 2 / config.grid, config.band)
        self._ask_fine(start & (self._boxed.abs() < reach) if fine else start)

    def settle(self, offset: Float[Tensor, "n n n"] | None = None) -> Float[Tensor, "n n n"]:
        """The field (N, N, N), exact wherever its zero passes through the room.

        Args:
            offset: (N, N, N) half-crops, added to it.
        """
        while True:
            sdf = self._boxed + self._detail
            if offset is not None:
                sdf += offset
            corners = cell_corners(crossing_cells(sdf) & self._room.cells)
            if not (corners & ~self._exact).any():
                return sdf
            needed = widened(corners & ~self._exact, _STEP) & self._room.voxels
            self._ask_base(needed)
            self._ask_fine(needed)

    def _ask_base(self, needed: Bool[Tensor, "n n n"]) -> None:
        """Makes the boxed base exact at samples."""
        unknown = widened(needed, self._box) & ~self._known
        asked = self._samples.missing(unknown)
        ids = asked.flatten().nonzero()[:, 0]
        if len(ids):
            self._samples.store(asked, self._query(self._base, ids, self._config.grid))
        self._volume = torch.where(unknown, self._samples.everywhere(), self._volume)
        self._known |= unknown
        self._boxed = box_filter(self._volume, self._box)

    def _ask_fine(self, needed: Bool[Tensor, "n n n"]) -> None:
        """Makes the fine level, too, exact at samples."""
        ids = (needed & ~self._exact).flatten().nonzero()[:, 0]
        if self._fine is not None and len(ids):
            values = self._query(self._fine, ids, self._config.grid)
            self._detail.view(-1)[ids] = self._config.fine_scale * values
        self._exact |= needed

    def _coarse(self) -> Float[Tensor, "n n n"]:
        """The base of a coarse lattice behind the mask, interpolated to the full one."""
        columns, grid, coarse = self._room.columns, self._config.grid, self._config.coarse
        voxel = torch.arange(grid, device=columns.device)
        below = ((voxel + 0.5) * coarse / grid - 0.5).floor().long()  # -1 before the first
        touched = torch.zeros(coarse, grid, device=columns.device)
        for corner in (below, below + 1):
            touched[corner.clamp(0, coarse - 1), voxel] = 1
        needed = touched @ columns.float() @ touched.T > 0
        ids = needed[..., None].expand(-1, -1, coarse).flatten().nonzero()[:, 0]
        values = torch.full((coarse,) * 3, WALL, device=columns.device)
        values.view(-1)[ids] = self._query(self._base, ids, coarse)
        return functional.interpolate(
            values[None, None], (grid,) * 3, mode="trilinear", align_corners=False
        )[0, 0]

    def _query(self, field: FieldFn, ids: Int[Tensor, "n"], grid: int) -> Float[Tensor, "n"]:
        """A network's values at voxels of a lattice, chunk by chunk."""
        values = torch.empty(len(ids), device=ids.device)
        for start in range(0, len(ids), self._config.chunk):
            part = ids[start : start + self._config.chunk]
            found = field(voxel_points(part, grid))
            if found.shape != part.shape:
                raise ValueError(f"a field gave {tuple(found.shape)} for {len(part)} points")
            values[start : start + len(part)] = found
        return values


def _check(
    mask_face: Tensor, normals: Tensor | None, normals_back: Tensor | None, config: FieldConfig
) -> None:
    if mask_face.ndim != 2 or mask_face.shape[0] != mask_face.shape[1]:
        raise ValueError(f"the face mask must be square, got {tuple(mask_face.shape)}")
    if not mask_face.any():
        raise UserError("this crop shows no face: its face mask is empty")
    for name, maps in (("normals", normals), ("normals_back", normals_back)):
        if maps is not None and maps.shape != (*mask_face.shape, 3):
            raise ValueError(f"{name} are {tuple(maps.shape)}, the mask {tuple(mask_face.shape)}")
    if config.every not in (1, 2):
        raise ValueError(f"every is 1 or 2, not {config.every}")
    if config.carve != "none" and normals is None:
        raise ValueError(f'carve="{config.carve}" needs normals')
