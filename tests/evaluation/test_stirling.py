"""The FG2018 protocol: landmark alignment only, root mean square, two crops."""

from __future__ import annotations

import json

import numpy as np
import pytest

from helpers.scan_shapes import landmarks7, lopsided_head, rotation, sphere, write_obj
from helpers.stirling_files import write_stirling

pytest.importorskip("igl")

from lifemask.data._scan_files import LandmarkedScan  # noqa: E402
from lifemask.data.stirling import load_stirling  # noqa: E402
from lifemask.evaluation.meshes import load_mesh_predictions  # noqa: E402
from lifemask.evaluation.stirling import (  # noqa: E402
    inner_face,
    scan_distances,
    score_stirling,
)
from lifemask.evaluation.surface import Similarity  # noqa: E402

VERTICES, FACES = lopsided_head()
SEVEN = landmarks7(VERTICES)
SCAN = LandmarkedScan(VERTICES, FACES, SEVEN)
MOTION = Similarity(0.01, rotation([5, 170, -30]), np.array([1.0, 2.0, 3.0]))


def test_any_unit_and_pose_scores_zero():
    mesh, seven = (MOTION.apply(VERTICES), FACES), MOTION.apply(SEVEN)
    for align in ("landmarks", "icp"):
        assert scan_distances(SCAN, mesh, seven, align).max() < 1e-6


def test_concentric_balls_differ_by_their_radii():
    vertices, faces = sphere(80.0, 64)
    scan = LandmarkedScan(vertices, faces, landmarks7(vertices))
    distance = scan_distances(scan, (vertices * 82.0 / 80.0, faces), scan.landmarks7_mm)
    assert distance.mean() == pytest.approx(2.0, abs=0.03)


def test_bad_landmarks_cost_until_icp_mends_them():
    wrong = SEVEN + np.random.default_rng(0).normal(0, 3, SEVEN.shape)
    clicked = scan_distances(SCAN, (VERTICES, FACES), wrong)
    assert clicked.mean() > 0.2
    assert scan_distances(SCAN, (VERTICES, FACES), wrong, "icp").mean() < 0.01


def test_the_scripts_radius_depends_on_the_origin():
    _, paper = inner_face(SEVEN, "paper")
    _, script = inner_face(SEVEN, "script")
    moved = SEVEN + [0.0, 0.0, -500.0]
    assert inner_face(moved, "paper")[1] == pytest.approx(paper)
    assert inner_face(moved, "script")[1] > script + 300


def test_a_mirrored_mesh_is_caught():
    mirror = np.array([-1.0, 1.0, 1.0])
    mesh = (VERTICES * mirror, FACES[:, ::-1])
    assert scan_distances(SCAN, mesh, SEVEN * mirror).mean() > 0.5


def test_folder_to_numbers(tmp_path):
    write_stirling(tmp_path / "data")
    data = load_stirling(tmp_path / "data")
    for name, size in zip(data.names[:2], (1.0, 3.0), strict=True):
        write_obj(tmp_path / "p" / f"{name}.obj", size * VERTICES, FACES)
        np.savetxt(tmp_path / "p" / f"{name}.txt", size * SEVEN)
    result = score_stirling(data, load_mesh_predictions(tmp_path / "p"))
    assert result["misses"]["total"] == 1
    assert result["misses"]["by_quality"] == {"HQ": 0, "LQ": 1}
    first = result["numbers"][0]
    assert first["metric"] == "rmse_mm" and first["flags"]["photos"] == "all"
    assert first["flags"]["align"] == "landmarks" and first["flags"]["crop"] == "paper"
    assert first["value"] == pytest.approx(0.0, abs=1e-3) and first["images"] == 2
    json.dumps(result, allow_nan=False)
