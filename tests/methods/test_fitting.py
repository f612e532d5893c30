"""The landmark fitter on heads whose truth is known."""

import dataclasses

import pytest
import roma
import torch

from lifemask.assets import UserError
from lifemask.facemodel import load_face_model
from lifemask.facemodel.landmarks import flip_table
from lifemask.graphics.camera import (
    orthographic_camera,
    pinhole_camera,
    project,
    rotation_from_euler_deg,
)
from lifemask.graphics.pose import similarity
from lifemask.methods.fitting import FitConfig, fit_landmarks
from lifemask.types import Camera, Geometry, Landmarks

SIZE = (512, 512)
EXACT = FitConfig(sigma_floor=1e-7, identity_weight=1e-2, expression_rate=1e-2, iterations=60)


@pytest.fixture(scope="module")
def model():
    return load_face_model("lifemask")


def head(model, seed: int, spread: float = 0.8) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    names = model.expression_names
    identity = spread * torch.randn(model.identity_size, generator=generator)
    expression = torch.zeros(len(names))
    visible = [i for i, n in enumerate(names) if not n.startswith(("eyeLook", "tongue"))]
    for k in torch.randperm(len(visible), generator=generator)[:3].tolist():
        expression[visible[k]] = 0.6 * torch.rand((), generator=generator)
    return identity, expression


def camera_of(model_name: str, pitch_yaw_roll=(5.0, 20.0, -8.0)) -> Camera:
    rotation = rotation_from_euler_deg(torch.tensor(pitch_yaw_roll))
    if model_name == "orthographic":
        return orthographic_camera(rotation, 1.5, torch.tensor([250.0, 240.0]))
    place = torch.tensor([15.0, -20.0, -900.0])
    return pinhole_camera(rotation, place, 1500.0, torch.tensor([255.5, 255.5]))


def see(model, vertices, camera, convention="lifemask392", noise_px=0.0, seed=0) -> Landmarks:
    points = project(model.landmarks(vertices, convention), camera)
    generator = torch.Generator().manual_seed(seed)
    points = points + noise_px * torch.randn(points.shape, generator=generator)
    points[:, 2] += 21.0  # the origin of w is arbitrary
    sigma = torch.full((len(points),), max(noise_px, 0.01))
    return Landmarks(points, sigma, convention)


def angle_deg(a: Camera, b: Camera) -> float:
    return float(torch.rad2deg(roma.rotmat_geodesic_distance(a.rotation, b.rotation)))


def shape_error_mm(found: Geometry, truth: torch.Tensor, model) -> float:
    """Mean distance over the face region after the best similarity."""
    mask = model.topology.regions["face"]
    a, b = found.vertices_mm[mask].double(), truth[mask].double()
    rotation, scale, offset = similarity(a, b)
    return float((scale * a @ rotation.T + offset - b).norm(dim=-1).mean())


@pytest.mark.parametrize("camera_name", ["orthographic", "pinhole"])
def test_noise_free_landmarks_are_met_exactly(model, camera_name: str) -> None:
    vertices = model(*head(model, 1))
    camera = camera_of(camera_name)
    config = dataclasses.replace(EXACT, camera=camera_name, focal_px=1500.0)
    found = fit_landmarks(see(model, vertices, camera), model, config, SIZE)
    assert found.residual_px < 0.03
    assert angle_deg(found.camera, camera) < 0.15
    assert shape_error_mm(found, vertices, model) < 0.25


def test_noise_and_a_fifth_of_outliers(model) -> None:
    robust, plain = [], []
    for seed in range(3):
        vertices = model(*head(model, seed))
        camera = camera_of("orthographic", (5.0, 30.0 * (seed - 1), 4.0))
        landmarks = see(model, vertices, camera, noise_px=1.0, seed=seed)
        generator = torch.Generator().manual_seed(seed)
        wrong = torch.randperm(392, generator=generator)[:78]
        landmarks.points[wrong] += 40 * torch.randn(78, 3, generator=generator)
        for errors, sigma in ((robust, 5.0), (plain, 1e6)):
            found = fit_landmarks(landmarks, model, FitConfig(outlier_sigma=sigma))
            errors.append((angle_deg(found.camera, camera), shape_error_mm(found, vertices, model)))
    robust_mean, plain_mean = torch.tensor(robust).mean(0), torch.tensor(plain).mean(0)
    assert robust_mean[0] < 0.8
    assert robust_mean[1] < 1.0
    assert (robust_mean < 0.6 * plain_mean).all()


def test_two_dimensional_68_points_recover_pose(model) -> None:
    vertices = model(*head(model, 4))
    camera = camera_of("orthographic", (-6.0, -25.0, 5.0))
    landmarks = see(model, vertices, camera, "ict68", noise_px=0.5)
    landmarks.points[:, 2] = torch.nan
    found = fit_landmarks(landmarks, model, FitConfig(contour="fixed"))
    mean = model(torch.zeros(1), torch.zeros(1))
    flat = Geometry(mean, model.topology.faces, camera)
    assert angle_deg(found.camera, camera) < 3
    assert shape_error_mm(found, vertices, model) < 0.8 * shape_error_mm(flat, vertices, model)


@pytest.mark.parametrize("convention", ["aflw21", "mediapipe478", "ibug68-3d-bfm", "ict68"])
def test_every_landmark_set_gives_the_pose(model, convention: str) -> None:
    vertices = model(*head(model, 5))
    camera = camera_of("orthographic")
    landmarks = see(model, vertices, camera, convention, noise_px=0.5)
    found = fit_landmarks(landmarks, model)
    assert angle_deg(found.camera, camera) < 2.5
    assert found.residual_px < 2.0
    assert found.landmarks68_mm is not None
    assert found.landmarks68_mm.shape == (68, 3)


def clicked_jaw(vertices, model, camera: Camera) -> torch.Tensor:
    """Jaw as an annotator clicks it: the outline of the far cheek, the jaw's edge on the near one.

    The outline is found without strips: where each row of the image leaves the face's mesh.
    """
    image = project(vertices, camera)[:, :2]
    jaw = project(model.landmarks(vertices, "ibug68-3d-bfm"), camera)[:17, :2].clone()
    nose = project(model.landmarks(vertices, "ict68"), camera)[33, 1]
    mask = model.topology.regions["face"]
    edges = model.topology.faces[mask[model.topology.faces].all(-1)][:, [0, 1, 1, 2, 2, 0]]
    first, second = image[edges.reshape(-1, 2)].unbind(1)
    turned_right = bool(camera.rotation[0, 2] > 0)
    for j in range(9, 17) if turned_right else range(8):
        row = jaw[j, 1]
        share = (row - first[:, 1]) / (second[:, 1] - first[:, 1])
        u = (first[:, 0] + share * (second[:, 0] - first[:, 0]))[(share >= 0) & (share <= 1)]
        if row > nose:  # higher up, the nose may be further out than the cheek
            jaw[j, 0] = u.max() if turned_right else u.min()
    return jaw


def test_sliding_contour_beats_a_fixed_one_on_silhouettes(model) -> None:
    slid, fixed = [], []
    for seed, yaw in ((1, 30.0), (2, 45.0), (3, 55.0), (4, -35.0), (5, -50.0)):
        vertices = model(*head(model, seed, 0.6))
        camera = camera_of("orthographic", (0.0, yaw, 3.0))
        landmarks = see(model, vertices, camera, "ict68")
        landmarks.points[:17, :2] = clicked_jaw(vertices, model, camera)
        landmarks.points[:, 2] = torch.nan
        landmarks.sigma_px[:] = 1.0
        other = dataclasses.replace(landmarks, convention="ibug68-3d-bfm")
        for errors, given in ((slid, landmarks), (fixed, other)):
            found = fit_landmarks(given, model)
            errors.append((shape_error_mm(found, vertices, model), angle_deg(found.camera, camera)))
    slid_mean, fixed_mean = torch.tensor(slid).mean(0), torch.tensor(fixed).mean(0)
    assert slid_mean[0] < fixed_mean[0]
    assert slid_mean[1] < fixed_mean[1]


def test_a_mirrored_input_gives_the_mirrored_head(model) -> None:
    vertices = model(*head(model, 6))
    camera = camera_of("orthographic", (4.0, 25.0, 6.0))
    landmarks = see(model, vertices, camera, noise_px=1.0)
    flipped = landmarks.points[flip_table("lifemask392")] * torch.tensor([-1.0, 1.0, 1.0])
    flipped[:, 0] += 511
    mirrored = Landmarks(flipped, landmarks.sigma_px, landmarks.convention)
    config = FitConfig(iterations=30)
    one, two = (fit_landmarks(x, model, config) for x in (landmarks, mirrored))
    back = two.vertices_mm[model.topology.mirror] * torch.tensor([-1.0, 1.0, 1.0])
    mask = model.topology.regions["face"]
    assert (back - one.vertices_mm)[mask].norm(dim=-1).mean() < 0.1
    assert torch.allclose(two.camera.rotation[0, 2], -one.camera.rotation[0, 2], atol=5e-3)


def test_coefficients_stay_in_their_bounds_and_switches_switch(model) -> None:
    vertices = model(*head(model, 7, 3.0))
    landmarks = see(model, vertices, camera_of("orthographic"), noise_px=3.0)
    found = fit_landmarks(landmarks, model).params
    assert found is not None
    assert found.expression.min() >= 0
    assert found.expression.max() <= 1
    assert found.identity.abs().max() <= 4
    unseen = [i for i, n in enumerate(model.expression_names) if n.startswith("eyeLook")]
    assert (found.expression[unseen] == 0).all()
    rigid = fit_landmarks(landmarks, model, FitConfig(identity=False, expression=False)).params
    assert rigid is not None
    assert rigid.identity.abs().max() == 0
    assert rigid.expression.abs().max() == 0


def test_unseen_points_may_hold_anything(model) -> None:
    landmarks = see(model, model(*head(model, 8)), camera_of("orthographic"), noise_px=0.5)
    landmarks.sigma_px[100:150] = torch.inf
    one = fit_landmarks(landmarks, model)
    landmarks.points[100:125] = 9e5
    landmarks.points[125:150] = torch.nan
    two = fit_landmarks(landmarks, model)
    assert torch.equal(one.vertices_mm, two.vertices_mm)


def test_one_fit_does_not_disturb_the_next(model) -> None:
    inputs = [
        see(model, model(*head(model, s)), camera_of("orthographic"), noise_px=1.0) for s in (1, 2)
    ]
    first = [fit_landmarks(x, model).vertices_mm for x in inputs]
    second = [fit_landmarks(x, model).vertices_mm for x in reversed(inputs)][::-1]
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_pinhole_start_and_free_focal_length(model) -> None:
    vertices = model(*head(model, 9))
    camera = pinhole_camera(
        rotation_from_euler_deg(torch.tensor([0.0, 15.0, 0.0])),
        torch.tensor([0.0, 0.0, -400.0]),
        800.0,
        torch.tensor([255.5, 255.5]),
    )
    landmarks = see(model, vertices, camera, noise_px=0.3)
    fixed = fit_landmarks(landmarks, model, FitConfig(camera="pinhole"), SIZE)
    config = FitConfig(camera="pinhole", focal_sigma=0.7, iterations=40)
    free = fit_landmarks(landmarks, model, config, SIZE)
    assert fixed.camera.scale == pytest.approx(1015 / 224 * 512)
    assert abs(free.camera.scale - 800) < abs(fixed.camera.scale - 800)
    assert free.residual_px <= fixed.residual_px + 1e-3


def test_impossible_landmarks_raise_one_clear_line(model) -> None:
    landmarks = see(model, model(*head(model, 1)), camera_of("orthographic"))
    cases = [
        (dataclasses.replace(landmarks, convention="ict68"), FitConfig(), "68 points"),
        (dataclasses.replace(landmarks, convention="none"), FitConfig(), "it has: aflw21"),
        (landmarks, FitConfig(camera="pinhole"), "image_size"),
    ]
    heap = dataclasses.replace(landmarks, points=torch.full((392, 3), 7.0))
    cases.append((heap, FitConfig(), "in one place"))
    blind = dataclasses.replace(landmarks, sigma_px=torch.full((392,), torch.inf))
    for given, config, message in [*cases, (blind, FitConfig(), "at least 6")]:
        with pytest.raises(UserError, match=message) as caught:
            fit_landmarks(given, model, config)
        assert "\n" not in str(caught.value)
