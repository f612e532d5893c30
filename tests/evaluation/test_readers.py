"""Predictions in other systems' forms: the same points come out, every conversion is recorded."""

import numpy as np
import pytest
from scipy.io import savemat

from lifemask.assets import UserError
from lifemask.evaluation.predictions import Predictions, save_predictions
from lifemask.evaluation.readers import PointOptions, read_predictions, to_68
from lifemask.facemodel.landmarks import MEDIAPIPE_TO_68

NAMES = ("image00002", "image00004", "image00006", "image00010")


@pytest.fixture
def points():
    return np.random.default_rng(0).uniform(50, 400, (4, 68, 3)).round(3)


def write_pts(folder, points, names=NAMES):
    folder.mkdir()
    for name, rows in zip(names, points, strict=True):
        body = "\n".join(" ".join(f"{x:.6f}" for x in row) for row in rows)
        (folder / f"{name}.pts").write_text(f"version: 1\nn_points: 68\n{{\n{body}\n}}\n")


def test_every_form_gives_the_same_points(tmp_path, points):
    save_predictions(tmp_path / "p.npz", Predictions(NAMES, np.ones(4, bool), points,
                                                     np.zeros((4, 3))))  # fmt: skip
    np.save(tmp_path / "rows.npy", points)
    np.save(tmp_path / "columns.npy", points.transpose(0, 2, 1))
    savemat(tmp_path / "m.mat", {"vertices": points.transpose(0, 2, 1), "note": np.ones((1, 2))})
    write_pts(tmp_path / "pts", points)
    for name in ("p.npz", "rows.npy", "columns.npy", "m.mat", "pts"):
        read, origin = read_predictions(tmp_path / name, NAMES)
        np.testing.assert_allclose(read.landmarks68, points, atol=1e-4, err_msg=name)
        assert read.found.all() and read.names == NAMES
        assert origin["read_as"]["one_based"] is False and len(origin["sha256"]) == 64
    _, origin = read_predictions(tmp_path / "columns.npy", NAMES)
    assert origin["read_as"]["form"] == "array"
    assert origin["read_as"]["conversions"] == ["(n, coordinates, points) transposed"]


def test_two_coordinates_have_no_depth(tmp_path, points):
    np.save(tmp_path / "a.npy", points[..., :2].transpose(0, 2, 1))
    read, _ = read_predictions(tmp_path / "a.npy", NAMES)
    np.testing.assert_array_equal(read.landmarks68[..., :2], points[..., :2])
    assert np.isnan(read.landmarks68[..., 2]).all()


def test_one_based_predictions_are_shifted_only_when_told(tmp_path, points):
    np.save(tmp_path / "a.npy", points + [1, 1, 0])
    read, origin = read_predictions(tmp_path / "a.npy", NAMES, PointOptions(one_based=True))
    np.testing.assert_allclose(read.landmarks68, points)
    assert origin["read_as"]["one_based"] is True
    assert "1 subtracted from u and v" in origin["read_as"]["conversions"]


def test_rows_of_nothing_and_absent_files_are_misses(tmp_path, points):
    points[1], points[2] = 0, np.nan
    np.save(tmp_path / "a.npy", points)
    read, origin = read_predictions(tmp_path / "a.npy", NAMES)
    assert read.found.tolist() == [True, False, False, True]
    assert "2 rows of NaN or zeros counted as misses" in origin["read_as"]["conversions"]
    write_pts(tmp_path / "pts", points[[0, 3]], (NAMES[0], NAMES[3]))
    read, _ = read_predictions(tmp_path / "pts", NAMES)
    assert read.found.tolist() == [True, False, False, True]


def test_prnets_text_files_are_found(tmp_path, points):
    (tmp_path / "kpt").mkdir()
    for name, rows in zip(NAMES, points, strict=True):
        np.savetxt(tmp_path / "kpt" / f"{name}_kpt.txt", rows)
    read, _ = read_predictions(tmp_path / "kpt", NAMES)
    np.testing.assert_allclose(read.landmarks68, points)


@pytest.mark.parametrize("count", [468, 478])
def test_mediapipes_points_go_through_the_table(tmp_path, count):
    mesh = np.random.default_rng(1).uniform(0, 450, (4, count, 3))
    np.savez(tmp_path / "m.npz", names=np.array(NAMES), landmarks=mesh)
    read, origin = read_predictions(tmp_path / "m.npz", NAMES)
    np.testing.assert_allclose(read.landmarks68, mesh[:, list(MEDIAPIPE_TO_68)])
    assert "contour has another definition" in origin["read_as"]["conversions"][0]


def test_what_does_not_fit_is_a_user_error(tmp_path, points):
    with pytest.raises(UserError, match="does not exist"):
        read_predictions(tmp_path / "none.npz", NAMES)
    np.save(tmp_path / "a.npy", points[:3])
    with pytest.raises(UserError, match="3 rows and the data set 4 images"):
        read_predictions(tmp_path / "a.npy", NAMES)
    np.save(tmp_path / "b.npy", points[:, :50])
    with pytest.raises(UserError, match="got 50"):
        read_predictions(tmp_path / "b.npy", NAMES)
    np.save(tmp_path / "c.npy", points[0])
    with pytest.raises(UserError, match="must have shape"):
        read_predictions(tmp_path / "c.npy", NAMES)
    np.save(tmp_path / "d.npy", np.array([{}, 1], dtype=object))
    with pytest.raises(UserError, match="not an array of landmarks"):
        read_predictions(tmp_path / "d.npy", NAMES)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"no point file .* image00002\.pts"):
        read_predictions(tmp_path / "empty", NAMES)
    with pytest.raises(UserError, match="reads a folder"):
        read_predictions(tmp_path / "a.npy", NAMES, PointOptions(form="pts"))
    with pytest.raises(UserError, match="unknown form 'csv'"):
        read_predictions(tmp_path / "a.npy", NAMES, PointOptions(form="csv"))  # pyright: ignore
    with pytest.raises(ValueError, match="expected 68"):
        to_68(np.zeros((1, 5, 2)))
