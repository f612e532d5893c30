"""Pixel-aligned implicit fields and their normal network (RAFaRe, arXiv 2302.05486).

    crop -> stem /2 -> blocks [pool /2] -> hourglasses -> features -+-> MLP -> value of each point
                                              points (x, y), z -----^

A field says a number for any point of the cube in front of a crop: the signed distance (`f_base`),
or what a box filter takes away from it (`f_fine`). Frames: `docs/conventions.md`, "The cube".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from lifemask.nn.blocks import unit
from lifemask.nn.pix2pixhd import Pix2PixHd

Z_GAIN = 256 / 200
"""Factor on z as an input of the MLP (published code)."""
CLASS_GAIN = 20 / 255
"""Factor on the region class as an input channel (published code)."""
GUIDE_REACH = 0.08
"""Distance to the guide, in half-crops, at which that input saturates."""
START_REACH = 0.05
"""Distance to the guide, in half-crops, at which what a field starts from saturates: behind the
front there are other surfaces, which the guide's front says nothing of."""
_GROUP = 8
_IMAGE_CHANNELS, _GUIDE_CHANNELS = 4, 5


@dataclass(frozen=True)
class FieldNetConfig:
    """Sizes and switches of a field.

    Attributes:
        size: side of the crop in px, a multiple of 4 * fold * 2 ** levels.
        fold: side of the pixel blocks that the stem takes as channels; 1 = single pixels. A base
            that folds by 2 sees crops of twice the side at little more than the same cost.
        semantic: the region class is an input beside the colours.
        guide: depth and normals of a parametric head are inputs, and the field starts from the
            distance to it.
        stem: channels of the 7x7 convolution with stride 2.
        widths: channels of the blocks after it.
        pool: halve the resolution after the first block.
        residual: blocks add their input (f_base); without, they do not (f_fine, published code).
        stacks: hourglasses, each supervised; 0 for none.
        levels: how often an hourglass halves the resolution.
        features: channels of the maps that points look at, after an hourglass; 0: the last block's.
        mlp: hidden sizes of the MLP; the input is fed again to every layer but the first.
    """

    size: int = 128
    semantic: bool = True
    guide: bool = True
    stem: int = 32
    widths: tuple[int, ...] = (64, 64)
    pool: bool = True
    residual: bool = True
    stacks: int = 1
    levels: int = 2
    mlp: tuple[int, ...] = (256, 128, 64)
    fold: int = 1
    features: int = 0

    @property
    def inputs(self) -> int:
        """Channels of the stem's input."""
        return (_IMAGE_CHANNELS + _GUIDE_CHANNELS * self.guide) * self.fold**2

    @property
    def told(self) -> int:
        """Channels of the maps that points look at."""
        return self.features if self.features and self.stacks else self.widths[-1]


@dataclass(frozen=True)
class View:
    """What the networks see of b crops.

    Attributes:
        picture: (b, 4, s, s) colours in [-1, 1] and class id times `CLASS_GAIN`, 0 off the face.
        guide_depth: (b, 1, s, s) z of a parametric head in the cube, 0 where it is not.
        guide_normals: (b, 3, s, s) its normals, camera frame, 0 where it is not.
        guide_there: (b, 1, s, s) 1 where it is.
    """

    picture: Float[Tensor, "b 4 s s"]
    guide_depth: Float[Tensor, "b 1 s s"]
    guide_normals: Float[Tensor, "b 3 s s"]
    guide_there: Float[Tensor, "b 1 s s"]

    def stacked(self, semantic: bool, guide: bool, fold: int = 1) -> Float[Tensor, "b c t t"]:
        """The input channels of a network; blocks of `fold` x `fold` pixels become channels."""
        picture = self.picture
        if not semantic:
            picture = torch.cat((picture[:, :3], torch.zeros_like(picture[:, 3:])), 1)
        seen = [picture]
        if guide:
            seen += [self.guide_depth, self.guide_there, self.guide_normals]
        return functional.pixel_unshuffle(torch.cat(seen, 1), fold)


class ConvBlock(nn.Module):
    """Three pre-activated 3x3 convolutions, concatenated, added to the input.

    The convolutions give a half, a quarter and a quarter of the channels and follow each other
    (Bulat and Tzimiropoulos, ICCV 2017).

    Args:
        inputs: channels in.
        outputs: channels out, a multiple of 4.
        residual: add the input, through a 1x1 convolution where the channels differ.
    """

    def __init__(self, inputs: int, outputs: int, residual: bool = True) -> None:
        super().__init__()
        half, quarter = outputs // 2, outputs // 4
        sizes = ((inputs, half), (half, quarter), (quarter, quarter))
        self.parts = nn.ModuleList(
            nn.Sequential(_norm(i), nn.ReLU(), nn.Conv2d(i, o, 3, padding=1, bias=False))
            for i, o in sizes
        )
        self.residual = residual
        self.shortcut: nn.Module = nn.Identity()
        if residual and inputs != outputs:
            self.shortcut = nn.Sequential(
                _norm(inputs), nn.ReLU(), nn.Conv2d(inputs, outputs, 1, bias=False)
            )

    def forward(self, x: Float[Tensor, "b i h w"]) -> Float[Tensor, "b o h w"]:
        """Features (b, outputs, h, w)."""
        found, last = [], x
        for part in self.parts:
            last = part(last)
            found.append(last)
        joined = torch.cat(found, 1)
        return joined + self.shortcut(x) if self.residual else joined


class Hourglass(nn.Module):
    """Blocks at several resolutions, added on the way up (Newell et al., ECCV 2016).

    Args:
        channels: in and out.
        levels: how often the resolution is halved.
    """

    def __init__(self, channels: int, levels: int) -> None:
        super().__init__()
        self.beside = nn.ModuleList(ConvBlock(channels, channels) for _ in range(levels))
        self.down = nn.ModuleList(ConvBlock(channels, channels) for _ in range(levels))
        self.up = nn.ModuleList(ConvBlock(channels, channels) for _ in range(levels))
        self.middle = ConvBlock(channels, channels)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Features of the same shape."""
        kept = []
        for beside, down in zip(self.beside, self.down, strict=True):
            kept.append(beside(x))
            x = down(functional.avg_pool2d(x, 2))
        x = self.middle(x)
        for up, beside in zip(reversed(self.up), reversed(kept), strict=True):
            x = up(x)
            x = functional.interpolate(x, scale_factor=2, mode="bicubic", align_corners=True)
            x = x + beside
        return x


class FieldEncoder(nn.Module):
    """Crop to feature maps, one for each hourglass (one in all without hourglasses)."""

    def __init__(self, config: FieldNetConfig) -> None:
        super().__init__()
        self.config = config
        self.stem = nn.Sequential(
            nn.Conv2d(config.inputs, config.stem, 7, 2, 3), _norm(config.stem), nn.ReLU()
        )
        inputs = (config.stem, *config.widths[:-1])
        self.blocks = nn.ModuleList(
            ConvBlock(i, o, config.residual) for i, o in zip(inputs, config.widths, strict=True)
        )
        width, told = config.widths[-1], config.told
        count = config.stacks
        self.glasses = nn.ModuleList(Hourglass(width, config.levels) for _ in range(count))
        self.after = nn.ModuleList(
            nn.Sequential(ConvBlock(width, width), nn.Conv2d(width, width, 1), _norm(width),
                          nn.ReLU())
            for _ in range(count)
        )  # fmt: skip
        self.told = nn.ModuleList(nn.Conv2d(width, told, 1) for _ in range(count))
        self.back = nn.ModuleList(
            nn.ModuleList((nn.Conv2d(width, width, 1), nn.Conv2d(told, width, 1)))
            for _ in range(max(count - 1, 0))
        )

    def forward(self, view: View) -> list[Float[Tensor, "b c h w"]]:
        """Feature maps (b, c, size / (2 or 4) / fold, ...), the last is used at test time."""
        config = self.config
        x = self.stem(view.stacked(config.semantic, config.guide, config.fold))
        for number, block in enumerate(self.blocks):
            x = block(x)
            if number == 0 and config.pool:
                x = functional.avg_pool2d(x, 2)
        if not self.glasses:
            return [x]
        found = []
        for number, (glass, after, told) in enumerate(
            zip(self.glasses, self.after, self.told, strict=True)
        ):
            y = after(glass(x))
            found.append(told(y))
            if number < len(self.back):
                own, said = self.back[number]  # pyright: ignore[reportGeneralTypeIssues]
                x = x + own(y) + said(found[-1])
        return found


class FieldMlp(nn.Module):
    """Point features to one value; the input is fed again to each layer but the first."""

    def __init__(self, inputs: int, hidden: tuple[int, ...]) -> None:
        super().__init__()
        sizes = (inputs, *(h + inputs for h in hidden))
        self.layers = nn.ModuleList(
            nn.Linear(i, o) for i, o in zip(sizes, (*hidden, 1), strict=True)
        )

    def forward(self, features: Float[Tensor, "*n i"]) -> Float[Tensor, "*n"]:
        """One value each."""
        x = features
        for number, layer in enumerate(self.layers):
            if number == 0:
                x = layer(features)
            else:  # the layer of (x, features) without writing them side by side
                assert isinstance(layer, nn.Linear)
                own, fed = layer.weight.split([x.shape[-1], features.shape[-1]], 1)
                x = functional.linear(features, fed, layer.bias).add_(functional.linear(x, own))
            if number + 1 < len(self.layers):
                x = functional.leaky_relu(x, inplace=True)
        return x[..., 0]


class FieldNet(nn.Module):
    """A field over the cube in front of a crop.

    `encode` looks at the crops once; `query` answers for any points.

    Args:
        config: sizes and switches.
        starts_from_guide: the value is added to the distance to the guide (`f_base`).
    """

    def __init__(self, config: FieldNetConfig, *, starts_from_guide: bool = False) -> None:
        super().__init__()
        self.config = config
        self.starts_from_guide = starts_from_guide and config.guide
        self.encoder = FieldEncoder(config)
        self.mlp = FieldMlp(config.told + 1 + 2 * config.guide, config.mlp)
        self.apply(_start)

    def encode(self, view: View) -> list[Float[Tensor, "b c h w"]]:
        """Feature maps of the crops, one for each hourglass."""
        return self.encoder(view)

    def query(
        self, features: Float[Tensor, "b c h w"], view: View, points: Float[Tensor, "b n 3"]
    ) -> Float[Tensor, "b n"]:
        """Values at points of the cube, in single precision whatever the maps were made in.

        In bfloat16 a coordinate may be 0.004 half-crops off, half a millimetre.

        Args:
            features: one map of `encode`.
            view: what it was made from.
            points: (b, n, 3) in half-crops: x right, y up, z towards the viewer.
        """
        with torch.autocast(points.device.type, enabled=False):
            seen = at_points(features.to(points.dtype), points)
            parts = [seen, points[..., 2:] * Z_GAIN]
            start = points.new_zeros(())
            if self.config.guide:
                distance, there = guide_distance(view, points)
                parts += [(distance / GUIDE_REACH).clamp(-1, 1)[..., None], there[..., None]]
                start = distance.clamp(-START_REACH, START_REACH)
            value = self.mlp(torch.cat(parts, -1))
            return value + start if self.starts_from_guide else value

    def forward(self, view: View, points: Float[Tensor, "b n 3"]) -> Float[Tensor, "k b n"]:
        """Values of each of the k hourglasses."""
        return torch.stack([self.query(found, view, points) for found in self.encode(view)])


def at_points(
    maps: Float[Tensor, "b c h w"], points: Float[Tensor, "b n 3"]
) -> Float[Tensor, "b n c"]:
    """Bilinear values of maps where points of the cube project; 0 outside the crop."""
    grid = torch.stack((points[..., 0], -points[..., 1]), -1)[:, :, None]
    found = functional.grid_sample(maps, grid.to(maps.dtype), align_corners=False)
    return found[..., 0].transpose(1, 2)


def guide_distance(
    view: View, points: Float[Tensor, "b n 3"]
) -> tuple[Float[Tensor, "b n"], Float[Tensor, "b n"]]:
    """First-order signed distance of points to the guide's front, and how much of it is there.

    `(z - depth) n_z`, positive outside, in half-crops; 0 where there is no guide.
    """
    there = view.guide_there
    maps = torch.cat((view.guide_depth * there, view.guide_normals[:, 2:] * there, there), 1)
    depth, facing, share = at_points(maps, points).unbind(-1)
    known = share.clamp(min=1e-3)
    distance = (points[..., 2] - depth / known) * (facing / known)
    return distance * (share > 1e-3), share


@dataclass(frozen=True)
class NormalNetConfig:
    """Sizes and switches of the normal network.

    Attributes:
        size: side of the crop in px, a multiple of fold * 2 ** (levels - 1) (of 32 for pix2pixhd).
        semantic: the region class is an input.
        guide: depth and normals of a parametric head are inputs; the answer starts from them.
        kind: "unet" (ours), or the published generator "pix2pixhd".
        widths: channels of the U-Net's levels, finest first, multiples of 4; of pix2pixhd the first
            counts alone.
        back: the answer is the normals of the back of the head, turned to the viewer.
        fold: side of the pixel blocks that the U-Net's finest level takes and tells as channels.
    """

    size: int = 128
    semantic: bool = True
    guide: bool = True
    kind: Literal["unet", "pix2pixhd"] = "unet"
    widths: tuple[int, ...] = (16, 32, 64, 128)
    back: bool = False
    fold: int = 1

    def __post_init__(self) -> None:
        """Check that the published generator keeps its pixels."""
        if self.kind == "pix2pixhd" and self.fold != 1:
            raise ValueError("pix2pixhd takes single pixels: leave fold at 1")


class NormalNet(nn.Module):
    """From crop to the normals of the face's front, or of what lies behind it.

    The answer starts from the guide's normals. For the back they are turned half a turn about the
    view: where the outline of a smooth head is, its back's normals are those, and on a ball
    everywhere.

    Args:
        config: sizes and switches.
    """

    def __init__(self, config: NormalNetConfig) -> None:
        super().__init__()
        self.config = config
        inputs = _IMAGE_CHANNELS + _GUIDE_CHANNELS * config.guide
        if config.kind == "unet":
            block = config.fold**2
            self.body: nn.Module = PlainUNet(inputs * block, 3 * block, config.widths)
        else:
            self.body = Pix2PixHd(inputs, 3, config.widths[0])
        self.apply(_start)

    def forward(self, view: View) -> Float[Tensor, "b 3 s s"]:
        """Unit normals, camera frame: x right, y up, z towards the viewer.

        Those of the back are the inward ones, n_z > 0.
        """
        config = self.config
        seen = view.stacked(config.semantic, config.guide, config.fold)
        said = functional.pixel_shuffle(self.body(seen), config.fold)
        start = torch.zeros_like(said)
        start[:, 2] = 1.0
        if self.config.guide:
            there = view.guide_there
            guide = view.guide_normals
            if self.config.back:
                guide = torch.cat((-guide[:, :2], guide[:, 2:]), 1)
            start = guide * there + start * (1 - there)
        return unit(said + start, 1)


class PlainUNet(nn.Module):
    """A U-Net of `ConvBlock`s whose way up adds the way down.

    Args:
        inputs: channels in.
        outputs: channels out.
        widths: channels of the levels, finest first.
    """

    def __init__(self, inputs: int, outputs: int, widths: tuple[int, ...]) -> None:
        super().__init__()
        self.enter = nn.Conv2d(inputs, widths[0], 3, padding=1)
        self.down = nn.ModuleList(
            ConvBlock(i, o) for i, o in zip((widths[0], *widths[:-1]), widths, strict=True)
        )
        self.lift = nn.ModuleList(
            nn.Conv2d(deep, w, 1) for w, deep in zip(widths[:-1], widths[1:], strict=True)
        )
        self.up = nn.ModuleList(ConvBlock(w, w) for w in widths[:-1])
        self.told = nn.Conv2d(widths[0], outputs, 3, padding=1)

    def forward(self, x: Float[Tensor, "b i h w"]) -> Float[Tensor, "b o h w"]:
        """Answer (b, outputs, h, w)."""
        x = self.enter(x)
        kept = []
        for number, block in enumerate(self.down):
            x = block(functional.avg_pool2d(x, 2) if number else x)
            kept.append(x)
        for number in reversed(range(len(self.up))):
            x = functional.interpolate(self.lift[number](x), scale_factor=2, mode="bilinear")
            x = self.up[number](x + kept[number])
        return self.told(x)


def _norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(max(1, channels // _GROUP), channels)


def _start(module: nn.Module) -> None:
    """N(0, 0.02) for convolutions (published code), a small last layer of the MLP."""
    if isinstance(module, nn.Conv2d):
        nn.init.normal_(module.weight, 0.0, 0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    if isinstance(module, FieldMlp):
        nn.init.normal_(module.layers[-1].weight, 0.0, 0.001)  # pyright: ignore[reportArgumentType]
        nn.init.zeros_(module.layers[-1].bias)  # pyright: ignore[reportArgumentType]
