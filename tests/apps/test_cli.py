"""The command line: what it prints, writes and returns."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import lifemask.outputs
from fake_stages import EggLandmarker, one_face, textures
from lifemask.apps.cli import main
from lifemask.graphics.lighting import studio_light
from lifemask.pipeline import Pipeline
from lifemask.types import Appearance


class FakePipeline(Pipeline):
    """A pipeline that sees an egg in the middle of every photo."""

    def __init__(self, config):
        landmarker = EggLandmarker()
        super().__init__(
            replace(config, method="fit"),  # the networks know no eggs
            detector=one_face,
            landmarker=landmarker,
            model=landmarker.model,
        )

    def refine(self, image, geometry, landmarks, regions=None, **options):
        return geometry

    def dress(self, image, geometry, regions=None):
        skin, cap = textures()
        light = studio_light("soft")
        return (
            None if self.config.texture == "none" else Appearance(skin, light, None, {"cap": cap})
        )


@pytest.fixture
def eggs(monkeypatch):
    """The fake pipeline in place of the real one."""
    monkeypatch.setattr("lifemask.pipeline.Pipeline", FakePipeline)


@pytest.fixture
def photo(tmp_path) -> Path:
    path = tmp_path / "portrait.png"
    Image.fromarray(np.full((160, 200, 3), 90, np.uint8)).save(path)
    return path


def run(*arguments: str | Path) -> int:
    """Exit status of a command."""
    try:
        main([str(a) for a in arguments])
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def test_reconstruct_writes_a_folder_per_photo(eggs, photo, tmp_path, capsys):
    assert run("reconstruct", photo, "-o", tmp_path / "out") == 0
    names = {p.name for p in (tmp_path / "out" / "portrait").iterdir()}
    assert {"head.glb", "head.obj", "head.mtl", "params.json", "preview.png"} <= names
    out = capsys.readouterr().out
    assert "portrait.png: 1 head in" in out and "open (usable for anything)" in out
    record = json.loads((tmp_path / "out" / "portrait" / "params.json").read_text())
    assert record["photo"] == "portrait.png" and record["image_size"] == [200, 160]


@pytest.mark.parametrize("command", ["reconstruct", "fit"])
def test_surface_maps_can_be_left_out(eggs, photo, tmp_path, monkeypatch, command):
    wanted = []
    write = lifemask.outputs.write_heads
    monkeypatch.setattr(
        "lifemask.outputs.write_heads",
        lambda *given, **options: wanted.append(options["maps"]) or write(*given, **options),
    )
    for name in ("--maps", "--no-maps"):
        assert run(command, photo, "-o", tmp_path / name, "--formats", "glb", name) == 0
    assert wanted == [True, False]


def test_options_reach_the_pipeline(eggs, photo, tmp_path, capsys):
    options = "--method fit --weights research --camera pinhole --texture none --formats ply,json"
    assert (
        run("reconstruct", photo, "-o", tmp_path, *options.split(), "--faces", "all", "--no-refine")
        == 0
    )
    folder = tmp_path / "portrait"
    assert {p.name for p in folder.iterdir()} == {"head-1.ply", "params.json"}
    record = json.loads((folder / "params.json").read_text())
    assert record["weights"] == "research" and record["faces"][0]["camera"]["model"] == "pinhole"
    assert record["faces"][0]["light_sh"] is None
    assert "research use only" in capsys.readouterr().out


def test_sample(eggs, tmp_path):
    assert run("reconstruct", "--sample", "-o", tmp_path, "--formats", "json") == 0
    record = json.loads((tmp_path / "astronaut" / "params.json").read_text())
    assert record["image_size"] == [512, 512]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "no photo given"),
        (("--weights", "best"), "unknown weights 'best'; valid: open, research"),
        (("--formats", "stl"), "unknown format 'stl'"),
        (("--camera", "fisheye"), "unknown camera"),
        (("--device", "abacus"), "unknown device"),
        (("--faces", "some"), "unknown faces"),
        (("--method", "magic"), "unknown method"),
        (("--texture", "paint"), "unknown texture"),
    ],
)
def test_wrong_options_are_one_line_and_status_2(eggs, photo, tmp_path, capsys, options, message):
    arguments = [photo, *options] if options else []
    assert run("reconstruct", *arguments, "-o", tmp_path / "out") == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and message in error and error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_one_bad_photo_does_not_stop_the_others(eggs, photo, tmp_path, capsys):
    bad = tmp_path / "broken.jpg"
    bad.write_bytes(b"no image")
    assert run("reconstruct", bad, photo, "-o", tmp_path / "out", "--formats", "json") == 3
    captured = capsys.readouterr()
    assert "broken.jpg is not an image" in captured.err
    assert "1 of 2 photos failed" in captured.err
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["portrait"]


def test_a_fault_of_ours_does_not_stop_the_others(eggs, photo, tmp_path, monkeypatch, capsys):
    def fail_on_small(self, image, face):
        if image.shape[0] < 150:
            raise ZeroDivisionError("a bug")
        return self.landmarker(image, face)

    monkeypatch.setattr(FakePipeline, "find_landmarks", fail_on_small)
    small = tmp_path / "small.png"
    Image.fromarray(np.full((100, 100, 3), 90, np.uint8)).save(small)
    assert run("reconstruct", small, photo, "-o", tmp_path / "out", "--formats", "json") == 3
    assert "1 of 2 photos failed" in capsys.readouterr().err
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["portrait"]
    assert run("reconstruct", small, "-o", tmp_path / "out") == 1
    assert capsys.readouterr().err.startswith("error: ZeroDivisionError: a bug\nThis is a fault")


def test_json_gives_the_faces_of_the_record(eggs, photo, tmp_path, capsys):
    broken, out = tmp_path / "b.png", tmp_path / "out"
    broken.write_bytes(b"no image")
    words = ("--faces", "all", "--formats", "ply,json", "--json")
    assert run("reconstruct", photo, broken, "-o", out, *words) == 3
    captured = capsys.readouterr()
    document = json.loads(captured.out)
    assert document["exit_code"] == 3 and document["error"]["kind"] == "some failed"
    assert "1 head in" in captured.err
    good, bad = document["result"]["photos"]
    record = json.loads((out / "portrait" / "params.json").read_text())
    assert good["faces"] == record["faces"] and good["folder"] == str(out / "portrait")
    assert good["faces"][0]["files"] == ["head-1.ply"] and good["seconds"] >= 0
    assert bad["error"]["kind"] == "user" and "not an image" in bad["error"]["message"]
    assert bad["folder"] is None and bad["faces"] == []


def test_json_of_one_person_and_of_a_fit(eggs, photos, tmp_path, capsys):
    words = ("--formats", "json", "--json", "-o", tmp_path / "out")
    assert run("reconstruct", *photos, "--same-person", *words) == 0
    first, second = json.loads(capsys.readouterr().out)["result"]["photos"]
    assert first["faces"][0]["identity"] == second["faces"][0]["identity"]
    assert run("fit", photos[0], "--json", "-o", tmp_path / "fit", "--formats", "json") == 0
    document = json.loads(capsys.readouterr().out)
    assert document["command"] == "fit" and document["error"] is None
    assert run("fit", photos[0], "--json", "-o", tmp_path / "fit") == 2  # it is there already
    document = json.loads(capsys.readouterr().out)
    assert "--overwrite" in document["error"]["message"]


@pytest.fixture
def photos(photo, tmp_path) -> list[Path]:
    other = tmp_path / "other.png"
    Image.fromarray(np.full((200, 180, 3), 90, np.uint8)).save(other)
    return [photo, other]


def faces_of(out: Path) -> dict[str, dict]:
    """The record of the one face of each photo's folder."""
    found = {}
    for folder in sorted(out.iterdir()):
        (found[folder.name],) = json.loads((folder / "params.json").read_text())["faces"]
    return found


def test_same_person_writes_a_folder_per_photo_with_one_identity(eggs, photos, tmp_path, capsys):
    out = tmp_path / "out"
    assert run("reconstruct", *photos, "--same-person", "-o", out, "--formats", "ply,json") == 0
    printed = capsys.readouterr().out
    assert "one identity from 2 photos" in printed and "open (usable for anything)" in printed
    faces = faces_of(out)
    person = {"photos": ["portrait.png", "other.png"], "shared_identity": True}
    assert [f["person"] for f in faces.values()] == [person, person]
    assert faces["portrait"]["identity"] == faces["other"]["identity"]
    assert faces["portrait"]["camera"] != faces["other"]["camera"]
    assert {p.name for p in (out / "portrait").iterdir()} == {"head.ply", "params.json"}
    assert run("reconstruct", *photos, "-o", tmp_path / "alone", "--formats", "json") == 0
    assert [f["person"] for f in faces_of(tmp_path / "alone").values()] == [None, None]


def test_the_sample_may_be_one_of_the_photos(eggs, photo, tmp_path):
    out = tmp_path / "out"
    arguments = ("--sample", "--same-person", "-o", out, "--formats", "json")
    assert run("reconstruct", photo, *arguments) == 0
    assert faces_of(out)["astronaut"]["person"]["photos"] == ["astronaut.png", "portrait.png"]


@pytest.mark.parametrize(
    ("count", "options", "message"),
    [
        (1, (), "at least two photos"),
        (2, ("--faces", "all"), "one face of each photo"),
        (2, ("--formats", "stl"), "unknown format 'stl'"),
        (2, ("--method", "pgn", "--map", "self"), "--map belongs to --method dasl"),
        (2, ("--method", "dasl", "--camera", "pinhole"), "orthographic"),
    ],
)
def test_what_makes_no_person_is_one_line_and_status_2(
    eggs, photos, tmp_path, capsys, count, options, message
):
    out = tmp_path / "out"
    assert run("reconstruct", *photos[:count], "--same-person", *options, "-o", out) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and message in error and error.count("\n") == 1
    assert not out.exists()


def test_same_person_is_all_photos_or_none(eggs, photos, tmp_path, monkeypatch, capsys):
    out = tmp_path / "out"
    arguments = ("reconstruct", *photos, "--same-person", "-o", out, "--formats", "json")
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no image")
    assert run("reconstruct", *photos, broken, "--same-person", "-o", out) == 2
    assert "broken.png is not an image" in capsys.readouterr().err
    assert not out.exists()
    (out / "other").mkdir(parents=True)
    (out / "other" / "params.json").write_text("{}")
    assert run(*arguments) == 2  # told before anything is computed
    assert "--overwrite" in capsys.readouterr().err and not (out / "portrait").exists()

    def interrupt(self, *args, **options):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(FakePipeline, "finish", interrupt)
        assert run(*arguments, "--overwrite") == 130
    assert [p.name for p in out.iterdir()] == ["other"]
    assert run(*arguments, "--overwrite") == 0
    assert {p.name for p in out.iterdir()} == {"other", "portrait"}


def test_overwrite(eggs, photo, tmp_path, capsys):
    arguments = ("reconstruct", photo, "-o", tmp_path / "out", "--formats", "json")
    assert run(*arguments) == 0 and run(*arguments) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert run(*arguments, "--overwrite") == 0


def test_fit_takes_landmarks(eggs, photo, tmp_path):
    points = EggLandmarker((0, -15, 0))(np.zeros((160, 200, 3)), (40, 20, 160, 140)).points[:, :2]
    (tmp_path / "points.json").write_text(json.dumps(points.tolist()))
    np.savez(tmp_path / "points.npz", points=points.numpy())
    np.savetxt(tmp_path / "points.csv", points.numpy(), delimiter=",", header="u,v", comments="")
    for i, name in enumerate(("points.json", "points.npz", "points.csv")):
        out = tmp_path / f"out{i}"
        arguments = ("fit", photo, "--landmarks", tmp_path / name, "-o", out, "--formats", "json")
        assert run(*arguments) == 0
        record = json.loads((out / "portrait" / "params.json").read_text())
        found = np.asarray(record["faces"][0]["landmarks68_px"])
        assert np.abs(found - points.numpy()).mean() < 3


def test_assets_commands(capsys):
    assert run("assets", "list") == 0
    assert "centerface" in capsys.readouterr().out
    assert run("assets", "list", "--markdown") == 0
    assert capsys.readouterr().out.startswith("# Assets\n")
    assert run("assets", "fetch") == 0
    assert "ICT-FaceKit" in capsys.readouterr().out
    assert run("assets", "verify") == 0
    assert "centerface.onnx" in capsys.readouterr().out


def test_assets_verify_tells_what_is_damaged(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("LIFEMASK_WEIGHTS", str(tmp_path))
    (tmp_path / "net.safetensors").write_bytes(b"weights")
    (tmp_path / "net.json").write_text(json.dumps({"sha256": "0" * 64}))
    assert run("assets", "verify") == 2
    captured = capsys.readouterr()
    assert "damaged" in captured.out and "1 asset files" in captured.err


def test_score_and_predict_refuse_what_is_not_there(tmp_path, capsys):
    arguments = ("--data", tmp_path, "--predictions", tmp_path / "p.npz")
    assert run("score", "aflw2000", *arguments) == 2
    assert run("score", "mugshots", *arguments) == 2
    assert run("predict", "aflw2000", "--data", tmp_path, "-o", tmp_path / "p.npz") == 2
    assert run("predict", "aflw2000", "--data", tmp_path, "-o", tmp_path / "p.csv") == 2
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 4 and all(line.startswith("error: ") for line in errors)


def test_train_passes_its_options_on(capsys):
    assert run("train", "landmarker", "--help") == 0
    assert "--recipe" in capsys.readouterr().out
    assert run("train", "mind-reader") == 2
    assert "valid: landmarker" in capsys.readouterr().err


def test_convert_refuses_a_folder_without_the_model(tmp_path, capsys):
    arguments = ("--source", tmp_path, "-o", tmp_path / "ict.npz")
    assert run("assets", "convert", "ict", *arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1
    assert not (tmp_path / "ict.npz").exists()


def test_help_and_version(capsys):
    assert run("--help") == 0
    text = capsys.readouterr().out
    for command in ("reconstruct", "fit", "assets", "predict", "score", "train"):
        assert command in text
        assert run(command, "--help") == 0
    assert run("--version") == 0


def test_help_and_import_load_nothing_heavy():
    heavy = ["torch", "numba", "onnxruntime", "PIL", "skimage", "scipy", "numpy"]
    code = (
        f"import sys, lifemask, lifemask.apps.cli; print([m for m in {heavy} if m in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"


def test_public_names():
    import lifemask

    for name in lifemask.__all__:
        if name != "load_landmarker":
            assert getattr(lifemask, name) is not None
    assert set(lifemask.__all__) <= set(dir(lifemask))
    with pytest.raises(AttributeError, match="nothing"):
        _ = lifemask.nothing
