"""`lifemask synth`: real faces in shards, exit status 2 on bad input, honest time left."""

import json

import numpy as np
import pytest
from PIL import Image

from fake_renders import make_data
from lifemask.apps.cli import main
from lifemask.apps.commands.synth import _Bar
from lifemask.data.shards import crops_from_shards, read_shards, shard_paths
from lifemask.data.stream import RenderStream
from lifemask.data.synthetic import SyntheticConfig, create_generator
from lifemask.types import REGION_NAMES

SMALL = ("--size", "48", "--shard-size", "2", "--bank-size", "1", "--seed", "900000001")


def run(*arguments) -> int:
    """Exit status of a command."""
    try:
        main(["synth", *map(str, arguments)])
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A skin and an environment of noise, in real files."""
    exr = pytest.importorskip("OpenEXR")
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    (folder / "skins").mkdir()
    (folder / "hdri").mkdir()
    skin = rng.integers(120, 200, (128, 128, 3)).astype(np.uint8)
    Image.fromarray(skin).save(folder / "skins" / "noise_diffuse.jpg")
    sky = rng.lognormal(0, 1, (24, 48, 3)).astype(np.float32)
    with exr.File({"type": exr.scanlineimage}, {"RGB": sky}) as file:
        file.write(str(folder / "hdri" / "noise.exr"))
    return folder


@pytest.fixture(scope="module")
def folder(data, tmp_path_factory):
    out = tmp_path_factory.mktemp("renders") / "out"
    options = ("--truth", "maps", "--sets", "mediapipe478", "--image-format", "png")
    assert run("-o", out, "--count", 3, "--data", data, "--workers", 0, *SMALL, *options) == 0
    return out


def test_faces_with_full_truth(folder):
    records = list(read_shards(shard_paths(folder)))
    assert [r.key for r in records] == ["000000000", "000000001", "000000002"]
    for r in records:
        assert r.image.shape == (48, 48, 3) and r.image.std() > 5
        assert r.labels["points"].shape == (392, 3) and r.labels["visible"].any()
        assert r.labels["landmarks/mediapipe478/image_px"].shape == (478, 3)
        model, depth = r.maps["model"], r.maps["depth_mm"]
        assert model.any() and np.isfinite(depth[model]).all() and np.ptp(depth[model]) < 400
        np.testing.assert_allclose(np.linalg.norm(r.maps["normals"][model], axis=-1), 1, atol=1e-3)
        assert r.maps["region"].max() < len(REGION_NAMES)
        # the depth of a visible landmark is where the map says; a pixel may lie across an edge
        seen = r.labels["landmarks/mediapipe478/visible"]
        u, v = np.rint(r.labels["landmarks/mediapipe478/image_px"][seen, :2]).astype(int).T
        near = -r.labels["landmarks/mediapipe478/camera_mm"][seen, 2]
        inside = (u >= 0) & (v >= 0) & (u < 48) & (v < 48)
        difference = np.abs(depth[v[inside], u[inside]] - near[inside])
        assert np.nanmedian(difference) < 4


def test_manifest_and_crops(folder):
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["count"] == 3 and len(manifest["shards"]) == 2
    assert manifest["convention"] == "lifemask392" and len(manifest["expression_names"]) == 52
    assert manifest["settings"]["sets"] == ["mediapipe478"]
    crops = crops_from_shards(shard_paths(folder))
    assert len(crops) == 3 and crops.nominal_side_px == pytest.approx(48 / 1.25)


@pytest.mark.parametrize("form", ["shards", "cache"])
def test_frames_show_one_person_each(data, tmp_path, form):
    options = ("--format", form, "--workers", 0, *SMALL, "--frames", 2)
    assert run("-o", tmp_path, "--count", 3, "--data", data, *options) == 0
    if form == "shards":
        crops = crops_from_shards(shard_paths(tmp_path))
        told = [r.labels["identity"] for r in read_shards(shard_paths(tmp_path))]
        assert crops.person is not None and crops.person.tolist() == [0, 0, 1]
    else:
        told = []
        for path in sorted(tmp_path.glob("labels-*.npz")):
            with np.load(path) as labels:
                told += list(labels["identity"])
                assert labels["person"].tolist() == ([0, 0] if "0000" in path.name else [1])
    assert np.array_equal(told[0], told[1]) and not np.array_equal(told[1], told[2])


@pytest.mark.parametrize(("frames", "message"), [(3, "no multiple of 3 frames"), (0, "--frames")])
def test_frames_that_cannot_be(data, tmp_path, capsys, frames, message):
    assert run("-o", tmp_path / "o", "--count", 3, "--data", data, *SMALL, "--frames", frames) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "o").exists()


def test_nothing_is_made_twice(folder, data, capsys):
    before = {p.name: p.stat().st_mtime_ns for p in folder.glob("*.tar")}
    options = ("--truth", "maps", "--sets", "mediapipe478", "--image-format", "png")
    assert run("-o", folder, "--count", 3, "--data", data, "--workers", 0, *SMALL, *options) == 0
    assert {p.name: p.stat().st_mtime_ns for p in folder.glob("*.tar")} == before
    assert capsys.readouterr().out.strip().endswith("3 images in 2 shards, licence: open")


@pytest.mark.slow
@pytest.mark.parametrize("form", ["shards", "cache"])
def test_workers_do_not_change_a_byte(data, tmp_path, form):
    for workers in (0, 1, 2):
        out = tmp_path / str(workers)
        options = ("--format", form, "--workers", workers, *SMALL)
        assert run("-o", out, "--count", 5, "--data", data, *options) == 0
    first = {p.name: p.read_bytes() for p in (tmp_path / "0").iterdir()}
    assert len(first) == (4 if form == "shards" else 11)
    for workers in (1, 2):
        assert {p.name: p.read_bytes() for p in (tmp_path / str(workers)).iterdir()} == first


@pytest.mark.slow
def test_real_faces_stream_alike_from_any_crew_and_match_the_shards(data, folder):
    config = SyntheticConfig(size=48, shard_size=2, bank_size=1, seed=900_000_001)
    generator = create_generator(config, data)
    options = {"lanes": 1, "truth": "maps", "sets": ("mediapipe478",)}
    with (
        RenderStream(generator, 2, 0, **options) as here,
        RenderStream(generator, 2, 1, **options) as there,
    ):
        for step in range(3):
            a, b = here(step), there(step)
            assert a.keys() == b.keys()
            assert all(np.array_equal(a[k], b[k], equal_nan=a[k].dtype.kind == "f") for k in a)
        first = here(0)
    for k, record in enumerate(list(read_shards(shard_paths(folder)))[:2]):
        assert np.array_equal(first["image"][k], record.image)
        assert np.array_equal(first["region"][k], record.maps["region"])
        assert np.nanmax(np.abs(first["maps/depth_mm"][k] - record.maps["depth_mm"])) < 0.01


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--family", "closed"), "unknown family 'closed'; valid: open, research"),
        (("--truth", "all"), "unknown truth"),
        (("--engine", "cloud"), "unknown engine"),
        (("--format", "zip"), "unknown format"),
        (("--device", "tpu"), "unknown device"),
        (("--size", "3"), "size is 3"),
        (("--family", "research"), "--photo-skins"),
        (("--sets", "ibug999"), "ibug999"),
        (("--face-model", "nobody"), "nobody"),
    ],
)
def test_bad_input_ends_with_status_2(tmp_path, capsys, options, words):
    data = make_data(tmp_path / "data")
    assert run("-o", tmp_path / "out", "--count", 2, "--data", data, *options) == 2
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_the_data_folder_is_asked_for(tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("LIFEMASK_DATA", raising=False)
    assert run("-o", tmp_path / "out", "--count", 2) == 2
    assert "--data" in capsys.readouterr().err


def test_time_left_counts_only_what_this_run_made(monkeypatch):
    now = [100.0]
    monkeypatch.setattr("lifemask.apps.commands.synth.time.monotonic", lambda: now[0])
    with _Bar(1000) as bar:
        now[0] = 105.0
        bar.report(400, 0)
        assert bar.words(600) == "starting"
        now[0] = 115.0
        bar.report(400, 50)
        assert bar.words(550) == "5.0 images/s, 0:01:50 left"
        assert bar.summary() == ", 50 made at 5.0 images/s"
