"""Benchmarks of 2DASL: the source of its map is part of what a prediction was made with."""

import json

import numpy as np
import pytest

from helpers.aflw2000_files import COUNT, face_labels, write_packed
from helpers.dasl_weights import write_untrained_dasl
from helpers.heads_set import write_heads
from lifemask.apps.cli import main
from lifemask.assets import AssetError, UserError
from lifemask.evaluation.meshes import META_NAME, load_mesh_predictions
from lifemask.evaluation.predict import predict
from lifemask.evaluation.predict_meshes import predict_meshes
from lifemask.evaluation.predictions import load_predictions
from lifemask.pipeline import Pipeline


@pytest.fixture
def packed(tmp_path):
    write_packed(tmp_path / "data", face_labels())
    return tmp_path / "data"


@pytest.fixture(scope="module")
def untrained(tmp_path_factory):
    return write_untrained_dasl(tmp_path_factory.mktemp("weights"))


@pytest.fixture
def weights(untrained, monkeypatch):
    monkeypatch.setenv("LIFEMASK_WEIGHTS", str(untrained))


class Recorder:
    """A loader of systems that remembers what was loaded and which photos were predicted."""

    def __init__(self, stop_at=None):
        self.loaded, self.photos, self.stop_at = [], 0, stop_at

    def __call__(self, method, weights, threads, convention, map_source):
        self.loaded.append((method, weights, map_source))
        return self.run

    def run(self, image, face):
        if self.photos == self.stop_at:
            raise KeyboardInterrupt
        self.photos += 1
        return np.full((68, 3), float(len(self.loaded[-1][2] or ""))), np.zeros(3)


def test_another_map_source_starts_again(packed, tmp_path, monkeypatch):
    monkeypatch.setattr("lifemask.evaluation.predict._SAVE_EVERY", 2)
    out = tmp_path / "p.npz"

    def run(recorder, source):
        monkeypatch.setattr("lifemask.evaluation.predict.load_system", recorder)
        options = {"method": "dasl", "weights": "open", "map_source": source}
        predict("aflw2000", packed, out, **options)

    with pytest.raises(KeyboardInterrupt):
        run(Recorder(stop_at=5), "none")
    assert load_predictions(tmp_path / "p.npz.partial.npz").meta["map"] == "none"
    other = Recorder()
    run(other, "detector")
    assert other.loaded == [("dasl", "open", "detector")] and other.photos == COUNT
    found = load_predictions(out)
    assert found.meta["map"] == "detector" and found.meta["method"] == "dasl"
    assert (found.landmarks68 == len("detector")).all()
    with pytest.raises(KeyboardInterrupt):
        run(Recorder(stop_at=5), None)
    same = Recorder()
    run(same, "detector")  # what None stands for
    assert same.photos == COUNT - 4 and load_predictions(out).meta["map"] == "detector"


def test_other_methods_have_no_map(packed, tmp_path, monkeypatch):
    with pytest.raises(UserError, match="--map belongs to"):
        predict("aflw2000", packed, tmp_path / "p.npz", method="fit", map_source="self")
    monkeypatch.setattr("lifemask.evaluation.predict.load_system", Recorder())
    predict("aflw2000", packed, tmp_path / "p.npz", method="fit")
    assert "map" not in load_predictions(tmp_path / "p.npz").meta


def run(*arguments) -> int:
    """Exit status of a command."""
    try:
        main([str(a) for a in arguments])
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def test_points_of_an_untrained_network_from_the_command_line(weights, packed, tmp_path, capsys):
    out = tmp_path / "p.npz"
    given = ("predict", "aflw2000", "--data", packed, "--weights", "open", "-o", out)
    assert run(*given, "--method", "dasl", "--map", "none") == 0
    found = load_predictions(out)
    assert found.meta["map"] == "none" and found.meta["method"] == "dasl"
    assert found.found.all() and np.isfinite(found.landmarks68).all()
    centers = (found.landmarks68.min(axis=1) + found.landmarks68.max(axis=1))[:, :2] / 2
    boxes = face_labels()["crop_roi_box"]
    middle, side = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2] - boxes[:, 0]
    assert (np.abs(centers - middle) < 0.4 * side[:, None]).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--map self", "method landmarker draws no landmark map"),
        ("--method dasl --map sketch", "unknown map source 'sketch'; valid: detector, self, none"),
        ("--method magic", "unknown method 'magic'; valid: dasl, fit, pgn"),
        ("--method dasl --weights research", "dasl weights are not installed: dasl-research"),
    ],
)
def test_wrong_options_are_one_line_and_status_2(
    weights, packed, tmp_path, capsys, options, message
):
    out = tmp_path / "p.npz"
    assert run("predict", "aflw2000", "--data", packed, "-o", out, *options.split()) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and message in error and error.count("\n") == 1
    assert not list(tmp_path.glob("p.npz*"))


def test_meshes_record_map_and_refinement(weights, tmp_path, monkeypatch):
    write_heads(tmp_path / "set", heads=1)
    monkeypatch.setattr(Pipeline, "dress", lambda *args: None)
    options = {"method": "dasl", "weights": "open", "map_source": "none"}
    out = predict_meshes(
        "synthetic_heads", tmp_path / "set", tmp_path / "p", refine=False, **options
    )
    found = load_mesh_predictions(out)
    assert found.meta["map"] == "none" and found.meta["refine"] == "off"
    assert found.mesh("head-000-0") is not None
    for changed in ({"map_source": "self"}, {"map_source": "none", "refine": True}):
        with pytest.raises(UserError, match="other settings"):
            predict_meshes(
                "synthetic_heads", tmp_path / "set", out, **({"refine": False} | options | changed)
            )
    with pytest.raises(AssetError, match="dasl weights are not installed"):
        options["weights"] = "research"
        predict_meshes("synthetic_heads", tmp_path / "set", tmp_path / "q", **options)
    assert not (tmp_path / "q").exists()
    assert json.loads((out / META_NAME).read_text())["method"] == "dasl"
