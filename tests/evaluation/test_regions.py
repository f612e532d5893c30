"""Scores of region maps: analytic cases, ignored pixels, absent classes, sums over images."""

import json

import numpy as np
import pytest

from lifemask.data.regions import IGNORE
from lifemask.evaluation.regions import (
    confusion_per_image,
    intersection_over_union,
    mean_iou,
    score_regions,
)


def maps(seed=0, count=5, size=16):
    return np.random.default_rng(seed).integers(0, 9, (count, size, size)).astype(np.uint8)


def test_the_truth_scores_one():
    true = maps()
    counts = confusion_per_image(true, true)
    assert counts.shape == (5, 9, 9) and counts.sum() == true.size
    number = score_regions(counts, {})["numbers"][0]
    assert number["value"] == 1 and number["ci95"] == [1, 1] and number["absent"] == []


def test_a_shifted_square_has_the_known_overlap():
    true, found = (np.full((1, 20, 20), 8, np.uint8) for _ in range(2))
    true[0, 5:15, 5:15] = 4
    found[0, 5:15, 7:17] = 4  # 80 of 120 pixels in common
    iou = intersection_over_union(confusion_per_image(found, true)[0])
    assert iou[4] == pytest.approx(80 / 120) and iou[8] == pytest.approx(280 / 320)
    assert np.isnan(iou[[0, 1, 2, 3, 5, 6, 7]]).all()
    assert mean_iou(confusion_per_image(found, true)[0]) == pytest.approx((80 / 120 + 0.875) / 2)


def test_unlabelled_pixels_do_not_count():
    true, found = maps(1), maps(2)
    plain = confusion_per_image(found, true)
    hidden = true.copy()
    hidden[:, ::2] = IGNORE
    known = confusion_per_image(found, hidden)
    assert known.sum() == (hidden != IGNORE).sum()
    hidden_found = found.copy()
    hidden_found[:, ::2] = 0  # whatever is found there
    assert np.array_equal(confusion_per_image(hidden_found, hidden), known)
    assert not np.array_equal(plain, known)


def test_rows_are_true_and_columns_found():
    counts = confusion_per_image(np.full((1, 2, 2), 3, np.uint8), np.full((1, 2, 2), 7, np.uint8))
    assert counts[0, 7, 3] == 4 and counts.sum() == 4


def test_a_class_found_but_not_true_counts_as_zero_and_one_that_is_neither_is_named():
    true, found = (np.full((1, 4, 4), 8, np.uint8) for _ in range(2))
    found[0, 0, 0] = 5
    number = score_regions(confusion_per_image(found, true), {})["numbers"][0]
    assert number["per_class"] == {"mouth_interior": 0.0, "background": pytest.approx(15 / 16)}
    assert "mouth_interior" not in number["absent"] and "nose" in number["absent"]


def test_counts_are_summed_over_images_not_averaged():
    true = np.full((2, 4, 4), 8, np.uint8)
    true[0, 0, 0] = 2  # one pixel of a class that the second image has eight of
    true[1, :2] = 2
    found = true.copy()
    found[0, 0, 0] = 8
    counts = confusion_per_image(found, true)
    assert intersection_over_union(counts.sum(0))[2] == pytest.approx(8 / 9)
    assert score_regions(counts, {})["numbers"][0]["per_class"]["eyes"] == pytest.approx(0.8889)


def test_scores_are_json_with_flags_and_an_interval_around_the_value():
    counts = confusion_per_image(np.where(maps(3) > 4, maps(), maps(3)), maps(3))
    score = json.loads(json.dumps(score_regions(counts, {"data": "drawn"})))
    number = score["numbers"][0]
    assert score["images"] == number["images"] == 5
    assert number["flags"] == {
        "data": "drawn",
        "classes": 9,
        "summed": "confusion over images",
    }
    assert number["ci95"][0] < number["value"] < number["ci95"][1]


def test_wrong_input_is_refused():
    with pytest.raises(ValueError, match="cannot be compared"):
        confusion_per_image(maps(), maps(size=8))
    with pytest.raises(ValueError, match="9 or more"):
        confusion_per_image(maps() + 1, maps())
