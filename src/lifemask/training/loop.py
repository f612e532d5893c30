"""The training loop: batches by step number, averaged weights, evaluation, exact resume.

    run/checkpoint.safetensors  +.json  everything needed to go on
    run/best.safetensors        +.json  the best by the validation metric, if one is named
    run/metrics.jsonl, loss.svg, held_out.svg   losses, speed, held-out metrics

A run is a function of its settings: data, random numbers and order depend on (seed, step, share of
the batch) alone. Killed and started again by the same command, it ends with the same bytes.
"""

from __future__ import annotations

import atexit
import copy
import hashlib
import logging
import math
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from lifemask.assets import UserError
from lifemask.training.average import Average
from lifemask.training.batches import (
    WorkerKind,
    batches_ahead,
    exit_with_parent,
    to_device,
)
from lifemask.training.checkpoint import keep_earlier, load_checkpoint, mark_best, save_checkpoint
from lifemask.training.curves import save_curves
from lifemask.training.muon import Muon
from lifemask.training.recipes import OptimConfig
from lifemask.training.run_log import RunLog, provenance
from lifemask.training.stop import GO_ON, SIGNALLED, Interrupted, StopWatch

logger = logging.getLogger(__name__)
Batch = TypeVar("Batch")


@dataclass(frozen=True)
class LoopConfig:
    """How a loop runs.

    Attributes:
        optim: optimiser and schedule.
        run: folder for checkpoints and `metrics.jsonl`.
        seed: of everything random in the loop.
        device: "cpu", "cuda" or "auto".
        precision: of lightning.fabric, e.g. "32-true" or "bf16-mixed".
        processes: data-parallel processes; on a CPU one thread each beats threads in one process.
        nodes: machines, each with that many processes (started there by torchrun or slurm).
        workers: threads or processes that make batches; 0 makes them between the steps.
        worker_kind: "thread" for makers that leave Python's lock (numpy, numba, torch), "process"
            for those that hold it.
        evaluate_every: steps between evaluations; 0 only at the end.
        save_every: steps between checkpoints.
        keep: earlier checkpoints to keep beside the newest; 0 none.
        select: validation metric that marks the best checkpoint; "" marks none.
        select_highest: the highest value of it is the best, not the lowest.
        log_every: steps between lines of `metrics.jsonl`.
        seconds: stop (with a checkpoint) after so long; 0 runs to the end.
        stop_after: stop after this step without evaluation or checkpoint; 0 runs to the end.
        unused_parameters: with several processes, allow steps whose loss leaves some out.
        progress: draw a progress bar.
        on_step: called with the number of finished steps after each of them.
    """

    optim: OptimConfig
    run: Path
    seed: int = 0
    device: str = "cpu"
    precision: str = "32-true"
    processes: int = 1
    nodes: int = 1
    workers: int = 1
    worker_kind: WorkerKind = "thread"
    evaluate_every: int = 500
    save_every: int = 500
    keep: int = 0
    select: str = ""
    select_highest: bool = False
    log_every: int = 50
    seconds: float = 0.0
    stop_after: int = 0
    unused_parameters: bool = False
    progress: bool = True
    on_step: Callable[[int], None] | None = field(default=None, compare=False, repr=False)


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
    step_loss: Callable[
        [nn.Module, nn.Module, Batch, int], tuple[Tensor, Mapping[str, Tensor | float]]
    ],
    evaluate: Callable[[nn.Module], dict[str, float]],
    config: LoopConfig,
    state: dict[str, Any],
) -> nn.Module:
    """Train `network` and the parameters of `criterion`; resumes from the run's checkpoint.

    A batch depends on its step number alone, so a resumed run repeats an uninterrupted one. With
    several processes lightning starts this program again for each; all but the first only compute.
    With gradient accumulation a process takes several shares of a step's batch one after another:
    two processes, or one that accumulates over two shares, learn from the same batches.

    Args:
        network: what is trained; changed in place.
        criterion: its parameters are trained as well, without weight decay; computed in float32
            whatever the precision of the network.
        make_batch: (step, share, shares) -> that share of the step's batch; called in workers,
            ahead of its use. Any nest of dataclasses, tuples, lists and dicts with tensors.
        step_loss: (network, criterion, batch on the device, step) -> (scalar, parts by name).
            Return parts as detached tensors: numbers would make a GPU wait at every step.
        evaluate: averaged network -> validation metrics by name; in the first process only.
        config: how to run.
        state: plain values to keep in the checkpoint.

    Returns:
        The network with averaged weights, the same in every process.

    Raises:
        UserError: lightning is not installed, the checkpoint is of another network, the batch
            does not split evenly, or the loss is not finite any more.
        Interrupted: SIGINT or SIGTERM came; the checkpoint is written.
        BatchError: a worker process failed.
    """
    loop = _Loop(network, criterion, step_loss, evaluate, config, state)
    optim, shares = config.optim, loop.shares
    share = _Share(make_batch, loop.rank * optim.accumulate, shares, optim.accumulate)
    with ExitStack() as stack:
        stop = stack.enter_context(StopWatch(config.seconds))
        feed = stack.enter_context(
            closing(
                batches_ahead(
                    share,
                    loop.done * optim.accumulate,
                    loop.last * optim.accumulate,
                    workers=config.workers,
                    kind=config.worker_kind,
                    pin=loop.fabric.device.type == "cuda",
                )
            )
        )
        stack.callback(loop.close)
        while loop.done < loop.last:
            loop.step(feed)
            if config.on_step is not None:
                config.on_step(loop.done)
            reason = stop.reason(loop.done, loop.fabric)
            loop.after_step(ends=reason != GO_ON, evaluates=reason != SIGNALLED)
            if reason == SIGNALLED:
                raise loop.interrupted(stop.number)
            if reason != GO_ON:
                break
    return loop.result()


@dataclass(frozen=True)
class _Share:
    """A process's batches, numbered through its steps and their shares."""

    make_batch: Callable[[int, int, int], Any]
    first: int
    shares: int
    accumulate: int

    def __call__(self, number: int) -> Any:
        """The batch: share `number % accumulate` of step `number // accumulate`."""
        step, part = divmod(number, self.accumulate)
        return self.make_batch(step, self.first + part, self.shares)


class _Loop:
    """One process's part of a run; `done` counts finished steps."""

    def __init__(
        self,
        network: nn.Module,
        criterion: nn.Module,
        step_loss: Callable[..., tuple[Tensor, Mapping[str, Tensor | float]]],
        evaluate: Callable[[nn.Module], dict[str, float]],
        config: LoopConfig,
        state: dict[str, Any],
    ) -> None:
        self.config, self.step_loss, self.evaluate = config, step_loss, evaluate
        self.fabric = _fabric(config)
        self.fabric.launch()
        if self.fabric.world_size > 1:
            atexit.register(leave_group)
        self.rank = self.fabric.global_rank
        if self.fabric.local_rank > 0:
            exit_with_parent()
        self.shares = _shares(config.optim, self.fabric.world_size)
        torch.manual_seed(config.seed)
        config.run.mkdir(parents=True, exist_ok=True)
        criterion.to(self.fabric.device)
        network.to(self.fabric.device)  # before the optimiser: its state goes where they are
        network.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        averaged = copy.deepcopy(network).eval().requires_grad_(False)
        optimizer = _optimizer(network, criterion, config.optim)
        self.modules = {"network": network, "averaged": averaged, "criterion": criterion}
        self.state: dict[str, Any] = {**state, **provenance(config.seed)}
        found = load_checkpoint(config.run, self.modules, optimizer) or {}
        self.done = int(found.get("step", 0))
        self.best: dict[str, Any] = found.get("best") or {}
        self.metrics: dict[str, float] = found.get("metrics") or {}
        _warn_of_changes(found, self.state)
        self.last = min(config.stop_after or config.optim.steps, config.optim.steps)
        self.plain_optimizer = optimizer
        self.network, self.optimizer = self.fabric.setup(network, optimizer)
        self.criterion = self._shared(criterion)
        self.average = Average(averaged, network) if self.rank == 0 else None
        self.log = self._create_log() if self.rank == 0 else None

    def _shared(self, criterion: nn.Module) -> nn.Module:
        """The criterion, its gradients shared between processes if it has any.

        Not set up by lightning: that would compute it under autocast, in bfloat16.
        """
        learns = any(p.requires_grad for p in criterion.parameters())
        if self.fabric.world_size == 1 or not learns:
            return criterion
        return SharedModule(self.fabric.strategy.setup_module(criterion), criterion)

    def _create_log(self) -> RunLog:
        config = self.config
        optim = config.optim
        return RunLog(
            config.run, self.done, optim.steps, optim.batch, config.log_every, config.progress
        )

    def step(self, feed: Any) -> None:
        """One step of the optimiser over this process's shares of the batch."""
        optim = self.config.optim
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(optim, self.done)
        self.network.train()
        self.optimizer.zero_grad()
        waited = 0.0
        for part in range(optim.accumulate):
            since = time.perf_counter()
            batch = next(feed)
            waited += time.perf_counter() - since
            self._learn_from(to_device(batch, self.fabric.device), part)
        self.fabric.clip_gradients(
            self.network, self.optimizer, max_norm=optim.clip, error_if_nonfinite=False
        )
        self.optimizer.step()
        if self.average is not None:
            self.average.update(min(optim.ema, (self.done + 1) / (self.done + 10)))
        self.done += 1
        if self.log is not None:
            self.log.step(self.done, waited)

    def _learn_from(self, batch: Any, part: int) -> None:
        """Add the gradient of one share; processes exchange gradients at the last one only."""
        optim = self.config.optim
        _seed(self.config.seed, self.done, self.rank * optim.accumulate + part)
        with ExitStack() as stack:
            if self.fabric.world_size > 1 and part + 1 < optim.accumulate:
                stack.enter_context(self.fabric.no_backward_sync(self.network))
                if isinstance(self.criterion, SharedModule):
                    stack.enter_context(self.criterion.parallel.no_sync())
            loss, parts = self.step_loss(self.network, self.criterion, batch, self.done)
            self.fabric.backward(loss / optim.accumulate)
        if self.log is not None:
            self.log.add(loss, parts, 1 / optim.accumulate)

    def after_step(self, ends: bool, evaluates: bool) -> None:
        """Evaluate and save where it is due; in the first process."""
        config, done = self.config, self.done
        finished = done == config.optim.steps
        if self.log is None or (config.stop_after and done >= config.stop_after):
            return
        best = False
        if (finished or ends) and evaluates or _due(done, config.evaluate_every):
            self.log.flush(done)
            self.metrics = self.evaluate(self.modules["averaged"])
            self.log.metrics(done, self.metrics)
            _draw_curves(self.config.run)
            best = self._is_best()
        if finished or ends or best or _due(done, config.save_every):
            self.log.flush(done)
            self._save(best)

    def _is_best(self) -> bool:
        name = self.config.select
        if not name:
            return False
        if name not in self.metrics:
            valid = ", ".join(self.metrics)
            raise UserError(f"no validation metric {name!r} to select by; valid: {valid}")
        value = self.metrics[name]
        known = self.best.get("value") if self.best.get("metric") == name else None
        sign = -1.0 if self.config.select_highest else 1.0
        if not math.isfinite(value) or (known is not None and sign * value >= sign * known):
            return False
        self.best = {"metric": name, "value": value, "step": self.done}
        return True

    def _save(self, best: bool) -> None:
        config = self.config
        found = {"step": self.done, "metrics": self.metrics, "best": self.best}
        state = {**self.state, **found, "loop": _settings(config)}
        save_checkpoint(config.run, self.modules, self.plain_optimizer, state)
        if config.keep:
            keep_earlier(config.run, self.done, config.keep)
        if best:
            mark_best(config.run)

    def interrupted(self, number: int) -> Interrupted:
        """What to raise after a signal."""
        message = (
            f"stopped after step {self.done} of {self.config.optim.steps}, checkpoint in "
            f"{self.config.run}; the same command goes on from there"
        )
        return Interrupted(message, number, self.rank == 0)

    def close(self) -> None:
        """Stop the bar."""
        if self.log is not None:
            self.log.close()

    def result(self) -> nn.Module:
        """The averaged network of the first process, in all of them."""
        averaged = self.modules["averaged"]
        if self.fabric.world_size > 1:
            for value in averaged.state_dict().values():
                plain = value.contiguous()
                torch.distributed.broadcast(plain, 0)
                value.copy_(plain)
            self.fabric.barrier()
        return averaged


def leave_group() -> None:
    """End the process group, if there is one.

    Run at exit: the interpreter would otherwise tear gloo's threads down while they live, which
    now and then aborts a process whose work is done. Lightning does the same for NCCL only.
    """
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


class SharedModule(nn.Module):
    """A data-parallel module that shows the attributes of the module inside it."""

    def __init__(self, parallel: Any, inner: nn.Module) -> None:
        super().__init__()
        self.parallel = parallel
        self._attributes = (inner,)

    def forward(self, *arguments: Any, **named: Any) -> Any:
        """What the module returns."""
        return self.parallel(*arguments, **named)

    def __getattr__(self, name: str) -> Any:
        """An attribute of the module inside."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self._attributes[0], name)


def _draw_curves(run: Path) -> None:
    """Draw the charts; a run of hours must not end for the sake of one."""
    try:
        save_curves(run)
    except Exception:
        logger.warning("no learning curves this time", exc_info=True)


def _due(done: int, every: int) -> bool:
    return every > 0 and done % every == 0


def _seed(seed: int, step: int, share: int) -> None:
    """Seed torch for one share of one step: dropout and noise do not depend on the past."""
    digest = hashlib.blake2b(f"{seed} {step} {share}".encode(), digest_size=8).digest()
    torch.manual_seed(int.from_bytes(digest, "big") >> 1)


def _shares(optim: OptimConfig, processes: int) -> int:
    """In how many shares a batch is computed."""
    shares = processes * optim.accumulate
    if optim.accumulate < 1 or optim.batch % shares:
        raise UserError(
            f"a batch of {optim.batch} does not split into {processes} processes x "
            f"{optim.accumulate} shares: change optim.batch, optim.accumulate or processes"
        )
    return shares


def _settings(config: LoopConfig) -> dict[str, Any]:
    """The loop's settings that decide what is learned and by what machinery, as plain values."""
    names = ("precision", "processes", "nodes", "device", "select", "select_highest")
    return {"optim": asdict(config.optim), **{name: getattr(config, name) for name in names}}


def _warn_of_changes(found: Mapping[str, Any], state: Mapping[str, Any]) -> None:
    """Tell when a run goes on with other settings than those it began with."""
    if not found:
        return
    before, after = (_flat({k: s.get(k) for k in ("recipe", "seed")}) for s in (found, state))
    changed = [k for k in before.keys() | after.keys() if before.get(k) != after.get(k)]
    for name in sorted(changed):
        logger.warning(
            "the run began with %s = %s and goes on with %s",
            name, before.get(name), after.get(name),
        )  # fmt: skip


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(value, Mapping):
        pairs = [_flat(v, f"{prefix}{k}.") for k, v in value.items()]
        return {k: v for pair in pairs for k, v in pair.items()}
    return {prefix[:-1]: list(value) if isinstance(value, tuple) else value}


def _fabric(config: LoopConfig) -> Any:
    try:
        from lightning.fabric import Fabric

        from lifemask.training.mixed import precision_of
    except ImportError as error:
        raise UserError("training needs lightning: pip install lifemask[train]") from error
    if config.precision.startswith("16"):
        raise UserError('float16 needs loss scaling, which lifemask leaves out: use "bf16-mixed"')
    several = config.processes > 1 or config.nodes > 1
    parallel = "ddp_find_unused_parameters_true" if config.unused_parameters else "ddp"
    return Fabric(
        accelerator=config.device,
        devices=config.processes,
        num_nodes=config.nodes,
        strategy=parallel if several else "auto",
        **precision_of(config.precision, config.device),
    )


def _optimizer(network: nn.Module, criterion: nn.Module, optim: OptimConfig) -> Any:
    decayed = [p for p in network.parameters() if p.ndim > 1]
    plain = [p for p in network.parameters() if p.ndim <= 1]
    groups = [
        {"params": decayed, "weight_decay": optim.weight_decay},
        {"params": [*plain, *criterion.parameters()], "weight_decay": 0.0},
    ]
    known = {"adamw": torch.optim.AdamW, "muon": Muon}
    if optim.optimizer not in known:
        raise UserError(f"unknown optimizer {optim.optimizer!r}; valid: {', '.join(known)}")
    return known[optim.optimizer](groups, lr=optim.peak_rate, betas=optim.betas, fused=True)
