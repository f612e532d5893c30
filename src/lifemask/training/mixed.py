"""Mixed precision that leaves what networks are given as it is.

Lightning's own rounds all inputs of a network to bfloat16, coordinates included, before anything
is computed, and refuses inputs and outputs that are frozen dataclasses. Autocast needs neither: it
rounds the operands of each operation that gains by it.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from lightning.fabric.plugins.precision.amp import MixedPrecision

from lifemask.training.batches import map_tensors


class Mixed(MixedPrecision):
    """bfloat16 by autocast; outputs are float32, in any nest that `map_tensors` knows.

    Args:
        device: type of the device, "cpu" or "cuda".
    """

    def __init__(self, device: str) -> None:
        super().__init__("bf16-mixed", device)

    def convert_input(self, data: Any) -> Any:
        """The same."""
        return data

    def convert_output(self, data: Any) -> Any:
        """The same in float32."""
        return map_tensors(data, _full)


def _full(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor in float32, if it is one of floating point."""
    return tensor.float() if tensor.is_floating_point() else tensor


def precision_of(name: str, device: str) -> dict[str, Any]:
    """Arguments of lightning.fabric for a precision.

    Args:
        name: as lightning names it.
        device: of the run: "cpu", "cuda" or "auto".
    """
    if name != "bf16-mixed":
        return {"precision": cast(Any, name)}
    cuda = device != "cpu" and torch.cuda.is_available()
    return {"plugins": [Mixed("cuda" if cuda else "cpu")]}
