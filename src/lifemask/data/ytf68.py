"""YouTube-Faces frames with 68 automatic points: several frames per person; research only.

Layout: `frames.tar` with JPEGs of different sizes and `labels.npz` (`names`, `points` (n, 68, 2) in
frame px, `person`, `validation`). People marked `validation` are never trained on.

Traps: the points are automatic and noisy, some frames are stretched; the lists of train and test
share people and file names, so splits go by person; names that differ only by `t-` can be the same
picture. Names end in `_NN`, the tens digit is the video clip: frames of one clip look alike.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from numpy import ndarray

from lifemask.assets import UserError
from lifemask.data.base import CropSet, JpegTars, read_jpegs, read_labels
from lifemask.faces.crop import crop_square, photo_to_crop, square_box

SIZE = 128
EXPAND = 1.25  # side of the stored crop in units of the nominal crop, as for renders


def load_ytf68(folder: str | Path) -> tuple[CropSet, CropSet]:
    """Training and validation crops of 128 px, split by person; with `person` and `frame`.

    Raises:
        UserError: files are missing or broken, or a name has no frame number.
    """
    root = Path(folder)
    labels = read_labels(root / "labels.npz")
    frames = read_jpegs([root / "frames.tar"])
    names = [Path(str(name)).stem for name in labels["names"]]
    missing = [name for name in names if name not in frames]
    if missing:
        raise UserError(f"{root} lacks {len(missing)} frames, e.g. {missing[0]}.jpg")
    frame = np.array([_frame_number(name) for name in names], np.int64)
    images = np.empty((len(names), SIZE, SIZE, 3), np.uint8)
    points = np.empty((len(names), 68, 2), np.float32)
    for i, name in enumerate(names):
        marks = torch.from_numpy(labels["points"][i])
        center, side = square_box(marks)
        crop = crop_square(frames[name], center, side * EXPAND, SIZE)
        images[i] = (crop.image * 255).round().byte().permute(1, 2, 0).numpy()
        points[i] = photo_to_crop(marks, crop).numpy()
    full = CropSet(
        name="ytf68",
        convention="ict68",
        images=(images,),
        points=points,
        visible=np.ones(points.shape[:2], bool),
        nominal_side_px=SIZE / EXPAND,
        yaw_deg=np.full(len(names), np.nan, np.float32),
        weight=np.ones(len(names), np.float32),
        person=np.unique(labels["person"], return_inverse=True)[1].astype(np.int64),
        frame=frame,
    )
    held = labels["validation"].astype(bool)
    return full.subset(np.nonzero(~held)[0]), full.subset(np.nonzero(held)[0])


def _frame_number(name: str) -> int:
    """NN of a frame's name `PERSON_NN` or `t-PERSON_NN`; its tens are the clip."""
    number = name.rpartition("_")[2]
    if not (number.isascii() and number.isdigit()):
        raise UserError(f"frame {name!r} has no number: names of YTF-68 end in _NN")
    return int(number)


@dataclass(frozen=True)
class Ytf68Test:
    """Frames of the people that are never trained on.

    Attributes:
        names: n names without ending.
        tar: the file of the frames.
        landmarks68: (n, 68, 2) frame px, automatic ("ict68").
        person: (n,) whose frame it is.
    """

    names: tuple[str, ...]
    tar: Path
    landmarks68: Float[ndarray, "n 68 2"]
    person: ndarray

    def __len__(self) -> int:
        """Number of frames."""
        return len(self.names)

    @cached_property
    def boxes(self) -> Float[ndarray, "n 4"]:
        """The landmark squares of 3DDFA's rule, edges in frame px."""
        squares = [square_box(torch.from_numpy(points)) for points in self.landmarks68]
        center = np.array([center for center, _ in squares])
        half = np.array([[side / 2] for _, side in squares])
        return np.concatenate([center - half, center + half], axis=1)

    def image(self, index: int) -> UInt8[ndarray, "h w 3"]:
        """A frame (h, w, 3), sRGB.

        Raises:
            UserError: it is missing.
        """
        return self._frames.read(self.names[index])

    @cached_property
    def _frames(self) -> JpegTars:
        return JpegTars([self.tar])


def load_ytf68_test(folder: str | Path) -> Ytf68Test:
    """The frames of the validation people; images are read one at a time, when asked for.

    Raises:
        UserError: no labels, or no validation people among them.
    """
    root = Path(folder)
    labels = read_labels(root / "labels.npz")
    held = np.nonzero(labels["validation"].astype(bool))[0]
    if len(held) == 0:
        raise UserError(f"{root / 'labels.npz'} marks nobody for validation")
    return Ytf68Test(
        names=tuple(Path(str(name)).stem for name in labels["names"][held]),
        tar=root / "frames.tar",
        landmarks68=labels["points"][held].astype(np.float64),
        person=labels["person"][held],
    )
