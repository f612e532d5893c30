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
from lifemask.methods._dasl_head import CoefficientHead, project_points
from lifemask.methods._pgn_pose import HeadPose


@dataclass(frozen=True)
class PgnFitConfig:
    """How far the landmarks may move the head from what the network says.

    Attributes:
        steps: Gauss-Newton steps; 0 leaves the network's coefficients.
        identity: standard deviation of an identity coefficient about the network's.
        expression: of an expression coefficient, in units of its range.
        noise: of a landmark with the network's own beta, in units of `e^beta`; larger than 1, for
            neighbouring landmarks are wrong together.
        nearness: weight of w's squared error against that of u and v.
    """

    steps: int = 2
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
        landmarks: (u, v, w) half-crops and log beta.
        ids: which of them count.
        person: (b,) numbers from 0.
        config: strengths.
    """
    identity, expression, pose = start
    low, high = head.get_buffer("lowest"), head.get_buffer("highest")
    basis = head.get_buffer("basis").view(-1, *head.get_buffer("mean").shape)[:, ids]
    i = head.identity_size
    sigma = config.noise * landmarks[:, ids, 3].exp()
    axes = landmarks.new_tensor([1.0, 1.0, config.nearness**0.5])
    weight = axes / sigma[..., None]
    wanted = landmarks[:, ids, :3]
    prior_b = ((high - low) * config.expression).reciprocal()
    for _ in range(config.steps):
        matrix = pose.scale[:, None, None] * pose.rotation
        shape = head.shape(identity, expression)[:, ids]
        points = project_points(shape, matrix, pose.shift)
        residual = wanted - points
        offset = _weighted_nearness(residual, weight)
        residual = torch.cat((residual[..., :2], residual[..., 2:] - offset), -1)
        flip = matrix.new_tensor([1.0, -1.0, 1.0])
        moved = torch.einsum("mnc,bdc->bmnd", basis, matrix * flip[:, None])  # per coefficient
        of_identity = moved[:, :i]
        of_expression = moved[:, i:] * head.gains(identity)[..., None, None]
        turned = shape @ matrix.transpose(1, 2)
        by_turn = (-cross_matrix(turned) * flip[:, None]).permute(0, 3, 1, 2)
        by_scale = (turned * flip)[:, None]
        by_shift = torch.eye(3).to(turned)[None, :, None].expand(len(turned), 3, turned.shape[1], 3)
        own = torch.cat((of_expression, by_turn, by_scale, by_shift), 1)
        system_a, system_f, right = (
            (x * weight[:, None]).flatten(2) for x in (of_identity, own, residual[:, None])
        )
        right = right[:, 0]
        h_aa, h_af = system_a @ system_a.mT, system_a @ system_f.mT
        h_ff = system_f @ system_f.mT
        g_a, g_f = ((s @ right[..., None])[..., 0] for s in (system_a, system_f))
        e = expression.shape[1]
        hold = torch.zeros(h_ff.shape[-1]).to(h_ff)
        hold[:e] = prior_b.square()
        hold[e:] = 1e-6
        h_ff = h_ff + torch.diag(hold)
        g_f[:, :e] += prior_b.square() * (start.expression - expression)
        solved = torch.linalg.solve(h_ff, torch.cat((h_af.mT, g_f[..., None]), -1))
        schur = h_aa - h_af @ solved[..., :-1]
        right_a = g_a - (h_af @ solved[..., -1:])[..., 0]
        count = int(person.max()) + 1
        first = _first_rows(person, count)
        total = schur.new_zeros(count, i, i).index_add_(0, person, schur)
        total = total + torch.eye(i).to(total) / config.identity**2
        target = right_a.new_zeros(count, i).index_add_(0, person, right_a)
        target = target + (start.identity - identity)[first] / config.identity**2
        change_a = torch.linalg.solve(total, target[..., None])[..., 0][person]
        change = solved[..., -1] - (solved[..., :-1] @ change_a[..., None])[..., 0]
        identity = identity + change_a
        expression = torch.minimum(torch.maximum(expression + change[:, :e], low), high)
        turn, zoom, shift = change[:, e : e + 3], change[:, e + 3], change[:, e + 4 : e + 6]
        pose = HeadPose(
            roma.rotvec_to_rotmat(turn) @ pose.rotation, pose.scale * zoom.exp(), pose.shift + shift
        )
    return FittedHeads(identity, expression, pose)


def _weighted_nearness(residual: Tensor, weight: Tensor) -> Float[Tensor, "b 1 1"]:
    """The offset of w that fits best; w has no origin."""
    square = weight[..., 2:].square()
    return (residual[..., 2:] * square).sum(1, keepdim=True) / square.sum(1, keepdim=True)


def _first_rows(person: Int[Tensor, "b"], count: int) -> Int[Tensor, "p"]:
    order = torch.arange(len(person), device=person.device).flip(0)
    return torch.zeros(count, dtype=torch.long, device=person.device).scatter(
        0, person.flip(0), order
    )
