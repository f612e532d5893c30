"""Landmark sets: names, sizes, flip tables and the conversions between them.

A flip table is data: `flip[i]` is the landmark on the other side of the face. Index 0 of every
68-point set is at image left. Sources: iBUG-68 is the 300-W mark-up (Sagonas et al. 2013);
AFLW-21 is the AFLW mark-up (Koestinger et al. 2011) as mean of 68-set points in the 2DASL code;
Map-18 is the input map of the 2DASL code; the MediaPipe-478 to 68 table was chosen for this
project by its distance to annotated faces (6.7 % against 7.9 % of the outer-eye distance for the
table that is usually quoted).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lifemask.facemodel._tables import DENSE_FLIP, MEDIAPIPE_FLIP

FLIP_68 = (
    *range(16, -1, -1),
    *range(26, 16, -1),
    *(27, 28, 29, 30, 35, 34, 33, 32, 31),
    *(45, 44, 43, 42, 47, 46, 39, 38, 37, 36, 41, 40),
    *(54, 53, 52, 51, 50, 49, 48, 59, 58, 57, 56, 55),
    *(64, 63, 62, 61, 60, 67, 66, 65),
)
FLIP_21 = (5, 4, 3, 2, 1, 0, 11, 10, 9, 8, 7, 6, 16, 15, 14, 13, 12, 19, 18, 17, 20)
FLIP_18 = (5, 4, 3, 2, 1, 0, 11, 10, 9, 8, 7, 6, 14, 13, 12, 17, 16, 15)

AFLW21_FROM_68: tuple[tuple[int, ...], ...] = (
    *((17,), (19,), (21,), (22,), (24,), (26,)),
    *((36,), (36, 37, 38, 39, 40, 41), (39,), (42,), (42, 43, 44, 45, 46, 47), (45,)),
    *((2,), (31,), (30,), (35,), (14,)),
    *((48,), (60, 61, 62, 63, 64, 65, 66, 67), (54,), (8,)),
)
MAP18_FROM_68: tuple[tuple[int, ...], ...] = (
    *((17,), (19,), (21,), (22,), (24,), (26,)),
    *((36,), (37, 40), (39,), (42,), (43, 46), (45,)),
    *((31,), (30,), (35,), (48,), (62, 66), (54,)),
)
MAP18_FROM_AFLW21 = (*range(12), 13, 14, 15, 17, 18, 19)
MEDIAPIPE_TO_68 = (
    *(127, 234, 93, 132, 58, 136, 150, 176, 152, 400, 379, 365, 288, 361, 323, 454, 356),
    *(70, 63, 105, 66, 107, 336, 296, 334, 293, 300),
    *(168, 197, 5, 4, 98, 97, 2, 326, 327),
    *(33, 160, 158, 133, 153, 144, 362, 385, 387, 263, 373, 380),
    *(61, 40, 37, 0, 267, 270, 291, 321, 314, 17, 84, 91),
    *(78, 81, 13, 311, 308, 402, 14, 178),
)
INNER_51 = tuple(range(17, 68))
SFM_50 = (8, *(i for i in range(17, 68) if i not in (60, 64)))
BFM_15 = (8, 30, 31, 33, 35, 36, 39, 42, 45, 48, 51, 54, 57, 62, 66)
MEDIAPIPE_105 = (
    *(276, 282, 283, 285, 293, 295, 296, 300, 334, 336, 46, 52, 53, 55, 63, 65, 66, 70, 105, 107),
    *(249, 263, 362, 373, 374, 380, 381, 382, 384, 385, 386, 387, 388, 390, 398, 466),
    *(7, 33, 133, 144, 145, 153, 154, 155, 157, 158, 159, 160, 161, 163, 173, 246),
    *(168, 6, 197, 195, 5, 4, 129, 98, 97, 2, 326, 327, 358),
    *(0, 13, 14, 17, 37, 39, 40, 61, 78, 80, 81, 82, 84, 87, 88, 91, 95, 146, 178, 181, 185, 191),
    *(267, 269, 270, 291, 308, 310, 311, 312, 314, 317, 318, 321, 324, 375, 402, 405, 409, 415),
)


@dataclass(frozen=True)
class LandmarkSet:
    """A named set of landmarks.

    Attributes:
        name: key in `LANDMARK_SETS`.
        count: number of landmarks.
        flip: (count,) index of each landmark's partner on the other side; an involution.
        description: where it comes from and what is peculiar.
    """

    name: str
    count: int
    flip: tuple[int, ...]
    description: str


def _dense_flip() -> tuple[int, ...]:
    """Flip table of lifemask392: two 68 sets, then the 256 vertices."""
    second = (68 + i for i in FLIP_68)
    return (*FLIP_68, *second, *(136 + i for i in DENSE_FLIP))


def _part_flip(ids: Sequence[int], flip: Sequence[int]) -> tuple[int, ...]:
    """Flip table of some of a set's landmarks."""
    place = {landmark: k for k, landmark in enumerate(ids)}
    return tuple(place[flip[landmark]] for landmark in ids)


LANDMARK_SETS: dict[str, LandmarkSet] = {
    entry.name: entry
    for entry in (
        LandmarkSet("ict68", 68, FLIP_68, "iBUG-68 as ICT-FaceKit marks it; jaw on the face's rim"),
        LandmarkSet(
            "ibug68-3d-bfm",
            68,
            FLIP_68,
            "iBUG-68 as 300W-LP and AFLW2000-3D mark it: the 3D contour of a BFM fit",
        ),
        LandmarkSet("aflw21", 21, FLIP_21, "AFLW: brows, eyes, ears, nose, mouth, chin"),
        LandmarkSet("map18", 18, FLIP_18, "AFLW-21 without ears and chin; input map of 2DASL"),
        LandmarkSet("mediapipe478", 478, MEDIAPIPE_FLIP, "MediaPipe face mesh 468 and two irises"),
        LandmarkSet(
            "lifemask392",
            392,
            _dense_flip(),
            "ict68, then ibug68-3d-bfm, then 256 vertices spread over the face region",
        ),
        LandmarkSet("ibug68", 68, FLIP_68, "iBUG-68 as the authors of a foreign model embed it"),
        LandmarkSet(
            "ibug51", 51, _part_flip(INNER_51, FLIP_68), "iBUG-68 without the jaw: points 17-67"
        ),
        LandmarkSet(
            "sfm50",
            50,
            _part_flip(SFM_50, FLIP_68),
            "the iBUG-68 points that the Surrey Face Model marks: chin, 17-67 without 60 and 64",
        ),
        LandmarkSet(
            "bfm15",
            15,
            _part_flip(BFM_15, FLIP_68),
            "the iBUG-68 points that BFM 2017 names: chin, nose, corners of eyes and mouth, lips",
        ),
        LandmarkSet(
            "mediapipe105",
            105,
            _part_flip(MEDIAPIPE_105, MEDIAPIPE_FLIP),
            "the MediaPipe points that FLAME's authors embed: brows, eyes, nose, lips",
        ),
    )
}


def flip_table(name: str) -> Int[Tensor, "n"]:
    """The flip table of a landmark set, (n,) int64.

    Raises:
        KeyError: unknown set; the message lists those that exist.
    """
    return torch.tensor(_get(name).flip, dtype=torch.int64)


def convert(points: Float[Tensor, "*b n d"], source: str, target: str) -> Float[Tensor, "*b m d"]:
    """Landmarks of one set from those of another, where their definitions allow it.

    Known: a set to itself; any 68 set to "aflw21" and "map18"; "aflw21" to "map18";
    "mediapipe478" to "ict68" (and on to the former; its contour differs, so as a teacher use the
    inner 51 only); "lifemask392" to its two 68 sets, and through "ibug68-3d-bfm" to the small ones;
    any 68 set to its parts "ibug51", "sfm50", "bfm15"; "mediapipe478" to "mediapipe105".

    Args:
        points: (*b, n, d) in any frame; d is 2 or 3.
        source: name of the set that `points` follow.
        target: name of the wanted set.

    Raises:
        KeyError: an unknown set, or a pair without a conversion.
        ValueError: `points` do not have the source's count.
    """
    origin = _get(source)
    _get(target)
    if points.shape[-2] != origin.count:
        raise ValueError(f"{source} has {origin.count} points, got {points.shape[-2]}")
    if source == target:
        return points
    step = _STEPS.get((source, target))
    if step is not None:
        return _average(points, step)
    for (first, middle), rows in _STEPS.items():
        if first == source and (middle, target) in _STEPS:
            return _average(_average(points, rows), _STEPS[(middle, target)])
    raise KeyError(f"no conversion from {source!r} to {target!r}")


def map18(points: Float[Tensor, "*b n d"], convention: str) -> Float[Tensor, "*b 18 d"]:
    """The 18 points of the 2DASL input map from any set that can fill it."""
    return convert(points, convention, "map18")


def _average(points: Tensor, rows: Sequence[Sequence[int]]) -> Tensor:
    return torch.stack([points[..., list(row), :].mean(-2) for row in rows], -2)


def _get(name: str) -> LandmarkSet:
    if name not in LANDMARK_SETS:
        raise KeyError(f"unknown landmark set {name!r}; known: {', '.join(LANDMARK_SETS)}")
    return LANDMARK_SETS[name]


def _singles(ids: Sequence[int]) -> tuple[tuple[int, ...], ...]:
    return tuple((i,) for i in ids)


FROM_68: dict[str, tuple[tuple[int, ...], ...]] = {
    "aflw21": AFLW21_FROM_68,
    "map18": MAP18_FROM_68,
    "ibug51": _singles(INNER_51),
    "sfm50": _singles(SFM_50),
    "bfm15": _singles(BFM_15),
}
"""What follows from any set of 68: each landmark as the mean of some of them."""

_STEPS: dict[tuple[str, str], tuple[tuple[int, ...], ...]] = {
    ("lifemask392", "ibug68-3d-bfm"): _singles(range(68, 136)),
    ("lifemask392", "ict68"): _singles(range(68)),
    ("mediapipe478", "ict68"): _singles(MEDIAPIPE_TO_68),
    ("mediapipe478", "mediapipe105"): _singles(MEDIAPIPE_105),
    **{
        (source, target): rows
        for source in ("ict68", "ibug68-3d-bfm", "ibug68")
        for target, rows in FROM_68.items()
    },
    ("aflw21", "map18"): _singles(MAP18_FROM_AFLW21),
}
