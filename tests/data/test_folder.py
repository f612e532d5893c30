"""A folder of photos: points in both formats, photos without, errors that name the file."""

import json

import numpy as np
import pytest
from PIL import Image

from lifemask.assets import UserError
from lifemask.data.folder import load_photo_folder
from lifemask.data.points_file import read_points


def write_photo(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (40, 30)).save(path)


def pts(points):
    rows = "\n".join(f"{u:.6f} {v:.6f}" for u, v in points)
    return f"version: 1\nn_points:  {len(points)}\n{{\n{rows}\n}}\n"


def test_points_count_from_zero_whatever_the_file(tmp_path):
    points = np.random.default_rng(0).uniform(0, 30, (68, 2)).round(3)
    for name in ("a/one.jpg", "two.PNG", "three.png"):
        write_photo(tmp_path / name)
    (tmp_path / "a" / "one.pts").write_text(pts(points + 1))
    (tmp_path / "two.json").write_text(json.dumps({"landmarks": points.tolist()}))
    data = load_photo_folder(tmp_path)
    assert data.names == ("a/one", "three", "two") and len(data) == 3
    np.testing.assert_array_equal(data.labelled, [True, False, True])
    np.testing.assert_allclose(data.landmarks68[[0, 2]], [points, points], atol=1e-6)
    assert np.isnan(data.landmarks68[1]).all() and data.image(1).shape == (30, 40, 3)


def test_rows_columns_and_lists_give_the_same_points(tmp_path):
    points = np.arange(15.0).reshape(5, 3)
    (tmp_path / "a.txt").write_text("\n".join(" ".join(map(str, row)) for row in points))
    (tmp_path / "b.txt").write_text("\n".join(",".join(map(str, row)) for row in points.T))
    (tmp_path / "c.json").write_text(json.dumps(points.tolist()))
    for name in ("a.txt", "b.txt", "c.json"):
        np.testing.assert_array_equal(read_points(tmp_path / name), points)


@pytest.mark.parametrize(
    ("name", "text", "match"),
    [
        ("a.pts", "version: 1\nn_points: 3\n{\n1 2\n}", "says 3 points and has 1"),
        ("a.pts", "1 2\n3 4", "no braces"),
        ("a.txt", "1 2\n3", "does not hold"),
        ("a.txt", "1 two", "does not hold points"),
        ("a.json", "{}", "does not hold points"),
        ("a.json", "[[1, NaN], [2, 3]]", "finite"),
        ("missing.pts", None, "cannot read"),
    ],
)
def test_files_without_points_are_user_errors(tmp_path, name, text, match):
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=match):
        read_points(tmp_path / name)


def test_folders_that_do_not_fit_are_user_errors(tmp_path):
    with pytest.raises(UserError, match="holds no photos"):
        load_photo_folder(tmp_path)
    with pytest.raises(UserError, match="not a folder"):
        load_photo_folder(tmp_path / "none")
    write_photo(tmp_path / "x.jpg")
    (tmp_path / "x.pts").write_text(pts(np.zeros((5, 2))))
    with pytest.raises(UserError, match=r"x\.pts holds 5 points; 68 are needed"):
        load_photo_folder(tmp_path)
    write_photo(tmp_path / "x.png")
    with pytest.raises(UserError, match="two photos named x"):
        load_photo_folder(tmp_path)
