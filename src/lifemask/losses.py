"""Losses as pure functions; each returns one value per sample unless it says otherwise."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def distance(
    points: Float[Tensor, "*b n d"], target: Float[Tensor, "*b n d"], eps: float = 1e-4
) -> Float[Tensor, "*b n"]:
    """Euclidean distance with a finite gradient at zero, `sqrt(|p - q|^2 + eps^2) - eps`."""
    return ((points - target).square().sum(-1) + eps**2).sqrt() - eps


def weighted_mean(
    values: Float[Tensor, "*b n"], weights: Float[Tensor, "*b n"]
) -> Float[Tensor, "*b"]:
    """Mean over the last axis, `sum(w x) / sum(w)`; 0 where all weights are 0."""
    return (values * weights).sum(-1) / weights.sum(-1).clamp_min(1e-6)


def laplace_nll(
    distances: Float[Tensor, "*b n"], log_b: Float[Tensor, "*b n"]
) -> Float[Tensor, "*b n"]:
    """Negative log likelihood of a planar distance d under `exp(-d / b) / (2 pi b^2)`.

    Without the constant: `d / b + 2 log b`, least at `b = d / 2`. The planar form of the
    uncertainty loss of Kendall and Gal, NeurIPS 2017.
    """
    return distances * (-log_b).exp() + 2 * log_b


def gaussian_prior(coefficients: Float[Tensor, "*b k"]) -> Float[Tensor, "*b"]:
    """Mean square: minus log of a standard normal density, up to constants."""
    return coefficients.square().mean(-1)


def outside_unit_interval(values: Float[Tensor, "*b k"]) -> Float[Tensor, "*b"]:
    """Mean of the distance to [0, 1], the range of expression coefficients."""
    return (torch.relu(-values) + torch.relu(values - 1)).mean(-1)


def huber(distances: Float[Tensor, "*b n"], delta: float) -> Float[Tensor, "*b n"]:
    """Huber's function of distances >= 0: `d^2 / (2 delta)` up to delta, `d - delta / 2` beyond.

    Of slope 1 beyond delta, in the distance's own unit (Huber 1964, divided by delta).
    """
    return torch.where(distances < delta, distances.square() / (2 * delta), distances - delta / 2)
