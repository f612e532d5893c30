"""Data, batches, loss and scores of the region parser's training; `parser_trainable` runs it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from numpy import ndarray
from torch import Tensor, nn

from lifemask.assets import UserError
from lifemask.data.facesynthetics import load_facesynthetics
from lifemask.data.region_augment import NO_REGION_AUGMENTATION, draw_batch
from lifemask.data.regions import (
    GLASSES,
    IGNORE,
    RegionSet,
    load_region_cache,
    merged,
    split_glasses,
)
from lifemask.evaluation.regions import (
    confusion_per_image,
    intersection_over_union,
    mask_iou,
    mean_iou,
)
from lifemask.nn.unet import UNet, UNetConfig, grown, told_glasses, widened
from lifemask.training.crop_sources import renders_tag
from lifemask.training.loop import LoopConfig, train
from lifemask.training.parser_loss import ParserLoss
from lifemask.training.parser_recipes import ParserRecipe
from lifemask.training.start import starting_weights
from lifemask.types import REGION_NAMES

SOURCES = ("renders", "portraits")


@dataclass(frozen=True)
class Batch:
    """Views (b, 3, s, s) in [0, 1], channels last in memory, and their maps (b, s, s).

    Maps are those of `data.regions`: class ids, `GLASSES` added, or `IGNORE`.
    """

    crops: Float[Tensor, "b 3 s s"]
    regions: UInt8[Tensor, "b s s"]


@dataclass(frozen=True)
class Corpus:
    """Training sets by source (drawn in proportion to size) and held-out sets by name."""

    training: dict[str, list[RegionSet]]
    held_out: dict[str, RegionSet]


def load_corpus(recipe: ParserRecipe, caches: list[Path], portraits: Path | None = None) -> Corpus:
    """Everything that the recipe's family may see.

    Args:
        recipe: decides the sources.
        caches: folders of renders.
        portraits: FaceSynthetics; needed by "research" recipes with a share of portraits.

    Raises:
        UserError: data are missing, or research data are offered to "open".
    """
    keep = recipe.held_out_renders
    training: dict[str, list[RegionSet]] = {"renders": []}
    held: dict[str, RegionSet] = {}
    for folder in caches:
        tag = renders_tag(folder, recipe.family)
        training["renders"].append(load_region_cache(folder, slice(keep, None)))
        kept_apart = load_region_cache(folder, slice(0, max(keep, 1)))
        name = f"renders-{tag}"
        held[name] = merged(held[name], kept_apart) if name in held else kept_apart
    if recipe.family == "research" and recipe.portraits:
        if portraits is None:
            raise UserError("the research family needs --portraits with FaceSynthetics")
        portraits_seen, held["facesynthetics"] = load_facesynthetics(portraits)
        training["portraits"] = [portraits_seen]
    silent = [one for sets in training.values() for one in sets if not one.glasses]
    if recipe.net.glasses and silent:
        raise UserError(
            "these renders do not tell glasses: make them anew (lifemask synth --format cache), or "
            "train without (--set net.glasses=false)"
        )
    return Corpus(training, held)


class BatchMaker:
    """Batches as a function of the step number.

    Args:
        training: sets by source.
        recipe: batch size, share of portraits, augmentation, seed.
    """

    def __init__(self, training: dict[str, list[RegionSet]], recipe: ParserRecipe) -> None:
        self._training = training
        self._recipe = recipe

    def __call__(self, step: int, rank: int = 0, processes: int = 1) -> Batch:
        """One process's share of the batch of a step."""
        recipe = self._recipe
        total = recipe.optim.batch // processes
        rng = np.random.default_rng([recipe.seed, step, rank])
        portraits = round(recipe.portraits * total) if "portraits" in self._training else 0
        parts = [
            part
            for source, count in zip(SOURCES, (total - portraits, portraits), strict=True)
            for part in self._draw(rng, source, count)
        ]
        crops, maps = (np.concatenate(column) for column in zip(*parts, strict=True))
        return Batch(torch.from_numpy(crops).permute(0, 3, 1, 2), torch.from_numpy(maps))

    def _draw(
        self, rng: np.random.Generator, source: str, count: int
    ) -> list[tuple[ndarray, ndarray]]:
        sets = self._training.get(source, [])
        if not count or not sets:
            return []
        sizes = np.array([len(one) for one in sets], float)
        split = rng.multinomial(count, sizes / sizes.sum())
        recipe, size = self._recipe, self._recipe.net.size
        config = recipe.render_augment if source == "renders" else recipe.augment
        return [
            draw_batch(rng, one, rng.integers(0, len(one), n), config, size)
            for one, n in zip(sets, split, strict=True)
            if n
        ]


def step_loss(
    network: nn.Module, criterion: nn.Module, batch: Batch, step: int
) -> tuple[Tensor, dict[str, float]]:
    """Loss of one batch, moved to the network's device."""
    device = next(network.parameters()).device
    return criterion(network(batch.crops.to(device)), batch.regions.to(device), step)


@torch.no_grad()
def predict(
    network: UNet, source: RegionSet, count: int | None = None, batch: int = 32
) -> tuple[UInt8[ndarray, "n s s"], UInt8[ndarray, "n s s"]]:
    """Found and true region maps (n, s, s) of the nominal views of a set's first pictures.

    `GLASSES` is added where it is found, and where it is true (`data.regions.split_glasses`).
    """
    network.eval()
    device = next(network.parameters()).device
    rng = np.random.default_rng(0)
    last = len(source) if count is None else min(count, len(source))
    found, wanted = [], []
    for start in range(0, last, batch):
        ids = np.arange(start, min(start + batch, last))
        size = network.config.size
        crops, maps = draw_batch(rng, source, ids, NO_REGION_AUGMENTATION, size)
        pixels = torch.from_numpy(crops).permute(0, 3, 1, 2).to(device)
        found.append(_labels(network(pixels), network.config).cpu().numpy())
        wanted.append(maps)
    return np.concatenate(found), np.concatenate(wanted)


def _labels(scores: Float[Tensor, "b c s s"], config: UNetConfig) -> UInt8[Tensor, "b s s"]:
    best = scores[:, : config.classes].argmax(1).byte()
    return best | (scores[:, -1] > 0).byte() * GLASSES if config.glasses else best


def evaluate(
    network: UNet, held_out: dict[str, RegionSet], count: int | None = None
) -> dict[str, float]:
    """Mean IoU, IoU by class and of glasses, of held-out sets in their nominal views, summed."""
    metrics: dict[str, float] = {}
    for name, source in held_out.items():
        found, wanted = predict(network, source, count)
        (classes, worn), (true, truly_worn) = split_glasses(found), split_glasses(wanted)
        total = confusion_per_image(classes, true).sum(0)
        metrics[name] = float(mean_iou(total))
        for region, value in zip(REGION_NAMES, intersection_over_union(total), strict=True):
            if np.isfinite(value):
                metrics[f"{name}/{region}"] = float(value)
        if network.config.glasses and source.glasses:
            known = wanted != IGNORE
            metrics[f"{name}/glasses"] = mask_iou(worn & known, truly_worn)
    return metrics


def initial_weights(source: str, recipe: ParserRecipe) -> dict[str, Tensor]:
    """Weights of a run, or shipped ones, to start from; smaller networks grow or widen.

    Raises:
        UserError: the run has no checkpoint, or one of another network.
    """
    network = UNet(recipe.net)
    weights = told_glasses(starting_weights(source, recipe.family), network)
    own = {name: value.shape for name, value in network.state_dict().items()}
    if {name: value.shape for name, value in weights.items()} == own:
        return weights
    try:
        make = widened if weights.keys() == own.keys() else grown
        return make(weights, network)
    except ValueError as error:
        raise UserError(f"cannot start from {source}: {error}") from error


def run_training(
    recipe: ParserRecipe,
    corpus: Corpus,
    config: LoopConfig,
    initial: dict[str, Tensor] | None = None,
) -> UNet:
    """Train (or go on training) a parser and return it with averaged weights.

    Args:
        recipe: all settings.
        corpus: data.
        config: how to run.
        initial: weights to start from instead of random ones.
    """
    torch.manual_seed(recipe.seed)
    network = UNet(recipe.net)
    if initial is not None:
        network.load_state_dict(initial)
    averaged = train(
        network,
        ParserLoss(recipe.loss, recipe.net.glasses),
        BatchMaker(corpus.training, recipe),
        step_loss,
        lambda net: evaluate(net, corpus.held_out, recipe.evaluated),  # pyright: ignore[reportArgumentType]
        config,
        {"recipe": asdict(recipe)},
    )
    assert isinstance(averaged, UNet)
    return averaged
