"""A plain folder of photos, each with 68 points beside it or without."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, UInt8
from numpy import ndarray

from lifemask.assets import UserError
from lifemask.data.points_file import read_points

PHOTO_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")


@dataclass(frozen=True)
class PhotoFolder:
    """Photos in name order, read one at a time.

    Attributes:
        names: n paths below the folder without ending, with "/".
        image_paths: n files.
        landmarks68: (n, 68, 2) photo px, iBUG-68 order, counted from 0; NaN where a photo has none.
        labelled: (n,) whether a photo has points.
    """

    names: tuple[str, ...]
    image_paths: tuple[Path, ...]
    landmarks68: Float[ndarray, "n 68 2"]
    labelled: Bool[ndarray, "n"]

    def __len__(self) -> int:
        """Number of photos."""
        return len(self.names)

    def image(self, index: int) -> UInt8[ndarray, "h w 3"]:
        """A photo (h, w, 3), sRGB, turned upright as its EXIF says.

        Raises:
            UserError: it cannot be read.
        """
        from lifemask.faces.image import load_image

        return load_image(self.image_paths[index])


def load_photo_folder(folder: str | Path) -> PhotoFolder:
    """List the photos of a folder and its subfolders, with their points.

    `NAME.pts` is iBUG's format, which counts pixels from 1, and is shifted by one. `NAME.json`
    holds 68 points [u, v] that count from 0, as a list or as {"landmarks": [...]}.

    Raises:
        UserError: no such folder, no photos, one name with two photos, or a point file that does
            not hold 68 points.
    """
    root = Path(folder)
    if not root.is_dir():
        raise UserError(f"{root} is not a folder of photos")
    paths = [p for p in sorted(root.rglob("*")) if p.suffix.lower() in PHOTO_SUFFIXES]
    if not paths:
        raise UserError(f"{root} holds no photos ({', '.join(PHOTO_SUFFIXES)})")
    names = tuple(p.relative_to(root).with_suffix("").as_posix() for p in paths)
    for first, second in zip(names, names[1:], strict=False):
        if first == second:
            raise UserError(f"{root} holds two photos named {first}; rename one")
    points = [_points_beside(path) for path in paths]
    nothing = np.full((68, 2), np.nan)
    return PhotoFolder(
        names,
        tuple(paths),
        np.stack([nothing if p is None else p for p in points]),
        np.array([p is not None for p in points]),
    )


def _points_beside(photo: Path) -> ndarray | None:
    """68 points (68, 2) counted from 0, or None."""
    for suffix, first_pixel in ((".pts", 1.0), (".json", 0.0)):
        path = photo.with_suffix(suffix)
        if path.is_file():
            points = read_points(path)[:, :2]
            if points.shape != (68, 2):
                raise UserError(f"{path} holds {len(points)} points; 68 are needed (iBUG order)")
            return points - first_pixel
    return None
