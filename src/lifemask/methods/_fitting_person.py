"""Several photos of one person: the identity that all of them say together.

Variable projection: given the identity, every photo has its own camera and expression; these are
eliminated from its second-order model (Schur complement), and what remains says how strongly the
photo wants which identity. A profile pulls at what a profile shows. The sum over the photos, with
the identity's prior counted once, is minimised; then every photo is solved again with the result.
Golub and Pereyra, "Separable nonlinear least squares", Inverse Problems 2003.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from lifemask.methods._fitting_solver import (
    Penalty,
    State,
    bounded_newton_step,
    energy,
    minimise,
    normal_equations,
    step_bounds,
)
from lifemask.methods._fitting_surface import Prior, holding
from lifemask.methods._fitting_task import FitTask

_ROUNDS = 4
_HALVINGS = 3
_TOLERANCE = 5e-4
_DAMPING = 1e-6  # of the eliminated unknowns, relative


@dataclass(frozen=True)
class PhotoFit:
    """One photo, solved.

    Attributes:
        task: its landmarks and the prior.
        penalty: weights of its landmarks.
        state: camera and coefficients.
    """

    task: FitTask
    penalty: Penalty
    state: State


@dataclass(frozen=True)
class IdentityTerm:
    """A photo's energy as a function of identity alone, to second order about its own.

    Attributes:
        at: (i,) where it was expanded.
        gradient: (i,) there, without the identity's prior.
        matrix: (i, i) symmetric, positive semi-definite.
    """

    at: Float[Tensor, " i"]
    gradient: Float[Tensor, " i"]
    matrix: Float[Tensor, "i i"]


def share_identity(fits: Sequence[PhotoFit], size: int, iterations: int) -> list[PhotoFit]:
    """The photos with one identity that minimises the sum of their energies.

    Args:
        fits: each solved on its own.
        size: number of identity coefficients; they stand first.
        iterations: most Levenberg-Marquardt steps per photo and round.

    Returns:
        The photos in their order; their identities are equal to the bit.
    """
    prior = fits[0].task.prior
    start = torch.stack([fit.state.coefficients[:size] for fit in fits]).mean(0)
    best = _held(fits, start + _step(fits, start, prior), iterations)
    value = _total(best, size)
    for _ in range(_ROUNDS):
        identity = best[0].state.coefficients[:size]
        step = _step(best, identity, prior)
        for _ in range(_HALVINGS):
            trial = _held(best, identity + step, iterations)
            fallen = value - _total(trial, size)
            if fallen >= 0:
                break
            step = step / 2
        if not fallen >= 0:
            return best
        best, value = trial, value - fallen
        if fallen <= _TOLERANCE * abs(value):
            break
    return best


def identity_term(fit: PhotoFit, size: int) -> IdentityTerm:
    """What a photo says of the identity when its camera and expression follow.

    Unknowns that are fixed or held by their bounds do not follow.
    """
    state, prior = fit.state, _without_identity(fit.task.prior, size)
    _, gradient, matrix = normal_equations(state, fit.task.observe(state), fit.penalty)
    gradient[8:] += prior.precision @ state.coefficients + prior.linear
    matrix[8:, 8:] += prior.precision
    low, high = step_bounds(state, fit.task.prior, fit.penalty)
    stuck = (low >= high) | ((low >= 0) & (gradient > 0)) | ((high <= 0) & (gradient < 0))
    own = ~stuck & (matrix.diagonal() > 0)
    own[8 : 8 + size] = False
    shared = torch.zeros_like(own)
    shared[8 : 8 + size] = True
    inner, across = matrix[own][:, own], matrix[own][:, shared]
    inner = inner + torch.diag(_DAMPING * inner.diagonal())
    right = torch.cat((across, gradient[own, None]), -1)
    solved = across.T @ torch.linalg.solve(inner, right)
    kept = matrix[shared][:, shared] - solved[:, :-1]
    return IdentityTerm(
        state.coefficients[:size], gradient[shared] - solved[:, -1], (kept + kept.T) / 2
    )


def _step(fits: Sequence[PhotoFit], identity: Tensor, prior: Prior) -> Tensor:
    """Bounded Newton step of the sum from an identity."""
    size = len(identity)
    matrix = prior.precision[:size, :size].clone()
    gradient = matrix @ identity + prior.linear[:size]
    for fit in fits:
        term = identity_term(fit, size)
        gradient = gradient + term.gradient + term.matrix @ (identity - term.at)
        matrix = matrix + term.matrix
    low, high = prior.lower[:size] - identity, prior.upper[:size] - identity
    return bounded_newton_step(matrix, gradient, low, high)


def _held(fits: Sequence[PhotoFit], identity: Tensor, iterations: int) -> list[PhotoFit]:
    """Every photo with this identity, its camera and expression solved again."""
    return [replace(fit, state=_solved(fit, identity, iterations)) for fit in fits]


def _solved(fit: PhotoFit, identity: Tensor, iterations: int) -> State:
    coefficients = torch.cat((identity, fit.state.coefficients[len(identity) :]))
    start = replace(fit.state, coefficients=coefficients)
    prior = holding(fit.task.prior, identity)
    return minimise(start, fit.task.observe, prior, fit.penalty, iterations)


def _total(fits: Sequence[PhotoFit], size: int) -> float:
    """Energy of all photos, with the prior of their identity counted once."""
    values = []
    for number, fit in enumerate(fits):
        prior = _without_identity(fit.task.prior, size) if number else fit.task.prior
        values.append(energy(fit.state, fit.task.observe(fit.state), prior, fit.penalty))
    return float(torch.stack(values).sum())


def _without_identity(prior: Prior, size: int) -> Prior:
    """The prior of the other coefficients; it does not couple them with identity."""
    precision, linear = prior.precision.clone(), prior.linear.clone()
    precision[:size] = 0
    precision[:, :size] = 0
    linear[:size] = 0
    return replace(prior, precision=precision, linear=linear)
