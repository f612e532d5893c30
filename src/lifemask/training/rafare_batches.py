"""Batches of pairs for RAFaRe as a function of the step number."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from lifemask.assets import UserError
from lifemask.methods._rafare_loss import Part, RafareBatch
from lifemask.methods._rafare_view import create_view, face_mask
from lifemask.nn.blocks import unit
from lifemask.training._camera_faults import taken_by_camera
from lifemask.training.crop_sources import licence_tag
from lifemask.training.rafare_back import back_normals, eighth
from lifemask.training.rafare_recipes import RafareAugment
from lifemask.types import FACE_CLASSES

_SHOWN = 0.85
"""Share of the points near the surface that lie before or behind pixels of the face."""
_LEAST_NORMAL = 0.5
"""Length from which an interpolated normal counts as known."""


@dataclass(frozen=True)
class PairArrays:
    """Pairs in memory, in the small types they are stored in; n pairs, see `data.pairs.Pair`.

    Attributes:
        image: (n, 3, s, s) uint8.
        region: (n, s, s) uint8.
        normals: (n, 3, s, s) int8, 127 is 1; of the front, or of the back turned to the viewer.
        guide_depth: (n, s, s) float16, NaN where there is none.
        guide_normals: (n, 3, s, s) int8.
        points: (n, k, 3) int16 lattice indices.
        sdf: (n, k) float16.
        fine: (n, k) float16.
        uniform: (n, m, 3) float16; uniform_sdf: (n, m) float16.
        surface: (n, q, 3) float16; surface_normals: (n, q, 3) float16.
        grid: voxels of the lattice along a side.
    """

    image: Tensor
    region: Tensor
    normals: Tensor
    guide_depth: Tensor
    guide_normals: Tensor
    points: Tensor
    sdf: Tensor
    fine: Tensor
    uniform: Tensor
    uniform_sdf: Tensor
    surface: Tensor
    surface_normals: Tensor
    grid: int

    def __len__(self) -> int:
        """Number of pairs."""
        return len(self.image)


def load_corpus(
    folders: Sequence[str | Path],
    size: int,
    family: Literal["open", "research"] = "open",
    *,
    held_out: bool = False,
    limit: int | None = None,
    back: bool = False,
    data: Path | None = None,
) -> PairArrays:
    """Pairs of folders that `lifemask pairs` wrote, in memory.

    Args:
        folders: of the pairs; all of one size and lattice.
        size: side of the crops in px.
        family: whose weights are trained; "open" may not see pairs made from photos.
        held_out: whether the pairs are those reserved for tests, or those to train on.
        limit: at most so many of each folder.
        back: `normals` are those of the back, rebuilt from the pairs' numbers (`rafare_back`).
        data: folder with `ict/ict.npz`, for the backs of heads of ICT-FaceKit.

    Raises:
        UserError: a folder has no pairs, pairs of another size, not for this family or not of this
            part.
    """
    from lifemask.data.pairs import load_pairs

    parts, grids = [], set()
    for folder in folders:
        pairs = load_pairs(folder)
        header = {**pairs.header, **pairs.header["settings"]}
        _check(Path(folder), header, size, family, held_out)
        grids.add(int(header["grid"]))
        count = len(pairs) if limit is None else min(limit, len(pairs))
        rows = [_row(pairs[k]) for k in range(count)]
        if back:
            for row, normals in zip(
                rows, back_normals(Path(folder), pairs, pairs.header, count, data), strict=True
            ):
                row["normals"] = normals
        parts += rows
    if len(grids) != 1:
        raise UserError("the folders' lattices differ; give pairs made with one --grid")
    near = min(len(row["sdf"]) for row in parts)
    stacked: dict[str, Any] = {}
    for name in tuple(parts[0]):
        rows = [row.pop(name) for row in parts]
        if name in ("points", "sdf", "fine"):
            rows = [row[:near] for row in rows]
        stacked[name] = torch.from_numpy(np.stack(rows))
    return PairArrays(**stacked, grid=grids.pop())


def _check(folder: Path, header: dict, size: int, family: str, held_out: bool) -> None:
    if int(header["size"]) != size:
        raise UserError(f"{folder} has crops of {header['size']} px, the recipe wants {size}")
    licence_tag(folder, header["licence"], family)
    if bool(header["held_out"]) != held_out:
        part = "held out for tests" if header["held_out"] else "for training"
        raise UserError(f"{folder} is {part}; give pairs of the other part")


def _row(pair: Any) -> dict[str, np.ndarray]:
    """One pair in small types."""
    plain = {name: np.asarray(getattr(pair, name)) for name in
             ("region", "points", "sdf", "fine", "uniform", "uniform_sdf", "surface",
              "surface_normals")}  # fmt: skip
    return plain | {
        "image": np.ascontiguousarray(pair.image.transpose(2, 0, 1)),
        "normals": eighth(pair.normals),
        "guide_depth": laid_guide(pair).astype(np.float16),
        "guide_normals": eighth(pair.guide_normals),
    }


def laid_guide(pair: Any) -> Float[np.ndarray, "s s"]:
    """The guide's depth, shifted along the view so that its median gap to the true face is 0.

    An orthographic picture does not tell how far away a face is. Without the shift most of the
    loss would be about that number, which no network can know and no surface needs.
    """
    gap = (pair.depth - pair.guide_depth)[(pair.region < FACE_CLASSES)]
    gap = gap[np.isfinite(gap)]
    return pair.guide_depth + (np.median(gap) if len(gap) else 0.0)


class RafareBatchMaker:
    """Batches of pairs; a batch does not depend on how it is shared out.

    Args:
        pairs: from `load_corpus`.
        part: the network that learns: it decides what the points carry.
        batch: pairs per step, over all processes.
        points: of each pair.
        uniform: share of them that lie anywhere in the cube (`f_base` only).
        surface: points of the true surface.
        augment: how pairs are varied; None leaves them as they are.
        seed: of everything random.
    """

    def __init__(
        self,
        pairs: PairArrays,
        part: Part,
        batch: int,
        points: int = 5000,
        uniform: float = 0.1,
        surface: int = 500,
        augment: RafareAugment | None = None,
        seed: int = 0,
    ) -> None:
        self.pairs, self.part, self.batch, self.seed = pairs, part, batch, seed
        self.uniform = round(points * uniform) if part == "base" else 0
        self.near, self.surface, self.augment = points - self.uniform, surface, augment

    def __call__(self, step: int, share: int = 0, shares: int = 1) -> RafareBatch:
        """One process's share of the batch of a step."""
        count = self.batch // shares
        rows = []
        for row in range(share * count, (share + 1) * count):
            rng = np.random.default_rng([self.seed, step, row])
            rows.append(self.row(int(rng.integers(len(self.pairs))), rng))
        return join_rows(rows)

    @torch.no_grad()
    def row(self, number: int, rng: np.random.Generator) -> RafareBatch:
        """A batch of one pair."""
        pairs = self.pairs
        move = draw_move(rng, self.augment)
        image = pairs.image[number].float() / 255
        depth = pairs.guide_depth[number].float()
        guide = pairs.guide_normals[number].float() / 127
        if self.augment is not None:
            if rng.random() < self.augment.guide_lost:
                depth, guide = torch.full_like(depth, torch.nan), torch.zeros_like(guide)
            if self.augment.colours:
                image, _ = taken_by_camera(image, rng)
        seen = move.pictures(
            image, pairs.region[number], pairs.normals[number].float() / 127, depth, guide
        )
        view = create_view(
            seen.image[None], seen.region[None], seen.depth[None], seen.guide[None].movedim(1, -1)
        )
        square = (seen.normals * seen.normals).sum(0, keepdim=True)
        known = face_mask(seen.region)[None] & (square > _LEAST_NORMAL**2)
        points, values = self._points(number, rng)
        if self.part == "fine":
            values = values / move.scale
        else:
            values = values * move.scale
        some = torch.from_numpy(rng.integers(0, pairs.surface.shape[1], self.surface))
        return RafareBatch(
            view,
            move.points(points)[None],
            values[None],
            move.points(pairs.surface[number, some].float())[None],
            move.vectors(pairs.surface_normals[number, some].float())[None],
            unit(seen.normals, 0)[None],
            known[None].float(),
        )

    def _points(self, number: int, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Points of the cube and what the field should say there, before any move."""
        pairs = self.pairs
        some = self._near(number, rng)
        points = lattice_points(pairs.points[number, some], pairs.grid)
        told = pairs.fine if self.part == "fine" else pairs.sdf
        values = told[number, some].float()
        if self.uniform:
            some = torch.from_numpy(rng.integers(0, pairs.uniform.shape[1], self.uniform))
            points = torch.cat((points, pairs.uniform[number, some].float()))
            values = torch.cat((values, pairs.uniform_sdf[number, some].float()))
        return points, values

    def _near(self, number: int, rng: np.random.Generator) -> Tensor:
        """Ids of points near the surface, most of them where the crop shows the face.

        That is where a surface is made; the head has as much surface beside and behind it.
        """
        pairs, size = self.pairs, self.pairs.image.shape[-1]
        some = torch.from_numpy(rng.integers(0, pairs.sdf.shape[1], 3 * self.near))
        place = (pairs.points[number, some].float() + 0.5) * (size / pairs.grid)
        column, row = place[:, 0].long(), (size - place[:, 1]).long().clamp(0, size - 1)
        shown = face_mask(pairs.region[number, row, column])
        first, rest = some[shown][: round(_SHOWN * self.near)], some[~shown]
        filled = torch.cat((first, rest, some[shown][len(first) :]))
        return filled[: self.near]


def lattice_points(index: Tensor, grid: int) -> Float[Tensor, "*n 3"]:
    """Voxel centres of the cube's lattice."""
    return (index.float() + 0.5) * (2 / grid) - 1


@dataclass(frozen=True)
class Move:
    """A mirror, then a change of size, then a shift: old place to new.

    Attributes:
        mirror: -1 mirrors left and right, 1 does not.
        scale: new size over old.
        shift: (x, y, z) in half-crops.
    """

    mirror: float = 1.0
    scale: float = 1.0
    shift: tuple[float, float, float] = (0.0, 0.0, 0.0)

    def points(self, points: Float[Tensor, "n 3"]) -> Float[Tensor, "n 3"]:
        """Where points go."""
        across = points.new_tensor([self.mirror, 1.0, 1.0])
        return points * across * self.scale + points.new_tensor(self.shift)

    def vectors(self, vectors: Float[Tensor, "n 3"]) -> Float[Tensor, "n 3"]:
        """Where directions go."""
        return vectors * vectors.new_tensor([self.mirror, 1.0, 1.0])

    def pictures(
        self, image: Tensor, region: Tensor, normals: Tensor, depth: Tensor, guide: Tensor
    ) -> MovedPictures:
        """The pictures of a pair, moved; outside them is black background.

        Args:
            image: (3, s, s).
            region: (s, s).
            normals: (3, s, s).
            depth: (s, s) of the guide, NaN where it is not.
            guide: (3, s, s) its normals.
        """
        size = image.shape[-1]
        there = depth.isfinite().float()[None]
        layers = torch.cat((image, normals, depth.nan_to_num(0.0)[None], guide, there))
        grid = self._grid(size)
        smooth = functional.grid_sample(layers[None], grid, align_corners=False)[0]
        named = functional.grid_sample(
            region[None, None].float() - 8.0, grid, mode="nearest", align_corners=False
        )[0, 0]
        image, normals, depth, guide, there = smooth.split((3, 3, 1, 3, 1))
        sign = torch.tensor([self.mirror, 1.0, 1.0])[:, None, None]
        moved = depth / there.clamp(min=0.5) * self.scale + self.shift[2]
        depth = torch.where(there > 0.5, moved, torch.nan)[0]
        return MovedPictures(
            image, (named + 8).to(torch.uint8), normals * sign, depth,
            unit(guide * sign, 0) * (there > 0.5),
        )  # fmt: skip

    def _grid(self, size: int) -> Float[Tensor, "1 s s 2"]:
        """Where each new pixel looks in the old pictures."""
        steps = (torch.arange(size) + 0.5) * (2 / size) - 1
        x = (steps - self.shift[0]) / self.scale * self.mirror
        y = (steps + self.shift[1]) / self.scale
        return torch.stack(torch.meshgrid(x, y, indexing="xy"), -1)[None]


@dataclass(frozen=True)
class MovedPictures:
    """Pictures of a pair after a `Move`; shapes as its arguments."""

    image: Tensor
    region: Tensor
    normals: Tensor
    depth: Tensor
    guide: Tensor


def draw_move(rng: np.random.Generator, augment: RafareAugment | None) -> Move:
    """A random move; None gives the one that changes nothing."""
    if augment is None:
        return Move()
    shift = rng.uniform(-augment.shift, augment.shift, 2)
    scale = 1 + float(rng.uniform(-augment.scale, augment.scale))
    mirror = -1.0 if rng.random() < augment.mirror else 1.0
    along = float(rng.normal(0, augment.depth))
    return Move(mirror, scale, (float(shift[0]), float(shift[1]), along))


def join_rows(rows: Sequence[RafareBatch]) -> RafareBatch:
    """Batches one after the other as one."""
    views = [row.view for row in rows]
    view = type(views[0])(
        *(torch.cat([getattr(v, f.name) for v in views]) for f in fields(views[0]))
    )
    names = [f.name for f in fields(RafareBatch) if f.name != "view"]
    return RafareBatch(view, *(torch.cat([getattr(r, n) for r in rows]) for n in names))
