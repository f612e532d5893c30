"""A run of the generator that fills a folder with shards: resumable, by any number of workers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from lifemask.assets import UserError
from lifemask.data import shards

if TYPE_CHECKING:
    from lifemask.data.synthetic import Banks, Generator, Sample, SyntheticConfig
    from lifemask.facemodel.base import FaceModel

MANIFEST_VERSION = 1
Form = Literal["shards", "cache"]
Truth = Literal["none", "maps"]
Engine = Literal["local", "ray"]
Report = Callable[[int, int], None]
"""Called with a shard's number and how many of its images are made."""


def set_up(job: RenderJob) -> Generator:
    """The job's generator, in a process that uses one thread.

    Raises:
        UserError: the data cannot be read.
    """
    import torch

    from lifemask.data.synthetic import create_generator

    torch.set_num_threads(1)
    model = _face_model(job)
    try:
        return create_generator(job.config, job.data, model, job.photo_skins)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"cannot read the generator's data: {error}") from error


def samples_of(
    generator: Generator, banks: Banks, indices: list[int], truth: Truth, sets: Sequence[str]
) -> Iterator[Sample]:
    """The samples of some images of the shard whose banks these are."""
    from lifemask.data.synthetic import render_samples

    level = "labels" if truth == "none" else truth
    return render_samples(generator, banks, indices, level, sets)


@dataclass(frozen=True)
class RenderJob:
    """What to render and where to; travels to worker processes and other machines.

    Attributes:
        config: settings of the generator.
        folder: where the shards go.
        count: images in all.
        data: folder with `skins/` and `hdri/`.
        photo_skins: npz of photo textures, for the research family.
        face_model: name in `facemodel.FACE_MODELS`.
        form: "shards" (WebDataset tars) or "cache" (the npy and npz files training maps).
        truth: "maps" adds depth, normals and so on to shards; "none" leaves them out.
        sets: landmark sets to add to shards; "vertices" is the whole mesh.
        image_format: of shards, "jpg" or "png".
        device: where `render` renders; another device rounds otherwise, so a run keeps to one.
        create: job -> generator, called once per worker.
        render: (generator, banks, indices, truth, sets) -> samples of one shard's images.
    """

    config: SyntheticConfig
    folder: Path
    count: int
    data: Path
    photo_skins: Path | None = None
    face_model: str = "lifemask"
    form: Form = "shards"
    truth: Truth = "none"
    sets: tuple[str, ...] = ()
    image_format: shards.ImageFormat = "jpg"
    device: str = "cpu"
    create: Callable[[RenderJob], Any] = set_up
    render: Callable[..., Iterator[Any]] = samples_of

    @property
    def shard_count(self) -> int:
        """Shards of the whole run."""
        return -(-self.count // self.config.shard_size)

    def images_in(self, shard: int) -> int:
        """Images of one shard; the last may hold fewer."""
        size = self.config.shard_size
        return min(size, self.count - shard * size)

    def files_of(self, shard: int) -> list[Path]:
        """Files of one shard, the last written last."""
        if self.form == "shards":
            return [self.folder / f"shard-{shard:06d}.tar"]
        names = ("images-{:04d}.npy", "regions-{:04d}.npy", "labels-{:04d}.npz")
        return [self.folder / name.format(shard) for name in names]


def run(
    job: RenderJob,
    engine: Engine,
    workers: int,
    progress: Callable[[int, int], None] = lambda found, made: None,
) -> dict:
    """Render what is missing in the job's folder.

    The bytes depend on the job alone, not on engine, workers, or interruptions.

    Args:
        job: what and where to.
        engine: "local" processes or a "ray" cluster.
        workers: processes, or ray actors; local 0 works in this process.
        progress: called with the number of images that were there and that are made since.

    Returns:
        The manifest, as stored in `manifest.json`.

    Raises:
        UserError: wrong settings, missing data, or a folder that holds another run.
    """
    check(job)
    job.folder.mkdir(parents=True, exist_ok=True)
    shards.remove_leftovers(job.folder)
    manifest = _open_manifest(job)
    found = _complete_shards(job)
    _save_manifest(job, manifest, found)
    fill(job, found, engine, workers, progress, lambda: _save_manifest(job, manifest, found))
    return shards.read_manifest(job.folder)


def fill(
    job: RenderJob,
    found: dict[int, dict],
    engine: Engine,
    workers: int,
    progress: Callable[[int, int], None],
    save: Callable[[], object],
    noted: Callable[[dict], dict] = lambda entry: entry,
) -> None:
    """Write the shards that are missing; `found` grows by their entries.

    Args:
        job: what and where to.
        found: entries of the shards that are there, by their number.
        engine: "local" processes or a "ray" cluster.
        workers: as for `run`.
        progress: as for `run`.
        save: called after each shard.
        noted: an entry with what else the manifest says of it.

    Raises:
        UserError: an unknown engine, or a worker cannot read the data.
    """
    there = sum(entry["count"] for entry in found.values())
    made: dict[int, int] = {}

    def report(shard: int, done: int) -> None:
        made[shard] = done
        progress(there, sum(made.values()))

    progress(there, 0)
    missing = [s for s in range(job.shard_count) if s not in found]
    if missing:
        for entry in _engine(engine)(job, missing, workers, report):
            found[entry["shard"]] = noted(entry)
            save()
        shards.remove_leftovers(job.folder)  # of workers that died on the way


def check_places(job: RenderJob, page: str) -> None:
    """Refuse a folder without materials, or a file where shards should go.

    Args:
        job: what and where to.
        page: of the docs, for the remedy.

    Raises:
        UserError: with the remedy.
    """
    for part, pattern in (("skins", "*_diffuse*.jpg"), ("hdri", "*.exr")):
        if not any((job.data / part).glob(pattern)):
            raise UserError(
                f"no {part}/{pattern} in {job.data}: --data names a folder with CC0 skins and"
                f" environments ({page})"
            )
    if job.folder.exists() and not job.folder.is_dir():
        raise UserError(f"{job.folder} is a file; give a folder")


def check(job: RenderJob) -> None:
    """Refuse what cannot work before anything starts.

    Raises:
        UserError: with the remedy.
    """
    c = job.config
    for name, value, low, high in (
        ("count", job.count, 1, 10**9),
        ("size", c.size, 16, 2048),
        ("shard size", c.shard_size, 1, 100_000),
        ("bank size", c.bank_size, 1, 10_000),
    ):
        if not low <= value <= high:
            raise UserError(f"{name} is {value}; it lies between {low} and {high}")
    if (c.family == "research") != (job.photo_skins is not None):
        raise UserError(
            "photo skins and the research family belong together: give both --family research"
            " and --photo-skins FILE, or neither"
        )
    if job.photo_skins is not None and not job.photo_skins.is_file():
        raise UserError(
            f"{job.photo_skins} does not exist: make it with tools/unwrap_photo_textures.py"
        )
    check_places(job, "docs/synthetic.md")
    model = _face_model(job)
    if job.sets:
        _check_sets(model, job.sets)


def _face_model(job: RenderJob) -> FaceModel:
    from lifemask.facemodel import load_face_model

    try:
        return load_face_model(job.face_model)
    except KeyError as error:
        raise UserError(str(error.args[0])) from error


def _check_sets(model: FaceModel, sets: Sequence[str]) -> None:
    import torch

    from lifemask.data._synthetic_truth import model_points

    size = model.identity_size, len(model.expression_names)
    mean = model(*(torch.zeros(n) for n in size)).numpy()
    for name in sets:
        model_points(model, mean, name)


def make_shard(job: RenderJob, generator: Generator, shard: int, report: Report) -> dict:
    """Render and write one shard; its entry for the manifest."""
    if job.form == "cache":
        from lifemask.data.synthetic import write_shard

        write_shard(generator, job.folder, shard, job.images_in(shard))
    else:
        first = shard * job.config.shard_size
        indices = list(range(first, first + job.images_in(shard)))
        samples = job.render(generator, generator.banks(shard), indices, job.truth, job.sets)
        path = job.files_of(shard)[0]
        shards.write_shard(samples, path, first, job.image_format, lambda done: report(shard, done))
    report(shard, job.images_in(shard))
    return entry_of(job, shard)


def entry_of(job: RenderJob, shard: int) -> dict:
    """What the manifest says of a complete shard."""
    return {
        "shard": shard,
        "first": shard * job.config.shard_size,
        "count": job.images_in(shard),
        "files": {path.name: shards.file_entry(path) for path in job.files_of(shard)},
    }


def render_locally(
    job: RenderJob, missing: list[int], workers: int, report: Report
) -> Iterator[dict]:
    """Entries of shards as processes of this machine complete them."""
    if workers == 0:
        with _one_thread():
            generator = job.create(job)
            yield from (make_shard(job, generator, shard, report) for shard in missing)
        return
    from lifemask.data._workers import Workers

    waiting = list(reversed(missing))
    crew = Workers(min(workers, len(missing)), job.create, _work, shared=[(job,)] * workers)
    try:
        left = len(missing)
        while left:
            for message in crew.receive():
                if message.kind == "report":
                    report(*message.value)
                    continue
                if message.kind == "done":
                    left -= 1
                    yield message.value
                if waiting:
                    crew.send(message.worker, (job, waiting.pop()))
    finally:
        crew.close()


def _work(generator: Generator, task: tuple[RenderJob, int], report: Callable) -> dict:
    job, shard = task
    return make_shard(job, generator, shard, lambda *done: report(done))


@contextmanager
def _one_thread() -> Iterator[None]:
    import torch

    threads = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _engine(name: Engine) -> Callable[[RenderJob, list[int], int, Report], Iterator[dict]]:
    if name == "local":
        return render_locally
    if name == "ray":
        from lifemask.data._synthetic_ray import render_on_ray

        return render_on_ray
    raise UserError(f"unknown engine {name!r}; valid: local, ray")


def _settings(job: RenderJob) -> dict[str, Any]:
    """What decides the bytes; a folder holds renders of one set of these."""
    from lifemask.data.synthetic import FORMAT_VERSION, model_fingerprint

    settings: dict[str, Any] = {"form": job.form, "generator_version": FORMAT_VERSION}
    settings |= asdict(job.config)
    settings |= {
        "device": job.device,
        "face_model": job.face_model,
        "face_model_sha1": model_fingerprint(_face_model(job)),
        "data_sha1": data_sha1(job.data),
    }
    if job.form == "shards":
        settings |= {"truth": job.truth, "sets": list(job.sets)}
        settings |= {"image_format": job.image_format}
    if job.photo_skins is not None:
        settings["photo_skins_sha256"] = shards.file_entry(job.photo_skins)["sha256"]
    return settings


def data_sha1(data: Path) -> str:
    """Hash of the names and sizes of skins and environments."""
    files = [p for part in ("skins/*_diffuse*.jpg", "hdri/*.exr") for p in sorted(data.glob(part))]
    text = "".join(f"{p.name} {p.stat().st_size}\n" for p in files)
    return hashlib.sha1(text.encode()).hexdigest()[:12]


def _open_manifest(job: RenderJob) -> dict[str, Any]:
    """The folder's manifest without its shards, after checking that it is of this run."""
    from lifemask import __version__

    settings = _settings(job)
    path = job.folder / "manifest.json"
    if not path.exists():
        stray = [p.name for pattern in ("shard-*.tar", "labels-*.npz", "header.json")
                 for p in job.folder.glob(pattern)]  # fmt: skip
        if stray:
            raise UserError(
                f"{job.folder} holds renders without a manifest ({stray[0]}); use a new folder"
            )
        return _manifest(job, settings, __version__)
    old = shards.read_manifest(job.folder)
    known = {"frames": 1, "lids": 0.0} | old.get("settings", {})
    names = [k for k in sorted(known.keys() | settings) if known.get(k) != settings.get(k)]
    wrong = [f"{k} {known.get(k)!r}, now {settings.get(k)!r}" for k in names]
    if wrong:
        raise UserError(f"{job.folder} holds another run ({'; '.join(wrong)}): use a new folder")
    if job.count < old["count_planned"]:
        raise UserError(
            f"{job.folder} is a run of {old['count_planned']} images; --count may only grow"
        )
    return _manifest(job, settings, old["package"]["version"])


def _manifest(job: RenderJob, settings: dict[str, Any], version: str) -> dict[str, Any]:
    from lifemask.data._synthetic_rig import choose_sets

    model = _face_model(job)
    return {
        "format": "lifemask-renders",
        "version": MANIFEST_VERSION,
        "licence": "open" if job.config.family == "open" else "research only",
        "settings": settings,
        "package": {"version": version},
        "convention": choose_sets(model)[0],
        "nominal_side_px": job.config.nominal_side_px,
        "identity_size": model.identity_size,
        "expression_names": list(model.expression_names),
        "count_planned": job.count,
    }


def _save_manifest(job: RenderJob, manifest: dict[str, Any], found: dict[int, dict]) -> None:
    entries = [found[shard] for shard in sorted(found)]
    whole = manifest | {"count": sum(e["count"] for e in entries), "shards": entries}
    with shards.whole_file(job.folder / "manifest.json") as file:
        file.write((json.dumps(whole, indent=1) + "\n").encode())
    if job.form == "cache":
        from lifemask.data.synthetic import write_header

        write_header(job.config, job.folder, _face_model(job), job.count)


def _complete_shards(job: RenderJob) -> dict[int, dict]:
    """Entries of shards that are there; those the manifest does not know yet are looked into."""
    path = job.folder / "manifest.json"
    listed = shards.read_manifest(job.folder)["shards"] if path.exists() else []
    known = {entry["shard"]: entry for entry in listed}
    found = {}
    for shard in range(job.shard_count):
        files = job.files_of(shard)
        if not files[-1].exists():
            continue
        entry = known.get(shard)
        if entry is not None and entry["count"] == job.images_in(shard) and _sizes_fit(job, entry):
            found[shard] = entry
        elif _images_of(job, shard) == job.images_in(shard):
            found[shard] = entry_of(job, shard)
    return found


def _sizes_fit(job: RenderJob, entry: dict) -> bool:
    paths = {job.folder / name: stored["bytes"] for name, stored in entry["files"].items()}
    return all(p.exists() and p.stat().st_size == size for p, size in paths.items())


def _images_of(job: RenderJob, shard: int) -> int:
    """Images in a shard's files; 0 for what cannot be read."""
    import numpy as np

    files = job.files_of(shard)
    try:
        if job.form == "shards":
            return len(shards.index_tar(files[0]))
        arrays = [np.load(p, mmap_mode="r", allow_pickle=False) for p in files[:2]]
        return len(arrays[0]) if len(arrays[0]) == len(arrays[1]) else 0
    except (OSError, ValueError, shards.TarError):
        return 0
