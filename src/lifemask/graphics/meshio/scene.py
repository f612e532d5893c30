"""`MeshScene`: one vertex set, several primitives with their own faces and material."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jaxtyping import Float, Float32, Int32, UInt8, UInt16


class MeshFormatError(ValueError):
    """The file is not a mesh this package can read; the message is one line for the user."""


@dataclass(frozen=True)
class Material:
    """A physically based material (glTF 2.0 metallic-roughness).

    Attributes:
        name: unique within a scene.
        texture: (h, w, 3) sRGB base colour, row 0 is v = 1; None for a plain colour.
        color: linear RGB that multiplies the texture.
        roughness: 0 mirror, 1 chalk; multiplies `roughness_texture`.
        metallic: 0 for everything alive.
        double_sided: draw the backs of faces too.
        normal_texture: (h, w, 3) tangent-space normals as `encode_normals` codes them: x to the
            texture's right, y up in it, z out of the surface; None for a smooth surface.
        roughness_texture: (h, w), 255 is 1; None for the same roughness everywhere.
    """

    name: str = "material"
    texture: UInt8[np.ndarray, "h w 3"] | None = None
    color: tuple[float, float, float] = (1.0, 1.0, 1.0)
    roughness: float = 0.6
    metallic: float = 0.0
    double_sided: bool = False
    normal_texture: UInt8[np.ndarray, "h w 3"] | None = None
    roughness_texture: UInt8[np.ndarray, "h w"] | None = None


@dataclass(frozen=True)
class MorphTarget:
    """What a blendshape adds at weight 1.

    Attributes:
        positions_mm: (v, 3) displacement.
        normals: (v, 3) change of the unit normal; None if unknown.
    """

    positions_mm: Float32[np.ndarray, "v 3"]
    normals: Float32[np.ndarray, "v 3"] | None = None


@dataclass(frozen=True)
class MeshPrimitive:
    """Faces that share a material.

    Attributes:
        name: e.g. "skin", unique within a scene.
        faces: (f, 3) vertex ids, counter-clockwise from outside.
        faces_uv: (f, 3) ids into the scene's `uvs`; None without a texture.
        material: None leaves the look to the reader.
        polygons: (p, 4) vertex ids of the quads, last id -1 for a triangle, for formats that keep
            quads (OBJ); None if there are only triangles.
    """

    name: str
    faces: Int32[np.ndarray, "f 3"]
    faces_uv: Int32[np.ndarray, "f 3"] | None = None
    material: Material | None = None
    polygons: Int32[np.ndarray, "p 4"] | None = None


@dataclass(frozen=True)
class Animation:
    """Keyframes of a mesh and of the node that carries it; tracks that are None stay at rest.

    Attributes:
        times_s: (t,) seconds, ascending, not negative.
        weights: (t, m) of the morph targets, in their order.
        rotation_xyzw: (t, 4) unit quaternions, each on the side of the one before.
        translation_mm: (t, 3).
        scale: (t, 3).
        name: of the clip.
    """

    times_s: Float[np.ndarray, " t"]
    weights: Float[np.ndarray, "t m"] | None = None
    rotation_xyzw: Float[np.ndarray, "t 4"] | None = None
    translation_mm: Float[np.ndarray, "t 3"] | None = None
    scale: Float[np.ndarray, "t 3"] | None = None
    name: str = "clip"

    def check(self, targets: int) -> None:
        """Raise ValueError, naming the field, where shapes or values are wrong."""
        times, count = self.times_s, len(self.times_s)
        if times.ndim != 1 or not count or times[0] < 0 or (np.diff(times) <= 0).any():
            raise ValueError("times_s of an animation must be ascending and not negative")
        widths = {"weights": targets, "rotation_xyzw": 4, "translation_mm": 3, "scale": 3}
        for name, width in widths.items():
            rows = getattr(self, name)
            if rows is not None:
                _check_rows(f"{name} of an animation", rows, count, width)


@dataclass(frozen=True)
class ViewCamera:
    """A perspective camera on the z axis that looks along -z at the origin.

    Attributes:
        distance_mm: from the origin.
        yfov_rad: angle between the upper and the lower edge of the picture.
        aspect: width over height of the picture.
        name: of its node.
    """

    distance_mm: float
    yfov_rad: float
    aspect: float
    name: str = "camera"


@dataclass(frozen=True)
class MeshScene:
    """A mesh in millimetres in the model frame, ready to be written, or as it was read.

    Vertices are shared by all primitives and keep the model's order; a vertex on a UV seam has one
    position and several `uvs`. Formats that cannot say so (GLB) split it when they are written.

    Attributes:
        positions_mm: (v, 3), x right, y up, z out of the face.
        primitives: at least one.
        normals: (v, 3) unit; None to leave them to the reader.
        uvs: (t, 2) in [0, 1], v up; None without textures.
        colors: (v, 3) sRGB; None without.
        morph_targets: blendshapes by name, in order.
        morph_weights: initial weight by name; 0 where absent.
        name: of the object.
        animation: keyframes of a clip (GLB only); None for a mesh that stands still.
        camera: that saw the clip (GLB only).
    """

    positions_mm: Float32[np.ndarray, "v 3"]
    primitives: tuple[MeshPrimitive, ...]
    normals: Float32[np.ndarray, "v 3"] | None = None
    uvs: Float32[np.ndarray, "t 2"] | None = None
    colors: UInt8[np.ndarray, "v 3"] | None = None
    morph_targets: Mapping[str, MorphTarget] = field(default_factory=dict)
    morph_weights: Mapping[str, float] = field(default_factory=dict)
    name: str = "head"
    animation: Animation | None = None
    camera: ViewCamera | None = None

    @property
    def faces(self) -> Int32[np.ndarray, "f 3"]:
        """(f, 3) the faces of all primitives, in order."""
        return np.concatenate([p.faces for p in self.primitives])

    def check(self) -> None:
        """Raise ValueError, naming the field, where shapes, ids or values are wrong."""
        count = len(self.positions_mm)
        _check_rows("positions_mm", self.positions_mm, count, 3)
        for name, rows in (("normals", self.normals), ("colors", self.colors)):
            if rows is not None:
                _check_rows(name, rows, count, 3)
        for name, target in self.morph_targets.items():
            _check_rows(f"morph target {name}", target.positions_mm, count, 3)
            if target.normals is not None:
                _check_rows(f"normals of morph target {name}", target.normals, count, 3)
        if self.animation is not None:
            self.animation.check(len(self.morph_targets))
        if not self.primitives:
            raise ValueError("a scene needs at least one primitive")
        for primitive in self.primitives:
            _check_primitive(primitive, count, 0 if self.uvs is None else len(self.uvs))


def _check_rows(name: str, rows: np.ndarray, count: int, width: int) -> None:
    if rows.shape != (count, width):
        raise ValueError(f"{name} is {rows.shape}, not ({count}, {width})")
    if not np.isfinite(rows).all():
        raise ValueError(f"{name} holds infinite or undefined numbers")


def _check_primitive(primitive: MeshPrimitive, vertices: int, uvs: int) -> None:
    def check_ids(what: str, ids: np.ndarray, width: int, limit: int, low: int = 0) -> None:
        if ids.ndim != 2 or ids.shape[1] != width or len(ids) == 0:
            raise ValueError(f"{what} of {primitive.name!r} is {ids.shape}, not (n > 0, {width})")
        if ids.min() < low or ids.max() >= limit:
            raise ValueError(f"{what} of {primitive.name!r} holds ids outside [{low}, {limit})")

    check_ids("faces", primitive.faces, 3, vertices)
    if primitive.faces_uv is not None:
        check_ids("faces_uv", primitive.faces_uv, 3, uvs)
        if len(primitive.faces_uv) != len(primitive.faces):
            raise ValueError(f"faces and faces_uv of {primitive.name!r} differ in length")
    if primitive.polygons is not None:
        check_ids("polygons", primitive.polygons, 4, vertices, low=-1)


def split_seams(
    faces: Int32[np.ndarray, "f 3"], faces_uv: Int32[np.ndarray, "f 3"] | None
) -> tuple[Int32[np.ndarray, " n"], Int32[np.ndarray, " n"], Int32[np.ndarray, "f 3"]]:
    """One output vertex per pair (vertex, uv) in use, so that every corner has one index.

    Args:
        faces: (f, 3) vertex ids.
        faces_uv: (f, 3) uv ids; None pairs every vertex with uv 0.

    Returns:
        (vertex_ids (n,), uv_ids (n,), indices (f, 3)): `vertex_ids[indices]` is `faces` and
        `uv_ids[indices]` is `faces_uv`.
    """
    uv = np.zeros_like(faces) if faces_uv is None else faces_uv
    key = faces.astype(np.int64) * (int(uv.max(initial=0)) + 1) + uv
    unique, inverse = np.unique(key.reshape(-1), return_inverse=True)
    base = int(uv.max(initial=0)) + 1
    vertex_ids, uv_ids = (unique // base).astype(np.int32), (unique % base).astype(np.int32)
    return vertex_ids, uv_ids, inverse.reshape(faces.shape).astype(np.int32)


def polygon_uvs(
    polygons: Int32[np.ndarray, "p 4"],
    faces: Int32[np.ndarray, "f 3"],
    faces_uv: Int32[np.ndarray, "f 3"],
) -> Int32[np.ndarray, "p 4"]:
    """Uv id of every polygon corner, -1 where the polygon has none.

    A polygon's directed edge belongs to exactly one of its triangles, which knows the uv.

    Raises:
        ValueError: a polygon has an edge that no triangle has.
    """
    base = int(faces.max()) + 1
    edge_key = (faces.astype(np.int64) * base + np.roll(faces, -1, axis=1)).reshape(-1)
    order = np.argsort(edge_key)
    used = polygons >= 0
    size = used.sum(axis=1)
    column = (np.arange(4) + 1) % size[:, None]
    following = np.take_along_axis(polygons, np.minimum(column, 3), axis=1)
    wanted = (polygons.astype(np.int64) * base + following)[used]
    place = np.minimum(np.searchsorted(edge_key, wanted, sorter=order), len(order) - 1)
    if not np.array_equal(edge_key[order[place]], wanted):
        raise ValueError("a polygon has an edge that no triangle has")
    result = np.full(polygons.shape, -1, dtype=np.int32)
    result[used] = faces_uv.reshape(-1)[order[place]]
    return result


def polygons_of_part(
    polygons: Int32[np.ndarray, "p 4"], faces: Int32[np.ndarray, "f 3"]
) -> Int32[np.ndarray, "q 4"]:
    """The polygons whose first directed edge is one of the faces' edges."""
    base = int(max(faces.max(), polygons.max())) + 1
    edges = faces.astype(np.int64) * base + np.roll(faces, -1, axis=1)
    first = polygons[:, 0].astype(np.int64) * base + polygons[:, 1]
    return polygons[np.isin(first, edges.reshape(-1))]


def write_atomic(path: str | Path, data: bytes) -> None:
    """Write a file so that a crash leaves the old one or none, never half of it."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(data)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def encode_normals(normals: Float[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "h w 3"]:
    """Unit vectors as the bytes of a normal texture, `(n + 1) / 2`; flat is (128, 128, 255)."""
    return np.round((normals.astype(np.float64) + 1) * 127.5).clip(0, 255).astype(np.uint8)


def decode_normals(pixels: UInt8[np.ndarray, "h w 3"]) -> Float[np.ndarray, "h w 3"]:
    """The unit vectors of a normal texture; (128, 128, 255) is exactly flat."""
    rows = (pixels.astype(np.float32) - [128, 128, 127.5]) / 127.5
    length = np.linalg.norm(rows, axis=2, keepdims=True)
    flat = np.array([0, 0, 1], np.float32)
    return np.where(length > 1e-3, rows / np.maximum(length, 1e-3), flat).astype(np.float32)


def encode_image(
    pixels: UInt8[np.ndarray, "h w *c"] | UInt16[np.ndarray, "h w"],
    image_format: str,
    quality: int = 95,
) -> bytes:
    """An RGB or grey image as the bytes of a "png" or "jpeg" file (4:4:4 chroma).

    16-bit grey is for "png" alone.
    """
    import io

    from PIL import Image

    buffer = io.BytesIO()
    if image_format == "png":
        Image.fromarray(pixels).save(buffer, "PNG", compress_level=6)
    elif image_format == "jpeg":
        Image.fromarray(pixels).save(buffer, "JPEG", quality=quality, subsampling=0)
    else:
        raise ValueError(f"image format {image_format!r} is neither 'png' nor 'jpeg'")
    return buffer.getvalue()


def decode_image(data: bytes) -> UInt8[np.ndarray, "h w 3"]:
    """RGB pixels of an encoded image, alpha dropped.

    Raises:
        MeshFormatError: the bytes are no image.
    """
    import io

    from PIL import Image, UnidentifiedImageError

    try:
        return np.array(Image.open(io.BytesIO(data)).convert("RGB"))
    except (UnidentifiedImageError, OSError) as error:
        raise MeshFormatError(f"cannot read a texture: {error}") from error
