"""Model landmarks under a camera, and the datasets' offsets."""

import pytest
import roma
import torch

from lifemask.facemodel.landmarks import flip_table
from lifemask.nn.parametric import (
    LENGTH_MM,
    LandmarkModel,
    PosedModel,
    rotation_from_6d,
    symmetric_offset,
)


def small_model() -> LandmarkModel:
    generator = torch.Generator().manual_seed(0)
    mean = torch.randn(20, 3, generator=generator) * 60
    return LandmarkModel(mean, torch.randn(5, 20, 3, generator=generator) * 3, 3)


def test_rotation_from_its_own_columns():
    rotation = roma.random_rotmat(8)
    columns = torch.cat((rotation[..., 0] * 2.5, rotation[..., 1] * 0.3), -1)
    torch.testing.assert_close(rotation_from_6d(columns), rotation, atol=1e-5, rtol=1e-5)


def test_zero_is_the_mean_face_seen_from_the_front():
    model = small_model()
    posed = model(torch.zeros(1, 14))
    mean = model.get_buffer("mean")
    torch.testing.assert_close(posed.points[0, :, 0], 1.1 * mean[:, 0])
    torch.testing.assert_close(posed.points[0, :, 1], -1.1 * mean[:, 1])  # v points down
    torch.testing.assert_close(posed.points[0, :, 2], 1.1 * mean[:, 2], atol=1e-6, rtol=1e-6)


def test_shift_scale_and_coefficients():
    model = small_model()
    raw = torch.zeros(1, 14)
    raw[0, 6] = 0.3
    raw[0, 7:9] = torch.tensor([0.1, -0.2])
    raw[0, 10] = 2.0
    posed = model(raw)
    scale = 1.1 * torch.tensor(0.3).exp()
    shape = model.get_buffer("mean") + 2 * model.get_buffer("basis")[1].view(20, 3)
    torch.testing.assert_close(posed.points[0, :, 0], scale * shape[:, 0] + 0.1)
    torch.testing.assert_close(posed.points[0, :, 1], -0.2 - scale * shape[:, 1])
    assert posed.identity.shape == (1, 3) and posed.expression.shape == (1, 2)


def posed_with(rotation: torch.Tensor, scale: float) -> PosedModel:
    empty = torch.zeros(1, 0)
    size = torch.tensor([scale])
    return PosedModel(torch.zeros(1, 68, 3), rotation[None], size, empty, empty)


def test_offsets_turn_with_the_head_and_mirror():
    flip = flip_table("ict68")
    raw = torch.randn(68, 3, generator=torch.Generator().manual_seed(0))
    turned = roma.rotvec_to_rotmat(torch.tensor([0.1, 0.6, -0.2]))
    mirror = torch.diag(torch.tensor([-1.0, 1.0, 1.0]))
    straight = symmetric_offset(raw, flip, posed_with(turned, 0.8))[0]
    mirrored = symmetric_offset(raw, flip, posed_with(mirror @ turned @ mirror, 0.8))[0]
    torch.testing.assert_close(mirrored[flip] * torch.tensor([-1.0, 1, 1]), straight)
    frontal = symmetric_offset(raw, flip, posed_with(torch.eye(3), 1.0))[0]
    up = torch.tensor([1.0, -1.0, 1.0])
    expected = 0.8 * (frontal * up) @ turned.T * up
    torch.testing.assert_close(straight, expected)


def test_an_offset_does_not_pull_the_pose():
    raw = torch.zeros(68, 3, requires_grad=True)
    rotation = torch.eye(3).requires_grad_()
    offset = symmetric_offset(raw, flip_table("ict68"), posed_with(rotation, 1.0))
    (offset - 1).square().sum().backward()
    assert raw.grad is not None and raw.grad.abs().sum() > 0
    assert rotation.grad is None


def test_landmark_model_of_the_default_head():
    from lifemask.assets import AssetError
    from lifemask.facemodel import load_face_model
    from lifemask.nn.parametric import landmark_model

    try:
        head = load_face_model()
    except AssetError:
        pytest.skip("the head model is absent")
    model = landmark_model(head, "lifemask392")
    i, e = head.identity_size, len(head.expression_names)
    generator = torch.Generator().manual_seed(0)
    identity = torch.randn(i, generator=generator)
    expression = torch.rand(e, generator=generator)
    posed = model(torch.cat((torch.zeros(9), identity, expression))[None]).points[0]
    points = head.landmarks(head(identity, expression), "lifemask392")
    zero = head.landmarks(head(torch.zeros(i), torch.zeros(e)), "lifemask392").mean(0)
    expected = 1.1 * (points - zero) / LENGTH_MM
    torch.testing.assert_close(posed[:, 0], expected[:, 0], atol=2e-3, rtol=0)
    torch.testing.assert_close(posed[:, 1], -expected[:, 1], atol=2e-3, rtol=0)
