"""Runs into a folder: any crew gives the same bytes, and an interruption costs little.

The generator is replaced by one of noise; `tests/apps/test_synth_cli.py` renders real faces.
"""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from fake_renders import create_fake, gone, make_data, render_broken, render_fake
from lifemask.assets import UserError
from lifemask.data import shards
from lifemask.data._synthetic_run import RenderJob, run
from lifemask.data._workers import WorkerError
from lifemask.data.synthetic import SyntheticConfig

TESTS = Path(__file__).resolve().parents[1]
RUN = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from fake_renders import create_fake, render_fake
from lifemask.data._synthetic_run import RenderJob, run
from lifemask.data.synthetic import SyntheticConfig
if __name__ == "__main__":
    config = SyntheticConfig(shard_size=4, bank_size=1)
    job = RenderJob(config, Path({folder!r}), 10, Path({data!r}), create=create_fake,
                    render=render_fake)
    run(job, "local", 1, lambda found, made: print(found, made, flush=True))
"""


@pytest.fixture
def job(tmp_path) -> RenderJob:
    config = SyntheticConfig(shard_size=4, bank_size=1)
    data = make_data(tmp_path / "data")
    return RenderJob(config, tmp_path / "out", 10, data, create=create_fake, render=render_fake)


def files(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir())}


def test_any_number_of_workers_gives_the_same_bytes(job, tmp_path):
    manifest = run(job, "local", 0)
    calls = []
    run(replace(job, folder=tmp_path / "two"), "local", 2, lambda *done: calls.append(done))
    assert files(job.folder) == files(tmp_path / "two")
    assert calls[0] == (0, 0) and calls[-1] == (0, 10)
    assert sorted(m for _, m in calls) == [m for _, m in calls], "progress only rises"
    assert [e["count"] for e in manifest["shards"]] == [4, 4, 2] and manifest["count"] == 10
    assert [e["first"] for e in manifest["shards"]] == [0, 4, 8]
    records = list(shards.read_shards(shards.shard_paths(job.folder)))
    assert [r.labels["label"] for r in records] == [f"face {i}" for i in range(10)]


def test_the_manifest_tells_all(job):
    manifest = run(job, "local", 0)
    assert manifest == json.loads((job.folder / "manifest.json").read_text())
    assert manifest["licence"] == "open" and manifest["package"]["version"]
    settings = manifest["settings"]
    assert settings["seed"] == 0 and settings["size"] == 128 and settings["truth"] == "none"
    assert len(settings["face_model_sha1"]) == 12 and len(settings["data_sha1"]) == 12
    for entry in manifest["shards"]:
        for name, stored in entry["files"].items():
            assert stored == shards.file_entry(job.folder / name)


def test_a_run_goes_on_where_it_stopped(job):
    whole = run(job, "local", 0)
    before = files(job.folder)
    log = job.folder.parent / "log"
    log.unlink()
    calls = []
    assert run(job, "local", 0, lambda *done: calls.append(done)) == whole
    assert calls == [(10, 0)] and not log.exists(), "nothing is rendered again"

    (job.folder / "shard-000001.tar").unlink()  # lost
    damaged = job.folder / "shard-000002.tar"
    damaged.write_bytes(damaged.read_bytes()[:-9000])  # cut
    (job.folder / f".shard-000001.tar.{os.uname().nodename}.999999999.part").write_bytes(b"half")
    run(job, "local", 0)
    assert files(job.folder) == before
    assert [row.split()[0] for row in log.read_text().splitlines()] == ["1", "2"]


def test_complete_shards_that_the_manifest_does_not_know_are_kept(job):
    """The run was killed after the renaming of a shard and before the manifest was written."""
    manifest = run(job, "local", 0)
    path = job.folder / "manifest.json"
    path.write_text(json.dumps(manifest | {"shards": manifest["shards"][:1], "count": 4}))
    (job.folder.parent / "log").unlink()
    assert run(job, "local", 0) == manifest
    assert not (job.folder.parent / "log").exists()


def test_a_run_may_grow_but_not_shrink(job, tmp_path):
    run(job, "local", 0)
    grown = run(replace(job, count=14), "local", 0)
    assert [e["count"] for e in grown["shards"]] == [4, 4, 4, 2]
    run(replace(job, count=14, folder=tmp_path / "fresh"), "local", 0)
    assert files(job.folder) == files(tmp_path / "fresh")
    with pytest.raises(UserError, match="14 images; --count may only grow"):
        run(job, "local", 0)


@pytest.mark.parametrize(
    "change",
    [{"config": SyntheticConfig(shard_size=4, bank_size=1, seed=5)}, {"truth": "maps"},
     {"image_format": "png"}],
)  # fmt: skip
def test_another_run_in_the_folder_is_refused(job, change):
    run(job, "local", 0)
    before = files(job.folder)
    with pytest.raises(UserError, match="another run .*(seed 0, now 5|truth|image_format)"):
        run(replace(job, **change), "local", 0)
    assert files(job.folder) == before


def test_other_frames_are_another_run_and_old_manifests_have_one(job):
    manifest = run(job, "local", 0)
    assert manifest["settings"].pop("frames") == 1
    (job.folder / "manifest.json").write_text(json.dumps(manifest))
    assert run(job, "local", 0)["settings"]["frames"] == 1
    config = replace(job.config, frames=2)
    with pytest.raises(UserError, match="another run .*frames 1, now 2"):
        run(replace(job, config=config), "local", 0)


def test_other_data_is_another_run(job):
    run(job, "local", 0)
    (job.data / "skins" / "new_diffuse.jpg").write_bytes(b"more")
    with pytest.raises(UserError, match="data_sha1"):
        run(job, "local", 0)


@pytest.mark.slow
def test_a_killed_run_leaves_whole_shards_and_no_process(job, tmp_path, monkeypatch):
    monkeypatch.setenv("FAKE_SECONDS", "0.4")
    script = tmp_path / "run.py"
    text = RUN.format(tests=str(TESTS), folder=str(job.folder), data=str(job.data))
    script.write_text(text)
    process = subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    while process.stdout.readline().split() != ["0", "4"]:
        assert process.poll() is None
    while not (tmp_path / "log").read_text().startswith("0") or not any(
        row.startswith("1 ") for row in (tmp_path / "log").read_text().splitlines()
    ):
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait(60)
    process.stdout.close()
    pids = {int(row.split()[1]) for row in (tmp_path / "log").read_text().splitlines()}
    assert gone(pids)
    assert "shard-000000.tar" in files(job.folder)
    for path in job.folder.glob("*.tar"):
        assert len(shards.index_tar(path)) == 4, "a shard that is seen is whole"
    monkeypatch.setenv("FAKE_SECONDS", "0")
    run(job, "local", 0)
    run(replace(job, folder=tmp_path / "fresh"), "local", 0)
    assert files(job.folder) == files(tmp_path / "fresh")


@pytest.mark.slow
def test_an_error_in_a_worker_arrives_and_leaves_nothing_half(job):
    with pytest.raises(WorkerError, match="no_such_function"):
        run(replace(job, render=render_broken), "local", 1)
    assert set(files(job.folder)) == {"manifest.json"}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"count": 0}, "count is 0"),
        ({"config": SyntheticConfig(size=8)}, "size is 8"),
        ({"config": SyntheticConfig(family="research")}, "--photo-skins"),
        ({"photo_skins": Path("t.npz")}, "--family research"),
        ({"config": SyntheticConfig(family="research"), "photo_skins": Path("nowhere.npz")},
         "nowhere.npz does not exist"),
        ({"data": Path("nowhere")}, "no skins/.* in nowhere"),
    ],
)  # fmt: skip
def test_what_cannot_work_is_refused_before_anything_starts(job, change, words):
    with pytest.raises(UserError, match=words):
        run(replace(job, **change), "local", 0)
    assert not job.folder.exists()


def test_strange_folders_are_refused(job, tmp_path):
    job.folder.write_text("a file")
    with pytest.raises(UserError, match="is a file"):
        run(job, "local", 0)
    other = tmp_path / "other"
    other.mkdir()
    (other / "shard-000000.tar").write_bytes(b"")
    with pytest.raises(UserError, match="without a manifest"):
        run(replace(job, folder=other), "local", 0)
    (other / "manifest.json").write_text("{}")
    with pytest.raises(UserError, match="no manifest"):
        run(replace(job, folder=other), "local", 0)
    with pytest.raises(UserError, match="unknown engine"):
        run(replace(job, folder=tmp_path / "new"), "cloud", 0)
