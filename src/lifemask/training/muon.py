"""Muon: momentum whose matrices are made orthogonal before each step, AdamW for all else.

Source: Jordan et al., "Muon: an optimizer for hidden layers in neural networks" (2024), with the
step's size of Liu et al., "Muon is scalable for LLM training" (arXiv 2502.16982), which suits the
rates of AdamW. `torch.optim.Muon` takes matrices alone; convolutions are matrices here too, (out,
in x height x width).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

_COEFFICIENTS = 3.4445, -4.7750, 2.0315
_ITERATIONS = 5
_SIZE = 0.2
"""Root mean square of AdamW's usual step, which Muon's is brought to."""


class Muon(torch.optim.AdamW):
    """AdamW whose weights with two axes or more take orthogonal steps.

    Args:
        groups: parameters or groups of them, as for any optimiser.
        lr: rate, as for AdamW.
        momentum: decay of the average of gradients.
        rest: settings of AdamW.
    """

    def __init__(self, groups: Any, lr: float = 1e-3, momentum: float = 0.95, **rest: Any) -> None:
        super().__init__(groups, lr=lr, **rest)
        self.momentum = momentum

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """One step: matrices by Muon, the rest by AdamW."""
        turned = [
            (parameter, parameter.grad, group)
            for group in self.param_groups
            for parameter in group["params"]
            if parameter.ndim > 1 and parameter.grad is not None
        ]
        for parameter, gradient, group in turned:
            self._turn(parameter, gradient, group)
            parameter.grad = None  # AdamW passes over it
        try:
            return super().step(closure)
        finally:
            for parameter, gradient, _ in turned:
                parameter.grad = gradient

    def _turn(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        if not state:
            state["step"] = torch.zeros(())
            state["momentum"] = torch.zeros_like(parameter)
        state["step"] += 1
        mean = state["momentum"].lerp_(gradient, 1 - self.momentum)
        matrix = gradient.lerp(mean, self.momentum).flatten(1)  # Nesterov's look ahead
        size = _SIZE * max(matrix.shape) ** 0.5
        parameter.mul_(1 - group["lr"] * group["weight_decay"])
        parameter.add_(orthogonal(matrix).view_as(parameter), alpha=-group["lr"] * size)


def orthogonal(matrix: Tensor) -> Tensor:
    """About U V^T of a matrix U S V^T (r, c), its singular values within 0.7 and 1.2.

    Newton-Schulz iteration of order five with the coefficients of Jordan et al.
    """
    a, b, c = _COEFFICIENTS
    x = matrix / (matrix.norm() + 1e-7)
    if len(x) > x.shape[1]:
        return orthogonal(matrix.T).T
    for _ in range(_ITERATIONS):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x
