"""FaceScape's official benchmark layout: what is read, and one clear error for what is not."""

import json

import numpy as np
import pytest

from helpers.facescape_files import (
    CENTER_MM,
    LAB_ITEMS,
    UNIT_MM,
    WILD_ITEMS,
    face,
    lab_name,
    sheet,
    wild_camera_mm,
    wild_rotations,
    write_lab,
    write_wild,
)
from lifemask.assets import UserError
from lifemask.data.facescape import load_facescape_lab, load_facescape_wild

HEAD = sheet(face, n=5)


def test_wild_items_in_the_official_order(tmp_path):
    root = write_wild(tmp_path, *HEAD)
    image = root / "data" / "wild_img" / "150.jpg"
    image.parent.mkdir()
    image.write_bytes(b"")
    data = load_facescape_wild(root)
    assert data.names == ("000", "150", "399") and len(data) == 3 and not data.complete
    assert [i.groups["yaw"] for i in data.items] == ["0-5", "5-30", "60-90"]
    assert [i.image for i in data.items] == [None, image, None]
    for item, k in zip(data.items, WILD_ITEMS, strict=True):
        vertices, faces = data.truth(item)
        np.testing.assert_allclose(vertices, wild_camera_mm(HEAD[0], k), atol=1e-3)
        np.testing.assert_array_equal(faces, HEAD[1])
        np.testing.assert_allclose(item.head_rotation, wild_rotations()[k])
        np.testing.assert_allclose(item.head_center_mm, CENTER_MM)
        assert item.unit_mm == UNIT_MM and item.intrinsics is None


def test_lab_items_and_their_groups(tmp_path):
    data = load_facescape_lab(write_lab(tmp_path, *HEAD))
    assert data.names == tuple(lab_name(i) for i in LAB_ITEMS)
    assert [i.groups for i in data.items] == [
        {"yaw": "0", "focal": "1200"},
        {"yaw": "60", "focal": "300"},
        {"yaw": "30", "focal": "600"},
    ]
    assert data.items[1].intrinsics is not None and data.items[1].intrinsics[0, 0] == 300


def test_data_folder_itself_is_understood(tmp_path):
    root = write_wild(tmp_path, *HEAD)
    assert load_facescape_wild(root / "data").names == load_facescape_wild(root).names


def test_missing_parts_name_the_download_page(tmp_path):
    with pytest.raises(UserError, match="github.com/zhuhao-nju/facescape"):
        load_facescape_wild(tmp_path)
    root = write_lab(tmp_path, *HEAD)
    with pytest.raises(UserError, match="wild_gt_mesh"):
        load_facescape_wild(root)
    for path in (root / "data" / "lab_cam").iterdir():
        path.unlink()
    with pytest.raises(UserError, match="no truth"):
        load_facescape_lab(root)


def test_damaged_files_are_named(tmp_path):
    root = write_lab(tmp_path, *HEAD)
    camera = root / "data" / "lab_cam" / f"{lab_name(LAB_ITEMS[0])}.json"
    for content in ("{", "[]", json.dumps([np.eye(3).tolist(), np.eye(3).tolist()])):
        camera.write_text(content)
        with pytest.raises(UserError, match=camera.name):
            load_facescape_lab(root)
    np.save(root / "code" / "predef" / "lab_rotations.npy", np.stack([2 * np.eye(3)] * 11))
    with pytest.raises(UserError, match="not rotations"):
        load_facescape_lab(root)
    np.save(root / "code" / "predef" / "lab_head_centers.npy", np.zeros((2, 3)))
    with pytest.raises(UserError, match="lab_head_centers"):
        load_facescape_lab(root)
    (root / "code" / "predef" / "lab_head_centers.npy").write_bytes(b"no array")
    with pytest.raises(UserError, match="cannot read"):
        load_facescape_lab(root)
