"""NoW's protocol: analytic cases and the traps it is known for."""

from __future__ import annotations

import json

import numpy as np
import pytest

from helpers.now_files import NAMES, write_now
from helpers.scan_shapes import landmarks7, lopsided_head, rotation, sphere, write_obj

pytest.importorskip("igl")

from lifemask.assets import UserError  # noqa: E402
from lifemask.data._scan_files import LandmarkedScan  # noqa: E402
from lifemask.data.now import load_now  # noqa: E402
from lifemask.evaluation.meshes import load_mesh_predictions  # noqa: E402
from lifemask.evaluation.now import VARIANTS, scan_distances, score_now  # noqa: E402
from lifemask.evaluation.surface import Similarity  # noqa: E402

VERTICES, FACES = lopsided_head()
SEVEN = landmarks7(VERTICES)
SCAN = LandmarkedScan(VERTICES, FACES, SEVEN)


def value(result, variant="non-metrical", challenge="all", statistic="mean"):
    wanted = {"variant": variant, "challenge": challenge, "statistic": statistic}
    (number,) = [n for n in result["numbers"] if wanted.items() <= n["flags"].items()]
    return number["value"]


def write_predictions(folder, names, motion=None, landmarks="json"):
    moved = Similarity(1.0, rotation([0, 10, 0]), np.zeros(3)) if motion is None else motion
    for name in names:
        write_obj(folder / f"{name}.obj", moved.apply(VERTICES), FACES)
        points = moved.apply(SEVEN)
        if landmarks == "json":
            (folder / f"{name}.landmarks.json").write_text(json.dumps({"now7": points.tolist()}))
        elif landmarks == "npy":
            np.save(folder / f"{name}.npy", points[None].astype(np.float32))
        else:
            (folder / f"{name}.txt").write_text("\n".join(f"{x} {y} {z}" for x, y, z in points))
    return load_mesh_predictions(folder)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_moved_copy_of_the_scan_scores_zero(variant):
    motion = Similarity(1.0, rotation([20, -40, 10]), np.array([9.0, 300.0, -50.0]))
    mesh = (motion.apply(VERTICES), FACES)
    assert scan_distances(SCAN, mesh, motion.apply(SEVEN), variant).max() < 1e-6


def test_only_the_metrical_variant_sees_the_size():
    motion = Similarity(0.93, rotation([20, -40, 10]), np.array([9.0, 300.0, -50.0]))
    mesh, seven = (motion.apply(VERTICES), FACES), motion.apply(SEVEN)
    assert scan_distances(SCAN, mesh, seven, "non-metrical").max() < 1e-5
    assert scan_distances(SCAN, mesh, seven, "metrical").mean() > 0.5


def test_a_ball_one_millimetre_too_large_scores_one():
    vertices, faces = sphere(80.0, 64)
    seven = landmarks7(vertices)
    wide = seven.copy()
    wide[[0, 3]] *= 4.0  # a crop that holds the whole ball, so that the optimum is concentric
    scan = LandmarkedScan(vertices, faces, wide)
    larger = (vertices * 81.0 / 80.0, faces)
    metrical = scan_distances(scan, larger, wide * 81.0 / 80.0, "metrical")
    assert len(metrical) == len(vertices)
    assert metrical.mean() == pytest.approx(1.0, abs=0.03)  # facets sag 0.024 mm
    assert scan_distances(scan, larger, wide * 81.0 / 80.0, "non-metrical").max() < 1e-5


def test_a_mirrored_mesh_is_caught():
    mirror = np.array([-1.0, 1.0, 1.0])
    mesh = (VERTICES * mirror, FACES[:, ::-1])
    for seven in (SEVEN * mirror, (SEVEN * mirror)[[3, 2, 1, 0, 4, 6, 5]]):
        assert scan_distances(SCAN, mesh, seven, "non-metrical").mean() > 0.5


def test_distances_are_taken_inside_the_ball_only():
    spoiled = VERTICES.copy()
    spoiled[VERTICES[:, 2] < -20] *= 1.5
    motionless = scan_distances(SCAN, (spoiled, FACES), SEVEN, "metrical")
    assert 100 < len(motionless) < len(VERTICES)
    assert motionless.max() < 1e-6


def test_folder_to_numbers_with_misses(tmp_path):
    write_now(tmp_path / "data", pictures=False)
    data = load_now(tmp_path / "data")
    found = write_predictions(tmp_path / "all", NAMES)
    result = score_now(data, found)
    assert value(result) == value(result, "metrical", statistic="median") == 0.0
    assert result["misses"]["total"] == 0
    assert result["misses"]["comparable"]
    assert result["curves"]["metrical"]["percent"][1] == 100.0
    some = score_now(data, write_predictions(tmp_path / "some", NAMES[:2]))
    assert some["misses"]["total"] == 1
    assert some["misses"]["by_challenge"]["multiview_expressions"] == 1
    assert not some["misses"]["comparable"]
    assert value(some, challenge="multiview_expressions") is None
    json.dumps(some, allow_nan=False)


@pytest.mark.parametrize("landmarks", ["npy", "txt"])
def test_the_official_landmark_files_are_read(tmp_path, landmarks):
    write_now(tmp_path / "data", pictures=False)
    found = write_predictions(tmp_path / "p", NAMES[:1], landmarks=landmarks)
    result = score_now(load_now(tmp_path / "data"), found)
    assert value(result) == pytest.approx(0.0, abs=1e-3)
    assert result["misses"]["total"] == 2


def test_a_prediction_without_landmarks_is_a_miss_and_strangers_are_refused(tmp_path):
    write_now(tmp_path / "data", pictures=False)
    data = load_now(tmp_path / "data")
    found = write_predictions(tmp_path / "p", NAMES)
    (tmp_path / "p" / f"{NAMES[0]}.landmarks.json").unlink()
    assert score_now(data, found)["misses"]["total"] == 1
    with pytest.raises(UserError, match="none of the"):
        score_now(data, write_predictions(tmp_path / "q", ["somebody"]))


def test_a_system_without_size_gets_no_metrical_score(tmp_path):
    write_now(tmp_path / "data", pictures=False)
    write_predictions(tmp_path / "p", NAMES)
    (tmp_path / "p" / "meta.json").write_text('{"metric": "no"}')
    result = score_now(load_now(tmp_path / "data"), load_mesh_predictions(tmp_path / "p"))
    assert {n["flags"]["variant"] for n in result["numbers"]} == {"non-metrical"}
    assert result["not_scored"][0]["flags"] == {"variant": "metrical"}
