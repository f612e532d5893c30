"""Plain convolution blocks: fast on a CPU, which depthwise ones are not."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn


def unit(vectors: Float[Tensor, "*s"], dim: int, eps: float = 1e-6) -> Float[Tensor, "*s"]:
    """Vectors along an axis at length 1, shorter ones than `eps` divided by it.

    As `functional.normalize`; on a CPU that takes twenty times as long where the axis is not the
    last one in memory.
    """
    square = (vectors * vectors).sum(dim, keepdim=True)
    return vectors * square.clamp(min=eps * eps).rsqrt()


class ConvUnit(nn.Sequential):
    """Convolution without bias, batch normalisation, ReLU."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 3, stride: int = 1) -> None:
        super().__init__(
            nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(inplace=True),
        )


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions beside an identity or 1x1 path (He et al., CVPR 2016).

    Args:
        inputs: channels in.
        outputs: channels out.
        stride: of the first convolution and of the short cut.
    """

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.first = ConvUnit(inputs, outputs, 3, stride)
        self.second = nn.Sequential(
            nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False), nn.BatchNorm2d(outputs)
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )
        self.activate = nn.ReLU(inplace=True)

    def forward(self, x: Float[Tensor, "b i h w"]) -> Float[Tensor, "b o p q"]:
        """Features (b, outputs, h / stride, w / stride)."""
        return self.activate(self.second(self.first(x)) + self.shortcut(x))


def stage(inputs: int, outputs: int, blocks: int, stride: int = 2) -> nn.Sequential:
    """`blocks` residual blocks, the first with a stride."""
    rest = [ResidualBlock(outputs, outputs) for _ in range(blocks - 1)]
    return nn.Sequential(ResidualBlock(inputs, outputs, stride), *rest)
