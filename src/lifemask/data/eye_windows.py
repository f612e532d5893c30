"""Eyes of the generator's faces, cut out with room to move: what the eye reader learns from.

    python -m lifemask.data.eye_windows OUT --data DATA --count 12000

writes npz shards; a run that was stopped goes on. `--part I/N` makes every N-th shard.
"""

from __future__ import annotations

import argparse
import logging
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from numpy import ndarray

from lifemask.data._windows import SHARD, claim_folder, load_shards, write_shards
from lifemask.faces.closeup import STABLE, Place
from lifemask.faces.eyes import (
    ACROSS_MM,
    HEIGHT,
    LIDS,
    WIDTH,
    cut_eye,
    eye_places,
    lid_opening,
)

if TYPE_CHECKING:
    from torch import Tensor

    from lifemask.data.synthetic import Generator, Sample

MARGIN = 1.5
"""Width of a window in crops: room for the training's shifts and turns."""
SIZE, EXPAND = 256, 0.7
"""Side of the renders in px, and in nominal crops: closer than other networks look."""
HIDDEN_KEPT = 0.3
"""Share of the eyes with less than a third of their points in view that is kept."""
VERSION = 1
KIND, PROGRAM = "eyes", "python -m lifemask.data.eye_windows"


@dataclass(frozen=True)
class EyeSettings:
    """What decides a cache of eyes.

    Attributes:
        seed: of the generator's run; from `synthetic.HELD_OUT_SEED` on never trained on.
        lids: share of the faces whose lids are drawn anew (`SyntheticConfig.lids`).
    """

    seed: int = 0
    lids: float = 0.7


@dataclass(frozen=True)
class EyeWindows:
    """Windows of eyes, each as the eye at -x, with their truth.

    Attributes:
        windows: (n, 72, 96, 3) uint8, `MARGIN` crops wide.
        opening: (n,) `lid_opening`.
        gaze_deg: (n, 2) pitch and yaw in the head's frame, mirrored alike.
        direction: (n, 3) towards the camera in the head's frame, mirrored alike.
        lids: (n, 6, 2) the eye's "ict68" points in px of the window, the outer corner first.
        seen: (n,) share of these points in view.
    """

    windows: UInt8[ndarray, "n r c 3"]
    opening: Float[ndarray, " n"]
    gaze_deg: Float[ndarray, "n 2"]
    direction: Float[ndarray, "n 3"]
    lids: Float[ndarray, "n 6 2"]
    seen: Float[ndarray, " n"]

    def __len__(self) -> int:
        return len(self.windows)


def template_of(generator: Generator) -> Tensor:
    """`STABLE` points (s, 3) mm of the generator's mean head."""
    mean = torch.from_numpy(generator.rig.mean_mm)
    return generator.rig.model.landmarks(mean, "ict68")[list(STABLE)]


def eyes_of(sample: Sample, template_mm: Tensor) -> list[dict[str, Any]]:
    """The two eyes of a render (fields of `EyeWindows`, one row each)."""
    truth = sample.landmarks["ict68"]
    points = torch.from_numpy(truth.image_px)
    opening = lid_opening(torch.from_numpy(truth.camera_mm)).numpy()
    rows = []
    for k, (place, part) in enumerate(zip(eye_places(points, template_mm), LIDS, strict=True)):
        gaze = sample.gaze_deg[k] * ([1, -1] if place.mirror else [1, 1])
        corners = truth.image_px[part, :2]
        # "ict68" goes from the image's left: of the eye at +x that is the inner corner
        order = [3, 2, 1, 0, 5, 4] if place.mirror else [0, 1, 2, 3, 4, 5]
        rows.append({
            "windows": cut_eye(sample.image, place, MARGIN, round(WIDTH * MARGIN)),
            "opening": opening[k],
            "gaze_deg": gaze.astype(np.float32),
            "direction": np.array(place.direction, np.float32),
            "lids": to_window(corners[order], place, MARGIN, round(WIDTH * MARGIN)),
            "seen": np.float32(truth.visible[part].mean()),
        })  # fmt: skip
    return rows


def to_window(
    points_px: Float[ndarray, "n 2"], place: Place, margin: float, size: int
) -> Float[ndarray, "n 2"]:
    """Photo px to px of the window that `cut_eye` makes; integers are centres in both."""
    up = np.array(place.up)
    right = np.array([-up[1], up[0]]) * (-1.0 if place.mirror else 1.0)
    step = margin * ACROSS_MM * place.px_per_mm / size
    off = (points_px - np.array(place.center_px)) / step
    middle = np.array([size - 1, size * HEIGHT // WIDTH - 1]) / 2
    return (np.stack([off @ right, -off @ up], -1) + middle).astype(np.float32)


def render_eyes(generator: Generator, first: int, count: int) -> EyeWindows:
    """The eyes of some of a run's faces; those out of sight mostly left out."""
    template = template_of(generator)
    seed = generator.config.seed
    rows: list[dict[str, Any]] = []
    samples = generator.render(range(first, first + count), sets=("ict68",))
    for index, sample in enumerate(samples, start=first):
        rng = np.random.default_rng([seed, 5, index])
        for row in eyes_of(sample, template):
            if row["seen"] > 1 / 3 or rng.random() < HIDDEN_KEPT:
                rows.append(row)
    names = EyeWindows.__dataclass_fields__
    return EyeWindows(**{name: np.stack([row[name] for row in rows]) for name in names})


def write_eyes(
    folder: Path, data: Path, settings: EyeSettings, count: int, part: tuple[int, int] = (0, 1)
) -> None:
    """Render the shards of a cache that are missing.

    Args:
        folder: created if absent.
        data: folder with `skins/` and `hdri/`.
        settings: of the run.
        count: faces in all.
        part: (i, n): every n-th shard, from the i-th.

    Raises:
        UserError: materials are missing, or the folder holds another run.
    """
    from lifemask.data.synthetic import SyntheticConfig, create_generator

    config = SyntheticConfig(
        seed=settings.seed, size=SIZE, expand=EXPAND, shard_size=SHARD, lids=settings.lids
    )
    header = {"version": VERSION, "licence": "open", **asdict(settings)}
    claim_folder(folder, KIND, header)
    generator = create_generator(config, data)
    write_shards(folder, KIND, count, part, lambda first, n: render_eyes(generator, first, n))


def load_eyes_cache(folder: Path, held_out: bool = False) -> EyeWindows:
    """All eyes of a cache.

    Args:
        folder: as `write_eyes` made it.
        held_out: it is test material; else it must not be.

    Raises:
        UserError: there is no cache, or it is of the other kind.
    """
    return load_shards(folder, KIND, EyeWindows, PROGRAM, held_out)


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog=PROGRAM, description=__doc__)
    parser.add_argument("folder", type=Path, help="where the cache goes")
    parser.add_argument("--data", type=Path, required=True, help="folder with skins/ and hdri/")
    parser.add_argument("--count", type=int, default=12_000, help="faces")
    parser.add_argument("--seed", type=int, default=0, help="from 900000000 on: tests only")
    parser.add_argument("--lids", type=float, default=EyeSettings().lids)
    parser.add_argument("--part", default="0/1", help="I/N: make every N-th shard, from the I-th")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    torch.set_num_threads(1)
    first, parts = (int(x) for x in options.part.split("/"))
    settings = EyeSettings(options.seed, options.lids)
    write_eyes(options.folder, options.data, settings, options.count, (first, parts))


if __name__ == "__main__":
    main()
