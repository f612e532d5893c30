"""Mouths of the generator's faces, cut out with room to move: what the mouth reader learns from.

    python -m lifemask.data.mouth_windows OUT --data DATA --count 20000

writes npz shards; a run that was stopped goes on. `--part I/N` makes every N-th shard.
"""

from __future__ import annotations

import argparse
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from numpy import ndarray

from lifemask.data._windows import SHARD, claim_folder, load_shards, write_shards
from lifemask.data.eye_windows import template_of
from lifemask.faces.mouth import MOUTH, cut_mouth, mouth_opening, mouth_place

if TYPE_CHECKING:
    from torch import Tensor

    from lifemask.data.synthetic import Generator, Sample

MARGIN, COLUMNS = 1.4, 136
"""Width of a window in crops and in px: room for the training's shifts and turns."""
SIZE, EXPAND = 320, 1.0
"""Side of the renders in px, and in nominal crops."""
LEAST_SEEN = 0.3
"""Share of a mouth's points that must be in view."""
VERSION = 1
KIND, PROGRAM = "mouths", "python -m lifemask.data.mouth_windows"


@dataclass(frozen=True)
class MouthWindows:
    """Windows of mouths with their truth.

    Attributes:
        windows: (n, 102, 136, 3) uint8, `MARGIN` crops wide.
        opening: (n,) `mouth_opening`.
        direction: (n, 3) towards the camera in the head's frame.
        seen: (n,) share of the mouth's "ict68" points in view.
    """

    windows: UInt8[ndarray, "n r c 3"]
    opening: Float[ndarray, " n"]
    direction: Float[ndarray, "n 3"]
    seen: Float[ndarray, " n"]

    def __len__(self) -> int:
        return len(self.windows)


def mouth_of(sample: Sample, template_mm: Tensor) -> dict[str, Any]:
    """The mouth of a render (fields of `MouthWindows`, one row)."""
    truth = sample.landmarks["ict68"]
    place = mouth_place(torch.from_numpy(truth.image_px), template_mm)
    return {
        "windows": cut_mouth(sample.image, place, MARGIN, COLUMNS),
        "opening": np.float32(mouth_opening(torch.from_numpy(truth.camera_mm))),
        "direction": np.array(place.direction, np.float32),
        "seen": np.float32(truth.visible[MOUTH].mean()),
    }


def render_mouths(generator: Generator, first: int, count: int) -> MouthWindows:
    """The mouths of some of a run's faces; those out of sight left out."""
    template = template_of(generator)
    samples = generator.render(range(first, first + count), sets=("ict68",))
    rows = [row for row in (mouth_of(s, template) for s in samples) if row["seen"] >= LEAST_SEEN]
    names = MouthWindows.__dataclass_fields__
    return MouthWindows(**{name: np.stack([row[name] for row in rows]) for name in names})


def write_mouths(
    folder: Path, data: Path, seed: int, count: int, part: tuple[int, int] = (0, 1)
) -> None:
    """Render the shards of a cache that are missing.

    Args:
        folder: created if absent.
        data: folder with `skins/` and `hdri/`.
        seed: of the generator's run; from `synthetic.HELD_OUT_SEED` on never trained on.
        count: faces in all.
        part: (i, n): every n-th shard, from the i-th.

    Raises:
        UserError: materials are missing, or the folder holds another run.
    """
    from lifemask.data.synthetic import SyntheticConfig, create_generator

    config = SyntheticConfig(seed=seed, size=SIZE, expand=EXPAND, shard_size=SHARD)
    claim_folder(folder, KIND, {"version": VERSION, "licence": "open", "seed": seed})
    generator = create_generator(config, data)
    write_shards(folder, KIND, count, part, lambda first, n: render_mouths(generator, first, n))


def load_mouths(folder: Path, held_out: bool = False) -> MouthWindows:
    """All mouths of a cache.

    Args:
        folder: as `write_mouths` made it.
        held_out: it is test material; else it must not be.

    Raises:
        UserError: there is no cache, or it is of the other kind.
    """
    return load_shards(folder, KIND, MouthWindows, PROGRAM, held_out)


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog=PROGRAM, description=__doc__)
    parser.add_argument("folder", type=Path, help="where the cache goes")
    parser.add_argument("--data", type=Path, required=True, help="folder with skins/ and hdri/")
    parser.add_argument("--count", type=int, default=20_000, help="faces")
    parser.add_argument("--seed", type=int, default=0, help="from 900000000 on: tests only")
    parser.add_argument("--part", default="0/1", help="I/N: make every N-th shard, from the I-th")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    torch.set_num_threads(1)
    first, parts = (int(x) for x in options.part.split("/"))
    write_mouths(options.folder, options.data, options.seed, options.count, (first, parts))


if __name__ == "__main__":
    main()
