"""The critic of 2DASL's self-critic scheme, which asks if coefficients belong to a photo.

    crop s -> 6 x (3x3 convolution, ReLU, 2x2 max pool) -> 2 x 2 cells -+
                                                                        +-> 512 -> 1024 -> 1024 -> 1
    whitened coefficients ----------------------------------------------+

Layers after a description of the paper (arXiv 1903.09359, whose training code is unpublished);
channels, spectral normalisation (Miyato et al., ICLR 2018) and orthogonal first weights (Saxe et
al., ICLR 2014) are ours. A random matrix scaled to norm 1 shrinks most vectors, and ten in a row
leave logits of 0.001; orthogonal ones keep them.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

CELLS = 2  # along a side: what six halvings, rounded up, leave of 65 to 128 px
FULLY_CONNECTED = (512, 1024, 1024)


class Critic(nn.Module):
    """The logit of "these coefficients are this photo's true ones".

    Every weight matrix (a convolution's as outputs x inputs 9) has largest singular value about 1,
    estimated by one power iteration per training step: the answer cannot jump with its inputs.
    `requires_grad_(False)` freezes it; gradients still reach crops and coefficients.

    Args:
        coefficients: length of the coefficient vector.
        widths: channels of the convolutions.
    """

    def __init__(
        self, coefficients: int, widths: tuple[int, ...] = (16, 32, 64, 128, 128, 128)
    ) -> None:
        super().__init__()
        levels: list[nn.Module] = []
        for inputs, outputs in zip((3, *widths[:-1]), widths, strict=True):
            convolution = _bounded(nn.Conv2d(inputs, outputs, 3, 1, 1))
            levels += [convolution, nn.ReLU(inplace=True), nn.MaxPool2d(2, ceil_mode=True)]
        # nothing to pool at 65 to 128 px; other sizes come to the same length
        self.look = nn.Sequential(*levels, nn.AdaptiveAvgPool2d(CELLS), nn.Flatten())
        sizes = (widths[-1] * CELLS**2 + coefficients, *FULLY_CONNECTED)
        layers: list[nn.Module] = []
        for inputs, outputs in zip(sizes[:-1], sizes[1:], strict=True):
            layers += [_bounded(nn.Linear(inputs, outputs)), nn.ReLU(inplace=True)]
        self.judge = nn.Sequential(*layers, _bounded(nn.Linear(sizes[-1], 1)))

    def forward(
        self, crops: Float[Tensor, "b 3 s s"], p: Float[Tensor, "b d"]
    ) -> Float[Tensor, " b"]:
        """Logits (b,); above 0 says "true".

        Args:
            crops: (b, 3, s, s) normalised, about [-1, 1].
            p: (b, coefficients) whitened.
        """
        return self.judge(torch.cat((self.look(crops), p), 1))[:, 0]


def _bounded(layer: nn.Conv2d | nn.Linear) -> nn.Module:
    """The layer with orthogonal weights, held at spectral norm 1."""
    nn.init.orthogonal_(layer.weight)
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)
    return spectral_norm(layer)
