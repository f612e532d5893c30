"""`lifemask batch`: what it tells, exit statuses, and real heads from real photos."""

import json
import os
import re
import tarfile
from pathlib import Path

import pytest
from PIL import Image

from helpers.batch_fakes import NO_FACE, FakeLoad, contents, greys, paint
from lifemask.apps.batch_report import Display, rate_text
from lifemask.apps.cli import main
from lifemask.batch import run as batch_run
from lifemask.batch.job import BatchJob
from lifemask.batch.journal import Outcome
from lifemask.batch.run import Status


def run(*arguments) -> int:
    """Exit status of a command."""
    try:
        main(["batch", *map(str, arguments)])
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


@pytest.fixture
def quick(monkeypatch):
    """Eggs instead of the networks, in this process."""
    made = BatchJob.__init__

    def with_eggs(self, *arguments, **options):
        made(self, *arguments, **{"create": FakeLoad()} | options)

    monkeypatch.setattr(BatchJob, "__init__", with_eggs)
    monkeypatch.setattr(batch_run, "LocalRunner", InThisProcess)


class InThisProcess(batch_run.InlineRunner):
    def __init__(self, job, workers):
        assert workers >= 1
        super().__init__(job)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass


def test_a_run_its_rerun_and_its_failures(quick, tmp_path, capsys):
    photos = greys(tmp_path / "photos", 3)
    paint(photos / "none.png", NO_FACE)
    out = tmp_path / "out"
    options = ("-o", out, "--formats", "json", "--workers", 1)
    assert run(photos, *options) == 3
    told = capsys.readouterr()
    assert f"{out}: 3 of 4 photos have heads" in told.out and "this run: 3 heads" in told.out
    assert "1 failed:" in told.out
    assert re.search(r"^ +1  no face +e\.g\. none: no face found", told.out, re.MULTILINE)
    assert "open (usable for anything)" in told.out and "1 of 4 photos have no head" in told.err
    before = contents(out, everything=True)
    assert run(photos, *options) == 3
    assert "nothing was left to do" in capsys.readouterr().out
    assert contents(out, everything=True) == before
    (photos / "none.png").unlink()
    assert run(photos, *options) == 0


def test_an_estimate(quick, tmp_path, capsys):
    photos = greys(tmp_path / "photos", 30)
    (photos / "x.txt").touch()
    assert run(photos, "-o", tmp_path / "out", "--formats", "json", "--dry-run") == 0
    told = capsys.readouterr().out
    assert "photos: 30 (passed over: 1 .txt)" in told and "to do: 30" in told
    assert "tried 3:" in told and "core hours" in told and "nothing was written" in told
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--engine", "moon"), "unknown engine 'moon'; valid: local, ray"),
        (("--layout", "boxes"), "unknown layout"),
        (("--formats", "stl"), "unknown format 'stl'"),
        (("--layout", "shards", "--formats", "obj"), "cannot lie in a shard"),
        (("--weights", "best"), "unknown weights"),
        (("--runtime", "abacus"), "unknown runtime"),
        (("--camera", "fisheye"), "unknown camera"),
    ],
)
def test_wrong_options_are_one_line_and_status_2(quick, tmp_path, capsys, options, message):
    photos = greys(tmp_path / "photos", 1)
    assert run(photos, *options, "-o", tmp_path / "out") == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and message in error and error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_other_settings_have_status_2(quick, tmp_path, capsys):
    photos = greys(tmp_path / "photos", 1)
    options = ("-o", tmp_path / "out", "--formats", "json", "--workers", 1)
    assert run(photos, *options) == 0
    assert run(photos, *options, "--no-refine") == 2
    assert "refine True, now False" in capsys.readouterr().err


def test_an_interrupt_ends_in_order_and_tells_how_to_go_on(quick, tmp_path, capsys, monkeypatch):
    photos = greys(tmp_path / "photos", 4)
    options = ("-o", tmp_path / "out", "--formats", "json", "--workers", 1)
    count = []

    def stop(self, status):
        count.append(status.done)
        self._status = status
        if status.done == 2:
            os.kill(os.getpid(), 15)

    with monkeypatch.context() as patch:
        patch.setattr(Display, "show", stop)
        assert run(photos, *options) == 130
    assert "2 of 4 photos" in capsys.readouterr().err
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["photos_with_heads"] == 2 and not summary["complete"]
    assert run(photos, *options) == 0


def test_the_display_tells_lines_where_there_is_no_terminal(capsys, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    display = Display()
    display._pace._clock = lambda: clock[0]
    status = Status(100, found_done=10)
    with display:
        display.show(status)
        for _ in range(20):
            clock[0] += 10
            status.add(Outcome("k", "/k"))
            display.show(status)
    lines = capsys.readouterr().err.splitlines()
    assert 2 <= len(lines) <= 4 and "of 100 photos, 6.0 photos/min, about 1" in lines[0]
    assert display.words().startswith("30 of 100 photos") and "12 min left" in display.words()
    assert rate_text(2.04) == "2.0 photos/s"


@pytest.mark.slow
def test_real_heads_from_photos_and_a_shard(tmp_path, capsys):
    """Networks and all: a face, its mirror image, and a picture without a face."""
    from skimage.data import astronaut

    photos = tmp_path / "photos"
    photos.mkdir()
    portrait = Image.fromarray(astronaut())
    portrait.save(photos / "a.png")
    portrait.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(photos / "b.png")
    paint(photos / "grey.png", 120)
    out = tmp_path / "out"
    options = ("-o", out, "--workers", 1, "--layout", "shards", "--texture", "none")
    assert run(photos, *options, "--no-refine", "--formats", "glb,json") == 3
    assert "1 failed" in capsys.readouterr().out
    names, records = members(out / "shards" / "heads-000000.tar")
    assert names == ["a.glb", "a.params.json", "b.glb", "b.params.json"]
    yaws = [json.loads(r)["faces"][0]["pose_deg"]["yaw"] for r in records]
    assert yaws[0] * yaws[1] < 0 and abs(yaws[0] + yaws[1]) < 10, "mirror images look apart"


def members(path: Path) -> tuple[list[str], list[bytes]]:
    with tarfile.open(path) as archive:
        names = archive.getnames()
        records = [archive.extractfile(n).read() for n in names if n.endswith(".json")]
    return names, records
