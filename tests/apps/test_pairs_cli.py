"""`lifemask pairs`: pairs in shards, exit status 2 on bad input, photos turned away in words."""

import json

import pytest
from PIL import Image

from fake_pairs import create_noise
from fake_renders import make_data
from lifemask.apps.cli import main
from lifemask.apps.commands.pairs import _told
from lifemask.data import _pairs_run
from lifemask.data.pairs import load_pairs


@pytest.fixture
def run(monkeypatch, tmp_path, capsys):
    """Exit status and output of the command, which makes pairs of noise."""
    real = _pairs_run.run_pairs
    monkeypatch.setattr(_pairs_run, "run_pairs", lambda *given: real(*given, create=create_noise))
    data = make_data(tmp_path / "data")

    def command(*arguments, folder="out", count=5):
        given = ["-o", tmp_path / folder, "--count", count, "--data", data, "--workers", 0]
        status = 0
        try:
            main(["pairs", *map(str, [*given, *arguments])])
        except SystemExit as stop:
            status = int(stop.code or 0)
        return status, "".join(capsys.readouterr())

    return command


def test_pairs_are_made_and_told_of(run, tmp_path):
    sheet = tmp_path / "sheet.png"
    status, text = run("--shard-size", "2", "--sheet", sheet)
    assert status == 0 and len(load_pairs(tmp_path / "out")) == 5
    assert "5 pairs in 3 shards, licence: open" in text
    assert "photos turned away: 64.3% of 14, yaw 28.6%, residual 35.7%" in text
    with Image.open(sheet) as picture:
        assert picture.size == (2 * 6 * 16, 3 * 16)


def settings_of(folder):
    return json.loads((folder / "manifest.json").read_text())["settings"]


def test_options_reach_the_settings(run, tmp_path):
    assert run("--size", 256, "--grid", 192, "--box", 5, "--held-out", "--seed", 3)[0] == 0
    settings = settings_of(tmp_path / "out")
    assert settings["near"] == 60_000 and settings["box"] == 5 and settings["size"] == 256
    assert settings["seed"] == 910_000_003
    assert run("--mode", "renders_only", "--blend", "paste", "--near", 99, folder="b")[0] == 0
    settings = settings_of(tmp_path / "b")
    assert (settings["mode"], settings["blend"], settings["near"]) == ("renders_only", "paste", 99)
    assert settings["seed"] == 0


@pytest.mark.parametrize(
    "wrong, message",
    [(("--mode", "dreams"), "unknown mode 'dreams'"), (("--engine", "steam"), "unknown engine"),
     (("--box", "4"), "odd"), (("--heads", "bfm"), "unknown heads"),
     (("--size", "2"), "size is 2")],
)  # fmt: skip
def test_bad_input_is_one_line(run, wrong, message):
    status, text = run(*wrong)
    assert status == 2 and message in text and len(text.strip().splitlines()) == 1


def test_no_data_folder_is_named(capsys, monkeypatch, tmp_path):
    monkeypatch.delenv("LIFEMASK_DATA", raising=False)
    with pytest.raises(SystemExit) as stop:
        main(["pairs", "-o", str(tmp_path / "x"), "--count", "1"])
    assert stop.value.code == 2 and "--data DIR" in capsys.readouterr().err


def test_nothing_turned_away():
    manifest = {"count": 3, "rejected": {"yaw": 0}}
    assert _told(manifest) == "photos turned away: 0.0% of 3"
