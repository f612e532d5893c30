"""The scan protocol on a made-up scan: units, both directions, and what must not count."""

from __future__ import annotations

import json

import numpy as np
import pytest

from helpers.scan_shapes import landmarks7, lopsided_head, rotation, write_obj

pytest.importorskip("igl")
pytest.importorskip("scipy")

from lifemask.assets import UserError  # noqa: E402
from lifemask.data.scans import HeadScan, load_scans  # noqa: E402
from lifemask.evaluation._shape_errors import normals_of  # noqa: E402
from lifemask.evaluation.meshes import load_mesh_predictions  # noqa: E402
from lifemask.evaluation.scans import (  # noqa: E402
    errors,
    lay,
    open_vertices,
    outer_faces,
    score_scans,
    true_face,
)
from lifemask.evaluation.surface import Similarity  # noqa: E402

VERTICES, FACES = lopsided_head(24)
SEVEN = landmarks7(VERTICES)
FACE = true_face(HeadScan("egg", VERTICES, FACES, SEVEN))
MOTION = Similarity(1.0, rotation([5, 40, 10]), np.array([10.0, 0.0, -300.0]))


def test_the_scan_itself_is_perfect():
    mesh = (MOTION.apply(VERTICES), FACES)
    found = errors(FACE, lay(FACE, mesh, MOTION.apply(SEVEN), "icp rigid"))
    assert found["chamfer_mm"] < 1e-6
    assert found["normal_angle_deg"] < 1e-3
    assert found["detail_r"] == pytest.approx(1.0, abs=1e-6)
    assert found["detail_energy_ratio"] == pytest.approx(1.0, abs=1e-5)


def test_a_mesh_one_millimetre_outside_costs_one_both_ways():
    inflated = VERTICES + normals_of(VERTICES, FACES)
    found = errors(FACE, lay(FACE, (inflated, FACES), SEVEN, "landmarks similarity"))
    assert found["scan_to_mesh_mm"] == pytest.approx(1.0, abs=0.03)
    assert found["mesh_to_scan_mm"] == pytest.approx(1.0, abs=0.03)
    assert found["chamfer_mm"] == pytest.approx(1.0, abs=0.03)
    assert found["detail_r"] > 0.95


def test_a_scan_in_another_unit_is_refused():
    with pytest.raises(UserError, match="millimetres"):
        true_face(HeadScan("egg", VERTICES / 1000, FACES, SEVEN))


def test_size_is_charged_by_the_rigid_alignment_only():
    mesh, seven = (1.08 * VERTICES, FACES), 1.08 * SEVEN
    assert errors(FACE, lay(FACE, mesh, seven, "icp similarity"))["chamfer_mm"] < 1e-4
    assert errors(FACE, lay(FACE, mesh, seven, "icp rigid"))["chamfer_mm"] > 0.3


def test_a_mirrored_mesh_is_caught():
    mirror = np.array([-1.0, 1.0, 1.0])
    mesh = (VERTICES * mirror, FACES[:, ::-1])
    assert errors(FACE, lay(FACE, mesh, SEVEN * mirror, "icp similarity"))["chamfer_mm"] > 0.5


def test_what_lies_inside_the_head_does_not_count():
    both = np.concatenate([VERTICES, 0.75 * VERTICES])
    faces = np.concatenate([FACES, FACES + len(VERTICES)])
    outside = open_vertices(both, faces)
    assert not outside[len(VERTICES) :].any()
    assert outside[: len(VERTICES)].all()
    skin = outer_faces(both, faces)
    np.testing.assert_array_equal(skin, FACES)
    found = errors(FACE, lay(FACE, (both, skin), SEVEN, "icp similarity"))
    assert found["chamfer_mm"] < 1e-6
    assert len(outer_faces(VERTICES, FACES[:, ::-1])) == len(FACES)  # inside out: all is kept


def write_folder(root, file="egg.obj", unit=50.0):
    write_obj(root / file, VERTICES / unit, FACES)
    (root / "front.png").write_bytes(b"picture")
    (root / "side.png").write_bytes(b"picture")
    scan = {"name": "egg", "file": file, "mm_per_unit": unit, "landmarks7": (SEVEN / unit).tolist()}
    photos = [{"name": n, "file": f"{n}.png", "scan": "egg"} for n in ("front", "side")]
    (root / "scans.json").write_text(json.dumps({"scans": [scan], "photos": photos}))


def test_folder_to_numbers(tmp_path):
    write_folder(tmp_path)
    data = load_scans(tmp_path)
    np.testing.assert_allclose(data.scan("egg").vertices_mm, VERTICES, atol=1e-4)
    write_obj(tmp_path / "p" / "front.obj", MOTION.apply(VERTICES), FACES)
    points = json.dumps({"now7": MOTION.apply(SEVEN).tolist()})
    (tmp_path / "p" / "front.landmarks.json").write_text(points)
    result = score_scans(data, load_mesh_predictions(tmp_path / "p"))
    assert result["misses"]["total"] == 1
    chamfer = [n for n in result["numbers"] if n["metric"] == "chamfer_mm"]
    assert [n["flags"]["align"] for n in chamfer] == [
        "icp similarity", "icp rigid", "landmarks similarity",
    ]  # fmt: skip
    assert all(n["value"] == pytest.approx(0.0, abs=1e-3) for n in chamfer)
    assert chamfer[0]["by_photo"]["side"] is None
    json.dumps(result, allow_nan=False)


def test_broken_folders_are_refused(tmp_path):
    with pytest.raises(UserError, match="benchmarks/scans.py"):
        load_scans(tmp_path)
    write_folder(tmp_path)
    (tmp_path / "side.png").unlink()
    with pytest.raises(UserError, match="side.png"):
        load_scans(tmp_path)
    (tmp_path / "scans.json").write_text('{"scans": []}')
    with pytest.raises(UserError, match="not a list"):
        load_scans(tmp_path)
