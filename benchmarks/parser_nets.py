"""Training speed of the parser's networks on one core: images per second of whole steps.

    python benchmarks/parser_nets.py --json benchmarks/results/parser_nets.json

A step is forward, loss, backward and Muon on pictures in memory; the processor time of the fastest
of a few counts, so that other work on the machine disturbs little. Multiply-adds are those of the
convolutions.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"  # before numpy and torch are imported

import argparse  # noqa: E402
import time  # noqa: E402
from dataclasses import asdict, replace  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

import torch  # noqa: E402
from torch import nn  # noqa: E402

from lifemask.nn.unet import UNet, UNetConfig  # noqa: E402
from lifemask.training.muon import Muon  # noqa: E402
from lifemask.training.parser_loss import ParserLoss, ParserLossConfig  # noqa: E402
from lifemask.training.parser_recipes import CPU_NET, NARROW_NET, PAPER_NET, SMALL_NET  # noqa: E402
from provenance import provenance, write_result  # noqa: E402

NETS = {
    "plain U-Net, base 32, 4 levels": (PAPER_NET, 1),
    "at 128 px": (replace(PAPER_NET, size=128), 1),
    "skips added": (replace(PAPER_NET, merge="add", up=1), 1),
    "pixel blocks, a finer level of 32 channels (cpu recipe)": (CPU_NET, 2),
    "all pixels scored": (CPU_NET, 1),
    "half as many channels": (NARROW_NET, 2),
    "two convolutions in the finest level": (replace(NARROW_NET, down=2), 2),
    "no such level, blocks of 4 x 4": (replace(SMALL_NET, size=256, fold=4), 2),
    "no such level, 128 px": (SMALL_NET, 1),
}
"""Network and the loss's stride."""


def multiply_adds(config: UNetConfig) -> int:
    """Of one image, forward."""
    total = 0

    def count(module: nn.Module, _: Any, output: torch.Tensor) -> None:
        nonlocal total
        assert isinstance(module, nn.Conv2d)
        total += module.weight.numel() * output.shape[-1] * output.shape[-2]

    network = UNet(config).eval()
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(count)
    with torch.no_grad():
        network(torch.zeros(1, 3, config.size, config.size))
    return total


def images_per_second(config: UNetConfig, stride: int, bf16: bool, batch: int, steps: int) -> float:
    """Of the fastest step."""
    network = UNet(config).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = Muon(network.parameters(), fused=True)
    criterion = ParserLoss(ParserLossConfig(stride=stride))
    crops = torch.rand(batch, config.size, config.size, 3).permute(0, 3, 1, 2)
    regions = torch.randint(0, config.classes, (batch, config.size, config.size)).byte()
    best = float("inf")
    for _ in range(steps):
        start = time.process_time()
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            scores = network(crops)
        loss, _ = criterion(scores.float(), regions)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        best = min(best, time.process_time() - start)
    return batch / best


def main() -> None:
    """Command line."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--batch", type=int, default=16)
    options.add_argument("--steps", type=int, default=4)
    options.add_argument("--json", type=Path, required=True)
    given = options.parse_args()
    torch.set_num_threads(1)
    rows = []
    for name, (config, stride) in NETS.items():
        row: dict[str, Any] = {"network": name, "sizes": asdict(config), "stride": stride}
        row["multiply_adds"] = multiply_adds(config)
        row["parameters"] = sum(p.numel() for p in UNet(config).parameters())
        for kind in ("float32", "bfloat16"):
            speed = images_per_second(config, stride, kind == "bfloat16", given.batch, given.steps)
            row[f"images_per_s_{kind}"] = round(speed, 1)
        rows.append(row)
        print({k: v for k, v in row.items() if k != "sizes"}, flush=True)
    command = "python benchmarks/parser_nets.py --json FILE"
    result = {"nets": rows, "load": os.getloadavg()[0], **provenance(command)}
    write_result(given.json, result)


if __name__ == "__main__":
    main()
