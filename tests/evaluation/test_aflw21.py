"""AFLW-21: visible points only, both normalisers, both layouts, misses."""

import numpy as np
import pytest

from lifemask.assets import UserError
from lifemask.data import aflw21 as aflw21_files
from lifemask.data.aflw21 import Aflw21Test, load_aflw21_test
from lifemask.evaluation.aflw21 import nme_per_image, score_aflw21
from lifemask.evaluation.metrics import unpacked
from lifemask.evaluation.predict import predict
from lifemask.evaluation.predictions import Predictions
from lifemask.evaluation.score import score
from lifemask.facemodel.landmarks import AFLW21_FROM_68, FLIP_68

COUNT = 9
YAW = np.array([0.0, 10, -29, 31, -45, 59, 61, -75, 100])


def points68(seed=0):
    return np.random.default_rng(seed).uniform(20, 100, (COUNT, 68, 2))


def to_21(points):
    """The published table, by hand."""
    return np.stack([points[:, list(row)].mean(1) for row in AFLW21_FROM_68], 1)


def crops(truth68=None, seed=0):
    points = points68(seed)
    visible = np.random.default_rng(1).uniform(size=(COUNT, 21)) < 0.8
    clicks = np.where(visible[..., None], to_21(points), -1.0)
    names = tuple(f"image{i:05d}" for i in range(COUNT))
    return Aflw21Test("packed", names, (), clicks, visible, YAW, truth68)


def predictions(data, points, found=None):
    depth = np.zeros((*points.shape[:2], 1))
    found = np.ones(COUNT, bool) if found is None else found
    return Predictions(data.names, found, np.concatenate([points, depth], 2), np.zeros((COUNT, 3)))


def value(result, **flags):
    found = [n for n in result["numbers"] if flags.items() <= n["flags"].items()]
    assert len(found) == 1
    return found[0]


def test_the_truth_scores_zero_whatever_lies_in_invisible_points():
    data = crops()
    result = score_aflw21(data, predictions(data, points68()))
    assert [n["value"] for n in result["numbers"]] == [0, 0, 0, 0]
    assert {(n["flags"]["points"], n["flags"]["pool"]) for n in result["numbers"]} == {
        (21, "bins"), (21, "images"), (18, "bins"), (18, "images"),
    }  # fmt: skip


def test_a_shift_gives_its_length_over_the_crops_normaliser():
    data = crops()
    result = score_aflw21(data, predictions(data, points68() + [3, 4]))
    for points in (21, 18):
        entry = value(result, points=points, pool="bins")
        assert entry["value"] == pytest.approx(100 * 5 / (120 / np.sqrt(2)), abs=1e-3)
        assert entry["flags"]["normaliser"] == "crop side / sqrt 2"


def test_the_box_of_the_68_points_normalises_where_there_is_one():
    data = crops(truth68=points68())
    result = score_aflw21(data, predictions(data, points68() + [3, 4]))
    box = np.sqrt(np.ptp(points68(), axis=1).prod(1))
    entry = value(result, points=21, pool="images")
    assert entry["value"] == pytest.approx((500 / box).mean(), abs=1e-3)
    assert entry["flags"]["normaliser"] == "68-point box"


def test_ears_and_chin_count_only_with_21_points():
    data = crops()
    moved = points68()
    moved[:, [2, 14, 8]] += 30  # ears and chin
    result = score_aflw21(data, predictions(data, moved))
    assert value(result, points=18, pool="images")["value"] == 0
    assert value(result, points=21, pool="images")["value"] > 1


def test_equals_a_naive_twin():
    data, guess = crops(), points68(seed=7)
    found = nme_per_image("21", data, predictions(data, guess))
    for i in range(COUNT):
        errors = [
            np.hypot(*(np.mean([guess[i, k] for k in row], axis=0) - data.landmarks21[i, j]))
            for j, row in enumerate(AFLW21_FROM_68)
            if data.visible21[i, j]
        ]
        assert found[i] == pytest.approx(100 * np.mean(errors) / (120 / 2**0.5))


def test_misses_cost_the_centre_and_are_counted():
    data = crops()
    found = np.ones(COUNT, bool)
    found[[0, 8]] = False
    guess = np.where(found[:, None, None], points68(), np.nan)
    result = score_aflw21(data, predictions(data, guess, found))
    entry = value(result, points=21, pool="bins")
    assert entry["value"] > 5 and entry["value_found_only"] == 0 and entry["images"] == COUNT
    assert result["misses"]["total"] == 2 and entry["flags"]["misses"] == 2
    assert (unpacked(result["per_image"]["nme_21"])[[0, 8]] > 10).all()
    assert result["per_image"]["bins"] == "000111222"


def test_mirrored_predictions_are_suspected():
    face = np.random.default_rng(3).uniform(-40, 40, (1, 68, 2))
    face = (face + face[:, list(FLIP_68)] * [-1, 1]) / 2 + 59.5  # symmetric about the crop
    lean = np.linspace(-12, 12, COUNT)[:, None] * (np.arange(68) % 5)
    points = np.repeat(face, COUNT, 0) + np.stack([lean, np.zeros_like(lean)], -1)
    names = tuple(f"image{i:05d}" for i in range(COUNT))
    data = Aflw21Test("packed", names, (), to_21(points), np.ones((COUNT, 21), bool), YAW, None)
    swapped = score_aflw21(data, predictions(data, points[:, list(FLIP_68)]))
    names = [c["check"] for c in swapped["checks"] if c["suspicious"]]
    assert "left and right swapped" in names
    sound = score_aflw21(data, predictions(data, points + 0.5))
    assert not any(c["suspicious"] for c in sound["checks"])


def test_an_image_without_visible_points_does_not_count():
    data = crops()
    data.visible21[4] = False
    values = nme_per_image("21", data, predictions(data, points68()))
    assert np.isnan(values[4]) and np.delete(values, 4).max() < 1e-12


def test_official_arrays_become_crop_coordinates(tmp_path):
    """Photo px of big pictures come to the crop of 120 px by each face's own box."""
    rng = np.random.default_rng(0)
    crop68 = points68()
    boxes = np.array([[100, 50, 340, 290.0]] * COUNT) + rng.integers(0, 99, (COUNT, 1))
    scale, corner = (boxes[:, None, 2:3] - boxes[:, None, :1]) / 120, boxes[:, None, :2]
    photo68, photo21 = crop68 * scale + corner, to_21(crop68) * scale + corner
    photo21[3, 5] = -1
    configs = tmp_path / "test.configs"
    configs.mkdir()
    np.save(configs / "AFLW_GT_pts21.npy", photo21.transpose(0, 2, 1))
    np.save(configs / "AFLW_GT_pts68.npy", photo68.transpose(0, 2, 1))
    np.save(configs / "AFLW_GT_crop_roi_box.npy", boxes)
    np.save(configs / "AFLW_GT_crop_yaws.npy", YAW)
    with pytest.raises(UserError, match=r"lacks AFLW_GT_crop\.list"):
        load_aflw21_test(tmp_path)
    lines = "\n".join(f"image{i:05d}.jpg" for i in range(COUNT))
    (tmp_path / "AFLW_GT_crop.list").write_text(lines)
    data = load_aflw21_test(tmp_path)
    assert data.layout == "official" and len(data) == COUNT
    assert not data.visible21[3, 5] and data.visible21.sum() == COUNT * 21 - 1
    np.testing.assert_allclose(data.landmarks68, crop68)
    result = score_aflw21(data, predictions(data, crop68))
    assert value(result, points=21, pool="bins")["value"] == 0
    np.save(configs / "AFLW_GT_crop_yaws.npy", YAW[:5])
    with pytest.raises(UserError, match="different lengths"):
        load_aflw21_test(tmp_path)


def test_packed_layout_gives_the_held_out_crops_only(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    names = np.array([f"image{i:05d}" for i in range(20)])
    visible = np.ones((20, 21), bool)
    visible[17, 3:] = False  # too few points
    yaw = np.linspace(-100, 100, 20).astype(np.float32)
    yaw[16] = 150  # a wrong label
    np.savez(tmp_path / "labels.npz", names=names, visible=visible, yaw_deg=yaw,
             points=rng.uniform(0, 120, (20, 21, 2)).astype(np.float32))  # fmt: skip
    monkeypatch.setattr(aflw21_files, "HELD_OUT_NAMES", frozenset(names[14:]))
    data = load_aflw21_test(tmp_path)
    assert data.names == ("image00014", "image00015", "image00018", "image00019")
    np.testing.assert_allclose(data.bin_yaw_deg, yaw[[14, 15, 18, 19]])
    np.testing.assert_array_equal(data.boxes, [[-0.5, -0.5, 119.5, 119.5]] * 4)
    monkeypatch.setattr(aflw21_files, "HELD_OUT_NAMES", frozenset({"image99999"}))
    with pytest.raises(UserError, match="none of the held-out crops"):
        load_aflw21_test(tmp_path)


def test_crops_are_predicted_from_the_whole_crop(tmp_path, monkeypatch):
    data = crops()
    seen = []

    def system(image, box):
        seen.append(box)
        return np.c_[points68()[len(seen) - 1], np.zeros(68)], np.zeros(3)

    monkeypatch.setattr(Aflw21Test, "image", lambda self, index: np.zeros((120, 120, 3), np.uint8))
    monkeypatch.setattr(aflw21_files, "load_aflw21_test", lambda folder: data)
    out = predict("aflw21", tmp_path, tmp_path / "p.npz", system=system)
    result = score("aflw21", tmp_path, out)
    assert result["misses"]["total"] == 0 and set(seen) == {(-0.5, -0.5, 119.5, 119.5)}
    assert value(result, points=21, pool="bins")["value"] < 1e-3
    with pytest.raises(UserError, match="no 68 true points"):
        predict("aflw21", tmp_path, tmp_path / "q.npz", system=system, box="detector")


def test_absent_data_names_where_to_ask(tmp_path):
    with pytest.raises(UserError, match="AFLW itself is asked for at http"):
        load_aflw21_test(tmp_path)
