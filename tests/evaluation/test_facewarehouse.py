"""FaceWarehouse's protocol on a tiny copy: identity, known sizes, misses, flags."""

import numpy as np
import pytest

from helpers.facescape_files import put
from helpers.scan_files import write_facewarehouse
from lifemask.data.facewarehouse import load_facewarehouse
from lifemask.evaluation.facewarehouse import FOUR_FROM_51, score_facewarehouse, target_of
from lifemask.evaluation.meshes import load_mesh_predictions
from lifemask.evaluation.score import score
from lifemask.facemodel.landmarks import INNER_51

pytest.importorskip("igl")


@pytest.fixture(scope="module")
def warehouse(tmp_path_factory):
    return write_facewarehouse(tmp_path_factory.mktemp("facewarehouse"), poses=(7,), n=31)


def predict(data, folder, change=lambda v: v, names=None):
    for name in names or data.names:
        vertices, faces = data.truth(name)
        put(folder / f"{name}.ply", change(vertices), faces)
    return load_mesh_predictions(folder)


def first(result, metric, align):
    for entry in result["numbers"]:
        if entry["metric"] == metric and entry["flags"].get("align") == align:
            return entry
    raise AssertionError(f"no {metric} {align}")


def test_identity_is_zero_and_groups_are_named(warehouse, tmp_path):
    data = load_facewarehouse(warehouse)
    predict(data, tmp_path, lambda v: v + [30.0, 5, -200])
    result = score("facewarehouse", warehouse, tmp_path)
    main = first(result, "point_to_surface_mean_mm", "similarity ICP")
    assert main == result["numbers"][0] and main["value"] < 0.02
    assert main["groups"]["subject"].keys() == {"Tester_2", "Tester_10"}
    assert main["groups"]["pose"].keys() == {"pose_7"}
    assert result["unit_mm"] == 100 and not result["complete"]
    exact = first(result, "per_vertex_mm", "similarity of corresponding vertices")
    assert exact["value"] < 1e-3


def test_a_wrong_size_is_forgiven_with_scale_and_known_without(warehouse, tmp_path):
    """Rigid ICP of a head 5 % too large leaves no more than 5 % of the mean radius."""
    data = load_facewarehouse(warehouse)
    name = data.names[0]
    result = score_facewarehouse(data, predict(data, tmp_path, lambda v: 1.05 * v, [name]))
    assert first(result, "point_to_surface_mean_mm", "similarity ICP")["value"] < 0.02
    target = target_of(data.truth(name))
    points = target.whole[0][target.keep]
    radius = np.linalg.norm(points - points.mean(0), axis=1).mean()
    rigid = first(result, "point_to_surface_mean_mm", "rigid ICP")["value"]
    assert 0.2 < rigid < 0.05 * radius
    assert result["misses"] == {"total": 1, "no mesh": 1}
    assert result["numbers"][0]["done_percent"] == 50


def test_a_uniform_offset_of_corresponding_vertices_is_its_length(warehouse, tmp_path):
    """Alternating +-1 mm along x cannot be aligned away: the per-vertex number is 1."""
    data = load_facewarehouse(warehouse)
    signs = np.where(np.arange(31 * 31) % 2 == 0, 1.0, -1.0)
    shake = lambda v: v + np.outer(signs, [1.0, 0, 0])  # noqa: E731
    result = score_facewarehouse(data, predict(data, tmp_path, shake, data.names[:1]))
    exact = first(result, "per_vertex_mm", "similarity of corresponding vertices")
    assert exact["value"] == pytest.approx(1.0, abs=0.01)


def test_mirrored_meshes_are_caught(warehouse, tmp_path):
    data = load_facewarehouse(warehouse)
    flipped = predict(data, tmp_path, lambda v: v * [-1, 1, 1], data.names[:1])
    result = score_facewarehouse(data, flipped)
    no_start = result["misses"].get("no start: neither landmarks nor a nose", 0)
    assert len(result["checks"][0]["meshes"]) + no_start == 1


def test_the_four_points_are_the_ones_meant():
    rows = [[INNER_51[i] for i in part] for part in FOUR_FROM_51]
    assert rows == [[39], [42], [33], [62, 66]]
