"""What a head of a given skin tone looks like where no photo shows it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from lifemask.graphics.uv import sample_uv
from lifemask.methods._texture_light import LUMINANCE


@dataclass(frozen=True)
class AlbedoPrior:
    """The albedo prior at n places of the head (`tools/build_albedo_prior.py`).

    Log albedo is `tone + mean + slope * luminance(tone)`.

    Attributes:
        mean: (n, 3).
        slope: (n, 3).
        scalp: (n,) 1 where hair grows, in [0, 1].
        tones: (k, 3) log linear RGB of the skins it was learned from.
    """

    mean: Float[Tensor, "n 3"]
    slope: Float[Tensor, "n 3"]
    scalp: Float[Tensor, "n"]
    tones: Float[Tensor, "k 3"]

    def log_albedo(self, tone: Float[Tensor, "3"]) -> Float[Tensor, "n 3"]:
        """Log linear RGB (n, 3) of bare skin of a tone."""
        return tone + self.mean + self.slope * (tone @ tone.new_tensor(LUMINANCE))


def load_albedo_prior(uv: Float[Tensor, "n 2"]) -> AlbedoPrior:
    """The committed prior at texture coordinates (n, 2) of the head's main chart.

    Raises:
        lifemask.assets.AssetError: the file is missing or damaged.
    """
    from safetensors.torch import load_file

    from lifemask.assets import weights_path

    tensors = load_file(weights_path("albedo_prior"))
    low, high = tensors["box_uv"].view(2, 2)
    local = (uv - low) / (high - low)
    stacked = torch.cat([tensors[k].float() for k in ("mean", "slope", "scalp")])
    values = sample_uv(stacked, local)
    return AlbedoPrior(values[:, :3], values[:, 3:6], values[:, 6], tensors["tones"])
