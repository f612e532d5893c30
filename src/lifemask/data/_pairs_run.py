"""A run of pairs that fills a folder with shards: resumable, by processes or a Ray cluster."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from lifemask.assets import UserError
from lifemask.data import shards
from lifemask.data._pairs_inpaint import fill_facts
from lifemask.data._pairs_maker import create_pairs_maker
from lifemask.data._pairs_types import LATER, Pair, PairsConfig, StoredPair, to_stored
from lifemask.data._synthetic_run import (
    Engine,
    RenderJob,
    check_places,
    data_sha1,
    entry_of,
    fill,
)
from lifemask.data.synthetic import SyntheticConfig

GENERATOR_VERSION = 4
"""Of what settings turn into; a folder keeps to one."""


class Maker(Protocol):
    """What makes pairs; `PairsMaker` is one."""

    def banks(self, shard: int) -> Any:
        """What the pairs of a shard share."""
        ...

    def make(self, banks: Any, indices: Sequence[int]) -> Iterator[Pair]:
        """Pairs by their number."""
        ...


Create = Callable[[PairsConfig, Path], Maker]


@dataclass(frozen=True)
class SetUp:
    """Makes the maker of a run in the process that will use it."""

    config: PairsConfig
    create: Create = create_pairs_maker

    def __call__(self, job: RenderJob) -> Maker:
        """The maker, with the job's data."""
        return self.create(self.config, job.data)


def stored_pairs(
    maker: Maker, banks: Any, indices: list[int], _truth: str, _sets: Sequence[str]
) -> Iterator[StoredPair]:
    """Pairs of a shard as it keeps them."""
    return (to_stored(pair) for pair in maker.make(banks, indices))


def create_job(
    config: PairsConfig, folder: Path, count: int, data: Path, create: Create
) -> RenderJob:
    """The run as the generator's engines take it."""
    shape = SyntheticConfig(
        seed=config.seed, size=config.size, shard_size=config.shard_size,
        bank_size=config.bank_size,
    )  # fmt: skip
    if config.photos not in ("renders", "aflw21"):  # workers may have another current folder
        config = replace(config, photos=str(Path(config.photos).resolve()))
    if config.inpaint_weights:
        config = replace(config, inpaint_weights=str(Path(config.inpaint_weights).resolve()))
    return RenderJob(shape, folder, count, data, create=SetUp(config, create), render=stored_pairs)


def run_pairs(
    config: PairsConfig,
    folder: Path,
    count: int,
    data: Path,
    engine: Engine = "local",
    workers: int = 0,
    progress: Callable[[int, int], None] = lambda found, made: None,
    create: Create = create_pairs_maker,
) -> dict[str, Any]:
    """Make what is missing in a folder.

    The bytes depend on the settings alone, not on engine, workers or interruptions.

    Args:
        config: settings.
        folder: where the shards go.
        count: pairs in all; may grow in a later run.
        data: folder with `skins/`, `hdri/`, `aflw21/`, `ict/`.
        engine: "local" processes or a "ray" cluster.
        workers: processes, or ray actors; local 0 works in this process.
        progress: called with the number of pairs that were there and that are made since.
        create: makes what makes the pairs, once per worker.

    Returns:
        The manifest, as stored.

    Raises:
        UserError: wrong settings, missing data, or a folder that holds another run.
    """
    job = create_job(config, folder, count, data, create)
    _check(job)
    manifest = _open_manifest(config, job)
    folder.mkdir(parents=True, exist_ok=True)
    shards.remove_leftovers(folder)
    found = _complete_shards(job)
    _save(job, manifest, found)
    fill(
        job, found, engine, workers, progress, lambda: _save(job, manifest, found),
        lambda entry: entry | {"rejected": _rejected(job, entry["shard"])},
    )  # fmt: skip
    return _save(job, manifest, found)


def _check(job: RenderJob) -> None:
    if not 1 <= job.count <= 10**9:
        raise UserError(f"count is {job.count}; it lies between 1 and {10**9}")
    check_places(job, "docs/pairs.md")


def _open_manifest(config: PairsConfig, job: RenderJob) -> dict[str, Any]:
    """The manifest without its shards, after checking that the folder is of this run."""
    from lifemask import __version__
    from lifemask.data._synthetic_cache import model_fingerprint
    from lifemask.data.pairs import FORMAT, VERSION, read_header
    from lifemask.facemodel import load_face_model

    chosen = asdict(config)
    del chosen["inpaint_weights"]  # what is in them counts, not where they lie
    settings = chosen | fill_facts(config) | {
        "generator_version": GENERATOR_VERSION, "data_sha1": data_sha1(job.data),
        "face_model_sha1": model_fingerprint(load_face_model("lifemask")),
    }  # fmt: skip
    manifest = {
        "format": FORMAT, "version": VERSION, "licence": config.licence,
        "settings": settings, "package": {"version": __version__},
        "held_out": config.held_out, "count_planned": job.count,
    }  # fmt: skip
    path = job.folder / "manifest.json"
    if not path.exists():
        if any(job.folder.glob("shard-*.tar")):
            raise UserError(f"{job.folder} holds shards without a manifest; use a new folder")
        return manifest
    old = read_header(job.folder)
    known = LATER | old.get("settings", {})
    names = [k for k in sorted(known.keys() | settings) if known.get(k) != settings.get(k)]
    if names:
        wrong = "; ".join(f"{k} {known.get(k)!r}, now {settings.get(k)!r}" for k in names)
        raise UserError(f"{job.folder} holds another run ({wrong}): use a new folder")
    if job.count < old["count_planned"]:
        raise UserError(f"{job.folder} is a run of {old['count_planned']}; --count may only grow")
    return manifest


def _complete_shards(job: RenderJob) -> dict[int, dict]:
    """Entries of the shards that are there and whole."""
    found = {}
    for shard in range(job.shard_count):
        path = job.files_of(shard)[0]
        try:
            whole = path.exists() and len(shards.index_tar(path)) == job.images_in(shard)
        except (OSError, shards.TarError):
            whole = False
        if whole:
            found[shard] = entry_of(job, shard) | {"rejected": _rejected(job, shard)}
    return found


def _rejected(job: RenderJob, shard: int) -> dict[str, int]:
    """How many photos were turned away for a shard's pairs, by reason."""
    total: dict[str, int] = {}
    with shards.ShardSet(job.files_of(shard)) as records:
        for index in range(len(records)):
            labels = json.loads(records.raw(index)["json"])
            for reason, number in labels["facts"]["rejected"].items():
                total[reason] = total.get(reason, 0) + number
    return total


def _save(job: RenderJob, manifest: dict[str, Any], found: dict[int, dict]) -> dict[str, Any]:
    entries = [found[shard] for shard in sorted(found)]
    count = sum(entry["count"] for entry in entries)
    rejected: dict[str, int] = {}
    for entry in entries:
        for reason, number in entry["rejected"].items():
            rejected[reason] = rejected.get(reason, 0) + number
    whole = manifest | {"count": count, "rejected": rejected, "shards": entries}
    with shards.whole_file(job.folder / "manifest.json") as file:
        file.write((json.dumps(whole, indent=1) + "\n").encode())
    return whole
