"""What a texture needs that depends only on the face model and the texture's size."""

from __future__ import annotations

from dataclasses import dataclass
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from lifemask.facemodel.base import FaceModel
from lifemask.graphics.uv import UvAtlas, create_uv_atlas, mirror_texels
from lifemask.methods._texture_fill import MeshSmoother, create_mesh_smoother
from lifemask.methods._texture_lids import Lids, create_lids
from lifemask.methods._texture_parts import PartLayout, cavity_colors, create_part_layout
from lifemask.methods._texture_prior import AlbedoPrior, load_albedo_prior
from lifemask.methods._texture_regions import chart_roles, skin_chart_faces, vertex_masks


@dataclass(frozen=True)
class TextureLayout:
    """What depends only on the model and the texture's size; t texels of the main chart."""

    atlas: UvAtlas
    mirrored: Float[Tensor, "t 2"]
    prior: AlbedoPrior
    texel_interior: Float[Tensor, "t"]
    texel_core: Float[Tensor, "t"]
    lids: Lids
    smoother: MeshSmoother
    mirror: Tensor
    grain: Float[Tensor, "t"]
    cavity: UvAtlas | None
    cavity_rgb: Float[Tensor, "c 3"]
    parts: PartLayout
    box: tuple[slice, slice]


_LAYOUTS: WeakKeyDictionary[FaceModel, dict[tuple[int, int, int], TextureLayout]] = (
    WeakKeyDictionary()
)
_MEANS: WeakKeyDictionary[FaceModel, Tensor] = WeakKeyDictionary()


@torch.no_grad()
def mean_head(model: FaceModel) -> Float[Tensor, "v 3"]:
    """Vertices (v, 3) of the model's neutral mean head, mm."""
    if model not in _MEANS:
        zero = torch.zeros(model.identity_size), torch.zeros(len(model.expression_names))
        _MEANS[model] = model(*zero).float().cpu()
    return _MEANS[model]


def texture_layout(model: FaceModel, size: int, part_size: int, gutter_px: int) -> TextureLayout:
    """The layout of a model for a skin texture and part textures of some sizes; made once."""
    made = _LAYOUTS.setdefault(model, {})
    key = size, part_size, gutter_px
    if key not in made:
        made[key] = _create_layout(model, *key)
    return made[key]


def _create_layout(model: FaceModel, size: int, part_size: int, gutter_px: int) -> TextureLayout:
    topology, mean = model.topology, mean_head(model)
    ict68 = model.landmarks(mean, "ict68")
    main = skin_chart_faces(topology, mean, ict68[30])
    arrays = topology.uvs, topology.faces_uv, topology.faces, size
    atlas = create_uv_atlas(*arrays, face_mask=main, gutter_px=gutter_px)
    rest = (topology.face_part == topology.part_names.index("skin")) & ~main
    cavity = None
    if bool(rest.any()):
        cavity = create_uv_atlas(*arrays, face_mask=rest, gutter_px=gutter_px)
    roles = chart_roles(topology, mean, ict68)
    masks = vertex_masks(mean, ict68)
    stacked = torch.stack([masks.interior, masks.skin_core], dim=-1)
    interior, core = atlas.interpolate(stacked).unbind(-1)
    uv = torch.stack((atlas.columns + 0.5, size - atlas.rows - 0.5), dim=-1) / size
    margin = gutter_px + 2
    rows, columns = atlas.rows, atlas.columns
    box = (
        slice(max(0, int(rows.min()) - margin), int(rows.max()) + margin + 1),
        slice(max(0, int(columns.min()) - margin), int(columns.max()) + margin + 1),
    )
    return TextureLayout(
        atlas=atlas,
        mirrored=mirror_texels(atlas, topology.mirror),
        prior=load_albedo_prior(uv),
        texel_interior=interior,
        texel_core=core,
        lids=create_lids(model, mean, atlas),
        smoother=create_mesh_smoother(mean, topology.faces[main], atlas.corners, atlas.barycentric),
        mirror=topology.mirror.long(),
        grain=_grain(atlas),
        cavity=cavity,
        cavity_rgb=torch.zeros(0, 3)
        if cavity is None
        else cavity_colors(cavity, mean, roles, ict68),
        parts=create_part_layout(topology, mean, part_size),
        box=box,
    )


def _cavity_rgb(
    cavity: UvAtlas | None, mean_mm: Tensor, roles: Tensor, ict68: Tensor
) -> Float[Tensor, "c 3"]:
    if cavity is None:
        return torch.zeros(0, 3)
    return cavity_colors(cavity, mean_mm, roles, ict68)


def _grain(atlas: UvAtlas) -> Tensor:
    """Fixed noise (t,) of unit variance, one to two texels wide."""
    generator = torch.Generator().manual_seed(20240229)
    noise = torch.randn(1, 1, atlas.size, atlas.size, generator=generator)
    soft = functional.avg_pool2d(noise, 3, 1, 1) * 2.2 + noise * 0.5
    values = atlas.gather(soft[0])[:, 0]
    return values / values.std()
