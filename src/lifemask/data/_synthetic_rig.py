"""What the generator derives once from a face model: skin texture layout, materials, occlusion."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from lifemask.assets import UserError
from lifemask.data import _synthetic_kernels as kernels
from lifemask.data import _synthetic_parts as parts

if TYPE_CHECKING:
    from torch import Tensor

    from lifemask.facemodel.base import FaceModel

TEXTURE_HEIGHT = 448
"""Rows of a native skin texture; its width follows from the layout's aspect."""


@dataclass(frozen=True)
class Eye:
    """One eyeball: `vertices` (e,) ids, unit `directions` (e, 3) from its centre, `rest_mm`."""

    vertices: NDArray[np.int64]
    directions: NDArray[np.float32]
    rest_mm: NDArray[np.float32]


@dataclass(frozen=True)
class HeadRig:
    """Arrays of the mean head that all images share.

    Attributes:
        model: the face model.
        mean_mm: (v, 3) neutral mean head.
        native: the model's skin has the UVs of the CC0 skins; else it lies on a sphere.
        faces: (f, 3) int32, those of the model that are drawn.
        face_uv: (f, 3, 2) float32: texel position on skin, direction (x, y) on the eye sphere.
        model_uv: (f, 3, 2) float32: the model's own texture coordinates on the skin of its face,
            `NO_UV` elsewhere.
        face_material: (f,) uint8, see `_synthetic_kernels`.
        occlusion: (v,) ambient visibility in [0, 1].
        eyes: the eyeball at +x and the one at -x; empty where the model has none.
        eye_faces: (k,) ids of the eyes' triangles.
        label_set: landmark set of the labels; box_set: of the crop; anatomy_set: of 68 points
            that place props and paint skins.
        landmarks68_mm: (68, 3) `anatomy_set` on the mean head.
        texture_shape: (rows, columns).
        texel_mm: (rows, columns, 3) rest position of each texel, NaN outside the layout.
        uv_box: (u0, v0, u1, v1) part of the layout's UV square that the texture holds.
        cheek_texels: (n, 2) rows and columns of texels on the cheeks, for a mean skin colour.
        borrowed68: (68,) vertices of the set `BORROWED`, or None.
    """

    model: FaceModel
    mean_mm: NDArray[np.float32]
    native: bool
    faces: NDArray[np.int32]
    face_uv: NDArray[np.float32]
    model_uv: NDArray[np.float32]
    face_material: NDArray[np.uint8]
    occlusion: NDArray[np.float32]
    eyes: tuple[Eye, Eye]
    eye_faces: NDArray[np.int64]
    label_set: str
    box_set: str
    anatomy_set: str
    landmarks68_mm: NDArray[np.float32]
    texture_shape: tuple[int, int]
    texel_mm: NDArray[np.float32]
    uv_box: tuple[float, float, float, float]
    cheek_texels: NDArray[np.int64]
    borrowed68: NDArray[np.int64] | None = None

    def landmarks(self, heads: Tensor, name: str) -> NDArray[np.float32]:
        """Points (*b, n, 3) of one of the rig's sets on heads (*b, v, 3), mm."""
        if name == BORROWED:
            return heads[..., self.borrowed68, :].numpy().astype(np.float32)
        return self.model.landmarks(heads, name).numpy().astype(np.float32)


def create_rig(model: FaceModel) -> HeadRig:
    """Prepare a face model for rendering (a few seconds, without reading any file).

    Args:
        model: a model with a landmark set of 68 points or a part of one, see `choose_sets`.

    Returns:
        The shared arrays of its mean head.

    Raises:
        UserError: the model has no landmark set that the generator can work with.
    """
    label_set, box_set, anatomy_set = choose_sets(model)
    mean = neutral_mean(model)
    borrowed = None
    if anatomy_set == BORROWED:
        borrowed = _borrowed_vertices(model, mean, label_set)
        lm68 = mean.numpy()[borrowed].astype(np.float32)
    else:
        lm68 = model.landmarks(mean, anatomy_set).numpy().astype(np.float32)
    mean_mm = mean.numpy().astype(np.float32)
    native = model.name in parts.NATIVE
    faces, material, occlusion, corners, model_uv = (_native if native else _foreign)(
        model, mean_mm, lm68
    )
    box, shape = ((0.0, 0.0, 1.0, 1.0), parts.SPHERE_SHAPE)
    if native:
        box, shape = _layout(corners[material == kernels.SKIN])
    face_uv = _texel_corners(corners, box, shape)
    eye_faces = np.flatnonzero(material == kernels.EYE)
    texel_mm = rasterize_texels(mean_mm[faces], face_uv, material == kernels.SKIN, shape)
    return HeadRig(
        model, mean_mm, native, faces, face_uv, model_uv, material, occlusion,
        _eyes(mean_mm, faces, material), eye_faces, label_set, box_set, anatomy_set, lm68, shape,
        texel_mm, box, _cheek_texels(texel_mm, lm68), borrowed,
    )  # fmt: skip


def _native(model: FaceModel, mean_mm, lm68):
    """Faces, materials, occlusion, layout corners and model UVs of the default head."""
    topology = model.topology
    faces = topology.faces.numpy().astype(np.int32)
    faces_uv, part = topology.faces_uv.numpy(), topology.face_part.numpy()
    island = _skin_island(mean_mm, faces, faces_uv, lm68[30])
    occlusion = _ambient_occlusion(mean_mm, faces)
    outer = (mean_mm[faces][..., 1].mean(1) < lm68[8, 1] + 5) | (occlusion[faces].max(1) > 0.25)
    material = parts.native_materials(topology, island, outer)
    occlusion = _open_mouth(occlusion, faces, material, part > 0)
    corners = topology.uvs.numpy().astype(np.float32)[faces_uv]
    return faces, material, occlusion, corners, _only(corners, material == kernels.SKIN)


def _foreign(model: FaceModel, mean_mm, lm68):
    """The same of any other model, without the triangles that are not drawn."""
    topology = model.topology
    every = topology.faces.numpy().astype(np.int32)
    solid = parts.part_materials(topology.part_names)[topology.face_part.numpy()]
    drawn = solid != parts.NOT_DRAWN
    occlusion = _ambient_occlusion(mean_mm, every[drawn])
    material = parts.foreign_materials(topology, occlusion)
    faces, material = every[drawn], material[drawn]
    occlusion = _open_mouth(occlusion, faces, material, solid[drawn] != kernels.SKIN)
    corners = parts.sphere_corners(mean_mm, faces, lm68)
    part = topology.face_part.numpy()[drawn]
    tip = np.argmin(np.linalg.norm(mean_mm[faces].mean(1) - lm68[30], axis=1))
    face_skin = (material == kernels.SKIN) & (part == part[tip])
    own, uvs = np.zeros_like(corners), topology.uvs.numpy()
    if len(uvs) > 1 and np.ptp(uvs, axis=0).min() > 0:
        own = uvs[topology.faces_uv.numpy()][drawn]
    else:
        face_skin[:] = False
    return faces, material, occlusion, corners, _only(own, face_skin)


def _only(uv, use) -> NDArray[np.float32]:
    """Corner coordinates (f, 3, 2) where `use` (f,) holds, `NO_UV` elsewhere."""
    return np.where(use[:, None, None], uv, np.float32(kernels.NO_UV)).astype(np.float32)


LABEL_SETS = ("lifemask392", "ict68", "ibug68", "ibug68-3d-bfm")
BOX_SETS = ("ibug68-3d-bfm", "ibug68", "ict68")
ANATOMY_SETS = ("ict68", "ibug68", "ibug68-3d-bfm")
PARTIAL_SETS = ("ibug51", "sfm50", "bfm15")
BORROWED = "borrowed68"
"""68 points of a model that embeds only some of them; the others come from the default head."""


def choose_sets(model: FaceModel) -> tuple[str, str, str]:
    """Names of the landmark sets of a model for labels, crop, and anatomy (68 points).

    Raises:
        UserError: the model has none of the known sets of 68 points, nor a part of them.
    """
    has = model.landmark_embeddings
    label, box, anatomy = (
        next((name for name in names if name in has), "")
        for names in (LABEL_SETS, BOX_SETS, ANATOMY_SETS)
    )
    if anatomy:
        return label, box, anatomy
    partial = next((name for name in PARTIAL_SETS if name in has), "")
    if not partial:
        known = ", ".join((*ANATOMY_SETS, *PARTIAL_SETS))
        raise UserError(
            f"the generator needs one of the landmark sets {known}, but {model.name} has: "
            f"{', '.join(sorted(has)) or 'none'}; add an embedding to its loader"
        )
    return partial, BORROWED, BORROWED


def _borrowed_vertices(model: FaceModel, mean: Tensor, partial: str) -> NDArray[np.int64]:
    """Vertices (68,) nearest to the default head's landmarks, laid on the model's partial set.

    Inside the face a spline through the known points carries them over, along the jaw, which no
    partial set marks but for the chin, a similarity.
    """
    from scipy.interpolate import RBFInterpolator
    from scipy.spatial import KDTree

    from lifemask.facemodel import load_face_model
    from lifemask.facemodel.landmarks import FROM_68
    from lifemask.graphics.pose import similarity

    default = load_face_model("lifemask")
    source = default.landmarks(neutral_mean(default), "ict68").double()
    known = [row[0] for row in FROM_68[partial]]
    target = model.landmarks(mean, partial).double()
    points = RBFInterpolator(source[known].numpy(), target.numpy(), kernel="linear")(source)
    rotation, scale, shift = similarity(source[known], target)
    jaw = [k for k in range(17) if k not in known]
    points[jaw] = (scale * source[jaw] @ rotation.mT + shift).numpy()
    return np.asarray(KDTree(mean.numpy()).query(points)[1], np.int64)


def neutral_mean(model: FaceModel) -> Tensor:
    """The neutral mean head (v, 3) of a model."""
    import torch

    with torch.no_grad():
        return model(torch.zeros(model.identity_size), torch.zeros(len(model.expression_names)))


def _skin_island(mean_mm, faces, faces_uv, nose_tip) -> NDArray[np.bool_]:
    """Triangles in the UV island of the nose tip: the outer skin, without the mouth's cavity."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    n = int(faces_uv.max()) + 1
    a = faces_uv[:, [0, 1, 2]].ravel()
    b = faces_uv[:, [1, 2, 0]].ravel()
    _, label = connected_components(coo_matrix((np.ones(len(a)), (a, b)), shape=(n, n)))
    centres = mean_mm[faces].mean(1)
    seed = int(np.argmin(np.linalg.norm(centres - nose_tip, axis=1)))
    return label[faces_uv[:, 0]] == label[faces_uv[seed, 0]]


def _cheek_texels(texel_mm, lm68) -> NDArray[np.int64]:
    """Rows and columns (n, 2) of texels on the cheeks; the nearest ones if the head has none."""
    middle = (lm68[[2, 14]] + lm68[[36, 45]] + lm68[[48, 54]]) / 3
    away = np.min([np.linalg.norm(texel_mm - point, axis=-1) for point in middle], axis=0)
    away = np.nan_to_num(away, nan=1e3)
    return np.argwhere(away < max(14.0, np.partition(away.ravel(), 400)[400]))[::5]


def _open_mouth(occlusion, faces, material, other_part) -> NDArray[np.float32]:
    """Ambient visibility with teeth, gums and tongue as an open mouth shows them.

    The mean head's mouth is closed, so all inside would be black; closed lips hide it anyway.
    `other_part` (f,) marks triangles that belong to parts other than the skin.
    """
    out = occlusion.copy()
    inner = np.unique(faces[(material == kernels.MOUTH) & other_part])
    out[inner] = np.maximum(out[inner], 0.25)
    tooth = np.unique(faces[material == kernels.TEETH])
    out[tooth] = np.maximum(out[tooth], 0.4)
    return out


def _layout(corners) -> tuple[tuple[float, float, float, float], tuple[int, int]]:
    u0, v0 = corners.reshape(-1, 2).min(0)
    u1, v1 = corners.reshape(-1, 2).max(0)
    columns = round(TEXTURE_HEIGHT * float(u1 - u0) / float(v1 - v0))
    return (float(u0), float(v0), float(u1), float(v1)), (TEXTURE_HEIGHT, columns)


def _texel_corners(corners, box, shape) -> NDArray[np.float32]:
    """UV corners (f, 3, 2) to texel positions (column, row), row 0 at the box's largest v."""
    u0, v0, u1, v1 = box
    out = np.empty_like(corners)
    out[..., 0] = (corners[..., 0] - u0) / (u1 - u0) * shape[1] - 0.5
    out[..., 1] = (v1 - corners[..., 1]) / (v1 - v0) * shape[0] - 0.5
    return np.ascontiguousarray(out, np.float32)


def rasterize_texels(
    corner_values: NDArray[np.float32],
    face_uv: NDArray[np.float32],
    use: NDArray[np.bool_],
    shape: tuple[int, int],
) -> NDArray[np.float32]:
    """Corner values (f, 3, c) interpolated at every texel: (rows, columns, c), NaN outside."""
    rows, columns = shape
    keep = np.flatnonzero(use)
    n = 3 * len(keep)
    screen = np.ones((n, 3), np.float32)
    screen[:, :2] = face_uv[keep].reshape(n, 2)
    tri = np.arange(n, dtype=np.int32).reshape(-1, 3)
    ids = np.empty((rows, columns), np.int32)
    depth = np.empty((rows, columns), np.float32)
    kernels.rasterize_scene(
        screen, tri, face_uv[keep], np.zeros(len(keep), np.uint8), np.zeros(len(keep), np.bool_),
        np.zeros((1, kernels.MATERIAL_SIZE), np.float32), np.zeros(4, np.float32), depth, ids,
    )  # fmt: skip
    out = np.full((rows, columns, corner_values.shape[-1]), np.nan, np.float32)
    y, x = np.nonzero(ids >= 0)
    f = ids[y, x]
    p = face_uv[keep[f]].astype(np.float64)
    d = np.stack([x, y], 1)
    e1, e2, e = p[:, 1] - p[:, 0], p[:, 2] - p[:, 0], d - p[:, 0]
    area = e1[:, 0] * e2[:, 1] - e1[:, 1] * e2[:, 0]
    w1 = (e[:, 0] * e2[:, 1] - e[:, 1] * e2[:, 0]) / area
    w2 = (e1[:, 0] * e[:, 1] - e1[:, 1] * e[:, 0]) / area
    weights = np.stack([1 - w1 - w2, w1, w2], 1)
    out[y, x] = np.einsum("nk,nkc->nc", weights, corner_values[keep[f]])
    return out


def _eyes(mean_mm, faces, material) -> tuple[Eye, Eye]:
    """The two eyeballs and their unit directions from spheres fitted to them."""
    ids = np.unique(faces[material == kernels.EYE]).astype(np.int64)
    return (
        _eye(mean_mm, ids[mean_mm[ids, 0] > 0]),
        _eye(mean_mm, ids[mean_mm[ids, 0] <= 0]),
    )


def _eye(mean_mm, ids) -> Eye:
    p = mean_mm[ids].astype(np.float64)
    if len(p) < 4:
        empty = np.zeros((0, 3), np.float32)
        return Eye(ids[:0], empty, empty)
    a = np.concatenate([2 * p, np.ones((len(p), 1))], 1)
    solution, *_ = np.linalg.lstsq(a, (p**2).sum(1), rcond=None)
    d = p - solution[:3]
    d /= np.linalg.norm(d, axis=1, keepdims=True)
    return Eye(ids, d.astype(np.float32), mean_mm[ids])


def _ambient_occlusion(mean_mm, faces, directions: int = 96, size: int = 256):
    """Cosine-weighted share (v,) of the sky that each vertex sees, by orthographic depth maps."""
    k = np.arange(directions) + 0.5
    z = 1 - 2 * k / directions
    phi = np.pi * (1 + 5**0.5) * k
    radius = np.sqrt(1 - z * z)
    sky = np.stack([radius * np.cos(phi), radius * np.sin(phi), z], 1).astype(np.float32)
    normals = np.empty_like(mean_mm)
    kernels.vertex_normals_into(mean_mm, faces, normals)
    seen = np.zeros(len(mean_mm), np.float32)
    total = np.zeros(len(mean_mm), np.float32)
    depth = np.empty((size, size), np.float32)
    lit = np.empty(len(mean_mm), np.float32)
    for direction in sky:
        screen = light_view(mean_mm, direction, size)
        kernels.depth_map(screen, faces, depth)
        kernels.lit_share(screen, depth, np.float32(3.0), lit)
        cosine = np.maximum(normals @ direction, 0)
        seen += cosine * lit
        total += cosine
    return np.clip(seen / np.maximum(total, 1e-6), 0.04, 1).astype(np.float32)


def light_view(
    points: NDArray[np.float32], direction: NDArray[np.float32], size: int
) -> NDArray[np.float32]:
    """Orthographic view (v, 3) of points from a light: u, v in px of a size² map, depth in mm."""
    helper = np.array([0, 1, 0] if abs(direction[1]) < 0.9 else [1, 0, 0], np.float32)
    right = np.cross(helper, direction)
    right /= np.linalg.norm(right)
    up = np.cross(direction, right)
    view = points @ np.stack([right, -up, direction], 1).astype(np.float32)
    low = view[:, :2].min(0)
    extent = float((view[:, :2].max(0) - low).max())
    view[:, :2] = (view[:, :2] - low) * ((size - 3) / extent) + 1
    return np.ascontiguousarray(view, np.float32)
