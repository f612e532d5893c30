"""Train the region parser.

    lifemask train parser --recipe cpu --family research --cache CACHE --cache CACHE2 \
        --portraits facesynth100.tar --run runs/parser-research

A run is resumed by the same command. `--cache` may be given several times.
"""

from __future__ import annotations

import argparse
import logging
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from numpy import ndarray
from torch import Tensor, nn

from lifemask.assets import UserError
from lifemask.data.base import read_cache_header
from lifemask.data.facesynthetics import load_facesynthetics
from lifemask.data.region_augment import NO_REGION_AUGMENTATION, draw_batch
from lifemask.data.regions import RegionSet, load_region_cache, merged
from lifemask.evaluation.regions import confusion_per_image, intersection_over_union, mean_iou
from lifemask.nn.unet import UNet
from lifemask.training.checkpoint import averaged_weights
from lifemask.training.loop import LoopConfig, train
from lifemask.training.parser_loss import ParserLoss
from lifemask.training.parser_recipes import PARSER, ParserRecipe
from lifemask.training.recipes import Family
from lifemask.types import REGION_NAMES

SOURCES = ("renders", "portraits")


@dataclass(frozen=True)
class Batch:
    """Views (b, 3, s, s) in [0, 1], channels last in memory, and their maps (b, s, s)."""

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
        licence = read_cache_header(folder).get("licence")
        if recipe.family == "open" and licence != "open":
            raise UserError(f"{folder} is {licence!r}; the open family may not train on it")
        tag = "open" if licence == "open" else "research"
        training["renders"].append(load_region_cache(folder, slice(keep, None)))
        kept_apart = load_region_cache(folder, slice(0, max(keep, 1)))
        name = f"renders-{tag}"
        held[name] = merged(held[name], kept_apart) if name in held else kept_apart
    if recipe.family == "research" and recipe.portraits:
        if portraits is None:
            raise UserError("the research family needs --portraits with FaceSynthetics")
        portraits_seen, held["facesynthetics"] = load_facesynthetics(portraits)
        training["portraits"] = [portraits_seen]
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
    del step
    device = next(network.parameters()).device
    return criterion(network(batch.crops.to(device)), batch.regions.to(device))


@torch.no_grad()
def predict(
    network: UNet, source: RegionSet, count: int | None = None, batch: int = 32
) -> tuple[UInt8[ndarray, "n s s"], UInt8[ndarray, "n s s"]]:
    """Found and true region maps (n, s, s) of the nominal views of a set's first pictures."""
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
        found.append(network(pixels).argmax(1).byte().cpu().numpy())
        wanted.append(maps)
    return np.concatenate(found), np.concatenate(wanted)


def evaluate(
    network: UNet, held_out: dict[str, RegionSet], count: int | None = None
) -> dict[str, float]:
    """Mean IoU, and IoU by class, of held-out sets in their nominal views, confusion summed."""
    metrics: dict[str, float] = {}
    for name, source in held_out.items():
        total = confusion_per_image(*predict(network, source, count)).sum(0)
        metrics[name] = float(mean_iou(total))
        for region, value in zip(REGION_NAMES, intersection_over_union(total), strict=True):
            if np.isfinite(value):
                metrics[f"{name}/{region}"] = float(value)
    return metrics


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
        ParserLoss(recipe.loss),
        BatchMaker(corpus.training, recipe),
        step_loss,
        lambda net: evaluate(net, corpus.held_out, recipe.evaluated),  # pyright: ignore[reportArgumentType]
        config,
        {"recipe": asdict(recipe)},
    )
    assert isinstance(averaged, UNet)
    return averaged


def loop_config(recipe: ParserRecipe, run: Path, seconds: float = 0.0) -> LoopConfig:
    """The loop's settings that follow from a recipe."""
    return LoopConfig(
        optim=recipe.optim,
        run=run,
        seed=recipe.seed,
        device=recipe.device,
        precision=recipe.precision,
        processes=recipe.processes,
        workers=recipe.workers,
        evaluate_every=recipe.evaluate_every,
        save_every=recipe.save_every,
        seconds=seconds,
    )


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="lifemask train parser", description=__doc__)
    parser.add_argument("--recipe", choices=PARSER, default="cpu")
    parser.add_argument("--family", choices=("open", "research"), default="open")
    parser.add_argument("--cache", type=Path, action="append", required=True, help="renders")
    parser.add_argument("--portraits", type=Path, help="FaceSynthetics: folder, zip or tar")
    parser.add_argument("--run", type=Path, required=True, help="folder of the run; resumes")
    parser.add_argument("--start-from", type=Path, help="run whose averaged weights to start from")
    parser.add_argument("--steps", type=int, help="instead of the recipe's")
    parser.add_argument("--rate", type=float, help="peak learning rate instead of the recipe's")
    parser.add_argument("--precision", help='instead of the recipe\'s, e.g. "32-true"')
    parser.add_argument("--seconds", type=float, default=0.0, help="stop after so long")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    recipe = chosen_recipe(options)
    if recipe.threads:
        torch.set_num_threads(recipe.threads)
    corpus = load_corpus(recipe, options.cache, options.portraits)
    sizes = {k: [len(one) for one in sets] for k, sets in corpus.training.items()}
    logging.info("pictures: %s", sizes)
    initial = averaged_weights(options.start_from) if options.start_from else None
    run_training(recipe, corpus, loop_config(recipe, options.run, options.seconds), initial)


def chosen_recipe(options: argparse.Namespace) -> ParserRecipe:
    """The recipe with the command line's changes."""
    family: Family = options.family
    recipe = replace(PARSER[options.recipe](family), seed=options.seed)
    optim = recipe.optim
    optim = replace(optim, steps=options.steps) if options.steps else optim
    optim = replace(optim, peak_rate=options.rate) if options.rate else optim
    recipe = replace(recipe, optim=optim)
    return replace(recipe, precision=options.precision) if options.precision else recipe


if __name__ == "__main__":
    main()
