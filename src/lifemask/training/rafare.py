"""Trains RAFaRe's networks, each on its own: `lifemask train rafare-base`, `-fine`, `-normals`."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lifemask.methods._rafare_loss import Part, RafareBatch, create_loss
from lifemask.methods._retexture_perceptual import backbone_features
from lifemask.nn.sdf import FieldNet, FieldNetConfig, NormalNet, NormalNetConfig
from lifemask.training.loop import LoopConfig, train
from lifemask.training.rafare_batches import PairArrays, RafareBatchMaker, load_corpus
from lifemask.training.rafare_recipes import RafareRecipe, recipes
from lifemask.training.recipes import Family
from lifemask.training.start import HELP, starting_weights
from lifemask.training.trainable import Switch, Trainable, shorten_optim

logger = logging.getLogger(__name__)


def create_network(config: FieldNetConfig | NormalNetConfig, part: Part) -> FieldNet | NormalNet:
    """An untrained network."""
    if isinstance(config, NormalNetConfig):
        return NormalNet(config)
    return FieldNet(config, starts_from_guide=part == "base")


def step_loss(
    network: nn.Module, criterion: nn.Module, batch: RafareBatch, step: int
) -> tuple[Tensor, dict[str, Tensor]]:
    """Loss of one batch."""
    return criterion(network, batch)


@torch.no_grad()
def evaluate(network: nn.Module, pairs: PairArrays, part: Part, count: int) -> dict[str, float]:
    """Errors on held-out pairs, as they are.

    Args:
        network: of the part.
        pairs: held-out ones.
        part: which network.
        count: at most so many pairs.

    Returns:
        "error" to select by. Base: mean absolute error of the signed distance near the surface in
        thousandths of a half-crop, and "side", the share of points on the right side. Fine: one
        minus Pearson's r of the fine label. Normals: mean angle in degrees.
    """
    device = next(network.parameters()).device
    make = RafareBatchMaker(pairs, part, 1, 4000, 0.0, 1)
    found: dict[str, list[float]] = {}
    for number in range(min(count, len(pairs))):
        batch = make.row(number, np.random.default_rng(number))
        for name, value in _errors(network, _moved(batch, device), part).items():
            found.setdefault(name, []).append(value)
    return {name: float(np.mean(values)) for name, values in found.items()}


def _moved(batch: RafareBatch, device: torch.device) -> RafareBatch:
    from lifemask.training.batches import to_device

    return to_device(batch, device)


def _errors(network: nn.Module, batch: RafareBatch, part: Part) -> dict[str, float]:
    if part == "normals":
        said = network(batch.view).float()
        cosine = (said * batch.normals).sum(1, keepdim=True).clamp(-1, 1)
        angle = torch.rad2deg(cosine.acos())
        return {"error": float(angle[batch.known > 0].mean())}
    said = network(batch.view, batch.points)[-1].float()
    if part == "fine":
        r = torch.corrcoef(torch.stack((said.ravel(), batch.values.ravel())))[0, 1]
        return {"error": 1 - float(r), "ratio": float(said.var() / batch.values.var())}
    off = 1000 * (said - batch.values).abs().mean()
    return {"error": float(off), "side": float(((said > 0) == (batch.values > 0)).float().mean())}


def run_training(
    recipe: RafareRecipe,
    pairs: PairArrays,
    held_out: PairArrays,
    config: LoopConfig,
    start_from: str = "",
) -> nn.Module:
    """Train, or go on training; returns the network with averaged weights.

    Raises:
        RuntimeError: `start_from` holds another network.
    """
    torch.manual_seed(recipe.seed)
    network = create_network(recipe.net, recipe.part)
    if start_from:
        network.load_state_dict(starting_weights(start_from, recipe.family, recipe.part))
    make = RafareBatchMaker(
        pairs, recipe.part, recipe.optim.batch, recipe.points, recipe.uniform, recipe.surface,
        recipe.augment, recipe.seed,
    )  # fmt: skip
    embed = backbone_features(recipe.family) if recipe.loss.perceptual else None
    return train(
        network,
        create_loss(recipe.loss, recipe.part, embed),
        make,
        step_loss,
        lambda net: evaluate(net, held_out, recipe.part, recipe.evaluate_pairs),
        config,
        {"recipe": asdict(recipe), "licence": recipe.family},
    )


def add_options(group: Any) -> None:
    """Options that say where the data are."""
    add = group.add_argument
    add("--pairs", type=Path, action="append", required=True, help="to train on; repeatable")
    add("--held-out", type=Path, action="append", required=True, help="pairs of the other part")
    add("--limit", type=int, help="at most so many pairs of each folder")
    add("--data", type=Path, help="folder with ict/, for the backs of heads of ICT-FaceKit")
    add("--start-from", default="", help=HELP.format("rafare-open"))


def run(recipe: RafareRecipe, options: argparse.Namespace, config: LoopConfig) -> None:
    """Train as a command line asks for.

    Raises:
        UserError: the pairs do not fit the recipe.
    """
    size, family = recipe.net.size, recipe.family
    back = isinstance(recipe.net, NormalNetConfig) and recipe.net.back
    load = partial(load_corpus, size=size, family=family, back=back, data=options.data)
    pairs = load(options.pairs, limit=options.limit)
    held_out = load(options.held_out, held_out=True, limit=recipe.evaluate_pairs)
    logger.info("pairs: %d to train on, %d held out", len(pairs), len(held_out))
    run_training(recipe, pairs, held_out, config, options.start_from)


def shorten(recipe: RafareRecipe, fraction: float) -> RafareRecipe:
    """The recipe with its schedule shortened."""
    return replace(recipe, optim=shorten_optim(recipe.optim, fraction))


_COMMON = (
    Switch("region class as input", ("net.semantic=false",)),
    Switch("guide as input", ("net.guide=false",)),
    Switch("changes of colour", ("augment.colours=false",), expected="any"),
)
_FOLD = Switch("pixel blocks (single pixels)", ("net.fold=1",), expected="any")
SWITCHES: dict[Part, tuple[Switch, ...]] = {
    "base": (
        *_COMMON,
        _FOLD,
        Switch("signed distance (occupancy)", ("loss.field=occupancy",), metric="side",
               highest=True),
        Switch("points anywhere", ("uniform=0",), expected="any"),
        Switch("slope on the surface (off by default)", ("loss.slope=0.01",), expected="any"),
    ),
    "fine": _COMMON,
    "normals": (
        *_COMMON,
        _FOLD,
        Switch("absolute error", ("loss.absolute=0",), expected="any"),
        Switch("angle", ("loss.angle=0",), expected="any"),
        Switch("edges", ("loss.edges=0",), expected="any"),
        Switch("adversary (off by default)", ("loss.gan=1", "loss.matching=10"), expected="any"),
        Switch("perceptual (off by default)", ("loss.perceptual=10",), expected="any"),
        Switch("published generator (U-Net)", ("net.fold=1", "net.kind=pix2pixhd"), expected="any"),
        Switch("front (the back's normals instead)", ("net.back=true",), expected="any"),
    ),
}  # fmt: skip
_SUMMARY: dict[Part, str] = {
    "base": "RAFaRe's signed distance from a face crop.",
    "fine": "RAFaRe's fine form: what a box filter takes from the signed distance.",
    "normals": "RAFaRe's normals of the face's front; of the back with --set net.back=true.",
}


def _trainable(part: Part) -> Trainable:
    made: dict[str, Callable[[Family], RafareRecipe]] = recipes(part)
    return Trainable(
        name=f"rafare-{part}",
        summary=_SUMMARY[part],
        recipes=made,
        add_options=add_options,
        run=run,
        shorten=partial(shorten),
        switches=SWITCHES[part],
    )


BASE, FINE, NORMALS = (_trainable(part) for part in ("base", "fine", "normals"))
