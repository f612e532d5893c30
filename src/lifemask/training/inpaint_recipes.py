"""Recipes of the inpainting network in four sizes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from lifemask.data.augment import AugmentConfig
from lifemask.data.region_augment import RegionAugmentConfig
from lifemask.nn.inpaint_net import InpaintNetConfig
from lifemask.training.recipes import Family, OptimConfig, RunRecipe


@dataclass(frozen=True)
class InpaintLossConfig:
    """Weights of the terms; 0 switches a term off.

    Attributes:
        hole: of the mean absolute error in the hole, sRGB in [0, 1].
        known: of the same where the picture is known: what is known is to be repeated.
        gradient: of the mean absolute error of differences between neighbours that the hole
            touches, the picture's own pixels beside it included: no seam, no missing edges.
        perceptual: of the difference of a face network's early features of both pictures.
    """

    hole: float = 1.0
    known: float = 0.05
    gradient: float = 0.5
    perceptual: float = 0.0


@dataclass(frozen=True)
class HoleConfig:
    """What is cut out of a picture.

    Attributes:
        gap: share of the holes that are what a displaced face leaves beside the face, as in pairs:
            thin crescents. The others are strokes and ellipses.
        shift: standard deviation of that displacement, in crops.
        scale: of the change of its size, as a share.
        hidden: share of the other holes beside which the face may not be looked at, either.
        widest: largest width of a stroke, in crops.
        ellipse: share of the other holes that are one ellipse, as wide as twice that.
    """

    gap: float = 0.6
    shift: float = 0.05
    scale: float = 0.1
    hidden: float = 0.5
    widest: float = 0.12
    ellipse: float = 0.3


_VIEW = AugmentConfig(rotation_deg=10.0, scale=0.15, shift=0.06, noise=0.02, cutout=0.0)


@dataclass(frozen=True)
class InpaintRecipe(RunRecipe):
    """All settings of a run.

    Attributes:
        name: "smoke", "cpu", "gpu" or "paper".
        family: "open" sees renders only; "research" photos, too.
        optim: optimiser and schedule.
        net: sizes of the network.
        loss: terms and their weights.
        holes: what is cut out.
        augment: views of the pictures; a zoom of 0.96 are the crops of pairs.
        photos: share of a batch that are photos ("research").
        evaluated: pictures of each held-out set that are evaluated.
        held_out_renders: first shards of each cache, kept for evaluation.
        select: validation metric that marks the best checkpoint; lowest is best.
    """

    name: str
    family: Family
    optim: OptimConfig
    net: InpaintNetConfig = field(default_factory=InpaintNetConfig)
    loss: InpaintLossConfig = field(default_factory=InpaintLossConfig)
    holes: HoleConfig = field(default_factory=HoleConfig)
    augment: RegionAugmentConfig = field(
        default_factory=lambda: RegionAugmentConfig(_VIEW, 0.96, 0.0, 0.1, 0.2)
    )
    photos: float = 0.5
    evaluated: int = 100
    held_out_renders: int = 1
    select: str = "error"


def smoke(family: Family = "open") -> InpaintRecipe:
    """A few seconds on one core: proves that everything runs."""
    net = InpaintNetConfig(32, (8, 16), (2,))
    optim = OptimConfig(20, 8, peak_rate=5e-3, warmup=5, ema=0.9, clip=1.0)
    recipe = InpaintRecipe("smoke", family, optim, net)
    return replace(recipe, evaluate_every=20, evaluated=8, save_every=20, held_out_renders=0)


def cpu(family: Family = "open") -> InpaintRecipe:
    """About an hour on one core: 128,000 holes at 128 px."""
    optim = OptimConfig(8000, 16, peak_rate=1e-3, warmup=200, ema=0.999, clip=1.0)
    return InpaintRecipe("cpu", family, optim)


def gpu(family: Family = "open") -> InpaintRecipe:
    """The same network on two and a half million holes, on one GPU."""
    optim = OptimConfig(20_000, 128, peak_rate=2e-3, warmup=500, ema=0.999, clip=1.0)
    recipe = InpaintRecipe("gpu", family, optim)
    return replace(recipe, device="cuda", precision="bf16-mixed", threads=0, workers=12)


def paper(family: Family = "open") -> InpaintRecipe:
    """As `gpu`, five times as long, with a perceptual term, as Liu et al. (ECCV 2018) have one."""
    recipe = gpu(family)
    loss = replace(recipe.loss, perceptual=0.05)
    optim = replace(recipe.optim, steps=100_000)
    return replace(recipe, name="paper", loss=loss, optim=optim, device="auto", processes=4)


INPAINT: dict[str, Callable[[Family], InpaintRecipe]] = {
    "smoke": smoke, "cpu": cpu, "gpu": gpu, "paper": paper,
}  # fmt: skip
