"""Evenly spaced frames of a video, without a decoder: motion JPEG, or a folder of pictures."""

from __future__ import annotations

import io
import mmap
import re
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from lifemask.assets import UserError
from lifemask.faces.image import as_uint8_rgb, load_image

PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".ppm", ".webp")
_START = re.compile(rb"\xff\xd8\xff")


def read_frames(path: Path, count: int) -> list[UInt8[np.ndarray, "h w 3"]]:
    """Frames of a video, spread over it evenly; at most `count`.

    Args:
        path: a folder of pictures, in the order of their names, or a file that holds JPEG pictures
            one after another (.mjpg, or a motion JPEG .avi).
        count: of frames, at least one.

    Raises:
        UserError: there is no frame, or the file is a video of another kind.
    """
    if path.is_dir():
        files = sorted(p for p in path.iterdir() if p.suffix.lower() in PICTURES)
        if not files:
            raise UserError(f"{path} holds no pictures")
        return [load_image(files[k]) for k in _spread(len(files), count)]
    try:
        with path.open("rb") as stream:
            if path.stat().st_size == 0:
                raise UserError(f"{path} is empty")
            with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
                return _jpegs(content, path, count)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error


def _jpegs(content: mmap.mmap, path: Path, count: int) -> list[np.ndarray]:
    from PIL import Image

    starts = [found.start() for found in _START.finditer(content)]
    ends = [*starts[1:], len(content)]
    frames = []
    for k in _spread(len(starts), count):
        try:
            with Image.open(io.BytesIO(content[starts[k] : ends[k]])) as picture:
                frames.append(as_uint8_rgb(picture))
        except (OSError, SyntaxError, UserError):
            continue
    if not frames:
        raise UserError(
            f"{path} is not motion JPEG; make a folder of its name with its frames as pictures:"
            " ffmpeg -i VIDEO FOLDER/%05d.png"
        )
    return frames


def _spread(total: int, count: int) -> list[int]:
    """At most `count` of `total` numbers, in the middles of equal stretches."""
    count = min(total, count)
    return [int((k + 0.5) * total / count) for k in range(count)]
