"""Landmarks to head by optimisation: robust second-order fit of pose, identity and expression.

The maximum a posteriori estimate under the face model's prior: Levenberg-Marquardt on whitened
landmark residuals with a Geman-McClure penalty, bounds on expressions, and jaw points that slide
along the silhouette where the landmarks are 2D clicks. `docs/methods/fitting.md` has the equations.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from lifemask.assets import UserError
from lifemask.facemodel.base import FaceModel
from lifemask.graphics.camera import default_focal_px
from lifemask.graphics.pose import affine_camera, procrustes_camera, project_with_jacobian
from lifemask.methods._fitting_config import FitConfig
from lifemask.methods._fitting_input import landmarks_from_points, load_landmarks
from lifemask.methods._fitting_person import PhotoFit, share_identity
from lifemask.methods._fitting_result import geometry_of, residual_px_of
from lifemask.methods._fitting_solver import Penalty, minimise
from lifemask.methods._fitting_task import FitTask, create_task, noise_factor, start_state
from lifemask.types import Camera, Geometry, Landmarks

__all__ = ["FitConfig", "fit_landmarks", "fit_person", "landmarks_from_points", "load_landmarks"]

_START_ROUNDS = 6


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
        Geometry of the landmarks' dtype, on the model's device; `residual_px` is the root mean
        square distance in (u, v) over the seen points, across the outline for sliding ones.

    Raises:
        UserError: fewer than six usable points or all in one place, a wrong number of
            points for the set, a set that the model does not have, or a pinhole camera without an
            image size.
    """
    fit = _solve(landmarks, model, config or FitConfig(), image_size)
    residual = residual_px_of(fit.state, fit.task)
    return geometry_of(fit.state, model, residual, landmarks.points.dtype)


def fit_person(
    landmarks: Sequence[Landmarks],
    model: FaceModel,
    config: FitConfig | None = None,
    image_sizes: Sequence[tuple[int, int]] | None = None,
) -> list[Geometry]:
    """Heads that explain landmarks of one person in several photos: one identity for all.

    The maximum a posteriori estimate of all photos together; each has its own camera and
    expression.

    Args:
        landmarks: of one face per photo, at least one, as for `fit_landmarks`.
        model: the face model to fit.
        config: settings; None for the defaults.
        image_sizes: (width, height) of each photo in px; needed by the pinhole camera only.

    Returns:
        Geometries in the photos' order, of the first landmarks' dtype; their identities are equal
        to the bit.

    Raises:
        UserError: as `fit_landmarks`, with the number of the photo.
    """
    config = config or FitConfig()
    sizes = [None] * len(landmarks) if image_sizes is None else image_sizes
    fits = []
    for number, (points, size) in enumerate(zip(landmarks, sizes, strict=True), start=1):
        try:
            fits.append(_solve(points, model, config, size))
        except UserError as error:
            raise UserError(f"photo {number}: {error}") from error
    if config.identity and len(fits) > 1:
        fits = share_identity(fits, model.identity_size, config.iterations)
    dtype = landmarks[0].points.dtype
    return [geometry_of(f.state, model, residual_px_of(f.state, f.task), dtype) for f in fits]


def _solve(
    landmarks: Landmarks, model: FaceModel, config: FitConfig, image_size: tuple[int, int] | None
) -> PhotoFit:
    """One photo on its own."""
    task = create_task(landmarks, model, config)
    camera = _start_camera(task)
    if config.camera == "pinhole":
        camera = _to_pinhole(camera, config, image_size)
    state = start_state(task, camera)
    share = min(1.0, config.effective_points / len(task.fixed.target))
    penalty = Penalty(
        share, config.outlier_sigma, 2 * noise_factor(task, state), config.focal_sigma
    )
    state = minimise(state, task.observe, task.prior, penalty, max(3, config.iterations // 3))
    penalty = replace(penalty, noise=noise_factor(task, state))
    state = minimise(state, task.observe, task.prior, penalty, config.iterations)
    if not bool(state.coefficients.isfinite().all() & state.camera.rotation.isfinite().all()):
        raise UserError("the landmarks do not form a face")
    return PhotoFit(task, penalty, state)


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
