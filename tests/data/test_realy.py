"""REALY's loader on a tiny set in the official layout."""

from __future__ import annotations

import numpy as np
import pytest

from helpers.realy_files import UNIT_MM, realy_head, realy_keypoints, write_realy
from lifemask.assets import UserError
from lifemask.data.realy import DOWNLOAD_PAGE, REGIONS, load_realy, scan_number


def test_official_layout_is_read(tmp_path):
    write_realy(tmp_path)
    data = load_realy(tmp_path)
    assert data.names == ("1", "1_2", "2")
    assert data.subjects == (1, 1, 2)
    scan = data.scan(2)
    assert scan.mm_per_unit == UNIT_MM[1]
    np.testing.assert_allclose(scan.keypoints, realy_keypoints(realy_head()[0]), atol=1e-6)
    assert set(scan.regions) == set(REGIONS)
    for vertices, faces in scan.regions.values():
        assert len(faces) > 20 and faces.max() == len(vertices) - 1


def test_scans_can_be_scored_without_the_photos(tmp_path):
    write_realy(tmp_path, photos=False)
    data = load_realy(tmp_path)
    assert data.names == ("1", "2") and data.image_paths == ()


def test_absent_parts_are_named(tmp_path):
    with pytest.raises(UserError, match=DOWNLOAD_PAGE):
        load_realy(tmp_path)
    write_realy(tmp_path)
    (tmp_path / "metrical_scale.txt").write_text("9.0\n")
    with pytest.raises(UserError, match="none for 2"):
        load_realy(tmp_path)


def test_strange_photos_are_refused(tmp_path):
    write_realy(tmp_path)
    (tmp_path / "REALY_image" / "7.png").write_bytes(b"picture")
    with pytest.raises(UserError, match="photo 7"):
        load_realy(tmp_path)
    with pytest.raises(UserError, match="not the name"):
        scan_number("head")
