"""The square map that the learned texture works on, and a photo's view of it.

The map is the face's chart (`facemodel.chart`): one piece without seams from the forehead to the
throat, symmetric for a symmetric model, so that the face's mirror image is the map's.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from lifemask.facemodel.base import FaceModel
from lifemask.facemodel.chart import create_chart
from lifemask.faces.parsing import Regions
from lifemask.graphics.camera import project, screen_depth
from lifemask.graphics.rasterize import barycentric_at_pixels, interpolate, rasterize
from lifemask.graphics.uv import UvAtlas, create_uv_atlas, mirror_texels, unwrap
from lifemask.methods._texture_prior import load_albedo_prior
from lifemask.methods._texture_regions import clear_share
from lifemask.types import Camera

OUTSIDE = 2.0
"""Map coordinate of pixels that show nothing of the map."""
_AROUND = 0.012
"""Share of the parsed square by which hair, hands and cloth count as wider than the parser says."""


@dataclass(frozen=True)
class TextureChart:
    """The map of a face model, n texels a side.

    Attributes:
        atlas: the t texels that the face covers; their uvs are map coordinates in [0, 1], v up.
        inside: (n, n) texels that the face covers.
        nearest: (n n,) the covered texel, as an index into the t, nearest to each texel.
        model_uv: (t, 2) the texels in the face model's own texture coordinates.
        vertex_uv: (v, 2) map coordinates of the vertices in [0, 1], v up; NaN outside the map.
        in_map: (f,) faces of the model that lie in the map.
        scalp: (t,) where the head wears hair, in [0, 1].
        mirrored: (t, 2) map coordinates of each texel's mirror image.
    """

    atlas: UvAtlas
    inside: Bool[Tensor, "n n"]
    nearest: Tensor
    model_uv: Float[Tensor, "t 2"]
    vertex_uv: Float[Tensor, "v 2"]
    in_map: Bool[Tensor, "f"]
    scalp: Float[Tensor, "t"]
    mirrored: Float[Tensor, "t 2"]

    @property
    def size(self) -> int:
        """Texels along a side."""
        return self.atlas.size

    def spread(self, values: Float[Tensor, "t c"]) -> Float[Tensor, "c n n"]:
        """Values of the covered texels as a map whose other texels repeat the nearest one."""
        full = values[self.nearest.to(values.device)]
        return full.view(self.size, self.size, -1).permute(2, 0, 1).contiguous()

    def gather(self, texture: Float[Tensor, "c n n"]) -> Float[Tensor, "t c"]:
        """A map's values at the covered texels."""
        return self.atlas.gather(texture)


@dataclass(frozen=True)
class ChartView:
    """What a photo shows of the map.

    Attributes:
        texture: (3, n, n) colours of the photo, its own coding; 0 where not visible.
        visible: (n, n) in [0, 1], how far the photo shows the texel's skin.
        normals: (3, n, n) unit, camera frame.
        points: (2, n, n) photo px.
    """

    texture: Float[Tensor, "3 n n"]
    visible: Float[Tensor, "n n"]
    normals: Float[Tensor, "3 n n"]
    points: Float[Tensor, "2 n n"]


@lru_cache(maxsize=8)
def create_texture_chart(model: FaceModel, size: int) -> TextureChart:
    """The map of a face model; kept, since the model does not change.

    Args:
        model: with texture coordinates and the region "face".
        size: n.

    Raises:
        ValueError: the model has no texture coordinates.
    """
    topology = model.topology
    if topology.uvs is None or not len(topology.uvs):
        raise ValueError(f"{model.name} has no texture coordinates")
    placed = create_chart(model, 64)
    vertex_uv = placed.vertex_uv / 2
    vertex_uv = torch.stack((vertex_uv[:, 0] + 0.5, 0.5 - vertex_uv[:, 1]), 1)
    in_map = _same_faces(topology.faces, placed.faces)
    uvs = torch.nan_to_num(vertex_uv)
    atlas = create_uv_atlas(
        uvs, topology.faces, topology.faces, size, face_mask=in_map, gutter_px=size // 16
    )
    inside = torch.zeros(size * size, dtype=torch.bool)
    inside[atlas.flat_ids] = True
    inside = inside.view(size, size)
    corners = topology.uvs[topology.faces_uv[atlas.face_ids.long()].long()]
    model_uv = (corners * atlas.barycentric[..., None]).sum(1)
    ours = model.name == "lifemask"  # the committed prior fits no other model
    scalp = load_albedo_prior(model_uv).scalp if ours else torch.zeros(len(atlas))
    return TextureChart(
        atlas, inside, _nearest(inside), model_uv, vertex_uv, in_map, scalp,
        mirror_texels(atlas, topology.mirror),
    )  # fmt: skip


@torch.no_grad()
def view_chart(
    image: Float[Tensor, "3 h w"],
    vertices: Float[Tensor, "v 3"],
    camera: Camera,
    chart: TextureChart,
    regions: Regions | None = None,
) -> ChartView:
    """What a photo shows of the map.

    Args:
        image: (3, h, w), any colour space.
        vertices: (v, 3) mm of the whole head.
        camera: to px of the image.
        chart: of the model.
        regions: region maps in the image's px; what they say hides the skin is not visible.
    """
    seen = unwrap(image, vertices, camera, chart.atlas)
    visible = seen.visible.float()
    if regions is not None:
        visible = visible * clear_share(seen.points[:, :2], regions, chart.scalp, _AROUND)
    colors = torch.where(seen.visible[:, None], seen.colors, 0.0)
    covered = chart.atlas.scatter(torch.cat((colors, visible[:, None]), 1), gutter=False)
    placed = chart.spread(torch.cat((seen.normals, seen.points[:, :2]), 1))
    return ChartView(covered[:3], covered[3], placed[:3], placed[3:])


@torch.no_grad()
def pixel_places(
    vertices: Float[Tensor, "v 3"], camera: Camera, chart: TextureChart, size: int
) -> tuple[Float[Tensor, "s s 2"], Bool[Tensor, "s s"]]:
    """Where in the map each pixel of a square image looks.

    Args:
        vertices: (v, 3) mm of the whole head.
        camera: to px of the image.
        chart: of the model.
        size: s.

    Returns:
        Map coordinates as `functional.grid_sample` takes them (x right, y down, [-1, 1]),
        `OUTSIDE` where the pixel shows nothing of the map; and the pixels that do show it.
    """
    faces = chart.atlas.faces
    screen = project(vertices, camera)[None]
    depth = screen_depth(vertices, camera)[None, :, None]
    points = torch.cat((screen[..., :2], depth), -1)
    ids = rasterize(points, faces, size, size).face_ids
    inverse = None if camera.model == "orthographic" else depth[..., 0]
    bary = barycentric_at_pixels(points, faces, ids, inverse)
    uv = interpolate(torch.nan_to_num(chart.vertex_uv)[None], faces, ids, bary)[0]
    shown = (ids[0] >= 0) & chart.in_map[ids[0].clamp(min=0).long()]
    places = torch.stack((2 * uv[..., 0] - 1, 1 - 2 * uv[..., 1]), -1)
    return torch.where(shown[..., None], places, OUTSIDE), shown


def mirrored(maps: Float[Tensor, "*b n n"]) -> Float[Tensor, "*b n n"]:
    """The map of the mirrored face."""
    return maps.flip(-1)


def sample_map(
    maps: Float[Tensor, "b c n n"], places: Float[Tensor, "b h w 2"]
) -> Float[Tensor, "b c h w"]:
    """Bilinear samples of maps at map coordinates; differentiable in the maps."""
    return functional.grid_sample(maps, places, padding_mode="border", align_corners=False)


def _same_faces(faces: Tensor, chosen: Tensor) -> Bool[Tensor, "f"]:
    """(f,) faces that are among the chosen, corner by corner."""
    base = int(faces.max()) + 1

    def key(rows: Tensor) -> Tensor:
        a, b, c = rows.long().unbind(1)
        return (a * base + b) * base + c

    return torch.isin(key(faces), key(chosen))


def _nearest(inside: Bool[Tensor, "n n"]) -> Tensor:
    """Index, among the covered texels row by row, of the one nearest to each texel."""
    from scipy.ndimage import distance_transform_edt

    rank = inside.flatten().long().cumsum(0) - 1
    _, place = distance_transform_edt(~inside.numpy(), return_indices=True)  # type: ignore[misc]
    rows, columns = torch.from_numpy(place).long()
    return rank[(rows * inside.shape[1] + columns).flatten()]
