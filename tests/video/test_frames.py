"""Reading clips: files, folders, patterns, and what is none."""

import subprocess

import numpy as np
import pytest
from PIL import Image

from lifemask.assets import UserError
from lifemask.video.frames import ClipError, exact_rate, open_clip

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


def numbered(k: int, size=(64, 48)) -> np.ndarray:
    return np.full((size[1], size[0], 3), 10 * k, np.uint8)


def test_a_folder_is_read_in_the_order_of_its_numbers(tmp_path) -> None:
    for k in (2, 10, 1, 9):
        Image.fromarray(numbered(k)).save(tmp_path / f"frame-{k}.png")
    (tmp_path / "notes.txt").write_text("no picture")
    clip = open_clip(tmp_path, fps=12)
    assert (clip.fps, clip.size, clip.expected) == (12, (64, 48), 4)
    assert [f[0, 0, 0] // 10 for f in clip.frames()] == [1, 2, 9, 10]
    assert [f[0, 0, 0] // 10 for f in open_clip(str(tmp_path / "frame-1*.png")).frames()] == [1, 10]


def test_a_video_keeps_its_rate_and_its_frames(tmp_path) -> None:
    pytest.importorskip("imageio_ffmpeg")
    from lifemask.graphics.animation import write_animation

    pictures = [Image.fromarray(numbered(k)) for k in range(0, 24, 2)]
    write_animation(pictures, tmp_path / "a.mp4", fps=12.5)
    clip = open_clip(tmp_path / "a.mp4")
    assert (clip.fps, clip.size, clip.expected) == (12.5, (64, 48), 12)
    for _ in range(2):  # it can be read again
        levels = [f.mean() for f in clip.frames()]
        assert levels == pytest.approx([10 * k for k in range(0, 24, 2)], abs=6)
    with pytest.raises(ClipError, match="its own frame rate"):
        open_clip(tmp_path / "a.mp4", fps=25)


def test_a_variable_rate_keeps_its_times(tmp_path) -> None:
    ffmpeg = pytest.importorskip("imageio_ffmpeg").get_ffmpeg_exe()
    black, white = (f"color={name}:size=64x48:rate=" for name in ("black", "white"))
    subprocess.run(
        [ffmpeg, "-v", "error", "-f", "lavfi", "-i", f"{black}30:duration=2", "-f", "lavfi",
         "-i", f"{white}17:duration=2", "-filter_complex", "[0][1]concat=n=2:v=1[v]", "-map", "[v]",
         str(tmp_path / "a.mp4")],
        check=True,
    )  # fmt: skip
    clip = open_clip(tmp_path / "a.mp4")
    levels = np.array([frame.mean() for frame in clip.frames()])
    assert len(levels) / clip.fps == pytest.approx(4.0, abs=0.1)
    assert np.argmax(levels > 128) / clip.fps == pytest.approx(2.0, abs=0.07)


@pytest.mark.parametrize(
    ("told", "rate"),
    [(23.98, "24000/1001"), (29.97, "30000/1001"), (59.94, "60000/1001"), (25, "25"), (5, "5"),
     (1, "1"), (12.5, "25/2"), (23.8, "119/5")],
)  # fmt: skip
def test_rates_are_exact(told, rate) -> None:
    assert str(exact_rate(told)) == rate


def test_odd_digits_in_names_are_no_numbers(tmp_path) -> None:
    for k, name in enumerate(("²1.png", "²2.png")):
        Image.fromarray(numbered(k)).save(tmp_path / name)
    assert open_clip(tmp_path).expected == 2


@pytest.mark.parametrize("name", ["nothing.mp4", "empty.mp4", "noise.mp4", "cut.mp4"])
def test_what_is_no_video_is_one_line(tmp_path, name) -> None:
    pytest.importorskip("imageio_ffmpeg")
    from lifemask.graphics.animation import write_animation

    write_animation([Image.fromarray(numbered(k)) for k in range(9)], tmp_path / "whole.mp4")
    (tmp_path / "empty.mp4").write_bytes(b"")
    (tmp_path / "noise.mp4").write_bytes(bytes(range(256)) * 40)
    (tmp_path / "cut.mp4").write_bytes((tmp_path / "whole.mp4").read_bytes()[:700])
    with pytest.raises(ClipError) as caught:
        open_clip(tmp_path / name)
    assert name in str(caught.value) and "\n" not in str(caught.value)


def test_other_mistakes_are_one_line(tmp_path, monkeypatch) -> None:
    Image.fromarray(numbered(1)).save(tmp_path / "a.png")
    with pytest.raises(ClipError, match="single picture"):
        open_clip(tmp_path / "a.png")
    with pytest.raises(ClipError, match="no pictures"):
        open_clip(str(tmp_path / "b*.png"))
    with pytest.raises(ClipError, match="impossible"):
        open_clip(tmp_path, fps=0)
    Image.fromarray(numbered(2, (32, 32))).save(tmp_path / "b.png")
    with pytest.raises(ClipError, match="one size"):
        list(open_clip(tmp_path).frames())
    (tmp_path / "c.mp4").write_bytes(b"x")
    monkeypatch.setitem(__import__("sys").modules, "imageio_ffmpeg", None)
    with pytest.raises(UserError, match=r"lifemask\[video\]"):
        open_clip(tmp_path / "c.mp4")
