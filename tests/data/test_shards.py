"""Shards: what is read is what was rendered, bytes repeat, unfinished files are never seen."""

import hashlib
import io
import json
import os
import pickle
import subprocess
import sys
import zipfile
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lifemask.assets import UserError
from lifemask.data import shards
from lifemask.data._sample_codec import _decode_map, _encode_map, decode, encode, leaves
from lifemask.types import REGION_NAMES

SIZE = 24


@dataclass(frozen=True)
class FakeView:
    orthographic: bool
    rotation: np.ndarray
    scale: float


@dataclass(frozen=True)
class FakeMaps:
    depth_mm: np.ndarray
    normals: np.ndarray
    uv: np.ndarray
    albedo: np.ndarray
    key: np.ndarray
    model: np.ndarray
    linear: np.ndarray
    novelty: np.ndarray


@dataclass(frozen=True)
class FakeSample:
    image: np.ndarray
    points: np.ndarray
    visible: np.ndarray
    view: FakeView
    region: np.ndarray
    label: str
    dense: np.ndarray
    landmarks: dict = field(default_factory=dict)
    maps: FakeMaps | None = None


def fake_sample(seed: int, maps: bool = True) -> FakeSample:
    rng = np.random.default_rng(seed)
    shape = (SIZE, SIZE)
    empty = rng.random(shape) < 0.3
    normals = rng.normal(size=(*shape, 3))
    normals /= np.linalg.norm(normals, axis=-1, keepdims=True)
    truth = FakeMaps(
        depth_mm=np.where(empty, np.nan, rng.uniform(-400, 400, shape)).astype(np.float32),
        normals=np.where(empty[..., None], 0, normals).astype(np.float32),
        uv=np.where(empty[..., None], np.nan, rng.random((*shape, 2))).astype(np.float32),
        albedo=np.where(empty[..., None], 0, rng.random((*shape, 3))).astype(np.float32),
        key=rng.random(shape).astype(np.float32),
        model=~empty,
        linear=rng.lognormal(size=(*shape, 3)).astype(np.float32),
        novelty=rng.normal(size=shape).astype(np.float32),
    )
    smooth = np.linspace(0, 200, SIZE * SIZE * 3).reshape(*shape, 3) + rng.uniform(0, 20)
    return FakeSample(
        image=smooth.astype(np.uint8),
        points=rng.normal(60, 40, (392, 3)).astype(np.float32),
        visible=rng.random(392) < 0.8,
        view=FakeView(bool(seed % 2), np.linalg.qr(rng.normal(size=(3, 3)))[0], 812.25),
        region=rng.integers(0, len(REGION_NAMES), shape).astype(np.uint8),
        label=f"number {seed}",
        dense=rng.normal(0, 90, (500, 3)).astype(np.float32),
        landmarks={"a": FakeView(False, np.full((5, 3), np.nan, np.float32), 1.0)},
        maps=truth if maps else None,
    )


@pytest.fixture(scope="module")
def samples():
    return [fake_sample(i) for i in range(5)]


@pytest.fixture(scope="module")
def shard(samples, tmp_path_factory):
    path = tmp_path_factory.mktemp("shards") / "shard-000002.tar"
    assert shards.write_shard(samples, path, first=200, image_format="png") == 5
    return path


def test_labels_come_back(samples, shard):
    records = list(shards.read_shards([shard]))
    assert [r.key for r in records] == [f"{i:09d}" for i in range(200, 205)]
    for record, sample in zip(records, samples, strict=True):
        assert record.labels["index"] == int(record.key)
        assert np.array_equal(record.image, sample.image)
        assert np.abs(record.labels["points"] - sample.points).max() < 4e-6
        assert record.labels["points"].dtype == np.float32
        assert np.array_equal(record.labels["visible"], sample.visible)
        assert record.labels["visible"].dtype == np.bool_
        assert record.labels["view/orthographic"] is sample.view.orthographic
        assert np.abs(record.labels["view/rotation"] - sample.view.rotation).max() < 1e-6
        assert record.labels["view/scale"] == 812.25
        assert record.labels["label"] == sample.label
        assert np.array_equal(record.labels["dense"], sample.dense)
        assert np.isnan(record.labels["landmarks/a/rotation"]).all()
        assert record.labels["landmarks/a/rotation"].shape == (5, 3)


def test_maps_come_back_within_their_tolerances(samples, shard):
    for record, sample in zip(shards.read_shards([shard]), samples, strict=True):
        true, maps = sample.maps, record.maps
        assert maps.keys() == {"region", *FakeMaps.__dataclass_fields__}
        seen = np.isfinite(true.depth_mm)
        assert np.array_equal(np.isfinite(maps["depth_mm"]), seen)
        assert np.abs(maps["depth_mm"] - true.depth_mm)[seen].max() <= 1 / 128 + 1e-4
        cosine = (maps["normals"] * true.normals).sum(-1)[seen]
        assert np.degrees(np.arccos(cosine.clip(-1, 1))).max() < 0.45
        assert not maps["normals"][~seen].any()
        assert np.array_equal(np.isnan(maps["uv"]), np.isnan(true.uv))
        assert np.nanmax(np.abs(maps["uv"] - true.uv)) < 1e-5
        assert np.abs(maps["albedo"] - true.albedo).max() < 0.0046
        assert np.abs(maps["key"] - true.key).max() < 0.002
        assert np.array_equal(maps["model"], true.model) and maps["model"].dtype == np.bool_
        np.testing.assert_allclose(maps["linear"], true.linear, rtol=5e-4)
        assert np.array_equal(maps["novelty"], true.novelty), "unknown maps travel as they are"
        assert np.array_equal(maps["region"], sample.region) and maps["region"].dtype == np.uint8


@given(st.floats(-3e4, 3e4), st.floats(0.1, 5e4))
def test_depth_of_any_range_fits_sixteen_bits(near, span):
    depth = np.linspace(near, near + span, SIZE * SIZE).reshape(SIZE, SIZE).astype(np.float32)
    depth[0, 0] = np.nan
    read = _decode_map(*_encode_map("depth_mm", depth))
    assert np.isnan(read[0, 0]) and np.isfinite(read).sum() == SIZE * SIZE - 1
    assert np.nanmax(np.abs(read - depth)) <= max(1 / 64, span / 65533) + 0.004


def test_values_out_of_range_are_not_cut():
    albedo = np.full((SIZE, SIZE, 3), 1.5, np.float32)
    uv = np.full((SIZE, SIZE, 2), -0.25, np.float32)
    sample = FakeSample(**{**vars(fake_sample(0)), "maps": {"albedo": albedo, "uv": uv}})
    maps = decode("k", encode(sample, 0)).maps
    assert np.array_equal(maps["albedo"], albedo) and np.array_equal(maps["uv"], uv)


def test_maps_are_an_archive_as_others_write_them():
    data = encode(fake_sample(2), 0)["maps.npz"]
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert archive.testzip() is None
        assert {i.date_time[0] for i in archive.infolist()} == {1980}
        assert {i.compress_type for i in archive.infolist()} == {zipfile.ZIP_DEFLATED}
    with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
        assert np.array_equal(arrays["dense"], fake_sample(2).dense)
        assert arrays["novelty"].dtype == np.float32


def test_jpeg_is_close_and_small():
    sample = fake_sample(1, maps=False)
    files = encode(sample, 7)
    assert list(files) == ["jpg", "json", "maps.npz", "region.png"]
    difference = decode("k", files).image.astype(int) - sample.image
    assert np.abs(difference).mean() < 2


def test_bytes_repeat_and_hold_nothing_of_time_or_user(samples, shard, tmp_path, monkeypatch):
    monkeypatch.setattr("time.time", lambda: 2e9)
    shards.write_shard(iter(samples), tmp_path / "again.tar", 200, "png")
    assert (tmp_path / "again.tar").read_bytes() == shard.read_bytes()
    listing = subprocess.run(
        ["tar", "--numeric-owner", "-tvf", shard], capture_output=True, text=True, check=True
    )
    assert all(" 0/0 " in row and " 1970-01-01 " in row for row in listing.stdout.splitlines())


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_webdataset_reads_them(samples, shard):
    webdataset = pytest.importorskip("webdataset")
    data = webdataset.WebDataset(str(shard), shardshuffle=False).decode("rgb8")
    read = list(data)
    assert len(read) == len(samples)
    for item, sample in zip(read, samples, strict=True):
        assert np.array_equal(item["png"], sample.image)
        assert item["json"]["label"] == sample.label
        assert item["json"]["coding"]["depth_mm"]["code"] == "steps"
        assert np.array_equal(item["maps.npz"]["dense"], sample.dense)
        assert item["region.png"].shape == (SIZE, SIZE, 3)


def test_any_order_from_several_shards_and_after_pickling(samples, shard, tmp_path):
    other = tmp_path / "shard-000003.tar"
    shards.write_shard(samples[:2], other, 300)
    with shards.ShardSet([shard, other]) as files:
        assert len(files) == 7
        assert [files[i].key for i in (6, 0, -2, 4)] == [
            "000000301", "000000200", "000000300", "000000204"
        ]  # fmt: skip
        with pytest.raises(IndexError):
            files[7]
        copy = pickle.loads(pickle.dumps(files))
    assert copy[3].key == "000000203", "a copy has its own files"
    copy.close()


@pytest.mark.parametrize("keep", [0, 100, 512, 0.5, 0.9])
def test_a_cut_or_foreign_file_is_refused(shard, tmp_path, keep):
    data = shard.read_bytes()
    broken = tmp_path / "shard-000000.tar"
    broken.write_bytes(data[: int(keep if keep > 1 else keep * len(data))] if keep else b"x" * 999)
    with pytest.raises(UserError, match="shard-000000.tar"):
        list(shards.read_shards([broken]))


def test_an_error_leaves_nothing(samples, tmp_path):
    def failing():
        yield samples[0]
        assert len(list(tmp_path.iterdir())) == 1, "there is a file, under another name"
        assert not list(tmp_path.glob("*.tar"))
        raise RuntimeError("out of paint")

    with pytest.raises(RuntimeError, match="paint"):
        shards.write_shard(failing(), tmp_path / "shard-000000.tar", 0)
    assert not list(tmp_path.iterdir())


def test_leftovers_of_dead_writers_go_those_of_living_ones_stay(tmp_path):
    dead = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"],
                          capture_output=True, text=True, check=True)  # fmt: skip
    with shards.whole_file(tmp_path / "a.tar"):
        mine = next(tmp_path.iterdir())
        gone = tmp_path / mine.name.replace(str(os.getpid()), dead.stdout.strip())
        gone.write_bytes(b"half")
        shards.remove_leftovers(tmp_path)
        assert mine.exists() and not gone.exists()
    assert [p.name for p in tmp_path.iterdir()] == ["a.tar"]


def test_crops_for_training(tmp_path):
    picked = [fake_sample(i, maps=False) for i in range(3)]
    shards.write_shard(picked, tmp_path / "shard-000000.tar", 0, "png")
    manifest = {"format": "lifemask-renders", "convention": "lifemask392", "nominal_side_px": 20}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    crops = shards.crops_from_shards(shards.shard_paths(tmp_path))
    assert len(crops) == 3 and crops.convention == "lifemask392"
    assert np.array_equal(crops.gather(np.array([2]))[0], picked[2].image)
    forward = np.stack([s.view.rotation[:, 2] for s in picked])
    expected = np.degrees(np.arctan2(forward[:, 0], forward[:, 2]))
    np.testing.assert_allclose(crops.yaw_deg, expected, atol=1e-3)
    assert crops.person is None, "these shards do not tell"
    with pytest.raises(UserError, match="lifemask synth"):
        shards.shard_paths(tmp_path / "empty")


def test_leaves_walk_nested_values():
    tree = {"a": {"b": 1, "none": None}, "c": [1.0, 2.0], "d": ("x", "y"), "e": np.float32(3)}
    found = dict(leaves(tree))
    assert found.keys() == {"a/b", "c", "d", "e"}
    assert found["d"] == ("x", "y") and isinstance(found["c"], np.ndarray)


def test_file_entries_tell_digest_and_size(tmp_path):
    path = tmp_path / "x"
    path.write_bytes(b"abc")
    assert shards.file_entry(path) == {"sha256": hashlib.sha256(b"abc").hexdigest(), "bytes": 3}
