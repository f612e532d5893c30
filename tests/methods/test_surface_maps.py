"""Normal and roughness maps of a head: where relief comes from, and what each region is like."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from fake_stages import EggModel, textures
from lifemask.facemodel import load_face_model
from lifemask.graphics.camera import orthographic_camera
from lifemask.graphics.lighting import ambient_light
from lifemask.graphics.uv import create_uv_atlas
from lifemask.methods.surface_maps import SurfaceMapConfig, surface_maps
from lifemask.types import Appearance, Geometry

SIZE = 256
SMOOTH = SurfaceMapConfig(grain_mm=0, relief_mm=0, variation=0)
READ = SurfaceMapConfig(grain_mm=0, relief_mm=0.1, variation=0)


@pytest.fixture(scope="module")
def model():
    return load_face_model()


@pytest.fixture(scope="module")
def geometry(model) -> Geometry:
    vertices = model(torch.zeros(model.identity_size), torch.zeros(len(model.expression_names)))
    camera = orthographic_camera(torch.eye(3), 1.0, torch.zeros(2))
    return Geometry(vertices, model.topology.faces, camera, model.name)


@pytest.fixture(scope="module")
def place(model, geometry):
    """A function from a point of the mean head to its texel (row, column)."""
    topology = model.topology
    atlas = create_uv_atlas(
        topology.uvs, topology.faces_uv, topology.faces, SIZE,
        face_mask=topology.face_part == topology.part_names.index("skin"),
    )  # fmt: skip
    points = atlas.interpolate(geometry.vertices_mm)

    def find(point) -> tuple[int, int]:
        nearest = int(((points - torch.as_tensor(point)) ** 2).sum(1).argmin())
        return int(atlas.rows[nearest]), int(atlas.columns[nearest])

    return find


@pytest.fixture(scope="module")
def lm(model, geometry) -> np.ndarray:
    return model.landmarks(geometry.vertices_mm, "ict68").numpy()


@pytest.fixture(scope="module")
def plain() -> Appearance:
    albedo = torch.tensor([0.5, 0.3, 0.22]).view(3, 1, 1).expand(3, SIZE, SIZE).clone()
    return Appearance(albedo, ambient_light())


def cheek(lm: np.ndarray, side: int) -> np.ndarray:
    """A point of the cheek, -1 at image left."""
    outer = lm[36] if side < 0 else lm[45]
    return np.array([outer[0] * 0.85, lm[30, 1] - 4, outer[2] + 6], np.float32)


def spot(albedo: torch.Tensor, at: tuple[int, int], gain: float) -> torch.Tensor:
    """The albedo with a small soft spot."""
    i, j = torch.meshgrid(torch.arange(SIZE), torch.arange(SIZE), indexing="ij")
    bell = torch.exp(-((i - at[0]) ** 2 + (j - at[1]) ** 2) / (2 * 0.8**2))
    return albedo * (1 + (gain - 1) * bell)


def test_an_even_skin_without_grain_is_flat(model, geometry, plain):
    for config in (SMOOTH, READ):
        maps = surface_maps(geometry, plain, model, config)
        assert list(maps) == ["skin"]
        normals = maps["skin"].normals
        assert normals.shape == (SIZE, SIZE, 3)
        np.testing.assert_allclose(normals, np.broadcast_to([0, 0, 1], normals.shape), atol=2e-3)


def test_maps_are_unit_and_the_same_every_time(model, geometry, plain):
    first, again = (surface_maps(geometry, plain, model)["skin"] for _ in range(2))
    assert np.array_equal(first.normals, again.normals)
    assert np.array_equal(first.roughness, again.roughness)
    np.testing.assert_allclose(np.linalg.norm(first.normals, axis=2), 1, atol=1e-5)
    assert first.normals[..., 2].min() > 0.8  # gentle
    assert 0.2 <= first.roughness.min() and first.roughness.max() <= 0.95


def test_a_dark_spot_is_a_pit_and_a_bright_one_a_bump(model, geometry, plain, place, lm):
    """The normals around a pit lean towards it, those around a bump away."""
    row, column = place(cheek(lm, -1))
    for gain, sign in ((0.7, 1), (1.4, -1)):
        marked = replace(plain, albedo=spot(plain.albedo, (row, column), gain))
        normals = surface_maps(geometry, marked, model, READ)["skin"].normals
        right, left = normals[row, column + 1, 0], normals[row, column - 1, 0]
        above, below = normals[row - 1, column, 1], normals[row + 1, column, 1]
        assert sign * (left - right) > 0.005 and sign * (below - above) > 0.005
        assert abs(normals[row + 20, column, :2]).max() < 2e-3


def test_relief_is_read_only_where_the_photo_shows_skin_or_its_mirror_image(
    model, geometry, plain, place, lm
):
    at = {side: place(cheek(lm, side)) for side in (-1, 1)}
    albedo = spot(spot(plain.albedo, at[-1], 0.7), at[1], 0.7)
    for shown, expected in ((None, (True, True)), ((), (False, False)), ((-1,), (True, True))):
        visible = None
        if shown is not None:
            visible = torch.zeros(SIZE, SIZE, dtype=torch.bool)
            for side in shown:
                row, column = at[side]
                visible[row - 16 : row + 17, column - 16 : column + 17] = True
        seen = replace(plain, albedo=albedo, visible=visible)
        normals = surface_maps(geometry, seen, model, READ)["skin"].normals
        for side, found in zip((-1, 1), expected, strict=True):
            row, column = at[side]
            near = abs(normals[row - 2 : row + 3, column - 2 : column + 3, :2]).max()
            assert (near > 0.005) == found, (shown, side, near)


def test_brows_and_lips_are_painted_not_carved(model, geometry, plain, place, lm):
    for point in (lm[19], lm[51] + [0, -2, 0], lm[57] + [0, 2, 0]):
        at = place(point.astype(np.float32))
        marked = replace(plain, albedo=spot(plain.albedo, at, 0.5))
        normals = surface_maps(geometry, marked, model, READ)["skin"].normals
        assert abs(normals[at[0] - 1 : at[0] + 2, at[1] - 1 : at[1] + 2, :2]).max() < 0.02


def test_charts_end_flat_so_that_no_seam_shows(model, geometry, plain):
    topology = model.topology
    atlas = create_uv_atlas(
        topology.uvs, topology.faces_uv, topology.faces, SIZE,
        face_mask=topology.face_part == topology.part_names.index("skin"),
    )  # fmt: skip
    covered = np.zeros((SIZE, SIZE), bool)
    covered[atlas.rows, atlas.columns] = True
    inner = covered.copy()
    for shift in (1, -1):
        for axis in (0, 1):
            inner &= np.roll(covered, shift, axis)
    normals = surface_maps(geometry, plain, model)["skin"].normals
    assert abs(normals[covered & ~inner][:, :2]).max() < 0.05
    assert abs(normals[inner][:, :2]).max() > 0.015  # and the grain is there


def test_roughness_by_region(model, geometry, plain, place, lm):
    rough = surface_maps(geometry, plain, model, SMOOTH)["skin"].roughness

    def at(point) -> float:
        return float(rough[place(np.asarray(point, np.float32))])

    cheeks = [at(cheek(lm, side)) for side in (-1, 1)]
    nose, lip = at(lm[30]), at(lm[57] + [0, 3, 0])
    forehead = at((lm[19] + lm[24]) / 2 + [0, 24, 0])
    assert cheeks[0] == pytest.approx(cheeks[1], abs=0.02)
    assert nose < min(cheeks) - 0.05 and lip < min(cheeks) - 0.1
    assert forehead < min(cheeks) - 0.03
    wet = geometry.vertices_mm[model.topology.regions["inner_mouth"]]
    assert at(wet.mean(0)) < 0.36


def test_hair_and_stubble_are_rough(model, geometry, plain, place, lm):
    """A dark scalp is hair, a dark chin stubble; a bright one skin."""
    points = geometry.vertices_mm[model.topology.regions["scalp"]].numpy()
    scalp = place(points[points[:, 1].argmax()])
    chin = place((lm[8] * 0.6 + lm[57] * 0.4).astype(np.float32))
    bare = surface_maps(geometry, plain, model, SMOOTH)["skin"].roughness
    for at in (scalp, chin):
        albedo = plain.albedo.clone()
        albedo[:, at[0] - 8 : at[0] + 9, at[1] - 8 : at[1] + 9] *= 0.2
        dark = surface_maps(geometry, replace(plain, albedo=albedo), model, SMOOTH)["skin"]
        assert dark.roughness[at] > bare[at] + 0.05


def test_grain_and_variation_have_switches(model, geometry, plain):
    still = surface_maps(geometry, plain, model, replace(SMOOTH, variation=0))["skin"]
    varied = surface_maps(geometry, plain, model, replace(SMOOTH, variation=0.05))["skin"]
    grainy = surface_maps(geometry, plain, model, replace(SMOOTH, grain_mm=0.06))["skin"]
    assert 0.002 < (varied.roughness - still.roughness).std() < 0.05
    assert np.array_equal(varied.normals, still.normals)
    assert grainy.normals[..., 2].mean() < still.normals[..., 2].mean()


def test_a_model_without_the_regions_gets_no_maps():
    egg, (skin, cap) = EggModel(), textures()
    camera = orthographic_camera(torch.eye(3), 1.0, torch.zeros(2))
    geometry = Geometry(egg.mean, egg.topology.faces, camera, "egg")
    assert surface_maps(geometry, Appearance(skin, ambient_light(), None, {"cap": cap}), egg) == {}
