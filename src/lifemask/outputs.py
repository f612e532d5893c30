"""Heads to a folder of files that appears whole or not at all; `docs/params-schema.md`."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from lifemask.assets import UserError
from lifemask.head import Head
from lifemask.record import params_record, record_text

FORMATS = ("glb", "obj", "ply", "json", "png")
MESHES = ("glb", "obj", "ply")
DEFAULT_FORMATS = ("glb", "obj", "json", "png")
PARAMS_NAME = "params.json"


class OutputError(UserError):
    """The results cannot be written where the user wants them."""


def check_formats(formats: Sequence[str]) -> tuple[str, ...]:
    """The formats without repetition.

    Raises:
        OutputError: one of them is not in `FORMATS`.
    """
    for name in formats:
        if name not in FORMATS:
            raise OutputError(f"unknown format {name!r}; valid: {','.join(FORMATS)}")
    return tuple(dict.fromkeys(formats))


def write_heads(
    heads: Sequence[Head],
    folder: str | Path,
    *,
    photo: UInt8[np.ndarray, "h w 3"] | None = None,
    photo_name: str = "",
    formats: Sequence[str] = DEFAULT_FORMATS,
    numbered: bool = False,
    overwrite: bool = False,
    maps: bool = True,
) -> list[Path]:
    """Write the heads of one photo into a folder of their own.

    The files are `head.glb`, `head.obj` (with its .mtl and textures), `head.ply`, `preview.png`
    and `params.json`, `head_displacement.png` of a head with `geometry.detail`, and `surface.ply`,
    the free surface behind a head, with any mesh format; with `numbered`, `head-1.glb`,
    `preview-1.png`, ... in the heads' order.

    Args:
        heads: at least one.
        folder: made here; its parents too.
        photo: (H, W, 3) uint8 RGB, for the previews.
        photo_name: recorded in `params.json`.
        formats: some of `FORMATS`.
        numbered: number the files even when there is one head.
        overwrite: replace a folder that an earlier run made.
        maps: give the skin a normal and a roughness map (glb, obj).

    Returns:
        The files' paths.

    Raises:
        OutputError: the folder exists and may not be replaced, or cannot be written.
    """
    formats = check_formats(formats)
    folder = Path(folder)
    with new_folder(folder, overwrite) as part:
        files = [
            _write_head(head, part, f"-{i}" if numbered else "", photo, photo_name, formats, maps)
            for i, head in enumerate(heads, start=1)
        ]
        if "json" in formats:
            record = params_record(heads, photo_name, files)
            (part / PARAMS_NAME).write_text(record_text(record), encoding="utf-8")
    return sorted(p for p in folder.iterdir() if p.is_file())


def holds_heads(folder: Path) -> bool:
    """Whether a folder holds nothing but what `write_heads` writes."""
    stems = ("head", "surface", "preview", "params")
    return all(p.is_file() and p.name.startswith(stems) for p in folder.iterdir())


@contextmanager
def new_folder(
    folder: Path, overwrite: bool = False, is_ours: Callable[[Path], bool] = holds_heads
) -> Iterator[Path]:
    """A temporary folder beside `folder` that takes its place when the block succeeds.

    When the block fails nothing of it remains, and what was there before is untouched.

    Args:
        folder: what to make.
        overwrite: replace an earlier run's folder.
        is_ours: whether a folder is one; whatever else is there is left alone.

    Raises:
        OutputError: `folder` is a file, exists already, holds what lifemask did not write, or
            cannot be made.
    """
    check_target(folder, overwrite, is_ours)
    part: Path | None = None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(prefix=f".{folder.name}.part-", dir=folder.parent))
        yield part
        part.chmod(0o777 & ~_umask())
        _replace(part, folder)
    except OSError as error:
        reason = error.strerror or str(error)
        raise OutputError(f"cannot write {error.filename or folder} ({reason})") from error
    finally:
        if part is not None:
            shutil.rmtree(part, ignore_errors=True)


def check_target(
    folder: Path, overwrite: bool, is_ours: Callable[[Path], bool] = holds_heads
) -> None:
    """Refuse early what `new_folder` would refuse late.

    Raises:
        OutputError: see there.
    """
    try:
        _check_target(folder, overwrite, is_ours)
    except OSError as error:
        raise OutputError(f"cannot write {folder} ({error.strerror})") from error


def _check_target(folder: Path, overwrite: bool, is_ours: Callable[[Path], bool]) -> None:
    parent = next((p for p in folder.parents if p.exists()), None)
    if parent is not None and not parent.is_dir():
        raise OutputError(f"{parent} is a file; the results need a folder")
    if not (folder.exists() or folder.is_symlink()):
        return
    if not folder.is_dir() or folder.is_symlink():
        raise OutputError(f"{folder} is a file; the results need a folder")
    if not any(folder.iterdir()):
        return
    if not overwrite:
        raise OutputError(f"{folder} exists already; give --overwrite or another output folder")
    if not is_ours(folder):
        raise OutputError(f"{folder} holds files that lifemask did not write; it is left alone")


def _replace(part: Path, folder: Path) -> None:
    """Move `part` to `folder`; an old folder is put back if that fails."""
    if not folder.exists():
        part.replace(folder)
        return
    old = Path(tempfile.mkdtemp(prefix=f".{folder.name}.old-", dir=folder.parent))
    folder.replace(old)
    try:
        part.replace(folder)
    except OSError:
        old.replace(folder)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _write_head(
    head: Head,
    folder: Path,
    suffix: str,
    photo: np.ndarray | None,
    photo_name: str,
    formats: tuple[str, ...],
    maps: bool,
) -> list[str]:
    """Write one head's files; returns their names."""
    before = set(folder.iterdir())
    for name in MESHES:
        if name in formats:
            head.export(folder / f"head{suffix}.{name}", maps=maps)
    if head.surface is not None and head.model is not None and set(formats) & set(MESHES):
        from lifemask.export import export_surface

        export_surface(head, folder / f"surface{suffix}.ply", photo)
    if "png" in formats:
        from lifemask.preview import preview

        preview(head, photo, photo_name).save(folder / f"preview{suffix}.png")
    return sorted(p.name for p in set(folder.iterdir()) - before)
