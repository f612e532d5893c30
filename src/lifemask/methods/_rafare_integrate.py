"""Detail of a normal map as depth: a screened Poisson equation on the visible front of a surface.

The surface gives the low frequencies, the normal map the high ones. With z the depth of the
surface and p the slopes of the normal map, the correction d minimises

    sum w |grad(z + d) - p|^2 + sum |G d|^2 / length^2

over the pixels (after Nehab et al. 2005). G smooths, `|G|^2 = 1 / (1 + k^2 length^2)` at the wave
number k, so that only low frequencies are held: with u = k length, a detail comes to
`(u^2 + u^4) / (1 + u^2 + u^4)` from the normals. Carving by divergence gets the sign of a detail
right; this gets its height.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from lifemask.graphics.rasterize import rasterize
from lifemask.methods._rafare_surface import Surface, create_surface

_LEAST_NZ = 0.2
"""Below this n_z a normal says too little of the slope seen from the front."""
_STEEPEST = 8.0
"""Slope between neighbouring pixels above which the depth is not continuous."""
_OUTSIDE_WEIGHT = 0.1
"""Weight of steps without a normal: the correction ends smoothly beyond them."""
_FULL, _NONE = 0.03, 0.1
"""Half-crops behind the front at which a vertex starts to be left alone, and is."""
_TOLERANCE, _MOST_STEPS = 1e-5, 300


@dataclass(frozen=True)
class _Steps:
    """Steps between neighbouring pixels along one axis of the image: weights and targets."""

    weight: np.ndarray
    target: np.ndarray


def integrate_normals(
    surface: Surface,
    normals: Float[Tensor, "s s 3"],
    mask_face: Bool[Tensor, "s s"],
    length: float = 0.08,
) -> Surface:
    """A surface whose visible front takes its detail from a normal map.

    Vertices move along z. That is the same as to shift the field, `sdf(x, y, z - d(x, y))`, and
    to extract its zero again, without a second interpolation. Hidden sheets stay.

    Args:
        surface: in the cube.
        normals: (S, S, 3) unit, camera frame (y up), any value off the mask.
        mask_face: (S, S); only what it shows is corrected.
        length: half-crops; longer takes more of the shape from the normals.
    """
    size = normals.shape[0]
    depth = front_depth(surface, size)
    correction = depth_correction(
        depth, normals.detach().cpu().double().numpy(), mask_face.cpu().numpy(), length
    )
    filled = _filled(depth)
    maps = torch.from_numpy(np.stack((filled, correction))).float()
    where = surface.vertices[:, :2] * torch.tensor([1.0, -1.0])
    front, moved = functional.grid_sample(
        maps[None], where[None, None], padding_mode="border", align_corners=False
    )[0, :, 0]
    behind = ((front - surface.vertices[:, 2] - _FULL) / (_NONE - _FULL)).clamp(0, 1)
    share = 1 - behind**2 * (3 - 2 * behind)
    vertices = surface.vertices.clone()
    vertices[:, 2] += share * moved
    return create_surface(vertices, surface.faces)


def front_depth(surface: Surface, size: int) -> np.ndarray:
    """Depth z (S, S) in half-crops of what each pixel of the crop sees first, NaN for nothing."""
    x, y, z = surface.vertices.unbind(1)
    points = torch.stack(((x + 1) * (size / 2) - 0.5, (1 - y) * (size / 2) - 0.5, z), 1)
    depth = rasterize(points[None], surface.faces, size, size).depth[0].double().numpy()
    return np.where(np.isfinite(depth), depth, np.nan)


def depth_correction(
    depth: np.ndarray, normals: np.ndarray, mask: np.ndarray, length: float
) -> np.ndarray:
    """What to add to a depth map so that its slopes are a normal map's; fades out off the mask.

    Args:
        depth: (S, S) z in half-crops, row 0 at the top, NaN where nothing is seen.
        normals: (S, S, 3) unit, camera frame (y up).
        mask: (S, S) bool, where the normals are known.
        length: half-crops, > 0.
    """
    spacing = 2 / len(depth)
    nz = normals[..., 2]
    usable = mask & np.isfinite(depth) & (nz > _LEAST_NZ)
    slope = -normals[..., :2] / np.where(usable, nz, 1.0)[..., None]
    weight = np.where(usable, nz, 0.0) ** 2
    across = _steps(depth, slope[..., 0] * spacing, weight, 1, spacing)
    down = _steps(depth, -slope[..., 1] * spacing, weight, 0, spacing)
    return _solve(across, down, length / spacing)


def _steps(
    depth: np.ndarray, rise: np.ndarray, weight: np.ndarray, axis: int, spacing: float
) -> _Steps:
    """Steps of the correction along an axis; `rise` is the normals' depth per pixel along it."""

    def ends(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return np.delete(values, -1, axis), np.delete(values, 0, axis)

    step = np.diff(depth, axis=axis)
    torn = np.abs(step) > _STEEPEST * spacing  # False where either end is NaN
    both = np.minimum(*ends(weight))
    known = (both > 0) & ~torn
    mean = sum(ends(rise)) / 2
    weights = np.where(known, both, np.where(torn, 0.0, _OUTSIDE_WEIGHT))
    return _Steps(weights, np.where(known, mean - np.nan_to_num(step), 0.0))


def _solve(across: _Steps, down: _Steps, length_px: float) -> np.ndarray:
    """Minimum of `sum w (step of d - target)^2 + sum |G d|^2 / length_px^2`.

    Conjugate gradients. The preconditioner is the same problem with all weights 1, which is a
    product in the cosine transform.
    """
    from scipy.sparse.linalg import LinearOperator, cg

    size = len(across.weight)
    wave = 2 - 2 * np.cos(np.pi * np.arange(size) / size)
    steps = wave[:, None] + wave  # k^2 of each cosine, per px^2
    hold = 1 / (length_px**2 * (1 + length_px**2 * steps))

    def spread(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Adjoint of taking steps."""
        return -np.diff(x, axis=1, prepend=0, append=0) - np.diff(y, axis=0, prepend=0, append=0)

    def normal(flat: np.ndarray) -> np.ndarray:
        d = flat.reshape(size, size)
        x, y = across.weight * np.diff(d, axis=1), down.weight * np.diff(d, axis=0)
        return (spread(x, y) + _filtered(d, hold)).ravel()

    def unweighted(flat: np.ndarray) -> np.ndarray:
        return _filtered(flat.reshape(size, size), 1 / (steps + hold)).ravel()

    right = spread(across.weight * across.target, down.weight * down.target).ravel()
    shape = (size * size, size * size)
    matrix = LinearOperator(shape, matvec=normal, dtype=np.float64)  # pyright: ignore[reportCallIssue]
    inverse = LinearOperator(shape, matvec=unweighted, dtype=np.float64)  # pyright: ignore[reportCallIssue]
    found, _ = cg(matrix, right, rtol=_TOLERANCE, maxiter=_MOST_STEPS, M=inverse)
    return found.reshape(size, size)


def _filtered(image: np.ndarray, gain: np.ndarray) -> np.ndarray:
    """An image (S, S) whose cosine waves are multiplied by gains (S, S)."""
    from scipy.fft import dctn, idctn

    return np.asarray(idctn(np.asarray(dctn(image, norm="ortho")) * gain, norm="ortho"))


def _filled(depth: np.ndarray) -> np.ndarray:
    """The depth with the nearest known one where there is none."""
    from scipy.ndimage import distance_transform_edt

    _, place = distance_transform_edt(np.isnan(depth), return_indices=True)  # type: ignore[misc]
    return depth[tuple(place)]
