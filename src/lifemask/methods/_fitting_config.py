"""Settings of the landmark fitter."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from lifemask.types import CameraModel


@dataclass(frozen=True)
class FitConfig:
    """Settings of `fit_landmarks`.

    Attributes:
        camera: "orthographic" (scaled) or "pinhole".
        focal_px: pinhole focal length in photo px; None for 1015 / 224 image widths.
        focal_sigma: standard deviation of log f; 0 keeps the focal length fixed.
        identity: fit identity; False keeps the mean head.
        expression: fit expression; False keeps it neutral.
        contour: "slide" jaw points along the silhouette, keep them "fixed", or "auto": slide where
            the set is "ict68" and its jaw has no depth, i.e. 2D clicks.
        contour_tangential: weight of a sliding point along the outline; 1 across it.
        identity_weight: precision of identity; 1 is the model's prior, larger is closer to mean.
        expression_rate: rate of the exponential prior on expressions; 0 switches it off.
        symmetry_sigma: standard deviation of left minus right of paired expressions.
        depth_sigma_ratio: standard deviation of w over that of u and v.
        sigma_floor: least standard deviation of a point, as share of the face's size.
        outlier_sigma: residual in standard deviations at which a point starts to be forgotten.
        effective_points: how many independent points the data may count as at most, because
            errors of neighbouring landmarks go together.
        iterations: most Levenberg-Marquardt steps per stage (two stages).
    """

    camera: CameraModel = "orthographic"
    focal_px: float | None = None
    focal_sigma: float = 0.0
    identity: bool = True
    expression: bool = True
    contour: Literal["auto", "slide", "fixed"] = "auto"
    contour_tangential: float = 0.2
    identity_weight: float = 1.0
    expression_rate: float = 3.0
    symmetry_sigma: float = 0.2
    depth_sigma_ratio: float = 2.0
    sigma_floor: float = 0.004
    outlier_sigma: float = 5.0
    effective_points: float = 150.0
    iterations: int = 12
