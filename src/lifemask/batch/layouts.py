"""Heads on disk, exactly once: a folder per photo, or tars of many; both appear whole.

What is written takes its place by one rename, after its bytes are on the disk. In shards the heads
of a photo wait in `staging` until all photos of the shard are through; then its tar is put together
from them, in the photos' order. Doing anything a second time gives the same files.
"""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import tarfile
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lifemask.batch.job import HEADS, SHARDS, STAGING, BatchJob
from lifemask.batch.journal import Sealed
from lifemask.data.shards import whole_file
from lifemask.outputs import OutputError, write_heads

if TYPE_CHECKING:
    from lifemask.batch.sources import Item
    from lifemask.head import Head
    from lifemask.pipeline_input import Rgb

END_OF_TAR = bytes(2 * tarfile.BLOCKSIZE)
COPY_BYTES = 1 << 20


def write_photo(job: BatchJob, item: Item, heads: Sequence[Head], photo: Rgb) -> int:
    """Write the heads of a photo, whole or not at all; returns how many bytes.

    Raises:
        OutputError: they cannot be written.
    """
    staging = job.part(STAGING)
    try:
        staging.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="photo-", dir=staging) as room:
            made = Path(room) / "heads"
            files = write_heads(
                heads, made, photo=photo, photo_name=item.name, formats=job.formats,
                numbered=job.config.faces == "all", maps=job.maps,
            )  # fmt: skip
            size = sum(path.stat().st_size for path in files)
            if job.layout == "folders":
                for path in (*files, made):
                    _sync(path)
                _move(made, head_folder(job, item.key), Path(room) / "old")
            else:
                with whole_file(staged_file(job, item.key)) as file:
                    file.write(tar_blocks(item.key, files))
    except OSError as error:
        reason = error.strerror or str(error)
        raise OutputError(f"cannot write {error.filename or job.folder} ({reason})") from error
    return size


def head_folder(job: BatchJob, key: str) -> Path:
    """Where a photo's heads lie, in the layout "folders"."""
    return job.part(HEADS) / key


def staged_file(job: BatchJob, key: str) -> Path:
    """Where a photo's heads wait for their shard."""
    return job.part(STAGING) / f"{hashlib.sha1(key.encode()).hexdigest()[:20]}.tar"


def shard_file(job: BatchJob, shard: int) -> Path:
    """A shard's place."""
    return job.part(SHARDS) / f"heads-{shard:06d}.tar"


def is_there(job: BatchJob, key: str) -> bool:
    """Whether a photo's heads lie in their folder or wait for their shard."""
    if job.layout == "folders":
        return head_folder(job, key).is_dir()
    return staged_file(job, key).is_file()


def member_name(key: str, file_name: str) -> str:
    """What a head's file is called in a shard: `KEY.glb`, `KEY.2.preview.png`, ...

    Args:
        key: of the photo.
        file_name: as `outputs.write_heads` calls it, e.g. `head-2.glb`.
    """
    stem, _, ending = file_name.partition(".")
    stem, _, rest = stem.partition("_")
    what, _, number = stem.partition("-")
    parts = [key, number, "" if what == "head" else what, rest, ending]
    return ".".join(part for part in parts if part)


def tar_blocks(key: str, files: Iterable[Path]) -> bytes:
    """A photo's files as a piece of a tar, without its end; nothing of time or user goes in."""
    buffer = io.BytesIO()
    for path in files:
        data = path.read_bytes()
        entry = tarfile.TarInfo(member_name(key, path.name))
        entry.size = len(data)
        buffer.write(entry.tobuf(tarfile.PAX_FORMAT, "utf-8"))
        buffer.write(data + bytes(-len(data) % tarfile.BLOCKSIZE))
    return buffer.getvalue()


def pack(job: BatchJob, shard: int, keys: Sequence[str], done: Sequence[str]) -> Sealed:
    """Put a shard together from what waits in `staging`, which stays.

    Args:
        job: whose shard.
        shard: its number.
        keys: of all its photos.
        done: of those with heads, in order.

    Raises:
        OutputError: it cannot be written.
    """
    path = shard_file(job, shard)
    failed = sorted(set(keys).difference(done))
    if not done:
        return Sealed(shard, "", 0, [], failed)
    try:
        path.parent.mkdir(exist_ok=True)
        with whole_file(path) as file:
            for key in done:
                with staged_file(job, key).open("rb") as piece:
                    shutil.copyfileobj(piece, file, COPY_BYTES)
            file.write(END_OF_TAR)
        return Sealed(shard, path.name, path.stat().st_size, list(done), failed)
    except OSError as error:
        reason = error.strerror or str(error)
        raise OutputError(f"cannot write {error.filename or path} ({reason})") from error


def forget_staged(job: BatchJob, keys: Iterable[str]) -> None:
    """Remove what waited for a shard that is complete."""
    for key in keys:
        staged_file(job, key).unlink(missing_ok=True)


def clear_staging(job: BatchJob, keep: Iterable[str] = ()) -> None:
    """Remove what killed runs left, but for the heads of photos that wait for their shard.

    Args:
        job: whose folder; no worker may be at work in it.
        keep: keys of those photos.
    """
    staging = job.part(STAGING)
    kept = {staged_file(job, key).name for key in keep}
    for path in staging.iterdir() if staging.is_dir() else ():
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        elif path.name not in kept:
            path.unlink(missing_ok=True)
    for path in job.part(SHARDS).glob(".*.part"):  # half a shard
        path.unlink(missing_ok=True)
    if staging.is_dir() and not any(staging.iterdir()):
        staging.rmdir()


def _move(made: Path, folder: Path, old: Path) -> None:
    """Put a folder in its place; one that a killed run left there goes to `old`."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    if folder.exists():
        folder.replace(old)
    made.replace(folder)
    _sync(folder.parent)


def _sync(path: Path) -> None:
    """Wait until a file, or a folder's list of names, is on the disk."""
    try:
        file = os.open(path, os.O_RDONLY)
    except PermissionError:  # folders on Windows
        return
    try:
        os.fsync(file)
    finally:
        os.close(file)
