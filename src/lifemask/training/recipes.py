"""Training recipes: frozen settings in four sizes, made by functions; `RECIPES` names them all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Literal

from lifemask.data.augment import AugmentConfig
from lifemask.nn.landmark_net import LandmarkNetConfig

Family = Literal["open", "research"]


@dataclass(frozen=True)
class OptimConfig:
    """Optimiser and schedule.

    Attributes:
        steps: number of optimiser steps.
        batch: crops per step.
        accumulate: shares of a batch that each process computes one after another; the gradient
            is that of the whole batch, the memory that of one share.
        peak_rate: learning rate after warm-up; falls by a cosine to `final_fraction` of it.
        final_fraction: see above.
        weight_decay: of AdamW, on weights only (not on biases and norms).
        warmup: steps of linear warm-up.
        ema: decay of the averaged weights.
        clip: largest norm of the gradient of everything trained, after accumulation.
        betas: decay of AdamW's two averages.
        optimizer: "adamw", or "muon" for weights with two axes or more (`training.muon`).
    """

    steps: int
    batch: int = 64
    peak_rate: float = 2e-3
    final_fraction: float = 0.005
    weight_decay: float = 2e-3
    warmup: int = 150
    ema: float = 0.998
    clip: float = 5.0
    accumulate: int = 1
    betas: tuple[float, float] = (0.9, 0.99)
    optimizer: Literal["adamw", "muon"] = "adamw"


@dataclass(frozen=True)
class LandmarkLossConfig:
    """Weights of the loss terms; 0 switches a term off.

    Attributes:
        point: distance in (u, v), in units of `unit`.
        nearness: absolute error of w on renders, same units.
        maps: distance of the soft-argmax positions.
        nll: Laplace likelihood, from step `nll_from` on.
        nll_from: step at which the likelihood joins.
        model: distance of the points of the parameter output.
        consistency: distance between both outputs, on all images.
        identity: mean square of the identity coefficients.
        expression: distance of the expression coefficients to [0, 1].
        offset: mean square of the datasets' learned offsets.
        loose: weight of AFLW's ears and chin.
        jaw: weight of automatic jaw points within `jaw_yaw_deg`; 0 beyond.
        jaw_yaw_deg: see above.
        unit: length that counts as 1, in half-crops.
    """

    point: float = 1.0
    nearness: float = 0.5
    maps: float = 0.25
    nll: float = 0.25
    nll_from: int = 400
    model: float = 0.5
    consistency: float = 0.2
    identity: float = 0.02
    expression: float = 0.1
    offset: float = 0.2
    loose: float = 0.3
    jaw: float = 0.4
    jaw_yaw_deg: float = 20.0
    unit: float = 0.04


@dataclass(frozen=True, kw_only=True)
class RunRecipe:
    """How a run is carried out: what the recipes of all networks share.

    Attributes:
        seed: of everything random.
        device: for lightning.fabric: "cpu", "cuda" or "auto".
        precision: for lightning.fabric.
        processes: data-parallel processes that share a batch.
        threads: of torch per process on a CPU; 0 leaves them as they are.
        workers: threads that prepare batches.
        evaluate_every: steps between evaluations on held-out data.
        save_every: steps between checkpoints.
    """

    seed: int = 0
    device: str = "cpu"
    precision: str = "32-true"
    processes: int = 1
    threads: int = 1
    workers: int = 1
    evaluate_every: int = 500
    save_every: int = 250


@dataclass(frozen=True)
class LandmarkerRecipe(RunRecipe):
    """All settings of a landmarker run.

    Attributes:
        name: "smoke", "cpu", "gpu" or "paper".
        family: "open" trains on renders with CC0 skins only; "research" adds real photos.
        net: sizes of the network.
        optim: optimiser and schedule.
        loss: weights of the terms.
        augment: strengths of the augmentation.
        mix: share of "renders", "aflw21", "ytf68" in a batch.
        held_out_renders: number of first shards kept for evaluation.
        select: validation metric that marks the best checkpoint; lowest is best.
    """

    name: str
    family: Family
    net: LandmarkNetConfig
    optim: OptimConfig
    loss: LandmarkLossConfig = field(default_factory=LandmarkLossConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    mix: tuple[float, float, float] = (1.0, 0.0, 0.0)
    held_out_renders: int = 1
    select: str = "renders-open"


OPEN_MIX = (1.0, 0.0, 0.0)
RESEARCH_MIX = (0.45, 0.35, 0.20)
CPU_NET = LandmarkNetConfig(widths=(24, 40, 80, 160), blocks=(1, 2, 2), map_width=64)


def smoke(family: Family = "open") -> LandmarkerRecipe:
    """A few seconds on one core: proves that everything runs."""
    # Not under 16 channels: oneDNN 3.x on AVX-512 writes out of bounds in the backward pass of a
    # channels-last 1x1 convolution with stride 2 and 8 channels (docs/training.md, Traps).
    net = LandmarkNetConfig(widths=(16, 16, 16, 16), blocks=(1, 1, 1), map_width=16, hidden=64)
    optim = OptimConfig(steps=5, batch=4, peak_rate=1e-3, warmup=2, ema=0.9)
    recipe = _recipe("smoke", family, net, optim)
    return replace(recipe, evaluate_every=5, save_every=5, held_out_renders=0)


def cpu(family: Family = "open") -> LandmarkerRecipe:
    """About an hour on two cores at 110 crops/s; shipped weights took fewer steps (cards)."""
    recipe = _recipe("cpu", family, CPU_NET, OptimConfig(steps=6000, batch=64))
    return replace(recipe, processes=2)


def gpu(family: Family = "open") -> LandmarkerRecipe:
    """About 25 minutes on one H200-class GPU; five million crops, a wider network."""
    net = LandmarkNetConfig(widths=(48, 96, 192, 384), blocks=(2, 3, 3), map_width=192, hidden=768)
    optim = OptimConfig(steps=20_000, batch=256, warmup=500, ema=0.999)
    recipe = _recipe("gpu", family, net, optim)
    return replace(recipe, device="cuda", precision="bf16-mixed", threads=0, workers=12)


def paper(family: Family = "open") -> LandmarkerRecipe:
    """As long as it still helps: fifty million crops on several GPUs."""
    recipe = gpu(family)
    optim = replace(recipe.optim, steps=100_000, batch=512, warmup=2000, ema=0.9998)
    return replace(recipe, name="paper", optim=optim, device="auto", processes=8)


def _recipe(
    name: str, family: Family, net: LandmarkNetConfig, optim: OptimConfig
) -> LandmarkerRecipe:
    if family == "open":
        return LandmarkerRecipe(name, family, net, optim, mix=OPEN_MIX)
    return LandmarkerRecipe(name, family, net, optim, mix=RESEARCH_MIX, select="aflw21")


LANDMARKER: dict[str, Callable[[Family], LandmarkerRecipe]] = {
    "smoke": smoke,
    "cpu": cpu,
    "gpu": gpu,
    "paper": paper,
}
RECIPES = {
    "landmarker": "lifemask.training.landmarker:TRAINABLE",
    "dasl": "lifemask.training.dasl:TRAINABLE",
    "pgn": "lifemask.training.pgn:TRAINABLE",
    "parser": "lifemask.training.parser_trainable:TRAINABLE",
    "albedo-prior": "lifemask.training.albedo_prior:TRAINABLE",
    "retexture": "lifemask.training.retexture:TRAINABLE",
    "eyes": "lifemask.training.eyes:TRAINABLE",
    "mouth": "lifemask.training.mouth:TRAINABLE",
    "inpaint": "lifemask.training.inpaint:TRAINABLE",
    "rafare-base": "lifemask.training.rafare:BASE",
    "rafare-fine": "lifemask.training.rafare:FINE",
    "rafare-normals": "lifemask.training.rafare:NORMALS",
}
"""What `lifemask train` and `lifemask ablate` know, as "module:attribute" of a `Trainable`."""
