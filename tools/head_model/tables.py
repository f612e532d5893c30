"""Landmark embeddings, the dense vertex choice and the mirror tables of the head model."""

from __future__ import annotations

import numpy as np

from head_model import carry, eyes
from head_model.dense import DENSE_VERTEX_IDS
from lifemask.facemodel.landmarks import AFLW21_FROM_68, LANDMARK_SETS

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


def all_embeddings(
    points: np.ndarray,
    faces: np.ndarray,
    mirror: np.ndarray,
    masks: dict[str, np.ndarray],
    table: dict[str, np.ndarray],
    spans: dict[str, tuple[int, int]],
) -> dict[str, Embedding]:
    """The embeddings of all landmark sets on the model (see `LANDMARK_SETS`)."""
    out: dict[str, Embedding] = {}

    def symmetric(name: str, pair: Embedding) -> Embedding:
        return symmetrise(points, faces, mirror, pair, flip_of(name)[: len(pair[0])])

    for name, key in (("ict68", "lm68"), ("ibug68-3d-bfm", "lm68_300wlp")):
        out[name] = symmetric(name, (table[f"{key}_tri"], table[f"{key}_bary"]))
    mesh = symmetric("mediapipe478", (table["mp468_tri"], table["mp468_bary"]))
    out["mediapipe478"] = join(mesh, at_vertices(_iris_vertices(spans)))
    dense = at_vertices(np.array(DENSE_VERTEX_IDS))
    out["lifemask392"] = join(join(out["ict68"], out["ibug68-3d-bfm"]), dense)
    mean68 = evaluate(points, out["ict68"])
    wanted = np.stack([mean68[list(row)].mean(0) for row in AFLW21_FROM_68])
    own = faces[masks["face"][faces].all(1)]
    out["aflw21"] = symmetric("aflw21", _closest(points, own, wanted))
    return out


def join(first: Embedding, second: Embedding) -> Embedding:
    """Two embeddings, one after the other."""
    return np.concatenate([first[0], second[0]]), np.concatenate([first[1], second[1]])


def _iris_vertices(spans: dict[str, tuple[int, int]]) -> np.ndarray:
    """MediaPipe's ten iris points, image-left eye first: centre, right, top, left, bottom.

    The right eyeball is the left one mirrored, so its ring starts at image left.
    """
    quarter = eyes.SEGMENTS // 4
    rim = 1 + eyes.LIMBUS_RING * eyes.SEGMENTS
    right, left = spans["eye_right"][0], spans["eye_left"][0]
    first = [0, rim + 2 * quarter, rim + quarter, rim, rim + 3 * quarter]
    second = [0, rim, rim + quarter, rim + 2 * quarter, rim + 3 * quarter]
    return np.array([right + i for i in first] + [left + i for i in second])


def _closest(points: np.ndarray, faces: np.ndarray, wanted: np.ndarray) -> Embedding:
    """The surface points nearest to the wanted ones (n, 3)."""
    import igl

    _, face, nearest = igl.point_mesh_squared_distance(wanted, points, faces.astype(np.int64))
    corners = [points[faces[face, i]] for i in range(3)]
    return faces[face], igl.barycentric_coordinates(nearest, *corners)


def contour_lines(
    points: np.ndarray, faces: np.ndarray, mirror: np.ndarray, inner: np.ndarray, outer: np.ndarray
) -> np.ndarray:
    """Vertex lines (17, 16) on which the jaw landmarks slide, from behind to the cheek.

    Each line is the shortest edge path from the vertex nearest the outer jaw landmark, pushed back
    by as much as the outer one lies behind the inner one, to the vertex nearest the inner landmark
    moved 35 % towards the middle of the face; image right mirrors image left.
    """
    from scipy.sparse.csgraph import dijkstra

    graph = carry.edge_weights(points, faces)
    graph.data = 1.0 / graph.data
    middle = np.array([0.0, -15.0, 95.0])
    lines = np.zeros((17, 16), int)
    for k in range(9):
        start = int(
            np.linalg.norm(points - (outer[k] + 0.4 * (outer[k] - inner[k])), axis=1).argmin()
        )
        stop = int(
            np.linalg.norm(points - (inner[k] + 0.35 * (middle - inner[k])), axis=1).argmin()
        )
        _, previous = dijkstra(graph, indices=stop, return_predecessors=True)
        path = [start]
        while path[-1] != stop:
            path.append(int(previous[path[-1]]))
        pick = np.linspace(0, len(path) - 1, 16).round().astype(int)
        lines[k] = np.array(path)[pick]
    lines[9:] = mirror[lines[7::-1]]
    return lines
