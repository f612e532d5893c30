"""A critic of patches: which parts of a picture look real (Isola et al., CVPR 2017).

    n x n -> conv 4x4 /2, w -> conv 4x4 /2, 2w -> conv 4x4 /2, 4w -> conv 4x4, 8w -> conv 4x4, 1

With three layers of stride 2 one answer sees 70 x 70 px. Group normalisation takes the place of
batch normalisation: a batch of eight faces has no statistics to speak of.
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn


class PatchGan(nn.Module):
    """Scores of overlapping patches; trained to be 1 on real and 0 on made pictures (LSGAN).

    Args:
        inputs: channels of the picture.
        width: channels of the first layer.
        layers: convolutions of stride 2.
    """

    def __init__(self, inputs: int = 3, width: int = 64, layers: int = 3) -> None:
        super().__init__()
        parts: list[nn.Module] = [nn.Conv2d(inputs, width, 4, 2, 1), nn.LeakyReLU(0.2)]
        before = width
        for k in range(1, layers + 1):
            after = width * min(2**k, 8)
            stride = 2 if k < layers else 1
            parts += [
                nn.Conv2d(before, after, 4, stride, 1, bias=False),
                nn.GroupNorm(max(1, after // 16), after),
                nn.LeakyReLU(0.2),
            ]
            before = after
        self.layers = nn.Sequential(*parts, nn.Conv2d(before, 1, 4, 1, 1))

    def forward(self, pictures: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 1 p q"]:
        """Scores (b, 1, p, q) of pictures with values in about [-1, 1]."""
        return self.layers(pictures)


def lsgan(scores: Float[Tensor, "b 1 p q"], wanted: float) -> Float[Tensor, ""]:
    """Least-squares adversarial loss (Mao et al., ICCV 2017): mean square of score - wanted."""
    return (scores - wanted).square().mean()
