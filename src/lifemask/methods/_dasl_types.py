"""What travels between the data, the network and the losses of 2DASL.

Lengths are half-crops: `(crop px + 0.5) / (size / 2) - 1`, u right, v down, 0 at the crop's centre.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from jaxtyping import Bool, Float
from torch import Tensor

from lifemask.methods._targets import SourceRows

MapSource = Literal["detector", "self", "none"]


@dataclass(frozen=True)
class MapPoints:
    """The Map-18 points that are drawn into the input map.

    Attributes:
        points: (*b, 18, 2) half-crops, convention "map18".
        drawn: (*b, 18) which of them; none gives the empty map.
    """

    points: Float[Tensor, "*b 18 2"]
    drawn: Bool[Tensor, "*b 18"]


@dataclass(frozen=True)
class DaslBatch:
    """A batch of 2DASL.

    Attributes:
        crops: (b, 3, s, s) sRGB in [0, 1], channels last in memory.
        map: what is drawn into the first pass's map, noise included.
        targets: one entry per source; together they cover all rows.
    """

    crops: Float[Tensor, "b 3 s s"]
    map: MapPoints
    targets: list[SourceRows]
