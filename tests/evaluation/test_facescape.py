"""FaceScape's protocol on a tiny copy of the benchmark: closed forms, failures, traps."""

import json

import numpy as np
import pytest

from helpers.facescape_files import (
    FLIP,
    LAB_ITEMS,
    UNIT_MM,
    WILD_ITEMS,
    face,
    lab_camera_mm,
    lab_focal_px,
    lab_name,
    put,
    sheet,
    wild_camera_mm,
    write_lab,
    write_wild,
)
from lifemask.assets import UserError
from lifemask.data.facescape import load_facescape_lab, load_facescape_wild
from lifemask.evaluation.facescape import score_facescape
from lifemask.evaluation.meshes import load_mesh_predictions
from lifemask.evaluation.score import score

pytest.importorskip("igl")
HEAD = sheet(face, half_x=35.0, y_range=(-45.0, 45.0))


@pytest.fixture(scope="module")
def wild(tmp_path_factory):
    return write_wild(tmp_path_factory.mktemp("wild") / "benchmark", *HEAD)


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    return write_lab(tmp_path_factory.mktemp("lab") / "benchmark", *HEAD)


def put_wild(folder, change=lambda v: v, faces=HEAD[1], items=WILD_ITEMS):
    """Predictions in half image sides; `change` acts on mm in the camera frame."""
    for k in items:
        put(folder / f"{k:03d}.ply", change(wild_camera_mm(HEAD[0], k)) / UNIT_MM, faces)
    return folder


def numbers(result, **flags):
    """The first number of each metric whose flags agree."""
    found = {}
    for entry in result["numbers"]:
        if all(entry["flags"].get(k) == v for k, v in flags.items()):
            found.setdefault(entry["metric"], entry)
    return found


def test_identity_is_zero_wherever_its_depth_origin_is(wild, tmp_path):
    put_wild(tmp_path, lambda v: v + [0, 0, 333.0])
    result = score("facescape_wild", wild, tmp_path, tmp_path / "out" / "result.json")
    found = numbers(result)
    assert found["cd_mm"]["value"] < 2e-3
    assert found["normal_angle_deg"]["value"] < 0.05
    assert found["cr_percent"]["value"] > 99.5
    assert found["cd_mm"]["groups"]["yaw"].keys() == {"0-5", "5-30", "60-90"}
    assert result["misses"] == {"total": 0} and not result["complete"]
    assert json.loads((tmp_path / "out" / "result.json").read_text()) == result


def test_depth_is_aligned_by_the_median_and_nothing_else_moves(wild, tmp_path):
    """A prediction of which the smaller part is dented stays where the larger part fits."""

    def dent(v):
        head = (v - wild_camera_mm(np.zeros((1, 3)), 0)) @ np.eye(3)
        return v - np.outer(head[:, 1] > 30, [0, 0, 8.0])

    put_wild(tmp_path / "dent", dent, items=(0,))
    put_wild(tmp_path / "shift", lambda v: v + [8.0, 0, 0], items=(0,))
    values = {}
    for name in ("dent", "shift"):
        result = score_facescape(load_facescape_wild(wild), load_mesh_predictions(tmp_path / name))
        values[name] = result["per_item"]["cd_mm"][0]
    assert 0.3 < values["dent"] < 0.35 * 8
    assert values["shift"] > 1


def test_scale_is_given_by_the_photo(wild, tmp_path):
    """10 % too large about the head's centre is an error, as large as the radius says."""
    center = wild_camera_mm(np.zeros((1, 3)), 0)
    put_wild(tmp_path, lambda v: center + 1.1 * (v - center), items=(0,))
    result = score_facescape(load_facescape_wild(wild), load_mesh_predictions(tmp_path))
    assert 0.5 < result["per_item"]["cd_mm"][0] < 8.0


def test_order_of_vertices_and_faces_does_not_matter(wild, tmp_path):
    order = np.random.default_rng(0).permutation(len(HEAD[0]))
    faces = np.argsort(order)[HEAD[1]][::-1]
    bend = lambda v: v * [1, 1, 1.2]  # noqa: E731
    put_wild(tmp_path / "a", bend, items=(0,))
    put_wild(tmp_path / "b", lambda v: bend(v)[order], faces, items=(0,))
    rows = [
        score_facescape(load_facescape_wild(wild), load_mesh_predictions(tmp_path / n))["per_item"]
        for n in "ab"
    ]
    assert rows[0] == rows[1]


def test_failures_are_counted_and_flagged(wild, tmp_path):
    put_wild(tmp_path, items=WILD_ITEMS[:1])
    put_wild(tmp_path, lambda v: v + [900.0, 0, 0], items=WILD_ITEMS[1:2])
    result = score_facescape(load_facescape_wild(wild), load_mesh_predictions(tmp_path))
    assert result["misses"] == {"total": 2, "no mesh": 1, "no overlap": 1}
    entries = [e for e in result["numbers"] if e["metric"] == "cd_mm"]
    assert entries[0]["value"] < 2e-3 and entries[0]["done_percent"] == pytest.approx(33.3333)
    assert (
        entries[1]["flags"]["misses"] == "larger than every error" and entries[1]["value"] is None
    )
    covered = [e for e in result["numbers"] if e["metric"] == "cr_percent"]
    assert covered[1]["value"] == pytest.approx(covered[0]["value"] / 3, abs=0.01)


def test_mirrored_mesh_is_caught(wild, tmp_path):
    center = wild_camera_mm(np.zeros((1, 3)), 0)[0, 0]
    put_wild(tmp_path, lambda v: [2 * center, 0, 0] + v * [-1, 1, 1], items=(0,))
    result = score_facescape(load_facescape_wild(wild), load_mesh_predictions(tmp_path))
    check = result["checks"][0]
    assert check["check"] == "inside out" and check["suspicious"] and check["meshes"] == ["000"]
    assert "mirrored" in check["message"]
    assert result["per_item"]["normal_angle_deg"][0] > 120


def test_units_and_cameras_are_checked(wild, tmp_path):
    put_wild(tmp_path / "mm", lambda v: v * UNIT_MM, items=(0,))
    with pytest.raises(UserError, match="half image sides"):
        score_facescape(load_facescape_wild(wild), load_mesh_predictions(tmp_path / "mm"))
    put_wild(tmp_path / "pinhole", items=(0,))
    meta = tmp_path / "pinhole" / "meta.json"
    for camera, message in (("pinhole", "convert"), ("fisheye", "unknown camera")):
        meta.write_text(json.dumps({"camera": camera}))
        with pytest.raises(UserError, match=message):
            score_facescape(load_facescape_wild(wild), load_mesh_predictions(tmp_path / "pinhole"))


def test_lab_pinhole_identity(lab, tmp_path, size=0.37):
    """Zero at convergence in any unit; the published single step leaves a little."""
    for item in LAB_ITEMS:
        put(tmp_path / f"{lab_name(item)}.ply", size * lab_camera_mm(HEAD[0], *item[1:]), HEAD[1])
    (tmp_path / "meta.json").write_text('{"camera": "pinhole"}')
    result = score_facescape(load_facescape_lab(lab), load_mesh_predictions(tmp_path))
    exact, published = (numbers(result, depth=d) for d in ("to convergence", "as published"))
    assert exact["cd_mm"]["value"] < 2e-3 and exact["cr_percent"]["value"] > 99.5
    assert 0.01 < published["cd_mm"]["value"] < 3
    assert exact["cd_mm"]["groups"]["yaw"].keys() == {"0", "60", "30"}
    assert exact["cd_mm"]["groups"]["focal"].keys() == {"1200", "300", "600"}


def test_lab_orthographic_prediction_enters_at_the_focal_distance(lab, tmp_path):
    """In half image sides the focal length is f / 128: there such a mesh stands right.

    A wide lens distorts what was made from its picture as if that were orthographic.
    """
    for item, flatten in (((0, 0, 0), False), ((0, 2, 9), True)):
        camera = lab_camera_mm(HEAD[0], *item[1:])
        size = lab_focal_px(item[1]) / 128 / -camera[:, 2].mean()
        half_sides = camera * size + [0, 0, 17.0]
        if flatten:
            half_sides[:, :2] *= camera[:, 2:].mean() / camera[:, 2:]
        put(tmp_path / f"{lab_name(item)}.ply", half_sides, HEAD[1])
    result = score_facescape(load_facescape_lab(lab), load_mesh_predictions(tmp_path))
    assert result["misses"] == {"total": 1, "no mesh": 1}
    values = numbers(result, depth="to convergence")["cd_mm"]["groups"]["focal"]
    assert values["1200"] < 2e-3 and 0.2 < values["300"] < 15


def test_lab_truth_is_in_our_camera_frame(lab):
    data = load_facescape_lab(lab)
    item = data.items[0]
    vertices, _ = data.truth(item)
    np.testing.assert_allclose(vertices, lab_camera_mm(HEAD[0], 0, 0), atol=1e-2)
    assert (vertices[:, 2] < 0).all()
    head = (vertices - item.head_center_mm) @ item.head_rotation
    np.testing.assert_allclose(head, HEAD[0], atol=1e-2)
    assert np.linalg.det(item.head_rotation) == pytest.approx(1) and (FLIP @ FLIP).trace() == 3


def test_scoring_twice_gives_the_same_file(wild, tmp_path):
    put_wild(tmp_path / "p", lambda v: v * [1.02, 0.98, 1], items=WILD_ITEMS[:1])
    first, second = (score("facescape_wild", wild, tmp_path / "p") for _ in range(2))
    assert json.dumps(first) == json.dumps(second)
