"""The networks of the re-renderable texture: a prior with one light, and its refinement.

texture, visibility, normals --> [PriorNet] --> code z, light g;  z --> [prior] --> albedo A0
texture, A0, visibility, normals, texture / shading(g) --> [UvNet] --> light of each texel
texture / shading(light of each texel), where seen, and A0 elsewhere --> [UvNet] --> albedo A
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from lifemask.graphics.lighting import linear_to_srgb, srgb_to_linear
from lifemask.methods._retexture_light import (
    NEUTRAL,
    Sh,
    detail_shading,
    global_shading,
    solved_light,
    spread_light,
    texel_transfer,
    unlit,
)
from lifemask.methods._retexture_types import RetextureInput, RetextureOutput

PriorKind = Literal["vae", "pca", "constant", "bfm"]
Fill = Literal["noise", "mirror", "zero"]
Start = Literal["detail", "global", "none"]
_DARK = 0.08, 0.4
"""Shading, in shares of the mean, up to which colours tell nothing, and from which all."""
_BRIGHT = 0.94, 1.0
"""Largest of a texel's coded colours from which it is doubted, and at which it tells nothing."""


@dataclass(frozen=True)
class RetextureInputs:
    """What the refinement network sees beside the photo's colours.

    Attributes:
        prior: the prior's albedo.
        visibility: which texels the photo shows.
        normals: of the texels, camera frame (ours).
        unlit: the colours divided by the shading of the one light (ours).
    """

    prior: bool = True
    visibility: bool = True
    normals: bool = True
    unlit: bool = True


@dataclass(frozen=True)
class RetextureConfig:
    """Sizes and switches of the network.

    Attributes:
        size: n, texels along a side of the map; a multiple of 32.
        base: channels of the refinement's first layer; 64 published.
        blocks: its residual blocks; 6 published.
        look: channels of the prior network's first layer.
        prior: where the prior albedo comes from: a variational decoder, principal components, one
            mean skin in any tone, or the Basel model (its file is the user's).
        fill: what stands in texels that the photo does not show.
        input: what the refinement sees.
        light: "detail" gives each texel a light of its own, "global" all of them the one light.
        light_step: texels between two lights of their own; bilinear between them. 1 published.
        skips: the decoders see the encoder's maps (ours); the published ones do not.
        start: the albedo starts from the photo divided by each texel's light ("detail") or by the
            one light ("global") where it is seen, and from the prior elsewhere, and the network
            changes it (ours); "none" predicts it from nothing.
        doubt: that start leans to the prior, too, where the photo is nearly black or overexposed
            (ours).
        light_start: the one light corrects the "solved" one, which explains the photo best if the
            skin were the prior's mean (ours), or is "learned" from nothing, as published.
        sh: how light meets albedo: "lifemask" in linear RGB, "deep3d" in coded RGB as published.
    """

    size: int = 128
    base: int = 16
    blocks: int = 3
    look: int = 24
    prior: PriorKind = "vae"
    fill: Fill = "noise"
    input: RetextureInputs = field(default_factory=RetextureInputs)
    light: Literal["detail", "global"] = "detail"
    light_step: int = 4
    skips: bool = True
    start: Start = "detail"
    doubt: bool = True
    light_start: Literal["solved", "learned"] = "solved"
    sh: Sh = "lifemask"


class RetextureNet(nn.Module):
    """Photo on the map to prior, light, albedo and detailed light.

    Args:
        config: sizes and switches.
        prior: code (b, prior.latent) to linear albedo (b, 3, n, n); its weights stay fixed.
        inside: (n, n) texels that the face covers; what lies outside is no face and learns nothing.
    """

    def __init__(self, config: RetextureConfig, prior: nn.Module, inside: Tensor) -> None:
        super().__init__()
        self.config = config
        self.prior = prior.requires_grad_(False).eval()
        self.register_buffer("inside", inside.float().clone(), persistent=False)
        solved = config.light_start == "solved"
        self.look = PriorNet(config.look, int(prior.latent), config.size, 11 if solved else 7)  # pyright: ignore[reportArgumentType]
        flags = config.input
        inputs = 3 + 3 * flags.prior + flags.visibility + 3 * flags.normals + 3 * flags.unlit
        self.refine = UvNet(inputs, config)

    def train(self, mode: bool = True) -> RetextureNet:
        """Training mode for everything but the prior."""
        super().train(mode)
        self.prior.eval()
        return self

    def forward(self, seen: RetextureInput) -> RetextureOutput:
        """Albedo and light of a batch."""
        visible = seen.visible * self.get_buffer("inside")[None, None]
        transfer = texel_transfer(seen.normals)
        code, light = self._glance(seen, visible, transfer)
        prior = self.prior(code)
        shading = global_shading(transfer, light)
        flat = unlit(seen.texture, shading, sh=self.config.sh)
        coded = linear_to_srgb(prior)
        maps = self._inputs(seen, visible, coded, linear_to_srgb(flat.clamp(min=1e-4)))
        levels = self.refine.encode(maps)
        detail = spread_light(light, (change := self.refine.light(levels))) + change
        if self.config.start == "detail":
            shading = detail_shading(transfer, detail)
            flat = unlit(seen.texture, shading, sh=self.config.sh)
        start = None
        if self.config.start != "none":
            share = softened(visible)
            if self.config.doubt:
                share = share * well_lit(seen.texture, shading, visible)
            start = share * linear_to_srgb(flat.clamp(min=1e-4)) + (1 - share) * coded
        albedo = self.refine.albedo(levels, start)
        return RetextureOutput(prior, code, light, srgb_to_linear(albedo), detail)

    def _glance(
        self, seen: RetextureInput, visible: Tensor, transfer: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The prior's code and the one light."""
        maps = [(seen.texture * 2 - 1) * visible, visible, seen.normals]
        if self.config.light_start == "learned":
            return self.look(torch.cat(maps, 1), None)
        with torch.no_grad():
            mean = self.prior(seen.texture.new_zeros(1, self.look.latent)).float()
            light = solved_light(seen.texture, softened(visible), transfer, mean)
            shading = global_shading(transfer, light)
            flat = unlit(seen.texture, shading, sh=self.config.sh)
            flat = linear_to_srgb(flat.clamp(min=1e-4)) - linear_to_srgb(mean)
            grey = shading.mean(1, keepdim=True)
            grey = grey / grey.mean((2, 3), keepdim=True).clamp(min=0.02) - 1
        return self.look(torch.cat((*maps, 2 * flat * visible, grey), 1), light)

    def _inputs(self, seen: RetextureInput, visible: Tensor, prior: Tensor, flat: Tensor) -> Tensor:
        """Input maps of the refinement, about [-1, 1] but for the noise."""
        flags, fill = self.config.input, self.config.fill
        parts = [filled(seen.texture, visible, seen.noise, fill) * 2 - 1]
        if flags.prior:
            parts.append(prior * 2 - 1)
        if flags.visibility:
            parts.append(visible)
        if flags.normals:
            parts.append(seen.normals)
        if flags.unlit:
            parts.append((visible * flat + (1 - visible) * prior) * 2 - 1)
        return torch.cat(parts, 1)


def filled(texture: Tensor, visible: Tensor, noise: Tensor, fill: Fill) -> Tensor:
    """Colours (b, 3, n, n) with something in the texels that are not visible.

    "noise" is standard normal, and so partly outside [0, 1], as published; "mirror" takes the other
    side of the face, and noise where that is hidden, too.
    """
    if fill == "zero":
        return texture * visible
    hidden = noise
    if fill == "mirror":
        other = visible.flip(-1)
        hidden = texture.flip(-1) * other + noise * (1 - other)
    return texture * visible + hidden * (1 - visible)


def softened(visible: Float[Tensor, "b 1 n n"]) -> Float[Tensor, "b 1 n n"]:
    """Visibility shrunk by some texels and feathered: its rim shows hair, background and blur."""
    reach = max(1, visible.shape[-1] // 64)
    low = -functional.max_pool2d(-visible, 2 * reach + 1, 1, reach)
    for _ in range(2):
        low = functional.avg_pool2d(low, 2 * reach + 1, 1, reach, count_include_pad=False)
    return torch.minimum(low, visible)


def well_lit(
    texture: Float[Tensor, "b 3 n n"],
    shading: Float[Tensor, "b 3 n n"],
    visible: Float[Tensor, "b 1 n n"],
) -> Float[Tensor, "b 1 n n"]:
    """How far a texel's colours tell its albedo, in [0, 1]; takes no gradient.

    In deep shadow there is noise, and what skin and hair nearby shine there; an overexposed texel
    has no colour.

    Args:
        texture: sRGB.
        shading: linear; compared with its mean over what is visible.
        visible: which texels the photo shows.
    """
    grey = shading.detach().mean(1, keepdim=True).clamp(min=0)
    mean = (grey * visible).sum((1, 2, 3), keepdim=True) / (
        visible.sum((1, 2, 3), keepdim=True).clamp(min=1)
    )
    dark = smooth_step(grey / mean.clamp(min=1e-3), *_DARK)
    return dark * (1 - smooth_step(texture.amax(1, keepdim=True), *_BRIGHT))


def smooth_step(values: Tensor, low: float, high: float) -> Tensor:
    """0 up to `low`, 1 from `high`, smooth between."""
    t = ((values - low) / (high - low)).clamp(0, 1)
    return t * t * (3 - 2 * t)


class PriorNet(nn.Module):
    """What the photo on the map says of skin and light: a code of the prior and one light.

    It sees the map at half its size, with normals: colour against normal is what tells light.

    Args:
        width: channels of the first layer.
        latent: length of the code.
        size: n.
        inputs: channels of the input.
    """

    def __init__(self, width: int, latent: int, size: int, inputs: int) -> None:
        super().__init__()
        self.latent = latent
        widths = (width, 2 * width, 4 * width, 6 * width)
        levels: list[nn.Module] = []
        for before, after in zip((inputs, *widths[:-1]), widths, strict=True):
            levels += [_conv(before, after, 3, 2), _conv(after, after, 3, 1)]
        self.levels = nn.Sequential(*levels)
        self.pool = nn.AdaptiveAvgPool2d(max(1, min(4, size // 32)))
        cells = max(1, min(4, size // 32)) ** 2
        self.head = nn.Sequential(
            nn.Flatten(), nn.Linear(widths[-1] * cells, 256), nn.LeakyReLU(0.2)
        )
        self.to_code = nn.Linear(256, latent)
        self.to_light = nn.Linear(256, 30)
        for last in (self.to_code, self.to_light):
            nn.init.normal_(last.weight, std=1e-3)
            nn.init.zeros_(last.bias)

    def forward(
        self, maps: Float[Tensor, "b i n n"], start: Float[Tensor, "b 9 3"] | None
    ) -> tuple[Float[Tensor, "b z"], Float[Tensor, "b 9 3"]]:
        """Code and radiance coefficients; see `RetextureOutput`.

        Args:
            maps: colours, visibility, normals, and more.
            start: light to correct; None starts from white light from everywhere.
        """
        found = self.head(self.pool(self.levels(functional.avg_pool2d(maps, 2))))
        code, raw = self.to_code(found), self.to_light(found).view(-1, 10, 3)
        if start is None:
            start = functional.pad(torch.full_like(raw[:, :1], NEUTRAL), (0, 0, 0, 8))
        # what the skin is darker than the mean skin, the light is brighter, channel by channel
        light = start + raw[:, 1:] * start[:, :1].mean(2, keepdim=True)
        return code, light * raw[:, :1].clamp(-3, 3).exp()


class UvNet(nn.Module):
    """The refinement: one encoder, a decoder for albedo and one for light.

    conv3x3 b -> four conv4x4 /2: b, 2b, 4b, 8b -> residual blocks -> albedo: x2 to 4b, 2b, b, b,
    conv3x3 -> tanh; light: bilinear x2 and conv3x3 down to `light_step` texels -> 27.

    Args:
        inputs: channels of the input.
        config: sizes.
    """

    def __init__(self, inputs: int, config: RetextureConfig) -> None:
        super().__init__()
        b = config.base
        self.first = _conv(inputs, b, 3, 1)
        ends = (b, 2 * b, 4 * b, 8 * b)
        starts = (b, *ends[:-1])
        self.down = nn.ModuleList(_conv(i, o, 4, 2) for i, o in zip(starts, ends, strict=True))
        self.blocks = nn.Sequential(*(_Residual(8 * b) for _ in range(config.blocks)))
        outs, joined = (4 * b, 2 * b, b, b), (4 * b, 2 * b, b, b)
        befores = (8 * b, *outs[:-1])
        self.up = nn.ModuleList(_Up(i, o) for i, o in zip(befores, outs, strict=True))
        self.join = nn.ModuleList(
            _conv(o + j, o, 3, 1) for o, j in zip(outs, joined, strict=True) if config.skips
        )
        self.to_albedo = nn.Conv2d(b, 3, 3, 1, 1)
        self.skips = config.skips
        levels: list[nn.Module] = []
        before = 8 * b
        for k in range(4 - _log2(config.light_step) if config.light == "detail" else 0):
            after = max(b, 4 * b // 2**k)
            levels.append(_conv(before + joined[k] * config.skips, after, 3, 1))
            before = after
        self.lights = nn.ModuleList(levels)
        self.to_light = nn.Conv2d(before, 27, 3, 1, 1) if config.light == "detail" else None
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                nn.init.kaiming_normal_(module.weight, 0.2)
        last = [self.to_albedo] if config.start != "none" else []
        for module in (*last, *([self.to_light] if self.to_light is not None else [])):
            nn.init.zeros_(module.weight)
        for module in (self.to_albedo, self.to_light):
            if module is not None and module.bias is not None:
                nn.init.zeros_(module.bias)

    def encode(self, maps: Float[Tensor, "b i n n"]) -> list[Tensor]:
        """Maps from the finest to the coarsest; the last one went through the residual blocks."""
        levels = [self.first(maps)]
        for down in self.down:
            levels.append(down(levels[-1]))
        levels[-1] = self.blocks(levels[-1])
        return levels

    def light(self, levels: list[Tensor]) -> Float[Tensor, "b 27 j j"]:
        """What each light of a grid adds to the one light; the grid is 1 x 1 if nothing."""
        x = levels[-1]
        if self.to_light is None:
            return torch.zeros_like(x[:, :1, :1, :1]).repeat(1, 27, 1, 1)
        for k, conv in enumerate(self.lights):
            x = functional.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
            x = conv(torch.cat((x, levels[-2 - k]), 1) if self.skips else x)
        return self.to_light(x)

    def albedo(
        self, levels: list[Tensor], start: Float[Tensor, "b 3 n n"] | None
    ) -> Float[Tensor, "b 3 n n"]:
        """Coded albedo in (0, 1).

        Args:
            levels: from `encode`.
            start: coded albedo to start from; None starts from mid-grey.
        """
        x = levels[-1]
        for k, up in enumerate(self.up):
            x = up(x)
            if self.skips:
                x = self.join[k](torch.cat((x, levels[-2 - k]), 1))
        change = self.to_albedo(x)
        if start is not None:
            known = start.clamp(0.01, 0.99)  # atanh of 2 known - 1, which no ONNX exporter knows
            change = change + (known / (1 - known)).log() / 2
        return (torch.tanh(change) + 1) / 2


class _Up(nn.Module):
    """Transposed 4x4 convolution of stride 2, normalised."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.grow = nn.ConvTranspose2d(inputs, outputs, 4, 2, 1, bias=False)
        self.norm = nn.GroupNorm(_groups(outputs), outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Twice the size."""
        return functional.leaky_relu(self.norm(self.grow(x)), 0.2)


class _Residual(nn.Module):
    """Two 3x3 convolutions beside the identity."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = _conv(width, width, 3, 1)
        self.second = nn.Sequential(
            nn.Conv2d(width, width, 3, 1, 1, bias=False), nn.GroupNorm(_groups(width), width)
        )

    def forward(self, x: Tensor) -> Tensor:
        """The same size."""
        return functional.leaky_relu(x + self.second(self.first(x)), 0.2)


def _conv(inputs: int, outputs: int, kernel: int, stride: int) -> nn.Sequential:
    """Convolution, group normalisation, leaky ReLU."""
    padding = (kernel - 1) // 2
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, padding, bias=False),
        nn.GroupNorm(_groups(outputs), outputs),
        nn.LeakyReLU(0.2),
    )


def _groups(channels: int) -> int:
    """Groups of eight channels where that divides."""
    return channels // 8 if channels % 8 == 0 else 1


def _log2(step: int) -> int:
    """The exponent of a power of two up to 16.

    Raises:
        ValueError: it is none.
    """
    if step not in (1, 2, 4, 8, 16):
        raise ValueError(f"light_step is {step}; valid: 1, 2, 4, 8, 16")
    return step.bit_length() - 1
