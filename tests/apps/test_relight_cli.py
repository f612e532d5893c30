"""`lifemask relight` and `lifemask lights`: what they print, write and refuse."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from helpers.ball import ball_scene
from lifemask.apps.cli import main
from lifemask.graphics.environment import load_light, read_radiance_hdr
from lifemask.graphics.meshio import Material, write_glb
from lifemask.graphics.panoramas import PANORAMAS, panorama


@pytest.fixture(scope="module")
def ball(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("ball") / "ball.glb"
    write_glb(ball_scene(Material("skin", np.full((4, 4, 3), 180, np.uint8)), 12, 24), path)
    return path


def run(*arguments: str | Path) -> int:
    """Exit status of a command."""
    try:
        main([str(a) for a in arguments])
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def read(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


def test_a_picture_a_strip_an_animation_and_a_video(ball, tmp_path, capsys):
    assert run("relight", ball, "--light", "split", "--size", 48, "-o", tmp_path / "a.png") == 0
    still = read(tmp_path / "a.png")
    assert still.shape == (48, 48, 3)
    assert still[:, :24].mean() > 1.3 * still[:, 24:].mean()
    assert "a.png: 1 picture of 48 px, light split" in capsys.readouterr().out
    options = ("--light", "split", "--size", 48, "--frames", 3, "--turn", "light")
    assert run("relight", ball, *options, "-o", tmp_path / "b.png") == 0
    strip = read(tmp_path / "b.png")
    assert strip.shape == (48, 144, 3) and np.array_equal(strip[:, :48], still)
    assert run("relight", ball, *options, "-o", tmp_path / "sub" / "c.webp") == 0
    with Image.open(tmp_path / "sub" / "c.webp") as image:
        assert image.n_frames == 3
    pytest.importorskip("imageio_ffmpeg")
    assert run("relight", ball, *options, "-o", tmp_path / "d.mp4", "--arc", 60) == 0
    assert (tmp_path / "d.mp4").stat().st_size > 500


def test_every_kind_of_light(ball, tmp_path):
    sky = tmp_path / "sky.png"
    Image.fromarray(np.full((8, 16, 3), 120, np.uint8)).save(sky)
    assert run("lights", "-o", tmp_path, "--height", 16) == 0
    (tmp_path / "sh.json").write_text(str(load_light("key").sh.tolist()))
    for light in ("candle", sky, tmp_path / "neon.hdr", tmp_path / "sh.json"):
        out = tmp_path / "out.png"
        assert run("relight", ball, "--light", light, "--size", 32, "-o", out) == 0
        assert read(out).std() > 2


def test_background_and_maps(ball, tmp_path):
    options = ("relight", ball, "--size", 32, "-o", tmp_path / "a.png")
    assert run(*options, "--background", "ff0000", "--no-maps") == 0
    assert read(tmp_path / "a.png")[0, 0].tolist() == [255, 0, 0]
    assert run(*options, "--background", "none") == 0
    assert read(tmp_path / "a.png").shape == (32, 32, 4)


@pytest.mark.parametrize(
    ("options", "message"),
    [(("--light", "disco"), "neither a file nor a light of ours; the lights are: neutral, soft"),
     (("--turn", "eyes"), "unknown turn 'eyes'"), (("--frames", "0"), "frames must be"),
     (("--size", "9"), "size must be"), (("--background", "red"), "unknown background 'red'"),
     (("--arc", "0"), "arc must be"), (("-o", "OUT/a.gif"), "unknown format '.gif'"),
     (("-o", "OUT/file/a.png"), "is a file")],
)  # fmt: skip
def test_wrong_options_are_one_line_and_status_2(ball, tmp_path, capsys, options, message):
    (tmp_path / "file").touch()
    options = [o.replace("OUT", str(tmp_path)) for o in options]
    assert run("relight", ball, "-o", tmp_path / "out" / "a.png", *options) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and message in error and error.count("\n") == 1
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("content", [None, b"", b"glTF but no more than that, and long enough"])
def test_bad_heads_are_one_line_and_leave_nothing(tmp_path, capsys, content):
    path = tmp_path / "head.glb"
    if content is not None:
        path.write_bytes(content)
    assert run("relight", path, "-o", tmp_path / "out.png") == 2
    error = capsys.readouterr().err
    assert "head.glb" in error and error.count("\n") == 1
    assert not (tmp_path / "out.png").exists()


def test_lights_are_listed_and_written(tmp_path, capsys):
    assert run("lights") == 0
    listed = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in listed] == list(PANORAMAS)
    assert run("lights", "-o", tmp_path / "lights", "--height", 16) == 0
    assert {p.stem for p in (tmp_path / "lights").iterdir()} == set(PANORAMAS)
    read = read_radiance_hdr(tmp_path / "lights" / "window.hdr")
    expected = panorama("window", 16).numpy()
    assert np.all(np.abs(read - expected) <= expected.max(2, keepdims=True) / 256 + 1e-6)
    assert run("lights", "-o", tmp_path / "lights", "--height", 16) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert run("lights", "-o", tmp_path / "lights", "--height", 16, "--overwrite") == 0
