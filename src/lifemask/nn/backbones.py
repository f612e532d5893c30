"""The networks under a coefficient regressor: a crop with extra input channels to a feature vector.

    tiny           4 convolutions                                 -> global pool -> 32
    mobile         the landmarker's trunk                         -> linear      -> 384
    resnet18_half  7x7/2, pool, 32/64/128/256, strides 1, 2, 2, 1 -> global pool -> 256
    resnet50       7x7/2, pool, 3/4/6/3, strides 1, 2, 2, 1       -> 7x7 pool    -> 2048

The two ResNets (He et al., CVPR 2016) follow 2DASL (arXiv 1903.09359 and its published code): the
stem takes the map as a fourth channel, and the last stage keeps the resolution, so that 120 px end
as 8 x 8 cells. Every convolution stands with its normalisation in one `nn.Sequential`, which is
what folding them for export needs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lifemask.assets import UserError
from lifemask.nn.blocks import ConvUnit, ResidualBlock, stage

BackboneName = Literal["tiny", "mobile", "resnet18_half", "resnet50"]

MOBILE_WIDTHS = (24, 40, 80, 160)  # the shipped landmarkers' sizes: their weights fit
MOBILE_BLOCKS = (1, 2, 2)
MOBILE_SQUEEZED = 64
MOBILE_HIDDEN = 384
PLACELESS = ("pool", "squeeze")
"""Layers after which a backbone's features have lost their place."""
LANDMARKER_FROM_DASL = 256 / 127.5
"""`4 x - 2` of the landmarker over `(255 x - 127.5) / 128` of 2DASL, x in [0, 1]; both have
mid-grey at 0, and so the same zero padding."""


class Backbone(nn.Module):
    """Named layers, one after the other.

    Args:
        features: length of the output.
        layers: in the order in which they run; their names are attributes.
    """

    def __init__(self, features: int, **layers: nn.Module) -> None:
        super().__init__()
        self.features = features
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, x: Float[Tensor, "b i s s"]) -> Float[Tensor, "b f"]:
        """Features (b, features).

        Args:
            x: (b, inputs, s, s) normalised crops and their further channels, about [-1, 1]; s is
                the size that the network was built for.
        """
        for layer in self.children():
            x = layer(x)
        return x

    def cells(self, x: Float[Tensor, "b i s s"]) -> Float[Tensor, "b c h w"]:
        """The last features that still lie in place, before anything is pooled or flattened."""
        for name, layer in self.named_children():
            if name in PLACELESS:
                break
            x = layer(x)
        return x


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions beside an identity or 1x1 path (He et al., CVPR 2016).

    The stride is the 3x3 convolution's, as in 2DASL's code.

    Args:
        inputs: channels in.
        inner: channels of the first two convolutions; 4 times as many come out.
        stride: of the 3x3 convolution and of the short cut.
    """

    def __init__(self, inputs: int, inner: int, stride: int = 1) -> None:
        super().__init__()
        outputs = 4 * inner
        self.first = ConvUnit(inputs, inner, 1)
        self.second = ConvUnit(inner, inner, 3, stride)
        self.third = nn.Sequential(
            nn.Conv2d(inner, outputs, 1, bias=False), nn.BatchNorm2d(outputs)
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )
        self.activate = nn.ReLU(inplace=True)

    def forward(self, x: Float[Tensor, "b i h w"]) -> Float[Tensor, "b o p q"]:
        """Features (b, 4 inner, h / stride, w / stride)."""
        return self.activate(self.third(self.second(self.first(x))) + self.shortcut(x))


def create_backbone(name: BackboneName, inputs: int = 4, size: int = 120) -> Backbone:
    """A backbone with fresh weights.

    Convolutions start as in He et al. (ICCV 2015). In the ResNets the last normalisation of every
    residual branch starts at 0, so that a block starts as its short cut (Goyal et al., 2017).

    Args:
        name: a key of `BACKBONES`.
        inputs: channels of the input.
        size: side of the input in px.

    Raises:
        UserError: an unknown name, or a size that the network cannot take.
    """
    if name not in BACKBONES:
        raise UserError(f"unknown backbone {name!r}; valid: {', '.join(BACKBONES)}")
    backbone = BACKBONES[name](inputs, size)
    for module in backbone.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    if name in ("resnet18_half", "resnet50"):
        _silence_branches(backbone)
    return backbone


def mobile_from_landmarker(weights: Mapping[str, Tensor], backbone: Backbone) -> dict[str, Tensor]:
    """A landmarker's trunk as weights of a "mobile" backbone, for `load_state_dict`.

    With them the features of a 2DASL input equal the landmarker's `summary` of the same crop,
    whatever the further channels hold: the stem's first three channels are the landmarker's, scaled
    from its normalisation to 2DASL's, the others 0.

    Args:
        weights: of a `LandmarkNet` with the shipped sizes.
        backbone: from `create_backbone("mobile", ...)`.

    Raises:
        UserError: the weights do not fit: another size of network or of crop.
    """
    wanted = backbone.state_dict()
    result = {name: weights[name].detach() for name in wanted if name in weights}
    if "stem.0.weight" in wanted and "stem.0.weight" in result:
        colours = result["stem.0.weight"].float() * LANDMARKER_FROM_DASL
        further_inputs = max(wanted["stem.0.weight"].shape[1] - colours.shape[1], 0)
        outputs, _, *kernel = colours.shape
        further = colours.new_zeros(outputs, further_inputs, *kernel)
        result["stem.0.weight"] = torch.cat((colours, further), 1)
    for name, tensor in wanted.items():
        if name not in result or result[name].shape != tensor.shape:
            found = tuple(result[name].shape) if name in result else "nothing"
            raise UserError(
                f"the landmarker's weights do not fit the mobile backbone: {name} is {found}, "
                f"not {tuple(tensor.shape)}. Start from a landmarker of the cpu recipe, with "
                f"crops of the size that it was trained with (112 px for the shipped ones)."
            )
        result[name] = result[name].to(tensor.dtype)
    return result


def _tiny(inputs: int, size: int) -> Backbone:
    """For smoke runs, any size. 16 channels at least: see docs/training.md, Traps."""
    return Backbone(
        32,
        stem=ConvUnit(inputs, 16, 3, 2),
        second=ConvUnit(16, 16, 3, 2),
        third=ConvUnit(16, 32, 3, 2),
        fourth=ConvUnit(32, 32, 3, 2),
        pool=nn.AdaptiveAvgPool2d(1),
        flatten=nn.Flatten(),
    )


def _mobile(inputs: int, size: int) -> Backbone:
    """The landmarker's trunk under the landmarker's names."""
    if size <= 0 or size % 16:
        raise UserError(f"the mobile backbone takes sizes that are multiples of 16, not {size}")
    w2, w4, w8, w16 = MOBILE_WIDTHS
    cells = (size // 16) ** 2
    return Backbone(
        MOBILE_HIDDEN,
        stem=ConvUnit(inputs, w2, 5, 2),
        stage4=stage(w2, w4, MOBILE_BLOCKS[0]),
        stage8=stage(w4, w8, MOBILE_BLOCKS[1]),
        stage16=stage(w8, w16, MOBILE_BLOCKS[2]),
        squeeze=ConvUnit(w16, MOBILE_SQUEEZED, 1),
        flatten=nn.Flatten(),
        summary=nn.Sequential(
            nn.Linear(MOBILE_SQUEEZED * cells, MOBILE_HIDDEN), nn.ReLU(inplace=True)
        ),
    )


def _resnet18_half(inputs: int, size: int) -> Backbone:
    """ResNet-18 at half its widths, any size."""
    return Backbone(
        256,
        stem=ConvUnit(inputs, 32, 7, 2),
        shrink=nn.MaxPool2d(3, 2, 1),
        stage4=stage(32, 32, 2, stride=1),
        stage8=stage(32, 64, 2),
        stage16=stage(64, 128, 2),
        last=stage(128, 256, 2, stride=1),
        pool=nn.AdaptiveAvgPool2d(1),
        flatten=nn.Flatten(),
    )


def _resnet50(inputs: int, size: int) -> Backbone:
    """ResNet-50 as published.

    The pool takes 7 x 7 cells from the upper left: of the 8 x 8 that 120 px give, the last row and
    column stay unseen, as in the published network.
    """
    cells = -(-size // 16)
    if cells not in (7, 8):
        raise UserError(f"the resnet50 backbone takes sizes from 97 to 128, not {size}")
    return Backbone(
        2048,
        stem=ConvUnit(inputs, 64, 7, 2),
        shrink=nn.MaxPool2d(3, 2, 1),
        stage4=_bottlenecks(64, 64, 3, 1),
        stage8=_bottlenecks(256, 128, 4, 2),
        stage16=_bottlenecks(512, 256, 6, 2),
        last=_bottlenecks(1024, 512, 3, 1),
        pool=nn.AvgPool2d(7),
        flatten=nn.Flatten(),
    )


BACKBONES: dict[str, Callable[[int, int], Backbone]] = {
    "tiny": _tiny,
    "mobile": _mobile,
    "resnet18_half": _resnet18_half,
    "resnet50": _resnet50,
}


def _bottlenecks(inputs: int, inner: int, blocks: int, stride: int) -> nn.Sequential:
    """`blocks` bottlenecks, the first with a stride."""
    rest = [Bottleneck(4 * inner, inner) for _ in range(blocks - 1)]
    return nn.Sequential(Bottleneck(inputs, inner, stride), *rest)


def _silence_branches(network: nn.Module) -> None:
    """Start every residual branch at 0 by the gamma of its last normalisation."""
    for module in network.modules():
        if isinstance(module, ResidualBlock | Bottleneck):
            last = module.third if isinstance(module, Bottleneck) else module.second
            norm = last[1]
            assert isinstance(norm, nn.BatchNorm2d)
            nn.init.zeros_(norm.weight)
