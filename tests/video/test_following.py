"""Following with a network whose answers are known: what begins a track, and what it keeps."""

from __future__ import annotations

import numpy as np

from lifemask.methods._crops import Place
from lifemask.types import Face
from lifemask.video.following import Candidate, Follower, Trail
from lifemask.video.reading import Reading
from lifemask.video.store import RowStore
from lifemask.video.tracking import TrackerConfig

IMAGE = np.random.default_rng(0).integers(0, 255, (120, 160, 3), np.uint8)


def reading(score: float) -> Reading:
    """A face of 40 px in the middle of the picture."""
    turn = np.linspace(0, 2 * np.pi, 68, endpoint=False)
    points = np.stack([80 + 20 * np.cos(turn), 60 + 20 * np.sin(turn), 0 * turn], 1)
    place = Place((80.0, 60.0), 44.0, 0)
    none = np.zeros(2, np.float32)
    return Reading(points.astype(np.float32), np.zeros(68, np.float32), none, none, score, place)


class Scripted:
    """A reader that gives these scores, frame after frame; two looks at a face that begins."""

    def __init__(self, follower: list[float]) -> None:
        self.scores = follower
        self.frame = 0

    def __call__(self, image: np.ndarray, place: Place) -> Reading:
        return reading(self.scores[self.frame])


def test_a_detection_in_which_the_network_sees_no_face_is_nobody() -> None:
    reader = Scripted([0.1, 0.1, 0.1, 0.9, 0.9, 0.9])
    detected = [Face((60.0, 36.0, 100.0, 80.0), 0.9)]
    follower = Follower(reader, [lambda image: detected], TrackerConfig())  # pyright: ignore
    for frame in range(6):
        reader.frame = frame
        follower(IMAGE)
    (trail,) = follower.trails.values()
    assert trail.frames == [3, 4, 5] and min(trail.scores) == 0.9


def test_a_track_whose_end_is_forgotten_keeps_a_candidate() -> None:
    trail = Trail(1, RowStore(1), frames=[0, 1, 2, 3], scores=[1.0] * 4)
    for _ in range(4):
        trail.rows.append((np.zeros(1),))
    trail.first = Candidate(0, reading(0.9), 0.1, 0.0)
    better = [Candidate(k, reading(0.9), 1.0, 0.0) for k in (2, 3)]
    trail.candidates = {2: list(better)}
    trail.cut_after(2)
    assert trail.frames == [0, 1, 2] and trail.candidates == {2: better[:1]}
    trail.cut_after(1)
    assert [c for found in trail.candidates.values() for c in found] == [trail.first]
    trail.rows.close()
