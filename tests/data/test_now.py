"""NoW's loader on a tiny set in the official layout."""

from __future__ import annotations

import numpy as np
import pytest

from helpers.now_files import NAMES, write_now
from helpers.scan_shapes import landmarks7
from lifemask.assets import UserError
from lifemask.data.now import DOWNLOAD_PAGE, face_disc, load_now


def test_official_layout_is_read(tmp_path):
    vertices, faces = write_now(tmp_path)
    data = load_now(tmp_path)
    assert data.split == "validation"
    assert data.names == NAMES
    assert all(path.is_file() for path in data.image_paths)
    assert data.challenges == ("multiview_neutral", "selfie", "multiview_expressions")
    scan = data.scan(data.subjects[0])
    np.testing.assert_allclose(scan.vertices_mm, vertices, atol=1e-4)
    np.testing.assert_array_equal(scan.faces, faces)
    np.testing.assert_allclose(scan.landmarks7_mm, landmarks7(vertices), atol=1e-6)


def test_scans_can_be_scored_without_the_photos(tmp_path):
    write_now(tmp_path, pictures=False)
    assert load_now(tmp_path).image_paths == ()


def test_test_split_has_no_scans(tmp_path):
    (tmp_path / "imagepathstest.txt").write_text(f"{NAMES[0]}.jpg\n", encoding="utf-8")
    data = load_now(tmp_path)
    assert data.split == "test"
    with pytest.raises(UserError, match="organisers"):
        data.scan(data.subjects[0])


def test_absent_data_names_the_download_page(tmp_path):
    with pytest.raises(UserError, match=DOWNLOAD_PAGE):
        load_now(tmp_path)


def test_missing_photo_and_broken_points_are_named(tmp_path):
    write_now(tmp_path)
    photos = tmp_path / "NoW_Dataset/final_release_version/iphone_pictures"
    (photos / f"{NAMES[1]}.jpg").unlink()
    with pytest.raises(UserError, match="IMG_0060"):
        load_now(tmp_path)
    (photos / f"{NAMES[1]}.jpg").write_bytes(b"jpg")
    data = load_now(tmp_path)
    points = next((tmp_path / "scans_lmks_onlypp" / data.subjects[0]).glob("*.pp"))
    points.write_text(points.read_text().replace('x="', 'x="a', 1))
    with pytest.raises(UserError, match="picked points"):
        data.scan(data.subjects[0])


def test_face_disc_of_a_hand_made_face():
    points = np.array(
        [
            *([-45, 30, 0], [-15, 30, 0], [15, 30, 0], [45, 30, 0]),
            *([0, -10, 0], [-25, -40, 0], [25, -40, 0]),
        ],
        float,
    )
    center, radius = face_disc(points)
    np.testing.assert_allclose(center, [0, 2, 0])
    assert radius == pytest.approx(0.7 * (90 + 40))
