"""The names of our systems in benchmarks: files, tables and the commands that made them."""

import runpy
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def ours():
    return runpy.run_path(str(BENCHMARKS / "ours.py"))["Ours"]


def test_files_tables_and_commands_name_the_map(ours):
    dasl = ours("research", "dasl", map="self")
    assert dasl.stem == "research-dasl-self-official"
    assert dasl.name == ["research", "dasl (self)", "official"]
    assert dasl.options == "--method dasl --map self --weights research --box official"
    plain = ours("open", "dasl", map="none", refine=False)
    assert plain.label == "dasl (none), not refined" and plain.method_stem == "dasl-none-unrefined"
    assert plain.options.endswith("--no-refine")


def test_stored_results_keep_their_names(ours):
    for path in (BENCHMARKS / "results").glob("aflw2000-dev-*-official.json"):
        words = path.stem.removeprefix("aflw2000-dev-").split("-")
        weights, method, *source, box = words
        system = ours(weights, method, box, *source)
        assert f"aflw2000-dev-{system.stem}" == path.stem


def test_its_options_are_those_of_the_command(ours):
    from typer.main import get_command

    from lifemask.apps.cli import app

    command = get_command(app).commands["predict"]
    known = {o for p in command.params for o in (*p.opts, *p.secondary_opts)}
    system = ours("open", "dasl", "detector", "self", False)
    words = [w for w in system.options.split() if w.startswith("--")]
    assert set(words) <= known and len(words) == 5


def test_predictions_get_every_setting(ours, monkeypatch):
    seen = {}

    def record(kind):
        return lambda *given, **options: seen.update({kind: (given, options)})

    monkeypatch.setattr("lifemask.evaluation.predict.predict", record("points"))
    monkeypatch.setattr("lifemask.evaluation.predict_meshes.predict_meshes", record("meshes"))
    system = ours("open", "dasl", map="none", refine=False)
    system.predict("aflw2000", Path("data"), Path("out"))
    system.predict("scans", Path("data"), Path("out"), threads=2)
    shared = {"weights": "open", "method": "dasl", "box": "official", "map_source": "none"}
    assert seen["points"] == (("aflw2000", Path("data"), Path("out")), shared | {"threads": 1})
    assert seen["meshes"][1] == shared | {"threads": 2, "refine": False}
    ours("open", "fit").predict("aflw2000", Path("data"), Path("out"))
    assert seen["points"][1]["map_source"] is None
