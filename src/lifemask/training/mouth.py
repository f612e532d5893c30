"""Train the mouth reader: how far the lips are apart, from the close-up of a mouth.

    python -m lifemask.data.mouth_windows MOUTHS --data DATA
    python -m lifemask.data.mouth_windows HELD_OUT --data DATA --count 1000 --seed 910000000
    lifemask train mouth --recipe cpu --mouths MOUTHS --held-out HELD_OUT --run runs/mouth

The same commands go on with what was stopped.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray
from torch import Tensor, nn

from lifemask.assets import UserError
from lifemask.data.mouth_windows import MARGIN, MouthWindows, load_mouths
from lifemask.faces.mouth import HEIGHT, WIDTH
from lifemask.nn.closeup_net import CloseupConfig
from lifemask.nn.mouth_net import MouthExport, MouthNet, mouth_targets
from lifemask.training._closeup_batches import CloseupFaults, placed, turned, with_faults
from lifemask.training.loop import LoopConfig, train
from lifemask.training.recipes import Family, OptimConfig, RunRecipe
from lifemask.training.trainable import Switch, Trainable, shorten_optim

logger = logging.getLogger(__name__)
SHUT, PARTED = 0.03, 0.1
"""True openings below the first are shut; above the second, clearly parted."""
CALLED_SHUT = 0.05
"""Readings below it call a mouth shut."""
_LEVELS = (0.02, 0.04, 0.08, 0.15, 0.3, 0.5)


@dataclass(frozen=True)
class MouthAugmentConfig(CloseupFaults):
    """How crops differ from the renders' own; methods place mouths less surely than eyes.

    Attributes:
        mirror: share that is mirrored.
    """

    shift: float = 0.06
    scale: float = 0.10
    turn_deg: float = 6.0
    mirror: float = 0.5


NO_MOUTH_AUGMENTATION = MouthAugmentConfig(*[0.0] * 10)


@dataclass(frozen=True)
class MouthLossConfig:
    """What is asked of a reading.

    Attributes:
        doubt: 1 for the Laplace likelihood; 0 takes the doubt as constant: plain absolute errors.
    """

    doubt: float = 1.0


@dataclass(frozen=True)
class MouthRecipe(RunRecipe):
    """All settings of a run.

    Attributes:
        name: "smoke", "cpu", "gpu" or "paper".
        family: always "open": the renders are made of CC0 material.
        optim: optimiser and schedule.
        net: sizes of the network.
        loss: what is asked.
        augment: how crops differ from the renders' own.
        even: how evenly openings are drawn: 0 as they are, 1 each of seven levels as often.
    """

    name: str
    family: Family
    optim: OptimConfig
    net: CloseupConfig = field(default_factory=CloseupConfig)
    loss: MouthLossConfig = field(default_factory=MouthLossConfig)
    augment: MouthAugmentConfig = field(default_factory=MouthAugmentConfig)
    even: float = 0.5


def smoke(family: Family = "open") -> MouthRecipe:
    """A few seconds on one core: proves that everything runs."""
    optim = OptimConfig(steps=5, batch=8, peak_rate=1e-3, warmup=2, ema=0.9)
    net = CloseupConfig((8, 8, 16, 16), (1, 1, 1), 16, 16)
    return MouthRecipe("smoke", family, optim, net, evaluate_every=5, save_every=5)


def cpu(family: Family = "open") -> MouthRecipe:
    """Half an hour on one core, after a quarter of an hour of rendering on two."""
    optim = OptimConfig(steps=7000, batch=96, peak_rate=2e-3, warmup=100, ema=0.997)
    return MouthRecipe("cpu", family, optim)


def gpu(family: Family = "open") -> MouthRecipe:
    """A wider network on 200,000 faces' mouths, 20 million crops on one GPU."""
    optim = OptimConfig(steps=20_000, batch=1024, peak_rate=3e-3, warmup=500, ema=0.999)
    net = CloseupConfig((32, 64, 128, 192), (2, 2, 2), 48, 256)
    recipe = MouthRecipe("gpu", family, optim, net)
    return replace(recipe, device="cuda", precision="bf16-mixed", threads=0, workers=12)


def paper(family: Family = "open") -> MouthRecipe:
    """As `gpu`, four times as long; no paper stands behind this network."""
    recipe = gpu(family)
    return replace(recipe, name="paper", optim=replace(recipe.optim, steps=80_000))


RECIPES: dict[str, Callable[[Family], MouthRecipe]] = {
    "smoke": smoke, "cpu": cpu, "gpu": gpu, "paper": paper,
}  # fmt: skip


@dataclass(frozen=True)
class MouthBatch:
    """Crops (b, 3, 72, 96) in [0, 1], directions (b, 3), targets (b, 1) of `mouth_targets`."""

    crops: Float[Tensor, "b 3 h w"]
    directions: Float[Tensor, "b 3"]
    targets: Float[Tensor, "b 1"]


def make_batch(
    mouths: MouthWindows, ids: ndarray, rng: np.random.Generator, config: MouthAugmentConfig
) -> MouthBatch:
    """The crops of some mouths.

    Args:
        mouths: a cache.
        ids: (b,) which of them.
        rng: decides everything.
        config: strengths.
    """
    pixels = torch.from_numpy(mouths.windows[ids]).permute(0, 3, 1, 2).float() / 255
    crops = placed(pixels, (HEIGHT, WIDTH), MARGIN, rng, config)
    flip = rng.random(len(ids)) < config.mirror
    crops = torch.where(torch.from_numpy(flip)[:, None, None, None], crops.flip(-1), crops)
    direction = mouths.direction[ids] * np.where(flip[:, None], [-1.0, 1.0, 1.0], 1.0)
    directions = turned(direction, config.view_deg, rng)
    targets = mouth_targets(torch.from_numpy(mouths.opening[ids]).float())
    return MouthBatch(with_faults(crops, rng, config), directions, targets)


class BatchMaker:
    """Batches by step number.

    Args:
        mouths: training material.
        recipe: batch, seed and augmentation.
    """

    def __init__(self, mouths: MouthWindows, recipe: MouthRecipe) -> None:
        self._mouths, self._recipe = mouths, recipe
        self._chances = chances(mouths.opening, recipe.even)

    def __call__(self, step: int, share: int = 0, shares: int = 1) -> MouthBatch:
        """Share `share` of `shares` of a step's batch."""
        recipe = self._recipe
        rng = np.random.default_rng([recipe.seed, step, share])
        ids = rng.choice(len(self._mouths), recipe.optim.batch // shares, p=self._chances)
        return make_batch(self._mouths, ids, rng, recipe.augment)


def chances(opening: Float[ndarray, " n"], even: float) -> Float[ndarray, " n"]:
    """How often each mouth is drawn; rare openings more often than they are."""
    level = np.digitize(opening, _LEVELS)
    weight = np.bincount(level, minlength=len(_LEVELS) + 1)[level] ** -float(even)
    return weight / weight.sum()


class MouthLoss(nn.Module):
    """Laplace likelihood of the opening, its error and its doubt.

    Args:
        config: what is asked.
    """

    def __init__(self, config: MouthLossConfig) -> None:
        super().__init__()
        self.config = config

    def forward(self, raw: Tensor, targets: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss and its parts.

        Args:
            raw: (b, 2) of `MouthNet`.
            targets: (b, 1) of `mouth_targets`.
        """
        raw = raw.float()
        error = (raw[:, :1] - targets).abs()
        log_b = raw[:, 1:] * self.config.doubt
        total = (error * torch.exp(-log_b) + log_b).mean()
        return total, {"opening": total.detach(), "error": error.mean().detach()}


def step_loss(
    network: nn.Module, criterion: nn.Module, batch: MouthBatch, step: int
) -> tuple[Tensor, Mapping[str, Tensor]]:
    """Loss of one batch."""
    del step
    return criterion(network(batch.crops, batch.directions), batch.targets)


@torch.no_grad()
def read_all(network: MouthNet, mouths: MouthWindows, step: int = 256) -> Float[ndarray, "n 2"]:
    """(n, 2) of `MouthExport` for the nominal crops of all mouths of a cache."""
    export = MouthExport(network).eval()
    device = next(network.parameters()).device
    rng = np.random.default_rng(0)
    rows = []
    for start in range(0, len(mouths), step):
        ids = np.arange(start, min(start + step, len(mouths)))
        batch = make_batch(mouths, ids, rng, NO_MOUTH_AUGMENTATION)
        rows.append(export(batch.crops.to(device), batch.directions.to(device)).cpu().numpy())
    return np.concatenate(rows)


def evaluate(network: nn.Module, mouths: MouthWindows) -> dict[str, float]:
    """Errors on mouths at least half of which is in view; see `mouth_scores`."""
    assert isinstance(network, MouthNet)
    network.eval()
    seen = mouths.seen >= 0.5
    return mouth_scores(read_all(network, mouths)[seen, 0], mouths.opening[seen])


def mouth_scores(found: Float[ndarray, " n"], truth: Float[ndarray, " n"]) -> dict[str, float]:
    """Errors of openings.

    Returns:
        "opening": mean absolute error; "shut": share of the shut mouths that are called shut;
        "parted": share of the clearly parted ones that are not; "correlation".
    """

    def mean(values: ndarray) -> float:
        return float(values.mean()) if len(values) else float("nan")

    same = len(found) < 2 or np.ptp(found) == 0 or np.ptp(truth) == 0
    return {
        "opening": mean(np.abs(found - truth)),
        "shut": mean(found[truth < SHUT] < CALLED_SHUT),
        "parted": mean(found[truth > PARTED] >= CALLED_SHUT),
        "correlation": float("nan") if same else float(np.corrcoef(found, truth)[0, 1]),
    }


def add_options(group: Any) -> None:
    """Options that say where the data are."""
    add = group.add_argument
    add("--mouths", type=Path, required=True, help="cache of mouths to train on")
    add("--held-out", type=Path, required=True, help="cache of held-out mouths")


def run(recipe: MouthRecipe, options: argparse.Namespace, config: LoopConfig) -> None:
    """Train a mouth reader as a command line asks for."""
    if recipe.family != "open":
        raise UserError("the mouth reader learns from CC0 renders only: --family open")
    training, held_out = load_mouths(options.mouths), load_mouths(options.held_out, True)
    logger.info("mouths: %d, held out %d", len(training), len(held_out))
    run_training(recipe, training, held_out, config)


def run_training(
    recipe: MouthRecipe, training: MouthWindows, held_out: MouthWindows, config: LoopConfig
) -> MouthNet:
    """Train (or go on training) a mouth network and return it with averaged weights."""
    torch.manual_seed(recipe.seed)
    averaged = train(
        MouthNet(recipe.net),
        MouthLoss(recipe.loss),
        BatchMaker(training, recipe),
        step_loss,
        lambda network: evaluate(network, held_out),
        config,
        {"recipe": asdict(recipe)},
    )
    assert isinstance(averaged, MouthNet)
    return averaged


def shorten(recipe: MouthRecipe, fraction: float) -> MouthRecipe:
    """The recipe with its schedule shortened."""
    return replace(recipe, optim=shorten_optim(recipe.optim, fraction))


SWITCHES = (
    Switch("doubt", ("loss.doubt=0",), expected="any", metric="opening"),
    Switch("even openings", ("even=0",), expected="any", metric="opening"),
    Switch("coarse crops", ("augment.coarse=0",), expected="any", metric="opening"),
    Switch("other colours", ("augment.colour=0",), expected="any", metric="opening"),
)
TRAINABLE = Trainable(
    name="mouth",
    summary="Mouth reader: how far the lips are apart, from the close-up of a mouth.",
    recipes=RECIPES,
    add_options=add_options,
    run=run,
    shorten=shorten,
    switches=SWITCHES,
)
