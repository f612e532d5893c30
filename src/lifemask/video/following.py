"""Follows the faces of a clip from frame to frame, and keeps what the network said of each."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import UInt8

from lifemask.faces.choice import MIN_FACE_PX, side_px
from lifemask.faces.crop import Box
from lifemask.faces.eyes import EyeReader
from lifemask.faces.mouth import MouthReader
from lifemask.methods._crops import first_place
from lifemask.types import Face
from lifemask.video.reading import LEAST_SCORE, FaceReader, Reading, sharpness
from lifemask.video.store import RowStore
from lifemask.video.tracking import BoxTracker, TrackerConfig

Rgb = UInt8[np.ndarray, "h w 3"]
LOOK_AGAIN = 0.12
"""A face that lies so far from the middle of its crop, in sides, or is so much larger or smaller,
is seen a second time."""
CUT_CHANGE = 0.16
"""Mean change of a small grey picture of the frame that counts as another scene."""
SHARP_EVERY = 3


@dataclass(frozen=True)
class Candidate:
    """A frame that may tell the identity or give the texture.

    Attributes:
        frame: its number.
        reading: what the network said.
        worth: root of the sharpness times size times certainty.
        yaw: rough yaw in [-1, 1], from where the nose lies between the jaw's ends.
        image: the frame itself, for the best few.
    """

    frame: int
    reading: Reading
    worth: float
    yaw: float
    image: Rgb | None = None


@dataclass
class Trail:
    """What was seen of one person.

    Rows are points (3 p), log beta (p), expression (e), mouth (2), eyes (12); what has no reader is
    left out.

    Attributes:
        number: of the person.
        frames: numbers of the frames with a row, ascending.
        scores: of these.
        rows: the numbers.
        candidates: the best frames of each side of the face; at least one.
        first: the candidate that a track always keeps: where it began the detector saw the face.
    """

    number: int
    rows: RowStore
    frames: list[int] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    candidates: dict[int, list[Candidate]] = field(default_factory=dict)
    first: Candidate | None = None

    def cut_after(self, frame: int) -> None:
        """Forget what came after a frame."""
        keep = int(np.searchsorted(self.frames, frame, side="right"))
        self.frames, self.scores = self.frames[:keep], self.scores[:keep]
        self.rows.truncate(keep)
        for side, found in self.candidates.items():
            self.candidates[side] = [c for c in found if c.frame <= frame]
        if self.first is not None and not any(self.candidates.values()):
            self.candidates[0] = [self.first]  # better ones had pushed it out


class Follower:
    """Takes frames one after the other; memory does not grow but for a few numbers per frame.

    Args:
        reader: the network.
        detectors: quick to thorough; a thorough one is asked where a quick one finds nobody, and
            from then on while those whom it found are in view.
        config: of the tracker.
        identity_frames: how many candidates each person keeps.
        fps: of the clip, for how often the thorough detector may look.
        eyes: reads lids and gaze; None leaves them to the network.
        mouth: reads the lips; likewise.

    Attributes:
        trails: what was seen of each person, by number.
        cuts: frames at which a new scene begins.
        seconds: spent on "detect", "read", "close-ups", "other".
    """

    def __init__(
        self,
        reader: FaceReader,
        detectors: Sequence[Callable[[Rgb], list[Face]]],
        config: TrackerConfig,
        identity_frames: int = 12,
        fps: float = 25.0,
        eyes: EyeReader | None = None,
        mouth: MouthReader | None = None,
    ) -> None:
        self.reader, self.detectors = reader, detectors
        self.closeups = tuple(one for one in (mouth, eyes) if one is not None)
        self.tracker = BoxTracker(config)
        self.trails: dict[int, Trail] = {}
        self.cuts: list[int] = []
        self.seconds: dict[str, float] = defaultdict(float)
        self.frame = -1
        self._latest: dict[int, Reading] = {}
        self._patience = max(1, round(fps))
        self._thorough_at: int | None = None
        self._level = 0
        self._small: np.ndarray | None = None
        self._kept = max(1, (identity_frames + 1) // 2)

    def __call__(self, image: Rgb) -> Mapping[int, Reading]:
        """Take in the next frame; readings of the people in it, by number."""
        began = time.perf_counter()
        spent = self._spent()
        self.frame += 1
        cut = self._is_cut(image)
        followed = {} if cut else self._follow(image)
        boxes: dict[int, Box | None] = {
            n: r.box if (r := followed.get(n)) is not None else None for n in self.tracker.active
        }
        found: list[Face] | None = None
        if cut or self.tracker.wants_look(self.frame, boxes):
            found = self._detect(image)
        given = None if found is None else [_face_box(face) for face in found]
        step = self.tracker.update(self.frame, boxes, given, cut)
        if cut:
            self.cuts.append(self.frame)
        for number, last in step.doubtful.items():
            self.trails[number].cut_after(last)
        for number, index in step.placed.items():
            assert found is not None
            reading = self._begin(image, found[index])
            if reading.score >= LEAST_SCORE:  # else the network sees no face there
                followed[number] = reading
        now = {n: r for n in self.tracker.active if (r := followed.get(n)) is not None}
        for number, reading in now.items():
            self._keep(number, reading, image)
        self._latest = now
        spent = self._spent() - spent
        self.seconds["other"] += time.perf_counter() - began - spent
        return now

    def _spent(self) -> float:
        return sum(self.seconds[name] for name in ("detect", "read", "close-ups"))

    def _follow(self, image: Rgb) -> dict[int, Reading]:
        """Readings of the active people at the places of the frame before."""
        found = {}
        for number in self.tracker.active:
            before = self._latest.get(number)
            if before is None:
                continue
            reading = self._settled(image, self._read(image, before.next_place))
            if reading.score >= LEAST_SCORE and _in_frame(reading.box, image):
                found[number] = reading
        return found

    def _begin(self, image: Rgb, face: Face) -> Reading:
        place = first_place(face, None)
        return self._settled(image, self._read(image, self._read(image, place).next_place))

    def _settled(self, image: Rgb, reading: Reading) -> Reading:
        """The reading, or a second one if the face had moved far since the last frame."""
        center, side = reading.square
        place = reading.place
        off = np.hypot(center[0] - place.center[0], center[1] - place.center[1]) / place.side
        zoom = abs(np.log(max(side, 1e-3) / place.side))
        if max(off, zoom) < LOOK_AGAIN or side < 2 or not np.isfinite(side):
            return reading
        return self._read(image, reading.next_place)

    def _read(self, image: Rgb, place) -> Reading:
        start = time.perf_counter()
        reading = self.reader(image, place)
        self.seconds["read"] += time.perf_counter() - start
        return reading

    def _detect(self, image: Rgb) -> list[Face]:
        start = time.perf_counter()
        if not self.tracker.active:
            self._level = 0
        found = self._usable(self.detectors[self._level](image))
        rested = self._thorough_at is None or self.frame - self._thorough_at >= self._patience
        if not found and not self.tracker.active and rested:
            self._thorough_at = self.frame
            for level in range(self._level + 1, len(self.detectors)):
                found = self._usable(self.detectors[level](image))
                if found:
                    self._level = level
                    break
        self.seconds["detect"] += time.perf_counter() - start
        return found

    @staticmethod
    def _usable(faces: Sequence[Face]) -> list[Face]:
        return [face for face in faces if side_px(face) >= MIN_FACE_PX]

    def _is_cut(self, image: Rgb) -> bool:
        """Whether the picture changed all over; the tracker stays with what moves."""
        height, width = image.shape[:2]
        step = max(1, min(height, width) // 48)
        small = image[step // 2 :: step, step // 2 :: step, 1].astype(np.float32) / 255
        before, self._small = self._small, small
        if before is None or before.shape != small.shape:
            return False

        # brightness and contrast may flicker without a cut
        def norm(x: np.ndarray) -> np.ndarray:
            return (x - x.mean()) / (x.std() + 0.05)

        change = np.abs(norm(small) - norm(before)).mean() / 2
        level = abs(small.mean() - before.mean())
        return bool(change > 2 * CUT_CHANGE or (change > CUT_CHANGE and level > 0.1))

    def _keep(self, number: int, reading: Reading, image: Rgb) -> None:
        parts: tuple[np.ndarray, ...] = (reading.points_px, reading.log_beta, reading.expression)
        start = time.perf_counter()
        for closeup in self.closeups:
            read = closeup(image, torch.from_numpy(reading.points_px[:68]))
            parts += tuple(vars(read).values())
        self.seconds["close-ups"] += time.perf_counter() - start
        if number not in self.trails:
            self.trails[number] = Trail(number, RowStore(sum(p.size for p in parts)))
        trail = self.trails[number]
        trail.rows.append(parts)
        trail.frames.append(self.frame)
        trail.scores.append(reading.score)
        if len(trail.frames) % SHARP_EVERY == 1 or len(trail.frames) < 2 * SHARP_EVERY:
            self._consider(trail, reading, image)

    def _consider(self, trail: Trail, reading: Reading, image: Rgb) -> None:
        """Keep the frame if it is among the best from its side."""
        yaw = rough_yaw(reading.points_px[:68, :2])
        side = int(np.searchsorted(SIDES[1:], yaw))
        size = min(reading.square[1] / 160.0, 1.0)
        worth = (
            sharpness(image, reading.place) ** 0.5 * size * reading.score * _inside(reading, image)
        )
        found = trail.candidates.setdefault(side, [])
        trail.first = trail.first or Candidate(self.frame, reading, worth, yaw)
        if len(found) >= self._kept and worth <= found[-1].worth:
            return
        frontal = abs(yaw) < 0.35
        best = max((c.worth for c in found if c.image is not None), default=-1.0)
        kept = image.copy() if frontal and worth > best else None
        found.append(Candidate(self.frame, reading, worth, yaw, kept))
        if kept is not None:  # one picture for each side of the face is enough
            found[:-1] = [_without_image(c) for c in found[:-1]]
        found.sort(key=lambda c: -c.worth)
        with_image = next((c for c in found if c.image is not None), None)
        del found[self._kept :]
        if with_image is not None and with_image not in found:
            found[-1] = with_image


SIDES = (-1.0, -0.45, -0.15, 0.15, 0.45)
"""Lower limits of the yaw of each side of a face from which candidates are kept."""


def rough_yaw(points: np.ndarray) -> float:
    """Where the nose's tip lies between the ends of the jaw: -1 image left, 0 middle, 1 right."""
    left, right, nose = points[0], points[16], points[30]
    across = right - left
    length = float(across @ across)
    if length < 1e-6:
        return 0.0
    return float(np.clip(2 * ((nose - left) @ across) / length - 1, -1, 1))


def _without_image(candidate: Candidate) -> Candidate:
    c = candidate
    return Candidate(c.frame, c.reading, c.worth, c.yaw)


def _face_box(face: Face) -> Box:
    """The box of a detection as the 68 landmarks would have it: the jaw to the brows."""
    x0, y0, x1, y1 = face.box
    return (x0, y0 + 0.22 * (y1 - y0), x1, y1 + 0.04 * (y1 - y0))


def _in_frame(box: Box, image: Rgb) -> bool:
    """Whether at least half of a box lies in the frame, and it is not tiny."""
    height, width = image.shape[:2]
    x0, y0, x1, y1 = box
    shared = max(min(x1, width) - max(x0, 0), 0) * max(min(y1, height) - max(y0, 0), 0)
    area = max(x1 - x0, 0) * max(y1 - y0, 0)
    return area > (MIN_FACE_PX / 2) ** 2 and shared > 0.5 * area


def _inside(reading: Reading, image: Rgb) -> float:
    """Share of the landmarks that lie in the frame."""
    height, width = image.shape[:2]
    u, v = reading.points_px[:68, 0], reading.points_px[:68, 1]
    return float(((u > 0) & (v > 0) & (u < width - 1) & (v < height - 1)).mean())
