"""The eye network: an upright crop of one eye and its view to lid opening and gaze.

crop 48x64, standardised -> stride 2 -> 4 -> 8 -> 16 -> mean over the last map's 3 x 4 places kept
                                                        direction of the camera -+-> [hidden] -> 6
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from lifemask.nn.blocks import ConvUnit, stage

OPENING_UNIT, GAZE_UNIT_DEG = 0.1, 10.0
"""Opening and angle that count as 1 inside the network."""
MEAN_OPENING = 0.25
LEAST_LOG, MOST_LOG = -4.0, 2.0


@dataclass(frozen=True)
class EyeNetConfig:
    """Sizes of the network.

    Attributes:
        widths: channels at strides 2, 4, 8 and 16.
        blocks: residual blocks at strides 4, 8 and 16.
        squeeze: channels of the last map before it is flattened.
        hidden: width of the fully connected layer.
    """

    widths: tuple[int, int, int, int] = (16, 32, 64, 96)
    blocks: tuple[int, int, int] = (1, 2, 2)
    squeeze: int = 32
    hidden: int = 128


def config_from_dict(sizes: Mapping[str, Any]) -> EyeNetConfig:
    """Sizes as json has them, lists for tuples, among other things."""
    names = EyeNetConfig.__dataclass_fields__
    given = {k: tuple(v) if isinstance(v, list) else v for k, v in sizes.items() if k in names}
    missing = names.keys() - given
    if missing:
        raise KeyError(f"sizes of an eye network lack {', '.join(sorted(missing))}")
    plain: dict[str, Any] = given
    return EyeNetConfig(**plain)


class EyeNet(nn.Module):
    """Crops of eyes to opening and gaze with their doubts, in the network's units.

    Args:
        config: sizes.
    """

    def __init__(self, config: EyeNetConfig) -> None:
        super().__init__()
        self.config = config
        a, b, c, d = config.widths
        self.stem = ConvUnit(3, a, 3, 2)
        sizes = ((a, b), (b, c), (c, d))
        self.stages = nn.Sequential(
            *(stage(i, o, n) for (i, o), n in zip(sizes, config.blocks, strict=True))
        )
        self.squeeze = ConvUnit(d, config.squeeze, 1)
        self.hidden = nn.Sequential(
            nn.Linear(config.squeeze * 12 + 3, config.hidden), nn.ReLU(inplace=True)
        )
        self.out = nn.Linear(config.hidden, 6)

    def forward(
        self, crops: Float[Tensor, "b 3 48 64"], directions: Float[Tensor, "b 3"]
    ) -> Float[Tensor, "b 6"]:
        """Opening, pitch, yaw in the network's units, and the logarithms of their Laplace scales.

        Args:
            crops: in [0, 1], of the eye at -x or mirrored; made free of brightness and contrast.
            directions: unit, towards the camera in the head's frame, mirrored alike.
        """
        mean = crops.mean((1, 2, 3), keepdim=True)
        spread = (crops - mean).square().mean((1, 2, 3), keepdim=True).sqrt()
        features = self.squeeze(self.stages(self.stem((crops - mean) / (spread + 0.02))))
        flat = torch.cat((features.flatten(1), directions), 1)
        out = self.out(self.hidden(flat))
        doubt = LEAST_LOG + (MOST_LOG - LEAST_LOG) * torch.sigmoid(out[:, 3:])
        return torch.cat((out[:, :3], doubt), 1)


class EyeExport(nn.Module):
    """What is published: opening, pitch and yaw in degrees, and their standard deviations.

    Args:
        network: the trained one.
    """

    def __init__(self, network: EyeNet) -> None:
        super().__init__()
        self.network = network
        units = torch.tensor([OPENING_UNIT, GAZE_UNIT_DEG, GAZE_UNIT_DEG])
        self.register_buffer("units", units, persistent=False)
        mean = torch.tensor([MEAN_OPENING, 0.0, 0.0])
        self.register_buffer("mean", mean, persistent=False)

    def forward(
        self, crops: Float[Tensor, "b 3 48 64"], directions: Float[Tensor, "b 3"]
    ) -> Float[Tensor, "b 6"]:
        """(opening, pitch, yaw, sigma of each); a Laplace scale times sqrt(2) is a deviation."""
        raw = self.network(crops, directions)
        units, mean = self.get_buffer("units"), self.get_buffer("mean")
        value = raw[:, :3] * units + mean
        sigma = raw[:, 3:].exp() * units * 2**0.5
        return torch.cat((functional.relu(value[:, :1]), value[:, 1:], sigma), 1)


def eye_targets(
    opening: Float[Tensor, " b"], gaze_deg: Float[Tensor, "b 2"]
) -> Float[Tensor, "b 3"]:
    """True opening and gaze in the network's units."""
    first = (opening - MEAN_OPENING) / OPENING_UNIT
    return torch.cat((first[:, None], gaze_deg / GAZE_UNIT_DEG), 1)
