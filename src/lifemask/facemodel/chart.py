"""A chart of the face: a square map whose texels are fixed points of the head's surface.

A position map (Feng et al., PRNet, ECCV 2018) stores where each texel's point is. The head models'
own texture coordinates give most of the square to what no camera sees, so the chart is made here:
the face is cut out at the rims of lips and lids and flattened by Tutte's embedding ("How to draw a
graph", 1963). It folds nowhere, keeps the upper lip's texels apart from the lower lip's, and needs
nothing but triangles.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from lifemask.facemodel.base import FaceModel
from lifemask.graphics.mesh import boundary_edges, unique_edges
from lifemask.graphics.rasterize import barycentric_at_pixels, rasterize

HIDDEN = ("inner_mouth", "eye_socket_interior", "eyeballs", "teeth", "gums", "tongue")
MARGIN_TEXELS = 1.0
RINGS = 2  # of triangles about the face, so that its landmarks lie inside
ROUNDS = 12
DETAIL = 0.5  # 0: texels in proportion to area; 1: as many for every triangle
LIFT_SEEDS = 4
LIFT_RIDGE = 3.0  # mm^2
HEADS = 96  # random ones that weights are fitted to
ACTIVE = 0.15  # share of their expressions that are not at rest
RIDGE = 6.0  # mm^2: how much a change of the bilinear weights must bring
CORNERS = 6.0  # exponent of the superellipse that is the chart's rim; larger is more square


@dataclass(frozen=True)
class FaceChart:
    """Texels of a square map as points of a face model's surface.

    Chart coordinates are (u, v) in [-1, 1], u to the viewer's right, v down; the centre of the
    texel in row i and column j lies at ((j + 0.5) / n * 2 - 1, (i + 0.5) / n * 2 - 1).

    Attributes:
        size: n.
        texel_ids: (n n, 3) corners of the triangle that carries each texel, row by row.
        texel_weights: (n n, 3) barycentric; texels outside the face repeat the nearest inside.
        inside: (n n,) texels that the face covers.
        vertex_uv: (v, 2) chart coordinates of all vertices, NaN outside the chart.
        faces: (f, 3) triangles of the chart.
    """

    size: int
    texel_ids: Int[Tensor, "t 3"]
    texel_weights: Float[Tensor, "t 3"]
    inside: Bool[Tensor, "t"]
    vertex_uv: Float[Tensor, "v 2"]
    faces: Int[Tensor, "f 3"]

    def texels(self, vertices: Float[Tensor, "*b v 3"]) -> Float[Tensor, "*b t 3"]:
        """Points of all texels on given vertices, row by row, in the vertices' frame."""
        corners = vertices[..., self.texel_ids.to(vertices.device), :]
        return (corners * self.texel_weights.to(vertices)[..., None]).sum(-2)

    def sampler(self, model: FaceModel, convention: str = "") -> MapSampler:
        """How to read a landmark set, or with "" all vertices, from a position map.

        Raises:
            ValueError: some of the landmarks lie outside the chart.
        """

        def points(values: Tensor) -> Tensor:
            return model.landmarks(values, convention) if convention else values

        uv = points(functional.pad(self.vertex_uv, (0, 1)))[..., :2]
        if convention and not bool(uv.isfinite().all()):
            raise ValueError(f"landmarks of {convention!r} lie outside the chart of the face")
        return _fitted(self, uv, self.texels(_heads(model)), points(_heads(model)))


@dataclass(frozen=True)
class MapSampler:
    """Points as weighted means of texels.

    Bilinear weights would be off by a millimetre in the folds of lips and lids, the same way on
    every head; these are fitted to heads of the face model.

    Attributes:
        texels: (k, 16) indices, row by row.
        weights: (k, 16), of sum 1; NaN for points outside the chart.
    """

    texels: Int[Tensor, "k 16"]
    weights: Float[Tensor, "k 16"]

    def __call__(self, position_map: Float[Tensor, "b c n n"]) -> Float[Tensor, "b k c"]:
        """The map's values at the points, NaN outside the chart."""
        flat = position_map.flatten(2)
        picked = flat[:, :, self.texels.to(flat.device)]
        return (picked * self.weights.to(flat)).sum(-1).transpose(1, 2)


@lru_cache(maxsize=8)
def create_chart(model: FaceModel, size: int = 64) -> FaceChart:
    """The chart of a face model; kept, since a model's shape does not change.

    Args:
        model: any face model; its region "face" and its landmarks of all sets of 68 and of
            "lifemask392" lie in the chart, the whole mesh where it has no such region.
        size: n.
    """
    with torch.no_grad():
        return _create(model, size)


def _create(model: FaceModel, size: int) -> FaceChart:
    faces = _disc(model.topology.faces, _charted(model))
    used = faces.unique()
    ranks = torch.full((len(model.topology.mirror),), -1)
    ranks[used] = torch.arange(len(used))
    shape = model(torch.zeros(model.identity_size), torch.zeros(len(model.expression_names)))
    flat = _flattened(ranks[faces], shape[used].double()) * (1 - 2 * MARGIN_TEXELS / size)
    uv = torch.full((len(ranks), 2), torch.nan)
    uv[used] = flat.float()
    pixels = (torch.nan_to_num(uv, nan=-3.0) + 1) * (size / 2) - 0.5
    screen = functional.pad(pixels, (0, 1))[None]
    ids = rasterize(screen, faces, size, size, backend="torch").face_ids
    weights = barycentric_at_pixels(screen, faces, ids)[0].view(-1, 3)
    inside = ids.view(-1) >= 0
    nearest = _nearest_inside(inside.view(size, size))
    texel_ids = faces[ids.view(-1)[nearest].long()]
    return FaceChart(size, texel_ids, weights[nearest], inside, uv, faces)


@lru_cache(maxsize=1)
def _heads(model: FaceModel, seed: int = 0) -> Float[Tensor, "h v 3"]:
    """Random heads (h, v, 3) of a model, the same every time."""
    generator = torch.Generator().manual_seed(seed)
    identity = torch.randn(HEADS, model.identity_size, generator=generator)
    size = (HEADS, len(model.expression_names))
    active = torch.rand(size, generator=generator) < ACTIVE
    expression = torch.rand(size, generator=generator) * active
    if model.expression_range is not None:
        low, high = expression.new_tensor(model.expression_range).T
        expression = torch.where(active, low + expression * (high - low), 0.0)
    with torch.no_grad():
        return model(identity, expression)


def map_weights(chart: FaceChart, model: FaceModel, convention: str) -> Float[Tensor, "t k"]:
    """Every texel as a weighted sum of a landmark set's points, for any pose: rows add up to 1.

    The best such weights for random heads of the model, held small.
    """
    heads = torch.cat([_heads(model, seed) for seed in range(LIFT_SEEDS)])
    known = model.landmarks(heads, convention).double()
    texels = chart.texels(heads).double()
    middle = known.mean((0, 1))
    seen = (known - middle).transpose(1, 2).flatten(0, 1)
    wanted = (texels - middle).transpose(1, 2).flatten(0, 1)
    count = seen.shape[1]
    gram = seen.T @ seen + len(heads) * (LIFT_RIDGE * torch.eye(count) + 100.0**2)
    right = seen.T @ wanted + len(heads) * 100.0**2
    weights = torch.linalg.solve(gram, right).T
    return (weights / weights.sum(1, keepdim=True)).float()


def _fitted(
    chart: FaceChart,
    uv: Float[Tensor, "k 2"],
    texels: Float[Tensor, "h t 3"],
    points: Float[Tensor, "h k 3"],
) -> MapSampler:
    """Weights of the 4 x 4 texels about each point that reproduce it on all heads."""
    size = chart.size
    place = (torch.nan_to_num(uv) + 1) * (size / 2) - 0.5
    first = (place.floor().long() - 1).clamp(0, size - 4)
    line = torch.arange(4)
    across = first[:, :1] + line
    down = first[:, 1:] + line
    ids = (down[:, :, None] * size + across[:, None]).flatten(1)
    by_column = (1 - (place[:, :1] - across).abs()).clamp_min(0)
    by_row = (1 - (place[:, 1:] - down).abs()).clamp_min(0)
    start = (by_row[:, :, None] * by_column[:, None]).flatten(1).double()
    start = start / start.sum(1, keepdim=True)
    middle = points.mean((0, 1))
    weights = []
    for chunk in torch.arange(len(uv)).split(256):
        seen = (texels[:, ids[chunk]] - middle).double().permute(1, 0, 3, 2).flatten(1, 2)
        wanted = (points[:, chunk] - middle).double().permute(1, 0, 2).flatten(1)
        sum_row = torch.full_like(seen[:, :1], 100.0 * len(points))
        system = torch.cat((seen, sum_row), 1)
        missing = torch.cat((wanted, sum_row[..., 0]), 1) - (system @ start[chunk, :, None])[..., 0]
        gram = system.mT @ system + RIDGE * len(points) * torch.eye(16, dtype=torch.float64)
        change = torch.linalg.solve(gram, (system.mT @ missing[..., None])[..., 0])
        weights.append(start[chunk] + change)
    fitted = torch.cat(weights)
    fitted = (fitted / fitted.sum(1, keepdim=True)).float()
    return MapSampler(ids, torch.where(uv.isfinite().all(1, keepdim=True), fitted, torch.nan))


def _charted(model: FaceModel) -> Tensor:
    """Vertices (v,) of the chart: face and landmarks with some rings about them."""
    topology = model.topology
    count = len(topology.mirror)
    everything = torch.ones(count, dtype=torch.bool)
    regions: Mapping[str, Tensor] = topology.regions
    keep = regions.get("face", everything).clone()
    hidden = torch.zeros(count, dtype=torch.bool)
    for name in HIDDEN:
        hidden |= regions.get(name, torch.zeros_like(hidden))
    for embedding in model.landmark_embeddings.values():
        marked = embedding.vertex_ids.flatten()
        keep[marked[~hidden[marked]]] = True
    keep &= ~hidden
    for _ in range(RINGS):
        touched = topology.faces[keep[topology.faces].any(1)].flatten()
        keep[touched[~hidden[touched]]] = True
    return keep


def _disc(faces: Int[Tensor, "f 3"], keep: Bool[Tensor, "v"]) -> Int[Tensor, "g 3"]:
    """The largest connected part of the kept triangles."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    faces = faces[keep[faces].all(1)]
    edges = unique_edges(faces).numpy()
    graph = coo_array((np.ones(len(edges)), (edges[:, 0], edges[:, 1])), shape=(len(keep),) * 2)
    label = torch.from_numpy(connected_components(graph, directed=False)[1])
    largest = label[faces[:, 0]].mode().values
    return faces[label[faces[:, 0]] == largest]


def _flattened(faces: Int[Tensor, "f 3"], shape: Float[Tensor, "v 3"]) -> Float[Tensor, "v 2"]:
    """Every inner vertex is a weighted mean of its neighbours, so nothing folds (Tutte).

    The longest rim lies on a rounded square; the other rims (eyes, mouth) are closed by a vertex
    in their middle. Weights are made smaller round after round where triangles are stretched
    (Yoshizawa et al., SMI 2004); small triangles count as larger than they are, for they are many
    where the face has detail.
    """
    loops = sorted(boundary_loops(faces), key=len)
    rim, closed, points = loops[-1], [faces], [shape]
    for k, loop in enumerate(loops[:-1]):
        hub = torch.full_like(loop, len(shape) + k)
        closed.append(torch.stack((loop.roll(-1), loop, hub), 1))
        points.append(shape[loop].mean(0, keepdim=True))
    closed, points = torch.cat(closed), torch.cat(points)
    edges = unique_edges(closed)
    both = torch.cat((edges, edges.flip(1)))
    uv = torch.zeros(len(points), 2, dtype=torch.float64)
    uv[rim] = _rounded_square(shape[rim])
    fixed = torch.zeros(len(points), dtype=torch.bool)
    fixed[rim] = True
    weights = torch.ones(len(both), dtype=torch.float64)
    best, least = uv, float("inf")
    for _ in range(ROUNDS):
        uv = _means(both, weights, uv, fixed)
        stretch, overall = _stretch(closed, points, uv)
        if overall < least:
            best, least = uv, overall
        weights = weights / stretch[both[:, 1]].clamp(0.1, 10)
    return best[: len(shape)]


def _means(both: Tensor, weights: Tensor, uv: Tensor, fixed: Tensor) -> Float[Tensor, "v 2"]:
    """Free vertices at the weighted means of their neighbours."""
    from scipy.sparse import csr_array, identity
    from scipy.sparse.linalg import spsolve

    total = torch.zeros(len(uv), dtype=torch.float64).index_add_(0, both[:, 0], weights)
    share = (weights / total[both[:, 0]]).numpy()
    links = csr_array((share, both.T.numpy()), shape=(len(uv), len(uv)))
    free, held = (~fixed).numpy(), fixed.numpy()
    system = identity(int(free.sum()), format="csc") - links[free][:, free]
    solved = uv.clone()
    known = links[free][:, held] @ uv[fixed].numpy()
    solved[~fixed] = torch.from_numpy(spsolve(system.tocsc(), known))
    return solved


def _stretch(faces: Tensor, points: Tensor, uv: Tensor) -> tuple[Float[Tensor, "v"], float]:
    """Mean stretch from the chart to the surface about each vertex, and over the surface."""
    (p, q, r), (a, b, c) = (x[faces].unbind(1) for x in (points, uv))
    area = ((b - a)[:, 0] * (c - a)[:, 1] - (c - a)[:, 0] * (b - a)[:, 1]).abs().clamp_min(1e-12)
    by_u = (p * (b - c)[:, 1:] + q * (c - a)[:, 1:] + r * (a - b)[:, 1:]) / area[:, None]
    by_v = (p * (c - b)[:, :1] + q * (a - c)[:, :1] + r * (b - a)[:, :1]) / area[:, None]
    square = (by_u.square().sum(1) + by_v.square().sum(1)) / 2
    surface = torch.linalg.cross(q - p, r - p).norm(dim=1) / 2
    square = square * (surface / surface.mean()).clamp_min(1e-3) ** -DETAIL
    owner = faces.flatten()
    spread, weight = (
        torch.zeros(len(points), dtype=torch.float64).index_add_(0, owner, x.repeat_interleave(3))
        for x in (surface * square, surface)
    )
    overall = ((surface * square).sum() / surface.sum()).sqrt()
    return (spread / weight).sqrt() / overall, float(overall)


def _rounded_square(rim: Float[Tensor, "n 3"]) -> Float[Tensor, "n 2"]:
    """Places of a closed rim on a rounded square by arc length, its top at the top."""
    steps = (rim.roll(-1, 0) - rim).norm(dim=-1)
    along = (steps.cumsum(0) - steps) / steps.sum()
    middle = rim.mean(0)
    top = int(torch.where(rim[:, 1] > middle[1], (rim[:, 0] - middle[0]).abs(), torch.inf).argmin())
    right = bool(((rim.roll(-1, 0) - rim)[:, 0] * (rim[:, 1] - middle[1])).sum() > 0)
    angle = 2 * torch.pi * (along - along[top]) * (1 if right else -1)
    direction = torch.stack((angle.sin(), -angle.cos()), 1)
    return direction / (direction.abs() ** CORNERS).sum(1, keepdim=True) ** (1 / CORNERS)


def boundary_loops(faces: Int[Tensor, "f 3"]) -> list[Int[Tensor, "n"]]:
    """The closed rims of a mesh as vertex ids in order.

    Raises:
        ValueError: rims that touch in a vertex: the mesh is not a surface there.
    """
    following: dict[int, int] = {}
    for start, end in boundary_edges(faces).tolist():
        if start in following:
            raise ValueError("two rims of the mesh touch in a vertex")
        following[start] = end
    loops = []
    while following:
        loop = [next(iter(following))]
        while (step := following.pop(loop[-1])) != loop[0]:
            loop.append(step)
        loops.append(torch.tensor(loop))
    return loops


def _nearest_inside(inside: Bool[Tensor, "n n"]) -> Int[Tensor, "t"]:
    """Index of the nearest texel inside, for every texel."""
    size = len(inside)
    line = torch.arange(size).float()
    all_texels = torch.cartesian_prod(line, line)
    known = inside.flatten().nonzero()[:, 0]
    return known[torch.cdist(all_texels, all_texels[known]).argmin(1)]
