"""Train the eye reader: lid opening and gaze from the close-up of one eye.

    python -m lifemask.data.eye_windows EYES --data DATA
    python -m lifemask.data.eye_windows HELD_OUT --data DATA --count 400 --seed 910000000
    lifemask train eyes --recipe cpu --eyes EYES --held-out HELD_OUT --run runs/eyes

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
from lifemask.data.eye_windows import EyeWindows, load_eyes_cache
from lifemask.evaluation.metrics import angles_deg
from lifemask.nn.closeup_net import CloseupConfig
from lifemask.nn.eye_net import EyeExport, EyeNet
from lifemask.training.eyes_batches import (
    NO_EYE_AUGMENTATION,
    EyeAugmentConfig,
    EyeBatch,
    make_batch,
)
from lifemask.training.loop import LoopConfig, train
from lifemask.training.recipes import Family, OptimConfig, RunRecipe
from lifemask.training.trainable import Switch, Trainable, shorten_optim

logger = logging.getLogger(__name__)
SHUT = 0.1
"""Openings below it count as shut."""


@dataclass(frozen=True)
class EyeLossConfig:
    """Weights of the terms; 0 switches a term off.

    Attributes:
        opening: Laplace likelihood of the opening, its error and its doubt.
        gaze: of pitch and yaw, on eyes that are open.
        doubt: 0 takes the doubt as constant: plain absolute errors.
    """

    opening: float = 1.0
    gaze: float = 0.5
    doubt: float = 1.0


@dataclass(frozen=True)
class EyeRecipe(RunRecipe):
    """All settings of a run.

    Attributes:
        name: "smoke", "cpu", "gpu" or "paper".
        family: always "open": the renders are made of CC0 material.
        optim: optimiser and schedule.
        net: sizes of the network.
        loss: weights of the terms.
        augment: how crops differ from the renders' own.
    """

    name: str
    family: Family
    optim: OptimConfig
    net: CloseupConfig = field(default_factory=CloseupConfig)
    loss: EyeLossConfig = field(default_factory=EyeLossConfig)
    augment: EyeAugmentConfig = field(default_factory=EyeAugmentConfig)


def smoke(family: Family = "open") -> EyeRecipe:
    """A few seconds on one core: proves that everything runs."""
    optim = OptimConfig(steps=5, batch=8, peak_rate=1e-3, warmup=2, ema=0.9)
    net = CloseupConfig((8, 8, 16, 16), (1, 1, 1), 16, 16)
    return EyeRecipe("smoke", family, optim, net, evaluate_every=5, save_every=5)


def cpu(family: Family = "open") -> EyeRecipe:
    """Half an hour on one core, after ten minutes of rendering on two."""
    optim = OptimConfig(steps=6000, batch=128, peak_rate=2e-3, warmup=100, ema=0.997)
    return EyeRecipe("cpu", family, optim)


def gpu(family: Family = "open") -> EyeRecipe:
    """A wider network on 200,000 faces' eyes, 20 million crops on one GPU."""
    optim = OptimConfig(steps=20_000, batch=1024, peak_rate=3e-3, warmup=500, ema=0.999)
    net = CloseupConfig((32, 64, 128, 192), (2, 2, 2), 48, 256)
    recipe = EyeRecipe("gpu", family, optim, net)
    return replace(recipe, device="cuda", precision="bf16-mixed", threads=0, workers=12)


def paper(family: Family = "open") -> EyeRecipe:
    """As `gpu`, four times as long; no paper stands behind this network."""
    recipe = gpu(family)
    return replace(recipe, name="paper", optim=replace(recipe.optim, steps=80_000))


RECIPES: dict[str, Callable[[Family], EyeRecipe]] = {
    "smoke": smoke, "cpu": cpu, "gpu": gpu, "paper": paper,
}  # fmt: skip


class BatchMaker:
    """Batches by step number.

    Args:
        eyes: training material.
        recipe: batch, seed and augmentation.
    """

    def __init__(self, eyes: EyeWindows, recipe: EyeRecipe) -> None:
        self._eyes, self._recipe = eyes, recipe

    def __call__(self, step: int, share: int = 0, shares: int = 1) -> EyeBatch:
        """Share `share` of `shares` of a step's batch."""
        recipe = self._recipe
        rng = np.random.default_rng([recipe.seed, step, share])
        ids = rng.integers(0, len(self._eyes), recipe.optim.batch // shares)
        return make_batch(self._eyes, ids, rng, recipe.augment)


class EyeLoss(nn.Module):
    """The weighted sum of the terms.

    Args:
        config: weights.
    """

    def __init__(self, config: EyeLossConfig) -> None:
        super().__init__()
        self.config = config

    def forward(self, raw: Tensor, targets: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss and its parts.

        Args:
            raw: (b, 6) of `EyeNet`.
            targets: (b, 3) of `eye_targets`.
        """
        config = self.config
        raw = raw.float()
        error = (raw[:, :3] - targets).abs()
        log_b = raw[:, 3:] * config.doubt
        each = error * torch.exp(-log_b) + log_b
        # a shut eye hides where it looks: what is not seen is not asked for
        awake = ((targets[:, :1] + 1.5) / 0.7).clamp(0.05, 1)
        opening = each[:, 0].mean()
        gaze = (each[:, 1:] * awake).sum() / (2 * awake.sum())
        total = config.opening * opening + config.gaze * gaze
        parts = {"opening": opening, "gaze": gaze, "error": error[:, 0].mean()}
        return total, {k: v.detach() for k, v in parts.items()}


def step_loss(
    network: nn.Module, criterion: nn.Module, batch: EyeBatch, step: int
) -> tuple[Tensor, Mapping[str, Tensor]]:
    """Loss of one batch."""
    del step
    return criterion(network(batch.crops, batch.directions), batch.targets)


@torch.no_grad()
def read_all(network: EyeNet, eyes: EyeWindows, step: int = 256) -> np.ndarray:
    """(n, 6) of `EyeExport` for the nominal crops of all eyes of a cache."""
    export = EyeExport(network).eval()
    device = next(network.parameters()).device
    rng = np.random.default_rng(0)
    rows = []
    for start in range(0, len(eyes), step):
        ids = np.arange(start, min(start + step, len(eyes)))
        batch = make_batch(eyes, ids, rng, NO_EYE_AUGMENTATION)
        rows.append(export(batch.crops.to(device), batch.directions.to(device)).cpu().numpy())
    return np.concatenate(rows)


def evaluate(network: nn.Module, eyes: EyeWindows) -> dict[str, float]:
    """Errors on eyes at least half of which is in view; see `eye_scores`."""
    assert isinstance(network, EyeNet)
    network.eval()
    return eye_scores(read_all(network, eyes), eyes)


def eye_scores(found: np.ndarray, eyes: EyeWindows) -> dict[str, float]:
    """Errors of readings (n, 6) on eyes at least half of which is in view.

    Returns:
        "opening": mean absolute error; "shut": share of the shut eyes that are called shut;
        "open": share of the eyes open at least twice as far that are not; "gaze_deg": mean angle
        between true and found gaze of open eyes; "gaze_still_deg": that of looking straight ahead.
    """

    def mean(values: ndarray) -> float:
        return float(values.mean()) if len(values) else float("nan")

    seen = eyes.seen >= 0.5
    truth, told = eyes.opening[seen], found[seen, 0]
    shut, wide = truth < SHUT, truth > 2 * SHUT
    gaze, read = eyes.gaze_deg[seen], found[seen, 1:3]
    return {
        "opening": mean(np.abs(truth - told)),
        "shut": mean(told[shut] < 1.3 * SHUT),
        "open": mean(told[wide] >= 1.3 * SHUT),
        "gaze_deg": mean(gaze_error_deg(gaze[wide], read[wide])),
        "gaze_still_deg": mean(gaze_error_deg(gaze[wide], 0 * read[wide])),
    }


def gaze_error_deg(
    first: Float[ndarray, "n 2"], second: Float[ndarray, "n 2"]
) -> Float[ndarray, "n"]:
    """Angles (n,) between directions given as pitch and yaw in degrees."""
    vectors = []
    for angles in (first, second):
        pitch, yaw = np.deg2rad(angles).T
        side, ahead = np.sin(yaw) * np.cos(pitch), np.cos(yaw) * np.cos(pitch)
        vectors.append(np.stack((side, np.sin(pitch), ahead), -1))
    return angles_deg(*vectors)


def add_options(group: Any) -> None:
    """Options that say where the data are."""
    add = group.add_argument
    add("--eyes", type=Path, required=True, help="cache of eyes to train on")
    add("--held-out", type=Path, required=True, help="cache of held-out eyes")


def run(recipe: EyeRecipe, options: argparse.Namespace, config: LoopConfig) -> None:
    """Train an eye reader as a command line asks for."""
    if recipe.family != "open":
        raise UserError("the eye reader learns from CC0 renders only: --family open")
    training, held_out = load_eyes_cache(options.eyes), load_eyes_cache(options.held_out, True)
    logger.info("eyes: %d, held out %d", len(training), len(held_out))
    run_training(recipe, training, held_out, config)


def run_training(
    recipe: EyeRecipe, training: EyeWindows, held_out: EyeWindows, config: LoopConfig
) -> EyeNet:
    """Train (or go on training) an eye network and return it with averaged weights."""
    torch.manual_seed(recipe.seed)
    averaged = train(
        EyeNet(recipe.net),
        EyeLoss(recipe.loss),
        BatchMaker(training, recipe),
        step_loss,
        lambda network: evaluate(network, held_out),
        config,
        {"recipe": asdict(recipe)},
    )
    assert isinstance(averaged, EyeNet)
    return averaged


def shorten(recipe: EyeRecipe, fraction: float) -> EyeRecipe:
    """The recipe with its schedule shortened."""
    return replace(recipe, optim=shorten_optim(recipe.optim, fraction))


SWITCHES = (
    Switch("doubt", ("loss.doubt=0",), expected="any", metric="opening"),
    Switch("lashes", ("augment.lashes=0",), expected="any", metric="opening"),
    Switch("shadow", ("augment.shade=0",), expected="any", metric="opening"),
    Switch("coarse crops", ("augment.coarse=0",), expected="any", metric="opening"),
    Switch("gaze", ("loss.gaze=0",), expected="any", metric="opening"),
)
TRAINABLE = Trainable(
    name="eyes",
    summary="Eye reader: lid opening and gaze from the close-up of one eye.",
    recipes=RECIPES,
    add_options=add_options,
    run=run,
    shorten=shorten,
    switches=SWITCHES,
)
