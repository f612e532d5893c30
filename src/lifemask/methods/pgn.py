"""PGN: pose solved from predicted 3D landmarks; several frames of a person supervise each other.

     I1 -> [encoder] -> F1 --+--> expression head -> b1
                             |--> decoder -> UV position map -> 3D landmarks L1, log beta
                       fuse(F1, F2) -> identity head -> a (shared)
     I2 -> [encoder] -> F2 --+--> expression head -> b2 ; decoder -> L2
     S(a, bk) --Procrustes to Lk--> pose k --> swap textures k <-> l, render, compare

Liu et al., "Learning 3D face reconstruction with a pose guidance network", ACCV 2020 (arXiv
2010.04384). What we reproduce and what differs: docs/methods/pgn.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lifemask.facemodel import load_face_model
from lifemask.facemodel.base import FaceModel
from lifemask.methods._pgn_loss import PgnLoss, PgnLossConfig
from lifemask.methods._pgn_net import PgnConfig, PgnNet, PgnOutput, PointReader
from lifemask.methods._pgn_predict import (
    FrameView,
    PgnPredictConfig,
    PgnPrediction,
    PgnPredictor,
)
from lifemask.methods._pgn_trunk import LandmarkTrunk
from lifemask.nn.shipped import Engine, described, family_name, load_network, with_weights

__all__ = [
    "FrameView",
    "LandmarkTrunk",
    "PgnConfig",
    "PgnLoss",
    "PgnLossConfig",
    "PgnNet",
    "PgnOutput",
    "PgnPredictConfig",
    "PgnPrediction",
    "PgnPredictor",
    "config_from_dict",
    "create_pgn",
    "load_pgn",
]


def create_pgn(config: PgnConfig, model: FaceModel, chart: bool = True) -> PgnNet:
    """An untrained network for a face model.

    Args:
        config: sizes and choices.
        model: the face model.
        chart: see `PgnNet`.

    Raises:
        UserError: an unknown encoder, or a size that it cannot take.
        ValueError: a model without landmarks that the network can use.
    """
    return PgnNet(config, model, chart)


def config_from_dict(values: Mapping[str, Any]) -> PgnConfig:
    """The settings that a weight card or a checkpoint lists.

    Raises:
        TypeError: an unknown setting.
    """
    sizes: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
    return PgnConfig(**sizes)


class ExportNet(nn.Module):
    """The part of a `PgnNet` that runs on each frame at inference; its weights are final."""

    def __init__(self, net: PgnNet) -> None:
        super().__init__()
        self.net = net
        for name, table in net.point_reader()._asdict().items():
            self.register_buffer(name, table, persistent=False)

    def forward(self, crops: Float[Tensor, "b 3 s s"]) -> Float[Tensor, "b d"]:
        """The parts of a `Glimpse` (b, d) of crops in sRGB [0, 1], one after the other."""
        tables = (self.get_buffer(name) for name in PointReader._fields)
        glimpse = self.net.glimpse(crops, PointReader(*tables))
        return torch.cat([part.flatten(1) for part in glimpse], 1)


def load_pgn(
    weights: Literal["open", "research"] = "open", engine: Engine = "onnx", threads: int = 1
) -> PgnPredictor:
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
    name = family_name("pgn", weights)
    model = load_face_model()
    net = described(name, lambda card: create_pgn(config_from_dict(card), model, chart=False))
    net = with_weights(net, name).eval()
    run = load_network(name, engine, ("crops",), threads, lambda: ExportNet(net))
    return PgnPredictor(run, net, model, weights)
