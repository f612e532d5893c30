"""The region network: a U-Net from a face crop to nine region scores per pixel.

    crop s -> [space to depth] -> level 0 -------------- + -> level 0 -> [depth to space] -> scores
                                     `-> level 1 --- + -> level 1 -^
                                            `-> ... -^

With `fold` 1, `merge` "cat" and two convolutions a level it is the U-Net of Ronneberger et al.
(MICCAI 2015, with padding and batch normalisation). With `fold` 2 the finest level works at half
the resolution on 2 x 2 pixel blocks as channels (Shi et al., CVPR 2016, both ways), which costs a
quarter and drops no pixel; docs/parser.md has the measurements.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from lifemask.nn.blocks import ConvUnit

_NO_GLASSES = -3.0
"""First score of glasses, about: 5 % of the pixels."""


@dataclass(frozen=True)
class UNetConfig:
    """Sizes of the network.

    Attributes:
        classes: number of classes.
        size: side of the input crop in px, a multiple of `fold * 2 ** (levels - 1)`.
        fold: side of the pixel blocks that the first level takes as channels; 1 = single pixels.
        widths: channels of the levels, finest first.
        down: 3x3 convolutions per level on the way down; a tuple, finest first, if they differ.
        up: 3x3 convolutions per level on the way up.
        glasses: one more score per pixel, behind those of the classes: glasses in front of it.
        merge: how the way up takes in the way down: "cat" (paper) or "add" (half the channels).
    """

    classes: int = 9
    size: int = 128
    fold: int = 1
    widths: tuple[int, ...] = (32, 64, 128, 256)
    down: int | tuple[int, ...] = 2
    up: int = 2
    merge: Literal["cat", "add"] = "cat"
    glasses: bool = False

    def __post_init__(self) -> None:
        """Check that the levels fit the size."""
        step = self.fold * 2 ** (len(self.widths) - 1)
        if self.size % step:
            raise ValueError(f"size {self.size} is not a multiple of {step}")
        if len(self.convolutions) != len(self.widths):
            raise ValueError(f"down has {len(self.convolutions)} levels, widths {len(self.widths)}")
        if self.merge not in ("cat", "add"):
            raise ValueError(f"unknown merge {self.merge!r}; valid: cat, add")

    @property
    def scores(self) -> int:
        """Scores per pixel: the classes, then glasses if they are told."""
        return self.classes + self.glasses

    @property
    def convolutions(self) -> tuple[int, ...]:
        """Convolutions of each level on the way down."""
        return (self.down,) * len(self.widths) if isinstance(self.down, int) else self.down


class UNet(nn.Module):
    """Scores of region classes per pixel of a square face crop.

    Args:
        config: sizes.
    """

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        self.config = config
        widths = config.widths
        folded = 3 * config.fold**2
        inputs = (folded, *widths[:-1])
        self.down = nn.ModuleList(
            _units(*sizes) for sizes in zip(inputs, widths, config.convolutions, strict=True)
        )
        self.lift = nn.ModuleList(
            nn.Conv2d(deep, w, 1) for w, deep in zip(widths[:-1], widths[1:], strict=True)
        )
        wider = 2 if config.merge == "cat" else 1
        self.up = nn.ModuleList(_units(wider * w, w, config.up) for w in widths[:-1])
        self.head = nn.Conv2d(widths[0], config.scores * config.fold**2, 1)

    def forward(self, crops: Float[Tensor, "b 3 s s"]) -> Float[Tensor, "b c s s"]:
        """Scores (logits) of crops in sRGB [0, 1] (b, 3, size, size)."""
        x = functional.pixel_unshuffle(crops * 4 - 2, self.config.fold)
        skips: list[Tensor] = []
        for number, level in enumerate(self.down):
            x = level(functional.max_pool2d(x, 2) if number else x)
            skips.append(x)
        for number in reversed(range(len(self.up))):
            lifted = functional.interpolate(self.lift[number](x), scale_factor=2.0)
            skip = skips[number]
            merged = torch.cat((skip, lifted), 1) if self.config.merge == "cat" else skip + lifted
            x = self.up[number](merged)
        return functional.pixel_shuffle(self.head(x), self.config.fold)


def told_glasses(weights: Mapping[str, Tensor], network: UNet) -> dict[str, Tensor]:
    """Weights that tell glasses from those that do not, for a network that does.

    Little is glasses at first, by the network's own random weights (from zeros the score learns
    nothing for hundreds of steps), and the classes' scores are those of before. Weights that have
    the score already come back as they are.
    """
    config = network.config
    out, rows = dict(weights), config.classes * config.fold**2
    if config.glasses and len(out["head.bias"]) == rows:
        own = network.head.weight.detach()[rows:, : out["head.weight"].shape[1]]
        bias = own.new_full((len(own),), _NO_GLASSES)
        out["head.weight"] = torch.cat((out["head.weight"], own))
        out["head.bias"] = torch.cat((out["head.bias"], bias))
    return out


def grown(weights: Mapping[str, Tensor], network: UNet) -> dict[str, Tensor]:
    """Weights for a network from those of one that lacks its finest level.

    The smaller network's levels become the coarser ones of the larger, which sees twice the
    resolution; what does not fit, the first convolution behind the new level and the head, keeps
    the network's own weights. As in Karras et al., "Progressive Growing of GANs" (ICLR 2018), but
    at once.

    Args:
        weights: of the smaller network.
        network: the larger one.

    Raises:
        ValueError: the networks' deepest levels differ.
    """
    own = network.state_dict()
    moved = {}
    for name, value in weights.items():
        part, *rest = name.split(".", 2)
        if part != "head":
            moved[".".join((part, str(int(rest[0]) + 1), *rest[1:]))] = value
    fitting = {k: v for k, v in moved.items() if k in own and own[k].shape == v.shape}
    if f"down.{len(network.down) - 1}.0.0.weight" not in fitting:
        raise ValueError("its network is not this one without the finest level")
    return own | fitting


def widened(weights: Mapping[str, Tensor], network: UNet) -> dict[str, Tensor]:
    """Weights for a network from those of one with fewer channels; it answers as that one did.

    New channels start at random and nothing of the old ones listens to them yet, as in Chen et
    al., "Net2Net" (ICLR 2016), but for the copies that are made there.

    Args:
        weights: of the narrower network, with as many levels and convolutions.
        network: the wider one, whose skips are added.

    Raises:
        ValueError: the networks differ in more than their channels, or skips are concatenated.
    """
    own = network.state_dict()
    if network.config.merge != "add" or own.keys() != weights.keys():
        raise ValueError("its network is not this one with fewer channels")
    for name, value in weights.items():
        wide = own[name]
        if any(old > new for old, new in zip(value.shape, wide.shape, strict=True)):
            raise ValueError("its network has more channels than this one")
        if value.ndim > 1:
            wide[: len(value), value.shape[1] :] = 0
        wide[tuple(slice(0, size) for size in value.shape)] = value
    return own


class SmoothUNet(UNet):
    """The network as the product runs it: a score is the mean of itself and its eight neighbours.

    Pixel blocks leave a faint grid where two classes are equally likely, which this takes away; a
    network without blocks stays as it is. Weights are those of `UNet`.
    """

    def forward(self, crops: Float[Tensor, "b 3 s s"]) -> Float[Tensor, "b c s s"]:
        """Scores (logits) of crops in sRGB [0, 1] (b, 3, size, size)."""
        scores = super().forward(crops)
        if self.config.fold == 1:
            return scores
        return functional.avg_pool2d(scores, 3, 1, 1, count_include_pad=False)


class RegionExport(nn.Module):
    """What runs in the product: probabilities instead of scores."""

    def __init__(self, net: SmoothUNet) -> None:
        super().__init__()
        self.net = net

    def forward(self, crops: Float[Tensor, "b 3 s s"]) -> Float[Tensor, "b c s s"]:
        """Probabilities (b, classes, size, size) that sum to 1, then that of glasses if told."""
        scores = self.net(crops)
        classes = self.net.config.classes
        shares = scores[:, :classes].softmax(1)
        if not self.net.config.glasses:
            return shares
        return torch.cat((shares, scores[:, classes:].sigmoid()), 1)


def config_from_dict(values: Mapping[str, Any]) -> UNetConfig:
    """The sizes that a weight card or a checkpoint lists, lists turned into tuples.

    Raises:
        TypeError: an unknown size.
    """
    sizes: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
    return UNetConfig(**sizes)


def _units(inputs: int, outputs: int, count: int) -> nn.Sequential:
    rest = [ConvUnit(outputs, outputs) for _ in range(count - 1)]
    return nn.Sequential(ConvUnit(inputs, outputs), *rest)
