"""A head with a carried surface, and a bare surface, through pipeline, files and record."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from fake_stages import EggLandmarker, EggModel, one_face
from lifemask.assets import UserError
from lifemask.facemodel import load_face_model
from lifemask.graphics.camera import orthographic_camera, project
from lifemask.graphics.lighting import ambient_light
from lifemask.graphics.meshio import decode_normals, read_glb, read_mesh
from lifemask.graphics.subdivide import refine
from lifemask.head import Head
from lifemask.methods._fitting_stage import FitStage
from lifemask.methods._rafare_carry import NoSurfaceError
from lifemask.methods.fitting import FitConfig
from lifemask.methods.surface_maps import (
    DISPLACEMENT_STEPS_PER_MM,
    DISPLACEMENT_ZERO,
    displacement_pixels,
)
from lifemask.outputs import write_heads
from lifemask.pipeline import Pipeline, PipelineConfig
from lifemask.types import Appearance, Face, FreeSurface, Geometry, ModelParams, ShapeDetail
from test_params_schema import SCHEMA, errors

PHOTO = np.full((200, 300, 3), 120, np.uint8)


def egg_surface(geometry: Geometry, model: EggModel, mm: float = 1.5) -> FreeSurface:
    """The front of an egg, swollen, at some other depth."""
    topology = model.topology
    fine = refine(geometry.vertices_mm, topology.faces, topology.uvs, topology.faces_uv, 1)
    points = fine.vertices + mm * torch.nn.functional.normalize(fine.vertices, dim=-1)
    front = points[fine.faces.long()].mean(1)[:, 2] > 0
    px = project(points, geometry.camera) + torch.tensor([0.0, 0.0, 30.0])
    return FreeSurface(px, fine.faces[front])


class EggGuide(FitStage):
    """An egg with its surface, as RAFaRe's stage answers."""

    surface = True

    def __call__(self, seen):
        geometry = super().__call__(seen)
        return replace(
            geometry, surface=egg_surface(geometry, self.model) if self.surface else None
        )


def egg_pipeline(method="rafare", surface=True, **options) -> Pipeline:
    landmarker = EggLandmarker()
    config = PipelineConfig(method=method, refine=False, texture="none", **options)
    stage = EggGuide(landmarker.model, FitConfig())
    stage.surface = surface
    return Pipeline(
        config, detector=one_face, landmarker=landmarker, model=landmarker.model,
        geometry_stage=stage,
    )  # fmt: skip


def test_the_surface_is_carried_onto_the_method_s_head(tmp_path):
    (head,) = egg_pipeline()(PHOTO)
    (plain,) = egg_pipeline("fit")(PHOTO)
    assert plain.geometry.detail is None and "detail" not in plain.method.options
    assert head.geometry.detail is not None and head.method.options["detail"] == "rafare"
    assert np.array_equal(head.identity, plain.identity) and head.warnings == ()
    vertices, faces = head.surface
    assert vertices.shape[1] == 3 and faces.max() < len(vertices)
    files = write_heads([head], tmp_path / "egg", photo=PHOTO, photo_name="a.jpg")
    names = {p.name for p in files}
    assert {"surface.ply", "head_displacement.png", "head.glb", "preview.png"} <= names
    record = json.loads((tmp_path / "egg/params.json").read_text())
    assert errors(record, SCHEMA) == []
    (face,) = record["faces"]
    assert face["displacement"]["file"] == "head_displacement.png"
    scene = read_mesh(tmp_path / "egg/surface.ply")
    assert scene.colors is not None and scene.normals is not None
    np.testing.assert_allclose(scene.positions_mm, vertices, atol=1e-3)
    write_heads([head], tmp_path / "egg", formats=["json"], overwrite=True)
    assert [p.name for p in (tmp_path / "egg").iterdir()] == ["params.json"]


def test_other_methods_ask_for_a_surface(monkeypatch):
    pipeline = egg_pipeline("fit", surface=False, detail="rafare")
    asked = []

    def finder(image, geometry, model, regions=None):
        asked.append(geometry)
        return egg_surface(geometry, model)

    pipeline.surface_finder = finder
    (head,) = pipeline(PHOTO)
    assert len(asked) == 1 and head.geometry.detail is not None

    def nothing(image, geometry, model, regions=None):
        raise NoSurfaceError("too dark")

    pipeline.surface_finder = nothing
    (head,) = pipeline(PHOTO)
    assert head.geometry.detail is None and "without it" in head.warnings[0]
    failing = egg_pipeline("rafare", surface=False)
    failing.surface_finder = nothing
    with pytest.raises(UserError, match="too dark"):
        failing(PHOTO)


def test_the_bare_surface_is_a_mesh_without_model(tmp_path):
    (head,) = egg_pipeline(detail="none")(PHOTO)
    assert head.model is None and head.appearance is None and head.expression == {}
    assert "no texture or blendshapes" in head.warnings[0]
    assert len(head.vertices_mm) > len(EggModel().mean) and head.landmarks68_px.shape == (68, 2)
    files = {p.name for p in write_heads([head], tmp_path / "bare", photo=PHOTO)}
    assert files == {"head.glb", "head.obj", "head.mtl", "params.json", "preview.png"}
    record = json.loads((tmp_path / "bare/params.json").read_text())
    assert errors(record, SCHEMA) == []
    assert record["faces"][0]["displacement"] is None and record["faces"][0]["model"] == ""
    with pytest.raises(UserError, match="--method pgn"):
        egg_pipeline(detail="none", surface=False)(PHOTO)


def test_unknown_details_are_refused():
    with pytest.raises(UserError, match="valid: auto, none, rafare"):
        PipelineConfig(detail="much")


def test_displacement_as_grey_and_back():
    heights = torch.linspace(-3, 3, 64).view(8, 8)
    pixels = displacement_pixels(heights)
    assert pixels.dtype == np.uint16
    back = (pixels.astype(float) - DISPLACEMENT_ZERO) / DISPLACEMENT_STEPS_PER_MM
    np.testing.assert_allclose(back, heights.numpy(), atol=1e-4)


@pytest.fixture(scope="module")
def carried() -> Head:
    """A smiling head with moved vertices and ripples on its skin."""
    model, size = load_face_model(), 256
    expression = torch.zeros(len(model.expression_names))
    expression[model.expression_names.index("mouthSmileLeft")] = 0.7
    params = ModelParams(torch.zeros(model.identity_size), expression)
    offsets = 1.0 * torch.sin(torch.arange(3 * len(model.mean)) / 9.0).view(-1, 3)
    ripples = 0.3 * torch.sin(torch.arange(size) / 1.5).expand(size, size)
    detail = ShapeDetail(offsets, ripples, torch.ones(size, size))
    vertices = model(params.identity, expression) + offsets
    geometry = Geometry(
        vertices, model.topology.faces, orthographic_camera(torch.eye(3), 1.0, torch.zeros(2)),
        model.name, params, detail=detail,
    )  # fmt: skip
    skin = torch.full((3, size, size), 0.4)
    parts = {name: torch.full((3, 8, 8), 0.5) for name in ("eyes", "teeth", "tongue")}
    appearance = Appearance(skin, ambient_light(), None, parts)
    return Head(Face((0, 0, 9, 9), 1.0), geometry, appearance, (9, 9), "open", model)


def test_the_neutral_and_its_morphs_give_the_carried_head(carried, tmp_path):
    carried.export(tmp_path / "head.glb")
    scene = read_glb(tmp_path / "head.glb")
    assert len(scene.morph_targets) == 52
    posed = scene.positions_mm.astype(float)
    for name, target in scene.morph_targets.items():
        posed = posed + scene.morph_weights.get(name, 0.0) * target.positions_mm
    distance = np.abs(posed[:, None] - carried.vertices_mm[None, ::50]).sum(2).min(0)
    assert distance.max() < 0.01
    grey = np.asarray(Image.open(tmp_path / "head_displacement.png"))
    assert grey.shape == (256, 256) and grey.max() > 33000


def test_the_normal_map_shows_the_displacement(carried, tmp_path):
    flat = replace(carried, geometry=replace(carried.geometry, detail=None))
    slopes = []
    for name, head in (("fine", carried), ("flat", flat)):
        head.export(tmp_path / f"{name}.glb")
        skin = next(p for p in read_glb(tmp_path / f"{name}.glb").primitives if p.name == "skin")
        slopes.append(np.abs(decode_normals(skin.material.normal_texture)[..., :2]).mean())
    assert slopes[0] > 1.5 * slopes[1]
    carried.export(tmp_path / "plain.glb", maps=False)
    assert not (tmp_path / "plain_displacement.png").exists()
