"""Benchmarks predicted by PGN: points of its head, and meshes, from weights as they are shipped."""

import numpy as np
import pytest
import torch

from helpers.aflw2000_files import COUNT, face_labels, write_packed
from helpers.heads_set import write_heads
from lifemask.apps.cli import main
from lifemask.assets import AssetError, weights_folder
from lifemask.data.aflw2000 import load_aflw2000
from lifemask.evaluation.meshes import load_mesh_predictions
from lifemask.evaluation.predict_meshes import predict_meshes
from lifemask.evaluation.predictions import load_predictions
from lifemask.facemodel import load_face_model
from lifemask.graphics.camera import euler_deg_from_rotation, project
from lifemask.methods.pgn import PgnConfig, create_pgn, load_pgn
from lifemask.pipeline import Pipeline
from lifemask.training.pgn_export import export_pgn


@pytest.fixture(scope="module")
def untrained(tmp_path_factory):
    """A weights folder with all that is shipped, and an untrained `pgn-open` in place of PGN's."""
    folder = tmp_path_factory.mktemp("weights")
    for file in weights_folder().iterdir():
        if not file.name.startswith("pgn-"):
            (folder / file.name).symlink_to(file.resolve())
    model = load_face_model()
    config = PgnConfig("tiny", 48, map_size=32, widths=(16, 16, 16), hidden=32)
    torch.manual_seed(5)
    weights = {k: v.clone() for k, v in create_pgn(config, model).state_dict().items()}
    card = {"summary": "untrained", "kind": "pgn", "tag": "open", "licence": "test", "sources": []}
    export_pgn(weights, config, model, folder, "pgn-open", card)
    return folder


@pytest.fixture(autouse=True)
def weights(untrained, monkeypatch):
    monkeypatch.setenv("LIFEMASK_WEIGHTS", str(untrained))


def run(*words):
    with pytest.raises(SystemExit) as stop:
        main([str(word) for word in words])
    return stop.value.code or 0


def test_points_and_pose_are_those_of_its_head_on_the_benchmarks_box(tmp_path):
    write_packed(tmp_path / "data", face_labels())
    out = tmp_path / "p.npz"
    given = ("predict", "aflw2000", "--data", tmp_path / "data", "-o", out, "--weights", "open")
    assert run(*given, "--method", "pgn") == 0
    found = load_predictions(out)
    assert found.meta["method"] == "pgn" and found.found.all() and len(found.names) == COUNT
    data, predictor = load_aflw2000(tmp_path / "data"), load_pgn("open")
    head = predictor(data.image(3), tuple(float(edge) for edge in data.boxes[3]))
    points = predictor.model.landmarks(head.vertices_mm, "ibug68-3d-bfm")
    expected = project(points, head.camera).numpy()
    np.testing.assert_allclose(found.landmarks68[3], expected, atol=1e-3)
    pose = euler_deg_from_rotation(head.camera.rotation).numpy()
    np.testing.assert_allclose(found.pose_deg[3], pose, atol=1e-3)


def test_meshes_are_written_and_missing_weights_are_told_first(tmp_path, monkeypatch):
    write_heads(tmp_path / "set", heads=1)
    monkeypatch.setattr(Pipeline, "dress", lambda *args: None)
    options = {"method": "pgn", "weights": "open", "refine": False}
    out = predict_meshes("synthetic_heads", tmp_path / "set", tmp_path / "p", **options)
    found = load_mesh_predictions(out)
    assert found.meta["method"] == "pgn" and found.mesh("head-000-0") is not None
    with pytest.raises(AssetError, match="pgn weights are not installed: pgn-research"):
        options["weights"] = "research"
        predict_meshes("synthetic_heads", tmp_path / "set", tmp_path / "q", **options)
    assert not (tmp_path / "q").exists()


def test_pgn_has_no_map(tmp_path, capsys):
    write_packed(tmp_path / "data", face_labels())
    given = ("predict", "aflw2000", "--data", tmp_path / "data", "-o", tmp_path / "p.npz")
    assert run(*given, "--method", "pgn", "--map", "self") == 2
    assert "--map belongs to --method dasl" in capsys.readouterr().err
