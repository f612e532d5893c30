"""The truth of a render against the graphics package: depth, normals, uv, albedo, light, points."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from helpers.small_generator import plain_light, small_generator
from lifemask.assets import UserError
from lifemask.data import _synthetic_kernels as kernels
from lifemask.data import _synthetic_regions as regions
from lifemask.data._synthetic_render import head_uv, render_scene
from lifemask.data._synthetic_sample import rotation_from_angles
from lifemask.data._synthetic_truth import EMPTY, create_maps, landmark_truth, model_points
from lifemask.facemodel import load_face_model
from lifemask.graphics import lighting
from lifemask.graphics.camera import project, screen_depth, to_camera_frame
from lifemask.graphics.rasterize import rasterize
from lifemask.types import REGION_NAMES

SIZE = 64


@pytest.fixture(scope="module", params=["perspective", "orthographic"])
def shot(request):
    """A bare head under order-2 light alone: generator, banks, scene, sample, shot, maps."""
    generator = small_generator(load_face_model("lifemask"), camera=request.param, size=SIZE)
    scene, banks = next(iter(generator.scenes([1])))
    scene = replace(plain_light(scene), props=())
    banks = replace(banks, skins=_smooth_skins(generator))
    sample, result = render_scene(generator, banks, scene)
    return generator, banks, scene, sample, result, create_maps(generator, banks, scene, result)


def _smooth_skins(generator):
    """Skins that change slowly, so that a pixel's centre says as much as its samples."""
    rows, columns = generator.rig.texture_shape
    y, x = np.mgrid[:rows, :columns]
    skin = np.stack([90 + 100 * y / rows, 60 + 120 * x / columns, 160 - 100 * y / rows], -1)
    return np.repeat(skin.astype(np.uint8)[None], generator.config.bank_size, 0)


def _reference(generator, scene, sample):
    """`graphics.rasterize` of the head: face ids, barycentrics, vertices."""
    vertices = torch.from_numpy(scene.head_mm)
    faces = generator.rig.model.topology.faces
    camera = sample.camera
    screen = project(vertices, camera)
    screen = torch.stack([screen[:, 0], screen[:, 1], screen_depth(vertices, camera)], -1)
    return rasterize(screen[None], faces, SIZE, SIZE, cull_backfaces=True), vertices, faces


def test_depth_and_normals_are_those_of_the_mesh(shot):
    generator, _, scene, sample, result, maps = shot
    fragments, vertices, faces = _reference(generator, scene, sample)
    ids = fragments.face_ids[0].numpy()
    assert ((ids >= 0) == maps.model).mean() > 0.999
    both = (ids >= 0) & maps.model
    eye = to_camera_frame(vertices, sample.camera).numpy()
    corner_depth = -eye[faces.numpy()[ids[both]], 2]
    assert (maps.depth_mm[both] > corner_depth.min(1) - 0.5).mean() > 0.999
    assert (maps.depth_mm[both] < corner_depth.max(1) + 0.5).mean() > 0.999
    assert np.isnan(maps.depth_mm[~maps.model]).all()
    corner_normals = result.soup.normals[faces.numpy()[ids[both]]].mean(1)
    corner_normals /= np.linalg.norm(corner_normals, axis=1, keepdims=True)
    cosine = (maps.normals[both] * corner_normals).sum(1)
    assert np.quantile(cosine, 0.02) > np.cos(np.deg2rad(20)) and np.median(cosine) > 0.995
    np.testing.assert_allclose(np.linalg.norm(maps.normals[both], axis=1), 1, atol=1e-4)
    assert not maps.normals[~maps.model].any()


def test_depth_and_pixel_give_back_a_point_of_the_surface(shot):
    generator, _, scene, sample, _, maps = shot
    y, x = np.nonzero(maps.model)
    depth, view = maps.depth_mm[y, x].astype(np.float64), scene.view
    uv = np.stack([x, y], 1) - view.center_px
    zoom = view.scale if view.orthographic else view.scale / depth
    camera = np.stack([uv[:, 0] / zoom, -uv[:, 1] / zoom, -depth], 1)
    shift = np.zeros(3) if view.orthographic else view.translation_mm
    model = (camera - shift) @ view.rotation
    low, high = scene.head_mm.min(0), scene.head_mm.max(0)
    assert (model > low - 0.5).all() and (model < high + 0.5).all()
    fragments, vertices, faces = _reference(generator, scene, sample)
    ids = fragments.face_ids[0].numpy()[y, x]
    known = ids >= 0
    corners = scene.head_mm[faces.numpy()[ids[known]]]
    normal = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    normal /= np.linalg.norm(normal, axis=1, keepdims=True)
    off = np.abs(((model[known] - corners[:, 0]) * normal).sum(1))
    assert np.quantile(off, 0.99) < 0.1, "mm off the plane of the triangle seen there"


def test_uv_leads_to_the_albedo(shot):
    generator, banks, scene, _, _, maps = shot
    skin = maps.material == kernels.SKIN
    assert skin.sum() > 300
    assert (np.isfinite(maps.uv).all(-1) == skin).all()
    u0, v0, u1, v1 = generator.rig.uv_box
    rows, columns = generator.rig.texture_shape
    column = (maps.uv[skin][:, 0] - u0) / (u1 - u0) * columns - 0.5
    row = (v1 - maps.uv[skin][:, 1]) / (v1 - v0) * rows - 0.5
    skin_bytes = banks.skins[scene.tone.skin]
    linear = np.stack([scene.tone.lut[skin_bytes[..., c], c] for c in range(3)], 2)
    i, j = np.floor(row).astype(int), np.floor(column).astype(int)
    i, j = np.clip(i, 0, rows - 2), np.clip(j, 0, columns - 2)
    fy, fx = (row - i)[:, None], (column - j)[:, None]
    texel = (1 - fy) * ((1 - fx) * linear[i, j] + fx * linear[i, j + 1])
    texel += fy * ((1 - fx) * linear[i + 1, j] + fx * linear[i + 1, j + 1])
    expected = np.maximum(texel @ scene.tone.mix.T, 0.003)
    error = np.abs(maps.albedo[skin] - expected).max(1)
    assert np.quantile(error, 0.99) < 2e-3
    topology = generator.rig.model.topology
    box = topology.uvs[topology.faces_uv[topology.face_part == 0]].reshape(-1, 2).numpy()
    assert (maps.uv[skin] > box.min(0) - 0.01).all() and (maps.uv[skin] < box.max(0) + 0.01).all()


def test_albedo_times_light_is_the_render(shot):
    _, _, _, sample, result, maps = shot
    normals = torch.from_numpy(maps.normals)
    shade = lighting.shading(normals, sample.lighting.sh).clamp(min=0).numpy()
    expected = maps.albedo * maps.ambient[..., None] * shade
    ids = result.ids.reshape(SIZE, 2, SIZE, 2)
    material = result.soup.material[np.maximum(ids, 0)]
    inside = (ids >= 0).all((1, 3)) & (material == material[:, :1, :, :1]).all((1, 3)) & maps.model
    error = np.abs(maps.linear - expected)[inside].mean(1) / maps.linear[inside].mean(1)
    assert np.median(error) < 0.03 and np.quantile(error, 0.9) < 0.15
    assert np.abs(maps.key[maps.model] - 1).max() < 1e-5 and not maps.glass.any()


def test_gain_and_curve_turn_radiance_into_the_image(shot):
    _, _, _, sample, _, maps = shot
    exposed = maps.linear * sample.gain
    exposed = exposed / (1 + 0.25 * np.maximum(0, exposed - 0.6))
    srgb = lighting.linear_to_srgb(torch.from_numpy(np.clip(exposed, 0, 1))).numpy()
    assert np.abs(srgb * 255 - sample.image).max() < 1.5


def test_regions_agree_with_materials(shot):
    _, _, _, sample, result, maps = shot
    assert sample.region.max() < len(REGION_NAMES)
    ids = result.ids.reshape(SIZE, 2, SIZE, 2)
    assert (sample.region[(ids < 0).all((1, 3))] == regions.BACKGROUND).all()
    full = (ids >= 0).all((1, 3))
    eyes = (result.soup.material[np.maximum(ids, 0)] == kernels.EYE).all((1, 3)) & full
    assert (sample.region[eyes] == regions.EYES).all()
    skin = (maps.material == kernels.SKIN) & full
    assert np.isin(sample.region[skin], (0, 1, 3, 4, 6, 7)).mean() > 0.97
    assert ((maps.material == EMPTY) == np.isnan(maps.depth_mm)).all()


def test_visible_landmarks_have_the_depth_of_their_pixel(shot):
    generator, _, scene, sample, result, maps = shot
    names = ("ict68", "ibug68-3d-bfm", "aflw21", "mediapipe478", "lifemask392", "vertices")
    truth = landmark_truth(generator, scene, result, names)
    np.testing.assert_allclose(truth["lifemask392"].image_px, sample.points, atol=1e-3)
    assert (truth["lifemask392"].visible == sample.visible).mean() > 0.99
    assert [len(truth[n].visible) for n in names[:5]] == [68, 68, 21, 478, 392]
    for name in names:
        points = torch.from_numpy(model_points(generator.rig.model, scene.head_mm, name))
        ours = truth[name]
        np.testing.assert_allclose(ours.image_px, project(points, sample.camera), atol=0.02)
        np.testing.assert_allclose(
            ours.camera_mm, to_camera_frame(points, sample.camera), atol=0.02
        )
    ours = truth["vertices"]
    x, y = np.rint(ours.image_px[:, 0]).astype(int), np.rint(ours.image_px[:, 1]).astype(int)
    facing = result.soup.normals[: len(x), 2] > 0.7  # a pixel is 3 mm wide: no steep slopes
    seen = ours.visible & facing & (x >= 0) & (y >= 0) & (x < SIZE) & (y < SIZE)
    gap = np.abs(maps.depth_mm[y[seen], x[seen]] + ours.camera_mm[seen, 2])
    assert np.nanquantile(gap, 0.9) < 4.0
    hidden = ~ours.visible & (x >= 0) & (y >= 0) & (x < SIZE) & (y < SIZE)
    behind = -ours.camera_mm[hidden, 2] - maps.depth_mm[y[hidden], x[hidden]]
    assert np.nanquantile(behind, 0.1) > 1.0, "hidden points lie behind what is seen"


def test_unknown_landmark_sets_are_refused(shot):
    generator, _, scene, _, result, _ = shot
    with pytest.raises(UserError, match="no landmark set 'elbows'"):
        landmark_truth(generator, scene, result, ["elbows"])


def test_irises_point_where_the_gaze_says():
    generator = small_generator(load_face_model("lifemask"), size=SIZE)
    rig = generator.rig
    for scene, _ in generator.scenes([0, 1, 2]):
        uv = head_uv(rig, scene)
        for eye, (pitch, yaw) in zip(rig.eyes, scene.gaze_deg, strict=True):
            faces = rig.eye_faces[np.isin(rig.faces[rig.eye_faces, 0], eye.vertices)]
            centre = scene.head_mm[eye.vertices].mean(0)
            p = scene.head_mm[rig.faces[faces]].reshape(-1, 3)
            front = (p - centre)[:, 2] > 0
            pupil = p[front][np.argmin((uv[faces].reshape(-1, 2)[front] ** 2).sum(1))]
            found = pupil - _sphere_centre(scene.head_mm[eye.vertices])
            wanted = rotation_from_angles(np.array([pitch, yaw, 0], np.float32))[:, 2]
            cosine = found @ wanted / np.linalg.norm(found)
            assert cosine > np.cos(np.deg2rad(9)), "within a triangle of the eyeball"


def _sphere_centre(p):
    a = np.concatenate([2 * p, np.ones((len(p), 1))], 1).astype(np.float64)
    return np.linalg.lstsq(a, (p.astype(np.float64) ** 2).sum(1), rcond=None)[0][:3]


def test_scenes_hold_all_that_a_render_depends_on():
    generator = small_generator(load_face_model("lifemask"), size=SIZE)
    (scene, banks), *_ = generator.scenes([2])
    first, _ = render_scene(generator, banks, scene)
    again, _ = render_scene(generator, banks, scene)
    assert np.array_equal(first.image, again.image)
    assert np.array_equal(first.image, generator.render([2])[0].image)
    moved, _ = render_scene(generator, banks, replace(scene, faults=replace(
        scene.faults, noise=9.0, noise_seed=scene.faults.noise_seed + 1)))  # fmt: skip
    assert not np.array_equal(first.image, moved.image)
    assert np.array_equal(first.region, moved.region)


def test_maps_cost_nothing_unless_asked_for():
    generator = small_generator(load_face_model("lifemask"), size=32)
    plain = generator.render([0])[0]
    full = generator.render([0], "maps", ["aflw21"])[0]
    assert plain.maps is None and not plain.landmarks
    assert full.maps is not None and full.maps.albedo.shape == (32, 32, 3)
    assert list(full.landmarks) == ["aflw21"]
    assert np.array_equal(plain.image, full.image)
