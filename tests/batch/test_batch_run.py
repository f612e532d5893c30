"""A batch in one process: outputs, failures, going on, refusals, shards."""

import csv
import errno
import json
import re
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest

from helpers.batch_fakes import FAULT, NO_FACE, contents, fake_job, greys, no_weights, paint
from lifemask.assets import AssetError, UserError
from lifemask.batch import layouts
from lifemask.batch.estimate import estimate
from lifemask.batch.journal import Outcome, read_journal
from lifemask.batch.run import run_batch
from lifemask.pipeline_config import PipelineConfig


class Stop(BaseException):
    """An end that no handler catches."""


def begun(folder: Path) -> list[str]:
    """Keys of the photos a run worked on, from its journal."""
    entries = read_journal(folder / "journal.jsonl")
    return [entry.key for entry in entries if isinstance(entry, Outcome)]


def stop_after(count: int):
    """A progress call that ends the run after so many photos."""

    def progress(status):
        if status.done + status.failed == count:
            raise Stop

    return progress


@pytest.fixture
def photos(tmp_path) -> Path:
    folder = greys(tmp_path / "photos", 5)
    paint(folder / "deep" / "p00.png", 200)
    paint(folder / "deep" / "none.png", NO_FACE)
    paint(folder / "fault.png", FAULT)
    (folder / "zero.jpg").touch()
    (folder / "text.jpg").write_text("no picture")
    (folder / "notes.txt").write_text("not for us")
    return folder


def test_every_photo_has_heads_or_a_failure(photos, tmp_path):
    job = fake_job(tmp_path / "out")
    status = run_batch(job, [photos], workers=0)
    assert (status.photos, status.done, status.failed, status.left) == (10, 6, 4, 0)
    names = {str(p.parent.relative_to(job.folder)) for p in job.folder.rglob("params.json")}
    plain = {f"heads/p{i:02d}" for i in range(5)}
    assert names == plain | {"heads/deep/p00"}
    record = json.loads((job.folder / "heads/deep/p00/params.json").read_text())
    assert record["photo"] == "p00.png" and record["faces"][0]["pose_deg"]["yaw"] == 50.0
    with (job.folder / "failures.csv").open() as file:
        rows = {row["key"]: row for row in csv.DictReader(file)}
    kinds = {key: row["kind"] for key, row in rows.items()}
    assert kinds == {
        "deep/none": "no face", "fault": "error", "text": "unreadable", "zero": "unreadable",
    }  # fmt: skip
    assert rows["fault"]["message"] == "ZeroDivisionError: a bug"
    assert rows["zero"]["source"] == str(photos / "zero.jpg") and "empty" in rows["zero"]["message"]
    summary = json.loads((job.folder / "summary.json").read_text())
    assert summary["complete"] and summary["photos_with_heads"] == 6
    assert summary["failures"] == {"no face": 1, "error": 1, "unreadable": 2}
    assert summary["passed_over"] == {".txt": 1} and summary["heads"] == 6
    assert summary["bytes"] == sum(p.stat().st_size for p in job.folder.rglob("params.json"))
    assert not (job.folder / "staging").exists()
    (trace,) = [e.trace for e in read_journal(job.folder / "journal.jsonl") if e.key == "fault"]
    assert "in trouble" in trace, "the journal tells where a fault of ours came from"


@pytest.mark.parametrize("layout", ["folders", "shards"])
def test_a_second_run_does_nothing(photos, tmp_path, layout):
    job = fake_job(tmp_path / "out", layout=layout, shard_size=4)
    run_batch(job, [photos], workers=0)
    before = contents(job.folder, everything=True)
    status = run_batch(replace(job, create=no_weights), [photos], workers=0)
    assert (status.found_done, status.found_failed, status.done, status.left) == (6, 4, 0, 0)
    assert contents(job.folder, everything=True) == before


@pytest.mark.parametrize("layout", ["folders", "shards"])
def test_two_interrupted_runs_equal_one(photos, tmp_path, layout):
    job = fake_job(tmp_path / "out", layout=layout, shard_size=3)
    for count in (2, 5):
        with pytest.raises(Stop):
            run_batch(job, [photos], workers=0, progress=stop_after(count))
        assert not json.loads((job.folder / "summary.json").read_text())["complete"]
    run_batch(job, [photos], workers=0)
    assert sorted(begun(job.folder)) == sorted(set(begun(job.folder))), "no photo twice"
    clean = replace(job, folder=tmp_path / "clean")
    run_batch(clean, [photos], workers=0)
    assert contents(job.folder) == contents(clean.folder)


def test_what_is_gone_is_made_again_and_only_that(photos, tmp_path):
    job = fake_job(tmp_path / "out")
    run_batch(job, [photos], workers=0)
    before = contents(job.folder)
    (job.folder / "heads/p01/params.json").unlink()
    (job.folder / "heads/p01").rmdir()
    status = run_batch(job, [photos], workers=0)
    assert status.done == 1 and begun(job.folder)[-1] == "p01"
    assert contents(job.folder) == before
    summary = json.loads((job.folder / "summary.json").read_text())
    assert summary["heads"] == 6, "not counted twice"


def test_failures_are_tried_again_when_asked(photos, tmp_path):
    job = fake_job(tmp_path / "out")
    run_batch(job, [photos], workers=0)
    paint(photos / "zero.png", 77).replace(photos / "zero.jpg")
    assert run_batch(job, [photos], workers=0).done == 0
    status = run_batch(job, [photos], workers=0, retry_failed=True)
    assert (status.done, status.failed, status.all_failed) == (1, 3, 3)
    assert "zero" not in (job.folder / "failures.csv").read_text()
    assert (job.folder / "heads/zero/params.json").exists()


def test_photos_that_come_later_keep_the_keys_of_the_others(photos, tmp_path):
    job = fake_job(tmp_path / "out")
    run_batch(job, [photos], workers=0, limit=2)
    assert begun(job.folder) == ["fault", "p00"]
    paint(photos / "p00.bmp", 111)  # comes before p00.png, whose key it would have had
    run_batch(job, [photos], workers=0)
    keys = begun(job.folder)
    assert len(keys) == 11 and [k for k in keys if re.fullmatch(r"p00-[0-9a-f]{8}", k)]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"config": PipelineConfig(texture="none")}, "texture 'auto', now 'none'"),
        ({"formats": ("json", "ply")}, r"formats \['json'\], now \['json', 'ply'\]"),
        ({"layout": "shards"}, "layout 'folders', now 'shards'"),
        ({"maps": False}, "maps True, now False"),
    ],
)
def test_other_settings_are_refused(photos, tmp_path, change, words):
    job = fake_job(tmp_path / "out")
    run_batch(job, [photos], workers=0, limit=1)
    before = contents(tmp_path / "out", everything=True)
    with pytest.raises(UserError, match=f"a run of other settings.*{words}.*use a new folder"):
        run_batch(replace(job, **change), [photos], workers=0)
    assert contents(tmp_path / "out", everything=True) == before


def test_threads_and_limits_are_no_other_settings(photos, tmp_path):
    job = fake_job(tmp_path / "out")
    run_batch(job, [photos], workers=0, limit=1)
    other = replace(job, config=PipelineConfig(threads=3), timeout_s=1, recycle=3)
    assert run_batch(other, [photos], workers=0).left == 0


def test_settings_that_came_later_have_their_default(photos, tmp_path):
    job = fake_job(tmp_path / "out")
    run_batch(job, [photos], workers=0, limit=1)
    path = job.folder / "batch.json"
    header = json.loads(path.read_text())
    del header["settings"]["max_head_px"]
    path.write_text(json.dumps(header))
    run_batch(job, [photos], workers=0, limit=2)
    with pytest.raises(UserError, match="max_head_px 1280, now 640"):
        run_batch(replace(job, config=PipelineConfig(max_head_px=640)), [photos], workers=0)


def test_folders_of_others_are_left_alone(photos, tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").touch()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "batch.json").write_text("{}")
    for name, words in (
        ("file", "is a file"),
        ("full", "holds other files"),
        ("broken", "no header of a batch"),
    ):
        with pytest.raises(UserError, match=words):
            run_batch(fake_job(tmp_path / name), [photos], workers=0)
    assert [p.name for p in (tmp_path / "full").iterdir()] == ["mine.txt"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"layout": "shards", "formats": ("obj",)}, "cannot lie in a shard"),
        ({"layout": "boxes"}, "unknown layout 'boxes'"),
        ({"formats": ("stl",)}, "unknown format 'stl'"),
        ({"formats": ()}, "no format"),
        ({"shard_size": 0}, "shard size is 0"),
        ({"timeout_s": -1.0}, "timeout is -1"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_made(photos, tmp_path, options, words):
    with pytest.raises(UserError, match=words):
        run_batch(fake_job(tmp_path / "out", **options), [photos], workers=0)
    assert not (tmp_path / "out").exists()


def test_wrong_sources_make_no_folder(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "a.txt").touch()
    with pytest.raises(UserError, match=r"no photos in .*empty \(passed over: 1 .txt\)"):
        run_batch(fake_job(tmp_path / "out"), [tmp_path / "empty"], workers=0)
    with pytest.raises(UserError, match="does not exist"):
        run_batch(fake_job(tmp_path / "out"), [tmp_path / "nowhere"], workers=0)
    assert not (tmp_path / "out").exists()


def test_missing_weights_stop_the_run_and_fail_no_photo(photos, tmp_path):
    job = fake_job(tmp_path / "out")
    with pytest.raises(AssetError, match="weight file x is missing"):
        run_batch(replace(job, create=no_weights), [photos], workers=0)
    assert not begun(job.folder)
    assert run_batch(job, [photos], workers=0).done == 6


def test_a_full_disk_stops_the_run_and_fails_no_photo(photos, tmp_path, monkeypatch):
    job = fake_job(tmp_path / "out")

    def full(*_):
        raise OSError(28, "No space left on device", "somewhere")

    with monkeypatch.context() as patch:
        patch.setattr(layouts, "_move", full)
        with pytest.raises(UserError, match=r"cannot write somewhere \(No space left on device\)"):
            run_batch(job, [photos / "p00.png"], workers=0)
    assert not begun(job.folder)
    assert run_batch(job, [photos / "p00.png"], workers=0).done == 1


def test_one_run_at_a_time(photos, tmp_path):
    job = fake_job(tmp_path / "out")

    def second(status):
        if status.done == 1:
            with pytest.raises(UserError, match="another run is at work"):
                run_batch(job, [photos], workers=0)

    assert run_batch(job, [photos], workers=0, progress=second).left == 0


def test_a_file_system_without_locks_will_do(photos, tmp_path, monkeypatch):
    fcntl = pytest.importorskip("fcntl")

    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    assert run_batch(fake_job(tmp_path / "out"), [photos], workers=0).done == 6


def test_shards_hold_the_bytes_of_the_folders(photos, tmp_path):
    options = {"formats": ("ply", "json"), "config": PipelineConfig(faces="all")}
    folders = fake_job(tmp_path / "folders", **options)
    shards = fake_job(tmp_path / "shards", layout="shards", shard_size=4, **options)
    for job in (folders, shards):
        run_batch(job, [photos], workers=0)
    tars = sorted((shards.folder / "shards").iterdir())
    assert [p.name for p in tars] == [f"heads-{i:06d}.tar" for i in range(3)]
    found, sizes = {}, []
    for path in tars:
        with tarfile.open(path) as archive:
            members = archive.getmembers()
            assert all(m.mtime == 0 and m.uid == 0 for m in members)
            found |= {m.name: archive.extractfile(m).read() for m in members}
            sizes.append(len({m.name.partition(".")[0] for m in members}))
    assert sizes == [3, 2, 1], "4 photos each, some of which failed"
    assert found["deep/p00.1.ply"].startswith(b"ply") and "deep/p00.params.json" in found
    expected = {}
    for path in (folders.folder / "heads").rglob("*.*"):
        key = str(path.parent.relative_to(folders.folder / "heads"))
        expected[layouts.member_name(key, path.name)] = path.read_bytes()
    assert found == expected
    assert not (shards.folder / "staging").exists() and not (shards.folder / "heads").exists()


@pytest.mark.filterwarnings("ignore")  # webdataset leaves files to the collector
def test_webdataset_reads_the_shards(photos, tmp_path):
    wds = pytest.importorskip("webdataset")
    job = fake_job(tmp_path / "out", layout="shards")
    run_batch(job, [photos], workers=0)
    files = [str(p) for p in (job.folder / "shards").iterdir()]
    samples = list(wds.WebDataset(files, shardshuffle=False, empty_check=False))
    assert [s["__key__"] for s in samples] == ["p00", "p01", "p02", "p03", "p04", "deep/p00"]
    assert json.loads(samples[-1]["params.json"])["photo"] == "p00.png"


def test_failures_tried_again_go_to_a_shard_of_their_own(photos, tmp_path):
    job = fake_job(tmp_path / "out", layout="shards", shard_size=5)
    run_batch(job, [photos], workers=0)
    before = contents(job.folder / "shards")
    paint(photos / "zero.png", 77).replace(photos / "zero.jpg")
    status = run_batch(job, [photos], workers=0, retry_failed=True)
    assert (status.done, status.all_failed) == (1, 3)
    after = contents(job.folder / "shards")
    assert {name: after[name] for name in before} == before
    with tarfile.open(job.folder / "shards" / "heads-000002.tar") as archive:
        assert archive.getnames() == ["zero.params.json"]


def test_a_second_try_that_was_interrupted_still_gets_its_shard(photos, tmp_path):
    job = fake_job(tmp_path / "out", layout="shards", shard_size=5)
    run_batch(job, [photos], workers=0)
    paint(photos / "zero.png", 77).replace(photos / "zero.jpg")
    paint(photos / "text.png", 78).replace(photos / "text.jpg")
    keys = [e.key for e in read_journal(job.folder / "journal.jsonl") if isinstance(e, Outcome)]
    with pytest.raises(Stop):  # between the heads of "text" and the shard that they belong in
        count = 1 + sorted({"fault", "deep/none", "text", "zero"}, key=keys.index).index("text")
        run_batch(job, [photos], workers=0, retry_failed=True, progress=stop_after(count))
    status = run_batch(job, [photos], workers=0, retry_failed=True)
    assert (status.found_done + status.done, status.all_failed) == (8, 2)
    members = []
    for path in sorted((job.folder / "shards").iterdir()):
        with tarfile.open(path) as archive:
            members += archive.getnames()
    assert members.count("text.params.json") == members.count("zero.params.json") == 1
    assert len(members) == 8
    summary = json.loads((job.folder / "summary.json").read_text())
    assert summary["complete"] and summary["shards"] == len(list((job.folder / "shards").iterdir()))
    assert run_batch(job, [photos], workers=0).found_done == 8


@pytest.mark.parametrize(
    ("name", "member"),
    [
        ("head.glb", "a/b.glb"),
        ("params.json", "a/b.params.json"),
        ("preview.png", "a/b.preview.png"),
        ("head-2.glb", "a/b.2.glb"),
        ("preview-2.png", "a/b.2.preview.png"),
        ("head_displacement.png", "a/b.displacement.png"),
        ("head-2_displacement.png", "a/b.2.displacement.png"),
        ("surface.ply", "a/b.surface.ply"),
    ],
)
def test_names_in_shards(name, member):
    assert layouts.member_name("a/b", name) == member


def test_an_estimate_counts_tries_and_writes_nothing(photos, tmp_path):
    job = fake_job(tmp_path / "out")
    found = estimate(job, [photos])
    assert (found.todo, found.found_done, len(found.tried)) == (10, 0, 3)
    assert found.photo_s > 0 and found.memory_bytes > 1e6
    assert not (tmp_path / "out").exists()
    run_batch(job, [photos], workers=0)
    before = contents(job.folder, everything=True)
    found = estimate(replace(job, create=no_weights), [photos])
    assert (found.todo, found.found_done, found.found_failed) == (0, 6, 4)
    assert found.tried == () and found.photo_s is None
    assert contents(job.folder, everything=True) == before
