"""Recipes of 2DASL in four sizes; two stages each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Literal

from lifemask.methods.dasl import DaslConfig, DaslLossConfig
from lifemask.training.dasl_batches import DaslBatchConfig
from lifemask.training.recipes import Family, OptimConfig, RunRecipe


@dataclass(frozen=True)
class DaslRecipe(RunRecipe):
    """All settings of a 2DASL run.

    Stage 1 learns from labelled renders with all terms but the self-critic; stage 2 fills half of
    each batch with unlabelled faces and uses all terms.

    Attributes:
        name: "smoke", "cpu", "gpu" or "paper".
        family: "open" sees renders only, stage 2's "photos" are renders with found landmarks;
            "research" sees AFLW and YouTube Faces there.
        net: sizes and inputs of the network.
        optim: optimiser and schedule of stage 1.
        optim2: of stage 2.
        stage2: False stops after stage 1.
        stages: "both" runs one after the other; "1" or "2" only that one, which several processes
            and a separate start need.
        unlabelled: False fills stage 2 with labelled renders too.
        start: "landmarker" starts the mobile backbone from the shipped landmarker of the same
            family; "" starts from random weights.
        loss: terms and their weights.
        batches: augmentation of crops and maps; batch, size, seed and the share of unlabelled
            faces follow from the rest of the recipe.
        wild_share: share of unlabelled faces in a batch of stage 2.
        wild_renders: share of the renders that lose their labels, in the open family.
        evaluate_crops: at most so many crops of each held-out set.
        held_out_renders: number of first shards kept for evaluation.
        select: validation metric that marks the best checkpoint; lowest is best.
    """

    name: str
    family: Family
    net: DaslConfig
    optim: OptimConfig
    optim2: OptimConfig
    stage2: bool = True
    stages: Literal["both", "1", "2"] = "both"
    unlabelled: bool = True
    start: str = "landmarker"
    loss: DaslLossConfig = field(default_factory=DaslLossConfig)
    batches: DaslBatchConfig = field(default_factory=DaslBatchConfig)
    wild_share: float = 0.5
    wild_renders: float = 0.25
    evaluate_crops: int = 500
    held_out_renders: int = 1
    select: str = "renders-open"


def smoke(family: Family = "open") -> DaslRecipe:
    """A few seconds on one core: proves that everything runs."""
    optim = _optim(5, 4, warmup=2, ema=0.9)
    recipe = _recipe("smoke", family, DaslConfig("tiny", 48), optim, optim)
    return replace(recipe, start="", evaluate_every=5, save_every=5, held_out_renders=0)


def cpu(family: Family = "open") -> DaslRecipe:
    """About an hour and a half on one core: the mobile network, from the landmarker's trunk."""
    return _recipe("cpu", family, DaslConfig(), _optim(2000, 64), _optim(1000, 64))


def gpu(family: Family = "open") -> DaslRecipe:
    """About 25 minutes on one H200-class GPU: ResNet-50 from random weights, 2.5 million crops."""
    stage1, stage2 = _optim(3000, 512, warmup=300), _optim(2000, 512)
    recipe = _recipe("gpu", family, DaslConfig("resnet50", 120), stage1, stage2)
    fast = replace(recipe, device="cuda", precision="bf16-mixed", threads=0, workers=14)
    return replace(fast, start="")


def paper(family: Family = "open") -> DaslRecipe:
    """The published scale, 30 epochs of 300W-LP's size in each stage, on several GPUs.

    Several processes run one stage at a time: `--set stages=1`, then `--set stages=2`.
    """
    steps = 30 * 122_450 // 256
    stage1, stage2 = (_optim(steps, 256, rate=5e-4, warmup=1000) for _ in range(2))
    recipe = replace(gpu(family), name="paper", optim=stage1, optim2=stage2, stages="1")
    net = DaslConfig("resnet50", 120, map="points")
    return replace(recipe, net=net, device="auto", processes=8)


def _optim(
    steps: int, batch: int, rate: float = 1e-3, warmup: int = 100, ema: float = 0.998
) -> OptimConfig:
    return OptimConfig(
        steps, batch, peak_rate=rate, weight_decay=1e-4, warmup=warmup, ema=ema, clip=1.0
    )


def _recipe(
    name: str, family: Family, net: DaslConfig, optim: OptimConfig, optim2: OptimConfig
) -> DaslRecipe:
    select = "renders-open" if family == "open" else "aflw21"
    return DaslRecipe(name, family, net, optim, optim2, select=select)


DASL: dict[str, Callable[[Family], DaslRecipe]] = {
    "smoke": smoke,
    "cpu": cpu,
    "gpu": gpu,
    "paper": paper,
}
