"""`lifemask video`: what it writes and reports; mistakes are one line, nothing is left behind."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from lifemask.apps import session
from lifemask.apps.cli import app
from lifemask.assets import UserError


def run(*arguments: str):
    return CliRunner().invoke(app, ["video", *arguments])


def error_of(*arguments: str) -> str:
    outcome = run(*arguments)
    assert isinstance(outcome.exception, UserError), outcome.exception
    return str(outcome.exception)


def test_no_such_clip(tmp_path: Path) -> None:
    told = error_of(str(tmp_path / "none.mp4"), "-o", str(tmp_path / "out"))
    assert told == f"no such file: {tmp_path / 'none.mp4'}"
    assert list(tmp_path.iterdir()) == []


def test_unknown_choices_list_what_is_valid(tmp_path: Path) -> None:
    pytest.importorskip("PIL")
    from PIL import Image

    for k in range(2):
        Image.new("RGB", (64, 48)).save(tmp_path / f"{k}.png")
    given = (str(tmp_path), "-o", str(tmp_path / "out"), "--no-overlay")
    assert "offline, causal, none" in error_of(*given, "--smooth", "much")
    assert "pgn, dasl" in error_of(*given, "--method", "fit")
    assert "open, research" in error_of(*given, "--weights", "all")
    assert not (tmp_path / "out").exists()


def test_a_folder_with_other_files_is_left_alone(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "notes.txt").write_text("mine")
    for flag in ((), ("--overwrite",)):
        assert str(out) in error_of(str(tmp_path / "a.mp4"), "-o", str(out), *flag)
    assert (out / "notes.txt").read_text() == "mine"


def test_the_command_imports_nothing_heavy() -> None:
    code = (
        "import sys, lifemask.apps.commands.video\n"
        "print([m for m in ('torch', 'numpy', 'imageio_ffmpeg', 'PIL') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_folder_of_frames_and_its_report(tmp_path: Path, capsys) -> None:
    from PIL import Image
    from skimage.data import astronaut

    clip, out = tmp_path / "clip", tmp_path / "out"
    clip.mkdir()
    for k in range(3):
        Image.fromarray(astronaut()[:300, 60 + 4 * k : 380 + 4 * k]).save(clip / f"{k}.png")
    quick = ("--fast", "--texture", "none", "--no-refine", "--no-overlay", "--threads", "1")
    words = ["video", str(clip), "-o", str(out), "--fps", "10", *quick]
    assert session.run(app, [*words, "--json"], ()) == 0
    told = capsys.readouterr()
    document = json.loads(told.out)
    result = document["result"]
    assert document["command"] == "video" and document["error"] is None
    assert result["folder"] == str(out) and result["clip"] == str(clip)
    assert (result["fps"], result["frames"], result["image_size"]) == (10, 3, [320, 300])
    assert sorted(result["files"]) == sorted(
        p.relative_to(out).as_posix() for p in out.rglob("*") if p.is_file()
    )
    (person,) = result["people"]
    assert (person["first_frame"], person["last_frame"], person["frames_filled"]) == (0, 2, 0)
    assert (out / person["folder"] / "head.glb").is_file()
    assert result["weights"] == "open" and "1 person" in told.err
