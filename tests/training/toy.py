"""A toy regression for the loop's tests; also a program, for runs in processes of their own."""

import argparse
import hashlib
import json
import os
import signal
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from lifemask.assets import UserError
from lifemask.training.loop import LoopConfig, train
from lifemask.training.recipes import OptimConfig

BATCH = 8


@dataclass(frozen=True)
class ToyBatch:
    x: torch.Tensor
    y: torch.Tensor


class ToyNet(nn.Module):
    """A convolution, optionally with batch statistics and dropout, and a linear layer."""

    def __init__(self, norm: bool = False, dropout: float = 0.0) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 16, 3, padding=1)
        self.norm = nn.BatchNorm2d(16) if norm else nn.Identity()
        self.dropout = nn.Dropout(dropout)
        self.out = nn.Linear(16, 2)

    def forward(self, x):
        return self.out(self.dropout(self.norm(self.conv(x)).relu().mean((2, 3))))


class ToyLoss(nn.Module):
    """Squared error with a learned offset."""

    def __init__(self) -> None:
        super().__init__()
        self.offset = nn.Parameter(torch.zeros(2))
        self.weight = 2.0

    def forward(self, output, y):
        error = (output + self.offset - y).square().mean()
        return self.weight * error, {"error": error.detach(), "constant": 1.0}


def make_batch(step: int, share: int = 0, shares: int = 1) -> ToyBatch:
    generator = torch.Generator().manual_seed(1000 + step)
    dtype = torch.get_default_dtype()
    x = torch.rand(BATCH, 3, 8, 8, generator=generator, dtype=dtype)
    y = torch.stack((x[:, 0].mean((1, 2)), x[:, 1, 2, 3]), 1)
    rows = slice(share * BATCH // shares, (share + 1) * BATCH // shares)
    return ToyBatch(x[rows], y[rows])


def step_loss(network, criterion, batch, step):
    return criterion(network(batch.x), batch.y)


def evaluate(network):
    with torch.no_grad():
        batch = make_batch(-1)
        like = network.out.weight
        error = (network(batch.x.to(like)) - batch.y.to(like)).square().mean()
    return {"error": float(error)}


def failing_batch(number: int) -> torch.Tensor:
    """Batch `number`, but 3 is a bug, 4 a user's error, and 5 ends the process."""
    if number == 3:
        raise ValueError("planned failure")
    if number == 4:
        raise UserError("no such file; bring it")
    if number == 5:
        os.kill(os.getpid(), signal.SIGKILL)
    return torch.full((16, 4), float(number))


def config(run: Path, steps: int = 6, accumulate: int = 1, **changes) -> LoopConfig:
    optim = OptimConfig(
        steps=steps, batch=BATCH, peak_rate=0.02, warmup=2, ema=0.9, clip=0.05,
        accumulate=accumulate,
    )  # fmt: skip
    loop = LoopConfig(
        optim, run, evaluate_every=0, save_every=2, log_every=2, progress=False, workers=0
    )
    return replace(loop, **changes)


def run(loop: LoopConfig, norm=False, dropout=0.0, on_step=None, **parts):
    """A run from fixed weights; returns the averaged network and the criterion."""
    double = loop.precision == "64-true"
    torch.manual_seed(5)
    network, criterion = ToyNet(norm, dropout), ToyLoss()
    if double:
        network, criterion = network.double(), criterion.double()
    torch.manual_seed(12345)  # a run must not depend on what happened before it
    functions = {"make_batch": make_batch, "step_loss": step_loss, "evaluate": evaluate} | parts
    if double:
        functions["make_batch"] = double_batch
    loop = replace(loop, on_step=on_step)
    averaged = train(network, criterion, **functions, config=loop, state={"recipe": {}})
    return averaged, criterion


def double_batch(step: int, share: int, shares: int) -> ToyBatch:
    batch = make_batch(step, share, shares)
    return ToyBatch(batch.x.double(), batch.y.double())


def weights(averaged, criterion) -> dict[str, torch.Tensor]:
    return averaged.state_dict() | {"offset": criterion.offset.detach()}


def fingerprint(averaged, criterion) -> str:
    values = weights(averaged, criterion)
    data = b"".join(values[k].contiguous().numpy().tobytes() for k in sorted(values))
    return hashlib.sha256(data).hexdigest()


def kill_at(step: int):
    """An `on_step` that ends the process as a power cut would."""

    def on_step(done: int) -> None:
        if done == step:
            os.kill(os.getpid(), signal.SIGKILL)

    return on_step


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--accumulate", type=int, default=1)
    parser.add_argument("--kill-at", type=int, default=0)
    parser.add_argument("--pids", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.pids:
        options.pids.mkdir(exist_ok=True)
        (options.pids / str(os.getpid())).touch()
    loop = config(options.run, options.steps, options.accumulate, processes=options.processes)
    first = int(os.environ.get("LOCAL_RANK", "0")) == 0
    on_step = kill_at(options.kill_at) if first and options.kill_at else None
    result = run(loop, norm=True, dropout=0.2, on_step=on_step)
    if int(os.environ.get("LOCAL_RANK", "0")) == 0:
        (options.run / "fingerprint.json").write_text(json.dumps(fingerprint(*result)))


if __name__ == "__main__":
    main()
