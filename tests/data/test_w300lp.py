"""300W-LP: the official layout, mirrored partners, splits by source."""

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from lifemask.assets import UserError
from lifemask.data.w300lp import crops_w300lp, load_w300lp, mirror68
from lifemask.facemodel.landmarks import FLIP_68

STEMS = {"AFW": ["AFW_134212_1_0", "AFW_134212_1_3"], "HELEN": ["HELEN_100_1_0"]}


def write_set(root, flips=True, landmarks=True):
    rng = np.random.default_rng(0)
    for subset, stems in STEMS.items():
        for stem in stems:
            points = rng.uniform(120, 330, (68, 2))
            pose = np.concatenate([rng.normal(0, 0.3, 3), [200, 210, -80, 1.5e-3]])
            _write_photo(root / subset, stem, points, pose)
            if landmarks:
                folder = root / "landmarks" / subset
                folder.mkdir(parents=True, exist_ok=True)
                savemat(folder / f"{stem}_pts.mat", {"pts_2d": points, "pts_3d": points + 2})
            if flips:
                turned = pose * [1, -1, -1, 1, 1, 1, 1]
                _write_photo(root / f"{subset}_Flip", stem, mirror68(points), turned)


def _write_photo(folder, stem, points, pose):
    folder.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (450, 450), (90, 80, 70)).save(folder / f"{stem}.jpg")
    record = {
        "pt2d": points.T,
        "Pose_Para": pose[None],
        "Shape_Para": np.arange(199.0)[:, None],
        "Exp_Para": np.arange(29.0)[:, None],
        "Tex_Para": np.zeros((199, 1)),
        "Illum_Para": np.zeros((1, 10)),
        "Color_Para": np.ones((1, 7)),
        "roi": np.array([[10, 20, 460, 470]], np.int16),
    }
    savemat(folder / f"{stem}.mat", record)


def test_lists_photos_and_reads_labels(tmp_path):
    write_set(tmp_path / "300W_LP")
    data = load_w300lp(tmp_path)
    assert data.names == (
        "AFW/AFW_134212_1_0", "AFW/AFW_134212_1_3",
        "AFW_Flip/AFW_134212_1_0", "AFW_Flip/AFW_134212_1_3",
        "HELEN/HELEN_100_1_0", "HELEN_Flip/HELEN_100_1_0",
    )  # fmt: skip
    labels = data.labels(0)
    np.testing.assert_allclose(labels.landmarks68_bfm, labels.landmarks68 + 2)
    np.testing.assert_array_equal(labels.shape_para, np.arange(199))
    np.testing.assert_array_equal(labels.roi, [10, 20, 460, 470])
    assert data.image(0).shape == (450, 450, 3)
    assert len(load_w300lp(tmp_path, mirrored=False)) == 3


def test_mirrored_photos_have_their_partners_points_mirrored(tmp_path):
    write_set(tmp_path)
    data = load_w300lp(tmp_path)
    plain, flipped = data.labels(0), data.labels(2)
    np.testing.assert_allclose(flipped.landmarks68_bfm, mirror68(plain.landmarks68_bfm))
    # the left eye's corner of one photo is the right eye's of the other, at 451 - u
    assert flipped.landmarks68[36, 0] == pytest.approx(451 - plain.landmarks68[45, 0])
    np.testing.assert_allclose(mirror68(mirror68(plain.landmarks68)), plain.landmarks68)
    assert FLIP_68[36] == 45
    np.testing.assert_allclose(flipped.pose_deg[1:], -plain.pose_deg[1:], atol=1e-9)


def test_all_versions_of_a_picture_have_one_source(tmp_path):
    write_set(tmp_path)
    data = load_w300lp(tmp_path)
    assert len({s for n, s in zip(data.names, data.sources, strict=True) if "AFW" in n}) == 1
    assert data.sources[-1] == "HELEN/HELEN_100_1"


def test_a_copy_without_landmarks_still_has_the_2d_points(tmp_path):
    write_set(tmp_path, landmarks=False)
    labels = load_w300lp(tmp_path).labels(0)
    assert labels.landmarks68_bfm is None and labels.landmarks68.shape == (68, 2)


def test_crops_are_landmark_squares_with_points_from_zero(tmp_path):
    write_set(tmp_path)
    data = load_w300lp(tmp_path)
    spot = data.labels(4).landmarks68_bfm[30] - 1  # counted from 0
    v, u = np.mgrid[:450, :450]
    grey = 255 * np.exp(-((u - spot[0]) ** 2 + (v - spot[1]) ** 2) / 50)
    photo = Image.fromarray(np.repeat(grey[..., None], 3, -1).astype(np.uint8))
    photo.save(tmp_path / "HELEN" / "HELEN_100_1_0.jpg", quality=97)
    crops = crops_w300lp(data, np.array([4, 2]))
    assert crops.convention == "ibug68-3d-bfm" and len(crops) == 2
    assert data.names[4].startswith("HELEN/")
    peak = np.unravel_index(crops.images[0][0, ..., 0].argmax(), (128, 128))
    np.testing.assert_allclose(peak[::-1], crops.points[0, 30], atol=1.5)
    side = np.sqrt(2) * np.ptp(crops.points, axis=1).max(1)
    np.testing.assert_allclose(side, crops.nominal_side_px, rtol=1e-4)
    assert crops.yaw_deg[1] == pytest.approx(data.labels(2).pose_deg[1], abs=1e-4)


def test_what_is_absent_or_broken_is_named(tmp_path):
    with pytest.raises(UserError, match=r"300W-LP\.zip from http"):
        load_w300lp(tmp_path)
    write_set(tmp_path)
    (tmp_path / "AFW" / "AFW_134212_1_3.mat").write_bytes(b"no")
    with pytest.raises(UserError, match=r"AFW_134212_1_3\.mat is not a label file"):
        load_w300lp(tmp_path).labels(1)
    (tmp_path / "AFW" / "AFW_134212_1_3.mat").unlink()
    with pytest.raises(UserError, match=r"lacks 1 label files, e\.g\. AFW_134212_1_3\.mat"):
        load_w300lp(tmp_path)
