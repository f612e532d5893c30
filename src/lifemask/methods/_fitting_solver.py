"""Levenberg-Marquardt for camera and coefficients with bounds and robust point residuals."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import roma
import torch
from jaxtyping import Float
from torch import Tensor

from lifemask.graphics.pose import cross_matrix, project_with_jacobian
from lifemask.methods._fitting_surface import Prior, SurfacePoints
from lifemask.types import Camera

_MAX_ANGLE = 0.6  # radians a single step may turn the head


@dataclass(frozen=True)
class State:
    """What is solved for.

    Attributes:
        camera: unbatched camera to photo px.
        coefficients: (p,) identity, then expression.
        depth_offset: () px, origin of the observed w.
    """

    camera: Camera
    coefficients: Float[Tensor, " p"]
    depth_offset: Float[Tensor, ""]


@dataclass(frozen=True)
class Observation:
    """Image points that surface points should meet.

    Attributes:
        points: n surface points.
        target: (n, 3) photo px (u, v, w); entries that `whitening` ignores are finite.
        whitening: (n, 3, 3) maps a residual in px to units of its standard deviation.
    """

    points: SurfacePoints
    target: Float[Tensor, "n 3"]
    whitening: Float[Tensor, "n 3 3"]


@dataclass(frozen=True)
class Penalty:
    """Weights of the energy `data_weight * sum rho(r) + prior + focal prior`.

    Attributes:
        data_weight: weight of the points against the prior.
        outlier_sigma: where the Geman-McClure penalty starts to forget a point, in sigmas.
        noise: factor on the sigmas, >= 1.
        focal_sigma: standard deviation of log f around its start; 0 keeps f fixed.
    """

    data_weight: float = 1.0
    outlier_sigma: float = 5.0
    noise: float = 1.0
    focal_sigma: float = 0.0


def residuals(state: State, observation: Observation) -> Float[Tensor, "n 3"]:
    """Whitened residuals (n, 3)."""
    image, _, _ = project_with_jacobian(observation.points.at(state.coefficients), state.camera)
    return _whitened(image, state, observation)


def _whitened(image: Tensor, state: State, observation: Observation) -> Tensor:
    difference = image - observation.target
    difference = torch.cat((difference[:, :2], difference[:, 2:] + state.depth_offset), -1)
    return (observation.whitening @ difference[..., None])[..., 0]


def _robust(squared: Tensor, penalty: Penalty) -> tuple[Tensor, Tensor]:
    """Geman-McClure energy and weight of squared residuals."""
    limit = (penalty.outlier_sigma * penalty.noise) ** 2
    factor = penalty.data_weight / penalty.noise**2
    ratio = limit / (limit + squared)
    return 0.5 * factor * squared * ratio, factor * ratio**2


def _prior_energy(coefficients: Tensor, prior: Prior) -> Tensor:
    return coefficients @ (0.5 * (prior.precision @ coefficients) + prior.linear)


def _focal_energy(camera: Camera, start: Camera, penalty: Penalty) -> Tensor:
    if penalty.focal_sigma == 0 or camera.model != "pinhole":
        return camera.scale.new_zeros(())
    return 0.5 * (torch.log(camera.scale / start.scale) / penalty.focal_sigma) ** 2


def energy(state: State, observation: Observation, prior: Prior, penalty: Penalty) -> Tensor:
    """Robust data energy plus prior energy of the coefficients."""
    squared = residuals(state, observation).square().sum(-1)
    return _robust(squared, penalty)[0].sum() + _prior_energy(state.coefficients, prior)


def _camera_jacobian(image: Tensor, by_point: Tensor, turned: Tensor, camera: Camera) -> Tensor:
    """Derivative (n, 3, 8) by rotation (3), translation (3), log scale or log f, w offset.

    Orthographic: the third translation is unused (zero column).
    """
    n = len(image)
    jacobian = image.new_zeros(n, 3, 8)
    jacobian[..., :3] = -by_point @ cross_matrix(turned)
    jacobian[:, 2, 7] = 1
    if camera.model == "orthographic":
        jacobian[:, 0, 3] = 1
        jacobian[:, 1, 4] = 1
        jacobian[..., 6] = image - camera.translation
        return jacobian
    jacobian[:, :2, 3:6] = by_point[:, :2]
    jacobian[:, 2, 5] = -image[:, 2] / camera.translation[2]
    jacobian[:, :2, 6] = image[:, :2] - camera.center
    jacobian[:, 2, 6] = image[:, 2]
    return jacobian


def normal_equations(
    state: State, observation: Observation, penalty: Penalty
) -> tuple[Tensor, Tensor, Tensor]:
    """Data energy (), gradient (8 + p,) and Gauss-Newton matrix (8 + p, 8 + p)."""
    points, camera = observation.points, state.camera
    image, by_point, turned = project_with_jacobian(points.at(state.coefficients), camera)
    residual = _whitened(image, state, observation)
    value, weight = _robust(residual.square().sum(-1), penalty)
    root = weight.sqrt()[:, None, None] * observation.whitening
    by_camera = root @ _camera_jacobian(image, by_point, turned, camera)
    by_coefficient = (root @ by_point @ camera.rotation) @ points.basis
    jacobian = torch.cat((by_camera, by_coefficient), -1).flatten(0, 1)
    weighted = (weight.sqrt()[:, None] * residual).flatten()
    return value.sum(), jacobian.T @ weighted, jacobian.T @ jacobian


def move(state: State, step: Float[Tensor, " 8+p"]) -> State:
    """State after a step in the parameters of `normal_equations`."""
    camera = state.camera
    rotvec = step[:3]
    rotvec = rotvec * (_MAX_ANGLE / rotvec.norm().clamp_min(_MAX_ANGLE))
    camera = replace(
        camera,
        rotation=_rotation(rotvec) @ camera.rotation,
        translation=camera.translation + step[3:6],
        scale=camera.scale * torch.exp(step[6].clamp(-0.5, 0.5)),
    )
    return State(camera, state.coefficients + step[8:], state.depth_offset + step[7])


def _rotation(rotvec: Tensor) -> Tensor:
    rotation = roma.rotvec_to_rotmat(rotvec)
    assert isinstance(rotation, Tensor)
    return rotation


def bounded_newton_step(
    matrix: Float[Tensor, "q q"],
    gradient: Float[Tensor, " q"],
    lower: Float[Tensor, " q"],
    upper: Float[Tensor, " q"],
    rounds: int = 5,
) -> Float[Tensor, " q"]:
    """Step d that nearly minimises `g^T d + d^T M d / 2` with `lower <= d <= upper`.

    Active set: violated bounds become equalities and the rest is solved again; a bound is released
    when the gradient points inward. What still violates after the last round is clamped.
    """
    fixed = (lower >= upper) | ((lower == 0) & (gradient > 0)) | ((upper == 0) & (gradient < 0))
    at = torch.zeros_like(gradient)
    step = at
    for _ in range(rounds):
        free = (~fixed).to(matrix)
        reduced = matrix * free[:, None] * free + torch.diag(1 - free)
        right = -(gradient + matrix @ (at * fixed)) * free
        factor, info = torch.linalg.cholesky_ex(reduced)
        if int(info) != 0:
            break
        step = torch.cholesky_solve(right[:, None], factor)[:, 0] * free + at * fixed
        below, above = (step < lower) & ~fixed, (step > upper) & ~fixed
        slope = gradient + matrix @ step
        release = fixed & (lower < upper)
        release &= ((at <= lower) & (slope < 0)) | ((at >= upper) & (slope > 0))
        if not bool((below | above | release).any()):
            return step
        at = torch.where(below, lower, torch.where(above, upper, at))
        fixed = (fixed | below | above) & ~release
    return step.clamp(lower, upper)


def step_bounds(state: State, prior: Prior, penalty: Penalty) -> tuple[Tensor, Tensor]:
    """Bounds on a step (8 + p,); a camera entry that does not exist or stays fixed gets zero."""
    free = state.coefficients.new_full((8,), torch.inf)
    if state.camera.model == "orthographic":
        free[5] = 0
    elif penalty.focal_sigma == 0:
        free[6] = 0
    low = torch.cat((-free, prior.lower - state.coefficients))
    return low, torch.cat((free, prior.upper - state.coefficients))


def minimise(
    start: State,
    observe: Callable[[State], Observation],
    prior: Prior,
    penalty: Penalty,
    iterations: int,
    tolerance: float = 1e-4,
) -> State:
    """Levenberg-Marquardt from `start`; a step is taken only if it lowers the energy.

    Args:
        start: first state; its camera is the centre of the focal prior.
        observe: points to meet, asked anew before each step so that contour points can slide.
        prior: prior and bounds of the coefficients.
        penalty: weights of the energy.
        iterations: most steps to take.
        tolerance: stop when the energy falls by less than this share.
    """
    state, damping = start, 1e-4
    for _ in range(iterations):
        observation = observe(state)
        value, gradient, matrix = normal_equations(state, observation, penalty)
        gradient[8:] += prior.precision @ state.coefficients + prior.linear
        matrix[8:, 8:] += prior.precision
        value = value + _prior_energy(state.coefficients, prior)
        value = value + _focal_energy(state.camera, start.camera, penalty)
        if penalty.focal_sigma > 0 and state.camera.model == "pinhole":
            precision = penalty.focal_sigma**-2
            gradient[6] += torch.log(state.camera.scale / start.camera.scale) * precision
            matrix[6, 6] += precision
        diagonal = matrix.diagonal()
        low, high = step_bounds(state, prior, penalty)
        low, high = (
            torch.where(diagonal > 0, low, 0.0),
            torch.where(diagonal > 0, high, 0.0),
        )  # unseen: stays
        fallen = -1.0
        for _ in range(5):
            step = bounded_newton_step(matrix + torch.diag(damping * diagonal), gradient, low, high)
            trial = move(state, step)
            trial_value = energy(trial, observation, prior, penalty)
            trial_value = trial_value + _focal_energy(trial.camera, start.camera, penalty)
            fallen = float(value - trial_value)
            if fallen >= 0:
                break
            damping = max(damping, 1e-4) * 10
        if not fallen >= 0:
            return state
        state, damping = trial, damping * 0.2
        if fallen <= tolerance * float(value):
            break
    return state
