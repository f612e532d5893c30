"""A small network that fills holes in pictures: it weighs simple fills, and adds what they lack.

    picture, known, hole -+-> Laplace's equation on a pyramid -> smooth --+-> weights ---+-> picture
                          +-> along lines of four directions ----> lines -+-> what lacks +
                                          all of them -> gated U-Net -----+

Edges and stripes go on along a line, which a smooth fill blurs; how far the two ends of a line
agree says whether they do. Gated convolutions (Yu et al., ICCV 2019): a sigmoid says at each pixel
how much of a feature counts, so that what is not known does not. Pixels are of three kinds: *known*
ones may be looked at, those of the *hole* are to be filled, the rest (a face that is drawn over it
later) is neither.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

_SLOPE = 0.1
_LINES = ((1, 0), (0, 1), (1, 1), (1, -1))
"""Directions (across, down) of the fills along lines, in px."""
_PER_LINE = 5
"""Channels: the fill, how far its ends are apart, how near they lie."""
_INPUTS = 5 + _PER_LINE * len(_LINES)
"""Channels: the smooth fill, known, hole, and those of the lines."""
_AGREE, _APART = 1.0, 20.0
"""Before any training, the logit of a line over the smooth fill's: the one where its ends agree,
less the other for each unit of sRGB that they are apart."""


@dataclass(frozen=True)
class InpaintNetConfig:
    """Sizes.

    Attributes:
        size: side in px of the pictures it learns from; others work, too.
        widths: channels of the levels, finest first, each half of the resolution before.
        dilations: of further convolutions at the coarsest level, which see farther.
        relax: rounds of smoothing at each level of the pyramid of the smooth fill.
    """

    size: int = 128
    widths: tuple[int, ...] = (16, 32, 64)
    dilations: tuple[int, ...] = (2, 4)
    relax: int = 4

    def __post_init__(self) -> None:
        """Refuse what cannot work.

        Raises:
            ValueError: the levels do not fit the size.
        """
        if not self.widths or self.size % self.step:
            raise ValueError(f"size {self.size} is not a multiple of {self.step}, or no widths")

    @property
    def step(self) -> int:
        """Sides of pictures are multiples of it."""
        return 2 ** (len(self.widths) - 1)


def smooth_fill(
    picture: Float[Tensor, "b c h w"],
    known: Float[Tensor, "b 1 h w"],
    hole: Float[Tensor, "b 1 h w"],
    relax: int = 4,
) -> Float[Tensor, "b c h w"]:
    """The picture with holes filled smoothly from known pixels, nearly by Laplace's equation.

    From the coarsest level of a pyramid to the finest, each pixel of the hole becomes the mean of
    its neighbours a few times. Nothing crosses pixels that are neither known nor hole.

    Args:
        picture: any values.
        known: 1 where it may be looked at, else 0.
        hole: 1 where it is filled, else 0; together with `known` at most 1.
        relax: rounds at each level.

    Returns:
        The picture where it is known, the fill in the hole, 0 elsewhere.
    """
    domain = known + hole
    levels = [(picture * known, known, domain)]
    while min(levels[-1][0].shape[-2:]) > 1:
        colours, seen, inside = (_halved(x) for x in levels[-1])
        share = (seen > 0).to(picture)
        mean = colours / seen.clamp(min=1e-6) * share
        levels.append((mean, share, (inside > 0).to(picture)))
    colours, seen, _ = levels[-1]
    filled = colours
    for colours, seen, inside in reversed(levels):
        if filled.shape != colours.shape:
            size = list(colours.shape[-2:])
            filled = functional.interpolate(filled, size, mode="nearest")
        filled = colours * seen + filled * inside * (1 - seen)
        count = _beside(inside).clamp(min=1)
        for _ in range(relax):
            filled = colours * seen + _beside(filled) / count * inside * (1 - seen)
    return filled


def line_fill(
    picture: Float[Tensor, "b 3 h w"], known: Float[Tensor, "b 1 h w"], line: tuple[int, int]
) -> tuple[Float[Tensor, "b 3 h w"], Float[Tensor, "b 1 h w"], Float[Tensor, "b 1 h w"]]:
    """Each pixel from the nearest known ones along a line through it, weighted by their distance.

    Args:
        picture: any values.
        known: 1 where it may be looked at, else 0.
        line: step along the line (across, down) in px.

    Returns:
        (fill, apart, near): the fill, 0 where the line meets nothing known; the mean absolute
        difference of both ends, 1 without two; the sum of the inverse distances in steps of the
        line, at most 2, and 0 where there are none.
    """
    (ahead, weight_ahead), (behind, weight_behind) = (
        _first_along(picture, known, (sense * line[0], sense * line[1])) for sense in (1, -1)
    )
    near = weight_ahead + weight_behind
    fill = (ahead * weight_ahead + behind * weight_behind) / near.clamp(min=1e-6)
    both = (weight_ahead > 0) & (weight_behind > 0)
    apart = torch.where(both, (ahead - behind).abs().mean(1, keepdim=True), 1.0)
    return torch.where(known > 0, picture, fill), apart * (1 - known), near.clamp(max=2.0)


def _first_along(
    picture: Tensor, known: Tensor, step: tuple[int, int]
) -> tuple[Float[Tensor, "b 3 h w"], Float[Tensor, "b 1 h w"]]:
    """The first known value from each pixel on along a step, and 1 over the steps to it or 0.

    A round of 1, 2, 4, ... steps finds what lies within twice that many.
    """
    height, width = picture.shape[-2:]
    nowhere = 4.0 * max(height, width)
    away, reach = nowhere * (known < 0.5).to(picture), 1
    while reach < max(height, width):
        farther = nowhere - _shifted(nowhere - away, reach * step[0], reach * step[1])
        away, reach = torch.minimum(away, farther + reach), 2 * reach
    found = (away < nowhere).to(away)
    steps = (away * found).long()
    row = torch.arange(height, device=away.device)[:, None] + steps * step[1]
    column = torch.arange(width, device=away.device) + steps * step[0]
    index = (row * width + column).flatten(2).expand(-1, picture.shape[1], -1)
    values = picture.flatten(2).gather(2, index).unflatten(2, (height, width))
    return values * found, found / away.clamp(min=1)


def _shifted(x: Float[Tensor, "b c h w"], across: int, down: int) -> Float[Tensor, "b c h w"]:
    """What lies so many px farther to the right and below; 0 outside."""
    height, width = x.shape[-2:]
    if abs(across) >= width or abs(down) >= height:
        return torch.zeros_like(x)
    part = x[..., max(0, down) : height + min(0, down), max(0, across) : width + min(0, across)]
    sides = (max(0, -across), max(0, across), max(0, -down), max(0, down))
    return functional.pad(part, sides)


def _halved(x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c p q"]:
    return functional.avg_pool2d(x, 2, ceil_mode=True, count_include_pad=False)


def _beside(x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
    """Sum over the four neighbours; 0 outside."""
    wide = functional.pad(x, (1, 1, 1, 1))
    across = wide[..., 1:-1, :-2] + wide[..., 1:-1, 2:]
    return across + wide[..., :-2, 1:-1] + wide[..., 2:, 1:-1]


class GatedConv(nn.Module):
    """A 3x3 convolution times a sigmoid of another (Yu et al., ICCV 2019).

    At first the gates are half open everywhere, and the features twice as large as usual.
    """

    def __init__(self, inputs: int, outputs: int, stride: int = 1, dilation: int = 1) -> None:
        super().__init__()
        self.both = nn.Conv2d(inputs, 2 * outputs, 3, stride, dilation, dilation)
        features, gates = self.both.weight.data.chunk(2)
        nn.init.kaiming_normal_(features, _SLOPE).mul_(2)
        nn.init.normal_(gates, 0.0, 0.02)
        assert self.both.bias is not None
        nn.init.zeros_(self.both.bias)

    def forward(self, x: Float[Tensor, "b i h w"]) -> Float[Tensor, "b o p q"]:
        """Features (b, outputs, h / stride, w / stride)."""
        features, gate = self.both(x).chunk(2, 1)
        return functional.leaky_relu(features, _SLOPE) * gate.sigmoid()


class InpaintNet(nn.Module):
    """Fills holes; before any training by lines whose ends agree, and by `smooth_fill`.

    Args:
        config: sizes.
    """

    def __init__(self, config: InpaintNetConfig) -> None:
        super().__init__()
        self.config = config
        widths = config.widths
        self.enter = GatedConv(_INPUTS, widths[0])
        self.down = nn.ModuleList(
            nn.Sequential(GatedConv(fine, coarse, 2), GatedConv(coarse, coarse))
            for fine, coarse in zip(widths[:-1], widths[1:], strict=True)
        )
        deep = widths[-1]
        self.far = nn.ModuleList(GatedConv(deep, deep, 1, d) for d in config.dilations)
        self.lift = nn.ModuleList(
            nn.Conv2d(coarse, fine, 1) for fine, coarse in zip(widths[:-1], widths[1:], strict=True)
        )
        self.up = nn.ModuleList(GatedConv(fine, fine) for fine in widths[:-1])
        self.told = nn.Conv2d(widths[0], 4 + len(_LINES), 3, padding=1)
        nn.init.zeros_(self.told.weight)
        assert self.told.bias is not None
        nn.init.zeros_(self.told.bias)
        self.trust = nn.Parameter(torch.ones(2))

    def forward(
        self,
        picture: Float[Tensor, "b 3 h w"],
        known: Float[Tensor, "b 1 h w"],
        hole: Float[Tensor, "b 1 h w"],
    ) -> Float[Tensor, "b 3 h w"]:
        """The network's own picture, sRGB, not clipped; what is known it repeats approximately.

        Args:
            picture: sRGB in [0, 1]; only known pixels are looked at. Sides are multiples of
                `config.step`.
            known: 1 where the picture may be looked at, else 0.
            hole: 1 where it is to be filled, else 0; never where it is known.
        """
        domain = known + hole
        smooth = smooth_fill(picture, known, hole, self.config.relax)
        fills, cues = [smooth], []
        for line in _LINES:
            fill, apart, near = line_fill(picture, known, line)
            fills.append(torch.where(near > 0, fill, smooth))
            cues += [apart, near]
        told = self._told(
            torch.cat((*((f * 2 - 1) * domain for f in fills), known, hole, *cues), 1)
        )
        trusted = _AGREE * self.trust[0] - _APART * self.trust[1] * torch.cat(cues[::2], 1)
        weights = (told[:, 3:] + functional.pad(trusted, (0, 0, 0, 0, 1, 0))).softmax(1)
        mixed = [fill * weights[:, k : k + 1] for k, fill in enumerate(fills)]
        return torch.stack(mixed).sum(0) + told[:, :3]

    def _told(self, seen: Float[Tensor, "b i h w"]) -> Float[Tensor, "b o h w"]:
        """What lacks (3 channels), and the logits of the fills."""
        x = self.enter(seen)
        kept = [x]
        for level in self.down:
            x = level(x)
            kept.append(x)
        for far in self.far:
            x = x + far(x)
        for number in reversed(range(len(self.up))):
            x = functional.interpolate(self.lift[number](x), scale_factor=2.0, mode="nearest")
            x = self.up[number](x + kept[number])
        return self.told(x)


class InpaintExport(nn.Module):
    """What runs in the product: known pixels as they were, the hole filled, in [0, 1]."""

    def __init__(self, net: InpaintNet) -> None:
        super().__init__()
        self.net = net

    def forward(
        self,
        picture: Float[Tensor, "b 3 h w"],
        known: Float[Tensor, "b 1 h w"],
        hole: Float[Tensor, "b 1 h w"],
    ) -> Float[Tensor, "b 3 h w"]:
        """The picture with its hole filled; see `InpaintNet.forward`."""
        said = self.net(picture, known * (1 - hole), hole).clamp(0, 1)
        return picture * (1 - hole) + said * hole


def config_from_dict(values: Mapping[str, Any]) -> InpaintNetConfig:
    """The sizes that a weight card or a checkpoint lists, lists turned into tuples.

    Raises:
        TypeError: an unknown size.
        ValueError: sizes that do not go together.
    """
    sizes: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
    return InpaintNetConfig(**sizes)
