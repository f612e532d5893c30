"""What users hand to the pipeline: photos and landmarks in any form; errors that name the photo."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias, TypeVar

import numpy as np
from jaxtyping import UInt8
from numpy.typing import ArrayLike

from lifemask.assets import AssetError, UserError
from lifemask.faces.image import as_uint8_rgb, load_image
from lifemask.types import Landmarks

if TYPE_CHECKING:
    from PIL import Image

Rgb = UInt8[np.ndarray, "h w 3"]
Photo: TypeAlias = "str | Path | Image.Image | Rgb"
"""A file, a PIL image, or an array (H, W, 3): uint8, uint16 or float in [0, 1]."""
Points: TypeAlias = "Landmarks | ArrayLike | str | Path"
"""Landmarks of a face: an array (n, 2 or 3) in photo px, a file, or `Landmarks`."""
_T = TypeVar("_T")


def read_photo(photo: Photo) -> Rgb:
    """A photo in any form as upright uint8 RGB (H, W, 3)."""
    return load_image(photo) if isinstance(photo, str | Path) else as_uint8_rgb(photo)


def read_landmarks(landmarks: Points, image: Rgb) -> Landmarks:
    """A user's landmarks, checked.

    Raises:
        UserError: they cannot be read, or cannot be landmarks of a face in this photo.
    """
    from lifemask.methods.fitting import landmarks_from_points, load_landmarks

    size = (image.shape[1], image.shape[0])
    if isinstance(landmarks, Landmarks):
        return landmarks
    if isinstance(landmarks, str | Path):
        return load_landmarks(landmarks, image_size=size)
    return landmarks_from_points(landmarks, image_size=size)


def named(name: str, run: Callable[[], _T]) -> _T:
    """Run; an error about a photo that does not name it is made to."""
    try:
        return run()
    except AssetError:
        raise
    except UserError as error:
        if name in str(error):
            raise
        raise type(error)(f"{name}: {error}") from error


def file_names(photos: Sequence[Photo], names: Sequence[str] | None = None) -> list[str]:
    """Names given to photos, else their file names; "" for a photo from memory.

    Raises:
        UserError: no photo, or not one name per photo.
    """
    if len(photos) == 0:
        raise UserError("no photo given")
    if names is not None:
        return [name or "" for name in per_photo("names", names, len(photos))]
    return [Path(photo).name if isinstance(photo, str | Path) else "" for photo in photos]


def per_photo(what: str, values: Sequence[_T] | None, count: int) -> Sequence[_T | None]:
    """What is known of each of several photos; None for each where nothing is.

    Raises:
        UserError: not one entry per photo.
    """
    if values is None:
        return [None] * count
    if len(values) != count:
        raise UserError(
            f"{count} photos but {len(values)} {what}; give one per photo, None where unknown"
        )
    return values
