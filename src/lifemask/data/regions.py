"""Face pictures with a region class per pixel: the common form that the parser's training reads."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Int, UInt8
from numpy import ndarray

from lifemask.assets import UserError
from lifemask.data.base import read_cache_header
from lifemask.types import REGION_NAMES

IGNORE = 255  # pixels without a label: training and scores leave them out
GLASSES = 0x10  # added to the class of pixels that show a frame of glasses or dark glass
SQUARE_EXPAND = 1.25  # side of the parser's nominal view in units of the landmark square


@dataclass(frozen=True)
class RegionSet:
    """Square pictures about a face and their region maps; arrays may be memory maps.

    Attributes:
        name: of the source, e.g. "renders", "facesynthetics".
        images: one (m, s, s, 3) uint8 sRGB array per shard; all shards have the same s.
        regions: one (m, s, s) uint8 array per shard: ids of `types.REGION_NAMES`, `GLASSES` added
            where those are told, or `IGNORE`.
        view_side_px: side of the parser's nominal view (`SQUARE_EXPAND` landmark squares), centred
            in the picture, in picture px.
        glasses: whether `GLASSES` is told at all.
    """

    name: str
    images: tuple[UInt8[ndarray, "m s s 3"], ...]
    regions: tuple[UInt8[ndarray, "m s s"], ...]
    view_side_px: float
    glasses: bool = False

    def __len__(self) -> int:
        """Number of pictures."""
        return sum(len(shard) for shard in self.images)

    def gather(
        self, ids: Int[ndarray, "b"]
    ) -> tuple[UInt8[ndarray, "b s s 3"], UInt8[ndarray, "b s s"]]:
        """Pictures (b, s, s, 3) and region maps (b, s, s) by their numbers over all shards."""
        starts = np.cumsum([0, *(len(shard) for shard in self.images)])
        shard = np.searchsorted(starts, ids, side="right") - 1
        places = [(s, i - starts[s]) for s, i in zip(shard, ids, strict=True)]
        images = np.stack([self.images[s][i] for s, i in places])
        return images, np.stack([self.regions[s][i] for s, i in places])

    def subset(self, ids: Int[ndarray, "m"]) -> RegionSet:
        """A set of some of the pictures, copied into memory."""
        images, regions = self.gather(ids)
        return replace(self, images=(images,), regions=(regions,))


def split_glasses(
    maps: UInt8[ndarray, "*n"],
) -> tuple[UInt8[ndarray, "*n"], Bool[ndarray, "*n"]]:
    """Class ids, or `IGNORE`, and where there are glasses, from maps that tell both."""
    known = maps != IGNORE
    return np.where(known, maps & np.uint8(GLASSES - 1), maps), known & ((maps & GLASSES) > 0)


def merged(first: RegionSet, second: RegionSet) -> RegionSet:
    """The pictures of both sets under the first one's name.

    Raises:
        ValueError: their pictures or nominal views differ in size.
    """
    sizes = [(one.images[0].shape[1:], round(one.view_side_px, 6)) for one in (first, second)]
    if sizes[0] != sizes[1]:
        raise ValueError(f"sets of pictures {sizes[0]} and {sizes[1]} do not go together")
    images, regions = first.images + second.images, first.regions + second.regions
    told = first.glasses and second.glasses
    return replace(first, images=images, regions=regions, glasses=told)


def load_region_cache(
    folder: Path, shards: slice = slice(None), held_out: bool = False
) -> RegionSet:
    """The complete shards with region maps of a folder that `lifemask.data.synthetic` wrote.

    Args:
        folder: holds `header.json`, `images-XXXX.npy` and `regions-XXXX.npy`; they are mapped.
        shards: which of the shards, in the header's order.
        held_out: to be scored: people who are reserved for tests may be there.

    Raises:
        UserError: no shard with region maps there, maps of other classes than ours, or people
            reserved for tests that are not asked for as such.
    """
    header = read_cache_header(folder, held_out)
    names = [s for s in header.get("shards", []) if "regions" in s][shards]
    if not names:
        raise UserError(
            f"no complete shard with region maps in {folder}: run python -m lifemask.data.synthetic"
        )
    known = header.get("region_names", list(REGION_NAMES))
    if tuple(known) != REGION_NAMES:
        raise UserError(f"{folder} has the regions {known}, not {list(REGION_NAMES)}: make it anew")
    images = tuple(_mapped(folder / s["images"]) for s in names)
    regions = tuple(_mapped(folder / s["regions"]) for s in names)
    side = float(header["nominal_side_px"]) * SQUARE_EXPAND
    told = header.get("region_flags", {}).get("glasses") == GLASSES
    return RegionSet("renders", images, regions, side, told)


def _mapped(path: Path) -> ndarray:
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {path}: {error}. Make the renders anew") from error
