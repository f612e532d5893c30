"""AFLW2000-3D: both layouts say the same, signs and boxes mean what they claim."""

from dataclasses import fields

import numpy as np
import pytest
import torch

from helpers.aflw2000_files import COUNT, face_labels, write_official, write_packed
from lifemask.assets import UserError
from lifemask.data.aflw2000 import crop_boxes, load_aflw2000, pose_deg_from_pose_para
from lifemask.evaluation.metrics import geodesic_deg
from lifemask.facemodel import load_face_model
from lifemask.graphics.camera import rotation_from_euler_deg
from lifemask.graphics.pose import procrustes_camera


def test_both_layouts_give_the_same_labels(tmp_path):
    labels = face_labels()
    write_packed(tmp_path / "packed", labels)
    write_official(tmp_path / "zip", labels, configs=True)
    packed, official = load_aflw2000(tmp_path / "packed"), load_aflw2000(tmp_path / "zip")
    assert (packed.layout, official.layout) == ("packed", "official")
    assert len(packed) == COUNT and packed.boxes_are_official and official.boxes_are_official
    for field in fields(packed):
        if field.name not in ("layout", "image_paths", "fits"):
            a, b = getattr(packed, field.name), getattr(official, field.name)
            np.testing.assert_array_equal(a, b, err_msg=field.name)
    for field in fields(packed.fits):
        a, b = getattr(packed.fits, field.name), getattr(official.fits, field.name)
        np.testing.assert_array_equal(a, b, err_msg=field.name)
        assert len(a) == COUNT


def test_a_subset_keeps_the_rows_of_all_labels_together(tmp_path):
    write_packed(tmp_path, face_labels())
    data = load_aflw2000(tmp_path)
    some = data.subset(np.array([7, 2]))
    assert some.names == (data.names[7], data.names[2]) and len(some) == 2
    np.testing.assert_array_equal(some.landmarks68, data.landmarks68[[7, 2]])
    np.testing.assert_array_equal(some.fits.exp_para, data.fits.exp_para[[7, 2]])
    np.testing.assert_array_equal(some.image(0), data.image(7))


def test_labels_without_shape_parameters_are_read(tmp_path):
    labels = face_labels()
    write_packed(tmp_path, {k: v for k, v in labels.items() if k != "shape_para"})
    assert load_aflw2000(tmp_path).fits.shape_para is None


def test_shapes_and_meaning(tmp_path):
    labels = face_labels()
    write_packed(tmp_path, labels)
    data = load_aflw2000(tmp_path)
    assert data.landmarks68.shape == (COUNT, 68, 3)
    np.testing.assert_array_equal(data.landmarks68[3, 5], labels["pt3d_68"][3, :, 5])
    assert not data.visible21[:, 12].any() and data.visible21[:, :12].all()
    # A slice image[sy:ey] covers the pixels sy .. ey - 1, so its edges are half a pixel lower.
    np.testing.assert_array_equal(data.boxes, labels["crop_roi_box"] - 0.5)


def test_official_layout_without_companions_makes_boxes_and_says_so(tmp_path):
    write_official(tmp_path, face_labels(), configs=False)
    data = load_aflw2000(tmp_path)
    assert not data.boxes_are_official and data.reannotated68 is None
    sides = data.boxes[:, 2:] - data.boxes[:, :2]
    spans = data.landmarks68[..., :2].max(axis=1) - data.landmarks68[..., :2].min(axis=1)
    np.testing.assert_allclose(
        sides, np.sqrt(2) * spans.max(axis=1, keepdims=True).repeat(2, 1), atol=1
    )
    np.testing.assert_array_equal(data.boxes, crop_boxes(data.landmarks68))


def test_pose_para_equals_the_published_matrices():
    pose = np.array([[0.3, -0.7, 0.2, 0, 0, 0, 1], [-0.1, 0.5, -0.4, 0, 0, 0, 1]])
    for (phi, gamma, theta), ours in zip(pose[:, :3], pose_deg_from_pose_para(pose), strict=True):
        c, s = np.cos, np.sin
        rx = [[1, 0, 0], [0, c(phi), s(phi)], [0, -s(phi), c(phi)]]
        ry = [[c(gamma), 0, -s(gamma)], [0, 1, 0], [s(gamma), 0, c(gamma)]]
        rz = [[c(theta), s(theta), 0], [-s(theta), c(theta), 0], [0, 0, 1]]
        expected = np.array(rx) @ np.array(ry) @ np.array(rz)
        actual = rotation_from_euler_deg(torch.from_numpy(ours)).numpy()
        np.testing.assert_allclose(actual, expected, atol=1e-12)


def test_absent_data_names_the_download_page(tmp_path):
    with pytest.raises(UserError, match=r"AFLW2000-3D\.zip from http"):
        load_aflw2000(tmp_path)


@pytest.mark.parametrize("damage", ["mat", "photo", "npz", "rows"])
def test_damaged_sets_name_the_file(tmp_path, damage):
    labels = face_labels()
    if damage == "npz":
        write_packed(tmp_path, labels)
        (tmp_path / "labels.npz").write_bytes(b"PK\x03\x04 not a zip")
        match = "labels.npz"
    else:
        write_official(tmp_path, labels, configs=True)
        match = {"mat": "image00006.mat", "photo": "image00006.jpg", "rows": "8 rows"}[damage]
    if damage == "mat":
        (tmp_path / "AFLW2000" / "image00006.mat").write_bytes(b"garbage")
    if damage == "photo":
        (tmp_path / "AFLW2000" / "image00006.jpg").unlink()
    if damage == "rows":
        np.save(tmp_path / "AFLW2000-3D_crop.roi_box.npy", labels["crop_roi_box"][:8])
    with pytest.raises(UserError, match=match):
        load_aflw2000(tmp_path)


def test_real_photos_follow_the_stated_signs(shared_data):
    folder = shared_data / "aflw2000_dev"
    if not folder.is_dir():
        pytest.skip("no aflw2000_dev in the shared data folder")
    data = load_aflw2000(folder)
    assert len(data) == 100 and data.reannotated68 is not None
    points = data.landmarks68
    nose_to_right = points[:, 30, 0] - (points[:, 0, 0] + points[:, 16, 0]) / 2
    assert np.corrcoef(nose_to_right, data.pose_deg[:, 1])[0, 1] > 0.9
    frontal = np.abs(data.bin_yaw_deg) < 20
    eyes = points[frontal, 45] - points[frontal, 36]
    tilt = np.degrees(np.arctan2(eyes[:, 1], eyes[:, 0]))
    assert np.corrcoef(tilt, data.pose_deg[frontal, 2])[0, 1] > 0.9
    nearer = points[frontal, 30, 2] - (points[frontal, 0, 2] + points[frontal, 16, 2]) / 2
    assert (nearer > 0).all()


def test_the_pose_is_the_rotation_that_the_labelled_landmarks_show(shared_data):
    """The mean head laid onto the 3D landmarks turns as `Pose_Para` says; with no other signs."""
    folder = shared_data / "aflw2000_dev"
    if not folder.is_dir():
        pytest.skip("no aflw2000_dev in the shared data folder")
    data, model = load_aflw2000(folder), load_face_model()
    mean = model(torch.zeros(model.identity_size), torch.zeros(len(model.expression_names)))
    points = model.landmarks(mean, "ibug68-3d-bfm").double()
    shown = procrustes_camera(
        points.expand(len(data), -1, -1), torch.from_numpy(data.landmarks68).double()
    ).rotation.numpy()

    def apart(signs: tuple[float, float, float]) -> float:
        stated = rotation_from_euler_deg(torch.from_numpy(data.pose_deg * signs)).numpy()
        return float(np.median(geodesic_deg(stated, shown)))

    assert apart((1, 1, 1)) < 3
    for signs in ((-1, 1, 1), (1, -1, 1), (1, 1, -1)):
        assert apart(signs) > 8
