"""Probabilistic PCA of a Gaussian population given by the factor of its covariance."""

from __future__ import annotations

import numpy as np


def mirror_field(field: np.ndarray, mirror: np.ndarray) -> np.ndarray:
    """A vector field (..., v, 3) reflected in x and moved to the mirrored vertices."""
    return field[..., mirror, :] * np.array([-1.0, 1.0, 1.0])


def symmetric_modes(
    factor: np.ndarray, mirror: np.ndarray, weights: np.ndarray, count: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Modes of unit variance of the population `mean + sum_i a_i factor_i`, a ~ N(0, I).

    Every head is as likely as its mirror image, so the covariance splits into a symmetric and an
    antisymmetric block, and each mode is exactly one or the other. With the factor's rows A and
    vertex weights W, `A W A^T = U D U^T`; the modes `U^T A` have independent standard normal
    coefficients and are ordered by the weighted variance D that they explain.

    Args:
        factor: (k, v, 3) in mm.
        mirror: (v,) mirror table.
        weights: (v,) weight of each vertex in the ordering.
        count: number of modes to keep.

    Returns:
        modes (count, v, 3); antisymmetric (count,) bool; explained (all,) variance shares, sorted.
    """
    reflected = mirror_field(factor, mirror)
    found, variance, odd = [], [], []
    for sign in (1.0, -1.0):
        half = ((factor + sign * reflected) / 2).reshape(len(factor), -1)
        scaled = half * np.sqrt(np.repeat(weights, 3))
        values, vectors = np.linalg.eigh(scaled @ scaled.T)
        found.append((vectors.T @ half).reshape(-1, *factor.shape[1:]))
        variance.append(np.maximum(values, 0.0))
        odd.append(np.full(len(values), sign < 0))
    modes, shares, flags = (np.concatenate(part) for part in (found, variance, odd))
    order = np.argsort(-shares, kind="stable")
    modes, shares, flags = modes[order], shares[order], flags[order]
    signs = np.array([_sign(mode) for mode in modes[:count]])
    return modes[:count] * signs[:, None, None], flags[:count], shares / shares.sum()


def _sign(mode: np.ndarray) -> float:
    """Makes the orientation reproducible: the largest entry is positive."""
    flat = mode.ravel()
    return float(np.sign(flat[np.abs(flat).argmax()]) or 1.0)
