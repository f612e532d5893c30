"""What each triangle of a face model is made of, and where its skin lies in a texture.

The default model's skin has MakeHuman's UVs, as the CC0 skins do. For any other model the skin is
laid out on a sphere around the head and borrows its colours from the default head, point by point.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from lifemask.data import _synthetic_kernels as kernels

if TYPE_CHECKING:
    from lifemask.data._synthetic_rig import HeadRig
    from lifemask.facemodel.base import FaceModel, Topology

NATIVE = ("lifemask",)
"""Models whose skin has the UVs of the CC0 skins."""
SPHERE_SHAPE = (480, 800)
"""Rows and columns of a texture laid out on a sphere."""
NOT_DRAWN = 255
GUM_V = 0.33
"""The default model's teeth part keeps its gums below this v in its own UV square."""
_SEE_THROUGH = ("lash", "blend", "occlusion", "lacrimal", "cornea", "fluid")
_INSIDE = ("gum", "tongue", "mouth", "socket")


def part_materials(names: tuple[str, ...]) -> NDArray[np.uint8]:
    """Material of each part of a model by its name; `NOT_DRAWN` for shells that are see-through.

    Without a part that is called skin, face, head or body, all parts that have no other material
    are skin.
    """
    lower = [name.lower() for name in names]
    white = any("sclera" in name for name in lower)
    out = np.full(len(names), kernels.SKIN, np.uint8)
    for k, name in enumerate(lower):
        if any(word in name for word in _SEE_THROUGH) or (white and "iris" in name):
            out[k] = NOT_DRAWN
        elif any(word in name for word in ("eye", "sclera", "iris")):
            out[k] = kernels.EYE
        elif "teeth" in name and "gum" not in name:
            out[k] = kernels.TEETH
        elif any(word in name for word in _INSIDE):
            out[k] = kernels.MOUTH
    return out


def foreign_materials(topology: Topology, occlusion: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Material (f,) of each triangle of any model, from its parts, its regions and the light.

    Args:
        topology: of the model.
        occlusion: (v,) ambient visibility; skin that no light reaches is the inside of the mouth.
    """
    part, faces = topology.face_part.numpy(), topology.faces.numpy()
    material = part_materials(topology.part_names)[part]
    for name, mask in topology.regions.items():
        inside = mask.numpy()[faces].all(1) & (material == kernels.SKIN)
        lower = name.lower()
        if "eyeball" in lower:
            material[inside] = kernels.EYE
        elif "teeth" in lower:
            material[inside] = kernels.TEETH
        elif any(word in lower for word in _INSIDE) or "interior" in lower:
            material[inside] = kernels.MOUTH
    dark = (material == kernels.SKIN) & (occlusion[faces].max(1) < 0.08)
    material[dark] = kernels.MOUTH
    return material


def native_materials(topology: Topology, island, outer) -> NDArray[np.uint8]:
    """Material (f,) of the default model; the neck's base has UVs of its own and a plain colour.

    Args:
        topology: of the model.
        island: (f,) triangles in the UV island of the nose tip.
        outer: (f,) triangles that are seen from outside.
    """
    part = topology.face_part.numpy()
    material = np.full(len(part), kernels.MOUTH, np.uint8)
    for index, name in enumerate(topology.part_names):
        if name == "skin":
            material[(part == index) & island] = kernels.SKIN
            material[(part == index) & ~island & outer] = kernels.SKIN_PLAIN
        elif "eye" in name:
            material[part == index] = kernels.EYE
        elif "teeth" in name:
            material[part == index] = kernels.TEETH
    v = topology.uvs[topology.faces_uv][..., 1].numpy()
    material[(material == kernels.TEETH) & (v.max(1) < GUM_V)] = kernels.MOUTH
    return material


def sphere_corners(mean_mm, faces, landmarks68_mm) -> NDArray[np.float32]:
    """Corners (f, 3, 2) of triangles as (u, v) in [0, 1] on a sphere around the head.

    u runs around from the back of the head, v from below; triangles across the seam keep their
    shape and reach over u = 1.
    """
    centre = np.array([0, landmarks68_mm[36:48, 1].mean() - 10, landmarks68_mm[[0, 16], 2].mean()])
    d = mean_mm.astype(np.float64) - centre
    u = np.arctan2(d[:, 0], d[:, 2]) / (2 * np.pi) + 0.5
    v = np.arcsin(d[:, 1] / np.maximum(np.linalg.norm(d, axis=1), 1e-6)) / np.pi + 0.5
    corners = np.stack([u, v], -1)[faces]
    across = np.ptp(corners[..., 0], axis=1) > 0.5
    corners[across, :, 0] += corners[across, :, 0] < 0.5
    return corners.astype(np.float32)


@dataclass(frozen=True)
class Borrowed:
    """For each texel (rows, columns) of a layout, the texel of the default head it looks like.

    Attributes:
        row, column: (rows, columns) int32 in the default head's layout.
        shape: rows and columns of that layout.
    """

    row: NDArray[np.int32]
    column: NDArray[np.int32]
    shape: tuple[int, int]

    def dress(self, textures: NDArray) -> NDArray:
        """Textures (n, *shape, 3) of the default head on this layout."""
        return textures[:, self.row, self.column]


def borrow_texels(rig: HeadRig, default: HeadRig) -> Borrowed:
    """Correspondence of a rig's texels with those of the default head.

    The mean heads are brought together by a thin-plate spline through the 68 landmarks (without
    the jaw where the sets differ), then every texel takes the nearest one.
    """
    from scipy.interpolate import RBFInterpolator
    from scipy.ndimage import binary_erosion
    from scipy.spatial import KDTree

    from lifemask.data._synthetic_rig import rasterize_texels

    same = rig.anatomy_set == default.anatomy_set
    ids = np.arange(68) if same else np.array([8, *range(17, 68)])
    source, target = rig.landmarks68_mm[ids], default.landmarks68_mm[ids]
    spline = RBFInterpolator(source, target, smoothing=1.0)
    warped = spline(rig.mean_mm).astype(np.float32)
    skin = rig.face_material == kernels.SKIN
    texel = rasterize_texels(warped[rig.faces], rig.face_uv, skin, rig.texture_shape)
    inner = binary_erosion(np.isfinite(default.texel_mm[..., 0]), iterations=3)
    known = np.argwhere(inner)  # the rim of the layout is no skin to spread
    tree = KDTree(default.texel_mm[known[:, 0], known[:, 1]])
    valid = np.isfinite(texel[..., 0])
    nearest = np.full(rig.texture_shape, -1, np.int64)
    nearest[valid] = tree.query(texel[valid])[1]
    nearest[~valid] = nearest[valid][0] if valid.any() else 0
    return Borrowed(
        known[nearest, 0].astype(np.int32), known[nearest, 1].astype(np.int32),
        default.texture_shape,
    )  # fmt: skip


def default_rig() -> HeadRig:
    """The rig of the default head model, whose layout the skins follow."""
    from lifemask.data._synthetic_rig import create_rig
    from lifemask.facemodel import load_face_model

    model: FaceModel = load_face_model("lifemask")
    return create_rig(model)
