"""Labelled renders in WebDataset tar shards: written whole or not at all, read in any order.

A shard is a plain tar of files `KEY.jpg`, `KEY.json`, ... that the webdataset package reads too;
`docs/synthetic.md` has the schema.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import socket
import tarfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np

from lifemask.assets import UserError
from lifemask.data._sample_codec import ImageFormat, Record, decode, encode
from lifemask.data.base import CropSet

TarError = tarfile.TarError
BLOCK = tarfile.BLOCKSIZE


def write_shard(
    samples: Iterable[Any],
    path: Path,
    first: int,
    image_format: ImageFormat = "jpg",
    report: Callable[[int], None] | None = None,
) -> int:
    """Write samples to a tar file that appears when it is complete.

    Equal samples give equal bytes: nothing of the time, the user or the machine goes in.

    Args:
        samples: `synthetic.Sample`s, or other dataclasses with an `image` (h, w, 3) uint8.
        path: of the tar file; an older one is replaced.
        first: number of the first sample in the run; keys are nine digits.
        image_format: "jpg" or "png".
        report: called with the number of samples written, now and then.

    Returns:
        Number of samples.
    """
    count = 0
    with whole_file(path) as file, _tar(file) as archive:
        for sample in samples:
            key = f"{first + count:09d}"
            for suffix, data in encode(sample, first + count, image_format).items():
                entry = tarfile.TarInfo(f"{key}.{suffix}")  # dated 1970-01-01, of nobody
                entry.size = len(data)
                archive.addfile(entry, io.BytesIO(data))
            count += 1
            if report is not None and count % 10 == 0:
                report(count)
    return count


def read_shards(paths: Iterable[Path]) -> Iterator[Record]:
    """All samples of some shards, one after the other.

    Args:
        paths: tar files; `shard_paths` lists those of a folder.

    Raises:
        UserError: a shard is missing or damaged.
    """
    for path in paths:
        with ShardSet([path]) as shard:
            yield from (shard[i] for i in range(len(shard)))


def shard_paths(folder: Path) -> list[Path]:
    """The complete shards of a folder that `lifemask synth` wrote, in order.

    Raises:
        UserError: there are none.
    """
    paths = sorted(folder.glob("shard-*.tar"))
    if not paths:
        raise UserError(f"no shards in {folder}: write some with lifemask synth -o {folder}")
    return paths


class ShardSet(Sequence[Record]):
    """Samples of shards by number, in any order; for threads and, after pickling, processes."""

    def __init__(self, paths: Iterable[Path]) -> None:
        """Index the shards; no sample is read yet.

        Raises:
            UserError: a shard is missing or damaged.
        """
        self._paths = [Path(p) for p in paths]
        self._open()

    def _open(self) -> None:
        self._files: list[int] = []
        self._entries: list[tuple[int, str, dict[str, tuple[int, int]]]] = []
        for number, path in enumerate(self._paths):
            try:
                self._files.append(os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0)))
                entries = index_tar(path)
            except (OSError, tarfile.TarError) as error:
                self.close()
                raise UserError(f"cannot read shard {path}: {error}; write it again") from error
            self._entries += [(number, key, files) for key, files in entries.items()]

    def __len__(self) -> int:
        """Number of samples."""
        return len(self._entries)

    def __getitem__(self, index: int) -> Record:  # pyright: ignore[reportIncompatibleMethodOverride]
        """One sample, decoded.

        Raises:
            UserError: it is damaged.
        """
        return decode(self._entries[index][1], self.raw(index))

    def raw(self, index: int) -> dict[str, bytes]:
        """Files of one sample, by suffix."""
        number, _, files = self._entries[index]
        return {s: os.pread(self._files[number], size, at) for s, (at, size) in files.items()}

    def close(self) -> None:
        """Close the files."""
        while self._files:
            os.close(self._files.pop())

    def __enter__(self) -> ShardSet:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()

    def __getstate__(self) -> list[Path]:
        return self._paths

    def __setstate__(self, paths: list[Path]) -> None:
        self._paths = paths
        self._open()


def index_tar(path: Path) -> dict[str, dict[str, tuple[int, int]]]:
    """Where the files of each sample lie: {key: {suffix: (offset, bytes)}}, in order.

    Raises:
        OSError, tarfile.TarError: the tar cannot be read or ends too early.
    """
    found: dict[str, dict[str, tuple[int, int]]] = {}
    size = path.stat().st_size
    with path.open("rb") as file:
        at = 0
        while True:
            header = file.read(BLOCK)
            if header == bytes(BLOCK):
                return found
            entry = tarfile.TarInfo.frombuf(header, "utf-8", "strict")
            at += BLOCK
            if at + entry.size > size:
                raise tarfile.ReadError(f"{entry.name} is cut off")
            key, _, suffix = entry.name.partition(".")
            found.setdefault(key, {})[suffix] = (at, entry.size)
            at += -(-entry.size // BLOCK) * BLOCK
            file.seek(at)


def crops_from_shards(paths: Iterable[Path]) -> CropSet:
    """All images and landmarks of some shards in memory, as training reads them.

    Raises:
        UserError: a shard is missing or damaged, or has no manifest beside it.
    """
    paths = [Path(p) for p in paths]
    settings = read_manifest(paths[0].parent)
    records = [(r.image, r.labels) for r in read_shards(paths)]
    matrices = np.stack([labels["view/rotation"] for _, labels in records])
    forward = matrices[:, :, 2]
    told = all("person" in labels for _, labels in records)
    return CropSet(
        name="renders",
        convention=settings["convention"],
        images=(np.stack([image for image, _ in records]),),
        points=np.stack([labels["points"] for _, labels in records]),
        visible=np.stack([labels["visible"] for _, labels in records]),
        nominal_side_px=float(settings["nominal_side_px"]),
        yaw_deg=np.degrees(np.arctan2(forward[:, 0], forward[:, 2])),
        weight=np.ones(len(records), np.float32),
        person=np.array([labels["person"] for _, labels in records]) if told else None,
    )


def read_manifest(folder: Path) -> dict[str, Any]:
    """The `manifest.json` of a folder of renders.

    Raises:
        UserError: it is missing or no manifest.
    """
    path = folder / "manifest.json"
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        if manifest["format"] != "lifemask-renders":
            raise ValueError(f"format {manifest['format']!r}")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is no manifest of renders ({error})") from error
    return manifest


def file_entry(path: Path) -> dict[str, Any]:
    """{"sha256", "bytes"} of a file, for the manifest."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"sha256": digest, "bytes": path.stat().st_size}


def _tar(file: IO[bytes]) -> tarfile.TarFile:
    return tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT)


@contextmanager
def whole_file(path: Path) -> Iterator[IO[bytes]]:
    """A file to write that takes its name when it is complete, on disk, and never before."""
    temporary = path.with_name(f".{path.name}.{socket.gethostname()}.{os.getpid()}.part")
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def remove_leftovers(folder: Path) -> None:
    """Remove what writers on this machine left unfinished when they were killed."""
    for path in folder.glob(f".*.{socket.gethostname()}.*.part"):
        pid = int(path.name.split(".")[-2])
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            path.unlink(missing_ok=True)
        except PermissionError:
            continue


__all__ = [
    "ImageFormat", "Record", "ShardSet", "crops_from_shards", "index_tar", "read_manifest",
    "read_shards", "shard_paths", "write_shard",
]  # fmt: skip
