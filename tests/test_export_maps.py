"""Exported heads wear their normal and roughness maps, unless told not to."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

from fake_stages import EggModel, textures
from lifemask.export import ROUGHNESS, animated_scene, posed_scene
from lifemask.facemodel import load_face_model
from lifemask.graphics.camera import orthographic_camera
from lifemask.graphics.lighting import ambient_light
from lifemask.graphics.meshio import decode_normals, read_glb, read_obj
from lifemask.head import Head
from lifemask.types import Appearance, Face, Geometry, ModelParams

REPO = Path(__file__).resolve().parents[1]
SIZE = 128


@pytest.fixture(scope="module")
def head() -> Head:
    """The mean head, jaw a little open, in a stripy skin."""
    model = load_face_model()
    expression = torch.zeros(len(model.expression_names))
    expression[model.expression_names.index("jawOpen")] = 0.3
    params = ModelParams(torch.zeros(model.identity_size), expression)
    vertices = model(params.identity, expression)
    camera = orthographic_camera(torch.eye(3), 1.0, torch.tensor([100.0, 100.0]))
    geometry = Geometry(vertices, model.topology.faces, camera, model.name, params)
    stripes = 0.4 + 0.1 * torch.sin(torch.arange(SIZE) / 2.0)
    skin = stripes.expand(3, SIZE, SIZE) * torch.tensor([1.0, 0.6, 0.45]).view(3, 1, 1)
    parts = {name: torch.full((3, 8, 8), 0.5) for name in ("eyes", "teeth", "tongue")}
    appearance = Appearance(skin, ambient_light(), None, parts)
    return Head(Face((0, 0, 200, 200), 0.9), geometry, appearance, (200, 200), "open", model)


@pytest.fixture(scope="module")
def file(head, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("maps") / "head.glb"
    head.export(path)
    return path


def test_the_skin_has_maps_and_the_parts_are_glossy(file, head):
    materials = {p.name: p.material for p in read_glb(file).primitives}
    skin = materials.pop("skin")
    assert skin.normal_texture.shape == (SIZE, SIZE, 3)
    assert skin.roughness_texture.shape == (SIZE, SIZE)
    assert (skin.roughness, skin.metallic) == (1.0, 0.0)
    normals = decode_normals(skin.normal_texture)
    assert normals[..., 2].min() > 0.7 and abs(normals[..., :2]).max() > 0.02
    assert set(materials) == {"eyes", "teeth", "tongue"}
    for name, material in materials.items():
        assert material.roughness == pytest.approx(ROUGHNESS[name])
        assert material.normal_texture is None and material.roughness_texture is None
    assert ROUGHNESS["eyes"] < ROUGHNESS["teeth"] < ROUGHNESS["tongue"] < ROUGHNESS["skin"]


def test_maps_can_be_left_out(head, file, tmp_path):
    head.export(tmp_path / "plain.glb", maps=False)
    materials = [p.material for p in read_glb(tmp_path / "plain.glb").primitives]
    assert all(m.normal_texture is None and m.roughness_texture is None for m in materials)
    assert materials[0].roughness == pytest.approx(ROUGHNESS["skin"])
    assert (tmp_path / "plain.glb").stat().st_size < file.stat().st_size
    same = read_glb(file).primitives[0].material.texture
    assert np.array_equal(materials[0].texture, same)


def test_maps_go_with_objs_too(head, tmp_path):
    head.export(tmp_path / "head.obj")
    names = {p.name for p in tmp_path.iterdir()}
    assert {"head_skin_normal.png", "head_skin_roughness.png"} <= names
    skin = next(p for p in read_obj(tmp_path / "head.obj").primitives if p.name == "skin")
    assert skin.material.normal_texture.shape == (SIZE, SIZE, 3)
    head.export(tmp_path / "plain" / "head.obj", maps=False)
    assert not list((tmp_path / "plain").glob("*normal*"))


def test_the_same_head_is_the_same_file(head, file, tmp_path):
    head.export(tmp_path / "again.glb")
    assert (tmp_path / "again.glb").read_bytes() == file.read_bytes()


def test_the_animated_and_the_posed_head_wear_the_same_maps(head):
    """The maps are the photo's, whatever the vertices of the file."""
    moving, posed = (make(head).primitives[0].material for make in (animated_scene, posed_scene))
    assert moving is not None and posed is not None
    assert np.array_equal(moving.normal_texture, posed.normal_texture)
    assert np.array_equal(moving.roughness_texture, posed.roughness_texture)


def test_heads_of_other_models_are_exported_without_maps(tmp_path):
    model, (skin, cap) = EggModel(), textures()
    camera = orthographic_camera(torch.eye(3), 1.0, torch.zeros(2))
    geometry = Geometry(model.mean, model.topology.faces, camera, "egg")
    appearance = Appearance(skin, ambient_light(), None, {"cap": cap})
    egg = Head(Face((0, 0, 9, 9), 1.0), geometry, appearance, (9, 9), "open", model)
    egg.export(tmp_path / "egg.glb")
    assert all(p.material.normal_texture is None for p in read_glb(tmp_path / "egg.glb").primitives)


def test_khronos_validator_has_nothing_to_say(file):
    node = shutil.which("node")
    modules = os.environ.get("GLTF_VALIDATOR", str(REPO / "build/validator/node_modules"))
    if node is None or not (Path(modules) / "gltf-validator").is_dir():
        pytest.skip("needs node and: npm install --no-save --prefix build/validator gltf-validator")
    done = subprocess.run(
        [node, str(REPO / "tools/validate_glb.mjs"), str(file)],
        capture_output=True, text=True, check=False, env=os.environ | {"NODE_PATH": modules},
    )  # fmt: skip
    report = json.loads(done.stdout)
    assert (report["numErrors"], report["numWarnings"]) == (0, 0), report["messages"]
