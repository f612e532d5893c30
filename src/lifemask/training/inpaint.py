"""Train the network that fills what an old face leaves beside a swapped one.

    lifemask train inpaint --recipe cpu --cache CACHE --run runs/inpaint

It needs no labels: holes are cut out of pictures, and the picture is the truth.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from lifemask.data._pairs_blend import harmonic_fill
from lifemask.methods._retexture_perceptual import Embedder, backbone_features
from lifemask.nn.inpaint_net import InpaintExport, InpaintNet
from lifemask.training.inpaint_batches import (
    BatchMaker,
    Corpus,
    InpaintBatch,
    held_out_rows,
    load_corpus,
)
from lifemask.training.inpaint_recipes import INPAINT, InpaintLossConfig, InpaintRecipe
from lifemask.training.loop import LoopConfig, train
from lifemask.training.trainable import Switch, Trainable, shorten_optim

logger = logging.getLogger(__name__)


class InpaintLoss(nn.Module):
    """The weighted sum of the terms.

    Args:
        config: weights.
        embed: frozen features for the perceptual term.
    """

    def __init__(self, config: InpaintLossConfig, embed: Embedder | None = None) -> None:
        super().__init__()
        self.config = config
        self.embed = embed if config.perceptual else None

    def forward(
        self, said: Float[Tensor, "b 3 s s"], batch: InpaintBatch
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss and its parts.

        Args:
            said: the network's pictures.
            batch: the whole ones, and their holes.
        """
        config, hole = self.config, batch.hole
        said = said.float()
        off = said - batch.picture
        parts = {
            "hole": config.hole * masked_mean(off.abs(), hole),
            "known": config.known * masked_mean(off.abs(), batch.known),
            "gradient": config.gradient * gradient_error(off * hole, batch.known, hole),
        }
        if self.embed is not None:
            filled = batch.picture + off * hole
            made, true = (self.embed(p.clamp(0, 1)).style for p in (filled, batch.picture))
            parts["perceptual"] = config.perceptual * (made - true.detach()).abs().mean()
        return torch.stack(list(parts.values())).sum(), {k: v.detach() for k, v in parts.items()}


def masked_mean(values: Float[Tensor, "b c s s"], mask: Float[Tensor, "b 1 s s"]) -> Tensor:
    """Mean of values inside a mask."""
    return (values * mask).sum() / (mask.sum() * values.shape[1]).clamp(min=1)


def gradient_error(
    off: Float[Tensor, "b c s s"], known: Float[Tensor, "b 1 s s"], hole: Float[Tensor, "b 1 s s"]
) -> Tensor:
    """Mean absolute error of differences between neighbours, one of them in the hole.

    Args:
        off: error of the filled picture, 0 outside the hole.
        known: 1 where the picture may be looked at; hidden neighbours do not count.
        hole: 1 in the hole.
    """
    total, count = off.new_zeros(()), off.new_zeros(())
    there = known + hole
    for axis in (-1, -2):
        last = off.shape[axis] - 1
        (off_a, there_a, hole_a), (off_b, there_b, hole_b) = (
            [x.narrow(axis, start, last) for x in (off, there, hole)] for start in (0, 1)
        )
        touched = there_a * there_b * torch.maximum(hole_a, hole_b)
        total = total + ((off_b - off_a).abs() * touched).sum()
        count = count + touched.sum() * off.shape[1]
    return total / count.clamp(min=1)


def step_loss(
    network: nn.Module, criterion: nn.Module, batch: InpaintBatch, step: int
) -> tuple[Tensor, Mapping[str, Tensor]]:
    """Loss of one batch."""
    del step
    return criterion(network(batch.picture * batch.known, batch.known, batch.hole), batch)


@torch.no_grad()
def errors(filled: Tensor, batch: InpaintBatch) -> tuple[float, float]:
    """Errors of filled pictures (b, 3, s, s) in levels of 255: of values, and of differences."""
    off = (filled.clamp(0, 1) - batch.picture) * batch.hole
    edges = gradient_error(off, batch.known, batch.hole)
    return 255 * float(masked_mean(off.abs(), batch.hole)), 255 * float(edges)


def harmonic(batch: InpaintBatch) -> Float[Tensor, "1 3 s s"]:
    """The one picture of a batch filled by Laplace's equation, as pairs are without a network."""
    picture = batch.picture[0].permute(1, 2, 0).double().numpy()
    hole, known = (m[0, 0].numpy() > 0 for m in (batch.hole, batch.known))
    return torch.from_numpy(harmonic_fill(picture, hole, known)).float().permute(2, 0, 1)[None]


@torch.no_grad()
def score(network: InpaintNet, rows: list[InpaintBatch]) -> dict[str, float]:
    """Errors in the holes of pictures, means over pictures, in levels of 255.

    Returns:
        "error": absolute error of the network's fill; "edges": that of its differences between
        neighbours; "harmonic_error" and "harmonic_edges": of Laplace's equation on the same holes.
    """
    export = InpaintExport(network).eval()
    device = next(network.parameters()).device
    found: list[tuple[float, ...]] = []
    for row in rows:
        given = (x.to(device) for x in (row.picture * row.known, row.known, row.hole))
        found.append((*errors(export(*given).cpu(), row), *errors(harmonic(row), row)))
    means = np.mean(found, 0)
    names = ("error", "edges", "harmonic_error", "harmonic_edges")
    return {name: float(value) for name, value in zip(names, means, strict=True)}


def evaluate(network: nn.Module, held_out: Mapping[str, list[InpaintBatch]]) -> dict[str, float]:
    """`score` of each held-out set, "SET/error" and so on, and "error" and "edges" of all sets."""
    assert isinstance(network, InpaintNet)
    scores = {name: score(network, rows) for name, rows in held_out.items()}
    metrics = {f"{name}/{k}": v for name, one in scores.items() for k, v in one.items()}
    for kind in ("error", "edges"):
        metrics[kind] = float(np.mean([one[kind] for one in scores.values()]))
    return metrics


def run_training(recipe: InpaintRecipe, corpus: Corpus, config: LoopConfig) -> InpaintNet:
    """Train, or go on training; returns the network with averaged weights."""
    torch.manual_seed(recipe.seed)
    held_out = {name: held_out_rows(recipe, one) for name, one in corpus.held_out.items()}
    embed = backbone_features(recipe.family) if recipe.loss.perceptual else None
    averaged = train(
        InpaintNet(recipe.net),
        InpaintLoss(recipe.loss, embed),
        BatchMaker(corpus.training, recipe),
        step_loss,
        lambda network: evaluate(network, held_out),
        config,
        {"recipe": asdict(recipe), "licence": recipe.family},
    )
    assert isinstance(averaged, InpaintNet)
    return averaged


def add_options(group: Any) -> None:
    """Options that say where the data are."""
    add = group.add_argument
    add("--cache", type=Path, action="append", required=True, help="renders; may be repeated")
    add("--data", type=Path, help="folder with aflw21/, for the research family")


def run(recipe: InpaintRecipe, options: argparse.Namespace, config: LoopConfig) -> None:
    """Train as a command line asks for."""
    corpus = load_corpus(recipe, options.cache, options.data)
    logger.info("pictures: %s", {name: len(one) for name, one in corpus.training.items()})
    run_training(recipe, corpus, config)


def shorten(recipe: InpaintRecipe, fraction: float) -> InpaintRecipe:
    """The recipe with its schedule shortened."""
    return replace(recipe, optim=shorten_optim(recipe.optim, fraction))


SWITCHES = (
    Switch("absolute error in the hole", ("loss.hole=0",)),
    Switch("repeating what is known", ("loss.known=0",), expected="any"),
    Switch("gradients", ("loss.gradient=0",), metric="edges"),
    Switch("perceptual (off by default)", ("loss.perceptual=0.05",), expected="any"),
    Switch("gap-shaped holes", ("holes.gap=0",), expected="any"),
    Switch("other holes", ("holes.gap=1",), expected="any"),
    Switch("far convolutions", ("net.dilations=",), expected="any"),
    Switch("photos", ("photos=0",), metric="photos/error", families=("research",)),
)
TRAINABLE = Trainable(
    name="inpaint",
    summary="Inpainting: fills what an old face leaves beside a swapped one.",
    recipes=INPAINT,
    add_options=add_options,
    run=run,
    shorten=shorten,
    switches=SWITCHES,
)
