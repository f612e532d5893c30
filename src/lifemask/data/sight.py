"""Nearness as a crop shows it: along the line of sight to the face, not along the optical axis.

A render's labels give w along its camera's axis. A crop of a face beside the axis shows the head
as from a camera that looks straight at it; w along the axis cannot be told from such a crop.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from jaxtyping import Bool, Float
from numpy import ndarray

CAMERA_LABELS = (
    "rotation", "translation_mm", "f_px", "center_px", "scale_px_per_mm", "orthographic",
)  # fmt: skip


def toward_camera(labels: Mapping[str, ndarray]) -> Float[ndarray, "n 3"]:
    """Unit vectors, camera frame, from the middle of each face to its camera.

    Args:
        labels: of renders: points (n, k, 3) and `CAMERA_LABELS`.

    Returns:
        (n, 3); (0, 0, 1), the axis, for orthographic cameras.
    """
    deep = ~np.asarray(labels["orthographic"], bool)
    toward = np.tile((0.0, 0.0, 1.0), (len(deep), 1))
    place = _camera_points(labels, deep).mean(1)
    toward[deep] = -place / np.linalg.norm(place, axis=1, keepdims=True)
    return toward


def along_sight(labels: Mapping[str, ndarray]) -> Float[ndarray, "n k 3"]:
    """Labelled points (u, v, w), w turned to the line of sight; 0 stays at the model's origin.

    Labels without a camera, from older caches, are returned as they are.
    """
    points = labels["points"].astype(np.float32)
    if any(name not in labels for name in CAMERA_LABELS):
        return points
    deep = ~np.asarray(labels["orthographic"], bool)
    origin = labels["translation_mm"][deep].astype(np.float64)
    apart = _camera_points(labels, deep) - origin[:, None]
    near = (apart @ toward_camera(labels)[deep][..., None])[..., 0]
    points[deep, :, 2] = labels["scale_px_per_mm"][deep][:, None] * near
    return points


def _camera_points(
    labels: Mapping[str, ndarray], deep: Bool[ndarray, "n"]
) -> Float[ndarray, "m k 3"]:
    """Points in mm in the frames of pinhole cameras."""
    points, center, origin, scale, f_px = (
        labels[name][deep].astype(np.float64)
        for name in ("points", "center_px", "translation_mm", "scale_px_per_mm", "f_px")
    )
    z = origin[:, None, 2] + points[..., 2] / scale[:, None]
    ray = (points[..., :2] - center[:, None]) / f_px[:, None, None]
    return np.stack((-ray[..., 0] * z, ray[..., 1] * z, z), -1)
