"""Morphology of masks (h, w): growing, shrinking, connected parts, nearest pixels."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]


class Parts(NamedTuple):
    """Connected parts of a mask: `number` (h, w) from 1 on, 0 outside, and how many there are."""

    number: NDArray[np.int64]
    count: int

    def areas(self, of: Mask | None = None) -> NDArray[np.int64]:
        """Pixels (count + 1,) of each part that `of` has, too; entry 0 is 0."""
        shown = self.number if of is None else self.number[of]
        areas = np.bincount(shown.ravel(), minlength=self.count + 1)
        areas[0] = 0
        return areas

    def only(self, keep: NDArray[np.bool_]) -> Mask:
        """The mask of the parts whose entry in `keep` (count + 1,) is set."""
        return keep[self.number] & (self.number > 0)


def parts_of(mask: Mask) -> Parts:
    """Parts that share sides."""
    from skimage.measure import label

    number = np.asarray(label(mask, connectivity=1), np.int64)
    return Parts(number, int(number.max(initial=0)))


def grown(mask: Mask, px: int, within: Mask | None = None) -> Mask:
    """The mask and what is at most `px` steps over sides away, inside `within`."""
    from scipy.ndimage import binary_dilation

    return np.asarray(binary_dilation(mask, iterations=px, mask=within), bool)


def shrunk(mask: Mask, px: int) -> Mask:
    """What is more than `px` steps away from everything outside; the picture's edge counts."""
    from scipy.ndimage import binary_erosion

    return np.asarray(binary_erosion(mask, iterations=px), bool)


def from_nearest(values: NDArray, known: Mask) -> NDArray:
    """Each pixel's value from the nearest known pixel; (h, w, ...). Some pixel must be known."""
    from scipy.ndimage import distance_transform_edt

    place = np.asarray(distance_transform_edt(~known, return_distances=False, return_indices=True))
    return values[place[0], place[1]]


def beside() -> tuple[tuple[tuple[slice, slice], tuple[slice, slice]], ...]:
    """Slices (here, there) of a picture and of itself one pixel on, to the four sides."""
    every, first, last = slice(None), slice(None, -1), slice(1, None)
    return (
        ((first, every), (last, every)),
        ((last, every), (first, every)),
        ((every, first), (every, last)),
        ((every, last), (every, first)),
    )
