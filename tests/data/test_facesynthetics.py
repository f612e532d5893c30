"""FaceSynthetics in its official layout (folder, zip) and as the tar of JPEGs."""

import io
import tarfile
import zipfile

import numpy as np
import pytest
from PIL import Image

from lifemask.assets import UserError
from lifemask.data.facesynthetics import (
    CLASSES,
    EXPAND,
    SIZE,
    TO_REGION,
    cut_portrait,
    load_facesynthetics,
    regions_from_classes,
)
from lifemask.data.regions import GLASSES, IGNORE, SQUARE_EXPAND
from lifemask.types import REGION_NAMES

SIDE = 64


def png(array):
    stream = io.BytesIO()
    Image.fromarray(array).save(stream, "PNG")
    return stream.getvalue()


def portrait(seed):
    """Picture, official class ids and 70 points of a blocky face."""
    rng = np.random.default_rng(seed)
    classes = np.zeros((SIDE, SIDE), np.uint8)
    classes[20:50, 16:48] = 1
    classes[28:34, 20:28] = 3
    classes[28:34, 36:44] = 4
    classes[:2] = 255
    image = np.clip(classes[..., None] * 40 + rng.integers(0, 30, (SIDE, SIDE, 3)), 0, 255)
    points = rng.uniform((18, 22), (46, 48), (70, 2)).astype(np.float32)
    points[0], points[1] = (18, 22), (46, 48)
    return image.astype(np.uint8), classes, points


def official_files(count=4, folder="dataset_100/"):
    files = {}
    for i in range(count):
        image, classes, points = portrait(i)
        files[f"{folder}{i:06d}.png"] = png(image)
        files[f"{folder}{i:06d}_seg.png"] = png(classes)
        text = "\n".join(f"{u:.4f} {v:.4f}" for u, v in points)
        files[f"{folder}{i:06d}_ldmks.txt"] = text.encode()
    return files


def write_folder(root, files):
    for name, data in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return root


def write_zip(path, files):
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def write_tar(path, files):
    with tarfile.open(path, "w") as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def tar_files(count=4):
    """The sample's layout: lossless here, so that it can be compared; the points last, as there."""
    official = official_files(count, "")
    files = {n: d for n, d in official.items() if not n.endswith(".txt")}
    stream = io.BytesIO()
    np.savez(stream, pts=np.stack([portrait(i)[2] for i in range(count)]))
    return files | {"landmarks70.npz": stream.getvalue()}


def test_folder_zip_and_tar_give_the_same_pictures(tmp_path):
    sets = [
        load_facesynthetics(write_folder(tmp_path / "folder", official_files()), held_out=1),
        load_facesynthetics(write_zip(tmp_path / "a.zip", official_files()), held_out=1),
        load_facesynthetics(write_tar(tmp_path / "a.tar", tar_files()), held_out=1),
    ]
    for training, held in sets:
        assert (len(training), len(held)) == (3, 1)
        assert training.images[0].shape == (3, SIZE, SIZE, 3)
        assert training.view_side_px == pytest.approx(SIZE * SQUARE_EXPAND / EXPAND)
        assert np.array_equal(training.images[0], sets[0][0].images[0])
        assert np.array_equal(held.regions[0], sets[0][1].regions[0])


def test_a_tar_that_ends_with_an_npz_is_not_taken_for_a_zip(tmp_path):
    path = write_tar(tmp_path / "a.tar", tar_files())
    assert zipfile.is_zipfile(path)  # the trap
    assert len(load_facesynthetics(path, held_out=1)[0]) == 3


def test_jpegs_are_read(tmp_path):
    files = tar_files()
    for i in range(4):
        with Image.open(io.BytesIO(files.pop(f"{i:06d}.png"))) as picture:
            stream = io.BytesIO()
            picture.save(stream, "JPEG", quality=95)
        files[f"{i:06d}.jpg"] = stream.getvalue()
    exact = load_facesynthetics(write_tar(tmp_path / "a.tar", tar_files()), held_out=1)[0]
    found = load_facesynthetics(write_tar(tmp_path / "b.tar", files), held_out=1)[0]
    assert np.abs(found.images[0].astype(int) - exact.images[0]).mean() < 12


def test_split_is_disjoint_complete_and_fixed(tmp_path):
    folder = write_folder(tmp_path, official_files(6))
    training, held = load_facesynthetics(folder, held_out=2)
    again = load_facesynthetics(folder, held_out=2)
    assert np.array_equal(held.images[0], again[1].images[0])
    every = np.concatenate((training.images[0], held.images[0])).reshape(6, -1)
    assert len(np.unique(every, axis=0)) == 6


def test_every_official_class_has_its_region():
    named = {
        "background": "background", "skin": "skin", "nose": "nose", "right_eye": "eyes",
        "left_eye": "eyes", "right_brow": "brows", "left_brow": "brows", "right_ear": "ears_neck",
        "left_ear": "ears_neck", "mouth_interior": "mouth_interior", "top_lip": "lips",
        "bottom_lip": "lips", "neck": "ears_neck", "hair": "hair", "beard": "skin",
        "clothing": "background", "glasses": "skin", "headwear": "hair", "facewear": "background",
    }  # fmt: skip
    assert len(CLASSES) == len(TO_REGION) == 19
    for name, region in zip(CLASSES, TO_REGION, strict=True):
        assert REGION_NAMES[region] == named[name]


def test_unlabelled_pixels_stay_so_and_unknown_ids_are_refused():
    ids = np.array([[0, 255], [18, 3]], np.uint8)
    assert regions_from_classes(ids).tolist() == [[8, IGNORE], [8, 2]]
    glasses = np.full((1, 1), CLASSES.index("glasses"), np.uint8)
    assert regions_from_classes(glasses) == REGION_NAMES.index("skin") + GLASSES
    with pytest.raises(UserError, match=r"\[19\]"):
        regions_from_classes(np.array([[19]], np.uint8))


def test_cut_shows_the_landmark_square_at_the_right_place_and_scale():
    image = np.zeros((200, 200, 3), np.uint8)
    regions = np.full((200, 200), 8, np.uint8)
    points = np.array([[80.0, 90.0], [120.0, 110.0]] * 34 + [[100, 100]] * 2, np.float32)
    image[95:105, 95:105] = 255  # ten px about the centre (99.5, 99.5)
    regions[95:105, 95:105] = 0
    pixels, cut = cut_portrait(image, regions, points, size=128)
    side = 40 * 2**0.5 * EXPAND
    assert (cut == 0).sum() == pytest.approx((10 * 128 / side) ** 2, rel=0.1)
    bright = pixels[..., 0] > 127
    assert np.array_equal(bright, cut == 0) or (bright ^ (cut == 0)).sum() < 45
    rows, columns = np.nonzero(cut == 0)
    expected = 63.5 + (99.5 - 100) * 128 / side  # the square's centre is the points' box's
    assert (rows.mean(), columns.mean()) == pytest.approx((expected, expected), abs=0.6)


def test_beyond_the_portrait_nothing_is_labelled():
    image, classes, points = portrait(0)
    points[1] = (63, 63)
    _, cut = cut_portrait(image, regions_from_classes(classes), points)
    assert (cut[-10:] == IGNORE).all() and (cut[:, -10:] == IGNORE).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: f.pop("dataset_100/000001_ldmks.txt"), "lacks 000001_ldmks.txt"),
        (lambda f: f.pop("dataset_100/000002.png"), "lacks 000002"),
        (lambda f: f.update({"dataset_100/000000_ldmks.txt": b"1 2\n3"}), "does not hold 70"),
        (lambda f: f.update({"dataset_100/000000_ldmks.txt": b"nan nan\n" * 70}), "70 points"),
        (lambda f: f.update({"dataset_100/000003_seg.png": b"no picture"}), "cannot read 000003"),
        (
            lambda f: f.update({"dataset_100/000003_seg.png": png(np.zeros((9, 9), np.uint8))}),
            "differ in size",
        ),
        (
            lambda f: f.update({"dataset_100/000003_seg.png": png(np.zeros((9, 9, 3), np.uint8))}),
            "not class ids",
        ),
    ],
)
def test_broken_sets_are_refused_in_one_line(tmp_path, change, message):
    files = official_files()
    change(files)
    with pytest.raises(UserError, match=message) as caught:
        load_facesynthetics(write_zip(tmp_path / "a.zip", files), held_out=1)
    assert "\n" not in str(caught.value)


def test_absent_sets_name_the_download_page(tmp_path):
    for path in (tmp_path / "none.zip", tmp_path):
        with pytest.raises(UserError, match="github.com/microsoft/FaceSynthetics"):
            load_facesynthetics(path)
    (tmp_path / "a.zip").write_bytes(b"no archive")
    with pytest.raises(UserError, match="cannot read"):
        load_facesynthetics(tmp_path / "a.zip")
    with pytest.raises(UserError, match="too few"):
        load_facesynthetics(write_zip(tmp_path / "b.zip", official_files(2)), held_out=2)


def test_sample_at_hand(shared_data):
    path = shared_data / "facesynth100.tar"
    if not path.is_file():
        pytest.skip("facesynth100.tar is not at hand")
    training, held = load_facesynthetics(path, held_out=2, limit=8)
    regions = np.concatenate((training.regions[0], held.regions[0]))
    share = np.bincount(regions.ravel(), minlength=256)[:9] / regions.size
    assert (share[[0, 1, 2, 3, 4, 6, 7, 8]] > 0.0005).all()
    # Eyes lie in the upper half of the square's middle, lips below the nose.
    rows = [np.nonzero(regions == r)[1].mean() for r in (3, 2, 0, 1)]
    assert rows == sorted(rows)
