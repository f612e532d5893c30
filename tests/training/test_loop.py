"""The training loop: accumulation, parallel processes, exact resume, stopping, selection."""

import json
import multiprocessing
import os
import re
import signal
import socket
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from torch import nn

from lifemask.assets import UserError
from lifemask.training.average import Average
from lifemask.training.checkpoint import averaged_weights, read_state
from lifemask.training.loop import SharedModule, train
from lifemask.training.stop import Interrupted, StopWatch
from training import toy
from training.test_batches import is_alive, wait_until

pytest.importorskip("lightning.fabric")
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]
NOT_SPEED = ("crops_per_s", "waited")


def rows(run: Path) -> list[dict]:
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(x).items() if k not in NOT_SPEED} for x in lines]


def assert_same(found, wanted, **tolerance) -> None:
    found, wanted = toy.weights(*found), toy.weights(*wanted)
    for key, value in wanted.items():
        torch.testing.assert_close(found[key], value, **(tolerance or {"rtol": 0, "atol": 0}))


def in_processes(*targets, environments=None) -> list[int]:
    """Exit codes of functions that run in forks of this process, all at once."""
    context = multiprocessing.get_context("fork")
    processes = []
    for number, (target, *arguments) in enumerate(targets):
        environment = environments[number] if environments else {}
        arguments = (target, environment, arguments)
        processes.append(context.Process(target=_with_environment, args=arguments))
        processes[-1].start()
    for process in processes:
        process.join(120)
        assert not process.is_alive(), "a process hangs"
    return [process.exitcode for process in processes]


def _with_environment(target, environment, arguments) -> None:
    torch.set_num_threads(1)
    os.environ.update(environment)
    target(*arguments)


@pytest.mark.parametrize("accumulate", [2, 4])
def test_accumulated_shares_equal_the_whole_batch_clipping_included(tmp_path, accumulate):
    exact = {"precision": "64-true", "steps": 4}
    whole = toy.run(toy.config(tmp_path / "whole", **exact))
    shares = toy.run(toy.config(tmp_path / "shares", accumulate=accumulate, **exact))
    assert_same(shares, whole, rtol=1e-9, atol=1e-11)
    logged = [rows(tmp_path / name)[0] for name in ("whole", "shares")]
    assert logged[0] == pytest.approx(logged[1], abs=2e-5)
    unclipped = toy.config(tmp_path / "unclipped", **exact)
    unclipped = replace(unclipped, optim=replace(unclipped.optim, clip=1e9))
    moved = toy.weights(*toy.run(unclipped))["conv.weight"]
    assert not torch.allclose(moved, toy.weights(*whole)["conv.weight"], atol=1e-6)


def test_workers_change_nothing(tmp_path):
    inline = toy.run(toy.config(tmp_path / "inline", accumulate=2))
    assert_same(toy.run(toy.config(tmp_path / "threads", accumulate=2, workers=3)), inline)


@pytest.mark.slow
def test_worker_processes_change_nothing(tmp_path):
    inline = toy.run(toy.config(tmp_path / "inline", accumulate=2))
    loop = toy.config(tmp_path / "processes", accumulate=2, workers=2, worker_kind="process")
    assert_same(toy.run(loop), inline)


def test_a_batch_that_does_not_split_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"batch of 8 .* 1 processes x 3 shares"):
        toy.run(toy.config(tmp_path, accumulate=3))


def train_and_die(folder: Path, step: int, accumulate: int) -> None:
    loop = toy.config(folder, 7, accumulate)
    toy.run(loop, norm=True, dropout=0.3, on_step=toy.kill_at(step))


@pytest.mark.parametrize(("accumulate", "step"), [(1, 3), (2, 5)])
def test_a_killed_run_ends_with_the_bytes_of_a_whole_one(tmp_path, accumulate, step):
    def whole(name):
        return toy.run(toy.config(tmp_path / name, 7, accumulate), norm=True, dropout=0.3)

    wanted = whole("whole")
    arguments = (train_and_die, tmp_path / "parts", step, accumulate)
    assert in_processes(arguments) == [-signal.SIGKILL]
    assert read_state(tmp_path / "parts" / "checkpoint.safetensors")["step"] == step - 1
    resumed = whole("parts")
    assert_same(resumed, wanted)
    assert rows(tmp_path / "parts") == rows(tmp_path / "whole")
    assert_same(whole("parts"), wanted)  # a finished run has nothing left to do


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_ends_the_run_in_good_order(tmp_path, number):
    before = signal.getsignal(number)
    wanted = toy.run(toy.config(tmp_path / "whole"))

    def send(done):
        if done == 3:
            os.kill(os.getpid(), number)

    with pytest.raises(Interrupted, match="after step 3 of 6.*same command goes on") as stopped:
        toy.run(toy.config(tmp_path / "parts"), on_step=send)
    assert stopped.value.number == number and stopped.value.first_process
    assert signal.getsignal(number) == before
    assert read_state(tmp_path / "parts" / "checkpoint.safetensors")["step"] == 3
    assert_same(toy.run(toy.config(tmp_path / "parts")), wanted)


def test_a_second_signal_does_not_wait():
    with StopWatch():
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_time_up_saves_evaluates_and_returns(tmp_path):
    toy.run(toy.config(tmp_path, seconds=1e-9))
    state = json.loads((tmp_path / "checkpoint.json").read_text())
    assert state["step"] == 1 and state["metrics"]["error"] > 0


def test_checkpoints_tell_where_they_come_from(tmp_path):
    toy.run(toy.config(tmp_path, seed=7))
    state = json.loads((tmp_path / "checkpoint.json").read_text())
    assert state == read_state(tmp_path / "checkpoint.safetensors")
    assert state["seed"] == 7 and state["step"] == 6 and set(state["metrics"]) == {"error"}
    assert state["loop"]["optim"]["peak_rate"] == 0.02
    assert re.fullmatch(r"[0-9a-f]{12}|", state["commit"])
    assert state["versions"]["torch"] == torch.__version__


def scripted(*values):
    remaining = list(values)
    return lambda network: {"iou": remaining.pop(0), "other": 0.0}


def test_the_best_checkpoint_follows_the_named_metric(tmp_path):
    loop = toy.config(tmp_path, evaluate_every=1, save_every=0, select="iou", keep=2)
    toy.run(
        replace(loop, select_highest=True),
        evaluate=scripted(0.2, 0.5, float("nan"), 0.4, 0.5, 0.1),
    )
    best = json.loads((tmp_path / "best.json").read_text())
    assert best["best"] == {"metric": "iou", "value": 0.5, "step": 2} and best["step"] == 2
    newest = json.loads((tmp_path / "checkpoint.json").read_text())
    assert newest["step"] == 6 and newest["best"] == best["best"]
    kept = sorted(p.name for p in (tmp_path / "checkpoints").iterdir())
    assert kept == [f"step-{n:08d}.{s}" for n in (2, 6) for s in ("json", "safetensors")]
    good, last = (averaged_weights(tmp_path, which) for which in ("best", "checkpoint"))
    assert not torch.equal(good["out.weight"], last["out.weight"])


def test_the_best_checkpoint_of_an_earlier_part_is_remembered(tmp_path):
    loop = toy.config(tmp_path, evaluate_every=1, save_every=1, select="iou")
    with pytest.raises(RuntimeError):
        toy.run(loop, evaluate=scripted(0.1, 0.3), on_step=fail_at(3))
    toy.run(loop, evaluate=scripted(0.3, 0.3, 0.2, 0.2))
    assert json.loads((tmp_path / "best.json").read_text())["step"] == 1


def fail_at(step):
    def on_step(done):
        if done == step:
            raise RuntimeError("planned")

    return on_step


def test_an_unknown_metric_is_named_with_the_valid_ones(tmp_path):
    loop = toy.config(tmp_path, evaluate_every=1, select="io")
    with pytest.raises(UserError, match="'io'.*valid: iou, other"):
        toy.run(loop, evaluate=scripted(0.1))


def test_a_loss_that_explodes_ends_the_run_before_it_is_saved(tmp_path):
    def step_loss(network, criterion, batch, step):
        loss, parts = toy.step_loss(network, criterion, batch, step)
        return loss * (float("inf") if step == 4 else 1.0), parts

    with pytest.raises(UserError, match="not finite.*peak_rate"):
        toy.run(toy.config(tmp_path), step_loss=step_loss)
    weights = averaged_weights(tmp_path)
    assert read_state(tmp_path / "checkpoint.safetensors")["step"] == 4
    assert all(value.isfinite().all() for value in weights.values())


def test_a_damaged_checkpoint_is_named(tmp_path):
    toy.run(toy.config(tmp_path, 2))
    (tmp_path / "checkpoint.safetensors").write_bytes(b"nonsense")
    with pytest.raises(UserError, match="damaged"):
        toy.run(toy.config(tmp_path, 2))


def test_other_settings_on_resume_are_told(tmp_path, caplog):
    toy.run(toy.config(tmp_path, 2))
    toy.run(toy.config(tmp_path, 2, seed=3))
    assert "seed = 0 and goes on with 3" in caplog.text


class NeedsFloat32(toy.ToyLoss):
    """Fails where mixed precision reaches the criterion or rounds the targets."""

    def forward(self, output, y):
        assert output.dtype == y.dtype == (output @ torch.eye(2)).dtype == torch.float32
        assert not torch.equal(y, y.bfloat16().float())
        return super().forward(output, y)


def test_mixed_precision_stays_out_of_the_criterion(tmp_path, monkeypatch):
    monkeypatch.setattr(toy, "ToyLoss", NeedsFloat32)
    seen = []

    def step_loss(network, criterion, batch, step):
        network.conv.register_forward_hook(lambda *a: seen.append(a[2].dtype))
        return criterion(network(batch.x), batch.y)

    toy.run(toy.config(tmp_path, 2, precision="bf16-mixed"), step_loss=step_loss)
    assert set(seen) == {torch.bfloat16}


@dataclass(frozen=True)
class Seen:
    """A network's input in a frozen dataclass."""

    pixels: torch.Tensor


class SeesAll(toy.ToyNet):
    """Takes `Seen`, gives a pair of its answer and a whole number."""

    def forward(self, seen):
        assert not torch.equal(seen.pixels, seen.pixels.bfloat16().float())  # not rounded
        return super().forward(seen.pixels), torch.tensor(3)


def test_mixed_precision_takes_frozen_dataclasses_and_rounds_no_input(tmp_path, monkeypatch):
    monkeypatch.setattr(toy, "ToyNet", SeesAll)
    seen = []

    def step_loss(network, criterion, batch, step):
        output, count = network(Seen(batch.x))
        seen.append((output.dtype, count.dtype))
        return criterion(output, batch.y)

    nothing = {"step_loss": step_loss, "evaluate": lambda network: {}}
    toy.run(toy.config(tmp_path, 2, precision="bf16-mixed"), **nothing)
    assert seen == [(torch.float32, torch.int64)] * 2


def test_float16_is_refused(tmp_path):
    with pytest.raises(UserError, match="bf16-mixed"):
        toy.run(toy.config(tmp_path, precision="16-mixed"))


def test_a_shared_module_shows_what_is_inside():
    inner = toy.ToyLoss()
    shared = SharedModule(nn.Sequential(inner), inner)
    assert shared.weight == 2.0 and shared.offset is inner.offset
    with pytest.raises(AttributeError, match="missing"):
        _ = shared.missing


def test_average_equals_its_definition():
    network, averaged = toy.ToyNet(norm=True), toy.ToyNet(norm=True)
    before = {k: v.clone() for k, v in averaged.state_dict().items()}
    average = Average(averaged, network)
    network.norm.num_batches_tracked.fill_(9)
    average.update(0.75)
    for key, value in averaged.state_dict().items():
        new = network.state_dict()[key]
        wanted = new if key.endswith("tracked") else 0.75 * before[key] + 0.25 * new
        torch.testing.assert_close(value, wanted)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def run_parallel(folder: Path, norm: bool, accumulate: int) -> None:
    loop = toy.config(folder / "run", 4, accumulate, processes=2, precision="64-true")
    result = toy.run(replace(loop, evaluate_every=2), norm=norm)
    rank = os.environ["LOCAL_RANK"]
    (folder / f"rank-{rank}.txt").write_text(toy.fingerprint(*result))
    torch.save(toy.weights(*result), folder / f"rank-{rank}.pt")


def launched(folder: Path, *arguments, target=run_parallel) -> list[int]:
    """Two processes as torchrun would start them."""
    common = {
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": "2",
        "NODE_RANK": "0",
    }  # fmt: skip
    environments = [{**common, "LOCAL_RANK": str(rank)} for rank in range(2)]
    return in_processes(*[(target, folder, *arguments)] * 2, environments=environments)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_two_processes_equal_one_with_the_whole_batch(tmp_path, accumulate):
    assert launched(tmp_path, False, accumulate) == [0, 0]
    prints = [(tmp_path / f"rank-{rank}.txt").read_text() for rank in range(2)]
    assert prints[0] == prints[1]
    loop = toy.config(tmp_path / "one", 4, precision="64-true", evaluate_every=2)
    wanted = toy.weights(*toy.run(loop))
    found = torch.load(tmp_path / "rank-0.pt", weights_only=True)
    for key, value in wanted.items():
        torch.testing.assert_close(found[key], value, rtol=1e-9, atol=1e-11)
    assert [row["step"] for row in rows(tmp_path / "run")] == [2, 2, 4, 4]  # written once


def test_processes_agree_on_batch_statistics(tmp_path):
    assert launched(tmp_path, True, 1) == [0, 0]
    prints = [(tmp_path / f"rank-{rank}.txt").read_text() for rank in range(2)]
    assert prints[0] == prints[1]


def run_until_signalled(folder: Path) -> None:
    rank = os.environ["LOCAL_RANK"]

    def on_step(done):
        if done == 3 and rank == "1":
            os.kill(os.getpid(), signal.SIGTERM)

    try:
        toy.run(toy.config(folder / "run", 30, processes=2), on_step=on_step)
    except Interrupted as stopped:
        (folder / f"rank-{rank}.txt").write_text(f"{stopped.first_process} {stopped}")


def test_a_signal_to_one_process_stops_both_at_the_same_step(tmp_path):
    assert launched(tmp_path, target=run_until_signalled) == [0, 0]
    told = [(tmp_path / f"rank-{rank}.txt").read_text() for rank in range(2)]
    assert told[0].startswith("True stopped after step 10 of 30")
    assert told[1].startswith("False stopped after step 10 of 30")
    assert read_state(tmp_path / "run" / "checkpoint.safetensors")["step"] == 10


def program(folder: Path, *options: str) -> int:
    """The toy as a program of its own; lightning starts its second process."""
    environment = {k: v for k, v in os.environ.items() if k not in ("LOCAL_RANK", "WORLD_SIZE")}
    root = Path(__file__).resolve().parents[1]
    command = [sys.executable, str(root / "training" / "toy.py"), "--run", str(folder), *options]
    environment |= {"PYTHONPATH": str(root)}
    return subprocess.run(command, env=environment, timeout=1800, check=False).returncode


@pytest.mark.slow
def test_two_killed_processes_with_shares_resume_to_the_same_bytes(tmp_path):
    options = ("--processes", "2", "--accumulate", "2", "--steps", "7")
    assert program(tmp_path / "whole", *options) == 0
    pids = tmp_path / "pids"
    killed = program(tmp_path / "parts", *options, "--kill-at", "5", "--pids", str(pids))
    assert killed == -signal.SIGKILL
    started = [int(path.name) for path in pids.iterdir()]
    assert len(started) == 2
    assert wait_until(lambda: not any(is_alive(pid) for pid in started), 30)
    assert program(tmp_path / "parts", *options) == 0
    prints = [(tmp_path / n / "fingerprint.json").read_text() for n in ("whole", "parts")]
    assert prints[0] == prints[1]


needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@pytest.mark.gpu
@needs_gpu
def test_a_run_on_a_gpu_resumes(tmp_path):
    loop = {"device": "cuda", "precision": "bf16-mixed", "workers": 2}
    wanted = toy.run(toy.config(tmp_path / "whole", **loop), norm=True, dropout=0.2)
    with pytest.raises(RuntimeError, match="planned"):
        parts = toy.config(tmp_path / "parts", **loop)
        toy.run(parts, norm=True, dropout=0.2, on_step=fail_at(3))
    resumed = toy.run(toy.config(tmp_path / "parts", **loop), norm=True, dropout=0.2)
    assert_same(resumed, wanted, rtol=1e-2, atol=1e-3)


@pytest.mark.gpu
@needs_gpu
@pytest.mark.filterwarnings("ignore:.*Synchronization debug mode.*")
def test_steps_on_a_gpu_never_wait_for_it(tmp_path):
    """In debug mode "error" torch raises where the processor waits for the device."""
    watched = []

    def on_step(done):
        torch.cuda.set_sync_debug_mode("error" if 2 <= done < 8 else "default")
        watched.append(torch.cuda.get_sync_debug_mode())

    loop = toy.config(tmp_path, 10, device="cuda", precision="bf16-mixed", workers=1)
    try:
        toy.run(replace(loop, log_every=100, save_every=0), on_step=on_step)
        with pytest.raises(RuntimeError, match="synchroniz"):
            torch.cuda.set_sync_debug_mode("error")
            torch.ones(1, device="cuda").item()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert len(watched) == 10 and watched.count(2) == 6  # all steps, six of them under watch


class Silent(nn.Module):
    """A criterion without parameters."""

    def forward(self, output, y):
        return (output - y).square().mean(), {}


def test_a_criterion_may_have_no_parameters(tmp_path):
    loop, network = toy.config(tmp_path, 2), toy.ToyNet()
    train(network, Silent(), toy.make_batch, toy.step_loss, toy.evaluate, loop, {})
    assert (tmp_path / "checkpoint.safetensors").is_file()
