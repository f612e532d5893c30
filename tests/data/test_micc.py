"""MICC Florence in its official layout, its landmarks, and the rule for the nose tip."""

import json

import numpy as np
import pytest
import torch

from helpers.facescape_files import put, rotation
from helpers.scan_files import SUBJECTS, head, landmarks68, scan_pose, write_micc
from lifemask.assets import UserError
from lifemask.data._nose import nose_tip
from lifemask.data.micc import CONDITIONS, load_micc
from lifemask.facemodel import load_face_model


def test_items_are_videos_and_landmarks_are_found(tmp_path):
    root = write_micc(tmp_path, videos=("PTZ-Indoor.mjpeg", "Indoor-Cooperative.mjpg"))
    data = load_micc(root)
    assert data.names[:2] == ("subject_01/Indoor-Cooperative", "subject_01/PTZ-Indoor")
    assert data.conditions[:2] == CONDITIONS[:2] and len(data) == 4 and not data.complete
    scan = data.scan(data.names[0])
    turn, shift = scan_pose(SUBJECTS[0])
    points = landmarks68() @ turn.T + shift
    np.testing.assert_allclose(scan.landmarks51_mm, points[17:], atol=1e-6)
    np.testing.assert_allclose(scan.nose_tip_mm, points[30], atol=1e-6)


def test_minimal_copy_without_videos_and_landmarks(tmp_path):
    vertices, faces = head()
    put(tmp_path / "subject_07" / "scan.obj", vertices, faces)
    data = load_micc(tmp_path)
    assert data.names == ("subject_07",) and data.conditions == ("scan",)
    scan = data.scan("subject_07")
    assert scan.landmarks51_mm is None
    assert np.linalg.norm(scan.nose_tip_mm - landmarks68()[30]) < 10


def test_own_landmarks_go_before_the_published_ones(tmp_path):
    root = write_micc(tmp_path)
    mesh = load_micc(root).scans["subject_01"]
    own = mesh.with_name(f"{mesh.stem}.landmarks.json")
    own.write_text(json.dumps({"ibug51": np.ones((51, 3)).tolist()}))
    assert np.all(load_micc(root).scan("subject_01").landmarks51_mm == 1)
    for content in ("{}", "[]", '{"ibug51": [[1, 2]]}', "{"):
        own.write_text(content)
        with pytest.raises(UserError, match="landmarks.json"):
            load_micc(root).scan("subject_01")


def test_what_cannot_be_used_is_named(tmp_path):
    with pytest.raises(UserError, match="micc.unifi.it"):
        load_micc(tmp_path)
    vertices, faces = head()
    put(tmp_path / "subject_01" / "metres.obj", vertices / 1000, faces)
    with pytest.raises(UserError, match="millimetres"):
        load_micc(tmp_path).scan("subject_01")
    bad = tmp_path / "subject_01" / "metres.ljson"
    put(tmp_path / "subject_01" / "metres.obj", vertices, faces)
    bad.write_text('{"groups": {}}')
    with pytest.raises(UserError, match="menpo"):
        load_micc(tmp_path).scan("subject_01")


@pytest.mark.parametrize("angles", [(0, 0, 0), (20, -15, 10), (-20, 20, -15)])
def test_nose_tip_by_rule_is_the_landmark(angles):
    model = load_face_model()
    vertices = model(torch.zeros(1, 80), torch.zeros(1, 52))
    faces = model.topology.faces[model.topology.face_part == 0].long().numpy()
    truth = model.landmarks(vertices, "ict68")[0, 30].double().numpy()
    turn = rotation(*angles)
    found, curvature = nose_tip(vertices[0].double().numpy() @ turn.T, faces)
    assert np.linalg.norm(found - turn @ truth) < 8 and curvature > 0.02


def test_nothing_that_faces_the_viewer():
    vertices, faces = head(9)
    with pytest.raises(UserError, match="convex"):
        nose_tip(vertices * [1, 1, -1], faces)
