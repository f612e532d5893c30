"""Recipes of the region parser in four sizes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from lifemask.data.augment import AugmentConfig
from lifemask.data.region_augment import RegionAugmentConfig
from lifemask.nn.unet import UNetConfig
from lifemask.training.parser_loss import ParserLossConfig
from lifemask.training.recipes import Family, OptimConfig, RunRecipe

_RENDER_VIEW = AugmentConfig(
    rotation_deg=32.0, scale=0.22, shift=0.07, gain=0.1, bias=0.03, gamma=0.1, grey=0.04,
    noise=0.02, blur=0.06, cutout=0.0,
)  # fmt: skip
RENDER_AUGMENT = RegionAugmentConfig(_RENDER_VIEW, occluder=0.12, low_resolution=0.06, jpeg=0.06)


@dataclass(frozen=True)
class ParserRecipe(RunRecipe):
    """All settings of a parser run.

    Attributes:
        name: "smoke", "cpu", "gpu" or "paper".
        family: "open" trains on open renders only; "research" on all renders and FaceSynthetics.
        net: sizes of the network.
        optim: optimiser and schedule.
        loss: weights of the terms.
        augment: strengths of the augmentation of portraits, which are clean and few.
        render_augment: of renders, which bring their camera faults and occluders with them.
        portraits: share of FaceSynthetics in a batch.
        held_out_renders: number of first shards kept for evaluation.
        evaluated: pictures per held-out set during training; `benchmarks/parsing.py` takes all.
    """

    name: str
    family: Family
    net: UNetConfig
    optim: OptimConfig
    loss: ParserLossConfig = field(default_factory=ParserLossConfig)
    augment: RegionAugmentConfig = field(default_factory=RegionAugmentConfig)
    render_augment: RegionAugmentConfig = field(default_factory=lambda: RENDER_AUGMENT)
    portraits: float = 0.0
    held_out_renders: int = 1
    evaluated: int = 200


SMALL_NET = UNetConfig(fold=2, widths=(32, 64, 128, 192), down=2, up=1, merge="add", glasses=True)
NARROW_NET = UNetConfig(
    size=256, fold=2, widths=(16, *SMALL_NET.widths), down=(1, 2, 2, 2, 2), up=1, merge="add",
    glasses=True,
)  # fmt: skip
CPU_NET = replace(NARROW_NET, widths=(32, 64, 128, 256, 256))
PAPER_NET = UNetConfig(size=256, widths=(32, 64, 128, 256), down=2, up=2, merge="cat", glasses=True)


def smoke(family: Family = "open") -> ParserRecipe:
    """A few seconds on one core: proves that everything runs."""
    net = UNetConfig(size=32, fold=2, widths=(8, 8), down=1, up=1, merge="add", glasses=True)
    optim = OptimConfig(steps=5, batch=4, peak_rate=1e-3, warmup=2, ema=0.9)
    recipe = _recipe("smoke", family, net, optim)
    return replace(recipe, evaluate_every=5, save_every=5, held_out_renders=0, evaluated=8)


def cpu(family: Family = "open") -> ParserRecipe:
    """256 px on blocks of 2 x 2 pixels, a quarter of the pixels scored.

    An hour and a half with two processes, or on one core with bfloat16 instructions and
    `precision="bf16-mixed"`; three hours on one core without (docs/parser.md has the speeds).
    """
    optim = OptimConfig(
        steps=4000, batch=32, peak_rate=2e-3, warmup=100, ema=0.997, optimizer="muon"
    )
    return replace(_recipe("cpu", family, CPU_NET, optim), loss=ParserLossConfig(stride=2))


def gpu(family: Family = "open") -> ParserRecipe:
    """The plain U-Net with base 32 and four levels at 256 px: 1.3 million views on one GPU."""
    optim = OptimConfig(steps=20_000, batch=64, peak_rate=2e-3, warmup=500, ema=0.999)
    recipe = _recipe("gpu", family, PAPER_NET, optim)
    return replace(recipe, device="cuda", precision="bf16-mixed", threads=0, workers=12)


def paper(family: Family = "open") -> ParserRecipe:
    """As `gpu`, ten times as long on several GPUs."""
    recipe = gpu(family)
    optim = replace(recipe.optim, steps=100_000, batch=128, warmup=2000, ema=0.9998)
    return replace(recipe, name="paper", optim=optim, device="auto", processes=8)


def _recipe(name: str, family: Family, net: UNetConfig, optim: OptimConfig) -> ParserRecipe:
    return ParserRecipe(name, family, net, optim, portraits=0.2 if family == "research" else 0.0)


PARSER: dict[str, Callable[[Family], ParserRecipe]] = {
    "smoke": smoke,
    "cpu": cpu,
    "gpu": gpu,
    "paper": paper,
}
