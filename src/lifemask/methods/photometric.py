"""Photometric refinement: pose, shape, light and albedo until the render agrees with the photo.

Gauss-Newton on colour residuals of a few thousand samples that stay fixed on the visible skin while
the head moves over the photo, together with the landmarks and the face model's prior. Light is
spherical harmonics of order 2, albedo a low-dimensional linear model. `docs/methods/fitting.md`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from lifemask.assets import UserError
from lifemask.facemodel.base import FaceModel
from lifemask.faces.crop import crop_square, photo_to_crop
from lifemask.faces.parsing import GLASSES, Regions
from lifemask.graphics.camera import (
    camera_for_crop,
    camera_from_crop,
    camera_like,
    project,
)
from lifemask.methods._fitting_albedo import AlbedoModel, skin_albedo
from lifemask.methods._fitting_config import FitConfig
from lifemask.methods._fitting_photosolver import ColourPenalty, PhotoProblem
from lifemask.methods._fitting_render import make_picture
from lifemask.methods._fitting_result import geometry_of, residual_px_of
from lifemask.methods._fitting_samples import SkinSamples, skin_samples
from lifemask.methods._fitting_solver import Penalty, State
from lifemask.methods._fitting_surface import Prior, holding, surface_points
from lifemask.methods._fitting_task import create_task, noise_factor, start_state
from lifemask.types import Crop, Geometry, Landmarks, Lighting, ModelParams

_MIN_SAMPLES = 50
_HIDING = ("hair", "background", "mouth_interior")
"""Regions whose pixels say nothing about the skin."""
_MARGIN = 1.15  # side of the crop over the face region's longer side
_APERTURES = ((37, 41), (38, 40), (43, 47), (44, 46), (61, 67), (62, 66), (63, 65))
"""Upper and lower iBUG-68 points across the openings of eyes and mouth."""


@dataclass(frozen=True)
class PhotometricConfig:
    """Settings of `refine_photometric`.

    Attributes:
        size: side in px of the crop that the head is compared in.
        samples: skin samples per round.
        blur_px: one round per entry: Gaussian blur of the crop in px, coarse to fine. Each round
            draws the head anew. An empty tuple switches the refinement off.
        iterations: most Gauss-Newton steps per round.
        effective_samples: how many independent colours the photo counts as, against the prior.
        expression_sigma: standard deviation of an expression around what the landmarks said:
            lips and lids are where the colour model knows least.
        identity_sigma: standard deviation of the identity around what it came as, beside the
            model's prior; infinity leaves that alone, as for a landmark fit, which has the same.
        aperture_sigma_mm: standard deviation of the openings of lids and lips around what the
            landmarks said. Lashes, make-up and the dark gap of the mouth are not in the albedo
            model; without this they pull eyes and mouth open. Infinity switches it off.
        colour_sigma: least standard deviation of a colour residual, sRGB.
        outlier_sigma: residual in standard deviations at which a sample starts to be forgotten.
        light_sigma: standard deviation of light coefficients of order 1 and 2.
        white_sigma: standard deviation of the light's departure from grey.
        hold_identity: keep the identity as it came, to the bit, and move pose and expression only:
            for several photos of one person.
        fit: settings of the landmark and prior terms.
    """

    size: int = 192
    samples: int = 2000
    blur_px: tuple[float, ...] = (1.0, 0.5)
    iterations: int = 6
    effective_samples: float = 150.0
    expression_sigma: float = 0.1
    identity_sigma: float = math.inf
    aperture_sigma_mm: float = 0.2
    colour_sigma: float = 0.02
    outlier_sigma: float = 3.0
    light_sigma: float = 1.5
    white_sigma: float = 0.3
    hold_identity: bool = False
    fit: FitConfig = FitConfig()


@dataclass(frozen=True)
class PhotometricResult:
    """A refined head with what explains its colours.

    Attributes:
        geometry: refined geometry, same camera model as before.
        lighting: light of the photo, camera frame.
        albedo: (v, 3) linear RGB per vertex under the albedo model.
        error_before: robust mean colour error (sRGB, in [0, 1]) of the head as it came, with light
            and albedo fitted to it.
        error_after: the same after refinement.
    """

    geometry: Geometry
    lighting: Lighting
    albedo: Float[Tensor, "v 3"]
    error_before: float
    error_after: float


def refine_photometric(
    image: UInt8[np.ndarray, "h w 3"],
    geometry: Geometry,
    landmarks: Landmarks,
    model: FaceModel,
    config: PhotometricConfig | None = None,
    albedo: AlbedoModel | None = None,
    mask: np.ndarray | None = None,
    regions: Regions | None = None,
) -> PhotometricResult:
    """Refines a landmark fit so that the rendered skin agrees with the photo.

    Args:
        image: photo, (H, W, 3) uint8 RGB.
        geometry: result of `fit_landmarks` for the same model.
        landmarks: the landmarks it was fitted to; they keep their say.
        model: the face model.
        config: settings; None for the defaults.
        albedo: linear albedo model; None for `skin_albedo(model)`.
        mask: (H, W) bool, True where the photo shows skin; None: robustness must do.
        regions: region maps of the photo; pixels of hair, hands, cloth and the open mouth are left
            out, unless that leaves too little of the face.

    Raises:
        UserError: geometry without parameters of this model, or no visible skin in the photo.
    """
    config = config or PhotometricConfig()
    params = geometry.params
    if params is None or geometry.model != model.name:
        raise UserError("photometric refinement needs a geometry with parameters of the face model")
    albedo = albedo or skin_albedo(model)
    crop = _crop(image, geometry, model, config.size)
    device = albedo.mean.device
    pixels = crop.image.to(device)
    usable = _usable(mask, regions, crop, device)
    state, problem = _prepare(geometry, params, landmarks, model, config, crop)

    def draw(state: State, blur: float) -> SkinSamples:
        camera, count, margin = state.camera, config.samples, 1 + math.ceil(2 * blur)
        return skin_samples(
            model, state.coefficients, camera, albedo, crop.size, count, margin, usable
        )

    blur = config.blur_px[0] if config.blur_px else 0.0
    first = make_picture(pixels, blur)
    samples = draw(state, blur)
    if len(samples.pixels) < _MIN_SAMPLES and regions is not None:
        usable = _usable(mask, None, crop, device)
        samples = draw(state, blur)
    if len(samples.pixels) < _MIN_SAMPLES:
        raise UserError("no visible skin to compare: the face lies outside the photo or is tiny")
    look = problem.first_look(state, samples, first)
    before = after = problem.error(state, look, samples, first)
    for round_number, blur in enumerate(config.blur_px):
        picture = make_picture(pixels, blur)
        samples = draw(state, blur) if round_number else samples
        state, look = problem.solve(state, look, samples, picture, config.iterations)
    if config.blur_px:
        after = problem.error(state, look, draw(state, config.blur_px[0]), first)
    residual = residual_px_of(state, problem.task) * crop.side_px / crop.size
    camera = camera_from_crop(state.camera, crop.center_px, crop.side_px, crop.size)
    refined = geometry_of(
        replace(state, camera=camera), model, residual, geometry.vertices_mm.dtype
    )
    return PhotometricResult(refined, Lighting(look.light), albedo.at(look.albedo), before, after)


def _crop(
    image: UInt8[np.ndarray, "h w 3"], geometry: Geometry, model: FaceModel, size: int
) -> Crop:
    """Square around the projected face region."""
    face = geometry.vertices_mm[model.topology.regions["face"]]
    points = project(face, geometry.camera)[:, :2]
    low, high = points.amin(0), points.amax(0)
    center = (low + high) / 2
    side = _MARGIN * float((high - low).max())
    return crop_square(image, (float(center[0]), float(center[1])), side, size)


def _usable(
    mask: Bool[np.ndarray, "h w"] | None, regions: Regions | None, crop: Crop, device: torch.device
) -> Bool[Tensor, "size size"] | None:
    """Pixels of the crop that may show skin; None for all."""
    usable = None if mask is None else _crop_mask(mask, crop)
    if regions is not None:
        steps = torch.arange(crop.size).float()
        v, u = torch.meshgrid(steps, steps, indexing="ij")
        there = regions.seen_in(crop.center_px, crop.side_px, crop.size)
        places = torch.stack((u, v), -1)
        clear = there.sample(places, *_HIDING, outside=0.0) < 0.5
        clear &= there.sample(places, GLASSES, outside=0.0) < 0.5
        usable = clear if usable is None else usable & clear
    return None if usable is None else usable.to(device)


def _crop_mask(mask: Bool[np.ndarray, "h w"], crop: Crop) -> Bool[Tensor, "size size"]:
    """Mask of the photo in crop px: a pixel counts if all it covers does."""
    grey = np.repeat(mask.astype(np.uint8)[..., None] * 255, 3, axis=-1)
    cut = crop_square(grey, crop.center_px, crop.side_px, crop.size)
    return cut.image[0] > 0.99


def _prepare(
    geometry: Geometry,
    params: ModelParams,
    landmarks: Landmarks,
    model: FaceModel,
    config: PhotometricConfig,
    crop: Crop,
) -> tuple[State, PhotoProblem]:
    """Start and landmark terms in crop px."""
    zoom = crop.size / crop.side_px
    points = photo_to_crop(landmarks.points, crop)
    inside = Landmarks(points, landmarks.sigma_px * zoom, landmarks.convention)
    task = create_task(inside, model, config.fit)
    camera = camera_for_crop(
        camera_like(geometry.camera, task.prior.linear), crop.center_px, crop.side_px, crop.size
    )
    coefficients = torch.cat((params.identity, params.expression)).to(task.prior.linear)
    state = start_state(task, camera, coefficients)
    prior = _tethered(task.prior, state, model, config)
    if config.hold_identity:
        prior = holding(prior, params.identity)
    task = replace(task, prior=prior)
    share = min(1.0, config.fit.effective_points / len(task.fixed.target))
    noise = noise_factor(task, state)
    penalty = Penalty(share, config.fit.outlier_sigma, noise, config.fit.focal_sigma)
    colour = ColourPenalty(
        config.effective_samples,
        config.colour_sigma,
        config.outlier_sigma,
        config.light_sigma,
        config.white_sigma,
    )
    return state, PhotoProblem(task, penalty, colour)


def _tethered(prior: Prior, state: State, model: FaceModel, config: PhotometricConfig) -> Prior:
    """Prior that also holds coefficients, and the openings of eyes and mouth, near a state's."""
    pull = torch.zeros_like(prior.precision)
    diagonal = pull.diagonal()
    diagonal[: model.identity_size] = config.identity_sigma**-2
    diagonal[model.identity_size :] = config.expression_sigma**-2
    if "ict68" in model.landmark_embeddings:
        embedding = model.landmark_embeddings["ict68"]
        points = surface_points(model, embedding.vertex_ids, embedding.barycentric).basis
        upper, lower = (list(ids) for ids in zip(*_APERTURES, strict=True))
        opening = (points[upper] - points[lower]).flatten(0, 1).to(pull)
        pull += opening.T @ opening * config.aperture_sigma_mm**-2
    return replace(
        prior,
        precision=prior.precision + pull,
        linear=prior.linear - pull @ state.coefficients,
    )
