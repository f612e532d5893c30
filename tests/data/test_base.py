"""Crop sets: splits keep near-duplicates together, shards and stored sets read back."""

import json
from dataclasses import replace

import numpy as np
import pytest

from lifemask.assets import UserError
from lifemask.data.base import (
    CropSet,
    group_duplicates,
    hold_out_last,
    load_crops,
    read_cache_header,
    read_labels,
    save_crops,
)
from lifemask.data.synthetic import HELD_OUT_SEED


def pictures(count: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (count, 8, 8, 3))
    return coarse.repeat(8, 1).repeat(8, 2).astype(np.uint8)


def crop_set(images: np.ndarray) -> CropSet:
    n = len(images)
    points = np.arange(n * 42, dtype=np.float32).reshape(n, 21, 2)
    return CropSet(
        "test",
        "aflw21",
        (images[: n // 2], images[n // 2 :]),
        points,
        np.ones((n, 21), bool),
        64.0,
        np.zeros(n, np.float32),
        np.ones(n, np.float32),
    )


def test_repeats_and_mirrored_repeats_share_a_group():
    images = pictures(12)
    rng = np.random.default_rng(1)
    noisy = np.clip(images[2].astype(int) + rng.integers(-6, 7, images[2].shape), 0, 255)
    images = np.concatenate((images, noisy[None].astype(np.uint8), images[5:6, :, ::-1]))
    groups = group_duplicates(images)
    assert groups[12] == groups[2] == 2
    assert groups[13] == groups[5] == 5
    assert len(np.unique(groups)) == 12


def test_held_out_items_are_whole_groups_from_the_end():
    groups = np.array([0, 1, 2, 1, 4, 5, 0, 7])
    held = hold_out_last(groups, 2)
    np.testing.assert_array_equal(held, [True, False, False, False, False, False, True, True])
    assert not np.isin(groups[held], groups[~held]).any()


def test_gather_reaches_over_shards():
    images = pictures(10)
    ids = np.array([9, 0, 5, 4])
    np.testing.assert_array_equal(crop_set(images).gather(ids), images[ids])


def test_stored_sets_read_back(tmp_path):
    crops = crop_set(pictures(6))
    save_crops(crops, tmp_path / "set")
    again = load_crops(tmp_path / "set")
    assert (again.name, again.convention, len(again)) == ("test", "aflw21", 6)
    np.testing.assert_array_equal(again.gather(np.arange(6)), crops.gather(np.arange(6)))
    np.testing.assert_array_equal(again.points, crops.points)
    assert again.person is None and again.frame is None


def test_people_and_frames_are_stored_and_cut_along(tmp_path):
    crops = replace(crop_set(pictures(6)), person=np.array([4, 4, 4, 9, 9, 2]))
    crops = replace(crops, frame=np.array([10, 11, 20, 0, 0, 52]))
    save_crops(crops, tmp_path / "set")
    for known in (crops, load_crops(tmp_path / "set")):
        few = known.subset(np.array([5, 0, 3]))
        assert few.person is not None and few.person.tolist() == [2, 4, 9]
        assert few.frame is not None and few.frame.tolist() == [52, 10, 0]
        assert len(few) == 3
    without = replace(crops, frame=None)
    assert without.subset(np.array([1])).frame is None
    save_crops(without, tmp_path / "set")
    again = load_crops(tmp_path / "set")
    assert again.frame is None and again.person is not None


def test_storing_again_leaves_mapped_images_alone(tmp_path):
    first, second = (crop_set(pictures(6, seed)) for seed in (0, 1))
    save_crops(first, tmp_path)
    mapped = load_crops(tmp_path)
    save_crops(second, tmp_path)
    ids = np.arange(6)
    np.testing.assert_array_equal(mapped.gather(ids), first.gather(ids))
    np.testing.assert_array_equal(load_crops(tmp_path).gather(ids), second.gather(ids))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["images.npy", "labels.npz"]


def test_missing_labels_are_a_user_error(tmp_path):
    with pytest.raises(UserError, match=r"docs/landmarker\.md"):
        read_labels(tmp_path / "labels.npz")


def test_renders_of_test_people_are_refused(tmp_path):
    for seed, refused in ((HELD_OUT_SEED, True), (HELD_OUT_SEED - 1, False)):
        (tmp_path / "header.json").write_text(json.dumps({"seed": seed}))
        if refused:
            with pytest.raises(UserError, match="test people"):
                read_cache_header(tmp_path)
        else:
            assert read_cache_header(tmp_path)["seed"] == seed
    (tmp_path / "header.json").write_text("{")
    with pytest.raises(UserError, match="no cache of renders"):
        read_cache_header(tmp_path)
