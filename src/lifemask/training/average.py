"""Exponential moving average of a network's weights."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Average:
    """Keeps `averaged` near `network`: floating-point state is averaged, the rest copied.

    Args:
        averaged: holds the average; a copy of the network.
        network: the network that learns; its tensors must keep their identity.
    """

    def __init__(self, averaged: nn.Module, network: nn.Module) -> None:
        source = network.state_dict()
        pairs = [(mean, source[key]) for key, mean in averaged.state_dict().items()]
        self._means: list[Tensor] = [m for m, _ in pairs if m.dtype.is_floating_point]
        self._values: list[Tensor] = [v for m, v in pairs if m.dtype.is_floating_point]
        self._copied = [(m, v) for m, v in pairs if not m.dtype.is_floating_point]

    @torch.no_grad()
    def update(self, decay: float) -> None:
        """`mean <- decay mean + (1 - decay) value`."""
        torch._foreach_lerp_(self._means, self._values, 1 - decay)
        for mean, value in self._copied:
            mean.copy_(value)
