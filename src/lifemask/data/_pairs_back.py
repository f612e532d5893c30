"""The back of a solid, as `Solid.front` tells its front: what a viewer behind it would see."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lifemask.data._pairs_solid import Solid


def behind(solid: Solid) -> Solid:
    """The solid mirrored along the view, so that its back is its front."""
    return Solid(
        solid.vertices * [1.0, 1.0, -1.0],
        np.ascontiguousarray(solid.faces[:, [0, 2, 1]]),
        solid.skin,
        solid.balls * [1.0, 1.0, -1.0, 1.0],
        np.ascontiguousarray(solid.beside[:, [2, 1, 0]]),
    )


def solid_back(solid: Solid, size: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Depth and normals of the farthest surface behind each pixel of a crop.

    Args:
        solid: in the cube.
        size: side of the crop in px.

    Returns:
        (size, size) z in the cube at the pixels' centres, NaN where there is nothing, and
        (size, size, 3) unit normals turned to the viewer: minus the outward ones, so n_z > 0; 0
        where there is nothing.
    """
    depth, normals = behind(solid).front(size)
    # outward on the mirrored solid is (x, y, z), on the solid (x, y, -z), turned (-x, -y, z)
    return -depth, normals * np.array([-1.0, -1.0, 1.0], np.float32)
