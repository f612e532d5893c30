"""A toy method with one part that helps, one that hurts and one that does nothing."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace

import torch
from torch import nn

from lifemask.training.loop import train
from lifemask.training.recipes import Family, OptimConfig, RunRecipe
from lifemask.training.trainable import Switch, Trainable, shorten_optim

STEPS: list[int] = []
BEFORE_STEP: list[Callable[[int], None]] = []


@dataclass(frozen=True)
class ToyRecipe(RunRecipe):
    """A straight line fitted to y = 2 x + 1.

    Attributes:
        bias: share of the constant that the network may use; helps.
        poison: error of the labels; hurts.
        idle: does nothing.
    """

    name: str
    family: Family
    optim: OptimConfig
    select: str = "error"
    bias: float = 1.0
    poison: float = -1.5
    idle: float = 1.0


class Line(nn.Module):
    def __init__(self, bias: float) -> None:
        super().__init__()
        self.slope = nn.Parameter(0.1 * torch.randn(1))
        self.constant = nn.Parameter(torch.zeros(1))
        self.bias = bias

    def forward(self, x):
        return self.slope * x + self.bias * self.constant


def recipe(size: str) -> Callable[[Family], ToyRecipe]:
    steps = 40 if size == "smoke" else 80
    optim = OptimConfig(steps=steps, batch=64, peak_rate=0.3, warmup=2, ema=0.5, weight_decay=0.0)
    return lambda family: ToyRecipe(
        size, family, optim, processes=2, workers=0, evaluate_every=10, save_every=10
    )


def add_options(group) -> None:
    group.add_argument("--data", required=True)
    group.add_argument("--fail-with", type=float, help="poison that makes the loss infinite")


def run(recipe: ToyRecipe, options, config) -> None:
    def make_batch(step, share, shares):
        generator = torch.Generator().manual_seed(100 * recipe.seed + step)
        x = torch.rand(64 // shares, 1, generator=generator)
        return x, 2 * x + 1 + recipe.poison * (x > 0.7)

    def step_loss(network, criterion, batch, step):
        for before in BEFORE_STEP:
            before(step)
        STEPS.append(step)
        loss = (network(batch[0]) - batch[1]).square().mean()
        if options.fail_with is not None and recipe.poison == options.fail_with:
            loss = loss * float("inf")
        return loss, {}

    def evaluate(network):
        x = torch.linspace(0, 1, 20)[:, None]
        with torch.no_grad():
            error = (network(x) - 2 * x - 1).abs().mean()
        return {"error": float(error), "score": 1 - float(error)}

    torch.manual_seed(recipe.seed)
    state = {"recipe": asdict(recipe)}
    train(Line(recipe.bias), nn.Identity(), make_batch, step_loss, evaluate, config, state)


TOY = Trainable(
    name="toy",
    summary="A toy.",
    recipes={size: recipe(size) for size in ("smoke", "cpu")},
    add_options=add_options,
    run=run,
    shorten=lambda r, fraction: replace(r, optim=shorten_optim(r.optim, fraction)),
    switches=(
        Switch("constant", ("bias=0",)),
        Switch("label errors", ("poison=0",), metric="score", highest=True),
        Switch("idle part", ("idle=0",)),
        Switch("research part", ("idle=2",), families=("research",)),
    ),
)
