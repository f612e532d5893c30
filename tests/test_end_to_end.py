"""The real pipeline with the shipped weights, from the sample portrait to files."""

import json

import numpy as np
import pytest

from lifemask.apps.cli import main
from lifemask.graphics.meshio import read_glb

LEFT_EYE, RIGHT_EYE, NOSE_TIP, CHIN = (202, 100), (247, 102), (222, 124), (221, 172)
"""Where the portrait shows them, px, by eye; left is image left."""
EYE_DISTANCE_PX = 45


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The folder of the sample portrait, all formats."""
    out = tmp_path_factory.mktemp("sample")
    try:
        main(["reconstruct", "--sample", "-o", str(out), "--formats", "glb,obj,ply,json,png"])
    except SystemExit as stop:
        assert not stop.code
    return out / "astronaut"


@pytest.fixture(scope="module")
def face(folder) -> dict:
    return json.loads((folder / "params.json").read_text())["faces"][0]


def test_landmarks_lie_on_the_face(face):
    points = np.array(face["landmarks68_px"])
    found = {
        LEFT_EYE: points[36:42].mean(0),
        RIGHT_EYE: points[42:48].mean(0),
        NOSE_TIP: points[30],
        CHIN: points[8],
    }
    for expected, point in found.items():
        assert np.linalg.norm(point - expected) < 0.2 * EYE_DISTANCE_PX, (expected, point)


def test_pose_and_expression_are_those_of_the_portrait(face):
    assert abs(face["pose_deg"]["yaw"]) < 15 and abs(face["pose_deg"]["roll"]) < 10
    assert len(face["expression"]) == 52 and len(face["identity"]) == 80
    smile = face["expression"]["mouthSmileLeft"] + face["expression"]["mouthSmileRight"]
    assert smile > 0.2
    assert np.abs(face["identity"]).max() < 4


def test_head_has_the_size_of_a_head(face):
    points = np.array(face["landmarks68_mm"])
    assert 80 < np.linalg.norm(points[45] - points[36]) < 110  # outer eye corners


def test_glb_is_complete(folder, face):
    scene = read_glb(folder / "head.glb")
    assert tuple(scene.morph_targets) == tuple(face["expression"])
    assert {"skin", "eyes"} <= {p.name for p in scene.primitives}
    for primitive in scene.primitives:
        assert primitive.material is not None and primitive.material.texture is not None
    skin = next(p for p in scene.primitives if p.name == "skin").material.texture
    red, green, blue = skin.reshape(-1, 3).mean(0)
    assert red > green > blue  # skin, whatever its tone


def test_all_files_are_there(folder, face):
    names = {p.name for p in folder.iterdir()}
    assert {"head.glb", "head.obj", "head.mtl", "head.ply", "preview.png", "params.json"} <= names
    assert set(face["files"]) == names - {"params.json"}
