"""What PGN learns from two frames of one person: one redrawn with the other's colours is the same.

    I_kl = swap(k, l) against I_l:    L_p: colours    L_f: flow    L_s: regions of a frozen parser

Formulas and weights: docs/methods/pgn.md.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from lifemask.assets import network_card
from lifemask.faces.parsing import Family
from lifemask.methods._pgn_swap import Light, PosedFrames, Swapped, swap
from lifemask.nn.census_flow import FlowBackend, load_flow, resized
from lifemask.nn.shipped import with_weights
from lifemask.nn.unet import SmoothUNet, config_from_dict
from lifemask.types import REGION_NAMES

FACE_REGIONS = ("nose", "lips", "brows", "skin")
"""Regions whose pixels show the surface of the face's mesh; eyes turn, mouths open."""


@dataclass(frozen=True)
class PairConfig:
    """Terms that compare two frames, and their weights; 0 switches a term off at no cost.

    Attributes:
        photometric: L_p, colours.
        flow: L_f, how far the redrawn frame is displaced.
        semantic: L_s, regions; needs the parser.
        truncate: sRGB difference from which a pixel counts as something else and has no gradient.
        light: what the frames' light may differ by: "normal" gain that is linear in the surface
            normal, and offset; "constant" gain and offset; "none".
        occluders: weigh pixels by the parser's probability that they show the face and not hair, a
            hand or cloth; without a parser all count alike.
        flow_backend: key of `nn.census_flow.FLOW_BACKENDS`.
        size: side in px at which frames are redrawn and compared.
        parse_size: side in px at which the parser sees them; the shipped one has learned 256.
    """

    photometric: float = 0.2
    flow: float = 0.05
    semantic: float = 0.05
    truncate: float = 0.3
    light: Light = "normal"
    occluders: bool = True
    flow_backend: str = "census"
    size: int = 64
    parse_size: int = 256


class PairTerms(nn.Module):
    """L_p, L_f and L_s of pairs of frames.

    Args:
        config: weights.
        parser: crops (b, 3, s, s) in sRGB [0, 1] to region logits (b, 9, s, s), frozen
            (`load_frozen_parser`); None leaves L_s and the look for occluders out.

    Raises:
        UserError: an unknown flow backend, or one that is not installed, with L_f on.
    """

    def __init__(self, config: PairConfig, parser: nn.Module | None = None) -> None:
        super().__init__()
        self.config = config
        self.parser = parser
        self.flow: FlowBackend | None = load_flow(config.flow_backend) if config.flow else None

    @property
    def active(self) -> bool:
        """Whether any term is on."""
        return bool(self.config.photometric or self.config.flow or self._semantic)

    def forward(
        self,
        source: PosedFrames,
        target: PosedFrames,
        faces: Int[Tensor, "f 3"],
        counted: Bool[Tensor, "v"] | None = None,
    ) -> dict[str, Tensor]:
        """Weighted terms (scalars) that are on, by the name of their weight.

        In float32 at least, under mixed precision too.

        Args:
            source: frames whose colours are taken.
            target: other frames of the same people, which are redrawn.
            faces: (f, 3) see `swap`.
            counted: (v,) see `swap`.
        """
        if not self.active:
            return {}
        with torch.autocast(target.vertices.device.type, enabled=False):
            return self._terms(_single(source), _single(target), faces, counted)

    def _terms(
        self, source: PosedFrames, target: PosedFrames, faces: Tensor, counted: Tensor | None
    ) -> dict[str, Tensor]:
        config = self.config
        regions = None
        if self.parser is not None and (self._semantic or config.occluders):
            regions = self._parse(resized(target.crops, config.size), frozen=True)
        if self.parser is not None and regions is not None and config.occluders:
            seen = self._parse(resized(source.crops, config.size), frozen=True)
            source, target = _only_face(source, seen), _only_face(target, regions)
        swapped = swap(source, target, faces, config.size, counted, config.light)
        terms: dict[str, Tensor] = {}
        if config.photometric:
            terms["photometric"] = config.photometric * photometric(swapped, config.truncate)
        if self.flow is not None:
            terms["flow"] = config.flow * displaced(swapped, self.flow)
        if self._semantic and regions is not None:
            own = self._parse(swapped.image, frozen=False)
            terms["semantic"] = config.semantic * region_divergence(own, regions, swapped.mask)
        return terms

    @property
    def _semantic(self) -> bool:
        return bool(self.config.semantic) and self.parser is not None

    def _parse(self, images: Tensor, frozen: bool) -> Float[Tensor, "b 9 t t"]:
        """Log probabilities of the regions; frozen: without gradient."""
        assert self.parser is not None
        with torch.set_grad_enabled(torch.is_grad_enabled() and not frozen):
            return self.parser(resized(images, self.config.parse_size).float()).log_softmax(1)


def photometric(swapped: Swapped, truncate: float = 0.3) -> Float[Tensor, ""]:
    """L_p: `sum M min(|I_kl - I_l|, truncate) / sum M`, the difference averaged over channels.

    Pixels beyond the truncation have no gradient: they show something else, e.g. a hand.
    """
    apart = (swapped.image - swapped.reference).abs().mean(1)
    mask = swapped.mask
    return (mask * apart.clamp(max=truncate)).sum() / mask.sum().clamp_min(1.0)


def displaced(swapped: Swapped, flow: FlowBackend) -> Float[Tensor, ""]:
    """L_f: `mean M c |flow(I_kl, I_l)|_1`, px of the flow's size (64); c is its confidence."""
    found = flow(swapped.image, swapped.reference)
    mask = resized(swapped.mask.unsqueeze(1), found.field.shape[-1])[:, 0]
    return (mask * found.confidence * found.field.abs().sum(1)).mean()


def region_divergence(
    log_own: Float[Tensor, "b c t t"],
    log_reference: Float[Tensor, "b c t t"],
    mask: Float[Tensor, "b n n"],
) -> Float[Tensor, ""]:
    """L_s: `mean M KL(parse(I_l) || parse(I_kl))` of log probabilities, the reference detached."""
    wanted = log_reference.detach()
    divergence = (wanted.exp() * (wanted - log_own)).sum(1)
    return (resized(mask.unsqueeze(1), divergence.shape[-1])[:, 0] * divergence).mean()


class FrozenParser(nn.Module):
    """A region network that stays as it is: no gradient to its weights, always in eval mode.

    Args:
        net: crops in sRGB [0, 1] to logits.
        half: compute in bfloat16, twice as fast where the processor knows it.
    """

    def __init__(self, net: nn.Module, half: bool = False) -> None:
        super().__init__()
        self.net = net.requires_grad_(False)
        self.half_precision = half
        self.train(False)

    def train(self, mode: bool = True) -> FrozenParser:
        """Eval mode, whatever is asked: batch statistics are weights too."""
        return super().train(False)

    def forward(self, crops: Float[Tensor, "b 3 s s"]) -> Float[Tensor, "b c s s"]:
        """Logits of crops in sRGB [0, 1], differentiable in the crops."""
        classes = len(REGION_NAMES)  # glasses, if told, come last
        if not self.half_precision:
            return self.net(crops)[:, :classes]
        crops = crops.contiguous(memory_format=torch.channels_last)
        with torch.autocast(crops.device.type, torch.bfloat16):
            return self.net(crops)[:, :classes].float()


def load_frozen_parser(family: Family = "open", half: bool = False) -> FrozenParser:
    """The shipped parser as a torch module that gives logits (b, 9, s, s) of `REGION_NAMES`.

    It was trained on crops of 256 px; s must be a multiple of 32.

    Args:
        family: "open" or "research", see `faces.parsing.load_parser`.
        half: see `FrozenParser`.

    Raises:
        AssetError: the weights are missing or damaged.
        ValueError: an unknown family.
    """
    if family not in ("open", "research"):
        raise ValueError(f"unknown family {family!r}; valid: open, research")
    name = f"parser-{family}"
    return FrozenParser(with_weights(SmoothUNet(config_from_dict(network_card(name))), name), half)


def _single(frames: PosedFrames) -> PosedFrames:
    """The frames with geometry and colours in float32 at least."""
    dtype = torch.promote_types(frames.vertices.dtype, torch.float32)
    return replace(
        frames,
        vertices=frames.vertices.to(dtype),
        crops=frames.crops.to(dtype),
        half_crops_per_mm=frames.half_crops_per_mm.to(dtype),
    )


def _only_face(frames: PosedFrames, log_regions: Float[Tensor, "b 9 t t"]) -> PosedFrames:
    """The frames, trusted where the parser sees the surface of a face, besides their own trust."""
    ids = [REGION_NAMES.index(name) for name in FACE_REGIONS]
    trust = log_regions[:, ids].exp().sum(1, keepdim=True)
    if frames.trust is not None:
        trust = trust * resized(frames.trust, trust.shape[-1])
    return replace(frames, trust=trust)
