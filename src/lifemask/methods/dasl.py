"""2DASL: a network regresses face-model coefficients; 2D faces in the wild teach it.

     I ----------+--> [4-ch CNN] --> p --> S(p) --> X3d --project--> Y2d --draw--> map'
     map(X2d) ---+        |shared weights                               |
     I -------------------+------------------- [4-ch CNN] <-------------+
                                                   `--> p^ --> X^3d --> X^2d

Tu et al., "3D face reconstruction from a single image assisted by 2D face images in the wild",
IEEE TMM 2020 (arXiv 1903.09359). What we reproduce and what differs: docs/methods/dasl.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from lifemask.facemodel import load_face_model
from lifemask.facemodel.base import FaceModel
from lifemask.methods._coefficients import CoefficientHead, Posed, PoseKind
from lifemask.methods._dasl_loss import DaslLoss, DaslLossConfig
from lifemask.methods._dasl_predict import DaslPredictConfig, DaslPredictor
from lifemask.nn.backbones import Backbone, BackboneName, create_backbone
from lifemask.nn.landmark_map import MapKind, draw_map
from lifemask.nn.shipped import Engine, described, family_name, load_network, with_weights

__all__ = [
    "DaslConfig",
    "DaslLoss",
    "DaslLossConfig",
    "DaslNet",
    "DaslOutput",
    "DaslPredictConfig",
    "DaslPredictor",
    "config_from_dict",
    "create_dasl",
    "load_dasl",
]

APART_SCALE = 30.0  # half-crops (2 px and so on) to numbers of about unit spread


@dataclass(frozen=True)
class DaslConfig:
    """Sizes and inputs of the network.

    Attributes:
        backbone: a key of `nn.backbones.BACKBONES`.
        size: side of the crop in px.
        pose: "rot6d": rotation 6D, log scale, shift; "affine12": a free 3 x 4 matrix, as published.
        map: "gaussian" blobs, differentiable; "points": single pixels, as published.
        sigma_px: of a blob, in px of a crop of 120 px.
        correction: width of the layers that correct the coefficients by how far the map's points
            lie from where they put them; 0, as published, leaves the map alone to tell, and the
            network to find out which blob is which.
    """

    backbone: BackboneName = "mobile"
    size: int = 112
    pose: PoseKind = "rot6d"
    map: MapKind = "gaussian"
    sigma_px: float = 1.5
    correction: int = 256


class DaslOutput(NamedTuple):
    """Coefficients and heads of both passes; a named tuple, since lightning rebuilds it.

    Attributes:
        p: (b, D) whitened coefficients with the given map.
        posed: what they mean.
        p_hat: (b, D) with the map that `p` draws.
        posed_hat: what they mean.
    """

    p: Float[Tensor, "b d"]
    posed: Posed
    p_hat: Float[Tensor, "b d"]
    posed_hat: Posed


class DaslNet(nn.Module):
    """Coefficients of a face model from a crop and a landmark map.

    Args:
        config: sizes.
        backbone: (b, 4, s, s) to (b, features); `create_dasl` makes it.
        head: the meaning of the coefficients.
    """

    def __init__(self, config: DaslConfig, backbone: Backbone, head: CoefficientHead) -> None:
        super().__init__()
        self.config = config
        self.backbone = backbone
        self.regressor = nn.Linear(backbone.features, head.size)
        self.head = head
        self.correction: Correction | None = None
        if config.correction:
            self.correction = Correction(backbone.features, config.correction, head.size)
        with torch.no_grad():
            self.regressor.weight.mul_(0.1)
            self.regressor.bias.zero_()

    def forward(
        self,
        crops: Float[Tensor, "b 3 s s"],
        points: Float[Tensor, "b 18 2"],
        drawn: Bool[Tensor, "b 18"],
    ) -> DaslOutput:
        """Both passes of crops in sRGB [0, 1] with the given map points, half-crops."""
        p = self.regress(crops, points, drawn)
        posed = self.head(p)
        p_hat = self.regress(crops, *self.head.own_map(posed))
        return DaslOutput(p, posed, p_hat, self.head(p_hat))

    def regress(
        self,
        crops: Float[Tensor, "b 3 s s"],
        points: Float[Tensor, "b 18 2"],
        drawn: Bool[Tensor, "b 18"],
    ) -> Float[Tensor, "b d"]:
        """Whitened coefficients (b, D) of crops in sRGB [0, 1] with the given map points."""
        if self.config.map == "points":
            points = points.detach()
        x = torch.cat((normalised(crops), self.draw(points, drawn).to(crops.dtype)), 1)
        if crops.is_contiguous(memory_format=torch.channels_last):
            x = x.contiguous(memory_format=torch.channels_last)
        features = self.backbone(x)
        with torch.autocast(features.device.type, enabled=False):  # bfloat16 is 0.2 degrees coarse
            features = features.float()
            p = self.regressor(features)
            if self.correction is None:
                return p
            own, _ = self.head.own_map(self.head(p))
            return p + self.correction(features, points.to(p.dtype) - own, drawn)

    def draw(self, points: Tensor, drawn: Tensor) -> Float[Tensor, "b 1 s s"]:
        """The map channel of Map-18 points."""
        config = self.config
        return draw_map(points, drawn, config.size, config.map, config.sigma_px)


class Correction(nn.Module):
    """What the distances between given and predicted Map-18 points change in the coefficients.

    Linear in the distances, plus a mixture with the image's features; an empty map leaves only what
    the features say, and the network's own points, drawn again, change next to nothing.

    Args:
        features: width of the image's features.
        width: of the mixing layer.
        coefficients: D.
    """

    def __init__(self, features: int, width: int, coefficients: int) -> None:
        super().__init__()
        self.linear = nn.Linear(2 * 18, coefficients, bias=False)
        self.mixed = nn.Sequential(
            nn.Linear(features + 3 * 18, width),
            nn.ReLU(inplace=True),
            nn.Linear(width, coefficients, bias=False),
        )
        with torch.no_grad():
            self.linear.weight.zero_()
            last = self.mixed[-1]
            assert isinstance(last, nn.Linear)
            last.weight.zero_()

    def forward(
        self,
        features: Float[Tensor, "b f"],
        apart: Float[Tensor, "b 18 2"],
        drawn: Bool[Tensor, "b 18"],
    ) -> Float[Tensor, "b d"]:
        """Change of the whitened coefficients.

        Args:
            features: of the image.
            apart: given minus predicted points in half-crops.
            drawn: which points are given.
        """
        known = drawn.to(features.dtype)
        numbers = torch.where(drawn[..., None], apart * APART_SCALE, 0.0).flatten(1)
        return self.linear(numbers) + self.mixed(torch.cat((features, numbers, known), 1))


class ExportNet(nn.Module):
    """The part of a `DaslNet` that runs at inference; it draws the map itself."""

    def __init__(self, net: DaslNet) -> None:
        super().__init__()
        self.net = net

    def forward(
        self, crops: Float[Tensor, "b 3 s s"], landmarks: Float[Tensor, "b 18 3"]
    ) -> Float[Tensor, "b d"]:
        """De-whitened coefficients (b, D) of crops in sRGB [0, 1] and Map-18 points.

        A landmark is u and v in half-crops, and 1 where it is drawn, 0 where not.
        """
        points, drawn = landmarks[..., :2], landmarks[..., 2] > 0.5
        return self.net.head.raw(self.net.regress(crops, points, drawn))


def normalised(crops: Float[Tensor, "b 3 s s"]) -> Float[Tensor, "b 3 s s"]:
    """`(x - 127.5) / 128` of 8-bit values, from [0, 1]; RGB (the published code takes BGR)."""
    return (crops * 255 - 127.5) / 128


def create_dasl(config: DaslConfig, model: FaceModel) -> DaslNet:
    """An untrained network for a face model.

    Raises:
        ValueError: an unknown backbone, or a model without a set of 68 landmarks.
    """
    backbone = create_backbone(config.backbone, 4, config.size)
    return DaslNet(config, backbone, CoefficientHead(model, config.pose))


def config_from_dict(values: Mapping[str, Any]) -> DaslConfig:
    """The settings that a weight card or a checkpoint lists.

    Raises:
        TypeError: an unknown setting.
    """
    return DaslConfig(**values)


def load_dasl(
    weights: Literal["open", "research"] = "open", engine: Engine = "onnx", threads: int = 1
) -> DaslPredictor:
    """The shipped network.

    Args:
        weights: "open" was trained on synthetic heads only; "research" also on photos whose terms
            allow research only.
        engine: "onnx" (onnxruntime) or "torch".
        threads: of the engine; 0 lets it choose.

    Raises:
        AssetError: the weights are missing or damaged.
        ValueError: an unknown family or engine.
    """
    name = family_name("dasl", weights)
    model = load_face_model()
    network = described(name, lambda card: create_dasl(config_from_dict(card), model))
    head = with_weights(network, name).head
    inputs = ("crops", "landmarks")
    run = load_network(name, engine, inputs, threads, lambda: ExportNet(network))
    return DaslPredictor(run, network.config, head, model, weights)
