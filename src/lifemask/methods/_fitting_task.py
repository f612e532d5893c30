"""Landmarks of one face as a least-squares problem: checks, whitening, sliding contour."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lifemask.assets import UserError
from lifemask.facemodel.base import FaceModel
from lifemask.graphics.pose import project_with_jacobian
from lifemask.methods._fitting_config import FitConfig
from lifemask.methods._fitting_contour import (
    JAW,
    ContourStrips,
    contour_strips,
    outline_normals,
    slide,
)
from lifemask.methods._fitting_solver import Observation, State, residuals
from lifemask.methods._fitting_surface import (
    Prior,
    SurfacePoints,
    coefficient_prior,
    landmark_points,
)
from lifemask.types import Camera, Landmarks

_MIN_POINTS = 6
_MIN_EXTENT_PX = 2.0
# AFLW's ears and chin are clicked loosely.
_LOOSE_POINTS = {"aflw21": ((12, 16, 20), 0.3)}


def check_landmarks(landmarks: Landmarks, model: FaceModel) -> None:
    """Raises UserError where the landmarks cannot be fitted."""
    embeddings = model.landmark_embeddings
    if landmarks.convention not in embeddings:
        known = ", ".join(sorted(embeddings))
        raise UserError(
            f"face model {model.name!r} has no landmark set {landmarks.convention!r}; "
            f"it has: {known}"
        )
    expected = len(embeddings[landmarks.convention].vertex_ids)
    if landmarks.points.shape != (expected, 3) or landmarks.sigma_px.shape != (expected,):
        raise UserError(
            f"landmark set {landmarks.convention!r} has {expected} points, "
            f"got points {tuple(landmarks.points.shape)} "
            f"and sigmas {tuple(landmarks.sigma_px.shape)}"
        )
    seen = int(seen_points(landmarks).sum())
    if seen < _MIN_POINTS:
        raise UserError(f"a fit needs at least {_MIN_POINTS} visible landmarks, got {seen}")
    visible = landmarks.points[seen_points(landmarks), :2]
    if float((visible.amax(0) - visible.amin(0)).min()) < _MIN_EXTENT_PX:
        raise UserError("the landmarks lie in one place or on one line of the photo")


def seen_points(landmarks: Landmarks) -> Bool[Tensor, " n"]:
    """Points whose position and sigma are known; w may be missing."""
    finite = landmarks.points[:, :2].isfinite().all(-1) & landmarks.sigma_px.isfinite()
    return finite & (landmarks.sigma_px > 0)


@dataclass(frozen=True)
class SlidingJaw:
    """Jaw points that are chosen on the silhouette; they come first among a task's points.

    Attributes:
        strips: candidates.
        normals: (17, 2) outward unit normals of the clicked outline.
        seen: (17,) which jaw points the task has.
        tangential: weight along the outline; 1 across it.
    """

    strips: ContourStrips
    normals: Float[Tensor, "17 2"]
    seen: Bool[Tensor, " 17"]
    tangential: float

    def apply(self, state: State, observation: Observation) -> Observation:
        """Replaces the jaw points by those on the silhouette of the current state."""
        chosen = slide(self.strips, state.coefficients, state.camera, self.normals)
        chosen = chosen.select(self.seen)
        n = len(chosen.mean)
        points = observation.points
        mean = torch.cat((chosen.mean, points.mean[n:]))
        basis = torch.cat((chosen.basis, points.basis[n:]))
        normal = self.normals[self.seen]
        tangent = torch.stack((-normal[:, 1], normal[:, 0]), -1)
        whitening = observation.whitening.clone()
        inverse_sigma = whitening[:n, 0, 0, None]
        whitening[:n, 0, :2] = normal * inverse_sigma
        whitening[:n, 1, :2] = tangent * inverse_sigma * self.tangential
        return Observation(SurfacePoints(mean, basis), observation.target, whitening)


@dataclass(frozen=True)
class FitTask:
    """What `solve` needs: seen points, their whitening, the prior; float64.

    Attributes:
        fixed: the seen landmarks as fixed points on the surface.
        has_depth: whether any w is known.
        prior: on the coefficients.
        jaw: sliding jaw points, None if all points stay fixed.
    """

    fixed: Observation
    has_depth: bool
    prior: Prior
    jaw: SlidingJaw | None

    def observe(self, state: State) -> Observation:
        """The points to meet, with the sliding ones chosen for this state."""
        return self.fixed if self.jaw is None else self.jaw.apply(state, self.fixed)


def create_task(landmarks: Landmarks, model: FaceModel, config: FitConfig) -> FitTask:
    """The least-squares problem of one face.

    Raises:
        UserError: landmarks that cannot be fitted.
    """
    check_landmarks(landmarks, model)
    points = landmark_points(model, landmarks.convention)
    landmarks = replace(
        landmarks,
        points=landmarks.points.to(points.mean.device),
        sigma_px=landmarks.sigma_px.to(points.mean.device),
    )
    target = landmarks.points.double()
    seen, depth = seen_points(landmarks), target[:, 2].isfinite()
    jaw = None
    if _slides(landmarks, config):
        normals = outline_normals(_filled(target[JAW, :2], seen[JAW]))
        jaw = SlidingJaw(contour_strips(model), normals, seen[JAW], config.contour_tangential)
    whitening = _whitening(landmarks, seen, depth, config)
    target = torch.where(target.isfinite(), target, 0.0)
    observation = Observation(points.select(seen), target[seen], whitening[seen])
    return FitTask(observation, bool((depth & seen).any()), _prior(model, config, target), jaw)


def _filled(outline: Tensor, seen: Tensor) -> Tensor:
    """The outline with unseen points replaced by their nearest seen neighbour."""
    index = torch.arange(len(outline), device=outline.device)
    distance = (index[:, None] - index).abs() + len(outline) * ~seen
    return outline[distance.argmin(-1)]


def _slides(landmarks: Landmarks, config: FitConfig) -> bool:
    if int(seen_points(landmarks)[: JAW.stop].sum()) < 3:
        return False
    if config.contour == "auto":
        return landmarks.convention == "ict68" and bool(landmarks.points[JAW, 2].isnan().all())
    return config.contour == "slide" and landmarks.convention in ("ict68", "ibug68-3d-bfm")


def _whitening(landmarks: Landmarks, seen: Tensor, depth: Tensor, config: FitConfig) -> Tensor:
    """Diagonal whitening (n, 3, 3); zero for an unknown w."""
    points = landmarks.points[seen, :2].double()
    size = (points.max(0).values - points.min(0).values).prod().sqrt()
    sigma = landmarks.sigma_px.double().clamp_min(float(config.sigma_floor * size))
    if landmarks.convention in _LOOSE_POINTS:
        index, weight = _LOOSE_POINTS[landmarks.convention]
        sigma[list(index)] *= weight**-0.5
    inverse = 1 / sigma
    inverse_depth = torch.where(depth, inverse / config.depth_sigma_ratio, 0.0)
    return torch.diag_embed(torch.stack((inverse, inverse, inverse_depth), -1))


def _prior(model: FaceModel, config: FitConfig, like: Tensor) -> Prior:
    """Prior of the coefficients; those that the settings switch off are fixed at zero."""
    prior = coefficient_prior(
        model, config.identity_weight, config.expression_rate, config.symmetry_sigma, like
    )
    lower, upper = prior.lower.clone(), prior.upper.clone()
    split = model.identity_size
    if not config.identity:
        lower[:split] = upper[:split] = 0
    if not config.expression:
        lower[split:] = upper[split:] = 0
    return replace(prior, lower=lower, upper=upper)


def start_state(task: FitTask, camera: Camera, coefficients: Tensor | None = None) -> State:
    """Given or zero coefficients with the origin of w that suits most points."""
    fixed = task.fixed
    if coefficients is None:
        coefficients = torch.zeros_like(task.prior.linear)
    image, _, _ = project_with_jacobian(fixed.points.at(coefficients), camera)
    known = fixed.whitening[:, 2, 2] > 0
    offset = camera.scale.new_zeros(())
    if bool(known.any()):
        offset = (fixed.target - image)[known, 2].median()
    return State(camera, coefficients, offset)


def noise_factor(task: FitTask, state: State) -> float:
    """Factor >= 1 by which the sigmas are too small for the residuals, from their median."""
    distance = residuals(state, task.observe(state)).norm(dim=-1)
    expected = 1.54 if task.has_depth else 1.18  # median of chi with 3 or 2 degrees of freedom
    return max(1.0, float(distance.median()) / expected)
