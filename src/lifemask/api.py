"""What most users call: one photo, all faces of a photo, several photos of one person."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache

from lifemask.faces.crop import Box
from lifemask.head import Head
from lifemask.pipeline import Pipeline
from lifemask.pipeline_config import PipelineConfig
from lifemask.pipeline_input import Photo, Points


def reconstruct(
    photo: Photo,
    config: PipelineConfig | None = None,
    *,
    landmarks: Points | None = None,
    box: Box | None = None,
) -> Head:
    """The head of the largest face of a photo.

    Args:
        photo: a file, a PIL image, or an array (H, W, 3): uint8, uint16 or float in [0, 1].
        config: what is run; None for the defaults.
        landmarks: the face's landmarks in photo px, if they are known: (n, 2 or 3) or a file.
        box: the face's box (x0, y0, x1, y1) in photo px, if it is known.

    Raises:
        UserError: no such photo, no face in it, missing weights, ...; one line, with the remedy.
    """
    config = replace(config or PipelineConfig(), faces="largest")
    boxes = None if box is None else [box]
    return _pipeline(config)(photo, boxes=boxes, landmarks=landmarks)[0]


def reconstruct_all(
    photo: Photo,
    config: PipelineConfig | None = None,
    *,
    boxes: Sequence[Box] | None = None,
) -> list[Head]:
    """The heads of all faces of a photo, largest first; see `reconstruct`.

    Args:
        photo: as for `reconstruct`.
        config: what is run; None for the defaults.
        boxes: the faces' boxes in photo px, if they are known; the result keeps their order.
    """
    config = replace(config or PipelineConfig(), faces="all")
    return _pipeline(config)(photo, boxes=boxes)


def reconstruct_person(
    photos: Sequence[Photo],
    config: PipelineConfig | None = None,
    *,
    boxes: Sequence[Box | None] | None = None,
    landmarks: Sequence[Points | None] | None = None,
) -> list[Head]:
    """The heads of one person in several photos: one identity, a pose and expression per photo.

    Args:
        photos: as for `reconstruct`; the largest face of each is taken.
        config: what is run; None for the defaults.
        boxes: the face's box of each photo in photo px; None where it is not known.
        landmarks: of the face of each photo, as for `reconstruct`; None where they are not known.

    Raises:
        UserError: as for `reconstruct`, with the name of the photo.
    """
    config = replace(config or PipelineConfig(), faces="largest")
    return _pipeline(config).reconstruct_person(photos, boxes=boxes, landmarks=landmarks)


@lru_cache(maxsize=4)
def _pipeline(config: PipelineConfig) -> Pipeline:
    """The pipelines of this process by their settings, so that networks are loaded once."""
    return Pipeline(config)
