"""Heads in crops: silhouettes, gaze, creases, what the kernels are given."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from helpers.small_generator import small_generator
from lifemask.data._pairs_head import (
    HeadParameters,
    create_kit,
    drawn_faces,
    place_head,
    place_like,
    same_expression,
    stored,
    stored_camera,
)
from lifemask.data._pairs_render import (
    Look,
    cavities,
    draw_tone,
    dress,
    gaze_of,
    shoot,
    split_corners,
    toned,
    turn_between,
    without_insides,
)
from lifemask.data._synthetic_kernels import EYE, MATERIAL_SIZE, MATERIALS, vertex_normals_into
from lifemask.data._synthetic_look import random_materials
from lifemask.data._synthetic_surroundings import Light
from lifemask.graphics.camera import orthographic_camera, project, rotation_from_euler_deg
from lifemask.graphics.subdivide import refine

SIZE = 96


@pytest.fixture(scope="module")
def kit():
    return create_kit("lifemask", SIZE)


@pytest.fixture(scope="module")
def generator(kit):
    return small_generator(kit.model, size=SIZE)


def parameters(kit, seed=0, jaw=0.0, detail_seed=4) -> HeadParameters:
    rng = np.random.default_rng(seed)
    expression = np.zeros(len(kit.model.expression_names), np.float32)
    expression[kit.model.expression_names.index("jawOpen")] = jaw
    return HeadParameters("lifemask", stored(rng.standard_normal(80)), expression, 0.5, detail_seed)


def placed_head(kit, yaw=0.0, **given):
    of = parameters(kit, **given)
    rotation = rotation_from_euler_deg(torch.tensor([4.0, yaw, -3.0]))
    camera = stored_camera(orthographic_camera(rotation, 0.36, torch.tensor([47.0, 50.0])))
    return place_head(kit, of, kit.head(of), camera, SIZE)


def shot_of(generator, kit, placed):
    rng = np.random.default_rng(1)
    banks = generator.banks(0)
    dressed = dress(generator.rig, drawn_faces(kit.model, generator.rig), kit.times)
    tone = draw_tone(generator.rig, banks.skins[0], 0, 1.0, rng)
    look = Look(
        banks.skins[0], banks.marks[0], tone, random_materials(rng, tone.plain, 0.5),
        gaze_of(kit.model.expression_names, placed.parameters.expression),
    )  # fmt: skip
    sh = np.zeros((9, 3), np.float32)
    sh[0] = 3.5
    light = Light(sh, np.array([0, 0, 1], np.float32), np.zeros(3, np.float32), False)
    return shoot(generator, dressed, placed, look, light)


@pytest.mark.parametrize("yaw", [0.0, 55.0])
def test_the_truths_silhouette_is_the_pictures(generator, kit, yaw):
    placed = placed_head(kit, yaw, jaw=0.6)
    shot, truth = shot_of(generator, kit, placed), np.isfinite(placed.solid.front(SIZE)[0])
    seen = shot.cover >= 0.5
    assert (seen & truth).sum() / (seen | truth).sum() > 0.97
    assert shot.linear[seen].min() > 0 and not shot.linear[shot.cover == 0].any()
    assert {0, 1, 2, 3, 4, 5} <= set(np.unique(shot.region)) if yaw == 0 else True


def test_eyes_of_the_truth_bulge_from_the_lids(kit):
    placed = placed_head(kit)
    depth, normals = placed.solid.front(SIZE)
    centres = placed.solid.balls
    assert len(centres) == 2 and np.allclose(centres[0, 3], centres[1, 3], rtol=0.05)
    for x, y, z, radius in centres:
        column, row = int((x + 1) * SIZE / 2), int((1 - y) * SIZE / 2)
        near = depth[row - 1 : row + 2, column - 1 : column + 2]
        assert np.abs(near - (z + radius)).min() < 0.02


def test_relief_moves_the_truth_by_tenths_of_a_millimetre(kit):
    rough, smooth = placed_head(kit), placed_head(kit, detail_seed=-1)
    moved = (rough.fine.vertices - smooth.fine.vertices).norm(dim=1)
    assert 0.005 < float(moved[moved > 0].mean()) < 0.2 and 0.1 < float(moved.max()) < 2
    assert np.allclose(rough.solid.balls, smooth.solid.balls)


def test_faces_come_together(kit):
    """Another head's eyes, nose and mouth appear where the photo's are, up to its own shape."""
    first, second = (kit.head(parameters(kit, seed)) for seed in (1, 2))
    rotation = rotation_from_euler_deg(torch.tensor([0.0, 40.0, 0.0]))
    camera = orthographic_camera(rotation, 0.36, torch.tensor([47.0, 50.0]))
    seen = project(kit.model.landmarks(first, "ict68"), camera)
    moved = place_like(kit, second, camera, seen)
    points = project(kit.model.landmarks(second, "ict68"), moved)[27:, :2]
    assert torch.allclose(points.mean(0), seen[27:, :2].mean(0), atol=1e-3)
    assert torch.equal(moved.rotation, camera.rotation)
    own = place_like(kit, first, camera, seen)
    assert torch.allclose(own.scale, camera.scale) and torch.allclose(
        own.translation, camera.translation, atol=1e-3
    )


def test_expressions_travel_by_name(kit):
    values = np.arange(52, dtype=np.float32) / 52
    other = replace_names(kit.model, tuple(reversed(kit.model.expression_names)))
    assert np.array_equal(same_expression(kit.model, other, values), values[::-1])
    fewer = replace_names(kit.model, ("jawOpen", "unheard"))
    jaw = values[kit.model.expression_names.index("jawOpen")]
    assert np.allclose(same_expression(kit.model, fewer, values), [jaw, 0])


def replace_names(model, names):
    class Named:
        expression_names = names

    return Named


def test_corners_split_as_meshes_do(kit):
    topology = kit.model.topology
    vertices = torch.randn(len(topology.mirror), 2, generator=torch.Generator().manual_seed(0))
    flat = torch.cat((vertices, torch.zeros_like(vertices[:, :1])), 1)
    fine = refine(flat, topology.faces, topology.uvs, topology.faces_uv, 2)
    corners = split_corners(topology.uvs[topology.faces_uv].numpy(), 2)
    assert np.allclose(corners, fine.uvs[fine.faces_uv].numpy(), atol=1e-6)


def test_gaze_follows_the_eyelook_shapes():
    names = ("eyeLookUpLeft", "eyeLookOutLeft", "eyeLookInRight", "eyeLookDownRight")
    gaze = gaze_of(names, np.array([0.5, 1.0, 1.0, 0.0], np.float32))
    assert gaze[0, 0] > 5 and gaze[1, 0] == 0, "the person's left eye is at +x"
    assert gaze[0, 1] > 20 and gaze[1, 1] > 20, "both look to +x"
    assert not gaze_of(("jawOpen",), np.ones(1, np.float32)).any()


def test_turns_are_found():
    rotation = rotation_from_euler_deg(torch.tensor([12.0, -20.0, 5.0])).numpy()
    points = np.random.default_rng(0).standard_normal((30, 3)).astype(np.float32)
    assert np.allclose(turn_between(points, points @ rotation.T + 3), rotation, atol=1e-5)


def test_creases_are_darker_and_ridges_are_not():
    n = 30
    y, x = np.mgrid[:n, :n].astype(np.float32)
    z = -2 * np.exp(-((x - 8) ** 2) / 3) + 2 * np.exp(-((x - 21) ** 2) / 3)
    points = np.ascontiguousarray(np.stack([x, y, z], -1).reshape(-1, 3), np.float32)
    a = (np.arange(n - 1)[:, None] * n + np.arange(n - 1)).ravel()
    faces = np.concatenate([np.stack([a, a + 1, a + n + 1], 1), np.stack([a, a + n + 1, a + n], 1)])
    faces, normals = faces.astype(np.int32), np.empty_like(points)
    vertex_normals_into(points, faces, normals)
    share = cavities(points, faces, normals).reshape(n, n)[15]
    assert share[8] < 0.8 and share[21] == 1 and share[14] == pytest.approx(1, abs=0.02)


def test_a_tone_is_met(generator):
    banks, rng = generator.banks(0), np.random.default_rng(0)
    tone = draw_tone(generator.rig, banks.skins[0], 0, 1.0, rng)
    wanted = tone.plain * np.array([1.5, 0.8, 0.5], np.float32)
    met = toned(tone, wanted)
    assert np.allclose(met.plain, wanted, rtol=1e-5)
    assert np.allclose(met.mix @ np.ones(3), tone.mix @ np.ones(3) * [1.5, 0.8, 0.5], rtol=1e-5)
    assert replace(tone, mix=met.mix).skin == tone.skin


def test_insides_can_be_left_black():
    materials = np.ones((len(MATERIALS), MATERIAL_SIZE), np.float32)
    hollow = without_insides(materials)
    assert not hollow[EYE, :6].any() and hollow[0].all() and materials[EYE].all()
