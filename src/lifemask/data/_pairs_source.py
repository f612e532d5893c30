"""Photos that pairs start from: renders of other heads, AFLW crops, or a folder of pictures."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from lifemask.assets import UserError

if TYPE_CHECKING:
    from lifemask.data.synthetic import Banks, Generator
    from lifemask.faces.crop import Box
    from lifemask.types import Face

PICTURES = (".jpg", ".jpeg", ".png", ".webp")


@dataclass(frozen=True)
class Source:
    """A photo with one face.

    Attributes:
        index: number of the photo among its kind.
        image: (h, w, 3) uint8 sRGB.
        face: a detected face, or the landmark square as a box in photo px.
    """

    index: int
    image: NDArray[np.uint8]
    face: Face | Box


class Sources(ABC):
    """Photos by (pair, attempt): each attempt of each pair has its own draw."""

    @abstractmethod
    def draw(self, index: int, attempt: int, banks: Banks) -> Source | None:
        """The photo of an attempt; None where it shows no face."""


class RenderedPhotos(Sources):
    """Renders of the generator: another head with hair, clothes and props over a background."""

    def __init__(self, generator: Generator, attempts: int) -> None:
        self._generator, self._attempts = generator, attempts

    def draw(self, index: int, attempt: int, banks: Banks) -> Source | None:
        """Render number `index * attempts + attempt` with the banks of the pair's shard."""
        from lifemask.data.synthetic import render_samples

        number = index * self._attempts + attempt
        sample = next(iter(render_samples(self._generator, banks, [number])))
        config = self._generator.config
        low = (config.size - config.nominal_side_px) / 2 - 0.5
        high = low + config.nominal_side_px
        return Source(number, sample.image, (low, low, high, high))


class CropPhotos(Sources):
    """AFLW crops: the landmark square itself, up to some jitter; research only."""

    def __init__(self, folder: Path, seed: int, held_out: bool) -> None:
        from lifemask.data.aflw21 import load_aflw21

        self._images = load_aflw21(folder)[int(held_out)].images[0]
        self._seed = seed

    def draw(self, index: int, attempt: int, banks: Banks) -> Source | None:
        """A crop drawn at random."""
        number = int(np.random.default_rng([self._seed, 21, index, attempt]).integers(len(self)))
        side = self._images.shape[1] - 0.5
        return Source(number, self._images[number], (-0.5, -0.5, side, side))

    def __len__(self) -> int:
        """Number of crops."""
        return len(self._images)


class FolderPhotos(Sources):
    """Pictures of a folder, whose largest face the detector finds; their licence is the user's.

    Raises:
        UserError: no picture there.
    """

    def __init__(self, folder: Path, seed: int) -> None:
        from lifemask.faces.detect import load_detector

        self._files = sorted(p for p in folder.rglob("*") if p.suffix.lower() in PICTURES)
        if not self._files:
            raise UserError(f"no pictures ({', '.join(PICTURES)}) in {folder}")
        self._detector, self._seed = load_detector(), seed

    def draw(self, index: int, attempt: int, banks: Banks) -> Source | None:
        """A picture drawn at random, with its best face."""
        from lifemask.faces.image import load_image

        rng = np.random.default_rng([self._seed, 22, index, attempt])
        number = int(rng.integers(len(self._files)))
        image = load_image(self._files[number])
        faces = self._detector(image)
        return Source(number, image, faces[0]) if faces else None
