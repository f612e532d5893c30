"""Prepares faces for training the re-renderable texture: renders with truth, or photos.

    python -m lifemask.training.retexture_data OUT --data DATA --heads 4000 --lights 2
    python -m lifemask.training.retexture_data OUT --data DATA --photos aflw21

writes a cache (`_retexture_cache`) that `retexture_batches` reads. A run that was stopped goes on
where it was; shards can be read while the rest is made.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lifemask.assets import UserError
from lifemask.training._retexture_cache import has_shard, start_cache, write_shard

SHARD = 250
DEVELOPMENT_SEED = 910_000_000
"""Seed of the held-out heads that choices may be made on; those of 900 and 920 million test."""
Progress = Callable[[int], None]


@dataclass(frozen=True)
class RenderSettings:
    """Settings of a cache of renders; everything in it follows from them.

    Attributes:
        heads: people, each in one pose.
        lights: pictures of each head.
        size: side of maps and pictures.
        seed: of the run; from `synthetic.HELD_OUT_SEED` on the people are never trained on.
        jitter: strength of the error of the geometry; at 1 up to about 1.5 px of 128.
        skins: skins and backgrounds drawn anew for each shard.

    Raises:
        UserError: there is nothing to make.
    """

    heads: int = 4000
    lights: int = 2
    size: int = 128
    seed: int = 1
    jitter: float = 1.0
    skins: int = 60

    def __post_init__(self) -> None:
        """Refuse empty caches."""
        if min(self.heads, self.lights, self.size, self.skins) < 1 or self.jitter < 0:
            raise UserError("heads, lights and size must be positive, and jitter not negative")


def write_renders(
    folder: Path, data: Path, settings: RenderSettings, progress: Progress | None = None
) -> None:
    """Render the shards of a cache that are missing.

    Args:
        folder: created if absent.
        data: folder with `skins/` and `hdri/`.
        settings: of the run.
        progress: called with the number of heads that are done.

    Raises:
        UserError: materials are missing, or the folder holds another run.
    """
    from lifemask.data.synthetic import SyntheticConfig, create_generator, model_fingerprint
    from lifemask.methods._retexture_chart import create_texture_chart
    from lifemask.training._retexture_renders import render_heads

    config = SyntheticConfig(
        seed=settings.seed, size=settings.size, shard_size=SHARD, bank_size=settings.skins
    )
    generator = create_generator(config, data)
    model = generator.rig.model
    start_cache(folder, {
        "source": "renders", "family": "open", "licence": "open", "held_out": config.held_out,
        "face_model": model.name, "face_model_sha1": model_fingerprint(model), "shard": SHARD,
        **vars(settings),
    })  # fmt: skip
    chart = create_texture_chart(model, settings.size)
    report = progress or (lambda done: None)
    for shard, start in enumerate(range(0, settings.heads, SHARD)):
        numbers = range(start, min(start + SHARD, settings.heads))
        if not has_shard(folder, shard):
            records = []
            drawn = render_heads(generator, chart, shard, numbers, settings.lights, settings.jitter)
            for record in drawn:
                records.append(record)
                report(start + len(records))
            write_shard(folder, shard, records)
        report(numbers.stop)


@dataclass(frozen=True)
class PhotoSettings:
    """Settings of a cache of photos of AFLW-21; research only.

    Attributes:
        photos: that are tried, in random order; doubtful fits and grey pictures are left out.
        held_out: those that no network is trained on (`data.aflw21`), else the others.
        size: side of maps and pictures.
        seed: of the order.

    Raises:
        UserError: there is nothing to try.
    """

    photos: int = 5000
    held_out: bool = False
    size: int = 128
    seed: int = 1

    def __post_init__(self) -> None:
        """Refuse empty caches."""
        if min(self.photos, self.size) < 1:
            raise UserError("photos and size must be positive")


def write_photos(
    folder: Path, data: Path, settings: PhotoSettings, progress: Progress | None = None
) -> None:
    """Fit the shards of a cache of photos that are missing.

    Args:
        folder: created if absent.
        data: folder with `aflw21/`.
        settings: of the run.
        progress: called with the number of photos that were tried.

    Raises:
        UserError: the photos are missing, or the folder holds another run.
        AssetError: the fit's weights are missing.
    """
    import numpy as np

    from lifemask.data.aflw21 import load_aflw21
    from lifemask.data.synthetic import model_fingerprint
    from lifemask.methods._retexture_chart import create_texture_chart
    from lifemask.training._retexture_photos import create_fitter, order_of_photos, photo_heads

    crops = load_aflw21(data / "aflw21")[int(settings.held_out)]
    fitter = create_fitter()
    model = fitter.model
    start_cache(folder, {
        "source": "photos", "family": "research", "licence": "research only", "lights": 1,
        "face_model": model.name, "face_model_sha1": model_fingerprint(model), "shard": SHARD,
        **vars(settings),
    })  # fmt: skip
    chart = create_texture_chart(model, settings.size)
    ids = order_of_photos(crops, settings.seed)[: settings.photos]
    report = progress or (lambda done: None)
    tried = 0
    for shard, chosen in enumerate(np.array_split(ids, -(-len(ids) // SHARD))):
        if not has_shard(folder, shard):
            records = []
            for done, record in enumerate(photo_heads(crops, chosen, fitter, chart), 1):
                records += [] if record is None else [record]
                report(tried + done)
            if not records:
                raise UserError(f"none of {len(chosen)} photos can be used; try more (--heads)")
            write_shard(folder, shard, records)
        tried += len(chosen)
        report(tried)


def main(arguments: list[str] | None = None) -> None:
    """Command line: write a cache, resuming where a run stopped."""
    import argparse

    import torch

    defaults = RenderSettings()
    parser = argparse.ArgumentParser(
        prog="python -m lifemask.training.retexture_data", description=__doc__
    )
    parser.add_argument("folder", type=Path, help="where the cache goes")
    parser.add_argument("--data", type=Path, required=True, help="skins/ and hdri/, or aflw21/")
    parser.add_argument("--photos", choices=("aflw21",), help="photos in place of renders")
    parser.add_argument("--heads", type=int, help="people (4000), or photos that are tried (5000)")
    parser.add_argument("--lights", type=int, default=defaults.lights, help="pictures of a head")
    parser.add_argument("--size", type=int, default=defaults.size, help="of maps and pictures")
    parser.add_argument("--seed", type=int, default=defaults.seed)
    parser.add_argument("--jitter", type=float, default=defaults.jitter, help="of the geometry")
    parser.add_argument("--held-out", action="store_true", help="faces that are never trained on")
    args = parser.parse_args(arguments)
    torch.set_num_threads(1)
    usual = PhotoSettings().photos if args.photos else defaults.heads
    total = usual if args.heads is None else args.heads
    with _bar() as bar:
        task = bar.add_task(args.folder.name, total=total)

        def report(done: int) -> None:
            bar.update(task, completed=done)

        if args.photos:
            photos = PhotoSettings(total, args.held_out, args.size, args.seed)
            write_photos(args.folder, args.data, photos, report)
        else:
            seed = DEVELOPMENT_SEED if args.held_out else args.seed
            renders = RenderSettings(total, args.lights, args.size, seed, args.jitter)
            write_renders(args.folder, args.data, renders, report)


def _bar() -> Any:
    from rich.console import Console
    from rich.progress import MofNCompleteColumn, Progress, TimeRemainingColumn

    columns = (*Progress.get_default_columns()[:2], MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=Console(stderr=True))


if __name__ == "__main__":
    main()
