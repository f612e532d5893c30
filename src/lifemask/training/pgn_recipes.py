"""Recipes of PGN in four sizes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from lifemask.methods._pgn_pairs import PairConfig
from lifemask.methods.pgn import PgnConfig, PgnLossConfig
from lifemask.training.pgn_batches import PgnBatchConfig
from lifemask.training.recipes import Family, OptimConfig, RunRecipe

PAIRS = PairConfig(photometric=20.0, flow=5.0, semantic=5.0)
"""A hundred times the planned weights: other terms count px, and with the planned ones the pairs
would move the network ten thousand times less than the landmarks do."""

MIX = (0.45, 0.35, 0.2)
"""More single photos, fewer pairs of them than planned: AFLW shows poses that frames of talking
people do not."""


@dataclass(frozen=True)
class PgnRecipe(RunRecipe):
    """All settings of a PGN run.

    Attributes:
        name: "smoke", "cpu", "gpu" or "paper".
        family: "open" sees renders only; "research" adds AFLW and YouTube Faces.
        net: sizes and choices of the network.
        optim: optimiser and schedule.
        unlabelled: False leaves the photos out.
        start: "landmarker" starts the mobile encoder from the shipped landmarker of the same
            family; "" starts from random weights.
        loss: terms and their weights.
        batches: what a batch is made of; batch, size and seed follow from the rest of the recipe.
        evaluate_crops: at most so many crops of each held-out set.
        held_out_renders: number of first shards of each cache kept for evaluation.
        select: validation metric that marks the best checkpoint; lowest is best.
    """

    name: str
    family: Family
    net: PgnConfig
    optim: OptimConfig
    unlabelled: bool = True
    start: str = "landmarker"
    loss: PgnLossConfig = field(default_factory=PgnLossConfig)
    batches: PgnBatchConfig = field(default_factory=PgnBatchConfig)
    evaluate_crops: int = 500
    held_out_renders: int = 1
    select: str = "renders-open"


def smoke(family: Family = "open") -> PgnRecipe:
    """A few seconds on one core: proves that everything runs, with pairs of all sources."""
    net = PgnConfig("tiny", 48, map_size=32, widths=(16, 16, 16), hidden=32)
    recipe = _recipe("smoke", family, net, _optim(10, 8, 1e-3, warmup=2, ema=0.9))
    return replace(recipe, start="", evaluate_every=10, save_every=5, held_out_renders=0)


def cpu(family: Family = "open") -> PgnRecipe:
    """About an hour and a half on one core: the landmarker's trunk, 64 frames a step."""
    recipe = _recipe("cpu", family, PgnConfig(), _optim(4500, 64, 1e-3))
    loss = replace(recipe.loss, most_pairs=4)
    return replace(recipe, precision="bf16-mixed", loss=loss)


def gpu(family: Family = "open") -> PgnRecipe:
    """About 25 minutes on one H200-class GPU: ResNet-50 at 120 px, a million frames."""
    net = PgnConfig("resnet50", 120, widths=(512, 256, 128, 64), hidden=512)
    recipe = _recipe("gpu", family, net, _optim(4000, 256, 5e-4, warmup=300))
    loss = replace(recipe.loss, most_pairs=64)
    fast = replace(recipe, device="cuda", precision="bf16-mixed", threads=0, workers=14, loss=loss)
    return replace(fast, start="")


def paper(family: Family = "open") -> PgnRecipe:
    """A hundred thousand steps on several GPUs; the sets of the paper through their loaders."""
    optim = _optim(100_000, 64, 5e-4, warmup=1000, ema=0.9995)
    return replace(gpu(family), name="paper", optim=optim, device="auto", processes=8)


def _optim(
    steps: int, batch: int, rate: float, warmup: int = 100, ema: float = 0.998
) -> OptimConfig:
    return OptimConfig(
        steps, batch, peak_rate=rate, weight_decay=1e-4, warmup=warmup, ema=ema, clip=1.0
    )


def _recipe(name: str, family: Family, net: PgnConfig, optim: OptimConfig) -> PgnRecipe:
    select = "renders-open" if family == "open" else "aflw21"
    loss, batches = PgnLossConfig(pairs=PAIRS), PgnBatchConfig(mix=MIX)
    return PgnRecipe(name, family, net, optim, loss=loss, batches=batches, select=select)


PGN: dict[str, Callable[[Family], PgnRecipe]] = {
    "smoke": smoke,
    "cpu": cpu,
    "gpu": gpu,
    "paper": paper,
}
