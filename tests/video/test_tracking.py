"""Tracks of boxes: crossing people, gaps, cuts, false alarms."""

from collections.abc import Mapping

import pytest

from lifemask.video.tracking import BoxTracker, TrackerConfig

Box = tuple[float, float, float, float]
SIDE = 60.0


def box(u: float, v: float = 100.0, side: float = SIDE) -> Box:
    return (u - side / 2, v - side / 2, u + side / 2, v + side / 2)


class World:
    """People on straight paths; following and the detector see those who are not hidden."""

    def __init__(self, tracker: BoxTracker, paths) -> None:
        self.tracker, self.paths = tracker, paths
        self.owner: dict[int, str] = {}
        self.looks = 0
        self.history: list[dict[int, str]] = []

    def run(self, frames) -> None:
        for frame in frames:
            there = {name: path(frame) for name, path in self.paths.items()}
            there = {name: b for name, b in there.items() if b is not None}
            seen: Mapping[int, Box | None] = {
                n: there.get(self.owner[n]) for n in self.tracker.active
            }
            names = list(there)
            found = None
            if self.tracker.wants_look(frame, seen):
                self.looks += 1
                found = [there[n] for n in names]
            step = self.tracker.update(frame, seen, found)
            for number, index in step.placed.items():
                self.owner[number] = names[index]
            self.history.append({n: self.owner[n] for n in self.tracker.active})


def test_two_people_who_cross_keep_their_numbers() -> None:
    def hidden_behind(frame: int):
        return None if 28 <= frame <= 36 else box(500 - 6 * frame, 100, 52)

    world = World(BoxTracker(), {"near": lambda k: box(100 + 6 * k), "far": hidden_behind})
    world.run(range(70))
    owners = {number: {h[number] for h in world.history if number in h} for number in world.owner}
    assert len(world.owner) == 2
    assert sorted(owners.values(), key=sorted) == [{"far"}, {"near"}]
    assert set(world.history[-1].values()) == {"near", "far"}


def test_the_detector_rests_while_all_goes_well() -> None:
    world = World(BoxTracker(TrackerConfig(detect_every=10)), {"a": lambda k: box(200 + k)})
    world.run(range(100))
    assert world.looks == 10
    assert list(world.owner) == [1]


def test_a_short_gap_keeps_the_number_and_a_long_one_does_not() -> None:
    for gap, people in ((10, 1), (40, 2)):
        path = lambda k, gap=gap: None if 20 <= k < 20 + gap else box(200 + 2 * k)  # noqa: E731
        world = World(BoxTracker(TrackerConfig(max_gap=25)), {"a": path})
        world.run(range(100))
        assert len(world.owner) == people, gap
        assert world.history[-1] == {people: "a"}


def test_who_comes_back_elsewhere_is_somebody_else() -> None:
    paths = {"a": lambda k: None if 20 <= k < 30 else box(200 if k < 20 else 600)}
    world = World(BoxTracker(), paths)
    world.run(range(50))
    assert len(world.owner) == 2


def test_a_cut_begins_new_tracks() -> None:
    tracker = BoxTracker()
    tracker.update(0, {}, [box(100), box(300)])
    assert tracker.active == [1, 2]
    step = tracker.update(1, {}, [box(100)], cut=True)
    assert step.lost == (1, 2) and dict(step.placed) == {3: 0} and tracker.active == [3]
    step = tracker.update(2, {3: box(100)}, None, cut=True)
    assert step.lost == (3,) and tracker.active == []


def test_of_two_tracks_on_one_face_the_one_that_jumped_goes() -> None:
    tracker = BoxTracker()
    tracker.update(0, {}, [box(100), box(300)])
    tracker.update(1, {1: box(101), 2: box(300)})
    step = tracker.update(2, {1: box(102), 2: box(105)})
    assert step.lost == (2,) and tracker.active == [1]


def test_what_the_detector_denies_twice_was_no_face() -> None:
    tracker = BoxTracker(TrackerConfig(misses=2))
    tracker.update(0, {}, [box(100)])
    assert tracker.update(10, {1: box(100)}, []).lost == ()
    step = tracker.update(20, {1: box(100)}, [])
    assert step.lost == (1,) and dict(step.doubtful) == {1: 0}


def test_at_most_so_many_people_the_largest_first() -> None:
    tracker = BoxTracker(TrackerConfig(people=2))
    step = tracker.update(0, {}, [box(100, side=40), box(300, side=80), box(500, side=60)])
    assert set(step.placed.values()) == {1, 2}


@pytest.mark.parametrize("people", [0, 1])
def test_an_empty_frame_changes_nothing(people) -> None:
    tracker = BoxTracker()
    tracker.update(0, {}, [box(100)] * people)
    boxes = {n: box(100) for n in tracker.active}
    step = tracker.update(1, boxes, None)
    assert not step.placed and not step.lost and len(tracker.active) == people
