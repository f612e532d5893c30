"""The network behind the readers of eyes and mouths: a close-up and its view to a few numbers.

close-up, standardised -> stride 2 -> 4 -> 8 -> 16 -> the last map, its places kept
                                        direction of the camera -+-> [hidden] -> numbers and doubts
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

LEAST_LOG, MOST_LOG = -4.0, 2.0


@dataclass(frozen=True)
class CloseupConfig:
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


def config_from_dict(sizes: Mapping[str, Any]) -> CloseupConfig:
    """Sizes as json has them, lists for tuples, among other things."""
    names = CloseupConfig.__dataclass_fields__
    given = {k: tuple(v) if isinstance(v, list) else v for k, v in sizes.items() if k in names}
    missing = names.keys() - given
    if missing:
        raise KeyError(f"sizes of a close-up network lack {', '.join(sorted(missing))}")
    plain: dict[str, Any] = given
    return CloseupConfig(**plain)


class CloseupNet(nn.Module):
    """Close-ups to numbers with their doubts, in the network's units.

    Args:
        config: sizes.
        places: of the last map: (rows / 16) x (columns / 16) of a close-up, rounded up.
        numbers: how many.
    """

    def __init__(self, config: CloseupConfig, places: int, numbers: int) -> None:
        super().__init__()
        self.config, self.numbers = config, numbers
        a, b, c, d = config.widths
        self.stem = ConvUnit(3, a, 3, 2)
        sizes = ((a, b), (b, c), (c, d))
        self.stages = nn.Sequential(
            *(stage(i, o, n) for (i, o), n in zip(sizes, config.blocks, strict=True))
        )
        self.squeeze = ConvUnit(d, config.squeeze, 1)
        self.hidden = nn.Sequential(
            nn.Linear(config.squeeze * places + 3, config.hidden), nn.ReLU(inplace=True)
        )
        self.out = nn.Linear(config.hidden, 2 * numbers)

    def forward(
        self, crops: Float[Tensor, "b 3 h w"], directions: Float[Tensor, "b 3"]
    ) -> Float[Tensor, "b n"]:
        """The numbers in the network's units, and the logarithms of their Laplace scales.

        Args:
            crops: close-ups in [0, 1]; made free of brightness and contrast.
            directions: unit, towards the camera in the head's frame, mirrored like the crop.
        """
        mean = crops.mean((1, 2, 3), keepdim=True)
        spread = (crops - mean).square().mean((1, 2, 3), keepdim=True).sqrt()
        features = self.squeeze(self.stages(self.stem((crops - mean) / (spread + 0.02))))
        flat = torch.cat((features.flatten(1), directions), 1)
        out = self.out(self.hidden(flat))
        doubt = LEAST_LOG + (MOST_LOG - LEAST_LOG) * torch.sigmoid(out[:, self.numbers :])
        return torch.cat((out[:, : self.numbers], doubt), 1)


class CloseupExport(nn.Module):
    """What is published: the numbers in their own units and their standard deviations.

    Args:
        network: the trained one.
        units: what counts as 1 inside the network, of each number.
        mean: what counts as 0; the first number is an opening and never below zero.
    """

    def __init__(
        self, network: CloseupNet, units: tuple[float, ...], mean: tuple[float, ...]
    ) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("units", torch.tensor(units), persistent=False)
        self.register_buffer("mean", torch.tensor(mean), persistent=False)

    def forward(
        self, crops: Float[Tensor, "b 3 h w"], directions: Float[Tensor, "b 3"]
    ) -> Float[Tensor, "b n"]:
        """(numbers, sigma of each); a Laplace scale times sqrt(2) is a deviation."""
        raw = self.network(crops, directions)
        units, mean = self.get_buffer("units"), self.get_buffer("mean")
        value = raw[:, : len(units)] * units + mean
        sigma = raw[:, len(units) :].exp() * units * 2**0.5
        return torch.cat((functional.relu(value[:, :1]), value[:, 1:], sigma), 1)
