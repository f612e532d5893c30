"""Losses of RAFaRe's three networks, each trained on its own (methods of arXiv 2302.05486, 4.5)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from lifemask.methods._retexture_perceptual import Embedder
from lifemask.nn.blocks import unit
from lifemask.nn.patchgan import PatchGan, lsgan
from lifemask.nn.sdf import View

Part = Literal["base", "fine", "normals"]
SDF_UNIT = 0.01
"""Signed distance, in half-crops, that counts as 1 in the loss; the slope of occupancies, too."""
STEP = 0.01
"""Step of the central differences of a field's gradient, in half-crops."""


@dataclass(frozen=True)
class RafareLossConfig:
    """Weights of the terms; 0 switches a term off.

    Attributes:
        field: what `f_base` learns: "sdf", the signed distance by its mean square error, or
            "occupancy", inside or outside by cross-entropy. The zero level is the surface in both.
        value: of the error of the field's values.
        slope: of `1 - cos` between the gradient of `f_base` and the true normal on the surface.
        absolute: of the absolute error of the normals.
        angle: of `1 - cos` of the normals.
        edges: of the absolute error of the normals' differences between neighbouring pixels.
        gan: the normals fool critics that see the crop beside them (LSGAN; published: 1).
        matching: of the critics' features of true and found normals (published: 10).
        perceptual: of a face network's features of both, as pictures (published, of VGG: 10).
        critic_width: channels of the critics' first layers.
        critics: scales that critics look at, each half of the one before.
    """

    field: Literal["sdf", "occupancy"] = "sdf"
    value: float = 1.0
    slope: float = 0.0
    absolute: float = 1.0
    angle: float = 1.0
    edges: float = 0.5
    gan: float = 0.0
    matching: float = 0.0
    perceptual: float = 0.0
    critic_width: int = 32
    critics: int = 2


@dataclass(frozen=True)
class RafareBatch:
    """Crops with their truth.

    Attributes:
        view: what the networks see.
        points: (b, n, 3) in the cube.
        values: (b, n) what the field should say there: d in half-crops, or r.
        surface: (b, m, 3) points of the true surface.
        surface_normals: (b, m, 3) unit, outward.
        normals: (b, 3, s, s) true normals of the front, camera frame.
        known: (b, 1, s, s) 1 where they are known and belong to the face.
    """

    view: View
    points: Float[Tensor, "b n 3"]
    values: Float[Tensor, "b n"]
    surface: Float[Tensor, "b m 3"]
    surface_normals: Float[Tensor, "b m 3"]
    normals: Float[Tensor, "b 3 s s"]
    known: Float[Tensor, "b 1 s s"]


class FieldLoss(nn.Module):
    """Loss of `f_base` or `f_fine`.

    Args:
        config: terms.
        part: which of the two.
    """

    def __init__(self, config: RafareLossConfig, part: Part) -> None:
        super().__init__()
        self.config = config
        self.unit = SDF_UNIT if part == "base" else 1.0
        self.occupancy = part == "base" and config.field == "occupancy"
        self.slope = config.slope if part == "base" else 0.0

    def forward(self, network: nn.Module, batch: RafareBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss and its parts; the mean over all hourglasses.

        Args:
            network: a `FieldNet`, or one that stands in for it.
            batch: crops and points.
        """
        count = batch.points.shape[1]
        points = batch.points
        if self.slope:
            points = torch.cat((points, around(batch.surface)), 1)
        said = network(batch.view, points).float()
        near, beside = said[..., :count], said[..., count:]
        parts = {"value": self.config.value * self._value(near, batch.values)}
        if self.slope:
            parts["slope"] = self.slope * slope_loss(beside, batch.surface_normals)
        return torch.stack(list(parts.values())).sum(), {k: v.detach() for k, v in parts.items()}

    def _value(self, said: Float[Tensor, "k b n"], truth: Float[Tensor, "b n"]) -> Tensor:
        if self.occupancy:
            inside = (truth < 0).to(said).expand_as(said)
            return functional.binary_cross_entropy_with_logits(-said / self.unit, inside)
        return ((said - truth) / self.unit).square().mean()


def around(surface: Float[Tensor, "b m 3"]) -> Float[Tensor, "b m6 3"]:
    """The six neighbours of each point that a central difference needs, axis by axis."""
    steps = STEP * torch.eye(3).to(surface)
    both = torch.stack((steps, -steps), 1).reshape(6, 3)
    return (surface[:, :, None] + both).flatten(1, 2)


def slope_loss(
    beside: Float[Tensor, "k b m6"], normals: Float[Tensor, "b m 3"]
) -> Float[Tensor, ""]:
    """`1 - cos` between the field's gradient by central differences and the normals."""
    ahead, behind = beside.unflatten(-1, (normals.shape[1], 3, 2)).unbind(-1)
    return (1 - functional.cosine_similarity(ahead - behind, normals[None], -1, 1e-6)).mean()


class NormalLoss(nn.Module):
    """Loss of the normal network inside the face; owns the critics, if there are any.

    Args:
        config: terms.
        embed: frozen features for the perceptual term.
    """

    def __init__(self, config: RafareLossConfig, embed: Embedder | None = None) -> None:
        super().__init__()
        self.config = config
        self.embed = embed if config.perceptual else None
        duel = config.gan or config.matching
        self.critics = Critics(7, config.critic_width, config.critics) if duel else None

    def forward(self, network: nn.Module, batch: RafareBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss and its parts; "critic" is the critics' own."""
        config, known = self.config, batch.known
        said = network(batch.view).float()
        share = known.mean().clamp(min=1e-6)
        off = (said - batch.normals) * known
        angle = 1 - (unit(said, 1) * batch.normals).sum(1, keepdim=True)
        parts = {
            "absolute": config.absolute * off.abs().mean() / share,
            "angle": config.angle * (angle * known).mean() / share,
            "edges": config.edges * _edges(said - batch.normals, known),
        }
        if self.critics is not None:
            seen = batch.view.picture
            real, made = (torch.cat((seen, n * known), 1) for n in (batch.normals, said))
            parts |= duel(self.critics, real, made, config.gan, config.matching)
        if self.embed is not None:
            parts["perceptual"] = config.perceptual * self._unlike(said, batch)
        return torch.stack(list(parts.values())).sum(), {k: v.detach() for k, v in parts.items()}

    def _unlike(self, said: Tensor, batch: RafareBatch) -> Tensor:
        """Mean absolute difference of features of both normals, seen as pictures."""
        assert self.embed is not None
        pictures = ((n * batch.known + 1) / 2 for n in (said, batch.normals))
        made, real = (self.embed(p).style for p in pictures)
        return (made - real.detach()).abs().mean()


class Critics(nn.Module):
    """Critics of patches at several scales (Wang et al., CVPR 2018).

    Args:
        inputs: channels of the pictures.
        width: channels of the first layers.
        scales: each half of the one before.
    """

    def __init__(self, inputs: int, width: int, scales: int) -> None:
        super().__init__()
        self.nets = nn.ModuleList(PatchGan(inputs, width) for _ in range(scales))

    def forward(self, pictures: Float[Tensor, "b c h w"]) -> list[list[Tensor]]:
        """For each scale the features of each layer, the scores last."""
        told = []
        for net in self.nets:
            assert isinstance(net, PatchGan)
            told.append([])
            x = pictures
            for layer in net.layers:
                x = layer(x)
                if isinstance(layer, nn.LeakyReLU):
                    told[-1].append(x)
            told[-1].append(x)
            pictures = functional.avg_pool2d(pictures, 3, 2, 1, count_include_pad=False)
        return told


def duel(
    critics: Critics, real: Tensor, made: Tensor, gan: float, matching: float
) -> dict[str, Tensor]:
    """The network's terms against critics, and the critics' own loss, which has weight 1.

    The gradient of the network's terms does not reach the critics, nor that of theirs the network.
    """
    learns = [p for p in critics.parameters() if p.requires_grad]
    for parameter in learns:
        parameter.requires_grad_(False)
    fooled, wanted = critics(made), critics(real)
    scores = torch.stack([lsgan(told[-1], 1.0) for told in fooled]).mean()
    alike = torch.stack([
        (a - b.detach()).abs().mean()
        for one, other in zip(fooled, wanted, strict=True)
        for a, b in zip(one[:-1], other[:-1], strict=True)
    ]).mean()  # fmt: skip
    for parameter in learns:
        parameter.requires_grad_(True)
    said = [
        lsgan(told[-1][: len(real)], 1.0) + lsgan(told[-1][len(real) :], 0.0)
        for told in critics(torch.cat((real, made.detach())))
    ]
    own = torch.stack(said).mean() / 2
    return {"gan": gan * scores, "matching": matching * alike, "critic": own}


def _edges(off: Float[Tensor, "b 3 s s"], known: Float[Tensor, "b 1 s s"]) -> Tensor:
    """Mean absolute difference of errors between neighbours that are both known."""
    total = off.new_zeros(())
    for axis in (-1, -2):
        count = off.shape[axis] - 1
        there = known.narrow(axis, 0, count) * known.narrow(axis, 1, count)
        change = off.narrow(axis, 1, count) - off.narrow(axis, 0, count)
        total = total + (change * there).abs().mean() / there.mean().clamp(min=1e-6)
    return total


def create_loss(
    config: RafareLossConfig, part: Part, embed: Embedder | None = None
) -> FieldLoss | NormalLoss:
    """The loss of a network."""
    return NormalLoss(config, embed) if part == "normals" else FieldLoss(config, part)
