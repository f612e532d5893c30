"""The mouth network: an upright close-up of the mouth and its view to the gap of the lips."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from lifemask.nn.closeup_net import CloseupConfig, CloseupExport, CloseupNet

OPENING_UNIT, MEAN_OPENING = 0.1, 0.1
"""Opening that counts as 1 inside the network, and as 0."""
PLACES = 30
"""Of the last map of a crop of 72 x 96."""


class MouthNet(CloseupNet):
    """Crops (b, 3, 72, 96) of mouths, mirrored or not, to their opening.

    Args:
        config: sizes.
    """

    def __init__(self, config: CloseupConfig) -> None:
        super().__init__(config, PLACES, 1)


class MouthExport(CloseupExport):
    """What is published: the opening and its standard deviation.

    Args:
        network: the trained one.
    """

    def __init__(self, network: MouthNet) -> None:
        super().__init__(network, (OPENING_UNIT,), (MEAN_OPENING,))


def mouth_targets(opening: Float[Tensor, " b"]) -> Float[Tensor, "b 1"]:
    """True opening in the network's units."""
    return ((opening - MEAN_OPENING) / OPENING_UNIT)[:, None]
