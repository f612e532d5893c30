"""The training loop: batches by step number, averaged weights, evaluation, exact resume."""

from __future__ import annotations

import copy
import json
import logging
import math
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from lifemask.assets import UserError
from lifemask.training.checkpoint import load_checkpoint, save_checkpoint
from lifemask.training.recipes import OptimConfig

logger = logging.getLogger(__name__)
Batch = TypeVar("Batch")


@dataclass(frozen=True)
class LoopConfig:
    """How a loop runs.

    Attributes:
        optim: optimiser and schedule.
        run: folder for checkpoints and `metrics.jsonl`.
        seed: of torch's generator.
        device: "cpu", "cuda" or "auto".
        precision: of lightning.fabric, e.g. "32-true" or "bf16-mixed".
        processes: data-parallel processes; on a CPU one thread each beats threads in one process.
        workers: threads that make batches.
        evaluate_every: steps between evaluations; 0 only at the end.
        save_every: steps between checkpoints.
        seconds: stop (with a checkpoint) after so long; 0 runs to the end.
        progress: draw a progress bar.
    """

    optim: OptimConfig
    run: Path
    seed: int = 0
    device: str = "cpu"
    precision: str = "32-true"
    processes: int = 1
    workers: int = 1
    evaluate_every: int = 500
    save_every: int = 500
    seconds: float = 0.0
    progress: bool = True


def learning_rate(config: OptimConfig, step: int) -> float:
    """Rate at a step: linear warm-up, then a half cosine."""
    if step < config.warmup:
        return config.peak_rate * (step + 1) / config.warmup
    done = (step - config.warmup) / max(config.steps - config.warmup, 1)
    wave = 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))
    return config.peak_rate * (config.final_fraction + (1 - config.final_fraction) * wave)


def train(
    network: nn.Module,
    criterion: nn.Module,
    make_batch: Callable[[int, int, int], Batch],
    step_loss: Callable[[nn.Module, nn.Module, Batch, int], tuple[Tensor, dict[str, float]]],
    evaluate: Callable[[nn.Module], dict[str, float]],
    config: LoopConfig,
    state: dict[str, Any],
) -> nn.Module:
    """Train `network` and the parameters of `criterion`; resumes from the run's checkpoint.

    A batch depends on its step number alone, so a resumed run repeats an uninterrupted one. With
    several processes lightning starts this program again for each; all but the first only compute.

    Args:
        network: what is trained; changed in place.
        criterion: its parameters are trained as well, without weight decay.
        make_batch: (step, rank, processes) -> that process's share of the step's batch; called in
            worker threads, ahead of its use.
        step_loss: (network, criterion, batch, step) -> (scalar, parts by name).
        evaluate: averaged network -> metrics by name.
        config: how to run.
        state: plain values to keep in the checkpoint.

    Returns:
        The network with averaged weights.

    Raises:
        UserError: lightning is not installed, or the checkpoint is of another network.
    """
    fabric = _fabric(config)
    fabric.launch()
    first_process = fabric.global_rank == 0
    torch.manual_seed(config.seed)
    config.run.mkdir(parents=True, exist_ok=True)
    averaged = copy.deepcopy(network).eval().requires_grad_(False)
    network.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    optimizer = _optimizer(network, criterion, config.optim)
    modules = {"network": network, "averaged": averaged, "criterion": criterion}
    found = load_checkpoint(config.run, modules, optimizer)
    first = int(found["step"]) if found else 0
    wrapped, optimizer = fabric.setup(network, optimizer)
    averaged.to(fabric.device)
    wrapped_criterion = fabric.setup_module(criterion)
    log = _Log(config, first) if first_process else None
    started = time.monotonic()

    def share(step: int) -> Batch:
        return make_batch(step, fabric.global_rank, fabric.world_size)

    for step, batch in _ahead(share, first, config.optim.steps, config.workers):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(config.optim, step)
        wrapped.train()
        loss, parts = step_loss(wrapped, wrapped_criterion, batch, step)
        optimizer.zero_grad()
        fabric.backward(loss)
        torch.nn.utils.clip_grad_norm_(network.parameters(), config.optim.clip)
        optimizer.step()
        update_average(averaged, network, min(config.optim.ema, (step + 1) / (step + 10)))
        done = step + 1
        over = config.seconds > 0 and fabric.broadcast(time.monotonic() - started > config.seconds)
        last = done == config.optim.steps or over
        if log is not None:
            log.step(step, float(loss.detach()), parts)
            if last or (config.evaluate_every and done % config.evaluate_every == 0):
                log.metrics(done, evaluate(averaged))
            if last or done % config.save_every == 0:
                save_checkpoint(config.run, modules, optimizer, {**state, "step": done})
        if over:
            break
    if log is not None:
        log.close()
    return averaged


@torch.no_grad()
def update_average(averaged: nn.Module, network: nn.Module, decay: float) -> None:
    """Exponential moving average of all floating-point state; the rest is copied."""
    new = network.state_dict()
    for key, value in averaged.state_dict().items():
        if value.dtype.is_floating_point:
            value.lerp_(new[key].to(value), 1 - decay)
        else:
            value.copy_(new[key])


def _fabric(config: LoopConfig):
    try:
        from lightning.fabric import Fabric
    except ImportError as error:
        raise UserError("training needs lightning: pip install lifemask[train]") from error
    return Fabric(
        accelerator=config.device,
        devices=config.processes,
        strategy="ddp" if config.processes > 1 else "auto",
        precision=config.precision,  # pyright: ignore[reportArgumentType]
    )


def _optimizer(network: nn.Module, criterion: nn.Module, optim: OptimConfig):
    decayed = [p for p in network.parameters() if p.ndim > 1]
    plain = [p for p in network.parameters() if p.ndim <= 1]
    groups = [
        {"params": decayed, "weight_decay": optim.weight_decay},
        {"params": [*plain, *criterion.parameters()], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=optim.peak_rate, betas=(0.9, 0.99), fused=True)


def _ahead(
    make_batch: Callable[[int], Batch], first: int, last: int, workers: int
) -> Iterator[tuple[int, Batch]]:
    """(step, batch) in order, made by threads a few steps ahead."""
    with ThreadPoolExecutor(max(workers, 1)) as pool:
        depth = 2 * max(workers, 1) + 1
        waiting: dict[int, Future[Batch]] = {}
        for step in range(first, last):
            for ahead in range(step, min(step + depth, last)):
                if ahead not in waiting:
                    waiting[ahead] = pool.submit(make_batch, ahead)
            yield step, waiting.pop(step).result()
        for future in waiting.values():
            future.cancel()


class _Log:
    """Progress bar and `metrics.jsonl`."""

    def __init__(self, config: LoopConfig, first: int) -> None:
        self._path = config.run / "metrics.jsonl"
        self._sums: dict[str, float] = {}
        self._count = 0
        self._batch = config.optim.batch
        self._since = time.monotonic()
        self._bar = None
        if config.progress:
            from rich.progress import MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            self._bar = Progress(
                *Progress.get_default_columns()[:2],
                MofNCompleteColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[note]}"),
            )
            total = config.optim.steps
            self._task = self._bar.add_task("train", total=total, completed=first, note="")
            self._bar.start()

    def step(self, step: int, loss: float, parts: dict[str, float]) -> None:
        """Count one step; a line is written every 50."""
        for name, value in {"loss": loss, **parts}.items():
            self._sums[name] = self._sums.get(name, 0.0) + value
        self._count += 1
        if self._bar is not None:
            self._bar.update(self._task, advance=1)
        if (step + 1) % 50 == 0:
            seconds = time.monotonic() - self._since
            row = {k: round(v / self._count, 5) for k, v in self._sums.items()}
            rate = self._count * self._batch / max(seconds, 1e-9)
            self._write({"step": step + 1, "crops_per_s": round(rate, 1), **row})
            if self._bar is not None:
                note = f"loss {row['loss']:.3f}, {rate:.0f} crops/s"
                self._bar.update(self._task, note=note)
            self._sums, self._count, self._since = {}, 0, time.monotonic()

    def metrics(self, step: int, metrics: dict[str, float]) -> None:
        """Write the metrics of an evaluation."""
        self._write({"step": step, **{f"held_out/{k}": round(v, 4) for k, v in metrics.items()}})
        logger.info("step %d: %s", step, {k: round(v, 3) for k, v in metrics.items()})

    def close(self) -> None:
        """Stop the bar."""
        if self._bar is not None:
            self._bar.stop()

    def _write(self, row: dict[str, float]) -> None:
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
