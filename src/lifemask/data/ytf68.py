"""YouTube-Faces frames with 68 automatic points: several frames per person; research only.

Layout: `frames.tar` with JPEGs of different sizes and `labels.npz` (`names`, `points` (n, 68, 2) in
frame px, `person`, `validation`). People marked `validation` are never trained on.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from lifemask.assets import UserError
from lifemask.data.base import CropSet, read_jpegs, read_labels
from lifemask.faces.crop import crop_square, photo_to_crop, square_box

SIZE = 128
EXPAND = 1.25  # side of the stored crop in units of the nominal crop, as for renders


def load_ytf68(folder: str | Path) -> tuple[CropSet, CropSet]:
    """Training and validation crops of 128 px, split by person.

    Raises:
        UserError: files are missing or broken.
    """
    root = Path(folder)
    labels = read_labels(root / "labels.npz")
    frames = read_jpegs([root / "frames.tar"])
    names = [Path(str(name)).stem for name in labels["names"]]
    missing = [name for name in names if name not in frames]
    if missing:
        raise UserError(f"{root} lacks {len(missing)} frames, e.g. {missing[0]}.jpg")
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
    )
    held = labels["validation"].astype(bool)
    return full.subset(np.nonzero(~held)[0]), full.subset(np.nonzero(held)[0])
