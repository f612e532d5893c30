"""Head: numbers, exports, new light, new views."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from fake_stages import EggModel, textures
from lifemask.assets import UserError
from lifemask.export import animated_scene, neutral_and_deltas
from lifemask.graphics.camera import (
    orthographic_camera,
    pinhole_camera,
    project,
    rotation_from_euler_deg,
)
from lifemask.graphics.lighting import ambient_light, studio_light
from lifemask.graphics.meshio import read_glb, read_obj, read_ply
from lifemask.head import Head, view_camera
from lifemask.preview import frame_in_photo, preview, visible_edges
from lifemask.types import Appearance, Face, Geometry, ModelParams

POSE_DEG = (8.0, -25.0, 12.0)


@pytest.fixture(scope="module")
def model() -> EggModel:
    return EggModel()


@pytest.fixture(scope="module")
def head(model) -> Head:
    """An egg with an expression and a bump that no parameter explains."""
    params = ModelParams(torch.linspace(-1, 1, 6), torch.tensor([0.5, 0.0, 0.25, 1.0, 0.0]))
    vertices = model(params.identity, params.expression)
    vertices[100] += torch.tensor([0.0, 0.0, 5.0])
    rotation = rotation_from_euler_deg(torch.tensor(POSE_DEG))
    camera = orthographic_camera(rotation, 1.1, torch.tensor([150.0, 140.0]))
    geometry = Geometry(
        vertices,
        model.topology.faces,
        camera,
        model.name,
        params,
        model.landmarks(vertices, "ict68"),
        1.5,
    )
    skin, cap = textures()
    appearance = Appearance(skin, studio_light("soft"), None, {"cap": cap})
    return Head(Face((50, 20, 250, 260), 0.9), geometry, appearance, (300, 280), "open", model)


def test_plain_numbers(head, model):
    assert list(head.pose_deg) == ["pitch", "yaw", "roll"]
    assert tuple(head.pose_deg.values()) == pytest.approx(POSE_DEG, abs=1e-4)
    assert head.expression == {
        "jawOpen": 0.5,
        "eyeBlinkLeft": 0.0,
        "mouthSmileLeft": 0.25,
        "browInnerUp": 1.0,
        "puff": 0.0,
    }
    assert head.identity.shape == (6,) and head.vertices_mm.shape == (len(model.mean), 3)
    expected = project(torch.from_numpy(head.landmarks68_mm), head.geometry.camera)
    np.testing.assert_allclose(head.landmarks68_px, expected[:, :2], atol=1e-4)


def test_free_mesh_has_no_parameters(head, tmp_path):
    geometry = replace(head.geometry, params=None, landmarks68_mm=None, model="")
    free = Head(head.face, geometry, None, head.image_size, "open")
    assert free.expression == {} and free.identity.size == 0
    with pytest.raises(UserError, match="no landmarks"):
        _ = free.landmarks68_px
    with pytest.raises(UserError, match="texture"):
        free.relight("rim")
    free.export(tmp_path / "free.glb", tmp_path / "free.ply", tmp_path / "free.json")
    assert read_ply(tmp_path / "free.ply").positions_mm.shape == head.vertices_mm.shape
    assert free.render(size=64).size == (64, 64)


def test_morph_targets_add_up_to_the_head_of_the_photo(head, model):
    scene = animated_scene(head)
    assert tuple(scene.morph_targets) == model.expression_names
    total = scene.positions_mm + sum(
        scene.morph_weights[name] * target.positions_mm
        for name, target in scene.morph_targets.items()
    )
    np.testing.assert_allclose(total, head.vertices_mm, atol=1e-4)
    neutral, deltas = neutral_and_deltas(head.geometry, model)
    smile = torch.zeros(5)
    smile[2] = 1
    bump = head.geometry.vertices_mm - model(
        head.geometry.params.identity, torch.tensor([0.5, 0.0, 0.25, 1.0, 0.0])
    )
    expected = model(head.geometry.params.identity, smile) + bump
    torch.testing.assert_close(neutral + deltas[2], expected, atol=1e-4, rtol=0)


def test_exports_read_back(head, tmp_path):
    files = [tmp_path / f"head.{suffix}" for suffix in ("glb", "obj", "ply", "json")]
    head.export(*files)
    glb = read_glb(files[0])
    assert tuple(glb.morph_targets) == head.model.expression_names
    assert {p.name for p in glb.primitives} == {"skin", "cap"}
    assert glb.morph_weights["browInnerUp"] == pytest.approx(1.0)
    for path, reader in ((files[1], read_obj), (files[2], read_ply)):
        np.testing.assert_allclose(reader(path).positions_mm, head.vertices_mm, atol=1e-3)
    record = json.loads(files[3].read_text())
    assert record["faces"][0]["expression"]["jawOpen"] == 0.5
    cap = next(p for p in read_obj(files[1]).primitives if p.name == "cap")
    np.testing.assert_allclose(cap.material.texture[0, 0], [63, 89, 170], atol=1)


def test_export_refuses_what_it_cannot_write(head, tmp_path):
    with pytest.raises(UserError, match=r"\.stl.*valid: \.glb"):
        head.export(tmp_path / "head.stl")
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot write"):
        head.export(tmp_path / "file" / "head.glb")


def test_render_shows_the_whole_head_in_its_light(head):
    bright = head.relight(ambient_light(1.0))
    picture = np.asarray(bright.render(size=96, yaw_deg=30.0)).astype(float)
    ground = picture[0, 0]
    covered = np.abs(picture - ground).sum(2) > 12
    rows, columns = np.nonzero(covered)
    assert 2 <= rows.min() and rows.max() <= 93 and 2 <= columns.min() and columns.max() <= 93
    assert rows.max() - rows.min() > 0.8 * 96
    dark = np.asarray(head.relight(ambient_light(0.25)).render(size=96, yaw_deg=30.0))
    assert dark[covered].mean() < 0.7 * picture[covered].mean()


def test_relight_by_name_lamp_side_and_coefficients(head):
    lit = head.relight("sunset")
    assert head.appearance.lighting is not lit.appearance.lighting
    picture = np.asarray(lit.render(size=96)).astype(float)
    assert picture[40:56, 56:70].mean() > 1.2 * picture[40:56, 26:40].mean()  # lamp at +x
    same = head.relight({"light_sh": studio_light("sunset").sh.tolist()})
    torch.testing.assert_close(same.appearance.lighting.sh, lit.appearance.lighting.sh)


def test_views_of_a_head_share_one_scale(head):
    vertices = head.geometry.vertices_mm
    cameras = [view_camera(vertices, 200, yaw) for yaw in (-60, 0, 45)]
    assert len({float(c.scale) for c in cameras}) == 1
    for camera in cameras:
        points = project(vertices, camera)[:, :2]
        middle = (points.amin(0) + points.amax(0)) / 2
        torch.testing.assert_close(middle, torch.full((2,), 99.5), atol=1e-3, rtol=0)


def test_photo_panel_has_the_scale_of_the_views(head):
    center, side = frame_in_photo(head)
    scale = float(view_camera(head.geometry.vertices_mm, 200).scale)
    assert 200 / side * 1.1 == pytest.approx(scale, rel=1e-5)
    camera = head.geometry.camera
    distance, f_px = 800.0, 880.0  # the same scale at the model's origin
    pinhole = pinhole_camera(
        camera.rotation, torch.tensor([0, 0, -distance]), f_px, torch.tensor([150.0, 140.0])
    )
    near = replace(head, geometry=replace(head.geometry, camera=pinhole))
    assert frame_in_photo(near)[1] == pytest.approx(side, rel=0.1)


def test_preview(head):
    photo = np.full((280, 300, 3), 128, np.uint8)
    sheet = preview(head, photo, "photo.jpg")
    assert isinstance(sheet, Image.Image) and sheet.mode == "RGB"
    without_photo = preview(head)
    assert without_photo.size[1] < sheet.size[1]
    clay = preview(replace(head, appearance=None), photo)
    assert clay.size[1] < sheet.size[1]


def test_wireframe_shows_only_the_near_side(head):
    camera = view_camera(head.geometry.vertices_mm, 120)
    edges = visible_edges(head, camera, 120)
    assert len(edges) > 300
    z = head.geometry.vertices_mm[:, 2].numpy()
    assert (z[edges] > -25).all()
