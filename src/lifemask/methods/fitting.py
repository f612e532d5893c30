"""Landmarks to head by optimisation: robust second-order fit of pose, identity and expression.

The maximum a posteriori estimate under the face model's prior: Levenberg-Marquardt on whitened
landmark residuals with a Geman-McClure penalty, bounds on expressions, and jaw points that slide
along the silhouette where the landmarks are 2D clicks. `docs/methods/fitting.md` has the equations.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from lifemask.assets import UserError
from lifemask.facemodel.base import FaceModel
from lifemask.graphics.camera import default_focal_px
from lifemask.graphics.pose import affine_camera, procrustes_camera, project_with_jacobian
from lifemask.methods._fitting_config import FitConfig
from lifemask.methods._fitting_input import load_landmarks
from lifemask.methods._fitting_solver import Penalty, State, minimise, residuals
from lifemask.methods._fitting_task import FitTask, create_task
from lifemask.types import Camera, Geometry, Landmarks, ModelParams

__all__ = ["FitConfig", "fit_landmarks", "load_landmarks"]

_START_ROUNDS = 8


def fit_landmarks(
    landmarks: Landmarks,
    model: FaceModel,
    config: FitConfig | None = None,
    image_size: tuple[int, int] | None = None,
) -> Geometry:
    """Head and camera that explain landmarks of one face.

    Args:
        landmarks: n points in photo px. w NaN: 2D only. A point that is not finite, or whose sigma
            is not, counts as unseen.
        model: the face model to fit.
        config: settings; None for the defaults.
        image_size: (width, height) of the photo in px; needed by the pinhole camera only.

    Returns:
        Geometry of the landmarks' dtype and device; `residual_px` is the root mean square distance
        in (u, v) over the seen points, across the outline for sliding ones.

    Raises:
        UserError: fewer than six usable points, a wrong number of points for the set, a set that
            the model does not have, or a pinhole camera without an image size.
    """
    config = config or FitConfig()
    task = create_task(landmarks, model, config)
    camera = _start_camera(task)
    if config.camera == "pinhole":
        camera = _to_pinhole(camera, config, image_size)
    state = _start_state(task, camera)
    share = min(1.0, config.effective_points / len(task.fixed.target))
    penalty = Penalty(share, config.outlier_sigma, 2 * _noise(task, state), config.focal_sigma)
    state = minimise(state, task.observe, task.prior, penalty, max(3, config.iterations // 3))
    penalty = replace(penalty, noise=_noise(task, state))
    state = minimise(state, task.observe, task.prior, penalty, config.iterations)
    return _geometry(state, task, model, landmarks)


def _start_camera(task: FitTask) -> Camera:
    """Orthographic camera of the mean head by iteratively reweighted closed forms."""
    fixed = task.fixed
    precision = fixed.whitening[:, 0, 0] ** 2
    if task.jaw is not None:
        precision[: int(task.jaw.seen.sum())] *= 0.2
    weights = precision
    for _ in range(_START_ROUNDS):
        if task.has_depth:
            camera = procrustes_camera(fixed.points.mean, fixed.target, weights)
        else:
            camera = affine_camera(fixed.points.mean, fixed.target[:, :2], weights)
        image, _, _ = project_with_jacobian(fixed.points.mean, camera)
        distance = (image - fixed.target)[:, :2].norm(dim=-1)
        weights = precision / (distance**2 + distance.median() ** 2 + 1e-9)
    return camera


def _to_pinhole(camera: Camera, config: FitConfig, image_size: tuple[int, int] | None) -> Camera:
    """Pinhole camera whose picture of the model origin equals the orthographic one."""
    if image_size is None:
        raise UserError("the pinhole camera needs the size of the photo (image_size)")
    width, height = image_size
    focal = camera.scale.new_tensor(config.focal_px or default_focal_px(width))
    center = camera.scale.new_tensor([(width - 1) / 2, (height - 1) / 2])
    offset = (camera.translation[:2] - center) / camera.scale
    translation = torch.stack((offset[0], -offset[1], -focal / camera.scale))
    return Camera("pinhole", camera.rotation, translation, focal, center)


def _start_state(task: FitTask, camera: Camera) -> State:
    """Zero coefficients and the origin of w that suits most points."""
    fixed = task.fixed
    image, _, _ = project_with_jacobian(fixed.points.mean, camera)
    known = fixed.whitening[:, 2, 2] > 0
    offset = camera.scale.new_zeros(())
    if bool(known.any()):
        offset = (fixed.target - image)[known, 2].median()
    return State(camera, torch.zeros_like(task.prior.linear), offset)


def _noise(task: FitTask, state: State) -> float:
    """Factor >= 1 by which the sigmas are too small for the residuals, from their median."""
    distance = residuals(state, task.observe(state)).norm(dim=-1)
    expected = 1.54 if task.has_depth else 1.18  # median of chi with 3 or 2 degrees of freedom
    return max(1.0, float(distance.median()) / expected)


def _geometry(state: State, task: FitTask, model: FaceModel, like: Landmarks) -> Geometry:
    """The result in the landmarks' dtype and device."""
    dtype = like.points.dtype
    coefficients = state.coefficients.to(dtype)
    identity, expression = coefficients.split((model.identity_size, len(model.expression_names)))
    camera = Camera(
        state.camera.model,
        state.camera.rotation.to(dtype),
        state.camera.translation.to(dtype),
        state.camera.scale.to(dtype),
        state.camera.center.to(dtype),
    )
    with torch.no_grad():
        vertices = model(identity, expression).to(dtype)
    has68 = "ict68" in model.landmark_embeddings
    return Geometry(
        vertices_mm=vertices,
        faces=model.topology.faces,
        camera=camera,
        model=model.name,
        params=ModelParams(identity, expression),
        landmarks68_mm=model.landmarks(vertices, "ict68") if has68 else None,
        residual_px=_residual_px(state, task),
    )


def _residual_px(state: State, task: FitTask) -> float:
    """Root mean square distance in (u, v); across the outline for sliding points."""
    observation = task.observe(state)
    image, _, _ = project_with_jacobian(observation.points.at(state.coefficients), state.camera)
    difference = (image - observation.target)[:, :2]
    squared = difference.square().sum(-1)
    if task.jaw is not None:
        normal = task.jaw.normals[task.jaw.seen]
        squared[: len(normal)] = (difference[: len(normal)] * normal).sum(-1) ** 2
    return float(squared.mean().sqrt())
