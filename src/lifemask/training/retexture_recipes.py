"""Recipes of the re-renderable texture in four sizes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Literal

from lifemask.methods._retexture_loss import RetextureLossConfig
from lifemask.methods._retexture_net import RetextureConfig
from lifemask.training.recipes import Family, OptimConfig, RunRecipe


@dataclass(frozen=True)
class RetextureRecipe(RunRecipe):
    """All settings of a run.

    Stage A learns from renders with their truth; in stage B a share of each batch has none: photos
    in the family "research", renders without their truth in "open".

    Attributes:
        name: "smoke", "cpu", "gpu" or "paper".
        family: "open" sees renders only; "research" adds photos.
        net: sizes and switches of the network.
        optim: optimiser and schedule.
        loss: terms and their weights.
        stage_b: share of the steps after which stage B begins; 1 leaves it out.
        wild_share: share of a batch of stage B without truth.
        holes: chance that a face gets extra hidden texels.
        perceptual: features of the perceptual and style terms: "backbone" of our landmark network,
            or "none".
        unused_parameters: with several processes, steps may leave critics out, as early ones do.
        evaluate_faces: at most so many held-out pictures.
        select: validation metric that marks the best checkpoint; lowest is best.
    """

    name: str
    family: Family
    net: RetextureConfig
    optim: OptimConfig
    loss: RetextureLossConfig = field(default_factory=RetextureLossConfig)
    stage_b: float = 2 / 3
    wild_share: float = 0.5
    holes: float = 0.5
    perceptual: Literal["backbone", "none"] = "backbone"
    unused_parameters: bool = True
    evaluate_faces: int = 160
    select: str = "albedo"


def smoke(family: Family = "open") -> RetextureRecipe:
    """A few seconds on one core: proves that everything runs."""
    net = RetextureConfig(size=32, base=16, blocks=1, look=16, prior="constant")
    loss = RetextureLossConfig(gan_from=1, critic_width=16)
    recipe = RetextureRecipe("smoke", family, net, _optim(5, 2, warmup=2, ema=0.9), loss)
    return replace(recipe, stage_b=0.6, perceptual="none", evaluate_every=5, save_every=5)


def cpu(family: Family = "open") -> RetextureRecipe:
    """About two hours on one core: 6,000 steps of 8 faces at 128 texels."""
    loss = RetextureLossConfig(gan_from=1200)
    return RetextureRecipe("cpu", family, RetextureConfig(), _optim(6000, 8), loss)


def gpu(family: Family = "open") -> RetextureRecipe:
    """About 25 minutes on one H200-class GPU: 12,000 steps of 32 faces at 256 texels."""
    net = RetextureConfig(size=256, base=48, blocks=6, look=48, light_step=2)
    loss = RetextureLossConfig(gan_from=2400, critic_width=48)
    recipe = RetextureRecipe("gpu", family, net, _optim(12_000, 32, warmup=400), loss)
    return replace(recipe, device="cuda", precision="bf16-mixed", threads=0, workers=12)


def paper(family: Family = "open") -> RetextureRecipe:
    """The published sizes and schedule (10 epochs of 200,000 photos), on several GPUs.

    No skips, nothing to start from, no inputs of ours, Adam with a momentum of 0.5.
    """
    recipe = gpu(family)
    net = RetextureConfig(
        256, 64, 6, 48, light_step=1, skips=False, start="none", doubt=False, light_start="learned",
        input=replace(recipe.net.input, unlit=False, normals=False),
    )  # fmt: skip
    steps = 10 * 200_000 // 64
    optim = OptimConfig(
        steps, 64, peak_rate=1e-4, final_fraction=1.0, weight_decay=0.0, warmup=1000, ema=0.999,
        clip=1.0, betas=(0.5, 0.999),
    )  # fmt: skip
    loss = RetextureLossConfig(
        gan_from=steps // 5, critic_width=64, reg_light=1.0, photo_flat=1.0, detail_sup=0.0
    )
    return replace(
        recipe, name="paper", net=net, optim=optim, loss=loss, device="auto", processes=8
    )


def _optim(steps: int, batch: int, warmup: int = 200, ema: float = 0.998) -> OptimConfig:
    return OptimConfig(
        steps, batch, peak_rate=1e-3, weight_decay=1e-4, warmup=warmup, ema=ema, clip=1.0
    )


RETEXTURE: dict[str, Callable[[Family], RetextureRecipe]] = {
    "smoke": smoke,
    "cpu": cpu,
    "gpu": gpu,
    "paper": paper,
}
