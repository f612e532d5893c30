"""Keyframes in GLB files: what a player shows is what was written."""

import json
import os
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import roma
import torch

from lifemask.graphics import meshio
from lifemask.graphics.meshio import Animation, Material, MeshPrimitive, MeshScene, MorphTarget
from lifemask.graphics.meshio.scene import ViewCamera

REPO = Path(__file__).resolve().parents[2]
COUNT = 7


def scene() -> MeshScene:
    rng = np.random.default_rng(0)
    points = rng.normal(0, 50, (12, 3)).astype(np.float32)
    faces = np.arange(12, dtype=np.int32).reshape(4, 3)
    targets = {
        name: MorphTarget(rng.normal(0, 4, (12, 3)).astype(np.float32))
        for name in ("jawOpen", "eyeBlinkLeft", "mouthPucker")
    }
    normals = points / np.linalg.norm(points, axis=1, keepdims=True)
    skin = MeshPrimitive("skin", faces, None, Material("skin"))
    motion = Animation(
        np.arange(COUNT) / 25 + 0.4,
        rng.uniform(0, 1, (COUNT, 3)),
        meshio.quaternions(rotations()),
        rng.normal(0, 300, (COUNT, 3)),
        np.ones((COUNT, 3)) * np.linspace(0.9, 1.1, COUNT)[:, None],
    )
    view = ViewCamera(2500.0, 0.3, 16 / 9)
    return MeshScene(points, (skin,), normals, morph_targets=targets, animation=motion, camera=view)


def rotations() -> np.ndarray:
    turn = torch.linspace(-3, 6, COUNT, dtype=torch.float64)[:, None]
    axis = torch.tensor([[0.3, 0.9, -0.1]], dtype=torch.float64)
    return roma.rotvec_to_rotmat(turn * axis).numpy()


def test_the_mesh_of_every_keyframe_comes_back(tmp_path: Path) -> None:
    made = scene()
    meshio.write_glb(made, tmp_path / "a.glb")
    back = meshio.read_animation(tmp_path / "a.glb")
    still = meshio.read_glb(tmp_path / "a.glb")
    assert back is not None and made.animation is not None
    order = still.faces.reshape(-1)
    for k, time_s in enumerate(made.animation.times_s):
        pose = meshio.pose_at(back, time_s)
        moved = still.positions_mm.astype(np.float64)
        expected = made.positions_mm.astype(np.float64)
        for weight, true, (name, target) in zip(
            pose.weights, made.animation.weights[k], made.morph_targets.items(), strict=True
        ):  # type: ignore[arg-type, index]
            moved = moved + weight * still.morph_targets[name].positions_mm
            expected = expected + true * target.positions_mm
        shown = pose(moved)[order]
        turned = (expected * made.animation.scale[k]) @ rotations()[k].T  # type: ignore[index]
        wanted = (turned + made.animation.translation_mm[k])[made.faces.reshape(-1)]  # type: ignore[index]
        np.testing.assert_allclose(shown, wanted, atol=3e-3)  # um; sparse targets drop 2 um


def test_between_keyframes_rotation_follows_the_great_circle() -> None:
    half = np.stack([np.eye(3), roma.rotvec_to_rotmat(torch.tensor([0.0, 1.2, 0.0])).numpy()])
    motion = Animation(np.array([1.0, 2.0]), None, meshio.quaternions(half))
    middle = meshio.pose_at(motion, 1.25).rotation
    assert roma.rotmat_to_rotvec(torch.from_numpy(middle)).numpy() == pytest.approx([0, 0.3, 0])
    assert np.allclose(meshio.pose_at(motion, 0.0).rotation, np.eye(3))
    assert np.allclose(meshio.pose_at(motion, 9.0).rotation, half[1], atol=1e-6)


def test_quaternions_never_change_sides() -> None:
    rows = meshio.quaternions(rotations())
    assert ((rows[1:] * rows[:-1]).sum(1) > 0).all()


def test_a_scene_without_animation_is_written_as_before() -> None:
    plain = replace(scene(), animation=None, camera=None)
    document, _ = meshio.glb_read.open_document(meshio.encode_glb(plain))
    assert "animations" not in document and "cameras" not in document
    assert document["scenes"][0]["nodes"] == [0]
    assert meshio.glb_animation.decode_animation(meshio.encode_glb(plain)) is None


def test_the_node_itself_stays_at_rest(tmp_path: Path) -> None:
    made = scene()
    meshio.write_glb(made, tmp_path / "a.glb")
    back = meshio.read_glb(tmp_path / "a.glb")
    shown = back.positions_mm[back.faces.reshape(-1)]
    np.testing.assert_allclose(shown, made.positions_mm[made.faces.reshape(-1)], atol=1e-3)


def test_keyframes_that_make_no_sense_are_refused() -> None:
    good = scene()
    assert good.animation is not None
    for wrong in (
        replace(good.animation, times_s=np.zeros(COUNT)),
        replace(good.animation, weights=np.zeros((COUNT, 2))),
        replace(good.animation, translation_mm=np.full((COUNT, 3), np.nan)),
    ):
        with pytest.raises(ValueError, match="animation"):
            replace(good, animation=wrong).check()


def test_khronos_validator_has_nothing_to_say(tmp_path: Path) -> None:
    node = shutil.which("node")
    modules = os.environ.get("GLTF_VALIDATOR", str(REPO / "build/validator/node_modules"))
    if node is None or not (Path(modules) / "gltf-validator").is_dir():
        pytest.skip("needs node and: npm install --no-save --prefix build/validator gltf-validator")
    meshio.write_glb(scene(), tmp_path / "a.glb")
    done = subprocess.run(
        [node, str(REPO / "tools/validate_glb.mjs"), str(tmp_path / "a.glb")],
        capture_output=True, text=True, check=False, env=os.environ | {"NODE_PATH": modules},
    )  # fmt: skip
    report = json.loads(done.stdout)
    assert (report["numErrors"], report["numWarnings"]) == (0, 0), report["messages"]
