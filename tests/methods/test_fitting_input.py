"""Landmarks that a user brings: formats, and one clear line for each mistake."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from lifemask.assets import UserError
from lifemask.methods.fitting import landmarks_from_points, load_landmarks


def points68() -> np.ndarray:
    return np.random.default_rng(0).uniform(100, 300, (68, 2))


def write_pts(path: Path, points: np.ndarray) -> None:
    rows = "\n".join(f"{u + 1:.6f} {v + 1:.6f}" for u, v in points)
    path.write_text(f"version: 1\nn_points: {len(points)}\n{{\n{rows}\n}}\n")


def test_all_formats_give_the_same_points(tmp_path: Path) -> None:
    points = points68()
    np.savez(tmp_path / "a.npz", points=points)
    (tmp_path / "b.json").write_text(json.dumps(points.tolist()))
    (tmp_path / "c.json").write_text(json.dumps({"landmarks": points.tolist(), "sigma_px": 2.0}))
    write_pts(tmp_path / "d.pts", points)
    for name in ("a.npz", "b.json", "c.json", "d.pts"):
        found = load_landmarks(tmp_path / name, image_size=(400, 400))
        assert found.convention == "ict68"
        assert torch.allclose(found.points[:, :2], torch.tensor(points).float(), atol=1e-4)
        assert found.points[:, 2].isnan().all()
        assert (found.sigma_px > 0).all()
    assert (load_landmarks(tmp_path / "c.json").sigma_px == 2).all()


def test_depth_visibility_and_convention_are_kept(tmp_path: Path) -> None:
    points = np.concatenate((points68(), np.ones((68, 1))), 1)
    visible = np.ones(68, bool)
    visible[5] = False
    points[5] = np.nan
    np.savez(tmp_path / "a.npz", points=points, visible=visible, convention="ibug68-3d-bfm")
    found = load_landmarks(tmp_path / "a.npz")
    assert found.convention == "ibug68-3d-bfm"
    assert found.points[0, 2] == 1
    assert found.sigma_px[5] == torch.inf
    assert load_landmarks(tmp_path / "a.npz", "ict68").convention == "ict68"


def test_counts_choose_the_set() -> None:
    generator = np.random.default_rng(1)
    for count, name in ((21, "aflw21"), (392, "lifemask392"), (478, "mediapipe478")):
        points = generator.uniform(0, 100, (count, 3))
        assert landmarks_from_points(points).convention == name


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p: p[:67], "67 points fit no landmark set"),
        (lambda p: p[:, :1], r"shape \(n, 2\)"),
        (lambda p: p.ravel(), r"shape \(n, 2\)"),
        (lambda p: np.where(np.arange(68)[:, None] == 7, np.nan, p), "point 7 is not finite"),
        (lambda p: p + 5000, "outside the photo"),
        (lambda p: p / 400, "one line"),
        (lambda p: [["a", "b"]] * 68, "not a table of numbers"),
    ],
)
def test_wrong_points_raise_one_clear_line(change, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        landmarks_from_points(change(points68()), image_size=(400, 400), source="my.json")
    assert str(caught.value).startswith("my.json: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"1 2", "unknown landmark format"),
        ("a.npz", b"not a zip", "not a landmark file"),
        ("a.npz", b"", "not a landmark file"),
        ("a.json", b"{", "not a landmark file"),
        ("a.json", b"{}", "neither 'points'"),
        ("a.pts", b"version: 1", "braces"),
        ("a.pts", b"{\n1 2\nx y\n}", "not a landmark file"),
        ("a.pts", b"\xff\xfe", "not a landmark file"),
    ],
)
def test_wrong_files_raise_one_clear_line(tmp_path, name: str, content: bytes, message: str):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        load_landmarks(path)
    assert "\n" not in str(caught.value)


def test_missing_file_pickle_and_bad_sigma(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read"):
        load_landmarks(tmp_path / "none.npz")
    np.savez(tmp_path / "p.npz", points=np.array([{}], dtype=object))
    with pytest.raises(UserError, match="not a landmark file"):
        load_landmarks(tmp_path / "p.npz")
    with pytest.raises(UserError, match="sigma_px"):
        landmarks_from_points(points68(), sigma_px=-1.0)
    with pytest.raises(UserError, match="visible"):
        landmarks_from_points(points68(), visible=[True])
