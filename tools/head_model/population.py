"""People whom ICT lacks, from anny's phenotypes: what they add to ICT's covariance, bounded."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp

from head_model import carry
from head_model.skin import SKIN, Skin
from head_model.sources import AnnyHead

BOUND_MM = 6.0  # no vertex of a joined deviation moves further
SHARE = 0.6  # of anny's residual variation that is believed
SMOOTHING_STEPS = 25


def rigid_deviations(people: np.ndarray, reference: np.ndarray, anchor: np.ndarray) -> np.ndarray:
    """People (n, v, 3) rigidly aligned (no scale) on the anchor mask (v,), minus their mean."""
    aligned = np.stack(
        [
            carry.apply_affine(carry.similarity(p[anchor], reference[anchor], scale=False), p)
            for p in people
        ]
    )
    return aligned - aligned.mean(0)


def smooth(fields: np.ndarray, points: np.ndarray, faces: np.ndarray, steps: int) -> np.ndarray:
    """Vector fields (n, v, 3) after explicit diffusion over the mesh: removes local swellings."""
    graph = carry.edge_weights(points, faces)
    average = sp.diags(1.0 / np.asarray(graph.sum(1)).ravel()) @ graph
    flat = np.moveaxis(fields, 0, 1).reshape(len(points), -1)
    for _ in range(steps):
        flat = 0.5 * flat + 0.5 * (average @ flat)
    return np.moveaxis(flat.reshape(len(points), len(fields), 3), 0, 1)


def bounded(fields: np.ndarray, limit: float) -> np.ndarray:
    """Fields with each vector's length x shortened to limit * tanh(x / limit)."""
    length = np.linalg.norm(fields, axis=-1, keepdims=True)
    return fields * (limit * np.tanh(length / limit) / np.maximum(length, 1e-9))


def joined_factor(anny: AnnyHead, skin: Skin, anchor: np.ndarray) -> np.ndarray:
    """Rows (n, v, 3) to append to ICT's modes: anny's variation that ICT does not explain.

    Each deviation is regressed on ICT's modes with their standard normal prior (1 mm noise); only
    the residual is kept, smoothed and bounded, so that what both know is not counted twice.
    """
    scale = float(np.cbrt(np.linalg.det(skin.anny_to_model[:, :3])))
    rotation = skin.anny_to_model[:, :3] / scale
    raw = rigid_deviations(anny.people[:, :SKIN], anny.people[:, :SKIN].mean(0), anchor)
    deviations = raw @ rotation.T * scale
    basis = skin.identity[:, anchor].reshape(len(skin.identity), -1)
    gram = basis @ basis.T + np.eye(len(basis))
    right = basis @ deviations[:, anchor].reshape(len(deviations), -1).T
    explained = np.tensordot(np.linalg.solve(gram, right).T, skin.identity, 1)
    residual = smooth(deviations - explained, skin.mean, skin.faces, SMOOTHING_STEPS)
    return bounded(residual, BOUND_MM) * SHARE / np.sqrt(len(residual))
