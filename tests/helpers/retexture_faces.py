"""Faces without a head for the tests of the re-renderable texture: a ball before the camera.

The map is the ball's front and the picture shows each texel in a pixel of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from lifemask.methods._retexture_chart import OUTSIDE
from lifemask.methods._retexture_light import (
    NEUTRAL,
    global_shading,
    lit,
    spread_light,
    texel_transfer,
)
from lifemask.methods._retexture_loss import RetextureLoss, RetextureLossConfig
from lifemask.methods._retexture_net import RetextureConfig, RetextureNet
from lifemask.methods._retexture_perceptual import PictureFeatures
from lifemask.methods._retexture_prior import LinearPrior
from lifemask.methods._retexture_types import RetextureBatch, RetextureInput, RetextureOutput

SIZE = 32
SMALL = RetextureConfig(size=SIZE, base=8, blocks=1, look=8, prior="constant")
TERMS = (
    "photo", "perceptual", "style", "grad", "reg_detail", "symmetry", "chroma", "reg_light",
    "white", "light_tv", "uv_gan", "img_gan", "albedo_sup", "prior_sup", "light_sup", "detail_sup",
    "code",
)  # fmt: skip
TONE = (0.5, 0.32, 0.24)
"""Linear albedo of the prior's mean skin."""


def axes(size: int = SIZE) -> tuple[Tensor, Tensor]:
    """x to the right and y up of each texel (n, n), both from -1 to 1."""
    places = (torch.arange(size) + 0.5) / size * 2 - 1
    y, x = torch.meshgrid(-places, places, indexing="ij")
    return x, y


def ball(size: int = SIZE) -> tuple[Tensor, Tensor]:
    """Normals (3, n, n) of the map and the texels (n, n) that it covers."""
    x, y = axes(size)
    flat = (x.square() + y.square()).clamp(max=0.95)
    normals = functional.normalize(torch.stack((x, y, (1 - flat).sqrt())), dim=0)
    return normals, x.square() + y.square() < 0.9


def spot(x: float, y: float, radius: float, size: int = SIZE) -> Tensor:
    """A soft spot (n, n) of height 1."""
    right, up = axes(size)
    return torch.exp(-((right - x).square() + (up - y).square()) / (2 * radius**2))


def skins(count: int, seed: int = 0, size: int = SIZE) -> Tensor:
    """Linear albedo (b, 3, n, n) of faces that are their own mirror images: tone, brows, lips."""
    draw = torch.Generator().manual_seed(seed)
    tones = torch.tensor(TONE) * torch.exp(0.3 * torch.randn(count, 1, generator=draw))
    tones = tones * torch.exp(0.1 * torch.randn(count, 3, generator=draw))
    brows = spot(-0.4, 0.4, 0.12, size) + spot(0.4, 0.4, 0.12, size)
    deep, red = (0.5 + torch.rand(count, 1, 1, 1, generator=draw) for _ in range(2))
    darker = 0.8 * deep * brows
    redder = red * spot(0, -0.5, 0.15, size) * torch.tensor([0.1, 0.6, 0.5])[:, None, None]
    return (tones[..., None, None] * torch.exp(-darker - redder)).clamp(0.02, 0.95)


def lights(count: int, seed: int = 0, strength: float = 0.25) -> Tensor:
    """Radiance coefficients (b, 9, 3) of soft, nearly white light that shades with about 1."""
    draw = torch.Generator().manual_seed(seed + 1000)
    exposure = 0.8 * torch.exp(0.15 * torch.randn(count, 1, 1, generator=draw)) * NEUTRAL
    shape = strength * torch.randn(count, 8, 1, generator=draw) / torch.ones(8)[:, None].sqrt()
    tint = 1 + 0.05 * torch.randn(count, 1, 3, generator=draw)
    return torch.cat((torch.ones(count, 1, 1), shape), 1) * exposure * tint


def faces(
    count: int,
    seed: int = 0,
    *,
    albedo: Tensor | None = None,
    light: Tensor | None = None,
    shadow: Tensor | None = None,
    visible: Tensor | None = None,
    size: int = SIZE,
) -> RetextureBatch:
    """Faces with their pictures and their truth.

    Args:
        count: b.
        seed: of skins and lights.
        albedo: (b, 3, n, n) linear; None for `skins`.
        light: (b, 9, 3); None for `lights`.
        shadow: (n, n) factor that shading gets beside the one light.
        visible: (n, n) texels that the picture shows; None for all.
        size: n.
    """
    normals, inside = ball(size)
    albedo = skins(count, seed, size) if albedo is None else albedo
    light = lights(count, seed) if light is None else light
    shown = inside.float() * (torch.ones(size, size) if visible is None else visible)
    spread = normals.expand(count, -1, -1, -1).contiguous()
    shading = global_shading(texel_transfer(spread), light).clamp(min=0.05)
    if shadow is not None:
        shading = shading * shadow
    wall = torch.tensor([0.2, 0.3, 0.6])[:, None, None]
    texture = lit(albedo, shading).clamp(0, 1)
    x, y = axes(size)
    places = torch.where(shown[..., None] > 0, torch.stack((x, -y), -1), OUTSIDE)
    noise = torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(seed))
    wide = shown.expand(count, 1, -1, -1).contiguous()
    return RetextureBatch(
        RetextureInput(texture * wide, wide, spread, noise),
        texture * wide + wall * (1 - wide),
        places.expand(count, -1, -1, -1).contiguous(),
        wide,
        albedo * inside,
        inside.float().expand(count, 1, -1, -1).contiguous(),
        light,
        torch.ones(count),
    )


def unknown(batch: RetextureBatch) -> RetextureBatch:
    """The same faces as photos, of which nothing is known."""
    names = ("albedo", "truth", "light", "lit")
    return replace(batch, **{name: torch.zeros_like(getattr(batch, name)) for name in names})


def tone_prior(size: int = SIZE) -> LinearPrior:
    """One tone over the whole map; a code of three numbers."""
    mean = torch.tensor(TONE).log()[:, None, None].expand(3, size, size)
    basis = torch.diag(torch.tensor([0.5, 0.6, 0.7]))[..., None, None]
    return LinearPrior(mean, basis.expand(3, 3, size, size).contiguous(), "log", size)


def answer(batch: RetextureBatch, places: int = SIZE, **changes: Tensor) -> RetextureOutput:
    """What a network would say that knows everything, but for changes.

    Args:
        batch: with truth.
        places: side of the grid of lights.
        changes: other parts of the output.
    """
    grid = batch.albedo.new_zeros(len(batch.photo), 1, places, places)
    outside = 1 - ball(batch.albedo.shape[-1])[1].float()
    whole = batch.albedo + outside * torch.tensor(TONE)[:, None, None]
    said = RetextureOutput(
        whole, torch.zeros(len(whole), 3), batch.light, whole, spread_light(batch.light, grid)
    )
    return said._replace(**changes)


def create_net(seed: int = 0, **changes: Any) -> RetextureNet:
    """A small network over the ball with the prior of tones."""
    torch.manual_seed(seed)
    config = replace(SMALL, **changes)
    return RetextureNet(config, tone_prior(config.size), ball(config.size)[1])


def only(**weights: Any) -> RetextureLossConfig:
    """Settings in which all terms are off but these; adversaries come from the first step."""
    off = dict.fromkeys(TERMS, 0.0)
    return replace(RetextureLossConfig(), **{**off, "gan_from": 0, "critic_width": 8, **weights})


def loss_of(config: RetextureLossConfig, embed: Any = None, seed: int = 0) -> RetextureLoss:
    """The loss over the ball."""
    torch.manual_seed(seed)
    return RetextureLoss(config, tone_prior(), ball()[1], embed)


class RandomLook(nn.Module):
    """A small frozen network of random weights as an embedder."""

    def __init__(self, seed: int = 0, width: int = 16) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.first = nn.Conv2d(3, width, 5, 2, 2)
        self.second = nn.Conv2d(width, 2 * width, 3, 2, 1)
        self.requires_grad_(False)

    def forward(self, pictures: Tensor) -> PictureFeatures:
        """Features by place, so that the angle knows where a picture changed."""
        early = functional.leaky_relu(self.first(pictures * 2 - 1), 0.2)
        late = functional.leaky_relu(self.second(early), 0.2)
        return PictureFeatures(functional.avg_pool2d(late, 2).flatten(1), early)


def descend(
    total: Callable[[], Tensor], variables: Sequence[Tensor], steps: int = 60, rate: float = 0.02
) -> None:
    """At most 100 steps of Adam on a scalar."""
    assert steps <= 100
    optimizer = torch.optim.Adam(list(variables), rate)
    for _ in range(steps):
        optimizer.zero_grad()
        total().backward()
        optimizer.step()


def tensors(batch: RetextureBatch) -> list[Tensor]:
    """All tensors of a batch."""
    return [*batch.seen, *(getattr(batch, f.name) for f in fields(batch) if f.name != "seen")]
