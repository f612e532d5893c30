"""From image features to a UV position map: where each texel of the face's chart lies in the crop.

    features 8 x 8 x c, or a vector -> 16 x 16 -> 32 x 32 -> 64 x 64 -> (u, v, w), log beta

PGN (arXiv 2010.04384) takes its 3D landmarks from such a map, as PRNet (ECCV 2018) does its mesh.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

START_CELLS = 8
NARROW = 128  # between a feature vector and the first cells
LOG_BETA_RANGE = (-6.0, 1.0)
START_LOG_BETA = -2.5


class PositionDecoder(nn.Module):
    """1x1 convolution (or, for a vector, two linear layers), then doublings with convolutions.

    Args:
        inputs: channels of the features.
        widths: channels at 8, 16, 32 and 64 cells; with fewer of them the last cells are coarser
            than the map's texels, and what they say is interpolated.
        size: side of the map in texels.
        from_vector: the input is a vector (b, inputs), not a map.
    """

    def __init__(self, inputs: int, widths: Sequence[int], size: int, from_vector: bool) -> None:
        super().__init__()
        first = widths[0]
        self.size = size
        self.cell_size = START_CELLS << (len(widths) - 1)
        if from_vector:
            self.enter: nn.Module = nn.Sequential(
                nn.Linear(inputs, NARROW),
                nn.ReLU(inplace=True),
                nn.Linear(NARROW, first * START_CELLS**2),
                nn.ReLU(inplace=True),
                nn.Unflatten(1, (first, START_CELLS, START_CELLS)),
            )
        else:
            self.enter = nn.Conv2d(inputs, first, 1)
        self.grow = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(i, o, 3, padding=1), nn.GroupNorm(_groups(o), o), nn.ReLU(inplace=True)
            )
            for i, o in zip(widths, widths[1:], strict=False)
        )
        self.leave = nn.Conv2d(widths[-1], 4, 3, padding=1)
        with torch.no_grad():
            self.leave.weight.mul_(0.1)
            assert self.leave.bias is not None
            self.leave.bias.zero_()

    def forward(self, features: Float[Tensor, "b ..."]) -> Float[Tensor, "b 4 n n"]:
        """Four channels over the chart: changes of (u, v, w) in half-crops and of log beta."""
        return self.spread(self.cells(features))

    def cells(self, features: Float[Tensor, "b ..."]) -> Float[Tensor, "b 4 m m"]:
        """The same at the last cells.

        Args:
            features: (b, inputs, h, w), resized to 8 x 8, or (b, inputs).
        """
        if features.ndim == 4:
            cells = (START_CELLS, START_CELLS)
            features = functional.interpolate(features, cells, mode="bilinear", antialias=False)
        x = self.enter(features)
        for layer in self.grow:
            x = layer(functional.interpolate(x, scale_factor=2.0, mode="bilinear"))
        return self.leave(x)

    def spread(self, change: Float[Tensor, "b c m m"]) -> Float[Tensor, "b c n n"]:
        """What the cells say, interpolated at the texels."""
        if change.shape[-1] == self.size:
            return change
        size = (self.size, self.size)
        return functional.interpolate(change.float(), size, mode="bilinear")


class SecondLook(nn.Module):
    """Corrects points by the fine features at the places where they were found.

    Args:
        channels: of the fine features.
        points: how many of the points are looked at.
        outputs: length of the correction.
        kept: channels after the 1x1 convolution.
        width: of the hidden layer, which is returned too.
    """

    def __init__(
        self, channels: int, points: int, outputs: int, kept: int = 16, width: int = 256
    ) -> None:
        super().__init__()
        self.narrow = nn.Conv2d(channels, kept, 1)
        self.mix = nn.Sequential(nn.Linear(points * kept, width), nn.ReLU(inplace=True))
        self.correct = nn.Linear(width, outputs)
        self.width = width
        with torch.no_grad():
            self.correct.weight.zero_()
            self.correct.bias.zero_()

    def forward(
        self, features: Float[Tensor, "b c h w"], points: Float[Tensor, "b n 2"]
    ) -> tuple[Float[Tensor, "b o"], Float[Tensor, "b k"]]:
        """The correction, zero before training, and the hidden layer.

        Args:
            features: in place; their centres are those of a grid over the crop.
            points: (u, v) half-crops; no gradient reaches them.
        """
        kept = self.narrow(features)
        grid = points.detach()[:, :, None].to(kept.dtype)
        seen = functional.grid_sample(kept, grid, padding_mode="border", align_corners=False)
        hidden = self.mix(seen.flatten(1))
        return self.correct(hidden), hidden


def _groups(channels: int) -> int:
    return next(g for g in (8, 4, 2, 1) if channels % g == 0)
