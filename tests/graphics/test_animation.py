"""Pictures to files: strips, animations, videos, and nothing half-written."""

import numpy as np
import pytest
from PIL import Image

from lifemask.assets import UserError
from lifemask.graphics.animation import check_animation, write_animation

SIDE = 32


def pictures(count: int, mode: str = "RGB"):
    for k in range(count):
        color = (40 * k, 200 - 40 * k, 90) + ((128,) if mode == "RGBA" else ())
        yield Image.new(mode, (SIDE, SIDE), color)


def read(path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


def test_one_png_is_the_picture_and_more_are_a_strip(tmp_path):
    assert write_animation(pictures(1), tmp_path / "new" / "one.png") == 1
    assert read(tmp_path / "new" / "one.png").shape == (SIDE, SIDE, 3)
    assert write_animation(pictures(4), tmp_path / "strip.png") == 4
    strip = read(tmp_path / "strip.png")
    expected = np.concatenate([np.asarray(p) for p in pictures(4)], 1)
    assert np.array_equal(strip, expected)


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_webp_loops(tmp_path, mode):
    path = tmp_path / "turn.webp"
    assert write_animation(pictures(5, mode), path, fps=10) == 5
    with Image.open(path) as image:
        assert image.n_frames == 5 and image.info["loop"] == 0
        image.seek(3)
        image.load()
        assert image.info["duration"] == 100
        red = np.asarray(image.convert(mode))[..., 0].mean()
        assert red == pytest.approx(120, abs=4)
    write_animation(pictures(1, mode), path)
    with Image.open(path) as image:
        assert getattr(image, "n_frames", 1) == 1


# imageio-ffmpeg's reader leaves its pipes to the garbage collector
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_mp4_holds_every_picture(tmp_path):
    ffmpeg = pytest.importorskip("imageio_ffmpeg")
    path = tmp_path / "turn.mp4"
    assert write_animation(pictures(5), path, fps=12) == 5
    reader = ffmpeg.read_frames(str(path))
    meta = next(reader)
    assert meta["size"] == (SIDE, SIDE) and meta["fps"] == 12
    frames = [np.frombuffer(f, np.uint8).reshape(SIDE, SIDE, 3) for f in reader]
    assert len(frames) == 5
    assert frames[4][..., 0].mean() > frames[0][..., 0].mean() + 100
    assert [p.name for p in tmp_path.iterdir()] == ["turn.mp4"]


@pytest.mark.parametrize(
    ("name", "size", "alpha", "message"),
    [("a.gif", 64, False, r"unknown format '.gif'; valid: .png, .webp, .mp4"),
     ("a.mp4", 63, False, "even size"), ("a.mp4", 64, True, "no transparency"),
     ("file/a.png", 64, False, "is a file"), (".", 64, False, "folder|format")],
)  # fmt: skip
def test_what_cannot_be_written_is_refused_early(tmp_path, name, size, alpha, message):
    if name.endswith(".mp4"):
        pytest.importorskip("imageio_ffmpeg")
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=message):
        check_animation(tmp_path / name, size, alpha)


def test_without_ffmpeg_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "imageio_ffmpeg", None)
    with pytest.raises(UserError, match=r"lifemask\[video\]"):
        check_animation(tmp_path / "a.mp4", 64)


@pytest.mark.parametrize("suffix", ["png", "webp", "mp4"])
def test_failure_leaves_the_old_file_and_nothing_else(tmp_path, suffix):
    if suffix == "mp4":
        pytest.importorskip("imageio_ffmpeg")

    def broken():
        yield from pictures(2)
        raise RuntimeError("no more")

    path = tmp_path / f"a.{suffix}"
    path.write_bytes(b"old")
    with pytest.raises(RuntimeError):
        write_animation(broken(), path)
    assert path.read_bytes() == b"old" and len(list(tmp_path.iterdir())) == 1
    with pytest.raises(ValueError, match="no picture"):
        write_animation(iter(()), path)
    assert path.read_bytes() == b"old" and len(list(tmp_path.iterdir())) == 1
