"""The head that agrees with the position map: a few closed-form steps after the network.

The network's coefficients are the prior. A step solves the linearised problem for pose and
expression of every frame and for the one identity of each person (Schur complement), so several
photos settle it together.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import roma
import torch
from jaxtyping import Float, Int
from torch import Tensor

from lifemask.graphics.pose import cross_matrix
from lifemask.methods._coefficients import CoefficientHead, project_points
from lifemask.methods._pgn_pose import HeadPose


@dataclass(frozen=True)
class PgnFitConfig:
    """How far the landmarks may move the head from what the network says.

    Attributes:
        steps: Gauss-Newton steps; 0, the default, leaves the network's coefficients, which the
            shipped networks' maps have nothing to add to (docs/methods/pgn.md).
        identity: standard deviation of an identity coefficient about the network's.
        expression: of an expression coefficient, in units of its range.
        noise: of a landmark with the network's own beta, in units of `e^beta`; larger than 1, for
            neighbouring landmarks are wrong together.
        nearness: weight of w's squared error against that of u and v.
    """

    steps: int = 0
    identity: float = 0.5
    expression: float = 0.1
    noise: float = 6.0
    nearness: float = 0.5


class FittedHeads(NamedTuple):
    """Heads of frames; identity and expression (b, .), pose about the pivot."""

    identity: Float[Tensor, "b i"]
    expression: Float[Tensor, "b e"]
    pose: HeadPose


def fit_heads(
    head: CoefficientHead,
    start: FittedHeads,
    landmarks: Float[Tensor, "b k 4"],
    ids: Int[Tensor, "n"],
    person: Int[Tensor, "b"],
    config: PgnFitConfig,
) -> FittedHeads:
    """Heads of least squared error to their landmarks, by their beta, with the start as prior.

    Args:
        head: the points of the face model.
        start: what the network says; one identity per person.
        landmarks: (u, v, w) half-crops and log beta; the offset of w is free.
        ids: which of them count.
        person: (b,) whose frames they are, numbers from 0.
        config: strengths.
    """
    axes = landmarks.new_tensor([1.0, 1.0, config.nearness**0.5])
    weight = axes / (config.noise * landmarks[:, ids, 3:].exp())
    found = start
    for _ in range(config.steps):
        residual, by_identity, by_own = _linearised(head, found, landmarks[:, ids, :3], ids)
        right = (residual * weight).flatten(1)
        system = (by_identity * weight[:, None]).flatten(2)
        own = (by_own * weight[:, None]).flatten(2)
        found = _moved(head, found, *_step(head, start, found, system, own, right, person, config))
    return found


def _linearised(
    head: CoefficientHead, at: FittedHeads, wanted: Float[Tensor, "b n 3"], ids: Int[Tensor, "n"]
) -> tuple[Float[Tensor, "b n 3"], Float[Tensor, "b i n 3"], Float[Tensor, "b o n 3"]]:
    """What is missing, and the points' derivatives by identity and by a frame's own unknowns.

    A frame's own: expression, turn (3), log scale, shift (3, the last the offset of w).
    """
    identity, expression, pose = at
    flip = wanted.new_tensor([1.0, -1.0, 1.0])
    matrix = pose.scale[:, None, None] * pose.rotation
    shape = head.shape(identity, expression)[:, ids]
    residual = wanted - project_points(shape, matrix, pose.shift)
    middle = residual[..., 2:].mean(1, keepdim=True)
    residual = torch.cat((residual[..., :2], residual[..., 2:] - middle), -1)
    basis = head.get_buffer("basis").view(-1, *head.get_buffer("mean").shape)[:, ids]
    moved = torch.einsum("mnc,bdc->bmnd", basis, matrix * flip[:, None])
    i = head.identity_size
    by_expression = moved[:, i:] * head.gains(identity)[..., None, None]
    turned = shape @ matrix.transpose(1, 2)
    by_turn = (-cross_matrix(turned) * flip[:, None]).permute(0, 3, 1, 2)
    by_scale = (turned * flip)[:, None]
    by_shift = torch.eye(3).to(turned)[None, :, None].expand(len(turned), 3, turned.shape[1], 3)
    return residual, moved[:, :i], torch.cat((by_expression, by_turn, by_scale, by_shift), 1)


def _step(
    head: CoefficientHead,
    start: FittedHeads,
    at: FittedHeads,
    system: Float[Tensor, "b i m"],
    own: Float[Tensor, "b o m"],
    right: Float[Tensor, "b m"],
    person: Int[Tensor, "b"],
    config: PgnFitConfig,
) -> tuple[Float[Tensor, "b i"], Float[Tensor, "b o"]]:
    """Changes of each person's identity and of each frame's own unknowns.

    The own unknowns are eliminated frame by frame; what is left of the identity's equations is
    added up over a person's frames.
    """
    i, e = system.shape[1], head.expression_size
    span = head.get_buffer("highest") - head.get_buffer("lowest")
    held = (span * config.expression).square().reciprocal()
    own_gram = own @ own.mT
    own_gram = own_gram + torch.diag(torch.cat((held, held.new_full((own.shape[1] - e,), 1e-6))))
    own_right = (own @ right[..., None])[..., 0]
    pull = held * (start.expression - at.expression)
    own_right = torch.cat((own_right[:, :e] + pull, own_right[:, e:]), 1)
    mixed = system @ own.mT
    solved = torch.linalg.solve(own_gram, torch.cat((mixed.mT, own_right[..., None]), -1))
    left = system @ system.mT - mixed @ solved[..., :-1]
    wanted = (system @ right[..., None] - mixed @ solved[..., -1:])[..., 0]
    count = int(person.max()) + 1
    gram = left.new_zeros(count, i, i).index_add_(0, person, left)
    gram = gram + torch.eye(i).to(gram) / config.identity**2
    pull = (start.identity - at.identity) / config.identity**2
    total = wanted.new_zeros(count, i).index_add_(0, person, wanted)
    total = total + pull.new_zeros(count, i).index_copy_(0, person, pull)  # alike for a person
    change = torch.linalg.solve(gram, total[..., None])[..., 0][person]
    return change, solved[..., -1] - (solved[..., :-1] @ change[..., None])[..., 0]


def _moved(head: CoefficientHead, at: FittedHeads, identity: Tensor, own: Tensor) -> FittedHeads:
    """Heads after a step; expressions stay in their range."""
    e = head.expression_size
    low, high = head.get_buffer("lowest"), head.get_buffer("highest")
    expression = torch.minimum(torch.maximum(at.expression + own[:, :e], low), high)
    turn, zoom, shift = own[:, e : e + 3], own[:, e + 3], own[:, e + 4 : e + 6]
    pose = HeadPose(
        roma.rotvec_to_rotmat(turn) @ at.pose.rotation,
        at.pose.scale * zoom.exp(),
        at.pose.shift + shift,
    )
    return FittedHeads(at.identity + identity, expression, pose)
