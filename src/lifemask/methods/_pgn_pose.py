"""Pose in closed form from predicted points: the part of PGN that is solved, not learned.

    X_i model points, Y_i = (u, -v, w) of the position map, q_i = exp(-beta_i), detached:
    min sum q |s R X + t - Y|^2 by the singular values of sum q (Y - ym)(X - xm)^T

The solvers themselves, perspective included, are in `graphics.pose`.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from lifemask.graphics.pose import similarity

NEWTON_STEPS = 8


class HeadPose(NamedTuple):
    """Scaled orthographic pose of a head about its pivot; half-crops per 100 mm.

    Attributes:
        rotation: (b, 3, 3).
        scale: (b,).
        shift: (b, 2) where the pivot appears.
    """

    rotation: Float[Tensor, "b 3 3"]
    scale: Float[Tensor, "b"]
    shift: Float[Tensor, "b 2"]


def solve_pose(
    model_points: Float[Tensor, "b k 3"],
    image_points: Float[Tensor, "b k 3"],
    log_beta: Float[Tensor, "b k"] | None,
) -> HeadPose:
    """Pose that carries model points to predicted ones; differentiable in both.

    Args:
        model_points: 100 mm, about the pivot.
        image_points: (u, v, w) half-crops; the offset of w is free.
        log_beta: their predicted scale of error; weights are `exp(-beta)`, without gradient, as
            in PGN. None weighs all alike.
    """
    kind = torch.float64  # singular vectors of near-planar points need the digits
    target = image_points * image_points.new_tensor([1.0, -1.0, 1.0])
    weights = None
    if log_beta is not None:
        beta = log_beta.detach().to(kind)
        weights = (-(beta - beta.amin(1, keepdim=True))).exp()
    rotation, scale, offset = similarity(model_points.to(kind), target.to(kind), weights)
    shift = torch.stack((offset[:, 0], -offset[:, 1]), 1)
    return HeadPose(*(x.to(image_points.dtype) for x in (rotation, scale, shift)))


def unposed(
    image_points: Float[Tensor, "b k 3"],
    mean: Float[Tensor, "k 3"],
    to_affine: Float[Tensor, "4 k"],
) -> Float[Tensor, "b k 3"]:
    """Predicted points turned back into the model frame, minus the mean face's, 100 mm.

    The pose is that of the mean face: the best affine map, and the rotation nearest to it by
    Newton's iteration, which an exported graph can run. No gradient flows through the pose.

    Args:
        image_points: (u, v, w) half-crops.
        mean: the mean face's points about the pivot.
        to_affine: from `affine_solver(mean)`.
    """
    target = image_points * image_points.new_tensor([1.0, -1.0, 1.0])
    affine = (to_affine @ target).detach()  # (b, 4, 3): rows of A^T, then the offset
    matrix = affine[:, :3].transpose(1, 2)
    rotation = _nearest(matrix)
    scale = (rotation * matrix).sum((1, 2))[:, None, None] / 3
    centred = target - affine[:, 3:]
    return (centred @ rotation) / scale.clamp_min(1e-3) - mean


def affine_solver(mean: Float[Tensor, "k 3"]) -> Float[Tensor, "4 k"]:
    """Matrix that gives the best affine map of the mean face's points onto others (b, k, 3)."""
    system = torch.cat((mean, torch.ones_like(mean[:, :1])), 1).double()
    return torch.linalg.pinv(system).to(mean.dtype)


def _nearest(matrix: Float[Tensor, "b 3 3"]) -> Float[Tensor, "b 3 3"]:
    """The orthogonal factor of matrices with positive determinant, in plain arithmetic.

    Newton's iteration `X <- (X + X^-T) / 2`, X^-T by cofactors, on flat rows of nine: few and small
    steps for an exported graph.
    """
    x = matrix.flatten(1)
    x = x / x.square().sum(1, keepdim=True).clamp_min(1e-8).sqrt() * 3**0.5
    for _ in range(NEWTON_STEPS):
        cofactors = x[:, _A] * x[:, _B] - x[:, _C] * x[:, _D]
        determinant = (x * cofactors).sum(1, keepdim=True) / 3
        x = 0.5 * (x + cofactors / determinant.clamp_min(1e-3))
    return x.unflatten(1, (3, 3))


def _places(row: int, column: int) -> list[int]:
    """Where in a flat matrix the entry stands that is so many rows and columns on, cyclically."""
    return [(i + row) % 3 * 3 + (j + column) % 3 for i in range(3) for j in range(3)]


# Cofactor (i, j) is x[i+1, j+1] x[i+2, j+2] - x[i+1, j+2] x[i+2, j+1], indices modulo 3.
_A, _B, _C, _D = _places(1, 1), _places(2, 2), _places(1, 2), _places(2, 1)
