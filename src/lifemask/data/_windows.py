"""Caches of close-ups cut out of the generator's faces: npz shards beside a json about them.

A run that was stopped goes on; shards can be made by several processes.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from lifemask.assets import UserError

logger = logging.getLogger(__name__)
SHARD = 500
"""Faces of a shard."""
Windows = TypeVar("Windows")


def claim_folder(folder: Path, kind: str, header: dict[str, Any]) -> None:
    """Make a folder the cache of one run, or see that it is.

    Args:
        folder: created if absent.
        kind: what is cut out, e.g. "eyes".
        header: what decides the run.

    Raises:
        UserError: the folder holds another run.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{kind}.json"
    if path.is_file() and json.loads(path.read_text(encoding="utf-8")) != header:
        raise UserError(f"{folder} holds {kind} of another run: delete it or name another folder")
    path.write_text(json.dumps(header), encoding="utf-8")


def write_shards(
    folder: Path,
    kind: str,
    count: int,
    part: tuple[int, int],
    render: Callable[[int, int], Any],
) -> None:
    """Render the shards of a cache that are missing.

    Args:
        folder: claimed.
        kind: as its json is named.
        count: faces in all.
        part: (i, n): every n-th shard, from the i-th.
        render: (first face, how many) -> a dataclass of arrays with a row each.
    """
    for shard, start in enumerate(range(0, count, SHARD)):
        path = folder / f"{kind}-{shard:04d}.npz"
        if shard % part[1] != part[0] or path.is_file():
            continue
        found = render(start, min(SHARD, count - start))
        temporary = path.with_suffix(".part")
        with temporary.open("wb") as stream:
            np.savez(stream, allow_pickle=False, **vars(found))
        temporary.replace(path)
        logger.info("%s of %d faces: %d", kind, start + SHARD, len(found))


def load_shards(
    folder: Path, kind: str, windows: type[Windows], command: str, held_out: bool
) -> Windows:
    """All rows of a cache.

    Args:
        folder: as `write_shards` made it.
        kind: as its json is named.
        windows: a dataclass of arrays.
        command: that makes such a cache.
        held_out: it is test material; else it must not be.

    Raises:
        UserError: there is no cache, or it is of the other kind.
    """
    from lifemask.data.synthetic import HELD_OUT_SEED

    path = folder / f"{kind}.json"
    shards = sorted(folder.glob(f"{kind}-*.npz"))
    if not path.is_file() or not shards:
        raise UserError(f"{folder} holds no {kind}: run {command} {folder}")
    seed = json.loads(path.read_text(encoding="utf-8"))["seed"]
    if (seed >= HELD_OUT_SEED) != held_out:
        said = "held out" if seed >= HELD_OUT_SEED else "training material"
        raise UserError(f"the {kind} of {folder} are {said} (seed {seed})")
    names = list(getattr(windows, "__dataclass_fields__", {}))
    parts = []
    for shard in shards:
        with np.load(shard) as archive:
            parts.append({name: archive[name] for name in names})
    return windows(**{name: np.concatenate([p[name] for p in parts]) for name in names})
