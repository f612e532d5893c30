"""The folder of meshes that any system writes: names, units, misses, and one clear error."""

import json

import numpy as np
import pytest

from lifemask.assets import UserError
from lifemask.evaluation import score as scoring
from lifemask.evaluation.meshes import check_names, load_mesh_predictions
from lifemask.graphics.meshio import MeshPrimitive, MeshScene, write_mesh

VERTICES = np.array([[0, 0, 0], [100, 0, 0], [0, 100, 0], [0, 0, 100]], np.float32)
FACES = np.array([[0, 1, 2], [0, 2, 3]], np.int32)


def put(folder, name, vertices=VERTICES):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    write_mesh(MeshScene(np.asarray(vertices, np.float32), (MeshPrimitive("m", FACES),)), path)
    return path


@pytest.mark.parametrize("suffix", [".ply", ".obj", ".glb"])
def test_every_format_reads_back_in_millimetres(tmp_path, suffix):
    put(tmp_path, f"wild/a.1{suffix}")
    loaded = load_mesh_predictions(tmp_path)
    assert list(loaded.files) == ["wild/a.1"]
    found = loaded.mesh("wild/a.1")
    assert found is not None
    np.testing.assert_allclose(found[0], VERTICES, atol=1e-4)
    np.testing.assert_array_equal(found[1], FACES)
    assert loaded.mesh("wild/b") is None


def test_landmarks_and_meta(tmp_path):
    put(tmp_path, "a.ply")
    (tmp_path / "meta.json").write_text('{"system": "x"}')
    (tmp_path / "a.landmarks.json").write_text('{"now7": [[1, 2, 3], [4, 5, 6]], "bad": [[1, 2]]}')
    loaded = load_mesh_predictions(tmp_path)
    assert loaded.meta == {"system": "x"} and len(loaded) == 1
    np.testing.assert_array_equal(loaded.landmarks("a", "now7"), [[1, 2, 3], [4, 5, 6]])
    assert loaded.landmarks("a", "ibug68") is None and loaded.landmarks("b", "now7") is None
    with pytest.raises(UserError, match="bad"):
        loaded.landmarks("a", "bad")


def test_digest_depends_on_names_and_contents_only(tmp_path):
    for folder in ("one", "two", "three"):
        put(tmp_path / folder, "a.ply")
    put(tmp_path / "three", "b.ply")
    digests = [load_mesh_predictions(tmp_path / f).sha256() for f in ("one", "two", "three")]
    assert digests[0] == digests[1] != digests[2]


def test_folders_that_cannot_be_scored(tmp_path):
    with pytest.raises(UserError, match="not a folder"):
        load_mesh_predictions(tmp_path / "absent")
    with pytest.raises(UserError, match="no mesh"):
        load_mesh_predictions(tmp_path)
    put(tmp_path, "a.ply")
    put(tmp_path, "a.obj")
    with pytest.raises(UserError, match="twice"):
        load_mesh_predictions(tmp_path)
    (tmp_path / "a.obj").unlink()
    loaded = load_mesh_predictions(tmp_path)
    check_names(loaded, ["b", "a"])
    with pytest.raises(UserError, match="none of the 1"):
        check_names(loaded, ["b"])
    (tmp_path / "a.ply").write_text("ply\nnot really")
    with pytest.raises(UserError, match="not a mesh"):
        loaded.mesh("a")
    (tmp_path / "meta.json").write_text("[1]")
    with pytest.raises(UserError, match="object"):
        load_mesh_predictions(tmp_path)


def test_numbers_that_are_not_finite_are_refused(tmp_path):
    text = "v 0 0 nan\nv 1 0 0\nv 0 1 0\nf 1 2 3\n"
    (tmp_path / "a.obj").write_text(text)
    with pytest.raises(UserError, match="undefined"):
        load_mesh_predictions(tmp_path).mesh("a")


def load_nothing(folder):
    return str(folder)


def count_meshes(data, predictions):
    return {"meshes": len(predictions.files), "data": data}


def test_score_takes_a_folder_for_mesh_protocols(tmp_path, monkeypatch):
    put(tmp_path / "guess", "a.ply")
    entry = scoring.Protocol(f"{__name__}:load_nothing", f"{__name__}:count_meshes", "meshes")
    monkeypatch.setitem(scoring.PROTOCOLS, "mine", entry)
    monkeypatch.setattr(scoring, "load_entry", lambda name: globals()[name.split(":")[1]])
    path = tmp_path / "out" / "mine.json"
    result = scoring.score("mine", "there", tmp_path / "guess", path)
    assert json.loads(path.read_text()) == result
    assert result["meshes"] == 1 and result["predictions"]["folder"] == "guess"
    with pytest.raises(UserError, match="give a folder"):
        scoring.score("mine", "there", path)


def test_protocol_entries_name_code_that_exists():
    for entry in scoring.PROTOCOLS.values():
        for name in (entry.load, entry.score):
            assert callable(scoring.load_entry(name))
