"""The generator of pix2pixHD (Wang et al., CVPR 2018), which RAFaRe's published normals come from.

    picture / 2 -> conv 7 -> 4 x conv /2 -> 9 residual -> 4 x conv x2 ----+
    picture ----> conv 7, w -> conv /2, 2w -----------------------------> + -> 3 residual
                                                                            -> conv x2 -> conv 7

The inner network works at half the resolution (the published "global" one, with twice the width),
the outer one adds what is fine.
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional


class Residual(nn.Module):
    """Two reflected 3x3 convolutions with instance normalisation beside the identity."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *_conv(channels, channels, 3), nn.ReflectionPad2d(1), nn.Conv2d(channels, channels, 3),
            nn.InstanceNorm2d(channels),
        )  # fmt: skip

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Features of the same shape."""
        return x + self.body(x)


class Pix2PixHd(nn.Module):
    """Global generator and one local enhancer.

    Args:
        inputs: channels of the picture.
        outputs: channels of the answer, not limited by any function.
        width: of the enhancer's first layer; the global generator has twice that (published: 32).
        down: how often the global generator halves its resolution.
        blocks: residual blocks of the global generator.
        local_blocks: residual blocks of the enhancer.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int = 3,
        width: int = 32,
        down: int = 4,
        blocks: int = 9,
        local_blocks: int = 3,
    ) -> None:
        super().__init__()
        wide = 2 * width
        layers: list[nn.Module] = [*_conv(inputs, wide, 7)]
        for k in range(down):
            layers += _halving(wide * 2**k, wide * 2 ** (k + 1))
        layers += [Residual(wide * 2**down) for _ in range(blocks)]
        for k in reversed(range(down)):
            layers += _doubling(wide * 2 ** (k + 1), wide * 2**k)
        self.whole = nn.Sequential(*layers)
        self.enter = nn.Sequential(*_conv(inputs, width, 7), *_halving(width, wide))
        self.leave = nn.Sequential(
            *(Residual(wide) for _ in range(local_blocks)), *_doubling(wide, width),
            nn.ReflectionPad2d(3), nn.Conv2d(width, outputs, 7),
        )  # fmt: skip

    def forward(self, picture: Float[Tensor, "b i h w"]) -> Float[Tensor, "b o h w"]:
        """Answer (b, outputs, h, w); h and w are multiples of 2 ** (down + 1)."""
        half = functional.avg_pool2d(picture, 3, 2, 1, count_include_pad=False)
        return self.leave(self.enter(picture) + self.whole(half))


def _conv(inputs: int, outputs: int, kernel: int) -> list[nn.Module]:
    pad = nn.ReflectionPad2d(kernel // 2)
    return [pad, nn.Conv2d(inputs, outputs, kernel), nn.InstanceNorm2d(outputs), nn.ReLU()]


def _halving(inputs: int, outputs: int) -> list[nn.Module]:
    return [nn.Conv2d(inputs, outputs, 3, 2, 1), nn.InstanceNorm2d(outputs), nn.ReLU()]


def _doubling(inputs: int, outputs: int) -> list[nn.Module]:
    up = nn.ConvTranspose2d(inputs, outputs, 3, 2, 1, output_padding=1)
    return [up, nn.InstanceNorm2d(outputs), nn.ReLU()]
