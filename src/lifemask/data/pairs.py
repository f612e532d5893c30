"""Pairs of a picture and the exact surface it shows, for RAFaRe (arXiv 2302.05486, section 4.3).

    photo -> fit -> keep pose and expression, put in a random head with relief -> render in the
    photo's light -> fill what the old face leaves -> Poisson blend -> picture ; the head = truth

Frames: the square crop about the fit's landmarks (1.2 landmark squares) is the cube [-1, 1]^3, x
right, y up, z towards the viewer, pixel-aligned; lengths are half-crops. `docs/pairs.md` has the
layout of a folder and what differs from the paper.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lifemask.assets import UserError
from lifemask.data._pairs_back import solid_back
from lifemask.data._pairs_head import HeadParameters, ModelKit, PlacedHead, create_kit, place_head
from lifemask.data._pairs_maker import PairsMaker, create_pairs_maker
from lifemask.data._pairs_solid import Frame, Solid
from lifemask.data._pairs_types import (
    DEVELOPMENT_SEED,
    Pair,
    PairsConfig,
    from_record,
    to_stored,
)
from lifemask.data.shards import ShardSet, shard_paths
from lifemask.graphics.camera import orthographic_camera
from lifemask.types import Camera

FORMAT = "lifemask-pairs"
VERSION = 1


class PairSet(Sequence[Pair]):
    """Pairs of a folder by number, read and decoded when asked for; for threads and processes.

    Attributes:
        header: what `manifest.json` says: format, version, licence, settings, ...
    """

    def __init__(self, folder: Path, header: dict[str, Any]) -> None:
        """Index the folder's shards; no pair is read yet.

        Raises:
            UserError: a shard is missing or damaged.
        """
        self.header = header
        self._shards = ShardSet(shard_paths(folder))

    def __len__(self) -> int:
        """Number of pairs."""
        return len(self._shards)

    def __getitem__(self, index: int) -> Pair:  # pyright: ignore[reportIncompatibleMethodOverride]
        """One pair.

        Raises:
            UserError: it is damaged.
        """
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        return from_record(self._shards[index % len(self)])


def load_pairs(folder: str | Path) -> PairSet:
    """The pairs that `lifemask pairs` wrote to a folder.

    Raises:
        UserError: there are none, or a shard is damaged.
    """
    return PairSet(Path(folder), read_header(Path(folder)))


def read_header(folder: Path) -> dict[str, Any]:
    """The `manifest.json` of a folder of pairs.

    Raises:
        UserError: it is missing or no manifest of pairs.
    """
    path = folder / "manifest.json"
    try:
        header = json.loads(path.read_text(encoding="utf-8"))
        if (header["format"], header["version"]) != (FORMAT, VERSION):
            raise ValueError(f"format {header['format']!r} {header['version']!r}")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path} is no manifest of pairs ({error}): write some with lifemask pairs -o {folder}"
        ) from error
    return header


def camera_of(pair: Pair) -> Camera:
    """A pair's camera, scaled orthographic, to crop px."""
    rotation, shift = (torch.from_numpy(v.astype(np.float32)) for v in (pair.rotation, pair.shift))
    return orthographic_camera(rotation, pair.scale, shift)


@lru_cache(maxsize=4)
def _kit(name: Any, size: int, data: Path | None) -> ModelKit:
    return create_kit(name, size, data)


def true_head(pair: Pair, data: str | Path | None = None) -> PlacedHead:
    """The head that a pair shows, rebuilt from the numbers it keeps.

    Args:
        pair: as made or as read.
        data: folder with `ict/ict.npz`, for heads of ICT-FaceKit.

    Raises:
        UserError: the face model is not there.
    """
    kit = _kit(pair.heads, pair.size, None if data is None else Path(data))
    of = HeadParameters(
        pair.heads, pair.identity, pair.expression, pair.age, pair.detail_seed, pair.warp_mm
    )  # fmt: skip
    with torch.no_grad():
        return place_head(kit, of, kit.head(of), camera_of(pair), pair.size)


def true_solid(pair: Pair, data: str | Path | None = None) -> Solid:
    """The truth of a pair: its closed head in the cube; see `true_head`."""
    return true_head(pair, data).solid


def true_back(
    pair: Pair, data: str | Path | None = None
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Depth and normals of the back of a pair's head behind the face that the picture shows.

    No stored pair holds them; like `true_solid` they follow from its numbers.

    Returns:
        (S, S) z in the cube, NaN where the picture shows no true face or there is no back, and
        (S, S, 3) unit normals turned to the viewer (inwards, n_z > 0), 0 there.

    Raises:
        UserError: as `true_head`.
    """
    depth, normals = solid_back(true_solid(pair, data), pair.size)
    shown = np.isfinite(pair.depth) & np.isfinite(depth)
    return np.where(shown, depth, np.float32(np.nan)), normals * shown[..., None]


__all__ = [
    "DEVELOPMENT_SEED", "FORMAT", "VERSION", "Frame", "HeadParameters", "Pair", "PairSet",
    "PairsConfig", "PairsMaker", "Solid", "camera_of", "create_pairs_maker", "load_pairs",
    "read_header", "solid_back", "to_stored", "true_back", "true_head", "true_solid",
]  # fmt: skip
