"""Albedo maps on disk: written in parts, resumable, read as memory maps."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from numpy import ndarray

from lifemask.assets import UserError, sha256
from lifemask.data.albedo_maps import create_map_maker
from lifemask.data.synthetic import HELD_OUT_SEED, SyntheticConfig, create_generator

logger = logging.getLogger(__name__)
VERSION = 2
PART = 250
"""Maps in a file; a set of fewer has one file in a folder of its own."""
HELD_OUT_SKINS = (2, 7, 12, 17)
"""Of the sorted MakeHuman skins, two dark and two light ones that no training map is made from."""


@dataclass(frozen=True)
class MapSettings:
    """What decides a set of maps.

    Attributes:
        size: n.
        count: of maps; a folder with more serves as well.
        seed: of every draw.
        held_out: made from the held-out skins instead of the others.
    """

    size: int
    count: int
    seed: int = 0
    held_out: bool = False


class MapBank:
    """Maps in several arrays as one.

    Args:
        parts: (m, 3, n, n) uint8 each, sRGB-coded.
        count: how many of the maps to use.
    """

    def __init__(self, parts: Sequence[ndarray], count: int) -> None:
        self._parts, self._count = list(parts), count
        self._ends = np.cumsum([len(part) for part in parts])

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, ids: ndarray) -> UInt8[ndarray, "k 3 n n"]:
        """The maps of some numbers (k,)."""
        owners = np.searchsorted(self._ends, ids, side="right")
        starts = self._ends - [len(part) for part in self._parts]
        return np.stack([
            self._parts[p][i - starts[p]] for p, i in zip(owners, np.asarray(ids), strict=True)
        ])  # fmt: skip


def open_maps(folder: Path, data: Path, settings: MapSettings) -> MapBank:
    """The maps of a folder, made where they are missing; the same call goes on after a stop.

    Args:
        folder: of the cache; every combination of settings has a folder of its own in it.
        data: with `skins/` and `hdri/`, as for the generator.
        settings: which maps.

    Raises:
        UserError: there are no skins, or the folder holds maps of other skins.
    """
    kind = "held-out" if settings.held_out else "train"
    few = settings.count < PART
    part = settings.count if few else PART
    place = Path(folder) / f"{kind}-{settings.size}-{settings.seed}{f'-few{part}' if few else ''}"
    place.mkdir(parents=True, exist_ok=True)
    _check_header(place / "maps.json", data, settings)
    paths = [place / f"{i:05d}.npy" for i in range(-(-settings.count // part))]
    missing = [path for path in paths if not path.is_file()]
    if missing:
        logger.info("making %d parts of %d albedo maps in %s", len(missing), part, place)
        _write(missing, data, settings, part)
    return MapBank([np.load(path, mmap_mode="r") for path in paths], settings.count)


def _write(missing: Sequence[Path], data: Path, settings: MapSettings, part: int) -> None:
    from lifemask.methods._retexture_chart import create_texture_chart

    generator = create_generator(SyntheticConfig(), data)
    chart = create_texture_chart(generator.rig.model, settings.size)
    held = {k for k in HELD_OUT_SKINS if k < len(generator.skins)}
    others = set(range(len(generator.skins))) - held
    seed = settings.seed + HELD_OUT_SEED * settings.held_out
    chosen = sorted(held if settings.held_out else others)
    maker = create_map_maker(generator, chart, seed, chosen)
    for path in missing:
        first = int(path.stem) * part
        maps = np.stack([maker.make(index) for index in range(first, first + part)])
        temporary = path.with_suffix(".part")
        with temporary.open("wb") as stream:
            np.save(stream, maps)
        temporary.replace(path)
        logger.info("albedo maps: %s", path.name)


def _check_header(path: Path, data: Path, settings: MapSettings) -> None:
    skins = sorted((Path(data) / "skins").glob("*_diffuse*.jpg"))
    if not skins:
        raise UserError(f"no skins/*_diffuse*.jpg in {data}: put MakeHuman skins there (CC0)")
    own = {k: v for k, v in asdict(settings).items() if k != "count"}
    header = {"version": VERSION, **own, "skins": {file.name: sha256(file) for file in skins}}
    if not path.is_file():
        path.write_text(json.dumps(header, indent=1), encoding="utf-8")
    elif json.loads(path.read_text(encoding="utf-8")) != header:
        raise UserError(f"{path.parent} holds maps of other skins or an older version: delete it")
