"""Runs of pairs into a folder: any crew gives the same bytes, and an interruption costs little.

What makes pairs is replaced by noise; `test_pairs.py` makes real ones.
"""

import json
import os
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fake_pairs import create_noise, noise_pair
from fake_renders import make_data
from helpers.ray_cluster import two_cpus
from lifemask.assets import UserError
from lifemask.data import _pairs_run
from lifemask.data._pairs_run import run_pairs
from lifemask.data.pairs import PairsConfig, load_pairs

CONFIG = PairsConfig(seed=1, shard_size=4)
TESTS = Path(__file__).resolve().parents[1]


@pytest.fixture
def go(tmp_path):
    """Runs ten pairs of noise into a folder, unless told otherwise."""
    data = make_data(tmp_path / "data")

    def run(folder="out", count=10, config=CONFIG, engine="local", workers=0, **given):
        place = tmp_path / folder
        return run_pairs(config, place, count, data, engine, workers, create=create_noise, **given)

    return run


def files(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir())}


def test_any_number_of_workers_gives_the_same_bytes(go, tmp_path):
    manifest = go()
    calls = []
    go("two", workers=2, progress=lambda *done: calls.append(done))
    assert files(tmp_path / "out") == files(tmp_path / "two")
    assert calls[0] == (0, 0) and calls[-1] == (0, 10)
    assert [e["count"] for e in manifest["shards"]] == [4, 4, 2] and manifest["count"] == 10


def test_pairs_are_read_by_number(go, tmp_path):
    manifest = go()
    pairs = load_pairs(tmp_path / "out")
    assert len(pairs) == 10 and pairs.header == manifest
    assert [p.person for p in pairs] == list(range(10)) and pairs[-1].person == 9
    assert np.array_equal(pairs[7].points, noise_pair(1, 7).points)
    with pytest.raises(IndexError):
        pairs[10]


def test_the_manifest_tells_all(go, tmp_path):
    manifest = go()
    assert manifest == json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["licence"] == "open" and manifest["held_out"] is False
    settings = manifest["settings"]
    assert settings["seed"] == 1 and settings["grid"] == 96 and settings["blend"] == "poisson"
    assert len(settings["data_sha1"]) == len(settings["face_model_sha1"]) == 12
    assert manifest["rejected"] == {"yaw": sum(i % 3 for i in range(10)), "residual": 10}
    assert sum(e["rejected"]["residual"] for e in manifest["shards"]) == 10


def test_a_run_goes_on_where_it_stopped(go, tmp_path):
    folder = tmp_path / "out"
    whole = go()
    before = files(folder)
    calls = []
    assert go(progress=lambda *done: calls.append(done)) == whole and calls == [(10, 0)]
    (folder / "shard-000001.tar").unlink()  # lost
    damaged = folder / "shard-000002.tar"
    damaged.write_bytes(damaged.read_bytes()[:-9000])  # cut
    (folder / f".shard-000001.tar.{os.uname().nodename}.999999999.part").write_bytes(b"half")
    assert go() == whole and files(folder) == before


def test_the_count_may_grow_and_not_shrink(go, tmp_path):
    go("grown", count=5)
    go("grown")
    go()
    assert files(tmp_path / "grown") == files(tmp_path / "out")
    with pytest.raises(UserError, match="may only grow"):
        go("grown", count=5)


def test_a_folder_keeps_to_one_run(go, tmp_path, monkeypatch):
    go()
    with pytest.raises(UserError, match="blend 'poisson', now 'paste'.*new folder"):
        go(config=replace(CONFIG, blend="paste"))
    monkeypatch.setattr(_pairs_run, "GENERATOR_VERSION", 99)
    with pytest.raises(UserError, match="generator_version"):
        go()
    (tmp_path / "out" / "manifest.json").unlink()
    with pytest.raises(UserError, match="without a manifest"):
        go()


def test_what_is_missing_is_named(go, tmp_path):
    with pytest.raises(UserError, match="count is 0"):
        go(count=0)
    with pytest.raises(UserError, match="unknown engine 'smoke'"):
        go(engine="smoke")
    with pytest.raises(UserError, match=r"no skins/.*--data"):
        run_pairs(CONFIG, tmp_path / "x", 4, tmp_path, create=create_noise)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="is a file"):
        go("file")


@pytest.mark.parametrize(
    "settings, licence",
    [({}, "open"), ({"photos": "aflw21"}, "research only"),
     ({"photos": "aflw21", "mode": "renders_only"}, "open"),
     ({"photos": "holiday/"}, "that of the photos")],
)  # fmt: skip
def test_pairs_inherit_the_licence_of_their_photos(settings, licence):
    assert replace(CONFIG, **settings).licence == licence


def test_without_ray_the_extra_is_named(go, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=r"pip install 'lifemask\[scale\]'"):
        go(engine="ray", workers=2)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_ray_gives_the_same_bytes(go, tmp_path):
    with two_cpus():
        go("ray", engine="ray", workers=2)
    go()
    assert files(tmp_path / "ray") == files(tmp_path / "out")
