"""YTF-68 loader: crops by the landmark square, split by person."""

import io
import tarfile

import numpy as np
import pytest
from PIL import Image

from lifemask.assets import UserError
from lifemask.data.ytf68 import EXPAND, SIZE, load_ytf68, load_ytf68_test


def write_set(folder, validation, names=None):
    rng = np.random.default_rng(0)
    count = len(validation)
    names = names or [f"{'t-' if i % 2 else ''}person_{i:02d}.jpg" for i in range(count)]
    points = rng.uniform(40, 90, (count, 68, 2)).astype(np.float32)
    with tarfile.open(folder / "frames.tar", "w") as archive:
        for name, marks in zip(names, points, strict=True):
            u, v = marks[30]
            y, x = np.mgrid[:150, :130]
            spot = 255 * np.exp(-((x - u) ** 2 + (y - v) ** 2) / 18)
            stream = io.BytesIO()
            grey = np.repeat(spot[..., None], 3, -1).astype(np.uint8)
            Image.fromarray(grey).save(stream, "JPEG", quality=95)
            info = tarfile.TarInfo(name)
            info.size = stream.tell()
            archive.addfile(info, io.BytesIO(stream.getvalue()))
    np.savez(
        folder / "labels.npz",
        names=np.array(names),
        points=points,
        person=np.array([f"person{i // 2}" for i in range(count)]),
        validation=np.array(validation),
    )


def test_crops_are_landmark_squares_and_points_stay_on_the_picture(tmp_path):
    write_set(tmp_path, [False, False, False, False, True, True])
    training, held = load_ytf68(tmp_path)
    assert (len(training), len(held)) == (4, 2)
    low, high = training.points.min(1), training.points.max(1)
    side = np.sqrt(2) * (high - low).max(1)
    np.testing.assert_allclose(side, SIZE / EXPAND, rtol=1e-4)
    np.testing.assert_allclose((low + high) / 2, SIZE / 2 - 0.5, atol=1e-3)
    for image, marks in zip(training.images[0], training.points, strict=True):
        peak = np.unravel_index(image[..., 0].argmax(), image.shape[:2])
        np.testing.assert_allclose(peak[::-1], marks[30], atol=1.6)


def test_crops_know_person_and_frame(tmp_path):
    names = ["b_c_00.jpg", "t-b_c_00.jpg", "b_12.jpg", "t-b_10.jpg", "a_52.jpg", "a_51.jpg"]
    write_set(tmp_path, [False] * 4 + [True] * 2, names)
    training, held = load_ytf68(tmp_path)
    assert training.person is not None and held.person is not None
    assert training.person.tolist() == [0, 0, 1, 1], "persons are those of the labels"
    assert held.person.tolist() == [2, 2], "a number means one person in both sets"
    assert training.frame is not None and training.frame.tolist() == [0, 0, 12, 10]
    assert held.frame is not None and (held.frame // 10).tolist() == [5, 5]


def test_names_without_a_frame_number_are_a_user_error(tmp_path):
    write_set(tmp_path, [False, True], ["a_01.jpg", "t-b_x2.jpg"])
    with pytest.raises(UserError, match="'t-b_x2' has no number"):
        load_ytf68(tmp_path)


def test_missing_frames_are_a_user_error(tmp_path):
    write_set(tmp_path, [False, True])
    (tmp_path / "frames.tar").unlink()
    with pytest.raises(UserError, match="cannot read"):
        load_ytf68(tmp_path)


def test_frames_to_test_on_are_read_one_at_a_time(tmp_path):
    write_set(tmp_path, [False, False, False, True, True, True])
    data = load_ytf68_test(tmp_path)
    assert len(data) == 3 and data.person.tolist() == ["person1", "person2", "person2"]
    image = data.image(1)
    assert image.shape == (150, 130, 3)
    peak = np.unravel_index(image[..., 0].argmax(), image.shape[:2])
    np.testing.assert_allclose(peak[::-1], data.landmarks68[1, 30], atol=1)
    (tmp_path / "frames.tar").unlink()
    with pytest.raises(UserError, match="cannot read"):
        load_ytf68_test(tmp_path).image(0)
