"""The linear albedo prior: modes of log albedo over the maps that the autoencoder learns from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from safetensors.torch import save_file
from torch import Tensor

from lifemask.data._albedo_cache import MapBank
from lifemask.graphics.lighting import srgb_to_linear
from lifemask.methods._retexture_prior import DARKEST, resized

STEP = 64
MOST = 4000
"""Maps that modes are learned from; more change them little."""


def log_maps(bank: MapBank, side: int) -> Float[Tensor, "b 3 m m"]:
    """Log linear albedo (b, 3, side, side) of a bank's maps and of their mirror images."""
    parts = []
    count = min(len(bank), MOST)
    for start in range(0, count, STEP):
        maps = torch.from_numpy(bank[np.arange(start, min(start + STEP, count))])
        linear = resized(srgb_to_linear(maps.float() / 255), side)
        parts.append(linear.clamp(min=DARKEST).log())
    maps = torch.cat(parts)
    return torch.cat((maps, maps.flip(-1)))


def learn_basis(bank: MapBank, modes: int, side: int) -> dict[str, Tensor]:
    """Mean (3, side, side) and modes (k, 3, side, side) per standard deviation of log albedo."""
    maps = log_maps(bank, side)
    mean = maps.mean(0)
    flat = (maps - mean).flatten(1)
    modes = min(modes, *flat.shape)
    torch.manual_seed(0)
    _, sizes, directions = torch.svd_lowrank(flat, q=min(modes + 16, *flat.shape), niter=4)
    basis = directions[:, :modes].T * (sizes[:modes, None] / len(flat) ** 0.5)
    return {"mean": mean, "basis": basis.reshape(-1, *mean.shape)}


def save_basis(basis: dict[str, Tensor], path: Path) -> None:
    """Write a basis in half precision, as it is shipped."""
    save_file({k: v.half().contiguous() for k, v in basis.items()}, path)
