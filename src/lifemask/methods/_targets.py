"""What a crop's truth is, for every method that regresses a head.

Lengths are half-crops: `(crop px + 0.5) / (size / 2) - 1`, u right, v down, 0 at the crop's centre.
"""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Bool, Float
from torch import Tensor


@dataclass(frozen=True)
class HeadLabels:
    """Coefficients of a head under a scaled orthographic camera.

    `u = s (R X)_x + t_u`, `v = -s (R X)_y + t_v`, X in 100 mm.

    Attributes:
        rotation: (*b, 3, 3) model frame to camera frame.
        scale: (*b,) half-crops per 100 mm.
        shift: (*b, 2) half-crops: where the model's origin lies in the crop.
        identity: (*b, i).
        expression: (*b, e).
    """

    rotation: Float[Tensor, "*b 3 3"]
    scale: Float[Tensor, "*b"]
    shift: Float[Tensor, "*b 2"]
    identity: Float[Tensor, "*b i"]
    expression: Float[Tensor, "*b e"]


@dataclass(frozen=True)
class SourceRows:
    """Targets of the part of a batch that comes from one source.

    Attributes:
        source: "renders", "aflw21" or "ytf68".
        rows: which rows of the batch, a contiguous range.
        points: (r, k, 2 or 3) half-crops in the source's landmark set; w of renders is nearness.
        visible: (r, k) labelled points; all of a render's.
        labels: coefficients of renders; None for real photos.
    """

    source: str
    rows: slice
    points: Float[Tensor, "r k d"]
    visible: Bool[Tensor, "r k"]
    labels: HeadLabels | None = None
