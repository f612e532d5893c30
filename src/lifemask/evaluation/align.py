"""How predictions are brought into the frame of the truth before distances are measured."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray

from lifemask.graphics.pose import similarity

DepthAlignment = Literal["none", "min", "mean"]


def align_depth(points: Float[ndarray, "*b n 3"], how: DepthAlignment) -> Float[ndarray, "*b n 3"]:
    """Points with the origin of their third coordinate fixed, because w has no common origin.

    Args:
        points: (*b, n, 3).
        how: "min" subtracts the smallest w of each set of points (3DDFA's and PRNet's code),
            "mean" subtracts the mean, "none" leaves w as it is. Apply the same to both sides.
    """
    if how == "none":
        return points
    w = points[..., 2:]
    origin = w.min(axis=-2, keepdims=True) if how == "min" else w.mean(axis=-2, keepdims=True)
    return np.concatenate([points[..., :2], w - origin], axis=-1)


def align_similarity(
    source: Float[ndarray, "*b n 3"], target: Float[ndarray, "*b n 3"], *, scale: bool = True
) -> Float[ndarray, "*b n 3"]:
    """Source points moved by the least-squares similarity (or rigid motion) onto the target.

    Args:
        source: (*b, n, 3), n >= 3, corresponding point by point to `target`.
        target: (*b, n, 3).
        scale: False keeps the size of the source (rigid alignment, for metric comparisons).
    """
    x, y = (torch.from_numpy(np.asarray(p, dtype=np.float64)) for p in (source, target))
    rotation, size, _ = similarity(x, y)
    if not scale:
        size = torch.ones_like(size)
    turned = size[..., None, None] * (x @ rotation.transpose(-1, -2))
    moved = turned + (y - turned).mean(dim=-2, keepdim=True)
    return moved.numpy()
