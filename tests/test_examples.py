"""The programs of examples/ are short, say how to run them, and run."""

import ast
import csv
import runpy
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lifemask.graphics.meshio import read_glb

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
PROGRAMS = sorted(EXAMPLES.glob("*.py"))
MAX_LINES = 40


def run(name: str, *arguments: Path) -> None:
    """Run a program in this process."""
    runpy.run_path(str(EXAMPLES / name))["main"](*map(str, arguments))


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> list[Path]:
    """The portrait, the portrait leaning and smaller, and a file that is no photo."""
    from skimage import data

    folder = tmp_path_factory.mktemp("photos")
    portrait = Image.fromarray(data.astronaut())
    portrait.save(folder / "a.png")
    portrait.crop((40, 0, 470, 430)).rotate(8).save(folder / "b.jpg", quality=90)
    (folder / "c.jpg").write_bytes(b"no photo")
    return [folder / "a.png", folder / "b.jpg"]


def test_there_are_five_and_they_are_short():
    assert len(PROGRAMS) == 5
    for path in PROGRAMS:
        text = path.read_text(encoding="utf-8")
        assert len(text.splitlines()) <= MAX_LINES, path.name
        assert f"python examples/{path.name}" in (ast.get_docstring(ast.parse(text)) or "")


def test_every_example_is_in_the_docs():
    page = (EXAMPLES.parent / "docs" / "get-started.md").read_text(encoding="utf-8")
    assert not [p.name for p in PROGRAMS if f"`{p.name}`" not in page]


def test_a_table_of_a_folder(photos, tmp_path, capsys):
    run("landmarks_to_csv.py", photos[0].parent, tmp_path / "faces.csv")
    assert "c.jpg is not an image" in capsys.readouterr().err
    with (tmp_path / "faces.csv").open(encoding="utf-8") as file:
        first, second = csv.DictReader(file)
    assert (first["photo"], second["photo"]) == ("a.png", "b.jpg")
    assert len(first) == 2 + 3 + 52 + 2 * 68
    lean = float(second["roll"]) - float(first["roll"])
    assert lean == pytest.approx(-8, abs=4)  # PIL turns counter-clockwise
    nose = np.array([float(first["u30_px"]), float(first["v30_px"])])
    assert np.linalg.norm(nose - (222, 124)) < 9


@pytest.mark.slow
def test_several_photos_become_one_head(photos, tmp_path, capsys):
    run("one_person.py", tmp_path / "person.glb", *photos)
    out = capsys.readouterr().out
    assert all(photo.name in out for photo in photos)
    scene = read_glb(tmp_path / "person.glb")
    assert len(scene.morph_targets) == 52 and not any(scene.morph_weights.values())
    skin = next(p for p in scene.primitives if p.name == "skin").material
    assert skin is not None and skin.texture is not None
    red, green, blue = skin.texture.reshape(-1, 3).mean(0)
    assert red > green > blue
