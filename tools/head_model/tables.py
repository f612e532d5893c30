"""Landmark embeddings, the dense vertex choice and the mirror tables of the head model."""

from __future__ import annotations

import numpy as np

from lifemask.facemodel.landmarks import LANDMARK_SETS

Embedding = tuple[np.ndarray, np.ndarray]


def evaluate(points: np.ndarray, embedding: Embedding) -> np.ndarray:
    """Landmarks (n, 3) on vertices (v, 3)."""
    return np.einsum("nkc,nk->nc", points[embedding[0]], embedding[1])


def symmetrise(
    points: np.ndarray,
    faces: np.ndarray,
    mirror: np.ndarray,
    embedding: Embedding,
    flip: np.ndarray,
) -> Embedding:
    """Makes an embedding exactly symmetric.

    Image-left landmarks (x < 0) keep their triangle, their partners get its mirror image, and
    landmarks on the midline move to the nearest edge of the midline.
    """
    ids, weights = embedding[0].astype(np.int64).copy(), embedding[1].astype(np.float64).copy()
    weights = np.maximum(weights, 0.0) / np.maximum(weights, 0.0).sum(1, keepdims=True)
    where = evaluate(points, (ids, weights))
    own = np.flatnonzero(mirror == np.arange(len(mirror)))
    edges = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    edges = np.unique(np.sort(edges[np.isin(edges, own).all(1)], 1), axis=0)
    for i, j in enumerate(flip):
        if i == j:
            ids[i], weights[i] = _nearest_on_edges(points, edges, where[i])
        elif where[i, 0] < where[j, 0]:
            ids[j], weights[j] = mirror[ids[i]], weights[i]
    return ids, weights


def _nearest_on_edges(points: np.ndarray, edges: np.ndarray, target: np.ndarray):
    a, b = points[edges[:, 0]], points[edges[:, 1]]
    along = np.clip(((target - a) * (b - a)).sum(1) / ((b - a) ** 2).sum(1), 0.0, 1.0)
    best = np.linalg.norm(a + along[:, None] * (b - a) - target, axis=1).argmin()
    i, j = edges[best]
    return np.array([i, j, j]), np.array([1.0 - along[best], along[best], 0.0])


def farthest_points(
    points: np.ndarray, mirror: np.ndarray, candidates: np.ndarray, count: int
) -> np.ndarray:
    """Farthest-point choice that takes a vertex always together with its mirror image.

    Returns:
        (count,) vertex ids: the midline first, then image-left vertices, then their partners in
        the same order.
    """
    middle = mirror == np.arange(len(mirror))
    nose = candidates[points[candidates, 2].argmax()]
    chosen = [int(nose)] if middle[nose] else [int(nose), int(mirror[nose])]
    distance = np.linalg.norm(points[candidates][:, None] - points[chosen], axis=-1).min(1)
    while len(chosen) < count:
        allowed = middle[candidates] if count - len(chosen) == 1 else np.ones(len(candidates), bool)
        pick = int(candidates[np.where(allowed, distance, -1.0).argmax()])
        added = [pick] if middle[pick] else [pick, int(mirror[pick])]
        chosen += added
        for vertex in added:
            gap = np.linalg.norm(points[candidates] - points[vertex], axis=1)
            distance = np.minimum(distance, gap)
    ids = np.array(chosen)
    centre = np.sort(ids[middle[ids]])
    left = np.sort(ids[~middle[ids] & (points[ids, 0] < 0)])
    return np.concatenate([centre, left, mirror[left]])


def at_vertices(ids: np.ndarray) -> Embedding:
    """Landmarks that sit on vertices (n,)."""
    return np.stack([ids, ids, ids], 1), np.tile([1.0, 0.0, 0.0], (len(ids), 1))


def flip_of(name: str) -> np.ndarray:
    """The flip table of a landmark set as an array."""
    return np.array(LANDMARK_SETS[name].flip)
