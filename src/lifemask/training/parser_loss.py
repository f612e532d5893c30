"""Loss of the region parser: balanced cross-entropy, soft Dice, Lovász, each with a weight."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor, nn
from torch.nn import functional

from lifemask.data.regions import GLASSES, IGNORE


@dataclass(frozen=True)
class ParserLossConfig:
    """Weights of the terms; 0 switches a term off.

    Attributes:
        cross_entropy: mean over the labelled pixels.
        dice: one minus soft Dice, mean over the classes of the batch.
        lovasz: one minus the batch's intersection over union, as a Lovász extension, mean over its
            classes: what the parser is scored by, as far as it has a gradient.
        glasses: the same terms, in the same proportion, for the score of glasses, where the
            network has one. One mask among nine classes would count for as much as all of them.
        balance: exponent b of the class weights `(1 / (c p))^b` in the cross-entropy, p the class's
            share of the batch's pixels and c the number of classes; 0 weighs pixels alike. Weights
            widen what is rare: with 0.35, eyes and brows came out a quarter too large.
        heaviest: largest class weight.
        smoothing: share of the target given to all classes alike.
        stride: score one pixel of each block of stride^2 pixels; which one changes from step to
            step. Neighbours say much the same, and the terms take a third of a step at 256 px.
    """

    cross_entropy: float = 1.0
    dice: float = 1.0
    lovasz: float = 0.0
    glasses: float = 0.5
    balance: float = 0.0
    heaviest: float = 4.0
    smoothing: float = 0.0
    stride: int = 1


class ParserLoss(nn.Module):
    """The weighted sum of the terms.

    Args:
        config: weights.
        glasses: the last score is that of glasses, no class's.
    """

    def __init__(self, config: ParserLossConfig, glasses: bool = False) -> None:
        super().__init__()
        self.config = config
        self.glasses = glasses

    def forward(
        self, scores: Float[Tensor, "b c h w"], regions: UInt8[Tensor, "b h w"], step: int = 0
    ) -> tuple[Tensor, dict[str, float]]:
        """Loss and its parts.

        Args:
            scores: logits (b, c, h, w), the last one of glasses if there is one.
            regions: class ids (b, h, w), `GLASSES` added; `IGNORE` pixels have no part in any
                term.
            step: decides which pixels are scored, if not all.
        """
        config = self.config
        if config.stride > 1:
            row, column = phase(step, config.stride)
            scores = scores[..., row :: config.stride, column :: config.stride]
            regions = regions[..., row :: config.stride, column :: config.stride]
        known = regions != IGNORE
        target = (regions & (GLASSES - 1)).long().masked_fill(~known, 0)
        scores = scores if scores.dtype == torch.float64 else scores.float()
        worn_score = scores[:, -1:]
        if self.glasses:
            scores = scores[:, :-1]
        log_p = scores.log_softmax(1)
        log_true = log_p.gather(1, target[:, None])[:, 0]
        total = scores.new_zeros(())
        parts: dict[str, float] = {}
        if config.cross_entropy:
            weights = class_weights(target, known, log_p.shape[1], config)
            per_pixel = -log_true
            if config.smoothing:
                per_pixel = torch.lerp(per_pixel, -log_p.mean(1), config.smoothing)
            pixel_weights = weights[target] * known
            term = (per_pixel * pixel_weights).sum() / pixel_weights.sum().clamp(min=1e-6)
            parts["cross_entropy"] = float(term.detach())
            total = total + config.cross_entropy * term
        if config.dice:
            term = soft_dice_loss(log_p.exp(), target, known)
            parts["dice"] = float(term.detach())
            total = total + config.dice * term
        if config.lovasz:
            term = lovasz_loss(log_p.exp(), target, known)
            parts["lovasz"] = float(term.detach())
            total = total + config.lovasz * term
        if self.glasses and config.glasses:
            worn = ((regions & GLASSES) > 0).long() * known
            term = self._of_glasses(worn_score, worn, known)
            parts["glasses"] = float(term.detach())
            total = total + config.glasses * term
        return total, parts

    def _of_glasses(self, score: Float[Tensor, "b 1 h w"], worn: Tensor, known: Tensor) -> Tensor:
        """The terms of glasses alone; overlaps of a batch without any say nothing."""
        config = self.config
        log_p = torch.cat((functional.logsigmoid(-score), functional.logsigmoid(score)), 1)
        log_true = log_p.gather(1, worn[:, None])[:, 0]
        total = -config.cross_entropy * (log_true * known).sum() / known.sum().clamp(min=1)
        if worn.any():
            only = worn * known
            p = log_p[:, 1].exp() * known
            if config.dice:
                dice = 2 * (p * only).sum() / (p.sum() + only.sum()).clamp(min=1e-6)
                total = total + config.dice * (1 - dice)
            if config.lovasz:
                total = total + config.lovasz * _lovasz_of(p[known], only[known] > 0)
        return total


def phase(step: int, stride: int) -> tuple[int, int]:
    """Row and column of the pixel that a step takes of each block; all take turns."""
    return divmod(step % stride**2, stride)


def class_weights(
    target: Tensor, known: Tensor, classes: int, config: ParserLossConfig
) -> Float[Tensor, "c"]:
    """Weights (c,) of the classes by their share of the labelled pixels, see `ParserLossConfig`."""
    counts = torch.bincount(target[known], minlength=classes).float()
    share = counts / counts.sum().clamp(min=1)
    weights = (1 / (classes * share.clamp(min=1e-8))) ** config.balance
    return weights.clamp(max=config.heaviest)


def soft_dice_loss(
    probabilities: Float[Tensor, "b c h w"], target: Tensor, known: Tensor
) -> Tensor:
    """`mean_c (1 - 2 sum p_c y_c / sum (p_c + y_c))` over the classes that occur in the batch.

    Source: Milletari et al., "V-Net" (3DV 2016), with plain sums in the denominator; sums run over
    all labelled pixels of the batch.
    """
    classes = probabilities.shape[1]
    p_true = probabilities.gather(1, target[:, None])[:, 0] * known
    hit = p_true.new_zeros(classes).index_add(0, target.flatten(), p_true.flatten())
    found = (probabilities * known[:, None]).sum((0, 2, 3))
    true = torch.bincount(target[known], minlength=classes).to(found)
    dice = 2 * hit / (found + true).clamp(min=1e-6)
    present = (true > 0).to(dice)
    return ((1 - dice) * present).sum() / present.sum().clamp(min=1)


def lovasz_loss(probabilities: Float[Tensor, "b c h w"], target: Tensor, known: Tensor) -> Tensor:
    """The Lovász extension of the Jaccard loss, mean over the classes that occur in the batch.

    With probabilities of 0 and 1 it is `1 - IoU` of each class, the batch's labelled pixels summed.
    Source: Berman et al., "The Lovász-Softmax loss" (CVPR 2018).
    """
    labels = target[known]
    said = probabilities.movedim(1, -1)[known]
    losses = []
    for number in labels.unique().tolist():
        losses.append(_lovasz_of(said[:, number], labels == number))
    return torch.stack(losses).mean() if losses else probabilities.sum() * 0


def _lovasz_of(said: Float[Tensor, "n"], true: Bool[Tensor, "n"]) -> Tensor:
    """The extension for one class."""
    ordered, order = (said - true.to(said)).abs().sort(descending=True)
    return (ordered * _jaccard_steps(true[order]).to(said)).sum()


@torch.no_grad()
def _jaccard_steps(true: Tensor) -> Float[Tensor, "n"]:
    """By how much `1 - IoU` grows as pixels, worst first, become errors."""
    hits, misses = true.double().cumsum(0), (~true).double().cumsum(0)
    jaccard = 1 - (hits[-1] - hits) / (hits[-1] + misses)
    return torch.diff(jaccard, prepend=jaccard.new_zeros(1))
