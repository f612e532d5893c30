"""The closed-form fit after PGN's network: exact on exact landmarks, bound by its prior, joint."""

from dataclasses import replace

import pytest
import roma
import torch

from lifemask.facemodel import load_face_model
from lifemask.methods._coefficients import CoefficientHead, project_points
from lifemask.methods._pgn_fit import FittedHeads, PgnFitConfig, fit_heads
from lifemask.methods._pgn_pose import HeadPose, solve_pose

FREE = PgnFitConfig(steps=3, identity=1.0, expression=0.3, noise=1.0)
SURE = -6.0


@pytest.fixture(scope="module")
def head() -> CoefficientHead:
    return CoefficientHead(load_face_model())


def people(head: CoefficientHead, person: torch.Tensor, seed: int = 0) -> FittedHeads:
    generator = torch.Generator().manual_seed(seed)
    count = len(person)
    identity = torch.randn(int(person.max()) + 1, head.identity_size, generator=generator)[person]
    active = torch.rand(count, head.expression_size, generator=generator) < 0.15
    expression = torch.rand(count, head.expression_size, generator=generator) * active
    turn = roma.rotvec_to_rotmat(torch.randn(count, 3, generator=generator) * 0.4)
    scale = 1 + 0.2 * torch.rand(count, generator=generator)
    shift = 0.05 * torch.randn(count, 2, generator=generator)
    return FittedHeads(identity, expression, HeadPose(turn, scale, shift))


def points(head: CoefficientHead, heads: FittedHeads) -> torch.Tensor:
    pose = heads.pose
    matrix = pose.scale[:, None, None] * pose.rotation
    shape = head.shape(heads.identity, heads.expression)
    return project_points(shape, matrix, pose.shift)[:, : head.landmarks]


def seen(head: CoefficientHead, heads: FittedHeads, noise: float = 0.0) -> torch.Tensor:
    """Landmarks with log beta; w is shifted as a whole, which must not matter."""
    generator = torch.Generator().manual_seed(9)
    found = points(head, heads) + torch.tensor([0.0, 0.0, 0.3])
    found = found + noise * torch.randn(found.shape, generator=generator)
    return torch.cat((found, torch.full_like(found[..., :1], SURE)), -1)


def mean_start(head: CoefficientHead, landmarks: torch.Tensor) -> FittedHeads:
    identity = torch.zeros(len(landmarks), head.identity_size)
    expression = torch.full((len(landmarks), head.expression_size), 0.05)
    shape = head.shape(identity, expression)[:, : head.landmarks]
    pose = solve_pose(shape, landmarks[..., :3], landmarks[..., 3])
    return FittedHeads(identity, expression, pose)


def shape_mm(head: CoefficientHead, one: FittedHeads, other: FittedHeads) -> torch.Tensor:
    apart = head.shape(one.identity, one.expression) - head.shape(other.identity, other.expression)
    return 100 * apart.norm(dim=-1).mean(1)


def fit(head, start, landmarks, person, config):
    ids = torch.arange(head.landmarks)
    return fit_heads(head, start, landmarks, ids, person, config)


def test_exact_landmarks_give_the_head_and_its_pose(head) -> None:
    person = torch.tensor([0, 0, 1, 2])
    true = people(head, person)
    landmarks = seen(head, true)
    start = mean_start(head, landmarks)
    found = fit(head, start, landmarks, person, FREE)
    assert shape_mm(head, start, true).mean() > 3
    assert shape_mm(head, found, true).max() < 0.6
    apart = (points(head, found) - points(head, true))[..., :2].norm(dim=-1)
    assert 60 * apart.mean() < 0.1  # px of a crop of 120 px
    assert torch.equal(found.identity[0], found.identity[1])
    turned = found.pose.rotation @ found.pose.rotation.mT
    torch.testing.assert_close(turned, torch.eye(3).expand_as(turned), atol=1e-5, rtol=0)


def test_no_steps_and_a_tight_prior_leave_the_network_s_word(head) -> None:
    person = torch.arange(2)
    landmarks = seen(head, people(head, person))
    start = mean_start(head, landmarks)
    same = fit(head, start, landmarks, person, replace(FREE, steps=0))
    assert same is start
    held = replace(FREE, identity=1e-4, expression=1e-5)
    found = fit(head, start, landmarks, person, held)
    assert (found.identity - start.identity).abs().max() < 0.01
    assert (found.expression - start.expression).abs().max() < 0.01
    assert not torch.equal(found.pose.rotation, start.pose.rotation)


def test_doubted_landmarks_move_the_head_less(head) -> None:
    person = torch.arange(1)
    landmarks = seen(head, people(head, person))
    start = mean_start(head, landmarks)
    doubted = landmarks.clone()
    doubted[..., 3] = 0.0
    moves = [
        (fit(head, start, marks, person, FREE).identity - start.identity).norm()
        for marks in (landmarks, doubted)
    ]
    assert moves[1] < 0.2 * moves[0]


def test_several_photos_settle_an_identity_better_than_one(head) -> None:
    person = torch.arange(6).repeat_interleave(4)
    true = people(head, person, seed=3)
    landmarks = seen(head, true, noise=0.005)
    start = mean_start(head, landmarks)
    alone = fit(head, start, landmarks, torch.arange(24), FREE)
    together = fit(head, start, landmarks, person, FREE)
    neutral = torch.zeros_like(true.expression)
    wanted = true._replace(expression=neutral)
    errors = [
        shape_mm(head, heads._replace(expression=neutral), wanted).mean()
        for heads in (alone, together)
    ]
    assert errors[1] < 0.7 * errors[0]


def test_expressions_stay_in_their_range(head) -> None:
    person = torch.arange(3)
    true = people(head, person)
    beyond = true._replace(expression=true.expression * 3 - 0.5)
    landmarks = seen(head, beyond)
    found = fit(head, mean_start(head, landmarks), landmarks, person, FREE)
    assert found.expression.min() >= 0
    assert found.expression.max() <= 1
