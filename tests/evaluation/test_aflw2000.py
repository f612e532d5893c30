"""predict and score on tiny sets in the real layouts: files, flags, misses, resuming."""

import json

import numpy as np
import pytest

from helpers.aflw2000_files import COUNT, face_labels, write_official, write_packed
from lifemask.assets import UserError
from lifemask.data.aflw2000 import load_aflw2000, pose_deg_from_pose_para
from lifemask.evaluation import aflw2000
from lifemask.evaluation.aflw2000 import STANDARD_FLAGS, score_aflw2000
from lifemask.evaluation.metrics import unpacked
from lifemask.evaluation.predict import best_overlap, predict
from lifemask.evaluation.predictions import Predictions, load_predictions, save_predictions
from lifemask.evaluation.score import score


@pytest.fixture
def packed(tmp_path):
    write_packed(tmp_path / "data", face_labels())
    return tmp_path / "data"


def perfect(data, **changes):
    fields = {
        "names": data.names,
        "found": np.ones(len(data), bool),
        "landmarks68": data.landmarks68,
        "pose_deg": data.pose_deg,
    }
    return Predictions(**(fields | changes))


def number(result, metric="nme_percent", **flags):
    matches = [
        n for n in result["numbers"]
        if n["metric"] == metric and all(n["flags"][k] == v for k, v in flags.items())
    ]  # fmt: skip
    assert len(matches) == 1, matches
    return matches[0]


FLAGS = {"gt", "points", "dims", "pool", "z_align", "subset", "misses"}
PRIMARY = {"gt": "original", "points": 68, "dims": 2, "pool": "bins"}


def test_perfect_predictions_score_zero_everywhere(packed):
    data = load_aflw2000(packed)
    result = score_aflw2000(data, perfect(data))
    exact = [n for n in result["numbers"] if n["flags"].get("gt", "original") == "original"]
    assert len(exact) == 9 + 10
    assert all(n["value"] == pytest.approx(0, abs=2e-4) for n in exact)
    assert result["not_scored"] == [] and result["misses"]["total"] == 0
    assert result["images_by_bin"] == {"0-30": 3, "30-60": 3, "60-90": 3}


def test_one_pixel_shift_gives_the_analytic_value_in_every_bin(packed):
    data = load_aflw2000(packed)
    moved = perfect(data, landmarks68=data.landmarks68 + [1, 1, 0])
    span = np.ptp(data.landmarks68[..., :2], axis=1)
    each = 100 * 2**0.5 / np.sqrt(span.prod(axis=1))
    entry = number(score_aflw2000(data, moved), **PRIMARY)
    assert entry["value"] == pytest.approx(each.mean(), abs=1e-4)
    assert entry["bins"]["60-90"] == pytest.approx(each[6:].mean(), abs=1e-4)
    again = number(score_aflw2000(data, moved), **(PRIMARY | {"gt": "reannotated"}))
    assert again["value"] < 0.2 * entry["value"] + 1  # rounded clicks lie one pixel lower right


def test_every_number_carries_its_flags(packed):
    data = load_aflw2000(packed)
    result = score_aflw2000(data, perfect(data))
    flags = [tuple(sorted(n["flags"].items())) for n in result["numbers"] if "gt" in n["flags"]]
    assert len(set(flags)) == len(STANDARD_FLAGS)
    assert all(FLAGS == {k for k, _ in f} for f in flags)
    assert all(len(n["ci95"]) == 2 and n["images"] <= COUNT for n in result["numbers"])


def test_misses_are_counted_and_raise_the_error(packed):
    data = load_aflw2000(packed)
    found = np.ones(COUNT, bool)
    found[[0, 8]] = False
    garbage = data.landmarks68.copy()
    garbage[~found] = np.nan
    result = score_aflw2000(data, perfect(data, found=found, landmarks68=garbage))
    assert result["misses"]["total"] == 2
    assert result["misses"]["by_bin"] == {"0-30": 1, "30-60": 0, "60-90": 1}
    entry = number(result, **PRIMARY)
    assert entry["value"] > 5 and entry["images"] == COUNT
    assert entry["value_found_only"] == 0
    assert number(result, "yaw_error_deg", images="all")["value"] > 5


def test_an_image_that_the_file_leaves_out_is_a_miss(packed):
    data = load_aflw2000(packed)
    full = perfect(data)
    keep = [7, 3, 1]  # another order, too
    some = Predictions(
        tuple(full.names[k] for k in keep),
        full.found[keep],
        full.landmarks68[keep],
        full.pose_deg[keep],
    )
    result = score_aflw2000(data, some)
    assert result["misses"]["total"] == COUNT - 3
    assert number(result, **PRIMARY)["value_found_only"] == 0


def test_scores_a_system_without_depth_and_pose(packed, tmp_path):
    data = load_aflw2000(packed)
    path = tmp_path / "other.npz"
    np.savez(path, names=np.array(data.names), found=np.ones(COUNT, bool),
             landmarks68=data.landmarks68[..., :2])  # fmt: skip
    result = score("aflw2000", packed, path, tmp_path / "deep" / "other.json")
    assert json.loads((tmp_path / "deep" / "other.json").read_text()) == result
    assert number(result, **PRIMARY)["value"] == pytest.approx(0, abs=1e-4)
    assert {n["reason"] for n in result["not_scored"]} == {"the predictions have no depth"}
    assert not any("error_deg" in n["metric"] for n in result["numbers"])


def test_original_layout_without_reannotation_says_so(tmp_path):
    write_official(tmp_path, face_labels(), configs=False)
    data = load_aflw2000(tmp_path)
    result = score_aflw2000(data, perfect(data))
    reasons = {n["reason"] for n in result["not_scored"]}
    assert reasons == {"this copy of the data has no re-annotated points"}
    assert result["official_boxes"] is False


def test_predictions_survive_the_file(packed, tmp_path):
    data = load_aflw2000(packed)
    path = tmp_path / "p.npz"
    save_predictions(path, perfect(data, meta={"system": "x", "weights": "open"}))
    again = load_predictions(path)
    assert again.names == data.names and again.meta == {"system": "x", "weights": "open"}
    np.testing.assert_allclose(again.landmarks68, data.landmarks68, rtol=1e-6)
    assert [p.name for p in tmp_path.glob("p.npz*")] == ["p.npz"]


def test_wrong_prediction_files_are_user_errors(packed, tmp_path):
    path = tmp_path / "bad.npz"
    with pytest.raises(UserError, match="does not exist"):
        load_predictions(path)
    path.write_bytes(b"not an archive")
    with pytest.raises(UserError, match="not a readable npz"):
        load_predictions(path)
    np.savez(path, names=np.array(["a"]), found=np.array([True]), landmarks68=np.zeros((2, 68, 3)))
    with pytest.raises(UserError, match="expected shapes"):
        load_predictions(path)
    np.savez(path, names=np.array(["a"]), found=np.array([True]))
    with pytest.raises(UserError, match="lacks landmarks68"):
        load_predictions(path)
    np.savez(path, names=np.array([{}]), found=np.array([True]), landmarks68=np.zeros((1, 68, 3)))
    with pytest.raises(UserError, match="not a readable npz"):
        load_predictions(path)
    np.savez(path, names=np.array(["a"]), found=np.array([True]), landmarks68=np.zeros((1, 68, 3)))
    with pytest.raises(UserError, match="none of the 9 images"):
        score("aflw2000", packed, path)
    with pytest.raises(UserError, match="unknown protocol 'nosuch'; valid: .*aflw2000"):
        score("nosuch", packed, path)


def test_errors_of_single_images_are_kept_in_name_order(packed):
    data = load_aflw2000(packed)
    steps = np.arange(COUNT)[:, None, None] * [1.0, 0, 0]
    result = score_aflw2000(data, perfect(data, landmarks68=data.landmarks68 + steps))
    span = np.ptp(data.landmarks68[..., :2], axis=1)
    expected = 100 * np.arange(COUNT) / np.sqrt(span.prod(axis=1))
    np.testing.assert_allclose(unpacked(result["per_image"]["nme_68"]), expected, atol=6e-4)
    assert result["per_image"]["bins"] == "000111222"
    assert "per_image" not in score_aflw2000(data, perfect(data), per_image=False)


def test_the_released_subset_needs_the_complete_set_and_drops_two(packed, monkeypatch):
    data = load_aflw2000(packed)
    with pytest.raises(UserError, match=r"complete set of 2,000 photos, and there are 9"):
        score_aflw2000(data, perfect(data), subset="released-2dasl")
    with pytest.raises(UserError, match="unknown subset 'other'; valid: all, released-2dasl"):
        score_aflw2000(data, perfect(data), subset="other")
    monkeypatch.setattr(aflw2000, "COMPLETE", COUNT)
    monkeypatch.setitem(aflw2000.SUBSETS, "released-2dasl", (1, 8))
    bad = data.landmarks68.copy()
    bad[[1, 8]] += 50
    result = score_aflw2000(data, perfect(data, landmarks68=bad), subset="released-2dasl")
    entry = number(result, **PRIMARY)
    assert entry["value"] == 0 and entry["images"] == COUNT - 2
    assert entry["flags"]["subset"] == "released-2dasl"
    assert number(score_aflw2000(data, perfect(data, landmarks68=bad)), **PRIMARY)["value"] > 5


def test_pose_numbers_leave_out_what_hopenets_rule_leaves_out(packed):
    data = load_aflw2000(packed)
    turned = data.pose_deg.copy()
    turned[:, 1] += 10
    result = score_aflw2000(data, perfect(data, pose_deg=turned))
    assert number(result, "geodesic_error_deg", images="all")["value"] == pytest.approx(
        10, abs=1e-3
    )
    far = face_labels()
    far["pose_para"][4, 0] = np.radians(120.0)
    write_packed(packed.parent / "far", far)
    wide = load_aflw2000(packed.parent / "far")
    result = score_aflw2000(wide, perfect(wide))
    limited = number(result, "yaw_error_deg", images="angles <= 99")
    assert limited["images"] == COUNT - 1 and limited["left_out"] == 1
    everyone = number(result, "yaw_error_deg", images="all")
    assert everyone["images"] == COUNT and everyone["left_out"] == 0


def test_pose_errors_are_those_of_the_data_sets_own_angles(packed):
    """A head pitched further by 10 degrees in the data set's order, not in ours."""
    data = load_aflw2000(packed)
    para = face_labels()["pose_para"].copy()
    para[:, 0] += np.radians(10.0)
    result = score_aflw2000(data, perfect(data, pose_deg=pose_deg_from_pose_para(para)))
    for metric, value in (("pitch", 10.0), ("yaw", 0.0), ("roll", 0.0), ("mean_euler", 10 / 3)):
        entry = number(result, f"{metric}_error_deg", images="all")
        assert entry["value"] == pytest.approx(value, abs=1e-3), metric
    assert number(result, "geodesic_error_deg", images="all")["value"] == pytest.approx(
        10, abs=1e-3
    )


def oracle(data, log=None):
    """A system that knows the truth, to test what surrounds it."""
    points = iter(range(len(data)) if log is None else range(len(log), len(data)))

    def run(image, box):
        k = next(points)
        if log is not None:
            log.append(k)
        np.testing.assert_array_equal(box, data.boxes[k])
        assert image.shape == (450, 450, 3)
        return data.landmarks68[k], data.pose_deg[k]

    return run


def test_predict_then_score(packed, tmp_path):
    data, steps = load_aflw2000(packed), []
    out = predict("aflw2000", packed, tmp_path / "o" / "p.npz", system=oracle(data),
                  progress=lambda done, of: steps.append((done, of)))  # fmt: skip
    assert steps == [(k + 1, COUNT) for k in range(COUNT)]
    result = score("aflw2000", packed, out)
    assert number(result, **PRIMARY)["value"] == pytest.approx(0, abs=1e-3)
    assert result["predictions"]["meta"]["box"] == "official"


def test_an_interrupted_run_goes_on_where_it_stopped(packed, tmp_path, monkeypatch):
    monkeypatch.setattr("lifemask.evaluation.predict._SAVE_EVERY", 2)
    data, log, out = load_aflw2000(packed), [], tmp_path / "p.npz"

    def stop(done, of):
        if done == 5 and len(log) == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        predict("aflw2000", packed, out, system=oracle(data, log), progress=stop)
    assert not out.exists()
    del log[4:]  # the fifth photo was done but not yet saved
    predict("aflw2000", packed, out, system=oracle(data, log))
    assert log == list(range(COUNT))
    assert load_predictions(out).names == data.names
    assert [p.name for p in tmp_path.glob("p.npz*")] == ["p.npz"]


def test_a_partial_file_of_other_settings_is_not_used(packed, tmp_path):
    data = load_aflw2000(packed)
    partial = tmp_path / "p.npz.partial.npz"
    save_predictions(partial, perfect(data, meta={"box": "detector"}))
    predict("aflw2000", packed, tmp_path / "p.npz", system=oracle(data))
    assert load_predictions(tmp_path / "p.npz").meta["box"] == "official"


def test_best_overlap():
    boxes = np.array([[0, 0, 10, 10], [5, 0, 15, 10], [100, 100, 110, 110.0]])
    assert best_overlap(boxes, np.array([5, 0, 15, 10.0])) == (1, 1.0)
    assert best_overlap(boxes[:1], np.array([5, 0, 15, 10.0])) == (0, pytest.approx(1 / 3))
    assert best_overlap(np.zeros((0, 4)), np.array([0, 0, 1, 1.0])) == (-1, 0.0)
