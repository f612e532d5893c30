"""What a batch run does and where to: `BatchJob`, and the folder that holds one run of it."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from lifemask.assets import UserError
from lifemask.batch.sources import RUN_FILE
from lifemask.data.shards import remove_leftovers, whole_file
from lifemask.pipeline_config import PipelineConfig

if TYPE_CHECKING:
    from lifemask.head import Head
    from lifemask.pipeline_input import Rgb

Reconstruct: TypeAlias = "Callable[[Rgb], list[Head]]"
Layout = Literal["folders", "shards"]
FORMATS = ("glb", "json", "png")
SHARD_FORMATS = ("glb", "ply", "json", "png")
VERSION = 1
HEADS, SHARDS, STAGING, JOURNAL, PARTS = "heads", "shards", "staging", "journal.jsonl", "journal"
LOCK = ".lock"
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP)
"""What file systems say that have no locks."""


def load_pipeline(config: PipelineConfig) -> Reconstruct:
    """A pipeline with its networks loaded, so that missing weights are told before any photo."""
    from lifemask.pipeline import Pipeline

    pipeline = Pipeline(config)
    _ = pipeline.detector, pipeline.geometry_stage
    _ = pipeline.landmarker if config.refine or pipeline.geometry_stage.needs_landmarks else None
    _ = pipeline.eye_reader if config.eyes else None
    _ = pipeline.parser if config.regions else None
    _ = pipeline.retexturer if pipeline.texture == "retexture" else None
    return pipeline


@dataclass(frozen=True)
class BatchJob:
    """What to make of photos and where to; travels to worker processes and other machines.

    Attributes:
        config: settings of the pipeline; each worker uses one thread, whatever it says of threads.
        folder: of the run; everything that is written lies in it.
        formats: files per head, some of `outputs.FORMATS`; shards take no "obj".
        maps: give the skin a normal and a roughness map (glb, obj).
        layout: "folders": `heads/KEY/head.glb`, ...; "shards": tars of `KEY.glb`,
            `KEY.params.json`, ..., in the WebDataset layout.
        shard_size: photos per shard.
        timeout_s: a photo that takes longer fails; 0 for no limit.
        recycle: photos after which a worker process is replaced, so that no leak adds up; 0: never.
        create: settings -> what turns a photo into heads; called once per worker process.
    """

    config: PipelineConfig
    folder: Path
    formats: tuple[str, ...] = FORMATS
    maps: bool = True
    layout: Layout = "folders"
    shard_size: int = 500
    timeout_s: float = 600.0
    recycle: int = 1000
    create: Callable[[PipelineConfig], Reconstruct] = load_pipeline

    def pipeline(self) -> Reconstruct:
        """What turns a photo into heads, in a process that uses one thread."""
        import torch

        torch.set_num_threads(1)
        return self.create(replace(self.config, threads=1))

    def part(self, name: str) -> Path:
        """A file or folder of the run, e.g. `HEADS`."""
        return self.folder / name


def check(job: BatchJob) -> None:
    """Refuse what cannot work before anything starts.

    Raises:
        UserError: with the remedy.
    """
    from lifemask.outputs import check_formats
    from lifemask.pipeline_config import check_choice

    check_choice("layout", job.layout, ("folders", "shards"))
    if not check_formats(job.formats):
        raise UserError("no format is left to write; --formats is some of glb,obj,ply,json,png")
    if job.layout == "shards" and not set(job.formats) <= set(SHARD_FORMATS):
        raise UserError(
            "obj is several files that name each other and cannot lie in a shard: use"
            f" --formats {','.join(SHARD_FORMATS)}, or --layout folders"
        )
    for name, value, low in (
        ("shard size", job.shard_size, 1),
        ("timeout", job.timeout_s, 0),
        ("recycle", job.recycle, 0),
    ):
        if value < low:
            raise UserError(f"{name} is {value}; it is at least {low}")


def settings_of(job: BatchJob) -> dict[str, Any]:
    """What decides the heads; a folder holds heads of one set of these."""
    config = asdict(job.config)
    del config["threads"]
    settings = config | {
        "formats": sorted(set(job.formats)),
        "maps": job.maps,
        "layout": job.layout,
        "weights_sha1": weights_sha1(job.config.weights),
    }
    if job.layout == "shards":
        settings["shard_size"] = job.shard_size
    return json.loads(json.dumps(settings, default=str))


def weights_sha1(family: str) -> str:
    """Hash of the digests of a family's weight files."""
    from lifemask.assets import assets

    chosen = [asset for asset in assets() if asset.name.endswith(f"-{family}")]
    text = "".join(f"{a.name} {sorted(a.files.items())}\n" for a in chosen)
    return hashlib.sha1(text.encode()).hexdigest()[:12]


@contextmanager
def open_run(job: BatchJob) -> Iterator[dict[str, Any]]:
    """Take hold of the job's folder, which is made if need be; one run works in it at a time.

    Yields:
        The content of `batch.json`.

    Raises:
        UserError: the settings cannot work, or the folder holds something else, a run of other
            settings, or a run that is at work.
    """
    check(job)
    check_place(job)
    try:
        job.folder.mkdir(parents=True, exist_ok=True)
        with _locked(job.part(LOCK)):
            remove_leftovers(job.folder)
            yield _header(job)
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(f"cannot write {error.filename or job.folder} ({reason})") from error


def check_place(job: BatchJob) -> None:
    """Refuse a folder that the job may not fill; changes nothing.

    Raises:
        UserError: the folder holds something else, or a run of other settings.
    """
    folder = job.folder
    try:
        if folder.exists() and not folder.is_dir():
            raise UserError(f"{folder} is a file; give a folder")
        if not folder.exists():
            return
        if not (folder / RUN_FILE).exists():
            if any(not p.name.startswith(".") for p in folder.iterdir()):
                raise UserError(f"{folder} holds other files; a batch needs a folder of its own")
            return
    except OSError as error:
        raise UserError(f"cannot read {folder} ({error.strerror or error})") from error
    old, new = read_header(folder)["settings"], settings_of(job)
    old = settings_of(replace(job, config=PipelineConfig())) | old  # settings that came later
    names = [name for name in sorted(old.keys() | new) if old.get(name) != new.get(name)]
    if names:
        wrong = "; ".join(f"{k} {old.get(k)!r}, now {new.get(k)!r}" for k in names)
        raise UserError(f"{folder} holds a run of other settings ({wrong}): use a new folder")


def read_header(folder: Path) -> dict[str, Any]:
    """The `batch.json` of a run.

    Raises:
        UserError: it is missing or no such file.
    """
    path = folder / RUN_FILE
    try:
        header = json.loads(path.read_text(encoding="utf-8"))
        if header["format"] != "lifemask-batch" or not isinstance(header["settings"], dict):
            raise ValueError(f"format {header['format']!r}")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is no header of a batch ({error}); use a new folder") from error
    return header


def _header(job: BatchJob) -> dict[str, Any]:
    from lifemask import __version__

    path = job.part(RUN_FILE)
    if path.exists():
        return read_header(job.folder)
    header = {
        "format": "lifemask-batch",
        "version": VERSION,
        "lifemask_version": __version__,
        "settings": settings_of(job),
    }
    with whole_file(path) as file:
        file.write((json.dumps(header, indent=1) + "\n").encode())
    return header


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """A lock that ends with this process, however that ends."""
    try:
        import fcntl
    except ImportError:  # no such locks on Windows
        yield
        return
    file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(f"another run is at work in {path.parent}; wait for it") from error
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
        yield
    finally:
        os.close(file)
