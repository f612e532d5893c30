"""Photometric residuals of skin samples and their analytic derivatives."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from lifemask.graphics.lighting import linear_to_srgb, shading
from lifemask.graphics.pose import cross_matrix, project_with_jacobian
from lifemask.methods._fitting_samples import SkinSamples
from lifemask.types import Camera

LIGHT_SIZE = 27
_DARKEST = 2e-3  # linear; below it the model's colour is clamped


@dataclass(frozen=True)
class Look:
    """What a photometric fit solves for besides the head: float32.

    Attributes:
        light: (9, 3) radiance SH, camera frame.
        albedo: (k,) coefficients of the albedo model.
    """

    light: Float[Tensor, "9 3"]
    albedo: Float[Tensor, " k"]


@dataclass(frozen=True)
class Picture:
    """A blurred crop and its derivative, ready for bilinear look-up.

    Attributes:
        stack: (1, 9, h, w): sRGB (3), d/du (3), d/dv (3).
    """

    stack: Float[Tensor, "1 9 h w"]

    def at(self, uv: Float[Tensor, "n 2"]) -> tuple[Tensor, Tensor]:
        """Colour (n, 3) and its derivative (n, 3, 2) per px at crop px."""
        height, width = self.stack.shape[-2:]
        grid = (uv + 0.5) / uv.new_tensor([width, height]) * 2 - 1
        found = torch.nn.functional.grid_sample(
            self.stack, grid[None, None], padding_mode="border", align_corners=False
        )[0, :, 0].T
        return found[:, :3], torch.stack((found[:, 3:6], found[:, 6:]), -1)


def make_picture(image: Float[Tensor, "3 h w"], blur_px: float) -> Picture:
    """Blurs a crop by a Gaussian and takes central differences.

    Args:
        image: (3, h, w) sRGB in [0, 1].
        blur_px: standard deviation in px; 0 for none.
    """
    if blur_px > 0:
        radius = int(3 * blur_px + 0.5)
        offset = torch.arange(-radius, radius + 1, dtype=image.dtype, device=image.device)
        kernel = torch.exp(-0.5 * (offset / blur_px) ** 2)
        kernel = (kernel / kernel.sum()).expand(3, 1, -1)
        padded = torch.nn.functional.pad(image[None], (radius,) * 4, mode="replicate")
        rows = torch.nn.functional.conv2d(padded, kernel[:, :, None, :], groups=3)
        image = torch.nn.functional.conv2d(rows, kernel[:, :, :, None], groups=3)[0]
    wide = torch.nn.functional.pad(image[None], (1, 1, 1, 1), mode="replicate")[0]
    by_u = (wide[:, 1:-1, 2:] - wide[:, 1:-1, :-2]) / 2
    by_v = (wide[:, 2:, 1:-1] - wide[:, :-2, 1:-1]) / 2
    return Picture(torch.cat((image, by_u, by_v))[None])


def lambert_basis(normals: Float[Tensor, "n 3"]) -> Float[Tensor, "n 9"]:
    """Shading (n, 9) by each unit coefficient of the light."""
    unit = torch.eye(9, dtype=normals.dtype, device=normals.device)
    return torch.cat([shading(normals, unit[:, k : k + 3]) for k in (0, 3, 6)], -1)


def colour_residuals(
    coefficients: Float[Tensor, " p"],
    camera: Camera,
    look: Look,
    samples: SkinSamples,
    picture: Picture,
) -> Float[Tensor, "n 3"]:
    """Photo minus model, sRGB, at each sample."""
    image, _, _ = project_with_jacobian(samples.points.at(coefficients), camera)
    normal = torch.nn.functional.normalize(samples.normals.at(coefficients), dim=-1)
    shade = shading(normal @ camera.rotation.T, look.light)
    albedo = samples.albedo_mean + samples.albedo_basis @ look.albedo
    return picture.at(image[:, :2])[0] - linear_to_srgb((albedo * shade).clamp_min(_DARKEST))


def colour_jacobian(
    coefficients: Float[Tensor, " p"],
    camera: Camera,
    look: Look,
    samples: SkinSamples,
    picture: Picture,
) -> tuple[Float[Tensor, "n 3"], Float[Tensor, "n 3 q"]]:
    """Residuals and their derivative.

    Columns: rotation 3, translation 3, log scale 1, nearness origin 1 (zero), coefficients p,
    light 27 (harmonic-major), albedo k.
    """
    image, by_point, turned = project_with_jacobian(samples.points.at(coefficients), camera)
    colour, slope = picture.at(image[:, :2])
    raw = samples.normals.at(coefficients)
    length = raw.norm(dim=-1, keepdim=True)
    normal = raw / length
    seen = normal @ camera.rotation.T
    basis = lambert_basis(seen)
    shade = basis @ look.light
    albedo = samples.albedo_mean + samples.albedo_basis @ look.albedo
    linear = albedo * shade
    gain = _srgb_slope(linear)  # zero where the colour is clamped
    residual = colour - linear_to_srgb(linear.clamp_min(_DARKEST))

    by_camera_point = slope @ by_point[:, :2]  # (n, 3 colours, 3)
    by_normal = -(gain * albedo)[..., None] * _shade_slope(seen, look.light)
    n = len(image)
    by_camera = image.new_zeros(n, 3, 8)
    by_camera[..., :3] = -by_camera_point @ cross_matrix(turned) - by_normal @ cross_matrix(seen)
    by_camera[..., 3:7] = slope @ _placement(image, by_point, camera)
    tangent = torch.eye(3).to(normal) - normal[:, :, None] * normal[:, None, :]
    through_normal = (by_normal @ camera.rotation @ tangent) / length[..., None]
    both = torch.cat((by_camera_point @ camera.rotation, through_normal), -1)
    stacked = torch.cat((samples.points.basis, samples.normals.basis), 1)
    by_coefficient = both @ stacked
    by_light = (-(gain * albedo)[:, :, None] * basis[:, None, :])[..., None]
    by_light = (by_light * torch.eye(3).to(basis)[:, None, :]).flatten(2)
    by_albedo = -(gain * shade)[..., None] * samples.albedo_basis
    return residual, torch.cat((by_camera, by_coefficient, by_light, by_albedo), -1)


def _placement(image: Tensor, by_point: Tensor, camera: Camera) -> Tensor:
    """Derivative (n, 2, 4) of (u, v) by translation and log scale."""
    result = image.new_zeros(len(image), 2, 4)
    if camera.model == "orthographic":
        result[:, 0, 0] = 1
        result[:, 1, 1] = 1
        result[..., 3] = image[:, :2] - camera.translation[:2]
        return result
    result[..., :3] = by_point[:, :2]
    result[..., 3] = image[:, :2] - camera.center
    return result


def _shade_slope(normals: Tensor, light: Tensor) -> Tensor:
    """Derivative (n, 3 colours, 3) of shading by the normal; exact, shading is quadratic in it."""
    steps = []
    for axis in range(3):
        step = torch.zeros_like(normals)
        step[:, axis] = 1
        steps.append((shading(normals + step, light) - shading(normals - step, light)) / 2)
    return torch.stack(steps, -1)


def _srgb_slope(linear: Tensor) -> Tensor:
    """Derivative of the sRGB encoding."""
    curved = (1.055 / 2.4) * linear.clamp_min(0.0031308) ** (1 / 2.4 - 1)
    slope = torch.where(linear <= 0.0031308, 12.92, curved)
    return torch.where(linear <= _DARKEST, 0.0, slope)
