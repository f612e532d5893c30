"""Carrying shapes from ICT-FaceKit to the head topology, with a membrane over what it lacks."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import scipy.sparse as sp
import scipy.sparse.linalg as spla


def barycentric_carry(values: np.ndarray, triangles: np.ndarray, bary: np.ndarray) -> np.ndarray:
    """Values (..., v_ict, 3) at surface points (n triangles and weights): (..., n, 3)."""
    corners = values[..., triangles.astype(np.int64), :]
    return np.einsum("...nkc,nk->...nc", corners, bary.astype(np.float64))


def edge_weights(points: np.ndarray, faces: np.ndarray) -> sp.csr_matrix:
    """Symmetric (v, v) graph of inverse edge lengths, a positive membrane discretisation."""
    pairs = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    pairs = np.unique(np.sort(pairs, 1), axis=0)
    weights = 1.0 / np.maximum(
        np.linalg.norm(points[pairs[:, 0]] - points[pairs[:, 1]], axis=1), 0.05
    )
    graph = sp.coo_matrix((weights, (pairs[:, 0], pairs[:, 1])), shape=(len(points),) * 2)
    return (graph + graph.T).tocsr()


def membrane(
    points: np.ndarray, faces: np.ndarray, known: np.ndarray
) -> Callable[[np.ndarray], np.ndarray]:
    """A function that fills deltas (..., v, 3) at unknown vertices by a discrete membrane.

    Solves `L x = 0` at the unknown vertices with the known ones as boundary (Dirichlet); open
    borders are free (Neumann). Plain Laplace keeps every filled value inside the range of its
    neighbours, so it cannot overshoot through the lids as a bi-Laplacian does.
    """
    graph = edge_weights(points, faces)
    laplace = (sp.diags(np.asarray(graph.sum(1)).ravel()) - graph).tocsc()
    free = np.flatnonzero(~known)
    fixed = np.flatnonzero(known)
    solve = spla.factorized(laplace[free][:, free].tocsc())
    coupling = laplace[free][:, fixed].tocsr()

    def fill(values: np.ndarray) -> np.ndarray:
        flat = np.moveaxis(values, -2, 0).reshape(values.shape[-2], -1)
        out = flat.copy()
        right = -(coupling @ flat[fixed])
        out[free] = np.stack([solve(column) for column in right.T], 1)
        back = out.reshape((values.shape[-2],) + values.shape[:-2] + (values.shape[-1],))
        return np.moveaxis(back, 0, -2)

    return fill


def similarity(source: np.ndarray, target: np.ndarray, scale: bool = True) -> np.ndarray:
    """Umeyama (1991): the 3 x 4 matrix [s R | t] that best maps source (n, 3) onto target."""
    a, b = source - source.mean(0), target - target.mean(0)
    u, d, vt = np.linalg.svd(b.T @ a)
    sign = np.array([1.0, 1.0, np.sign(np.linalg.det(u @ vt))])
    rotation = (u * sign) @ vt
    s = float((d * sign).sum() / (a**2).sum()) if scale else 1.0
    return np.concatenate(
        [s * rotation, (target.mean(0) - s * rotation @ source.mean(0))[:, None]], 1
    )


def apply_affine(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Points (..., 3) through a 3 x 4 matrix."""
    return points @ matrix[:, :3].T + matrix[:, 3]
