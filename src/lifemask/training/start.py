"""Where a training starts: from a run's weights, or from those that lifemask ships."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lifemask.assets import UserError, weights_folder, weights_path
from lifemask.training.checkpoint import NEWEST, averaged_weights, read_state
from lifemask.training.recipes import Family

HELP = "run folder, or name of shipped weights such as {}, to start from; A+B is the mean of both"


def starting_weights(source: str | Path, family: Family, part: str = "") -> dict[str, Tensor]:
    """Weights to start a network from.

    Args:
        source: folder of a run, whose averaged weights are taken, or the name of shipped weights,
            which come in float32 ("parser-open"). Several joined by "+" are averaged, weight by
            weight: a good start where they come from one network (model soups, Wortsman et al.,
            ICML 2022).
        family: of what is to be trained: "open" may not start from anything else.
        part: of shipped weights that hold several networks, the one to take ("base").

    Raises:
        UserError: there is nothing of that name, an open network would start from weights of
            another family, or networks to be averaged differ in form.
    """
    names = [str(source)] if Path(source).is_dir() else str(source).split("+")
    return mean_weights([_one(name, family, part) for name in names])


def mean_weights(each: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The mean of several networks' weights, a good network where they have one ancestor.

    Raises:
        UserError: networks of different forms.
    """
    if len({tuple((k, v.shape) for k, v in sorted(one.items())) for one in each}) > 1:
        raise UserError("these weights cannot be averaged: they are of networks of different forms")
    return {name: _mean([one[name] for one in each]) for name in each[0]}


def _mean(values: list[Tensor]) -> Tensor:
    """Mean of floats; counts of batches are those of the first."""
    if len(values) == 1:
        return values[0]
    return torch.stack(values).mean(0) if values[0].is_floating_point() else values[0]


def _one(source: str, family: Family, part: str) -> dict[str, Tensor]:
    """Weights of one run or of shipped ones."""
    shipped = weights_folder() / f"{source}.json"
    if Path(source).is_dir() or not shipped.is_file():
        weights = averaged_weights(Path(source))
        tag = read_state(Path(source) / f"{NEWEST}.safetensors")["recipe"].get("family", family)
    else:
        card: dict[str, Any] = json.loads(shipped.read_text(encoding="utf-8"))
        weights, tag = shipped_weights(source), card["tag"]
        if part:
            weights = {
                name.removeprefix(f"{part}."): value
                for name, value in weights.items()
                if name.startswith(f"{part}.")
            }
    if family == "open" and tag != "open":
        raise UserError(f"{source} was trained on {tag} data: an open network cannot start from it")
    return weights


def shipped_weights(name: str) -> dict[str, Tensor]:
    """Shipped weights in float32, e.g. of "landmarker-open".

    Raises:
        AssetError: no such weights, or they are damaged.
    """
    from safetensors.torch import load_file

    tensors = load_file(weights_path(f"{name}.safetensors"))
    return {k: v.float() if v.dtype.is_floating_point else v for k, v in tensors.items()}
