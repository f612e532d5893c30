"""The eye network: an upright close-up of one eye and its view to lid opening and gaze."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from lifemask.nn.closeup_net import CloseupConfig, CloseupExport, CloseupNet

OPENING_UNIT, GAZE_UNIT_DEG = 0.1, 10.0
"""Opening and angle that count as 1 inside the network."""
MEAN_OPENING = 0.25
PLACES = 12
"""Of the last map of a crop of 48 x 64."""


class EyeNet(CloseupNet):
    """Crops (b, 3, 48, 64) of the eye at -x, or mirrored ones, to opening, pitch and yaw.

    Args:
        config: sizes.
    """

    def __init__(self, config: CloseupConfig) -> None:
        super().__init__(config, PLACES, 3)


class EyeExport(CloseupExport):
    """What is published: opening, pitch and yaw in degrees, and their standard deviations.

    Args:
        network: the trained one.
    """

    def __init__(self, network: EyeNet) -> None:
        units = (OPENING_UNIT, GAZE_UNIT_DEG, GAZE_UNIT_DEG)
        super().__init__(network, units, (MEAN_OPENING, 0.0, 0.0))


def eye_targets(
    opening: Float[Tensor, " b"], gaze_deg: Float[Tensor, "b 2"]
) -> Float[Tensor, "b 3"]:
    """True opening and gaze in the network's units."""
    first = (opening - MEAN_OPENING) / OPENING_UNIT
    return torch.cat((first[:, None], gaze_deg / GAZE_UNIT_DEG), 1)
