"""Photometric refinement on renders whose shape, light and skin are known."""

import dataclasses
import math

import numpy as np
import pytest
import torch

from lifemask.assets import UserError
from lifemask.facemodel import load_face_model
from lifemask.faces.parsing import Regions
from lifemask.graphics.camera import (
    orthographic_camera,
    project,
    rotation_from_euler_deg,
    screen_depth,
)
from lifemask.graphics.lighting import (
    ambient_light,
    directional_light,
    linear_to_srgb,
    shading,
)
from lifemask.graphics.pose import similarity
from lifemask.graphics.rasterize import barycentric_at_pixels, interpolate, rasterize
from lifemask.methods._fitting_albedo import skin_albedo
from lifemask.methods.fitting import fit_landmarks
from lifemask.methods.photometric import PhotometricConfig, PhotometricResult, refine_photometric
from lifemask.types import REGION_NAMES, Camera, Geometry, Landmarks

SIZE = 288
NOISE_PX = 2.0


@dataclasses.dataclass(frozen=True)
class Case:
    vertices: torch.Tensor
    camera: Camera
    image: np.ndarray
    landmarks: Landmarks
    start: Geometry


@pytest.fixture(scope="module")
def model():
    return load_face_model("lifemask")


def vertex_normals(vertices, faces) -> torch.Tensor:
    a, b, c = vertices[faces].unbind(1)
    normal = torch.linalg.cross(b - a, c - a)
    total = torch.zeros_like(vertices)
    for k in range(3):
        total.index_add_(0, faces[:, k], normal)
    return torch.nn.functional.normalize(total, dim=-1)


def photograph(model, vertices, albedo, sh, camera, generator) -> np.ndarray:
    faces = model.topology.faces
    screen = torch.cat(
        (project(vertices, camera)[:, :2], screen_depth(vertices, camera)[:, None]), 1
    )
    ids = rasterize(screen[None], faces, SIZE, SIZE).face_ids
    bary = barycentric_at_pixels(screen[None], faces, ids)
    normals = vertex_normals(vertices, faces) @ camera.rotation.T
    seen = interpolate(torch.cat((albedo, normals), -1)[None], faces, ids, bary)[0]
    normal = torch.nn.functional.normalize(seen[..., 3:], dim=-1)
    colour = linear_to_srgb((seen[..., :3] * shading(normal, sh)).clamp_min(0))
    image = torch.where((ids[0] >= 0)[..., None], colour, torch.tensor([0.2, 0.5, 0.3]))
    image = image + 0.01 * torch.randn(image.shape, generator=generator)
    return (image.clamp(0, 1) * 255).byte().numpy()


def make_case(model, seed: int, yaw_deg: float) -> Case:
    generator = torch.Generator().manual_seed(seed)
    identity = 0.9 * torch.randn(model.identity_size, generator=generator)
    expression = torch.zeros(len(model.expression_names))
    expression[model.expression_names.index("mouthSmileLeft")] = 0.4
    vertices = model(identity, expression)
    rotation = rotation_from_euler_deg(torch.tensor([4.0, yaw_deg, -3.0]))
    camera = orthographic_camera(rotation, 1.1, torch.tensor([SIZE / 2, SIZE / 2]))
    prior = skin_albedo(model)
    albedo = prior.at(0.8 * torch.randn(prior.basis.shape[-1], generator=generator))
    albedo = albedo * (1 + 0.03 * torch.randn(len(albedo), 1, generator=generator))  # pores
    key = torch.tensor([1.0, 0.6, 1.0]) + 0.5 * torch.randn(3, generator=generator)
    sh = ambient_light(0.4).sh + directional_light(key, torch.tensor([0.9, 0.85, 0.8]), 20.0).sh
    image = photograph(model, vertices, albedo, sh, camera, generator)
    points = project(model.landmarks(vertices, "lifemask392"), camera)
    points = points + NOISE_PX * torch.randn(points.shape, generator=generator)
    points[:, :2] += 0.6 * torch.randn(2, generator=generator)
    landmarks = Landmarks(points, torch.full((392,), NOISE_PX), "lifemask392")
    return Case(vertices, camera, image, landmarks, fit_landmarks(landmarks, model))


def shape_error_mm(found: Geometry, case: Case, model) -> float:
    mask = model.topology.regions["face"]
    a, b = found.vertices_mm[mask].double(), case.vertices[mask].double()
    rotation, scale, offset = similarity(a, b)
    return float((scale * a @ rotation.T + offset - b).norm(dim=-1).mean())


def landmark_error_px(found: Geometry, case: Case, model) -> float:
    a = project(model.landmarks(found.vertices_mm, "ict68"), found.camera)
    b = project(model.landmarks(case.vertices, "ict68"), case.camera)
    return float((a - b)[:, :2].norm(dim=-1).mean())


@pytest.fixture(scope="module")
def refined(model) -> list[tuple[Case, PhotometricResult]]:
    cases = [make_case(model, seed, yaw) for seed, yaw in ((1, 0.0), (2, 30.0), (3, -25.0))]
    return [(c, refine_photometric(c.image, c.start, c.landmarks, model)) for c in cases]


def test_colours_agree_better_on_every_head(refined) -> None:
    for _, result in refined:
        assert result.error_after < 0.95 * result.error_before


def test_shape_and_landmarks_come_closer_to_the_truth(refined, model) -> None:
    before = [shape_error_mm(c.start, c, model) for c, _ in refined]
    after = [shape_error_mm(r.geometry, c, model) for c, r in refined]
    assert np.mean(after) < 0.97 * np.mean(before)
    before = [landmark_error_px(c.start, c, model) for c, _ in refined]
    after = [landmark_error_px(r.geometry, c, model) for c, r in refined]
    assert np.mean(after) < np.mean(before)


def test_the_result_is_a_legal_geometry(refined, model) -> None:
    for case, result in refined:
        params = result.geometry.params
        assert params is not None
        rebuilt = model(params.identity, params.expression)
        assert torch.allclose(rebuilt, result.geometry.vertices_mm, atol=1e-4)
        assert params.expression.min() >= 0
        assert params.expression.max() <= 1
        assert result.geometry.vertices_mm.dtype == case.start.vertices_mm.dtype
        assert result.lighting.sh.shape == (9, 3)
        assert result.albedo.shape == rebuilt.shape
        assert 0 < result.geometry.residual_px < 3 * NOISE_PX


def test_no_round_changes_nothing(refined, model) -> None:
    case = refined[1][0]
    config = PhotometricConfig(blur_px=())
    result = refine_photometric(case.image, case.start, case.landmarks, model, config)
    assert torch.allclose(result.geometry.vertices_mm, case.start.vertices_mm, atol=1e-4)
    assert torch.allclose(result.geometry.camera.scale, case.start.camera.scale, rtol=1e-5)
    translation = case.start.camera.translation
    assert torch.allclose(result.geometry.camera.translation, translation, atol=1e-3)


def test_a_mask_keeps_an_occluder_out(refined, model) -> None:
    case = refined[0][0]
    painted = case.image.copy()
    painted[150:190, 90:200] = (20, 60, 220)
    mask = np.ones((SIZE, SIZE), bool)
    mask[150:190, 90:200] = False
    config = PhotometricConfig(samples=1000, blur_px=(1.0,))
    result = refine_photometric(painted, case.start, case.landmarks, model, config, mask=mask)
    start = shape_error_mm(case.start, case, model)
    assert shape_error_mm(result.geometry, case, model) < start + 0.05


def whole_photo(hidden: np.ndarray, name: str) -> Regions:
    """Maps of a photo of this file: `name` where hidden, skin elsewhere; glasses are skin, too."""
    worn = torch.from_numpy(hidden & (name == "glasses")).float()
    name = "skin" if name == "glasses" else name
    ids = np.where(hidden, REGION_NAMES.index(name), REGION_NAMES.index("skin"))
    maps = torch.nn.functional.one_hot(torch.from_numpy(ids), 9).permute(2, 0, 1).float()
    return Regions(maps, ((SIZE - 1) / 2, (SIZE - 1) / 2), float(SIZE), worn)


def test_regions_keep_an_occluder_out_as_a_mask_does(refined, model) -> None:
    case = refined[0][0]
    painted = case.image.copy()
    painted[150:190, 90:200] = (150, 90, 70)  # a hand's colour
    hidden = np.zeros((SIZE, SIZE), bool)
    hidden[150:190, 90:200] = True
    config = PhotometricConfig(samples=1000, blur_px=(1.0,))
    given = (painted, case.start, case.landmarks, model, config)
    masked = refine_photometric(*given, mask=~hidden).geometry
    plain = refine_photometric(*given).geometry
    for name in ("background", "hair", "glasses"):
        told = refine_photometric(*given, regions=whole_photo(hidden, name)).geometry
        gap = [
            float((g.vertices_mm - masked.vertices_mm).norm(dim=-1).mean()) for g in (told, plain)
        ]
        assert gap[0] < 0.3 * gap[1]


def test_regions_that_hide_the_whole_face_are_not_believed(refined, model) -> None:
    case = refined[0][0]
    everything = whole_photo(np.ones((SIZE, SIZE), bool), "background")
    config = PhotometricConfig(samples=500, blur_px=(1.0,), iterations=2)
    given = (case.image, case.start, case.landmarks, model, config)
    told = refine_photometric(*given, regions=everything).geometry
    plain = refine_photometric(*given).geometry
    assert torch.equal(told.vertices_mm, plain.vertices_mm)


def test_what_cannot_be_refined_is_refused(refined, model) -> None:
    case = refined[0][0]
    free = dataclasses.replace(case.start, params=None)
    with pytest.raises(UserError, match="parameters of the face model"):
        refine_photometric(case.image, free, case.landmarks, model)
    with pytest.raises(UserError, match="no visible skin"):
        nothing = np.zeros((SIZE, SIZE), bool)
        refine_photometric(case.image, case.start, case.landmarks, model, mask=nothing)


def test_the_committed_skin_prior_belongs_to_the_committed_head_model(model) -> None:
    # Uniform skin has 3 modes; run tools/build_skin_albedo.py after the head model's.
    assert skin_albedo(model).basis.shape[-1] == 8 + 2 * 40


def aperture_mm(geometry: Geometry, model) -> torch.Tensor:
    points = model.landmarks(geometry.vertices_mm, "ict68")
    return (points[[37, 38, 43, 44]] - points[[41, 40, 47, 46]]).norm(dim=-1)


def test_dark_make_up_does_not_pull_the_eyes_open(model) -> None:
    case = make_case(model, 4, 10.0)
    eyes = project(model.landmarks(case.vertices, "ict68")[36:48], case.camera)[:, :2]
    v, u = torch.meshgrid(torch.arange(SIZE), torch.arange(SIZE), indexing="ij")
    pixels = torch.stack((u, v), -1).float().reshape(-1, 2)
    painted = (torch.cdist(pixels, eyes).amin(-1) < 7).reshape(SIZE, SIZE).numpy()
    image = np.where(painted[..., None], case.image // 3, case.image)
    drift = {}
    for sigma in (0.2, float("inf")):
        config = PhotometricConfig(aperture_sigma_mm=sigma)
        found = refine_photometric(image, case.start, case.landmarks, model, config).geometry
        drift[sigma] = (aperture_mm(found, model) - aperture_mm(case.start, model)).abs().mean()
    assert drift[0.2] < 0.4
    assert drift[0.2] < 0.6 * drift[float("inf")]


def test_a_held_identity_stays_to_the_bit_while_pose_and_expression_improve(refined, model) -> None:
    before, after = [], []
    for case, _ in refined:
        config = PhotometricConfig(hold_identity=True)
        result = refine_photometric(case.image, case.start, case.landmarks, model, config)
        found, start = result.geometry.params, case.start.params
        assert found is not None and start is not None
        assert torch.equal(found.identity, start.identity)
        assert not torch.equal(found.expression, start.expression)
        assert result.error_after < result.error_before
        before.append(landmark_error_px(case.start, case, model))
        after.append(landmark_error_px(result.geometry, case, model))
    assert np.mean(after) < np.mean(before)


def test_an_identity_moves_as_far_as_it_is_let(refined, model) -> None:
    case, free = refined[0]
    start = case.start.params.identity
    moved = []
    for sigma in (0.02, 0.2, math.inf):
        config = PhotometricConfig(identity_sigma=sigma)
        result = refine_photometric(case.image, case.start, case.landmarks, model, config)
        moved.append(float((result.geometry.params.identity - start).norm()))
    assert 0 < moved[0] < 0.2 * moved[1] < moved[1] < moved[2]
    own = float((free.geometry.params.identity - start).norm())
    assert moved[2] == pytest.approx(own, rel=1e-5)
