"""The Stirling/ESRC challenge's loader on a tiny set."""

from __future__ import annotations

import numpy as np
import pytest

from helpers.scan_shapes import landmarks7
from helpers.stirling_files import write_lnd, write_stirling
from lifemask.assets import UserError
from lifemask.data.stirling import ANNOTATIONS_PAGE, DOWNLOAD_PAGE, load_stirling, read_lnd


def test_photos_are_matched_with_the_plainest_scan(tmp_path):
    vertices, faces = write_stirling(tmp_path)
    data = load_stirling(tmp_path)
    assert data.names == ("HQ/F1001_a", "HQ/M1005/01", "LQ/f1001_17")
    assert data.people == ("f1001", "m1005", "f1001")
    assert data.qualities == ("HQ", "HQ", "LQ")
    assert data.scan_files["f1001"][0].stem == "f1001_N"
    scan = data.scan("m1005")
    np.testing.assert_allclose(scan.vertices_mm, vertices, atol=1e-4)
    np.testing.assert_array_equal(scan.faces, faces)
    np.testing.assert_allclose(scan.landmarks7_mm, landmarks7(vertices), atol=1e-6)


def test_absent_data_names_both_pages(tmp_path):
    with pytest.raises(UserError, match=DOWNLOAD_PAGE) as error:
        load_stirling(tmp_path)
    assert ANNOTATIONS_PAGE in str(error.value)


def test_a_photo_without_scan_or_person_is_refused(tmp_path):
    write_stirling(tmp_path)
    (tmp_path / "HQ/M1099_1.jpg").write_bytes(b"picture")
    with pytest.raises(UserError, match="m1099"):
        load_stirling(tmp_path)
    (tmp_path / "HQ/M1099_1.jpg").rename(tmp_path / "HQ/somebody.jpg")
    with pytest.raises(UserError, match="somebody"):
        load_stirling(tmp_path)


def test_landmark_files(tmp_path):
    points = np.arange(21.0).reshape(7, 3)
    write_lnd(tmp_path / "a.lnd", points)
    np.testing.assert_allclose(read_lnd(tmp_path / "a.lnd"), points)
    np.savetxt(tmp_path / "b.lnd", points)
    np.testing.assert_allclose(read_lnd(tmp_path / "b.lnd"), points)
    write_lnd(tmp_path / "c.lnd", points[:6])
    with pytest.raises(UserError, match="7 finite points"):
        read_lnd(tmp_path / "c.lnd")
