"""Recipes of RAFaRe's three networks in four sizes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial

from lifemask.methods._rafare_loss import Part, RafareLossConfig
from lifemask.nn.sdf import FieldNetConfig, NormalNetConfig
from lifemask.training.recipes import Family, OptimConfig, RunRecipe


@dataclass(frozen=True)
class RafareAugment:
    """How pairs are varied.

    Attributes:
        mirror: share of the pairs that are mirrored.
        scale: largest change of size, as a share.
        shift: largest shift in the image plane, in half-crops.
        colours: change exposure and white balance, blur, add noise and compress.
        guide_lost: share of the pairs without a guide.
        depth: standard deviation of a shift of everything along the view, in half-crops.
    """

    mirror: float = 0.5
    scale: float = 0.1
    shift: float = 0.1
    colours: bool = True
    guide_lost: float = 0.1
    depth: float = 0.02


@dataclass(frozen=True)
class RafareRecipe(RunRecipe):
    """All settings of a run of one network.

    Attributes:
        name: "smoke", "cpu", "gpu" or "paper".
        family: "open" sees pairs made from renders only; "research" from photos, too.
        part: "base" (`f_base`), "fine" (`f_fine`) or "normals".
        net: sizes and switches of the network.
        optim: optimiser and schedule.
        loss: terms and their weights.
        augment: how pairs are varied.
        points: of each pair and step.
        uniform: share of the points that lie anywhere in the cube, not near the surface.
        surface: points of the true surface of each pair, where the loss needs any.
        evaluate_pairs: at most so many of them.
        select: validation metric that marks the best checkpoint; lowest is best.
    """

    name: str
    family: Family
    part: Part
    net: FieldNetConfig | NormalNetConfig
    optim: OptimConfig
    loss: RafareLossConfig = field(default_factory=RafareLossConfig)
    augment: RafareAugment = field(default_factory=RafareAugment)
    points: int = 5000
    uniform: float = 0.1
    surface: int = 500
    evaluate_pairs: int = 60
    select: str = "error"


_STEPS: dict[str, dict[Part, tuple[int, int]]] = {
    "smoke": {"base": (20, 2), "fine": (20, 2), "normals": (20, 2)},
    "cpu": {"base": (8000, 8), "fine": (3000, 8), "normals": (6000, 8)},
    "gpu": {"base": (10_000, 16), "fine": (6000, 24), "normals": (6000, 32)},
    # 30 epochs of 103,450 pairs, batches of 12 (base) and 24
    "paper": {"base": (258_000, 12), "fine": (129_000, 24), "normals": (129_000, 24)},
}
"""Steps and pairs per step."""


def _net(name: str, part: Part) -> FieldNetConfig | NormalNetConfig:
    size = {"smoke": 32, "cpu": 256, "gpu": 256, "paper": 512}[name]
    if part == "normals":
        widths = {"smoke": (8, 16), "cpu": (48, 96, 192, 256), "gpu": (32, 64, 128, 256),
                  "paper": (32,)}[name]  # fmt: skip
        kind = "pix2pixhd" if name == "paper" else "unet"
        return NormalNetConfig(size, kind=kind, widths=widths, fold=2 if name == "cpu" else 1)
    if name == "smoke":
        plain = FieldNetConfig(size, stem=8, widths=(8,), stacks=0, mlp=(16, 8))
    elif name == "cpu":
        plain = FieldNetConfig(size, fold=2, widths=(64, 128), levels=3, features=64)
    elif name == "gpu":
        plain = FieldNetConfig(size, widths=(64, 128), stacks=2, mlp=(512, 256, 128))
    else:
        plain = FieldNetConfig(
            size, guide=False, stem=64, widths=(128, 128, 256), stacks=4, mlp=(1024, 512, 256, 128)
        )
    if part == "base":
        return plain
    widths = {"smoke": (8,), "cpu": (64, 64), "gpu": (64, 128), "paper": (128, 128, 256)}[name]
    mlp = {"gpu": (512, 256, 128)}.get(name, plain.mlp)
    return replace(plain, fold=1, widths=widths, pool=False, residual=False, stacks=0, mlp=mlp)


def _recipe(name: str, part: Part, family: Family) -> RafareRecipe:
    steps, batch = _STEPS[name][part]
    ema = 0.9 if name == "smoke" else 0.999
    optim = OptimConfig(
        steps, batch, peak_rate=1e-3, weight_decay=1e-4, warmup=max(2, min(300, steps // 20)),
        ema=ema, clip=1.0, betas=(0.9, 0.99), optimizer="muon" if name == "cpu" else "adamw",
    )  # fmt: skip
    net = _net(name, part)
    return RafareRecipe(name, family, part, net, optim, evaluate_every=1000, save_every=500)


def smoke(part: Part, family: Family = "open") -> RafareRecipe:
    """A few seconds on one core: 20 steps on crops of 32 px."""
    recipe = _recipe("smoke", part, family)
    return replace(
        recipe, points=400, surface=50, evaluate_every=20, evaluate_pairs=4, save_every=20
    )


def cpu(part: Part, family: Family = "open") -> RafareRecipe:
    """256 px. An hour (base), 25 minutes (fine) and an hour (normals) on one core.

    These times are with bfloat16 instructions and `precision="bf16-mixed"`.
    """
    return replace(_recipe("cpu", part, family), points=3000)


def gpu(part: Part, family: Family = "open") -> RafareRecipe:
    """All three within 25 minutes on one H200-class GPU; crops of 256 px."""
    recipe = _recipe("gpu", part, family)
    return replace(recipe, device="cuda", precision="bf16-mixed", threads=0, workers=12)


def paper(part: Part, family: Family = "open") -> RafareRecipe:
    """Published sizes and schedule, on several GPUs: 512 px, no guide, colours as they are."""
    recipe = _recipe("paper", part, family)
    if part == "normals":
        adversarial = RafareLossConfig(
            absolute=0, angle=0, edges=0, gan=1, matching=10, perceptual=10, critic_width=64
        )
        recipe = replace(recipe, loss=adversarial)
    return replace(
        recipe, net=replace(recipe.net, guide=False),
        augment=replace(recipe.augment, colours=False), uniform=0.0, device="auto",
        precision="bf16-mixed", threads=0, workers=12, processes=8,
    )  # fmt: skip


def recipes(part: Part) -> dict[str, Callable[[Family], RafareRecipe]]:
    """The recipes of a network by size."""
    return {make.__name__: partial(make, part) for make in (smoke, cpu, gpu, paper)}
