"""Distant light in spherical harmonics of order 2: shading, rotation, HDR projection, sRGB."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from lifemask.types import Lighting

_BAND = (0, 1, 1, 1, 2, 2, 2, 2, 2)
_LAMBERT = (1.0, 2.0 / 3.0, 1.0 / 4.0)
"""A_l / pi of a Lambertian surface (Ramamoorthi and Hanrahan 2001)."""
_DEEP3D = (math.pi, 2 * math.pi / math.sqrt(3), 2 * math.pi / math.sqrt(8))
"""Band factors of the Deep3DFaceReconstruction code."""
_DEEP3D_SIGN = (1.0, -1.0, 1.0, -1.0, 1.0, -1.0, 1.0, -1.0, 1.0)
_DEEP3D_AMBIENT = 0.8
_LEAST_LIT = 0.08
"""Of evenly spread light; no light of `STUDIO_LIGHTS` falls below it where nothing shadows it."""


def sh_basis(normals: Float[Tensor, "*b 3"]) -> Float[Tensor, "*b 9"]:
    """Real orthonormal spherical harmonics Y_00, Y_1-1, Y_10, Y_11, Y_2-2, ... Y_22.

    Args:
        normals: (*b, 3) unit vectors (x, y, z), z towards the viewer.
    """
    x, y, z = normals.unbind(-1)
    c0, c1 = math.sqrt(1 / (4 * math.pi)), math.sqrt(3 / (4 * math.pi))
    c2 = math.sqrt(15 / (4 * math.pi))
    return torch.stack(
        [
            torch.full_like(x, c0),
            c1 * y,
            c1 * z,
            c1 * x,
            c2 * x * y,
            c2 * y * z,
            c2 / math.sqrt(12) * (3 * z * z - 1),
            c2 * x * z,
            c2 / 2 * (x * x - y * y),
        ],
        dim=-1,
    )


def shading(normals: Float[Tensor, "*b 3"], sh: Float[Tensor, "*s 9 3"]) -> Float[Tensor, "*b 3"]:
    """Linear RGB a Lambertian surface of albedo 1 reflects: `sum_k (A_l / pi) sh_k Y_k(n)`.

    A constant radiance of 1 gives 1. The order-2 expansion of a strong directional light is
    slightly negative on the far side; the result is not clamped.

    Args:
        normals: (*b, 3) unit vectors, camera frame.
        sh: (*s, 9, 3) radiance coefficients; s is empty or the leading part of b.
    """
    return transferred(lambert_transfer(normals), sh)


def lambert_transfer(normals: Float[Tensor, "*b 3"]) -> Float[Tensor, "*b 9"]:
    """`(A_l / pi) Y_k(n)`, what a surface in free space makes of each coefficient of the light.

    Args:
        normals: (*b, 3) unit vectors.
    """
    return sh_basis(normals) * _per_band(_LAMBERT, normals).squeeze(-1)


def transferred(
    transfer: Float[Tensor, "*b 9"], sh: Float[Tensor, "*s 9 3"]
) -> Float[Tensor, "*b 3"]:
    """Linear RGB shading `sum_k T_k sh_k`, for shadowed transfer (`occlusion`) or a free one.

    Args:
        transfer: (*b, 9), in the frame of the light.
        sh: (*s, 9, 3) radiance coefficients; s is empty or the leading part of b.
    """
    lead = sh.shape[:-2]
    flat = transfer.reshape(*transfer.shape[: len(lead)], -1, 9)
    return (flat @ sh).reshape(*transfer.shape[:-1], 3)


def shadowed_shading(
    transfer: Float[Tensor, "*b 9"], sh: Float[Tensor, "*s 9 3"]
) -> Float[Tensor, "*b 3"]:
    """Linear RGB shading for rendering with shadowed transfer, never below a least share.

    Nine coefficients ring: in deep shadow the sum falls below zero, one channel before the others,
    and what is left has a colour that no lamp has. Each channel stays above a twelfth of what the
    same light would give if it came evenly from everywhere.

    Args:
        transfer: as in `transferred`.
        sh: likewise.
    """
    even = transferred(torch.nn.functional.pad(transfer[..., :1], (0, 8)), sh)
    return torch.maximum(transferred(transfer, sh), _LEAST_LIT * even.clamp(min=0))


def ambient_light(radiance: float = 1.0) -> Lighting:
    """The same white light from everywhere; a radiance of 1 shades every normal with 1."""
    sh = torch.zeros(9, 3)
    sh[0] = radiance * math.sqrt(4 * math.pi)
    return Lighting(sh)


def directional_light(
    direction: Float[Tensor, "*b 3"],
    color: Float[Tensor, "*b 3"],
    spread_deg: float = 0.0,
) -> Lighting:
    """A distant lamp; a normal that points at a sharp one is shaded with 17/16 of `color`.

    Args:
        direction: (*b, 3) towards the lamp, camera frame, any length.
        color: (*b, 3) linear RGB, irradiance / pi on a surface that faces a sharp lamp (order 2
            overshoots it by 1/16).
        spread_deg: angular radius of a soft-box; the lamp's power is spread over this spherical
            cap. 0 is a point, 90 a hemisphere.
    """
    unit = torch.nn.functional.normalize(direction, dim=-1)
    cosine = math.cos(math.radians(spread_deg))
    cap = (1.0, (1 + cosine) / 2, cosine * (1 + cosine) / 2)
    sh = math.pi * sh_basis(unit).unsqueeze(-1) * color.unsqueeze(-2)
    return Lighting(sh * _per_band(cap, sh))


def studio_light(name: str) -> Lighting:
    """A ready-made light of `STUDIO_LIGHTS` for relit previews, camera frame.

    Raises:
        KeyError: no such light; the message lists the names.
    """
    if name not in STUDIO_LIGHTS:
        raise KeyError(f"no studio light {name!r}; choose from {', '.join(STUDIO_LIGHTS)}")
    ambient, lamps = STUDIO_LIGHTS[name]
    sh = ambient_light(ambient).sh
    for direction, color, spread_deg in lamps:
        lamp = directional_light(torch.tensor(direction), torch.tensor(color), spread_deg)
        sh = sh + lamp.sh
    return Lighting(sh)


_Lamp = tuple[tuple[float, float, float], tuple[float, float, float], float]
STUDIO_LIGHTS: dict[str, tuple[float, tuple[_Lamp, ...]]] = {
    "neutral": (1.0, ()),
    "soft": (0.35, (((0.3, 0.6, 1.0), (0.75, 0.74, 0.72), 60.0),)),
    "key": (
        0.12,
        (
            ((-0.9, 0.7, 0.75), (1.05, 1.0, 0.93), 25.0),
            ((1.0, 0.1, 0.8), (0.14, 0.15, 0.18), 50.0),
        ),
    ),
    "rim": (
        0.08,
        (
            ((1.0, 0.35, -0.45), (1.25, 1.05, 0.85), 20.0),
            ((-1.0, 0.35, -0.45), (0.65, 0.85, 1.25), 20.0),
            ((0.0, 0.4, 1.0), (0.16, 0.16, 0.17), 50.0),
        ),
    ),
    "sunset": (
        0.14,
        (
            ((1.0, 0.15, 0.45), (1.25, 0.68, 0.32), 15.0),
            ((-0.6, 0.8, 0.2), (0.14, 0.24, 0.42), 70.0),
        ),
    ),
    "top": (0.15, (((0.0, 1.0, 0.35), (1.05, 1.05, 1.05), 30.0),)),
}
"""By name: ambient radiance, and lamps as (direction, linear RGB, spread in degrees)."""


def project_environment(equirect: Float[Tensor, "h w 3"]) -> Float[Tensor, "9 3"]:
    """Radiance coefficients `L_k = integral L(w) Y_k(w) dw` of a panorama, camera frame.

    Each pixel weighs its exact solid angle. The panorama is as a photographer sees it who looks
    along -z: the middle column lies behind the head, columns to its right are at +x, the top row
    is up. Turn it with `rotate_sh`.

    Args:
        equirect: (h, w, 3) linear RGB, w spans 360 and h 180 degrees.

    Raises:
        ValueError: wrong shape, or radiance that is not finite.
    """
    if equirect.ndim != 3 or equirect.shape[-1] != 3:
        raise ValueError(f"a panorama is (h, w, 3), not {tuple(equirect.shape)}")
    if not bool(equirect.isfinite().all()):
        raise ValueError("the panorama holds infinite or undefined radiance")
    height, width = equirect.shape[:2]
    light = equirect.double()
    edges = torch.linspace(math.pi / 2, -math.pi / 2, height + 1, dtype=torch.float64)
    edges = edges.to(light.device)
    area = (edges[:-1].sin() - edges[1:].sin()) * (2 * math.pi / width)
    latitude = (edges[:-1] + edges[1:]) / 2
    column = torch.arange(width, dtype=torch.float64, device=light.device)
    longitude = ((column + 0.5) / width - 0.5) * 2 * math.pi
    y = latitude.sin().unsqueeze(-1).expand(height, width)
    x = latitude.cos().unsqueeze(-1) * longitude.sin()
    z = -latitude.cos().unsqueeze(-1) * longitude.cos()
    basis = sh_basis(torch.stack((x, y, z), dim=-1)) * area.view(-1, 1, 1)
    return torch.einsum("hwk,hwc->kc", basis, light).to(equirect.dtype)


def rotate_sh(
    sh: Float[Tensor, "*b 9 c"], rotation: Float[Tensor, "*b 3 3"]
) -> Float[Tensor, "*b 9 c"]:
    """Coefficients of the light turned by `rotation`: `L'(w) = L(R^-1 w)`; differentiable.

    Exact: the integral of Y_k times the turned Y_j has degree 4, which the 12 vertices of an
    icosahedron integrate without error.
    """
    golden = (1 + math.sqrt(5)) / 2
    corners = [(0.0, a, b * golden) for a in (-1, 1) for b in (-1, 1)]
    points = torch.tensor(corners, dtype=sh.dtype, device=sh.device)
    points = torch.cat([points, points.roll(1, -1), points.roll(2, -1)])
    points = torch.nn.functional.normalize(points, dim=-1)
    turned = sh_basis(points @ rotation)  # rows of points @ R are R^-1 w
    mixing = sh_basis(points).mT @ turned * (4 * math.pi / len(points))
    return mixing @ sh


def with_mean_shading(lighting: Lighting, mean: float = 1.0) -> Lighting:
    """The light, its exposure scaled so that the luminance of shading over all normals is `mean`.

    Raises:
        ValueError: the light is black.
    """
    weights = lighting.sh.new_tensor([0.2126, 0.7152, 0.0722])  # Rec. 709 luminance
    luminance = (lighting.sh[..., 0, :] * weights).sum(-1) / math.sqrt(4 * math.pi)
    if bool((luminance <= 0).any()):
        raise ValueError("a light without positive luminance has no exposure")
    return Lighting(lighting.sh * (mean / luminance)[..., None, None])


def sh_to_deep3d(sh: Float[Tensor, "*b 9 3"]) -> Float[Tensor, "*b 3 9"]:
    """Radiance coefficients to the channel-major ones of Deep3DFaceReconstruction.

    `g = L (A_l / pi) / a_l` per band with that code's signs, minus 0.8 in the first.
    That code shades with normals *before* pose: rotate the light into that frame first.
    """
    g = sh * _deep3d_factor(sh)
    return torch.cat((g[..., :1, :] - _DEEP3D_AMBIENT, g[..., 1:, :]), dim=-2).mT


def sh_from_deep3d(g: Float[Tensor, "*b 3 9"]) -> Float[Tensor, "*b 9 3"]:
    """Inverse of `sh_to_deep3d`; the result is in the frame of the normals g was used with."""
    sh = g.mT
    sh = torch.cat((sh[..., :1, :] + _DEEP3D_AMBIENT, sh[..., 1:, :]), dim=-2)
    return sh / _deep3d_factor(sh)


def srgb_to_linear(srgb: Tensor) -> Tensor:
    """Linear RGB of sRGB in [0, 1] (IEC 61966-2-1); any shape, differentiable."""
    curved = ((srgb.clamp(min=0.04045) + 0.055) / 1.055) ** 2.4
    return torch.where(srgb <= 0.04045, srgb / 12.92, curved)


def linear_to_srgb(linear: Tensor) -> Tensor:
    """Encode linear RGB as sRGB (IEC 61966-2-1), not clipped; any shape, differentiable."""
    curved = 1.055 * linear.clamp(min=0.0031308) ** (1 / 2.4) - 0.055
    return torch.where(linear <= 0.0031308, linear * 12.92, curved)


def _per_band(factors: tuple[float, ...], sh: Tensor) -> Tensor:
    """(9, 1), a factor per band spread over its coefficients."""
    return sh.new_tensor([factors[band] for band in _BAND]).unsqueeze(-1)


def _deep3d_factor(sh: Tensor) -> Tensor:
    ratio = tuple(a / d for a, d in zip(_LAMBERT, _DEEP3D, strict=True))
    return _per_band(ratio, sh) * sh.new_tensor(_DEEP3D_SIGN).unsqueeze(-1)
