"""Where training crops come from, and which family of weights may see them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from lifemask.assets import LicenceTag, UserError
from lifemask.data.augment import NO_AUGMENTATION, View, draw_views
from lifemask.data.base import CropSet, load_crops, read_cache_header, save_crops

REAL_SETS = ("aflw21", "ytf68")


def renders_tag(folder: Path, family: str) -> LicenceTag:
    """Licence tag of a cache of renders, "open" or "research".

    Raises:
        UserError: a cache that the family may not train on, or of people reserved for tests.
    """
    return licence_tag(folder, read_cache_header(folder)["licence"], family)


def licence_tag(folder: Path, licence: str, family: str) -> LicenceTag:
    """Licence tag of any training data, "open" or "research".

    Args:
        folder: of the data, for the message.
        licence: what their header says.
        family: of the weights that are to learn from them.

    Raises:
        UserError: the family may not train on them.
    """
    if family == "open" and licence != "open":
        raise UserError(f"{folder} is {licence!r}; the open family may not train on it")
    return "open" if licence == "open" else "research"


def real_crops(name: str, data: Path | None, prepared: Path | None) -> tuple[CropSet, CropSet]:
    """Training and held-out crops of "aflw21" or "ytf68", from `prepared` if they are there.

    Args:
        name: of the data set.
        data: folder with a folder of that name.
        prepared: where decoded crops are kept between runs and processes; a set of "ytf68" that
            does not tell people apart is decoded again.

    Raises:
        UserError: data are missing or broken.
    """
    from lifemask.data.aflw21 import load_aflw21
    from lifemask.data.ytf68 import load_ytf68

    places = [prepared / f"{name}-{part}" for part in ("training", "held-out")] if prepared else []
    if places and all((place / "labels.npz").is_file() for place in places):
        stored = load_crops(places[0]), load_crops(places[1])
        if name != "ytf68" or all(crops.person is not None for crops in stored):
            return stored
        if data is None:
            raise UserError(f"{places[0]} does not tell people apart: give --data to make it again")
    if data is None:
        raise UserError("the research family needs --data with aflw21 and ytf68")
    sets = {"aflw21": load_aflw21, "ytf68": load_ytf68}[name](data / name)
    for place, crops in zip(places, sets, strict=False):
        save_crops(crops, place)
    return sets


def nominal_view(crops: CropSet, count: int, size: int) -> View:
    """Views of `count` crops of a set without augmentation: what a network sees in evaluation."""
    rng = np.random.default_rng(0)  # nothing depends on it
    side = crops.images[0].shape[1]
    return draw_views(rng, NO_AUGMENTATION, count, side, crops.nominal_side_px, size)
