"""How like a photo a picture is: PSNR and SSIM of sRGB in [0, 1]."""

from __future__ import annotations

import math

from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from lifemask.evaluation._albedo_errors import MAX_PSNR_DB
from lifemask.evaluation._texture_measures import gaussian_window

WINDOW, SIGMA = 11, 1.5
_C1, _C2 = 0.01**2, 0.03**2


def psnr_db(first: Float[Tensor, "c h w"], second: Float[Tensor, "c h w"]) -> float:
    """Peak signal to noise ratio in dB, range 1; equal pictures give `MAX_PSNR_DB`."""
    mse = float((first.double() - second.double()).pow(2).mean())
    return -10.0 * math.log10(max(mse, 10 ** (-MAX_PSNR_DB / 10)))


def ssim(first: Float[Tensor, "c h w"], second: Float[Tensor, "c h w"]) -> float:
    """Mean structural similarity over channels and whole windows of 11 x 11, sigma 1.5, range 1.

    Wang et al., "Image quality assessment: from error visibility to structural similarity", 2004.
    NaN for pictures smaller than a window.
    """
    if min(first.shape[1:]) < WINDOW:
        return float("nan")
    line = gaussian_window(WINDOW, SIGMA).double()
    a, b = first.double()[:, None], second.double()[:, None]

    def mean(values: Tensor) -> Tensor:
        values = functional.conv2d(values, line.view(1, 1, 1, -1))
        return functional.conv2d(values, line.view(1, 1, -1, 1))

    ma, mb = mean(a), mean(b)
    variance = mean(a * a) - ma**2 + mean(b * b) - mb**2
    covariance = mean(a * b) - ma * mb
    top = (2 * ma * mb + _C1) * (2 * covariance + _C2)
    return float((top / ((ma**2 + mb**2 + _C1) * (variance + _C2))).mean())


def box_of(mask: Bool[Tensor, "h w"]) -> tuple[slice, slice]:
    """Rows and columns of the smallest box around a mask; nothing of an empty one."""
    rows, columns = (mask.any(axis).nonzero().squeeze(-1) for axis in (1, 0))
    if not len(rows):
        return slice(0, 0), slice(0, 0)
    return (
        slice(int(rows[0]), int(rows[-1]) + 1),
        slice(int(columns[0]), int(columns[-1]) + 1),
    )
