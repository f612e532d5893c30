"""AFLW-21 loader: layout, split, yaw sign, weights."""

import io
import tarfile

import numpy as np
import pytest
from PIL import Image

from lifemask.assets import UserError
from lifemask.data.aflw21 import load_aflw21, load_aflw21_test


def write_set(folder, count=24, yaw=None):
    rng = np.random.default_rng(0)
    names = [f"image{i:05d}" for i in range(count)]
    for half in range(2):
        with tarfile.open(folder / f"crops-{half:02d}.tar", "w") as archive:
            for name in names[half::2]:
                pixels = rng.integers(0, 256, (15, 15, 3)).astype(np.uint8)
                stream = io.BytesIO()
                Image.fromarray(pixels).resize((120, 120)).save(stream, "JPEG")
                info = tarfile.TarInfo(f"{name}.jpg")
                info.size = stream.tell()
                archive.addfile(info, io.BytesIO(stream.getvalue()))
    np.savez(
        folder / "labels.npz",
        names=np.array(names),
        points=rng.uniform(20, 100, (count, 21, 2)).astype(np.float32),
        visible=np.ones((count, 21), bool),
        yaw_deg=np.linspace(-120, 120, count).astype(np.float32) if yaw is None else yaw,
    )


def test_split_weights_and_sign(tmp_path):
    write_set(tmp_path)
    training, held = load_aflw21(tmp_path, held_out=6)
    stored = np.linspace(-120, 120, 24)
    usable = np.abs(stored) <= 110
    assert len(held) == usable[18:].sum() and len(training) == usable[:18].sum()
    np.testing.assert_allclose(training.yaw_deg, -stored[:18][usable[:18]], rtol=1e-5)
    size = np.abs(training.yaw_deg)
    expected = np.where(size <= 30, 1.0, np.where(size <= 60, 1.4, 2.0))
    np.testing.assert_allclose(training.weight, expected, rtol=1e-6)
    assert training.nominal_side_px == 120 and training.images[0].shape[1:] == (120, 120, 3)


def test_a_missing_crop_is_named(tmp_path):
    write_set(tmp_path)
    (tmp_path / "crops-01.tar").unlink()
    with pytest.raises(UserError, match="lacks 12 crops, e.g. image00001.jpg"):
        load_aflw21(tmp_path)


def test_yaw_has_our_sign_on_real_labels(shared_data):
    """A face turned to image right has its nose to the right of the middle of its eyes."""
    folder = shared_data / "aflw21"
    if not (folder / "labels.npz").is_file():
        pytest.skip("no AFLW labels")
    with np.load(folder / "labels.npz") as labels:
        points, visible, yaw = labels["points"], labels["visible"], -labels["yaw_deg"]
    seen = visible[:, [7, 10, 14]].all(1) & (np.abs(yaw) > 15) & (np.abs(yaw) < 45)
    nose = points[seen, 14, 0] - points[seen][:, [7, 10], 0].mean(1)
    assert (np.sign(nose) == np.sign(yaw[seen])).mean() > 0.95


def test_images_of_the_crops_to_test_on_come_from_all_tars(tmp_path, monkeypatch):
    write_set(tmp_path)
    names = {f"image{i:05d}" for i in (6, 7, 12)}
    monkeypatch.setattr("lifemask.data.aflw21.HELD_OUT_NAMES", names)
    data = load_aflw21_test(tmp_path)
    assert set(data.names) == names
    _, held = load_aflw21(tmp_path, held_out=20)  # crops 4 to 22: the yaw of 23 is too far
    for row, index in enumerate((6, 7, 12)):
        np.testing.assert_array_equal(data.image(row), held.images[0][index - 4])
    (tmp_path / "crops-00.tar").unlink()
    with pytest.raises(UserError, match=r"no image00006\.jpg in the tar files"):
        load_aflw21_test(tmp_path).image(0)


@pytest.mark.slow
def test_the_names_held_out_are_those_that_training_leaves_out(shared_data):
    """The list that scoring uses is the split that `load_aflw21` makes from the pictures."""
    folder = shared_data / "aflw21"
    if not (folder / "labels.npz").is_file():
        pytest.skip("no AFLW labels")
    _, held = load_aflw21(folder)
    test = load_aflw21_test(folder)
    np.testing.assert_array_equal(held.points, test.landmarks21.astype(np.float32))
    np.testing.assert_array_equal(held.gather(np.array([0, 7])), [test.image(0), test.image(7)])


def test_crops_to_test_on_are_read_from_the_tars(shared_data):
    folder = shared_data / "aflw21"
    if not (folder / "labels.npz").is_file():
        pytest.skip("no AFLW labels")
    data = load_aflw21_test(folder)
    assert 990 < len(data) <= 1001 and data.image(5).shape == (120, 120, 3)
    inside = (data.landmarks21 > -20) & (data.landmarks21 < 140)
    assert inside[data.visible21].mean() > 0.999
