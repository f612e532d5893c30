"""Levenberg-Marquardt on colours, landmarks and priors together."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from lifemask.graphics.camera import camera_like
from lifemask.graphics.lighting import srgb_to_linear
from lifemask.graphics.pose import project_with_jacobian
from lifemask.methods._fitting_render import (
    LIGHT_SIZE,
    Look,
    Picture,
    colour_jacobian,
    colour_residuals,
    lambert_basis,
)
from lifemask.methods._fitting_samples import SkinSamples
from lifemask.methods._fitting_solver import (
    Penalty,
    State,
    bounded_newton_step,
    energy,
    move,
    normal_equations,
    step_bounds,
)
from lifemask.methods._fitting_task import FitTask
from lifemask.types import Camera

_TOLERANCE = 1e-3


@dataclass(frozen=True)
class ColourPenalty:
    """Weights of the colour term.

    Attributes:
        effective_samples: how many independent colours the samples count as at most.
        colour_sigma: least standard deviation of a residual, sRGB.
        outlier_sigma: where the Geman-McClure penalty starts to forget a sample.
        light_sigma: standard deviation of light coefficients of order 1 and 2.
        white_sigma: standard deviation of the light's departure from grey.
    """

    effective_samples: float
    colour_sigma: float
    outlier_sigma: float
    light_sigma: float
    white_sigma: float


@dataclass(frozen=True)
class PhotoProblem:
    """All terms of a photometric fit but the samples, which are drawn anew each round.

    Attributes:
        task: landmarks and prior, crop px, float64.
        penalty: of the landmarks.
        colour: of the colours.
    """

    task: FitTask
    penalty: Penalty
    colour: ColourPenalty

    def first_look(self, state: State, samples: SkinSamples, picture: Picture) -> Look:
        """Light and albedo for a head that stays as it is."""
        coefficients, camera = _single(state)
        image, _, _ = project_with_jacobian(samples.points.at(coefficients), camera)
        linear = srgb_to_linear(picture.at(image[:, :2])[0].clamp(0, 1))
        normal = torch.nn.functional.normalize(samples.normals.at(coefficients), dim=-1)
        basis = lambert_basis(normal @ camera.rotation.T)
        ridge = torch.diag(basis.new_tensor([1e-3] + [0.02] * 8)) * len(basis)
        columns = []
        for c in range(3):
            design = basis * samples.albedo_mean[:, c : c + 1]
            right = design.T @ linear[:, c : c + 1]
            columns.append(torch.linalg.solve(design.T @ design + 0.05 * ridge, right))
        albedo = linear.new_zeros(samples.albedo_basis.shape[-1])
        look = Look(torch.cat(columns, -1), albedo)
        return self.solve(state, look, samples, picture, iterations=4, frozen=True)[1]

    def error(self, state: State, look: Look, samples: SkinSamples, picture: Picture) -> float:
        """Mean over samples of the colour error, sRGB, each capped at 0.3."""
        coefficients, camera = _single(state)
        residual = colour_residuals(coefficients, camera, look, samples, picture)
        return float(residual.abs().mean(-1).clamp_max(0.3).mean())

    def solve(
        self,
        state: State,
        look: Look,
        samples: SkinSamples,
        picture: Picture,
        iterations: int,
        frozen: bool = False,
    ) -> tuple[State, Look]:
        """Head and look after at most `iterations` steps, none of which raises the energy.

        Args:
            state: start.
            look: start.
            samples: skin samples, drawn near the start.
            picture: the photo's crop.
            iterations: most steps.
            frozen: keep the head, solve for light and albedo only.
        """
        coefficients, camera = _single(state)
        residual = colour_residuals(coefficients, camera, look, samples, picture)
        spread = 1.4826 * float(residual.abs().median())
        sigma = max(self.colour.colour_sigma, spread)
        damping = 1e-3
        for _ in range(iterations):
            value, gradient, matrix = self._quadratic(state, look, samples, picture, sigma)
            low, high = self._bounds(state, matrix, frozen)
            diagonal = matrix.diagonal()
            fallen = -1.0
            for _ in range(4):
                damped = matrix + torch.diag(damping * diagonal)
                step = bounded_newton_step(damped, gradient, low, high)
                trial, trial_look = _move(state, look, step)
                fallen = value - self._energy(trial, trial_look, samples, picture, sigma)
                if fallen >= 0:
                    break
                damping = max(damping, 1e-3) * 10
            if not fallen >= 0:
                break
            state, look, damping = trial, trial_look, damping * 0.2
            if fallen <= _TOLERANCE * value:
                break
        return state, look

    def _bounds(self, state: State, matrix: Tensor, frozen: bool) -> tuple[Tensor, Tensor]:
        low, high = step_bounds(state, self.task.prior, self.penalty)
        free = low.new_full((len(matrix) - len(low),), torch.inf)
        if frozen:
            low, high = torch.zeros_like(low), torch.zeros_like(high)
        low, high = torch.cat((low, -free)), torch.cat((high, free))
        seen = matrix.diagonal() > 0
        return torch.where(seen, low, 0.0), torch.where(seen, high, 0.0)

    def _robust(self, residual: Tensor, sigma: float) -> tuple[Tensor, Tensor]:
        squared = (residual / sigma).square().sum(-1)
        limit = self.colour.outlier_sigma**2 * 3
        ratio = limit / (limit + squared)
        factor = min(1.0, self.colour.effective_samples / len(residual))
        return 0.5 * factor * (squared * ratio).sum(), factor * ratio**2 / sigma**2

    def _energy(
        self, state: State, look: Look, samples: SkinSamples, picture: Picture, sigma: float
    ) -> float:
        coefficients, camera = _single(state)
        residual = colour_residuals(coefficients, camera, look, samples, picture)
        geometry = energy(state, self.task.observe(state), self.task.prior, self.penalty)
        light = look.light.double().flatten()
        appearance = light @ _light_precision(light, self.colour) @ light
        appearance = appearance + look.albedo.double().square().sum()
        return float(self._robust(residual, sigma)[0] + geometry + 0.5 * appearance)

    def _quadratic(
        self, state: State, look: Look, samples: SkinSamples, picture: Picture, sigma: float
    ) -> tuple[float, Tensor, Tensor]:
        """Energy, gradient and Gauss-Newton matrix; float64."""
        coefficients, camera = _single(state)
        residual, jacobian = colour_jacobian(coefficients, camera, look, samples, picture)
        _, weight = self._robust(residual, sigma)
        root = weight.sqrt()[:, None]
        rows = (root[..., None] * jacobian).flatten(0, 1)
        gradient = (rows.T @ (root * residual).flatten()).double()
        matrix = (rows.T @ rows).double()
        head = 8 + len(coefficients)
        _, g, m = normal_equations(state, self.task.observe(state), self.penalty)
        prior = self.task.prior
        g[8:] += prior.precision @ state.coefficients + prior.linear
        m[8:, 8:] += prior.precision
        gradient[:head] += g
        matrix[:head, :head] += m
        light = look.light.double().flatten()
        precision = _light_precision(light, self.colour)
        lit = slice(head, head + LIGHT_SIZE)
        gradient[lit] += precision @ light
        matrix[lit, lit] += precision
        gradient[lit.stop :] += look.albedo.double()
        matrix[lit.stop :, lit.stop :] += torch.eye(len(look.albedo)).to(matrix)
        return self._energy(state, look, samples, picture, sigma), gradient, matrix


def _single(state: State) -> tuple[Float[Tensor, " p"], Camera]:
    """Coefficients and camera in float32, for the colour terms."""
    coefficients = state.coefficients.float()
    return coefficients, camera_like(state.camera, coefficients)


def _move(state: State, look: Look, step: Tensor) -> tuple[State, Look]:
    head = 8 + len(state.coefficients)
    own = step[head:].to(look.light)
    light = look.light + own[:LIGHT_SIZE].reshape(9, 3)
    return move(state, step[:head]), Look(light, look.albedo + own[LIGHT_SIZE:])


def _light_precision(like: Tensor, colour: ColourPenalty) -> Float[Tensor, "27 27"]:
    """Prior of the light: small beyond its mean, and grey."""
    size = like.new_full((9,), colour.light_sigma**-2)
    size[0] = 0
    grey = (torch.eye(3).to(like) - 1 / 3) * colour.white_sigma**-2
    return torch.kron(torch.diag(size), torch.eye(3).to(like)) + torch.kron(
        torch.eye(9).to(like), grey
    )
