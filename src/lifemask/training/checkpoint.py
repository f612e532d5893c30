"""Checkpoints without pickle: tensors in safetensors, the rest in json, replaced as one.

A run's folder holds

    checkpoint.safetensors   the newest state: weights, averaged weights, optimiser; + .json
    best.safetensors         the state with the best value of the run's validation metric; + .json
    checkpoints/step-*.safetensors   earlier states, if the run keeps any

The json beside a checkpoint is a copy, for people, of what the file itself carries: step, recipe,
metrics, commit, seed, package versions, licence tag.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from lifemask.assets import UserError

NEWEST, BEST, EARLIER = "checkpoint", "best", "checkpoints"


def save_checkpoint(
    folder: Path,
    modules: dict[str, nn.Module],
    optimizer: torch.optim.Optimizer,
    state: dict[str, Any],
) -> None:
    """Write `checkpoint.safetensors` and its json; a kill at any moment leaves old or new.

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
    temporary = folder / f".{NEWEST}.part"
    plain = {k: v.detach().cpu().contiguous() for k, v in _apart(tensors).items()}
    save_file(plain, temporary, metadata={"state": json.dumps(state)})
    _settle(temporary, folder / f"{NEWEST}.safetensors")
    write_json(folder / f"{NEWEST}.json", state)


def load_checkpoint(
    folder: Path, modules: dict[str, nn.Module], optimizer: torch.optim.Optimizer
) -> dict[str, Any] | None:
    """Restore what `save_checkpoint` wrote and return its plain values; None if there is none.

    Raises:
        UserError: the checkpoint is damaged or does not fit the modules.
    """
    path = folder / f"{NEWEST}.safetensors"
    if not path.is_file():
        return None
    tensors = _read(path)
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
    return read_state(path)


def keep_earlier(folder: Path, step: int, keep: int) -> None:
    """File the newest checkpoint under its step too, and drop all but the last `keep` of those."""
    place = folder / EARLIER
    place.mkdir(exist_ok=True)
    for suffix in (".safetensors", ".json"):
        _link(folder / f"{NEWEST}{suffix}", place / f"step-{step:08d}{suffix}")
    for path in sorted(place.glob("step-*.safetensors"))[:-keep]:
        path.with_suffix(".json").unlink(missing_ok=True)
        path.unlink()


def mark_best(folder: Path) -> None:
    """Make the newest checkpoint the run's best one; costs no disk space of its own."""
    for suffix in (".safetensors", ".json"):
        _link(folder / f"{NEWEST}{suffix}", folder / f"{BEST}{suffix}")


def averaged_weights(run: Path, which: str = NEWEST) -> dict[str, Tensor]:
    """Averaged weights of a run.

    Args:
        run: folder of the run.
        which: "checkpoint" (the newest) or "best".

    Raises:
        UserError: the run has no such checkpoint, or it is damaged.
    """
    path = run / f"{which}.safetensors"
    if not path.is_file():
        raise UserError(f"{run} has no {which}.safetensors: train it first")
    return _under(_read(path), "module/averaged/")


def read_state(path: Path) -> dict[str, Any]:
    """The plain values of a checkpoint file."""
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        return json.loads(file.metadata()["state"])


def write_json(path: Path, value: Any) -> None:
    """Write a json file so that it is either the old or the new one."""
    temporary = path.with_name(f".{path.name}.part")
    text = json.dumps(value, indent=1, ensure_ascii=False) + "\n"
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def _read(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        remedy = f"delete it, or put one of {EARLIER}/ in its place"
        raise UserError(f"{path} is damaged ({error}): {remedy}") from error


def _apart(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors, with a copy wherever two share memory, which the format forbids."""
    seen: set[int] = set()
    apart = {}
    for key, value in tensors.items():
        address = value.untyped_storage().data_ptr()
        apart[key] = value.clone() if address in seen else value
        seen.add(address)
    return apart


def _settle(temporary: Path, path: Path) -> None:
    """Move a file into place once the disk has all of it."""
    with temporary.open("rb+") as file:
        os.fsync(file.fileno())
    temporary.replace(path)


def _link(source: Path, path: Path) -> None:
    """Give a file a second name (a copy where the disk cannot), replacing what had it."""
    temporary = path.with_name(f".{path.name}.part")
    temporary.unlink(missing_ok=True)
    try:
        os.link(source, temporary)
    except OSError:
        shutil.copyfile(source, temporary)
    temporary.replace(path)


def _laid_out_like(value: Tensor, parameter: Tensor) -> Tensor:
    """The value in the parameter's memory layout: fused optimisers walk both by address."""
    if value.shape != parameter.shape:
        return value
    return torch.empty_like(parameter, dtype=value.dtype).copy_(value).detach()


def _under(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
