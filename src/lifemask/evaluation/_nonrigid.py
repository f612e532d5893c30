"""Non-rigid ICP of a scan region onto a prediction, as REALY finds correspondences.

Each vertex i has an affine map X_i (4, 3); a step minimises

    alpha^2 sum |G (X_i - X_j)|^2 + sum w_i |d_i X_i - t_i|^2 + kappa^2 sum |d_k X_k - q_k|^2

over edges, vertices and key points, with d_i the homogeneous position after the step before and t_i
its nearest target (Amberg et al., CVPR 2007, with the stiffness on each step's change). The
schedule of alpha, kappa, tolerances and steps is that of the benchmark's code (Chai et al., ECCV
2022, MIT licence).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray

if TYPE_CHECKING:
    from scipy.sparse import csc_matrix

KEY_WEIGHT = 50.0
_SAFETY_STEPS = 60  # the benchmark's loop without key points has no limit


@dataclass(frozen=True)
class Stage:
    """One level of stiffness.

    Attributes:
        alpha: stiffness.
        tolerance: a step that changes the maps by less (Frobenius norm) is the last.
        steps: at most.
        balance: (4,) diagonal of G.
        data: pull to the targets; False moves by the key points alone.
    """

    alpha: float
    tolerance: float
    steps: int
    balance: tuple[float, float, float, float] = (1.0, 1.0, 1.0, 1.0)
    data: bool = True


@dataclass(frozen=True)
class Keys:
    """Key points: ids (k,) of source vertices and where they belong (k, 3)."""

    ids: Int[ndarray, "k"]
    targets: Float[ndarray, "k 3"]


def stages(with_keys: bool) -> tuple[Stage, ...]:
    """The benchmark's schedule: with key points a stiff first step, then three softer levels."""
    steps = 11 if with_keys else _SAFETY_STEPS
    levels = tuple(Stage(50.0 * np.exp(-0.5 * k), 0.5**k, steps) for k in range(3))
    first = Stage(150.0, 2.0, 1, (2.0, 2.0, 3.0, 2.0), data=False)
    return (first, *levels) if with_keys else levels


def deform(
    source: Float[ndarray, "n 3"],
    faces: Int[ndarray, "f 3"],
    targets: Float[ndarray, "m 3"],
    keys: Keys | None = None,
) -> Float[ndarray, "n 3"]:
    """Source vertices (n, 3) drawn onto target points, neighbours moving alike.

    Args:
        source: (n, 3); every vertex should belong to a face.
        faces: (f, 3) of the source.
        targets: (m, 3) points of the other surface; in the benchmark's unit, where distances
            below 1 always count as inliers.
        keys: correspondences that are known.
    """
    from scipy.sparse import kron
    from scipy.spatial import KDTree

    edges = _edge_matrix(faces, len(source))
    tree, current = KDTree(targets), np.asarray(source, np.float64)
    before, maps, count = np.zeros((4 * len(source), 3)), np.ones((4 * len(source), 3)), 0
    for stage in stages(keys is not None):
        stiff = kron(edges.T @ edges, np.diag((stage.alpha * np.array(stage.balance)) ** 2))
        for _ in range(stage.steps):
            if np.linalg.norm(maps - before) <= stage.tolerance:
                break
            before = maps
            distance, nearest = tree.query(current)
            inlier = distance < max(2 * distance.mean(), 1.0)
            weight = inlier.astype(np.float64) if stage.data else np.zeros(len(current))
            pull = weight[:, None] * targets[nearest]
            if keys is not None:
                kappa = KEY_WEIGHT * (np.exp(-0.9 * count) / 10.0 if stage.data else 1.0)
                np.add.at(weight, keys.ids, kappa**2)
                np.add.at(pull, keys.ids, kappa**2 * keys.targets)
            maps = _solve(stiff, current, weight, pull)
            current = np.einsum("nk,nkc->nc", _homogeneous(current), maps.reshape(-1, 4, 3))
            count += 1
    return current


def _solve(stiff, points: ndarray, weight: ndarray, pull: ndarray) -> Float[ndarray, "4n 3"]:
    """The maps of one step from its normal equations."""
    from scipy.sparse import bsr_matrix, csc_matrix
    from scipy.sparse.linalg import splu

    d = _homogeneous(points)
    blocks = weight[:, None, None] * d[:, :, None] * d[:, None, :]
    count = len(points)
    diagonal = bsr_matrix((blocks, np.arange(count), np.arange(count + 1)))
    normal = csc_matrix(stiff + diagonal)
    right = (d[:, :, None] * pull[:, None, :]).reshape(-1, 3)
    ridge = 1e-10 * float(normal.diagonal().mean())
    normal.setdiag(normal.diagonal() + ridge)
    return splu(normal, permc_spec="MMD_AT_PLUS_A", options={"SymmetricMode": True}).solve(right)


def _homogeneous(points: ndarray) -> Float[ndarray, "n 4"]:
    return np.concatenate([points, np.ones((len(points), 1))], axis=1)


def _edge_matrix(faces: ndarray, count: int) -> csc_matrix:
    """(e, n) with +1 and -1 at the ends of each edge."""
    from scipy.sparse import csc_matrix

    ends = np.sort(faces[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2), axis=1)
    ends = np.unique(ends, axis=0)
    row = np.arange(len(ends))
    values = np.concatenate([np.ones(len(ends)), -np.ones(len(ends))])
    where = (np.concatenate([row, row]), ends.T.reshape(-1))
    return csc_matrix((values, where), shape=(len(ends), count))
