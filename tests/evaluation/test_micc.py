"""MICC's two protocols on a tiny copy: identity, known sizes and dents, misses, mirrored heads."""

import json
from collections import defaultdict

import numpy as np
import pytest

from helpers.facescape_files import rotation
from helpers.scan_files import SUBJECTS, head, landmarks68, put_prediction, scan_pose, write_micc
from lifemask.assets import UserError
from lifemask.data.micc import load_micc
from lifemask.evaluation._scan_fit import measure, prepare, stay
from lifemask.evaluation.meshes import load_mesh_predictions
from lifemask.evaluation.micc import score_micc_deep3d, score_micc_genova, target_of
from lifemask.evaluation.score import score
from lifemask.evaluation.surface import Similarity

pytest.importorskip("igl")
VERTICES, FACES = head()
VIDEO = "Indoor-Cooperative"


@pytest.fixture(scope="module")
def micc(tmp_path_factory):
    return write_micc(tmp_path_factory.mktemp("micc"))


def predict(folder, change=lambda v: v, points=True, faces=FACES, subjects=SUBJECTS):
    """Predictions in a frame of their own, far from the scans'."""
    for subject in subjects:
        moved = change(VERTICES) @ rotation(-20, 5, 8) + [5.0, 900, -40]
        own = landmarks68() @ rotation(-20, 5, 8) + [5.0, 900, -40] if points else None
        put_prediction(folder, f"{subject}/{VIDEO}", moved, faces, own)
    return load_mesh_predictions(folder)


def by_metric(result):
    found = defaultdict(list)
    for entry in result["numbers"]:
        found[entry["metric"]].append(entry)
    return found


@pytest.mark.parametrize("run", [score_micc_deep3d, score_micc_genova])
def test_identity_in_another_frame_is_zero(micc, tmp_path, run):
    result = run(load_micc(micc), predict(tmp_path))
    found = by_metric(result)
    for metric in ("cd_mm", "landmark51_mm"):
        assert found[metric][0]["value"] < 0.01
    main = result["numbers"][0]
    assert main["value"] < 0.005 and main["done_percent"] == 100
    assert main["groups"]["condition"] == {VIDEO: main["value"]}
    assert result["misses"] == {"total": 0} and result["starts"] == {"landmarks": 2}
    assert [(c["check"], c["suspicious"]) for c in result["checks"]] == [
        ("inside out", False),
        ("not converged", False),
    ]
    assert found["cr_percent"][0]["value"] > 99


def test_each_mesh_has_its_own_scale_in_deep3d_only(micc, tmp_path):
    """Sizes 0.9 and 1.2: free scales forgive both, one scale for all forgives neither."""
    for subject, size in zip(SUBJECTS, (0.9, 1.2), strict=True):
        points = size * landmarks68()
        put_prediction(tmp_path, f"{subject}/{VIDEO}", size * VERTICES, FACES, points)
    predictions = load_mesh_predictions(tmp_path)
    free = score_micc_deep3d(load_micc(micc), predictions)
    one = score_micc_genova(load_micc(micc), predictions)
    assert free["numbers"][0]["value"] < 0.01
    assert one["global_scale"] == pytest.approx((1 / 0.9 + 1 / 1.2) / 2, rel=1e-3)
    assert one["numbers"][0]["value"] > 0.5
    same = {s: (1.25 * VERTICES, 1.25 * landmarks68()) for s in SUBJECTS}
    for subject, (vertices, points) in same.items():
        put_prediction(tmp_path / "same", f"{subject}/{VIDEO}", vertices, FACES, points)
    alike = score_micc_genova(load_micc(micc), load_mesh_predictions(tmp_path / "same"))
    assert alike["global_scale"] == pytest.approx(0.8, rel=1e-4)
    assert alike["numbers"][0]["value"] < 0.01


def test_a_small_dent_costs_what_the_formula_says(micc, tmp_path):
    """A disc pushed in by 3 mm: RMSE about 3 sqrt(share of the crop's vertices)."""
    disc = np.linalg.norm(VERTICES[:, :2] - [30, -25], axis=1) < 16
    dented = lambda v: v - np.outer(disc, [0, 0, 3.0])  # noqa: E731
    result = score_micc_deep3d(load_micc(micc), predict(tmp_path, dented))
    target = target_of(load_micc(micc).scan(f"{SUBJECTS[0]}/{VIDEO}"))
    share = disc[target.keep].mean()
    found = by_metric(result)["point_to_surface_rmse_mm"]
    aligned = {e["flags"]["align"]: e["value"] for e in found}
    # Along the normal the dent is 3 cos(slope) deep; the slope there is below 45 degrees.
    assert 0.6 < aligned["landmarks only, with scale"] / (3 * np.sqrt(share)) < 1.05
    assert aligned["similarity ICP per mesh"] <= aligned["landmarks only, with scale"]


def test_crop_is_a_ball_without_the_forehead(micc):
    scan = load_micc(micc).scan(f"{SUBJECTS[1]}/{VIDEO}")
    target = target_of(scan)
    turn, shift = scan_pose(SUBJECTS[1])
    own = (scan.vertices_mm[target.keep] - shift) @ turn
    tip = (scan.nose_tip_mm - shift) @ turn
    np.testing.assert_allclose(tip, landmarks68()[30], atol=1e-3)
    assert np.linalg.norm(own - tip, axis=1).max() <= 95
    assert 40 < own[:, 1].max() < 58 and own[:, 1].min() < -60


def test_what_the_prediction_lacks_is_seen(micc, tmp_path):
    """Without its lower part a prediction is good in planes; distance and coverage tell.

    A similarity ICP stretches it over the gap: coverage by landmarks alone shows that too.
    """
    upper = FACES[(VERTICES[FACES][..., 1] > -30).all(1)]
    data = load_micc(micc)
    found = by_metric(score_micc_deep3d(data, predict(tmp_path, faces=upper)))
    covered = {e["flags"]["align"]: e["value"] for e in found["covered_percent"]}
    target = target_of(data.scan(data.names[0]))
    share = 100 * (VERTICES[target.keep][:, 1] > -32).mean()
    assert covered["landmarks only, with scale"] == pytest.approx(share, abs=4)
    surface = found["point_to_surface_rmse_mm"][1]
    assert surface["flags"]["align"].startswith("landmarks") and surface["value"] > 5
    guess = prepare((VERTICES, upper), None)
    crop = VERTICES[target.keep]
    still = measure(guess, crop, None, stay(guess, crop, Similarity.identity()))
    assert np.sqrt(np.mean(still.surface_mm**2)) > 2 * np.sqrt(np.mean(still.plane_mm**2))


def test_misses_and_landmarks_that_are_absent(micc, tmp_path):
    result = score_micc_deep3d(
        load_micc(micc), predict(tmp_path, points=False, subjects=SUBJECTS[:1])
    )
    assert result["misses"] == {"total": 1, "no mesh": 1}
    assert result["numbers"][0]["done_percent"] == 50
    assert {e["metric"] for e in result["not_scored"]} == {
        "point_to_surface_rmse_mm",
        "landmark51_mm",
        "covered_percent",
    }
    assert result["starts"] == {"nose tips": 1}


def test_a_mirrored_head_is_caught(micc, tmp_path):
    mirrored = predict(tmp_path, lambda v: v * [-1, 1, 1])
    result = score_micc_deep3d(load_micc(micc), mirrored)
    assert len(result["checks"][0]["meshes"]) == 2
    assert by_metric(result)["normal_angle_deg"][0]["value"] > 90


def test_order_of_vertices_does_not_matter_and_scores_repeat(micc, tmp_path):
    order = np.random.default_rng(0).permutation(len(VERTICES))
    for name, rows, faces in (
        ("a", np.arange(len(VERTICES)), FACES),
        ("b", order, np.argsort(order)[FACES]),
    ):
        bent = (VERTICES * [1, 1.04, 0.9])[rows]
        put_prediction(tmp_path / name, f"{SUBJECTS[0]}/{VIDEO}", bent, faces, landmarks68())
    results = [score("micc_deep3d", micc, tmp_path / name) for name in "aba"]
    values = [[e["value"] for e in r["numbers"]] for r in results]
    np.testing.assert_allclose(
        np.array(values[0], float), np.array(values[1], float), atol=2e-4, equal_nan=True
    )
    assert json.dumps(results[0]) == json.dumps(results[2])


def test_predictions_of_other_data_are_refused(micc, tmp_path):
    put_prediction(tmp_path, "somebody", VERTICES, FACES)
    with pytest.raises(UserError, match="none of the 2 items"):
        score_micc_genova(load_micc(micc), load_mesh_predictions(tmp_path))
