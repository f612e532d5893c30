"""Which face of a frame is whose: tracks as boxes, by overlap and motion; knows no images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from lifemask.faces.crop import Box
from lifemask.faces.detect import overlaps


@dataclass(frozen=True)
class TrackerConfig:
    """How boxes become tracks; lengths of time in frames.

    Attributes:
        detect_every: frames between looks of the detector while all goes well.
        max_gap: a person who is lost for longer comes back as another.
        least_overlap: intersection over union from which a detection is the person's.
        most_overlap: two tracks that overlap more see one face.
        reach: how far from the place where it was expected a lost face may come back, in sides.
        misses: looks in a row that find nothing at a track before it counts as lost.
        people: at most so many at once, largest first.
    """

    detect_every: int = 10
    max_gap: int = 25
    least_overlap: float = 0.2
    most_overlap: float = 0.6
    reach: float = 0.75
    misses: int = 2
    people: int = 8


@dataclass
class _Track:
    box: Box
    frame: int
    born: int
    velocity: tuple[float, float] = (0.0, 0.0)
    missed: int = 0
    last_sure: int = 0
    history: list[tuple[int, Box]] = field(default_factory=list)


@dataclass(frozen=True)
class Step:
    """What a frame changed.

    Attributes:
        placed: track to the index of the detection where it begins, or goes on after a gap.
        lost: tracks that are gone from this frame on; they may come back.
        doubtful: of lost tracks, the last frame at which the detector agreed: what was followed
            after it was no face.
    """

    placed: Mapping[int, int]
    lost: tuple[int, ...]
    doubtful: Mapping[int, int]


class BoxTracker:
    """Keeps the people of a clip apart; call `update` once per frame.

    Args:
        config: settings.

    Attributes:
        active: numbers of the people in view, in the order of their appearance, from 1.
    """

    def __init__(self, config: TrackerConfig | None = None) -> None:
        self.config = config or TrackerConfig()
        self.active: list[int] = []
        self._tracks: dict[int, _Track] = {}
        self._next = 1
        self._last_look: int | None = None

    def expected(self, number: int, frame: int) -> Box:
        """Where a person's face should be, moving on as it did, for at most ten frames."""
        track = self._tracks[number]
        return _moved(track, min(frame - track.frame, 10))

    def wants_look(self, frame: int, seen: Mapping[int, Box | None]) -> bool:
        """Whether the detector should look at this frame.

        Args:
            frame: its number.
            seen: what following found, as for `update`.
        """
        since = self.config.detect_every if self._last_look is None else frame - self._last_look
        lost = any(box is None for box in seen.values()) or bool(self._clashes(seen))
        # a missing person is looked for more often, but not on every frame
        hurry = lost or not self.active or bool(self._missing(frame))
        return since >= (max(1, self.config.detect_every // 4) if hurry else
                         self.config.detect_every) or (lost and since > 0)  # fmt: skip

    def update(
        self,
        frame: int,
        seen: Mapping[int, Box | None],
        found: Sequence[Box] | None = None,
        cut: bool = False,
    ) -> Step:
        """Take in one frame.

        Args:
            frame: its number, larger than the last one's.
            seen: for each active track the box to which it was followed, None where it was lost.
            found: what the detector found; None if it did not look.
            cut: the scene changed: nobody who was there before is followed, or comes back.
        """
        if cut:
            lost = tuple(self.active)
            self.active, self._tracks = [], {}
            return Step(self._new(frame, found or [], set()), lost, {}) if found else Step(
                {}, lost, {}
            )  # fmt: skip
        gone = {n for n in self.active if seen.get(n) is None}
        gone |= self._clashes(seen)
        for number in self.active:
            box = seen.get(number)
            if number not in gone and box is not None:
                self._follow(number, frame, box)
        doubtful: dict[int, int] = {}
        placed: dict[int, int] = {}
        if found is not None:
            self._last_look = frame
            taken = self._agree(frame, found, gone, doubtful)
            self._drop(gone)
            placed = self._again(frame, found, taken)
            placed |= self._new(frame, found, taken)
        self._drop(gone - set(placed))
        self._forget(frame)
        return Step(placed, tuple(sorted(gone - set(placed))), doubtful)

    def _follow(self, number: int, frame: int, box: Box) -> None:
        track = self._tracks[number]
        track.history = [*track.history[-4:], (frame, box)]
        track.box, track.frame = box, frame
        first, then = track.history[0]
        if frame > first:
            (u0, v0), (u1, v1) = _center(then), _center(box)
            track.velocity = ((u1 - u0) / (frame - first), (v1 - v0) / (frame - first))

    def _agree(
        self, frame: int, found: Sequence[Box], gone: set[int], doubtful: dict[int, int]
    ) -> set[int]:
        """Match detections with tracks that were followed; which detections are taken."""
        kept = [n for n in self.active if n not in gone]
        pairs = _best_pairs([self._tracks[n].box for n in kept], found, self.config.least_overlap)
        for index, number in enumerate(kept):
            track = self._tracks[number]
            if index in pairs:
                track.missed, track.last_sure = 0, frame
                continue
            track.missed += 1
            if track.missed >= self.config.misses:
                gone.add(number)
                doubtful[number] = track.last_sure
        taken = set(pairs.values())
        for k, box in enumerate(found):  # a second box on a face that is followed is no new face
            boxes = [self._tracks[n].box for n in kept if n not in gone]
            if k not in taken and boxes and overlaps(_row(box), _rows(boxes)).max() > 0.4:
                taken.add(k)
        return taken

    def _again(self, frame: int, found: Sequence[Box], taken: set[int]) -> dict[int, int]:
        """People who were lost and are found again near to where they should be."""
        placed = {}
        missing = self._missing(frame)
        costs = [
            (_apart(self.expected(n, frame), box), n, k)
            for n in missing
            for k, box in enumerate(found)
            if k not in taken
        ]
        for cost, number, k in sorted(costs):
            if cost < self.config.reach and number not in placed and k not in taken:
                placed[number] = k
                taken.add(k)
                track = self._tracks[number]
                track.box, track.frame, track.missed = found[k], frame, 0
                track.last_sure, track.history = frame, [(frame, found[k])]
                self.active.append(number)
        return placed

    def _new(self, frame: int, found: Sequence[Box], taken: set[int]) -> dict[int, int]:
        placed = {}
        self._last_look = frame
        order = sorted(range(len(found)), key=lambda k: -_area(found[k]))
        for k in order:
            if k in taken or len(self.active) >= self.config.people:
                continue
            number, self._next = self._next, self._next + 1
            self._tracks[number] = _Track(
                found[k], frame, frame, last_sure=frame, history=[(frame, found[k])]
            )
            self.active.append(number)
            placed[number] = k
        return placed

    def _clashes(self, seen: Mapping[int, Box | None]) -> set[int]:
        """Of two tracks on one face, the one that jumped farther from where it should be."""
        lost: set[int] = set()
        present = [(n, box) for n in self.active if (box := seen.get(n)) is not None]
        for i, (one, a) in enumerate(present):
            for other, b in present[i + 1 :]:
                if lost & {one, other}:
                    continue
                if overlaps(_row(a), _rows([b]))[0] > self.config.most_overlap:
                    off = {
                        n: _apart(_moved(self._tracks[n], 1), x) for n, x in ((one, a), (other, b))
                    }
                    lost.add(max(off, key=lambda n: (off[n], n)))
        return lost

    def _missing(self, frame: int) -> list[int]:
        limit = self.config.max_gap
        return [
            n for n, t in self._tracks.items() if n not in self.active and frame - t.frame <= limit
        ]

    def _drop(self, gone: set[int]) -> None:
        self.active = [n for n in self.active if n not in gone]

    def _forget(self, frame: int) -> None:
        kept = {*self.active, *self._missing(frame)}
        self._tracks = {n: t for n, t in self._tracks.items() if n in kept}


def _best_pairs(tracks: Sequence[Box], found: Sequence[Box], least: float) -> dict[int, int]:
    """Track to detection, the largest overlaps first."""
    if not tracks or not found:
        return {}
    table = np.stack([overlaps(_row(box), _rows(found)) for box in tracks])
    pairs: dict[int, int] = {}
    for flat in np.argsort(-table, axis=None, kind="stable"):
        i, k = divmod(int(flat), len(found))
        if table[i, k] < least:
            break
        if i not in pairs and k not in pairs.values():
            pairs[i] = k
    return pairs


def _moved(track: _Track, frames: int) -> Box:
    du, dv = track.velocity[0] * frames, track.velocity[1] * frames
    x0, y0, x1, y1 = track.box
    return (x0 + du, y0 + dv, x1 + du, y1 + dv)


def _apart(a: Box, b: Box) -> float:
    """Distance of the centres, and difference of the sizes, in sides of the first."""
    (u0, v0), (u1, v1) = _center(a), _center(b)
    side, other = np.sqrt(_area(a)), np.sqrt(_area(b))
    return float(np.hypot(u1 - u0, v1 - v0) / side + abs(np.log(other / side)))


def _center(box: Box) -> tuple[float, float]:
    return ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2)


def _area(box: Box) -> float:
    return max((box[2] - box[0]) * (box[3] - box[1]), 1e-9)


def _row(box: Box) -> np.ndarray:
    return np.asarray(box, np.float64)


def _rows(boxes: Sequence[Box]) -> np.ndarray:
    return np.asarray(boxes, np.float64).reshape(-1, 4)
