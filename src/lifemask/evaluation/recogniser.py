"""Does a re-rendered face stay the same person: similarity told by a face recogniser.

The recogniser is dlib's ResNet (packages `dlib_bin` and `face_recognition_models`, weights CC0): it
is optional, and no part of lifemask is trained with it or chosen by it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8
from numpy import ndarray
from torch import Tensor

from lifemask.assets import UserError
from lifemask.data.ytf68 import load_ytf68_test
from lifemask.evaluation._retexture_cases import FaceCase, photo_case
from lifemask.evaluation.retexture import Answer, metric_entry, rerender
from lifemask.graphics.camera import project

Embed = Callable[[UInt8[ndarray, "h w 3"], Float[ndarray, "68 2"]], Float[ndarray, "d"]]
"""Code of the face with these 68 points ("ict68", px) in an sRGB picture."""
_WEIGHTS = "dlib_face_recognition_resnet_model_v1.dat"
_REMEDY = "pip install dlib_bin face_recognition_models"


@dataclass(frozen=True)
class IdentityPair:
    """Two photos of one person.

    Attributes:
        case: the photo that is re-rendered.
        points68: (68, 2) px of its picture.
        other: (h, w, 3) uint8, another photo of the person.
        other68: (68, 2) px of it.
    """

    case: FaceCase
    points68: Float[ndarray, "68 2"]
    other: UInt8[ndarray, "h w 3"]
    other68: Float[ndarray, "68 2"]


def load_recogniser() -> Embed:
    """Dlib's face recogniser as a function to codes of 128 numbers.

    Raises:
        UserError: a package or its weights are missing.
    """
    from importlib import import_module
    from importlib.util import find_spec

    try:
        dlib: Any = import_module("dlib")
    except ImportError:
        raise UserError(f"identity needs dlib: {_REMEDY}") from None
    found = find_spec("face_recognition_models")
    folder = Path((found.submodule_search_locations or [""])[0] if found else "")
    weights = folder / "models" / _WEIGHTS
    if not weights.is_file():
        raise UserError(f"identity needs dlib's weights: {_REMEDY}")
    network = dlib.face_recognition_model_v1(str(weights))

    def embed(image: ndarray, points68: ndarray) -> ndarray:
        marks = dlib.points([dlib.point(int(u), int(v)) for u, v in np.rint(points68)])
        box = dlib.rectangle(*(int(v) for v in (*points68.min(0), *points68.max(0))))
        shape = dlib.full_object_detection(box, marks)
        return np.array(network.compute_face_descriptor(np.ascontiguousarray(image), shape))

    return embed


def ytf_pairs(folder: str | Path, people: int, pipeline: Any) -> Iterator[IdentityPair]:
    """A frame of each held-out person, with one of another video where there is one.

    Args:
        folder: of `data.ytf68`.
        people: how many.
        pipeline: as for `photo_case`; people whose first frame it cannot use are left out.
    """
    data = load_ytf68_test(folder)
    clip = np.array([int(name.rpartition("_")[2]) // 10 for name in data.names])
    for person in dict.fromkeys(data.person.tolist()):
        rows = np.flatnonzero(data.person == person)
        elsewhere = rows[clip[rows] != clip[rows[0]]]
        first, other = int(rows[0]), int(elsewhere[0] if len(elsewhere) else rows[-1])
        if first == other:
            continue
        try:
            case = photo_case(data.names[first], data.image(first), pipeline, data.boxes[first])
        except UserError:
            continue
        points = pipeline.model.landmarks(case.geometry.vertices_mm, "ict68")
        points68 = project(points, case.geometry.camera)[:, :2].double().numpy()
        yield IdentityPair(case, points68, data.image(other), data.landmarks68[other])
        people -= 1
        if people == 0:
            return


def identity_scores(
    embed: Embed, pairs: Iterable[IdentityPair], answers: Mapping[str, Answer]
) -> dict[str, Any]:
    """Cosine similarities of photos and re-renders.

    Args:
        embed: the recogniser.
        pairs: one for each person.
        answers: appearance methods by name.

    Returns:
        "photos": cosine of two photos of one person, "strangers": of photos of different people;
        by method "photo" (render and its photo), "other" (render and the other photo of the
        person), and "relative" (the first over the mean of "photos").
    """
    own, others = [], []
    codes: dict[str, list[ndarray]] = {name: [] for name in answers}
    for pair in pairs:
        own.append(embed(_bytes(pair.case.photos[0]), pair.points68))
        others.append(embed(pair.other, pair.other68))
        for name, answer in answers.items():
            drawn = rerender(pair.case, 0, answer(pair.case, 0))
            codes[name].append(embed(_bytes(drawn), pair.points68))
    same = cosines(own, others)
    strangers = cosines(own, others[1:] + others[:1])
    entry = {"people": len(own), "photos": metric_entry("photos", same)}
    entry |= {"strangers": metric_entry("strangers", strangers), "methods": {}}
    for name, drawn in codes.items():
        near, far = cosines(drawn, own), cosines(drawn, others)
        entry["methods"][name] = {
            "photo": metric_entry("photo", near),
            "other": metric_entry("other", far),
            "relative": metric_entry("relative", near / same.mean()),
        }
    return entry


def cosines(first: list[ndarray], second: list[ndarray]) -> Float[ndarray, "n"]:
    """Cosine (n,) of the angle between codes, pair by pair."""
    a, b = (np.stack(codes).astype(np.float64) for codes in (first, second))
    return (a * b).sum(1) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1))


def _bytes(picture: Tensor) -> UInt8[ndarray, "s s 3"]:
    return (picture.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
