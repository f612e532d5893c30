"""Pictures to one file: a picture or a strip (PNG), an animation (WebP), a video (MP4)."""

from __future__ import annotations

import io
import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lifemask.assets import UserError
from lifemask.graphics.meshio.scene import write_atomic

if TYPE_CHECKING:
    from PIL import Image

SUFFIXES = (".png", ".webp", ".mp4")
_WEBP_QUALITY, _MP4_QUALITY = 88, 8


def check_animation(path: Path, size: int, transparent: bool = False) -> None:
    """Refuse early what `write_animation` could not write.

    Args:
        path: of the file.
        size: side of the pictures in px.
        transparent: the pictures have an alpha channel.

    Raises:
        UserError: another suffix, no folder can be there, or the format cannot hold the pictures.
    """
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise UserError(f"{path}: unknown format {suffix!r}; valid: {', '.join(SUFFIXES)}")
    if path.is_dir():
        raise UserError(f"{path} is a folder; name a file")
    parent = next((p for p in path.absolute().parents if p.exists()), None)
    if parent is not None and not parent.is_dir():
        raise UserError(f"{parent} is a file; the result needs a folder")
    if suffix == ".mp4":
        _check_mp4(path, size, transparent)


def write_animation(pictures: Iterable[Image.Image], path: Path, *, fps: float = 24) -> int:
    """Write pictures; the file appears whole or not at all.

    Args:
        pictures: at least one, all of one size; drawn as they are needed.
        path: `.png`: one beside the other from left to right; `.webp`: an endless loop; `.mp4`:
            H.264, even sides. Its folder is made.
        fps: pictures per second of the moving formats.

    Returns:
        How many pictures were written.

    Raises:
        UserError: see `check_animation`; or the file cannot be written.
        ValueError: no picture.
    """
    writers = {".png": _write_strip, ".webp": _write_webp, ".mp4": _write_mp4}
    check_animation(path, 2)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return writers[path.suffix.lower()](pictures, path, fps)
    except OSError as error:
        raise UserError(f"cannot write {path} ({error.strerror or error})") from error


def _write_strip(pictures: Iterable[Image.Image], path: Path, fps: float) -> int:
    from PIL import Image

    rows = [np.asarray(picture) for picture in pictures]
    if not rows:
        raise ValueError("no picture to write")
    buffer = io.BytesIO()
    Image.fromarray(np.concatenate(rows, axis=1)).save(buffer, "PNG", compress_level=6)
    write_atomic(path, buffer.getvalue())
    return len(rows)


def _write_webp(pictures: Iterable[Image.Image], path: Path, fps: float) -> int:
    frames = list(pictures)
    if not frames:
        raise ValueError("no picture to write")
    buffer = io.BytesIO()
    motion = {"save_all": True, "append_images": frames[1:], "duration": round(1000 / fps)}
    extra = motion | {"loop": 0} if len(frames) > 1 else {}
    frames[0].save(buffer, "WEBP", quality=_WEBP_QUALITY, method=4, **extra)
    write_atomic(path, buffer.getvalue())
    return len(frames)


def _write_mp4(pictures: Iterable[Image.Image], path: Path, fps: float) -> int:
    """H.264 by ffmpeg, which `imageio-ffmpeg` brings along."""
    ffmpeg = _ffmpeg(path)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.tmp.mp4")
    count, sink = 0, None
    try:
        for picture in pictures:
            if sink is None:
                for side in picture.size:
                    _check_mp4(path, side, picture.mode != "RGB")
                sink = ffmpeg.write_frames(
                    str(temporary),
                    picture.size,
                    fps=fps,  # pyright: ignore[reportArgumentType]
                    quality=_MP4_QUALITY,
                    macro_block_size=2,
                    ffmpeg_log_level="error",
                )
                sink.send(None)
            sink.send(np.ascontiguousarray(np.asarray(picture)))
            count += 1
        if sink is None:
            raise ValueError("no picture to write")
        sink.close()
        temporary.replace(path)
    finally:
        if sink is not None:
            sink.close()
        temporary.unlink(missing_ok=True)
    return count


def _check_mp4(path: Path, size: int, transparent: bool) -> None:
    _ffmpeg(path)
    if size % 2:
        raise UserError(f"{path}: a video needs an even size in px; take another, or .webp")
    if transparent:
        raise UserError(f"{path}: a video has no transparency; take a colour, or .webp")


def _ffmpeg(path: Path):
    try:
        import imageio_ffmpeg
    except ImportError as error:
        remedy = "pip install 'lifemask[video]'"
        raise UserError(f"{path}: writing .mp4 needs: {remedy}; or take .webp") from error
    return imageio_ffmpeg
