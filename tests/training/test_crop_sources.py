"""Prepared photos: read where they are stored, made again where they cannot serve."""

from dataclasses import replace

import numpy as np
import pytest

import lifemask.data.ytf68 as ytf68
from lifemask.assets import UserError
from lifemask.data.base import save_crops
from lifemask.training.crop_sources import real_crops
from training.landmark_toy import toy_real


@pytest.fixture(scope="module")
def photos():
    return {name: toy_real(name, 3) for name in ("aflw21", "ytf68")}


def store(folder, crops) -> None:
    for part in ("training", "held-out"):
        save_crops(crops, folder / f"{crops.name}-{part}")


def test_sets_that_are_stored_are_read(photos, tmp_path):
    for crops in photos.values():
        store(tmp_path, crops)
        for stored in real_crops(crops.name, None, tmp_path):
            np.testing.assert_array_equal(stored.points, crops.points)


def test_ytf68_without_people_is_decoded_again(photos, tmp_path, monkeypatch):
    known = photos["ytf68"]
    store(tmp_path, replace(known, person=None))
    asked = []

    def decode(folder):
        asked.append(folder)
        return known, known

    monkeypatch.setattr(ytf68, "load_ytf68", decode)
    for _ in range(2):
        for crops in real_crops("ytf68", tmp_path / "data", tmp_path):
            assert crops.person is not None and crops.person.tolist() == [0, 1, 2]
    assert asked == [tmp_path / "data" / "ytf68"], "the second time it is stored"


def test_ytf68_without_people_and_without_data_is_a_user_error(photos, tmp_path):
    store(tmp_path, replace(photos["ytf68"], person=None))
    with pytest.raises(UserError, match="does not tell people apart: give --data"):
        real_crops("ytf68", None, tmp_path)
    store(tmp_path, photos["aflw21"])
    assert photos["aflw21"].person is None
    real_crops("aflw21", None, tmp_path)
