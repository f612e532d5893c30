"""Several photos of one person by the fitter: one identity, better than each photo's own."""

import dataclasses

import pytest
import torch

from lifemask.assets import UserError
from lifemask.facemodel import load_face_model
from lifemask.graphics.camera import (
    orthographic_camera,
    pinhole_camera,
    project,
    rotation_from_euler_deg,
)
from lifemask.graphics.pose import similarity
from lifemask.methods import fitting
from lifemask.methods._fitting_person import _held, _total, identity_term, share_identity
from lifemask.methods.fitting import FitConfig, fit_landmarks, fit_person
from lifemask.types import Geometry, Landmarks

YAWS = (20.0, -25.0, 50.0, -5.0)


@pytest.fixture(scope="module")
def model():
    return load_face_model("lifemask")


def person(model, seed: int, noise_px: float, yaws=YAWS, camera_name="orthographic"):
    """Identity, and noisy landmarks of it from several sides with other expressions."""
    generator = torch.Generator().manual_seed(seed)
    identity = 0.8 * torch.randn(model.identity_size, generator=generator)
    names = model.expression_names
    visible = [i for i, n in enumerate(names) if not n.startswith(("eyeLook", "tongue"))]
    photos = []
    for k, yaw in enumerate(yaws):
        expression = torch.zeros(len(names))
        for i in torch.randperm(len(visible), generator=generator)[:3].tolist():
            expression[visible[i]] = 0.6 * torch.rand((), generator=generator)
        rotation = rotation_from_euler_deg(torch.tensor([5.0 - 4 * k, yaw, 3.0 * k - 8]))
        if camera_name == "orthographic":
            camera = orthographic_camera(rotation, 1.5 + 0.2 * k, torch.tensor([250.0, 240.0]))
        else:
            place = torch.tensor([15.0, -20.0, -900.0])
            camera = pinhole_camera(rotation, place, 1500.0, torch.tensor([255.5, 255.5]))
        points = project(model.landmarks(model(identity, expression), "lifemask392"), camera)
        points = points + noise_px * torch.randn(points.shape, generator=generator)
        sigma = torch.full((len(points),), max(noise_px, 0.01))
        photos.append(Landmarks(points, sigma, "lifemask392"))
    return identity, photos


def identity_error_mm(identity: torch.Tensor, truth: torch.Tensor, model) -> float:
    """Mean distance of the neutral faces after the best similarity."""
    neutral, mask = torch.zeros(len(model.expression_names)), model.topology.regions["face"]
    a, b = (model(x, neutral)[mask].double() for x in (identity, truth))
    rotation, scale, offset = similarity(a, b)
    return float((scale * a @ rotation.T + offset - b).norm(dim=-1).mean())


def identity_of(geometry: Geometry) -> torch.Tensor:
    assert geometry.params is not None
    return geometry.params.identity


def test_two_photos_beat_one_and_four_beat_the_mean_of_four(model) -> None:
    rows = []
    for seed in range(3):
        truth, photos = person(model, seed, noise_px=3.0)
        single = [identity_of(fit_landmarks(p, model)) for p in photos]
        found = {
            "one": torch.tensor([identity_error_mm(x, truth, model) for x in single[:2]]).mean(),
            "mean": identity_error_mm(torch.stack(single).mean(0), truth, model),
            "two": identity_error_mm(identity_of(fit_person(photos[:2], model)[0]), truth, model),
            "four": identity_error_mm(identity_of(fit_person(photos, model)[0]), truth, model),
        }
        rows.append(torch.tensor([float(v) for v in found.values()]))
    one, mean, two, four = torch.stack(rows).mean(0).tolist()
    assert two < 0.9 * one
    assert four < 0.9 * two
    assert four < 0.9 * mean


def test_identity_is_equal_to_the_bit_and_the_rest_is_each_photos_own(model) -> None:
    _, photos = person(model, 5, noise_px=1.0)
    heads = fit_person(photos, model)
    for head, photo in zip(heads, photos, strict=True):
        assert torch.equal(identity_of(head), identity_of(heads[0]))
        alone = fit_landmarks(photo, model)
        assert head.residual_px < 1.15 * alone.residual_px
        turned = (head.camera.rotation @ alone.camera.rotation.T).diagonal().sum()
        assert torch.rad2deg(((turned - 1) / 2).clamp(-1, 1).acos()) < 2
        assert head.params is not None
        vertices = model(head.params.identity, head.params.expression)
        torch.testing.assert_close(head.vertices_mm, vertices)
    expressions = torch.stack([h.params.expression for h in heads if h.params is not None])
    assert float(expressions.std(0).max()) > 0.1


def test_one_photo_is_the_plain_fit(model) -> None:
    _, photos = person(model, 6, noise_px=1.0, yaws=(15.0,))
    (head,) = fit_person(photos, model)
    assert torch.equal(head.vertices_mm, fit_landmarks(photos[0], model).vertices_mm)


def test_the_reduced_gradient_is_that_of_the_solved_energy(model) -> None:
    """A finite difference over identity, with camera and expression solved at each end."""
    _, photos = person(model, 7, noise_px=1.0, yaws=(10.0,))
    size = model.identity_size
    fit = fitting._solve(photos[0], model, FitConfig(), None)
    start = torch.zeros(size, dtype=torch.float64)
    (fit,) = _held([fit], start, 60)
    prior = fit.task.prior
    gradient = identity_term(fit, size).gradient + prior.linear[:size]
    generator = torch.Generator().manual_seed(0)
    for direction in torch.randn(3, size, generator=generator).double():
        direction = 0.1 * direction
        ends = [_total(_held([fit], start + sign * direction, 60), size) for sign in (1, -1)]
        assert (ends[0] - ends[1]) / 2 == pytest.approx(float(gradient @ direction), rel=0.05)


def test_no_identity_nearby_is_better(model) -> None:
    _, photos = person(model, 8, noise_px=2.0, yaws=(-30.0, 30.0))
    size = model.identity_size
    fits = [fitting._solve(p, model, FitConfig(), None) for p in photos]
    shared = share_identity(fits, size, 12)
    best = _total(shared, size)
    own = [f.state.coefficients[:size] for f in fits]
    for other in (*own, torch.stack(own).mean(0), torch.zeros_like(own[0])):
        assert _total(_held(fits, other, 12), size) > best
    generator = torch.Generator().manual_seed(1)
    for step in 0.2 * torch.randn(3, size, generator=generator).double():
        identity = shared[0].state.coefficients[:size]
        assert _total(_held(shared, identity + step, 12), size) > best


@pytest.mark.parametrize("camera_name", ["orthographic", "pinhole"])
def test_both_cameras_and_other_dtypes(model, camera_name) -> None:
    truth, photos = person(model, 9, 0.5, (-20.0, 20.0), camera_name)
    photos[1] = dataclasses.replace(photos[1], points=photos[1].points.double())
    config = FitConfig(camera=camera_name, focal_px=1500.0)
    heads = fit_person(photos, model, config, [(512, 512)] * 2)
    assert torch.equal(identity_of(heads[0]), identity_of(heads[1]))
    assert [h.camera.model for h in heads] == [camera_name] * 2
    zero = torch.zeros_like(truth)
    error = identity_error_mm(identity_of(heads[0]), truth, model)
    assert error < 0.3 * identity_error_mm(zero, truth, model)


def test_identity_switched_off_is_the_mean_head(model) -> None:
    _, photos = person(model, 10, 1.0, (-20.0, 20.0))
    for head in fit_person(photos, model, FitConfig(identity=False)):
        assert not identity_of(head).any()


def test_an_error_tells_which_photo(model) -> None:
    _, photos = person(model, 11, 1.0, (0.0, 20.0))
    photos[1].sigma_px[:] = torch.inf
    with pytest.raises(UserError, match="^photo 2: a fit needs at least 6"):
        fit_person(photos, model)
