"""Close-ups as photos and methods make them: moved, in other colours, coarse, half hidden."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True)
class CloseupFaults:
    """How close-ups differ from the renders' own.

    Attributes:
        shift: standard deviation of the place, in widths of the close-up.
        scale: of the logarithm of the size.
        turn_deg: of the turn in the image.
        view_deg: of the direction of the camera.
        coarse: share that is seen with fewer pixels, down to an eighth.
        colour: share whose contrast, tone curve and colour balance change.
        grey: share without colour.
        noise: largest standard deviation of the pixels' noise.
        hide: share with a patch of plain colour somewhere.
    """

    shift: float = 0.04
    scale: float = 0.08
    turn_deg: float = 5.0
    view_deg: float = 5.0
    coarse: float = 0.5
    colour: float = 0.7
    grey: float = 0.15
    noise: float = 0.06
    hide: float = 0.1


def placed(
    pixels: Float[Tensor, "b 3 r c"],
    size: tuple[int, int],
    margin: float,
    rng: np.random.Generator,
    config: CloseupFaults,
) -> Float[Tensor, "b 3 h w"]:
    """The close-ups inside windows, moved, resized and turned a little.

    Args:
        pixels: windows.
        size: rows and columns of the close-ups.
        margin: width of a window in close-ups.
        rng: decides.
        config: strengths.
    """
    count, (rows, columns) = len(pixels), size
    width = np.exp(config.scale * rng.standard_normal(count)) / margin
    turn = np.deg2rad(config.turn_deg) * rng.standard_normal(count)
    shift = 2 * config.shift / margin * rng.standard_normal((count, 2))
    aspect = rows / columns
    cosine, sine = width * np.cos(turn), width * np.sin(turn)
    matrix = np.stack(
        (cosine, -sine * aspect, shift[:, 0], sine / aspect, cosine, shift[:, 1] / aspect), 1
    ).reshape(count, 2, 3)
    theta = torch.from_numpy(matrix.astype(np.float32))
    grid = functional.affine_grid(theta, [count, 3, rows, columns], align_corners=False)
    return functional.grid_sample(pixels, grid, padding_mode="border", align_corners=False)


def with_faults(
    crops: Float[Tensor, "b 3 h w"], rng: np.random.Generator, config: CloseupFaults
) -> Float[Tensor, "b 3 h w"]:
    """Colour, patches, coarseness and noise, in place."""
    count, (height, width) = len(crops), crops.shape[2:]

    def some(share: float) -> ndarray:
        return np.flatnonzero(rng.random(count) < share)

    def draw(low: float, high: float, *shape: int) -> Tensor:
        return torch.from_numpy(rng.uniform(low, high, shape).astype(np.float32))

    ids = some(config.colour)
    if len(ids):
        gamma = draw(-0.5, 0.5, len(ids), 1, 1, 1).exp()
        gain = draw(0.7, 1.3, len(ids), 3, 1, 1)
        low = draw(-0.1, 0.15, len(ids), 1, 1, 1)
        crops[ids] = ((crops[ids].clamp(1e-3, 1) ** gamma) * gain + low).clamp(0, 1)
    for k in some(config.hide):
        rows, columns = rng.integers(6, height // 2), rng.integers(6, width // 2)
        top, left = rng.integers(0, height - rows), rng.integers(0, width - columns)
        crops[k, :, top : top + rows, left : left + columns] = draw(0, 1, 3, 1, 1)
    for k in some(config.coarse):
        factor = np.exp(rng.uniform(0, np.log(8)))
        shape = (max(4, round(height / factor)), max(5, round(width / factor)))
        small = functional.interpolate(crops[k : k + 1], shape, mode="area")
        crops[k] = functional.interpolate(
            small, (height, width), mode="bilinear", align_corners=False
        )[0]
    ids = some(config.grey)
    crops[ids] = crops[ids].mean(1, keepdim=True)
    strength = torch.from_numpy(rng.uniform(0, config.noise, (count, 1, 1, 1)).astype(np.float32))
    noise = torch.from_numpy(rng.standard_normal(tuple(crops.shape), dtype=np.float32))
    return (crops + strength * noise).clamp(0, 1).contiguous()


def turned(
    directions: Float[ndarray, "b 3"], view_deg: float, rng: np.random.Generator
) -> Float[Tensor, "b 3"]:
    """Unit directions that are off by some degrees."""
    off = directions + np.deg2rad(view_deg) * rng.standard_normal(directions.shape)
    off /= np.linalg.norm(off, axis=1, keepdims=True)
    return torch.from_numpy(off.astype(np.float32))
