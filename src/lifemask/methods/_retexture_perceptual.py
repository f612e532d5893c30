"""What makes two pictures of a face alike to a network: frozen features for the loss, pluggable."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from lifemask.nn.landmark_net import LandmarkNet


class PictureFeatures(NamedTuple):
    """Features of pictures.

    Attributes:
        embedding: (b, f) what a picture shows; compared by angle.
        style: (b, c, h, w) early features whose channel products describe texture.
    """

    embedding: Float[Tensor, "b f"]
    style: Float[Tensor, "b c h w"]


Embedder = Callable[[Float[Tensor, "b 3 s s"]], PictureFeatures]
"""Any network that makes features of sRGB pictures in [0, 1]: the loss takes every such callable,
an ArcFace or FaceNet of the user's among them."""


class BackboneFeatures(nn.Module):
    """Pooled features of three stages of our own landmark network, each of length 1; frozen.

    It knows where parts of a face are and how they look there, and was trained on the same
    material as the weights that are trained with it. It serves the loss only, never evaluation.

    Args:
        network: trained.
    """

    def __init__(self, network: LandmarkNet) -> None:
        super().__init__()
        self.network = network.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> BackboneFeatures:
        """Stays in evaluation mode: its statistics are fixed."""
        del mode
        return super().train(False)

    def forward(self, pictures: Float[Tensor, "b 3 s s"]) -> PictureFeatures:
        """Features of pictures; gradients reach the pictures."""
        quarter = self.network.stage4(self.network.stem(pictures * 4 - 2))
        eighth = self.network.stage8(quarter)
        pooled = [quarter, eighth, self.network.stage16(eighth)]
        parts = [functional.normalize(x.mean((2, 3)), dim=1) for x in pooled]
        return PictureFeatures(torch.cat(parts, 1), quarter)


def backbone_features(family: str) -> BackboneFeatures:
    """Features of the shipped landmark network of a family, "open" or "research".

    Raises:
        AssetError: its weights are missing or damaged.
    """
    from lifemask.nn.landmark_net import config_from_dict
    from lifemask.nn.shipped import described, family_name, with_weights

    name = family_name("landmarker", family)
    network = described(name, lambda card: LandmarkNet(config_from_dict(card)))
    return BackboneFeatures(with_weights(network, name).float())
