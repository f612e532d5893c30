"""Encoders of PGN: the landmark network, or a ResNet as published."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from lifemask.nn.backbones import MOBILE_BLOCKS, MOBILE_HIDDEN, MOBILE_WIDTHS, create_backbone
from lifemask.nn.landmark_net import LandmarkNet, LandmarkNetConfig
from lifemask.nn.position_map import SecondLook

Encoder = Literal["mobile", "tiny", "resnet18_half", "resnet50"]
MAP_MOBILE = 64  # channels that the shipped landmarkers' maps are read from


class Seen(NamedTuple):
    """What an encoder sees.

    Attributes:
        features: (b, f) for the heads.
        decoded: for the decoder.
        anchors: (b, k, 4) points of the label set and their log beta, or (b, 0, 4).
    """

    features: Tensor
    decoded: Tensor
    anchors: Tensor


class Trunk(nn.Module):
    """An encoder: crops to features for the heads and for the decoder.

    Attributes:
        features: length of the vector for the heads.
        decoded: channels, or length, of what the decoder gets.
        anchors: number of points that the position map starts from; 0: the mean face.
    """

    features: int
    decoded: int
    anchors: int = 0

    def forward(self, crops: Float[Tensor, "b 3 s s"]) -> Seen:
        """Features of crops in sRGB [0, 1]."""
        raise NotImplementedError


class LandmarkTrunk(Trunk):
    """The landmark network with a second look at its points."""

    def __init__(self, points: int, size: int, second_look: int) -> None:
        super().__init__()
        sizes = LandmarkNetConfig(
            points, size, MOBILE_WIDTHS, MOBILE_BLOCKS, MAP_MOBILE, MOBILE_HIDDEN, 0
        )
        self.net = LandmarkNet(sizes)
        self.anchors = points
        self.again: SecondLook | None = None
        width = 0
        if second_look:
            chosen = _spread(points, second_look)
            self.register_buffer("chosen", chosen, persistent=False)
            self.again = SecondLook(MOBILE_WIDTHS[1], len(chosen), 4 * points)
            width = self.again.width
        self.features = self.decoded = MOBILE_HIDDEN + width

    def forward(self, crops: Float[Tensor, "b 3 s s"]) -> Seen:
        """Features and points of crops in sRGB [0, 1]."""
        looked = self.net.look(crops)
        found = looked.output
        anchors = torch.cat((found.points, found.log_b[..., None]), -1).float()
        if self.again is None:
            return Seen(looked.summary, looked.summary, anchors)
        places = anchors[:, self.get_buffer("chosen"), :2]
        change, hidden = self.again(looked.quarter, places)
        anchors = anchors + change.float().unflatten(1, (-1, 4))
        features = torch.cat((looked.summary, hidden), 1)
        return Seen(features, features, anchors)


class ResNetTrunk(Trunk):
    """PGN's encoder: features in place for the decoder, their mean for the heads."""

    def __init__(self, encoder: Encoder, size: int) -> None:
        super().__init__()
        self.net = create_backbone(encoder, 3, size)
        self.features = self.decoded = self.net.features

    def forward(self, crops: Float[Tensor, "b 3 s s"]) -> Seen:
        """Features of crops in sRGB [0, 1]."""
        cells = self.net.cells((crops * 255 - 127.5) / 128)
        features = cells.mean((2, 3))
        return Seen(features, cells, features.float()[:, :0, None].expand(-1, -1, 4))


def create_trunk(encoder: Encoder, points: int, size: int, second_look: int) -> Trunk:
    """An untrained encoder.

    Args:
        encoder: "mobile", or a name of `nn.backbones`.
        points: of the label set, which "mobile" finds.
        size: side of the crop in px.
        second_look: points at which "mobile" looks again; 0 leaves that out.

    Raises:
        UserError: an unknown encoder, or a size that it cannot take.
    """
    if encoder == "mobile":
        return LandmarkTrunk(points, size, second_look)
    return ResNetTrunk(encoder, size)


def _spread(points: int, wanted: int) -> Int[Tensor, "n"]:
    """Landmarks to look at again: the second set of 68, then evenly spread others."""
    if points <= 136:
        return torch.arange(points)[:wanted]
    rest = torch.arange(136, points)
    count = max(wanted - 68, 0)
    even = rest[torch.linspace(0, len(rest) - 1, count).round().long()]
    return torch.cat((torch.arange(68, 136)[:wanted], even))
