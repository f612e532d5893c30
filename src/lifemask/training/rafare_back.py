"""True normals of the back of pairs' heads, rebuilt from their numbers once and kept beside them.

A stored pair holds the front alone. The back follows from the numbers that it keeps
(`data.pairs.true_back`), at about the cost of a head, so it is kept in `back-normals.npz` in the
pairs' folder, which a run with more pairs goes on with. The shards stay as they are.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int8

from lifemask.assets import UserError
from lifemask.data.npz import read_npz
from lifemask.data.pairs import Pair, true_back
from lifemask.data.shards import whole_file

logger = logging.getLogger(__name__)
FILE = "back-normals.npz"
VERSION = 1
"""Of what is kept; another one is made anew."""


def back_normals(
    folder: Path,
    pairs: Sequence[Pair],
    header: Mapping[str, Any],
    count: int,
    data: Path | None = None,
) -> Int8[np.ndarray, "n 3 s s"]:
    """Normals of the back of the first pairs of a folder, 127 is 1, turned to the viewer.

    They are 0 where the picture shows no true face, or nothing lies behind it. What is not there
    yet is made and kept; a folder that cannot be written costs the same time again.

    Args:
        folder: of the pairs.
        pairs: of that folder.
        header: what its manifest says.
        count: so many of them, at most all.
        data: folder with `ict/ict.npz`, for heads of ICT-FaceKit.

    Raises:
        UserError: the face model of the pairs is not there, or another one than made them.
    """
    key = _key(header)
    found = _kept(folder / FILE, key)
    if len(found) >= count:
        return found[:count]
    _check_model(header, folder)
    logger.info("normals of the back: %d of %d pairs to rebuild", count - len(found), count)
    made = [eighth(true_back(pairs[k], data)[1]) for k in range(len(found), count)]
    whole = np.concatenate([found, np.stack(made)]) if len(found) else np.stack(made)
    try:
        with whole_file(folder / FILE) as file:
            np.savez_compressed(file, key=np.array(key), normals=whole)
    except OSError as error:
        logger.warning("%s cannot be written (%s): it is made again next time", FILE, error)
    return whole


def eighth(normals: np.ndarray) -> Int8[np.ndarray, "3 s s"]:
    """Normals (s, s, 3) in steps of 1/127, (3, s, s)."""
    return np.ascontiguousarray(np.rint(normals * 127).astype(np.int8).transpose(2, 0, 1))


def _key(header: Mapping[str, Any]) -> str:
    """What decides the pairs of a folder: their settings; how many there are does not."""
    text = json.dumps([VERSION, header["settings"]], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _kept(path: Path, key: str) -> np.ndarray:
    """What a file has for these pairs; nothing where it is missing, damaged or of others."""
    nothing = np.zeros((0, 3, 1, 1), np.int8)
    try:
        stored = read_npz(path, ("key", "normals"))
    except UserError:
        return nothing
    return stored["normals"] if str(stored["key"]) == key else nothing


def _check_model(header: Mapping[str, Any], folder: Path) -> None:
    """Refuse to rebuild heads with another head model than they were made with."""
    from lifemask.data._synthetic_cache import model_fingerprint
    from lifemask.facemodel import load_face_model

    own = model_fingerprint(load_face_model("lifemask"))
    told = header["settings"].get("face_model_sha1", own)
    if told != own:
        raise UserError(
            f"{folder} was made with another head model ({told}, here {own}), so its backs cannot"
            " be rebuilt: make the pairs again"
        )
