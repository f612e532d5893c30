"""REALY's protocol: regions aligned by themselves, correspondences by deformation."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from helpers.realy_files import (
    SCALE,
    realy_head,
    realy_keypoints,
    region,
    write_realy,
)
from helpers.scan_shapes import rotation, write_obj

pytest.importorskip("igl")
pytest.importorskip("scipy")

from lifemask.data.realy import REGIONS, RealyScan, load_realy  # noqa: E402
from lifemask.evaluation._nonrigid import Keys, deform, stages  # noqa: E402
from lifemask.evaluation.meshes import load_mesh_predictions  # noqa: E402
from lifemask.evaluation.realy import region_error_mm, score_realy, used_once  # noqa: E402
from lifemask.evaluation.surface import Similarity  # noqa: E402

VERTICES, FACES = realy_head()
KEYS = realy_keypoints(VERTICES)
SCAN = RealyScan({r: region(r, VERTICES, FACES) for r in REGIONS}, KEYS, SCALE)
MOTION = Similarity(120.0, rotation([10, 60, 5]), np.array([3.0, 0.0, 90.0]))


@pytest.mark.parametrize("name", REGIONS)
def test_the_scan_itself_has_no_error(name):
    mesh, keys = (MOTION.apply(VERTICES), FACES), MOTION.apply(KEYS)
    assert region_error_mm(SCAN, mesh, keys, name, "nearest") < 1e-5
    assert region_error_mm(SCAN, mesh, keys, name, "nonrigid") < 0.02


def test_another_region_does_not_matter():
    spoiled = VERTICES.copy()
    spoiled[VERTICES[:, 1] * SCALE < -75] *= 1.3
    assert region_error_mm(SCAN, (spoiled, FACES), KEYS, "forehead", "nearest") < 1e-5


def test_sliding_along_the_surface_is_seen_by_the_deformation_only():
    """A nose drawn 6 mm further down: closest points forgive what correspondences charge."""

    def lowered(points):
        share = np.exp(-((np.linalg.norm(points * SCALE - [0, -2, 103], axis=1) / 22) ** 2))
        return points - share[:, None] * np.array([0.0, 6.0 / SCALE, 0.0])

    mesh, keys = (lowered(VERTICES), FACES), lowered(KEYS)
    nearest = region_error_mm(SCAN, mesh, keys, "nose", "nearest")
    assert region_error_mm(SCAN, mesh, keys, "nose", "nonrigid") > nearest
    doubled = replace(SCAN, mm_per_unit=2 * SCALE)
    assert region_error_mm(doubled, mesh, keys, "nose", "nearest") == pytest.approx(2 * nearest)


def test_a_mirrored_mesh_is_caught():
    mirror = np.array([-1.0, 1.0, 1.0])
    mesh = (VERTICES * mirror, FACES[:, ::-1])
    assert region_error_mm(SCAN, mesh, KEYS * mirror, "cheek", "nearest") > 0.3


def test_deformation_reaches_a_bent_copy():
    vertices, faces = used_once(*SCAN.regions["cheek"])
    bent = vertices + [0.0, 0.0, 0.2] + 0.05 * np.sin(vertices[:, [1, 2, 0]])
    moved = deform(vertices, faces, bent)
    before = np.linalg.norm(bent - vertices, axis=1).mean()
    assert np.linalg.norm(moved - bent, axis=1).mean() < 0.5 * before


def test_key_points_pull_first():
    vertices, faces = used_once(*SCAN.regions["mouth"])
    ids = np.array([0, len(vertices) // 2, len(vertices) - 1])
    keys = Keys(ids, vertices[ids] + [0.0, 0.3, 0.0])
    moved = deform(vertices, faces, vertices + [0.0, 0.3, 0.0], keys)
    np.testing.assert_allclose(moved[ids], keys.targets, atol=0.05)
    assert [s.data for s in stages(True)] == [False, True, True, True]
    assert len(stages(False)) == 3


def test_equal_vertices_become_one():
    vertices = np.array([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [1, 0, 0], [9, 9, 9]])
    kept, faces = used_once(vertices, np.array([[0, 1, 2], [3, 2, 0]]))
    assert len(kept) == 3
    np.testing.assert_allclose(kept[faces[1]], vertices[[3, 2, 0]])


def test_folder_to_numbers(tmp_path):
    write_realy(tmp_path / "data")
    data = load_realy(tmp_path / "data")
    for name in ("1", "1_2"):
        write_obj(tmp_path / "p" / f"{name}.obj", MOTION.apply(VERTICES), FACES)
    (tmp_path / "p" / "1.landmarks.json").write_text(
        json.dumps({"realy85": MOTION.apply(KEYS).tolist()})
    )
    known = np.zeros((68, 3))
    known[:] = MOTION.apply(KEYS)[:68]
    (tmp_path / "p" / "1_2.landmarks.json").write_text(json.dumps({"ict68": known.tolist()}))
    result = score_realy(data, load_mesh_predictions(tmp_path / "p"))
    assert result["misses"]["total"] == 1
    rows = {
        (n["flags"]["view"], n["flags"]["region"], n["flags"]["correspondence"]): n
        for n in result["numbers"]
    }
    assert rows["frontal", "all", "nearest"]["value"] == pytest.approx(0.0, abs=1e-3)
    assert rows["frontal", "all", "nearest"]["images"] == 1
    assert rows["other views", "nose", "nonrigid"]["value"] < 0.05
    json.dumps(result, allow_nan=False)
