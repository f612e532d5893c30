"""Surface to texture and back: texel atlas, unwrapping a photo with visibility, mirror, holes.

Texel (row i, column j) of an n x n texture lies at uv ((j + 0.5) / n, 1 - (i + 0.5) / n).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from lifemask.graphics.camera import camera_for_crop, project, screen_depth, to_camera_frame
from lifemask.graphics.mesh import vertex_normals
from lifemask.graphics.rasterize import Backend, barycentric_at_pixels, rasterize
from lifemask.types import Camera

MIN_NORMAL_Z = 0.15
"""A texel counts as seen only when its normal leans towards the camera."""
DEPTH_TOLERANCE_MM = 1.5
_DEPTH_MAP_SIDE = 512


@dataclass(frozen=True)
class UvAtlas:
    """The texels that some faces cover, as a list, with the gutter around them.

    The gutter are texels outside every face that take a copy of their nearest covered texel, so
    that bilinear sampling at a chart's border never meets an empty texel.

    Attributes:
        size: n, side of the square texture.
        rows: (t,) row of each covered texel.
        columns: (t,) column.
        face_ids: (t,) id into the mesh's faces.
        barycentric: (t, 3), they sum to 1.
        gutter: (g, 2) row and column of the gutter's texels.
        gutter_source: (g,) index into the t covered texels.
        faces: (f, 3) vertex ids of the mesh.
        faces_uv: (f, 3) uv ids of the mesh.
        uvs: (u, 2) of the mesh.
    """

    size: int
    rows: Int[Tensor, "t"]
    columns: Int[Tensor, "t"]
    face_ids: Int[Tensor, "t"]
    barycentric: Float[Tensor, "t 3"]
    gutter: Int[Tensor, "g 2"]
    gutter_source: Int[Tensor, "g"]
    faces: Int[Tensor, "f 3"]
    faces_uv: Int[Tensor, "f 3"]
    uvs: Float[Tensor, "u 2"]

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def flat_ids(self) -> Int[Tensor, "t"]:
        """Position of the covered texels in a flattened texture."""
        return self.rows * self.size + self.columns

    @cached_property
    def corners(self) -> Int[Tensor, "t 3"]:
        """Vertex ids of each texel's face."""
        return self.faces.long()[self.face_ids.long()]

    def interpolate(self, attributes: Float[Tensor, "v c"]) -> Float[Tensor, "t c"]:
        """Vertex attributes at the covered texels; differentiable."""
        corners, weights = self.corners, self.barycentric.to(attributes)
        value = attributes.index_select(0, corners[:, 0]) * weights[:, 0:1]
        for k in (1, 2):
            value = value + attributes.index_select(0, corners[:, k]) * weights[:, k : k + 1]
        return value

    def scatter(
        self, values: Float[Tensor, "t c"], *, gutter: bool = True
    ) -> Float[Tensor, "c n n"]:
        """Values of the covered texels as a texture, 0 where nothing is covered."""
        texture = values.new_zeros(self.size * self.size, values.shape[1])
        texture[self.flat_ids] = values
        if gutter and len(self.gutter):
            place = self.gutter[:, 0] * self.size + self.gutter[:, 1]
            texture[place] = values[self.gutter_source]
        return texture.view(self.size, self.size, -1).permute(2, 0, 1).contiguous()

    def gather(self, texture: Float[Tensor, "c n n"]) -> Float[Tensor, "t c"]:
        """A texture's values at the covered texels."""
        return texture.reshape(texture.shape[0], -1)[:, self.flat_ids].T.contiguous()


def rasterize_uv(
    uvs: Float[Tensor, "u 2"],
    faces_uv: Int[Tensor, "f 3"],
    size: int,
    *,
    backend: Backend = "auto",
) -> tuple[Int[Tensor, "n n"], Float[Tensor, "n n 3"]]:
    """Which face covers each texel's centre, and where in it.

    Args:
        uvs: (u, 2), v up.
        faces_uv: (f, 3) ids into `uvs`; mirrored charts (clockwise) are drawn too. Where faces
            overlap the lower id wins.
        size: n, side of the texture.
        backend: see `rasterize`.

    Returns:
        (face_ids (n, n) int32, -1 = none; barycentric (n, n, 3), 0 where there is none).
    """
    points = torch.stack(
        (uvs[:, 0] * size - 0.5, (1 - uvs[:, 1]) * size - 0.5, torch.zeros_like(uvs[:, 0])), dim=-1
    ).unsqueeze(0)
    fragments = rasterize(points, faces_uv, size, size, backend=backend)
    bary = barycentric_at_pixels(points, faces_uv, fragments.face_ids)
    return fragments.face_ids[0], bary[0]


def create_uv_atlas(
    uvs: Float[Tensor, "u 2"],
    faces_uv: Int[Tensor, "f 3"],
    faces: Int[Tensor, "f 3"],
    size: int,
    *,
    face_mask: Bool[Tensor, "f"] | None = None,
    gutter_px: int = 4,
) -> UvAtlas:
    """The atlas of a mesh, or of those faces (a part with its own texture) in `face_mask`.

    Args:
        uvs: (u, 2), v up.
        faces_uv: (f, 3) ids into `uvs`.
        faces: (f, 3) vertex ids.
        size: n, side of the texture.
        face_mask: (f,) True for the faces that have this texture; None for all.
        gutter_px: width of the gutter in texels.

    Raises:
        ValueError: no face covers a texel.
    """
    chosen = torch.arange(len(faces)) if face_mask is None else face_mask.nonzero().squeeze(-1)
    ids, bary = rasterize_uv(uvs, faces_uv[chosen], size)
    rows, columns = (ids >= 0).nonzero(as_tuple=True)
    if not len(rows):
        raise ValueError("no face covers a texel: the uvs are missing or the texture is too small")
    gutter, source = _gutter(ids.numpy() >= 0, gutter_px)
    return UvAtlas(
        size=size,
        rows=rows,
        columns=columns,
        face_ids=chosen[ids[rows, columns].long()],
        barycentric=bary[rows, columns],
        gutter=torch.from_numpy(gutter),
        gutter_source=torch.from_numpy(source),
        faces=faces,
        faces_uv=faces_uv,
        uvs=uvs,
    )


def _gutter(covered: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Uncovered texels within `width` of a covered one, and the list index of the nearest one."""
    from scipy.ndimage import distance_transform_edt

    distance, nearest = distance_transform_edt(~covered, return_indices=True)  # type: ignore[misc]
    index = np.cumsum(covered.reshape(-1)).reshape(covered.shape) - 1
    rows, columns = np.nonzero(~covered & (distance <= width))
    row, column = nearest[0][rows, columns], nearest[1][rows, columns]
    return np.stack([rows, columns], axis=1).astype(np.int64), index[row, column].astype(np.int64)


def mirror_texels(atlas: UvAtlas, mirror: Int[Tensor, "v"]) -> Float[Tensor, "t 2"]:
    """Where in uv the mirror image of each covered texel lies.

    A texel in face (a, b, c) goes to the same barycentrics in face (mirror a, mirror b, mirror c).
    Where quads were cut along the other diagonal on the other side, the uv that other faces give
    to the mirrored corner is used. The layout itself need not be symmetric.

    Args:
        atlas: texels of a mesh.
        mirror: (v,) vertex on the other side, an involution.
    """
    return (atlas.barycentric.unsqueeze(-1) * _mirrored_corner_uvs(atlas, mirror)).sum(1)


def _mirrored_corner_uvs(atlas: UvAtlas, mirror: Tensor) -> Float[Tensor, "t 3 2"]:
    faces, faces_uv = atlas.faces.numpy().astype(np.int64), atlas.faces_uv.numpy().astype(np.int64)
    flipped = mirror.numpy().astype(np.int64)[faces]
    base = int(faces.max()) + 1

    def key(triangles: np.ndarray) -> np.ndarray:
        a, b, c = np.sort(triangles, axis=1).T
        return (a * base + b) * base + c

    own = key(faces)
    order = np.argsort(own)
    place = order[np.minimum(np.searchsorted(own, key(flipped), sorter=order), len(own) - 1)]
    matched = own[place] == key(flipped)
    # corner of the mirrored face that holds the mirrored vertex
    corner = (faces[place][:, None, :] == flipped[:, :, None]).argmax(2)
    target = np.take_along_axis(faces_uv[place], corner, axis=1)
    uv_to_mirror = np.full(int(faces_uv.max()) + 1, -1, np.int64)
    first_uv = np.full(base, -1, np.int64)
    first_uv[faces.reshape(-1)] = faces_uv.reshape(-1)
    uv_to_mirror[faces_uv.reshape(-1)] = first_uv[flipped.reshape(-1)]
    uv_to_mirror[faces_uv[matched].reshape(-1)] = target[matched].reshape(-1)
    target = np.where(matched[:, None], target, uv_to_mirror[faces_uv])
    return atlas.uvs[torch.from_numpy(target)[atlas.face_ids]]


def sample_uv(texture: Float[Tensor, "c n m"], uv: Float[Tensor, "t 2"]) -> Float[Tensor, "t c"]:
    """Bilinear samples of a texture; beyond the border: the border. Differentiable."""
    grid = torch.stack((2 * uv[:, 0] - 1, 1 - 2 * uv[:, 1]), dim=-1)[None, None]
    values = functional.grid_sample(
        texture[None], grid.to(texture), padding_mode="border", align_corners=False
    )
    return values[0, :, 0].T


@dataclass(frozen=True)
class UnwrapResult:
    """What a photo says about the covered texels of an atlas, t rows each.

    Attributes:
        colors: (t, 3) in the photo's colour space, meaningless where not `visible`.
        visible: (t,) the camera sees the texel and it lies inside the photo.
        confidence: (t,) in [0, 1], 0 where not visible; falls with slant and near the photo's edge.
        normals: (t, 3) unit, camera frame.
        points: (t, 3) (u, v) in photo px and camera-frame z in mm.
        px_per_texel: median spacing of visible texels in the photo, px.
    """

    colors: Float[Tensor, "t 3"]
    visible: Bool[Tensor, "t"]
    confidence: Float[Tensor, "t"]
    normals: Float[Tensor, "t 3"]
    points: Float[Tensor, "t 3"]
    px_per_texel: float


@torch.no_grad()
def unwrap(
    image: Float[Tensor, "3 h w"],
    vertices: Float[Tensor, "v 3"],
    camera: Camera,
    atlas: UvAtlas,
    *,
    min_normal_z: float = MIN_NORMAL_Z,
    depth_tolerance_mm: float = DEPTH_TOLERANCE_MM,
) -> UnwrapResult:
    """Colours of the atlas's texels in a photo, and which of them the photo shows.

    A texel is visible when its normal leans towards the camera by `min_normal_z`, nothing lies in
    front of it by more than `depth_tolerance_mm` (plus what one pixel of the depth map slopes),
    and its colour needs no pixel outside the photo.

    Args:
        image: (3, h, w), any colour space.
        vertices: (v, 3) mm of the whole mesh: parts with other textures still hide.
        camera: to pixels of the image.
        atlas: texels of the part to unwrap.
        min_normal_z: smallest z of the camera-frame normal.
        depth_tolerance_mm: see above.
    """
    view = _TexelView.create(vertices, camera, atlas)
    depth_mm, mm_per_px = _depth_at(vertices, camera, atlas.faces, view.pixels)
    facing = view.normals[:, 2]
    slope = (1 - facing**2).clamp(min=0).sqrt() / facing.clamp(min=min_normal_z)
    tolerance = depth_tolerance_mm + mm_per_px * slope
    height, width = image.shape[1:]
    u, v = view.pixels.unbind(-1)
    border = torch.minimum(torch.minimum(u, width - 1 - u), torch.minimum(v, height - 1 - v))
    visible = (facing > min_normal_z) & (view.z_mm >= depth_mm - tolerance) & (border >= 0)
    step = _texel_step(atlas, view.pixels, visible)
    colors = _sample_photo(image, view.pixels, visible, step)
    slant = ((facing - min_normal_z) / (0.6 - min_normal_z)).clamp(0, 1)
    inside = (border / (0.01 * max(height, width))).clamp(0, 1)
    confidence = (slant * slant * (3 - 2 * slant) * inside) * visible
    points = torch.cat((view.pixels, view.z_mm.unsqueeze(-1)), dim=-1)
    return UnwrapResult(colors, visible, confidence, view.normals, points, step)


@dataclass(frozen=True)
class _TexelView:
    pixels: Tensor
    z_mm: Tensor
    normals: Tensor

    @staticmethod
    def create(vertices: Tensor, camera: Camera, atlas: UvAtlas) -> _TexelView:
        """Interpolates positions and normals, then projects: exact for both cameras."""
        normals = vertex_normals(vertices, atlas.faces)
        values = atlas.interpolate(torch.cat((vertices, normals), dim=-1))
        points, normals = values[:, :3], functional.normalize(values[:, 3:], dim=-1)
        pixels = project(points, camera)[:, :2]
        z_mm = to_camera_frame(points, camera)[:, 2]
        return _TexelView(pixels, z_mm, normals @ camera.rotation.mT)


def _depth_at(
    vertices: Tensor, camera: Camera, faces: Tensor, pixels: Tensor
) -> tuple[Tensor, float]:
    """Camera z (mm) of the nearest surface at each position, and mm per pixel of the depth map."""
    screen = project(vertices, camera)[:, :2]
    low, high = screen.amin(0), screen.amax(0)
    side = float((high - low).max()) * 1.02 + 2
    center = (low + high) / 2
    crop = camera_for_crop(camera, center, side, _DEPTH_MAP_SIDE)
    points = torch.cat(
        (project(vertices, crop)[:, :2], screen_depth(vertices, crop).unsqueeze(-1)), dim=-1
    )
    fragments = rasterize(points.unsqueeze(0), faces, _DEPTH_MAP_SIDE, _DEPTH_MAP_SIDE)
    scale = _DEPTH_MAP_SIDE / side
    at = ((pixels - center + side / 2 + 0.5) * scale - 0.5).round().long()
    at = at.clamp(0, _DEPTH_MAP_SIDE - 1)
    depth = fragments.depth[0][at[:, 1], at[:, 0]]
    z = to_camera_frame(vertices, camera)[:, 2]
    if camera.model == "orthographic":
        return depth / crop.scale, 1.0 / float(crop.scale)
    z_mm = torch.where(depth > 0, -1.0 / depth, torch.full_like(depth, -torch.inf))
    return z_mm, float(-z.mean() / crop.scale)


def _texel_step(atlas: UvAtlas, pixels: Tensor, visible: Tensor) -> float:
    """Median distance in px between horizontally neighbouring visible texels."""
    neighbor = (atlas.rows[1:] == atlas.rows[:-1]) & (atlas.columns[1:] == atlas.columns[:-1] + 1)
    both = neighbor & visible[1:] & visible[:-1]
    if not bool(both.any()):
        return 1.0
    return float(torch.linalg.vector_norm(pixels[1:] - pixels[:-1], dim=-1)[both].median())


def _sample_photo(image: Tensor, pixels: Tensor, visible: Tensor, step: float) -> Tensor:
    """Samples of the visible part of the photo, shrunk first when texels are coarser than pixels.

    Bilinear, or bicubic where the photo is the coarser one.
    """
    if not bool(visible.any()):
        return image.new_zeros(len(pixels), 3)
    height, width = image.shape[1:]
    factor = max(1, int(step))
    seen = pixels[visible]
    low = ((seen.amin(0) / factor).floor().long() - 2).clamp(min=0) * factor
    high = seen.amax(0).ceil().long() + 2 * factor + 1
    part = image[:, low[1] : min(int(high[1]), height), low[0] : min(int(high[0]), width)]
    if factor > 1:
        part = functional.avg_pool2d(part[None], factor, ceil_mode=True, count_include_pad=False)[0]
    at = (pixels - low + 0.5) / factor
    size = pixels.new_tensor([part.shape[2], part.shape[1]])
    mode = "bicubic" if step < 0.7 else "bilinear"
    grid = (2 * at / size - 1)[None, None]
    values = functional.grid_sample(
        part[None], grid, mode=mode, padding_mode="border", align_corners=False
    )
    return values[0, :, 0].T.clamp(float(part.min()), float(part.max()))


def fill_holes(
    texture: Float[Tensor, "c h w"], weight: Float[Tensor, "h w"]
) -> Float[Tensor, "c h w"]:
    """The texture where the weight is 1, and a smooth continuation of it elsewhere.

    Push-pull (Gortler et al. 1996, The Lumigraph, section 3.4): weighted means on a pyramid, then
    from coarse to fine each level fills what the finer one lacks. Values stay within the range of
    the known ones. All zeros if nothing is known.

    Args:
        texture: (c, h, w).
        weight: (h, w) in [0, 1], trust in each texel.
    """
    weight = weight.to(texture)[None, None]
    return _pull(texture[None] * weight, weight)[0]


def _pull(premultiplied: Tensor, weight: Tensor) -> Tensor:
    height, width = weight.shape[-2:]
    own = premultiplied / weight.clamp(min=1e-8)
    if min(height, width) == 0 or max(height, width) == 1:
        return own
    pad = (0, width % 2, 0, height % 2)
    coarse = functional.avg_pool2d(functional.pad(premultiplied, pad), 2, ceil_mode=True)
    total = functional.avg_pool2d(functional.pad(weight, pad), 2, ceil_mode=True)
    gain = (total * 4).clamp(max=1) / total.clamp(min=1e-8)
    below = _pull(coarse * gain, total * gain)
    upper = functional.interpolate(
        below, size=(height + pad[3], width + pad[1]), mode="bilinear", align_corners=False
    )[..., :height, :width]
    return own * weight + upper * (1 - weight)
