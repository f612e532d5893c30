"""The landmark network: a crop to 392 dense 3D landmarks, their uncertainty, and model parameters.

crop 112 -> stem 56 -> 28 -> 14 -----------> + -> maps 14x14 -> soft-argmax (u, v) --+
                             `-> 7 -> up x2 -^                                        |
                                 `-> global features --+-> [refine] <-----------------+
                                                       |     `-> (u, v, w), log b
                                                       `-> [parameters] (training only)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from lifemask.nn.blocks import ConvUnit, stage


@dataclass(frozen=True)
class LandmarkNetConfig:
    """Sizes of the network.

    Attributes:
        points: number of landmarks.
        size: side of the input crop in px, a multiple of 16.
        widths: channels at strides 2, 4, 8, 16.
        blocks: residual blocks at strides 4, 8, 16.
        map_width: channels of the features that the maps are read from.
        hidden: width of the two fully connected layers.
        identity: identity coefficients of the parameter output; 0 leaves that output out.
        expression: expression coefficients of the parameter output.
    """

    points: int = 392
    size: int = 112
    widths: tuple[int, int, int, int] = (24, 48, 96, 192)
    blocks: tuple[int, int, int] = (2, 2, 2)
    map_width: int = 96
    hidden: int = 384
    identity: int = 80
    expression: int = 52

    @property
    def parameters(self) -> int:
        """Length of the parameter output: rotation 6, log scale, shift 2, coefficients."""
        return 9 + self.identity + self.expression if self.identity else 0


class LandmarkOutput(NamedTuple):
    """What the network says about a batch; lengths in half-crops (crop px / (size / 2)).

    A named tuple, since lightning.fabric rebuilds what a network returns.

    Attributes:
        points: (b, n, 3); u, v are 0 at the crop's centre; w is nearness with mean 0.
        log_b: (b, n) logarithm of the Laplace scale of the distance in (u, v).
        maps: (b, n, 2) the soft-argmax (u, v) that feeds the refinement.
        parameters: (b, p) raw model parameters, see `nn.parametric`; (b, 0) where left out.
    """

    points: Float[Tensor, "b n 3"]
    log_b: Float[Tensor, "b n"]
    maps: Float[Tensor, "b n 2"]
    parameters: Float[Tensor, "b p"]


class Looked(NamedTuple):
    """Landmarks with the features that they came from.

    Attributes:
        output: what `LandmarkNet` returns.
        quarter: (b, c, s / 4, s / 4) fine features, in place.
        summary: (b, hidden) what the whole crop shows.
    """

    output: LandmarkOutput
    quarter: Float[Tensor, "b c h w"]
    summary: Float[Tensor, "b f"]


class LandmarkNet(nn.Module):
    """Dense 3D landmarks from a square face crop.

    Args:
        config: sizes.
    """

    def __init__(self, config: LandmarkNetConfig) -> None:
        super().__init__()
        self.config = config
        w2, w4, w8, w16 = config.widths
        self.stem = ConvUnit(3, w2, 5, 2)
        self.stage4 = stage(w2, w4, config.blocks[0])
        self.stage8 = stage(w4, w8, config.blocks[1])
        self.stage16 = stage(w8, w16, config.blocks[2])
        self.lateral = nn.Conv2d(w8, config.map_width, 1)
        self.down = nn.Conv2d(w16, config.map_width, 1)
        self.mix = ConvUnit(config.map_width, config.map_width)
        self.to_maps = nn.Conv2d(config.map_width, config.points, 1)
        cells = (config.size // 16) ** 2
        self.squeeze = ConvUnit(w16, 64, 1)
        self.summary = nn.Sequential(nn.Linear(64 * cells, config.hidden), nn.ReLU(inplace=True))
        self.refine = nn.Sequential(
            nn.Linear(config.hidden + 2 * config.points, config.hidden),
            nn.ReLU(inplace=True),
            nn.Linear(config.hidden, 4 * config.points),
        )
        self.to_parameters: nn.Linear | None = None
        if config.parameters:
            self.to_parameters = nn.Linear(config.hidden, config.parameters)
        self.register_buffer("grid", _grid(config.size // 8), persistent=False)
        self._initialise()

    def _initialise(self) -> None:
        last = self.refine[-1]
        assert isinstance(last, nn.Linear)
        with torch.no_grad():
            last.weight.mul_(0.1)
            last.bias.zero_()
            last.bias.view(-1, 4)[:, 3] = -2.5
            if self.to_parameters is not None:
                self.to_parameters.weight.mul_(0.1)
                self.to_parameters.bias.zero_()

    def forward(self, crops: Float[Tensor, "b 3 s s"]) -> LandmarkOutput:
        """Landmarks of crops in sRGB [0, 1] (b, 3, size, size)."""
        return self.look(crops).output

    def look(self, crops: Float[Tensor, "b 3 s s"]) -> Looked:
        """Landmarks with the features that they came from."""
        quarter = self.stage4(self.stem(crops * 4 - 2))
        x = self.stage8(quarter)
        deep = self.stage16(x)
        summary = self.summary(self.squeeze(deep).flatten(1))
        fine = self.lateral(x) + functional.interpolate(self.down(deep), scale_factor=2.0)
        maps = self._soft_argmax(self.to_maps(self.mix(fine)))
        refined = self.refine(torch.cat((summary, maps.flatten(1)), 1))
        refined = refined.view(-1, self.config.points, 4)
        nearness = refined[..., 2:3] - refined[..., 2:3].mean(1, keepdim=True)
        points = torch.cat((maps + refined[..., :2], nearness), -1)
        log_b = refined[..., 3].clamp(-6.0, 1.0)
        parameters = summary[:, :0] if self.to_parameters is None else self.to_parameters(summary)
        return Looked(LandmarkOutput(points, log_b, maps, parameters), quarter, summary)

    def _soft_argmax(self, scores: Tensor) -> Tensor:
        """Mean position (b, n, 2) of each map; a cell's centre is ((i + 0.5) / n) * 2 - 1.

        In float32 under mixed precision too: bfloat16 knows a position to a fifth of a pixel.
        """
        if torch.is_autocast_enabled(scores.device.type):
            with torch.autocast(scores.device.type, enabled=False):
                return self._soft_argmax(scores.float())
        weights = scores.flatten(2).softmax(-1)
        return weights @ self.get_buffer("grid")


class ExportNet(nn.Module):
    """The part of a `LandmarkNet` that is needed at run time, in crop pixels.

    Output (b, n, 4): u, v, w in crop px and the standard deviation of a coordinate in px. For a
    distance whose density falls like `exp(-d / b)` in the plane the variance of one coordinate
    is `3 b^2`.
    """

    def __init__(self, net: LandmarkNet) -> None:
        super().__init__()
        self.net = net

    def forward(self, crops: Float[Tensor, "b 3 s s"]) -> Float[Tensor, "b n 4"]:
        """Landmarks and their sigma in px of crops in sRGB [0, 1]."""
        half = self.net.config.size / 2
        output = self.net(crops)
        origin = half - 0.5
        shift = output.points.new_tensor([origin, origin, 0.0])
        sigma = 3**0.5 * half * output.log_b.exp()
        return torch.cat((output.points * half + shift, sigma[..., None]), -1)


def crop_px_from_unit(points: Float[Tensor, "*b n d"], size: int) -> Float[Tensor, "*b n d"]:
    """Half-crop coordinates to crop px: `(x + 1) * size / 2 - 0.5`; w only scales."""
    half = size / 2
    origin = half - 0.5
    return points * half + points.new_tensor([origin, origin, 0.0][: points.shape[-1]])


def unit_from_crop_px(points: Float[Tensor, "*b n d"], size: int) -> Float[Tensor, "*b n d"]:
    """Crop px to half-crop coordinates: `(px + 0.5) / (size / 2) - 1`; w only scales."""
    half = size / 2
    origin = half - 0.5
    return (points - points.new_tensor([origin, origin, 0.0][: points.shape[-1]])) / half


def config_from_dict(values: Mapping[str, Any]) -> LandmarkNetConfig:
    """The sizes that a weight card or a checkpoint lists, lists turned into tuples.

    Raises:
        TypeError: an unknown or missing size.
    """
    sizes: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
    return LandmarkNetConfig(**sizes)


def _grid(cells: int) -> Tensor:
    """Centres (cells^2, 2) of map cells in half-crops, rows first."""
    line = (torch.arange(cells) + 0.5) / cells * 2 - 1
    v, u = torch.meshgrid(line, line, indexing="ij")
    return torch.stack((u, v), -1).reshape(-1, 2)
