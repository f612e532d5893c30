"""Checkpoints without pickle: tensors in safetensors, the rest in json, replaced as one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn

from lifemask.assets import UserError


def save_checkpoint(
    folder: Path,
    modules: dict[str, nn.Module],
    optimizer: torch.optim.Optimizer,
    state: dict[str, Any],
) -> None:
    """Write `checkpoint.safetensors`; a kill at any moment leaves the old or the new one.

    Args:
        folder: of the run.
        modules: by name; their state dicts are stored.
        optimizer: its state is stored by parameter number.
        state: plain values (step, recipe, ...).
    """
    tensors = {
        f"module/{name}/{key}": value
        for name, module in modules.items()
        for key, value in module.state_dict().items()
    }
    for number, entry in optimizer.state_dict()["state"].items():
        for key, value in entry.items():
            tensors[f"optimizer/{number}/{key}"] = torch.as_tensor(value)
    tensors["random/torch"] = torch.get_rng_state()
    data = save(
        {k: v.detach().cpu().contiguous() for k, v in tensors.items()},
        metadata={"state": json.dumps(state)},
    )
    temporary = folder / ".checkpoint.part"
    temporary.write_bytes(data)
    temporary.replace(folder / "checkpoint.safetensors")


def load_checkpoint(
    folder: Path, modules: dict[str, nn.Module], optimizer: torch.optim.Optimizer
) -> dict[str, Any] | None:
    """Restore what `save_checkpoint` wrote and return its plain values; None if there is none.

    Raises:
        UserError: the checkpoint does not fit the modules.
    """
    path = folder / "checkpoint.safetensors"
    if not path.is_file():
        return None
    tensors = load_file(path)
    try:
        for name, module in modules.items():
            module.load_state_dict(_under(tensors, f"module/{name}/"))
    except RuntimeError as error:
        raise UserError(f"{path} belongs to another network: use a new --run folder") from error
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    entries: dict[int, dict[str, Tensor]] = {}
    for key, value in _under(tensors, "optimizer/").items():
        number, field = key.split("/")
        entries.setdefault(int(number), {})[field] = _laid_out_like(value, parameters[int(number)])
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": entries, "param_groups": groups})
    torch.set_rng_state(tensors["random/torch"])
    return read_state(path)


def read_state(path: Path) -> dict[str, Any]:
    """The plain values of a checkpoint."""
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        return json.loads(file.metadata()["state"])


def _laid_out_like(value: Tensor, parameter: Tensor) -> Tensor:
    """The value in the parameter's memory layout: fused optimisers walk both by address."""
    if value.shape != parameter.shape:
        return value
    return torch.empty_like(parameter, dtype=value.dtype).copy_(value).detach()


def _under(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
