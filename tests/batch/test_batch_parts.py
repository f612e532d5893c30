"""The journal, and the pace that tells how long a run will take."""

import pytest

from lifemask.batch.journal import Journal, Outcome, Sealed, failure, read_journal, read_ledger
from lifemask.batch.pace import Pace, duration_text, size_text


def test_a_journal_gives_back_what_went_in(tmp_path):
    path = tmp_path / "journal.jsonl"
    entries = [
        Outcome("a/1", "/x/ä\udcff.jpg", heads=2, seconds=1.5, cpu_s=1.25, bytes=7),
        failure("b", "/x/b.jpg", "no face", "no face\nfound", 0.5, "trace"),
        Sealed(0, "heads-000000.tar", 99, ["a/1", "b"]),
        Sealed(1, "", 0, []),
    ]
    with Journal(path) as journal:
        journal.add(*entries[:2])
        journal.add(*entries[2:], sync=True)
    assert list(read_journal(path)) == entries
    assert list(read_journal(tmp_path / "none")) == []


def test_half_a_line_is_cut_off_and_damage_left_out(tmp_path):
    path = tmp_path / "journal.jsonl"
    with Journal(path) as journal:
        journal.add(Outcome("a", "/a"), Outcome("b", "/b"))
    whole = path.read_bytes()
    for end in range(len(whole)):
        path.write_bytes(whole[:end])
        with Journal(path) as journal:
            journal.add(Outcome("c", "/c"))
        keys = [entry.key for entry in read_journal(path)]
        assert keys == ["a", "b"][: whole[:end].count(b"\n")] + ["c"]
    path.write_bytes(b"garbage\n[]\n{}\n" + whole + b'{"odd": 1}\n')
    assert [entry.key for entry in read_journal(path)] == ["a", "b"]


def test_the_last_word_about_a_photo_holds(tmp_path):
    path = tmp_path / "journal.jsonl"
    with Journal(path) as journal:
        journal.add(failure("a", "/a", "crashed", "x"), Outcome("a", "/a", heads=1, bytes=5))
        journal.add(Outcome("b", "/b", heads=1, bytes=5), Outcome("b", "/b", heads=1, bytes=5))
        journal.add(Outcome("c", "/c", heads=1), failure("c", "/c", "missing", "y"))
    ledger = read_ledger(path)
    assert ledger.done == {"a", "b"} and set(ledger.failed) == {"c"}
    assert ledger.heads == 3 and ledger.bytes == 10
    assert ledger.keys == {"/a": "a", "/b": "b", "/c": "c"}


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_the_pace_is_that_of_lately():
    clock = Clock()
    pace = Pace(clock)
    assert pace.per_second() is None and pace.left_s(10) is None
    pace.add()
    assert pace.per_second() is None, "the first photo has loaded the networks too"
    for _ in range(100):
        clock.now += 2
        pace.add()
    assert pace.per_second() == pytest.approx(0.5) and pace.left_s(30) == pytest.approx(60)
    for _ in range(1000):
        clock.now += 8
        pace.add()
    assert pace.per_second() == pytest.approx(0.125, rel=0.01), "the fast start is forgotten"
    clock.now += 10_000
    assert pace.per_second() < 0.02, "a run that stalls shows it"


def test_the_pace_keeps_little():
    clock = Clock()
    pace = Pace(clock)
    for _ in range(20_000):
        clock.now += 0.01
        pace.add()
    assert pace.per_second() == pytest.approx(100, rel=0.01)
    assert len(pace._marks) <= 600


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "unknown"), (0, "0 s"), (59.4, "59 s"), (60, "1 min"), (3599, "1 h 0 min"),
        (4830, "1 h 20 min"), (86400 * 3 + 4 * 3600, "3 d 4 h"),
    ],
)  # fmt: skip
def test_durations(seconds, text):
    assert duration_text(seconds) == text


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 B"), (999, "999 B"), (5_245_000, "5.25 MB"), (5.2e12, "5.2 TB"), (999_600, "1 MB")],
)
def test_sizes(size, text):
    assert size_text(size) == text
