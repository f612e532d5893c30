"""Frames of a clip, one at a time: videos through ffmpeg, folders and patterns of pictures."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from lifemask.assets import UserError
from lifemask.faces.image import as_uint8_rgb, load_image

PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".ppm", ".webp")
DEFAULT_FPS = 25.0
Rgb = UInt8[np.ndarray, "h w 3"]


class ClipError(UserError):
    """Something that cannot be read as a clip."""


@dataclass(frozen=True)
class Clip:
    """A clip that can be read from its start as often as one likes.

    Attributes:
        name: for messages and records.
        fps: frames per second, constant; a variable rate becomes its mean by repeating or dropping
            frames, so that frame k is what the clip shows at k / fps seconds.
        size: (width, height) of the upright frames in px.
        expected: frames that the container promises; None if unknown.
        frames: opens the clip: its upright frames, (h, w, 3) uint8 RGB, one after the other.
    """

    name: str
    fps: float
    size: tuple[int, int]
    expected: int | None
    frames: Callable[[], Iterator[Rgb]]

    @property
    def seconds(self) -> float | None:
        """Length that the container promises."""
        return None if self.expected is None else self.expected / self.fps


def open_clip(source: str | Path | Sequence[np.ndarray], fps: float | None = None) -> Clip:
    """A clip from a video file, a folder or pattern of pictures, or arrays.

    Args:
        source: a file that ffmpeg reads (mp4, mov, webm, gif, ...; the rotation that a phone wrote
            into it is applied); a folder of pictures or a pattern such as `shot/*.png`, in the
            order of the numbers in their names; or frames (h, w, 3).
        fps: frames per second of pictures; None for 25. A video has its own.

    Raises:
        ClipError: there is no such thing, it holds no frame, or `fps` contradicts it.
        UserError: the extra `lifemask[video]` is missing.
    """
    if fps is not None and not 0 < fps < 1000:
        raise ClipError(f"--fps {fps:g} is impossible; frames per second lie between 0 and 1000")
    if not isinstance(source, (str, Path)):
        return _clip_of_arrays(source, fps or DEFAULT_FPS)
    path = Path(source)
    if path.is_dir():
        return _clip_of_files(path, str(path), fps)
    if any(c in str(path) for c in "*?[") and not path.exists():
        return _clip_of_files(path.parent, str(path), fps, path.name)
    if not path.exists():
        raise ClipError(f"no such file: {path}")
    if path.suffix.lower() in PICTURES:
        raise ClipError(
            f"{path} is a single picture; `lifemask reconstruct` takes photos, `lifemask video` a"
            " video or a folder of frames"
        )
    if fps is not None:
        raise ClipError("--fps is for folders of pictures; a video has its own frame rate")
    return _clip_of_video(path)


def _clip_of_arrays(frames: Sequence[np.ndarray], fps: float) -> Clip:
    images = [as_uint8_rgb(np.asarray(frame)) for frame in frames]
    if not images:
        raise ClipError("the clip holds no frame")
    return Clip("frames", fps, _size(images[0]), len(images), lambda: _alike(images, "frames"))


def _clip_of_files(folder: Path, name: str, fps: float | None, pattern: str = "*") -> Clip:
    """Pictures of a folder in the order of the numbers in their names."""
    if not folder.is_dir():
        raise ClipError(f"no such folder: {folder}")
    files = [p for p in folder.glob(pattern) if p.suffix.lower() in PICTURES and p.is_file()]
    files = sorted((p for p in files if not p.name.startswith(".")), key=_numbers_in)
    if not files:
        raise ClipError(f"{name} holds no pictures ({', '.join(PICTURES)})")
    first = load_image(files[0])

    def read() -> Iterator[Rgb]:
        return _alike((load_image(file) for file in files), name)

    return Clip(name, fps or DEFAULT_FPS, _size(first), len(files), read)


def _alike(images: Sequence[Rgb] | Iterator[Rgb], name: str) -> Iterator[Rgb]:
    """The images, which must all have the size of the first."""
    size = None
    for index, image in enumerate(images):
        size = size or _size(image)
        if _size(image) != size:
            raise ClipError(
                f"{name}: frame {index} is {image.shape[1]} x {image.shape[0]} px, the first"
                f" {size[0]} x {size[1]}; a clip has one size"
            )
        yield image


def _numbers_in(path: Path) -> list[tuple[int, int, str]]:
    """Key by which frame-9 comes before frame-10."""
    parts = re.split(r"(\d+)", path.name)
    return [(0, int(p), "") if p.isdecimal() else (1, 0, p) for p in parts]


def _clip_of_video(path: Path) -> Clip:
    frames = _decoded(path)
    try:
        meta = next(frames)
        first = next(frames, None)
    finally:
        frames.close()
    if first is None:
        raise ClipError(f"{path} is no video that can be read, or a damaged one")
    told, seconds = float(meta["fps"]), float(meta["duration"])
    if not 0 < told < 1000:
        raise ClipError(f"{path} tells no frame rate; write its frames to a folder and give --fps")
    rate = exact_rate(told)
    fps = float(rate)
    expected = round(seconds * fps) if 0 < seconds < 1e6 else None

    def read() -> Iterator[Rgb]:
        stream = _decoded(path, ["-r", str(rate)])  # of a variable rate ffmpeg takes another one
        size = next(stream)["size"]
        for data in stream:
            assert isinstance(data, bytes)
            yield np.frombuffer(data, np.uint8).reshape(size[1], size[0], 3)

    return Clip(str(path), fps, tuple(meta["size"]), expected, read)


def exact_rate(told: float) -> Fraction:
    """The rate that ffmpeg tells with two digits: 23.98, 29.97, 59.94, ... are 1000/1001 of one."""
    whole = Fraction(math.ceil(told) * 1000, 1001)
    if told % 1 and abs(whole - told) < 0.006:
        return whole
    return Fraction(told).limit_denominator(1000)


def _decoded(path: Path, how: Sequence[str] = ()):
    """What imageio-ffmpeg reads: a dictionary, then frames; a broken end ends the clip."""
    ffmpeg = load_ffmpeg()
    if not path.is_file() or path.stat().st_size == 0:
        raise ClipError(f"{path} is empty" if path.is_file() else f"{path} is no file")
    stream = ffmpeg.read_frames(str(path), pix_fmt="rgb24", input_params=["-v", "info"],
                                output_params=list(how))  # fmt: skip
    count = 0
    try:
        while True:
            try:
                item = next(stream, None)
            except (OSError, RuntimeError, AssertionError, ValueError, IndexError) as error:
                if count < 2:
                    raise ClipError(
                        f"{path} is no video that can be read, or a damaged one"
                    ) from error
                return  # cut off inside a frame: the frames before are good
            if item is None:
                return
            if count == 0 and (not isinstance(item, dict) or "size" not in item):
                raise ClipError(f"{path} holds no video")
            yield item
            count += 1
    finally:
        stream.close()


def load_ffmpeg():
    """The module `imageio_ffmpeg`.

    Raises:
        UserError: the extra is missing.
    """
    try:
        import imageio_ffmpeg
    except ImportError as error:
        raise UserError(
            "reading and writing videos needs: pip install 'lifemask[video]'"
        ) from error
    logging.getLogger("imageio_ffmpeg").setLevel(logging.ERROR)  # it tells of rotated clips
    return imageio_ffmpeg


def _size(image: np.ndarray) -> tuple[int, int]:
    return (image.shape[1], image.shape[0])
