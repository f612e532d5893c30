"""Normal carving: detail of a normal map moves the zero of a field in or out.

The bump map is in effect the divergence of the normals (RAFaRe, arXiv 2302.05486): it is positive
where the surface is convex, and there the field drops, so that the surface moves outwards.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from lifemask.methods._rafare_lattice import nearest_odd, sample_columns, voxel_centres

_SIZE = 512
"""Side in px of the published normal maps, for which kernels and the disk are given."""
_KERNEL = 7
_DISK_RADIUS = 7


def bump_map(
    normals: Float[Tensor, "s s 3"], mask_face: Bool[Tensor, "s s"], kernel: int = _KERNEL
) -> Float[Tensor, "s s"]:
    """Convexity (S, S) of what a normal map shows, positive for a bump; 0 off the face.

    `b = K_x * n_x - K_y * n_y`, correlations with kernels of -1, 0, +1 by side of the middle
    column (row, downwards). The published maps have n_y positive downwards and add the second
    term; ours has n_y positive upwards. The result is multiplied by the face mask, eroded by a
    disk and blurred with it (radius 7 px at 512), and scaled so that the same smooth surface gives
    the same number at every map and kernel size: that of the published 7 x 7 at 512 px.

    Args:
        normals: (S, S, 3) unit, camera frame (x right, y up, z to the viewer), any value off the
            mask. Normals of the back of the head are given as turned to the viewer, and a bump is
            then negative.
        mask_face: (S, S).
        kernel: side at 512 px; scaled with the map, odd, at least 3.
    """
    size = normals.shape[0]
    side = max(3, nearest_odd(kernel * size / _SIZE))
    half = side // 2
    masked = torch.where(mask_face[..., None], normals.float(), 0.0)
    sign = torch.arange(-half, half + 1, device=normals.device).sign().to(masked)
    ones = torch.ones_like(sign)
    across = _correlate(masked[..., 0], torch.outer(ones, sign))
    down = _correlate(masked[..., 1], torch.outer(sign, ones))
    published = _KERNEL * (_KERNEL // 2) * (_KERNEL // 2 + 1) / _SIZE
    gain = published / (side * half * (half + 1) / size)
    return gain * (across - down) * soft_mask(mask_face)


def soft_mask(mask_face: Bool[Tensor, "s s"]) -> Float[Tensor, "s s"]:
    """The mask eroded by a disk (radius 7 px at 512) and blurred with it, in [0, 1]."""
    radius = max(1, round(_DISK_RADIUS * mask_face.shape[0] / _SIZE))
    axis = torch.arange(-radius, radius + 1, device=mask_face.device)
    disk = (axis[:, None] ** 2 + axis**2 <= radius**2).float()
    eroded = (_correlate(mask_face.float(), disk) > disk.sum() - 0.5).float()
    return (_correlate(eroded, disk) / disk.sum()).clamp(0, 1)


def carving(
    sdf: Float[Tensor, "n n n"],
    front: Float[Tensor, "s s"],
    back: Float[Tensor, "s s"] | None,
    kappa: float,
) -> Float[Tensor, "n n n"]:
    """What carving adds to a field: `-kappa b_front` on the front half, `+kappa b_back` behind.

    Published, the halves meet at z = 0. That plane is the middle of the face's depth and cuts
    through the cheeks: it would leave the jaw uncarved and a step where it meets the surface. Here
    they meet in each column at the mean depth of its inside samples, which is in the head's middle
    and no surface comes near; a column beside the head, with no inside, has its smallest value
    there. So the front map reaches the whole front.

    Args:
        sdf: (N, N, N), half-crops, positive outside; of values far from 0 only the sign matters.
        front: (S, S) bump map of the front.
        back: (S, S) bump map of the back's normals turned to the viewer (hence its sign); None
            leaves the back as it is.
        kappa: half-crops per unit of bump.
    """
    grid = sdf.shape[0]
    depth, middle = voxel_centres(grid, sdf.device), middle_depths(sdf)
    ahead = -kappa * sample_columns(front.to(depth), grid)
    behind = torch.zeros_like(ahead)
    if back is not None:
        behind = kappa * sample_columns(back.to(depth), grid)
    return torch.where(depth > middle[..., None], ahead[..., None], behind[..., None])


def middle_depths(sdf: Float[Tensor, "n n n"]) -> Float[Tensor, "n n"]:
    """Where front and back of each column meet: the mean depth (N, N) of its inside samples.

    A column beside the head, with no inside, has its smallest value there. In its middle a head is
    thick, and no surface comes near.

    Args:
        sdf: (N, N, N), [ix, iy, iz], positive outside; of values far from 0 only the sign matters.
    """
    depth = voxel_centres(sdf.shape[0], sdf.device)
    inside = sdf < 0
    count = inside.sum(-1)
    middle = torch.einsum("xyz,z->xy", inside.to(depth), depth) / count.clamp(min=1)
    return torch.where(count > 0, middle, depth[sdf.argmin(-1)])


def fit_kappa(samples: Iterable[tuple[Tensor, Tensor]]) -> float:
    """The kappa that explains best, by least squares, what a field without carving lacks.

    Minimises `sum (residual + kappa b)^2` over all samples: `kappa = -sum b residual / sum b^2`.

    Args:
        samples: pairs of bump b and residual of the same shape, of as many heads as there are.
            Residual: the true field minus the predicted one, half-crops, at points near the front
            surface (at depth z of the prediction, `(z - z_true) n_z` to first order). Pairs of
            values that are not finite are left out.

    Returns:
        kappa, half-crops per unit of bump; 0 where no sample has a bump.
    """
    product = square = 0.0
    for bump, residual in samples:
        known = torch.isfinite(bump) & torch.isfinite(residual)
        b, r = bump[known].double(), residual[known].double()
        product += float(b @ r)
        square += float(b @ b)
    return -product / square if square > 0 else 0.0


def _correlate(image: Float[Tensor, "h w"], kernel: Float[Tensor, "k k"]) -> Float[Tensor, "h w"]:
    """Correlation of the same size; 0 outside the image."""
    return functional.conv2d(image[None, None], kernel[None, None], padding="same")[0, 0]
