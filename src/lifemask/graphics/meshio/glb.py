"""Write glTF 2.0 binary: metres, PBR materials, UV textures, named blendshapes as sparse data."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, UInt8

from lifemask.graphics.meshio.glb_animation import add_animation, add_camera
from lifemask.graphics.meshio.scene import (
    Material,
    MeshPrimitive,
    MeshScene,
    MorphTarget,
    encode_image,
    split_seams,
    write_atomic,
)

_BYTE_TYPES = {"u1": 5121, "u2": 5123, "u4": 5125, "f4": 5126}
_ARRAY_BUFFER, _ELEMENT_BUFFER = 34962, 34963
_MOVED_MM, _TURNED = 2e-3, 4e-3
"""A blendshape's vertex is stored when it moves by more than 2 um or its normal by 0.2 degrees."""
_SPARSE_SHARE = 0.7
"""Above this share of stored vertices a dense array is about as small and read by more viewers."""


def write_glb(scene: MeshScene, path: str | Path, *, image_format: str = "png") -> list[Path]:
    """Write a scene as one GLB: one mesh, a glTF primitive per primitive, in metres.

    Vertices on UV seams are split. Blendshapes are morph targets named in `mesh.extras.targetNames`
    and shared by all primitives; each is a sparse accessor, without data where it moves nothing.
    Vertex colours are written to primitives without a texture. Normal textures come with tangents
    (`tangents.uv_tangents`, as MikkTSpace defines them), which blendshapes leave as they are.
    An animation becomes keyframes of the weights and of the mesh's node, which itself stays at
    rest; a camera becomes a node beside it.

    Args:
        scene: millimetres in the model frame (x right, y up, z out of the face: as in glTF).
        path: the folder must exist.
        image_format: "png" (exact) or "jpeg" (a fifth of the size) for base colours; normals and
            roughness are always PNG.

    Returns:
        The file written.
    """
    scene.check()
    write_atomic(path, encode_glb(scene, image_format=image_format))
    return [Path(path)]


def encode_glb(scene: MeshScene, *, image_format: str = "png") -> bytes:
    """The bytes that `write_glb` writes."""
    import pygltflib as gl

    writer = _Writer(image_format)
    primitives = [writer.primitive(scene, p) for p in scene.primitives]
    names = list(scene.morph_targets)
    mesh = gl.Mesh(name=scene.name, primitives=primitives)
    if names:
        mesh.weights = [float(scene.morph_weights.get(name, 0.0)) for name in names]
        mesh.extras = {"targetNames": names}
    writer.gltf.meshes = [mesh]
    writer.gltf.nodes = [gl.Node(name=scene.name, mesh=0)]
    nodes = [0]
    writer.gltf.scenes = [gl.Scene(name=scene.name, nodes=nodes)]
    writer.gltf.scene = 0
    if scene.animation is not None:
        add_animation(writer, scene.animation, 0)
    if scene.camera is not None:
        nodes.append(add_camera(writer, scene.camera))
    return writer.bytes()


def _generator() -> str:
    try:
        return f"lifemask {version('lifemask')}"
    except PackageNotFoundError:
        return "lifemask"


class _Writer:
    """Collects buffers, accessors, images and materials of one file."""

    def __init__(self, image_format: str) -> None:
        import pygltflib as gl

        self.gltf = gl.GLTF2(asset=gl.Asset(version="2.0", generator=_generator()))
        self.image_format = image_format
        self.blob = bytearray()
        self.materials: dict[str, int] = {}
        self.sparse: list[tuple[Any, np.ndarray, np.ndarray]] = []

    def view(self, data: bytes, target: int | None = None) -> int:
        """A new buffer view on data, aligned to 4 bytes."""
        import pygltflib as gl

        self.blob += b"\0" * (-len(self.blob) % 4)
        view = gl.BufferView(buffer=0, byteOffset=len(self.blob), byteLength=len(data))
        view.target = target
        self.blob += data
        self.gltf.bufferViews.append(view)
        return len(self.gltf.bufferViews) - 1

    def accessor(self, rows: np.ndarray, *, bounds: bool = False, index: bool = False) -> int:
        """A dense accessor of rows (n,) or (n, 2 | 3 | 4)."""
        entry = self._accessor_entry(rows, bounds)
        entry.bufferView = self.view(rows.tobytes(), _ELEMENT_BUFFER if index else _ARRAY_BUFFER)
        self.gltf.accessors.append(entry)
        return len(self.gltf.accessors) - 1

    def delta_accessor(self, rows: np.ndarray, stored: np.ndarray, *, bounds: bool) -> int:
        """An accessor of displacements, of which only the rows in `stored` are not 0."""
        if len(stored) > _SPARSE_SHARE * len(rows):
            return self.accessor(rows, bounds=bounds)
        entry = self._accessor_entry(rows, bounds)
        if len(stored):
            self.sparse.append((entry, stored.astype(np.uint32), rows[stored]))
        self.gltf.accessors.append(entry)
        return len(self.gltf.accessors) - 1

    def _accessor_entry(self, rows: np.ndarray, bounds: bool) -> Any:
        import pygltflib as gl

        entry = gl.Accessor(
            componentType=_BYTE_TYPES[rows.dtype.str[1:]],
            count=len(rows),
            type="SCALAR" if rows.ndim == 1 else f"VEC{rows.shape[1]}",
        )
        entry.byteOffset = None
        if bounds:
            entry.min = np.atleast_1d(rows.min(axis=0)).tolist()
            entry.max = np.atleast_1d(rows.max(axis=0)).tolist()
        return entry

    def primitive(self, scene: MeshScene, primitive: MeshPrimitive) -> Any:
        """One glTF primitive: attributes, indices, material, morph targets."""
        import pygltflib as gl

        vertex_ids, uv_ids, indices = split_seams(primitive.faces, primitive.faces_uv)
        positions = _metres(scene.positions_mm[vertex_ids])
        attributes = gl.Attributes(POSITION=self.accessor(positions, bounds=True))
        if scene.normals is not None:
            attributes.NORMAL = self.accessor(_unit(scene.normals[vertex_ids]))
        if primitive.faces_uv is not None and scene.uvs is not None:
            uvs = scene.uvs[uv_ids].astype("<f4")
            attributes.TEXCOORD_0 = self.accessor(np.stack([uvs[:, 0], 1 - uvs[:, 1]], axis=1))
            if primitive.material is not None and primitive.material.normal_texture is not None:
                if scene.normals is not None:
                    rows = _tangents(scene, vertex_ids, uv_ids, indices)
                    attributes.TANGENT = self.accessor(rows)
        textured = primitive.material is not None and primitive.material.texture is not None
        if scene.colors is not None and not textured:
            attributes.COLOR_0 = self.accessor(_linear(scene.colors[vertex_ids]))
        index_type = "<u2" if len(vertex_ids) < 65535 else "<u4"
        result = gl.Primitive(attributes=attributes, mode=4)
        result.indices = self.accessor(indices.reshape(-1).astype(index_type), index=True)
        if primitive.material is not None:
            result.material = self.material(primitive.material)
        targets = scene.morph_targets.values()
        with_normals = scene.normals is not None
        result.targets = [self.target(t, vertex_ids, with_normals) for t in targets] or None
        return result

    def target(self, target: MorphTarget, vertex_ids: np.ndarray, with_normals: bool) -> Any:
        """Accessors of one blendshape."""
        import pygltflib as gl

        moved = target.positions_mm[vertex_ids]
        turned = np.zeros_like(moved) if target.normals is None else target.normals[vertex_ids]
        large = (np.abs(moved) > _MOVED_MM).any(axis=1) | (np.abs(turned) > _TURNED).any(axis=1)
        stored = np.flatnonzero(large)
        keep = np.asarray(large)[:, None]
        moved, turned = np.where(keep, moved, 0), np.where(keep, turned, 0)
        attributes = gl.Attributes(
            POSITION=self.delta_accessor(_metres(moved), stored, bounds=True)
        )
        if with_normals and target.normals is not None:
            rows = turned.astype("<f4")
            attributes.NORMAL = self.delta_accessor(rows, stored, bounds=False)
        return attributes

    def material(self, material: Material) -> int:
        """Index of the material, its textures added with it."""
        import pygltflib as gl

        if material.name not in self.materials:
            pbr = gl.PbrMetallicRoughness(
                baseColorFactor=[*material.color, 1.0],
                metallicFactor=material.metallic,
                roughnessFactor=material.roughness,
            )
            if material.texture is not None:
                color = self.texture(material.texture, material.name, self.image_format)
                pbr.baseColorTexture = gl.TextureInfo(index=color)
            if material.roughness_texture is not None:
                packed = _pack_roughness(material.roughness_texture)
                index = self.texture(packed, f"{material.name}_roughness")
                pbr.metallicRoughnessTexture = gl.TextureInfo(index=index)
            entry = gl.Material(name=material.name, pbrMetallicRoughness=pbr)
            if material.normal_texture is not None:
                index = self.texture(material.normal_texture, f"{material.name}_normal")
                entry.normalTexture = gl.NormalMaterialTexture(index=index)
            entry.doubleSided = material.double_sided
            entry.alphaMode = entry.alphaCutoff = None
            self.materials[material.name] = len(self.gltf.materials)
            self.gltf.materials.append(entry)
        return self.materials[material.name]

    def texture(
        self, pixels: UInt8[np.ndarray, "h w 3"], name: str, image_format: str = "png"
    ) -> int:
        """Index of a new texture."""
        import pygltflib as gl

        data = encode_image(np.ascontiguousarray(pixels), image_format)
        image = gl.Image(name=name, mimeType=f"image/{image_format}")
        image.bufferView = self.view(data)
        self.gltf.images.append(image)
        if not self.gltf.samplers:
            self.gltf.samplers.append(
                gl.Sampler(magFilter=9729, minFilter=9987, wrapS=33071, wrapT=33071)
            )
        self.gltf.textures.append(gl.Texture(source=len(self.gltf.images) - 1, sampler=0))
        return len(self.gltf.textures) - 1

    def bytes(self) -> bytes:
        """The finished file."""
        import pygltflib as gl

        self._flush_sparse()
        self.blob += b"\0" * (-len(self.blob) % 4)
        self.gltf.buffers = [gl.Buffer(byteLength=len(self.blob))]
        self.gltf.set_binary_blob(bytes(self.blob))
        return b"".join(self.gltf.save_to_bytes())

    def _flush_sparse(self) -> None:
        """Two buffer views for all sparse data: indices, then values."""
        import pygltflib as gl

        if not self.sparse:
            return
        index_view = self.view(b"".join(ids.tobytes() for _, ids, _ in self.sparse))
        value_view = self.view(b"".join(rows.tobytes() for _, _, rows in self.sparse))
        index_offset = value_offset = 0
        for entry, ids, rows in self.sparse:
            entry.sparse = gl.Sparse(
                count=len(ids),
                indices=gl.AccessorSparseIndices(
                    bufferView=index_view, byteOffset=index_offset, componentType=5125
                ),
                values=gl.AccessorSparseValues(bufferView=value_view, byteOffset=value_offset),
            )
            index_offset += ids.nbytes
            value_offset += rows.nbytes


def _tangents(
    scene: MeshScene, vertex_ids: np.ndarray, uv_ids: np.ndarray, indices: np.ndarray
) -> Float32[np.ndarray, "n 4"]:
    """Unit tangents and handedness of split vertices."""
    import torch

    from lifemask.graphics.tangents import uv_tangents

    assert scene.uvs is not None and scene.normals is not None
    normals = _unit(scene.normals[vertex_ids])
    arrays = (scene.positions_mm[vertex_ids], indices, scene.uvs[uv_ids], indices, normals)
    return uv_tangents(*map(torch.from_numpy, arrays)).numpy().astype("<f4")


def _pack_roughness(roughness: UInt8[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h w 3"]:
    """Red 255 (no occlusion), green the roughness, blue 0 (no metal), as glTF has them."""
    return np.stack([np.full_like(roughness, 255), roughness, np.zeros_like(roughness)], axis=2)


def _metres(rows_mm: np.ndarray) -> Float32[np.ndarray, "n 3"]:
    return (rows_mm.astype(np.float64) * 1e-3).astype("<f4")


def _unit(normals: np.ndarray) -> Float32[np.ndarray, "n 3"]:
    """Exactly unit normals; +z where there is none (the format forbids zeros)."""
    rows = normals.astype(np.float64)
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    rows = np.where(length > 1e-6, rows / np.maximum(length, 1e-6), [0.0, 0.0, 1.0])
    return rows.astype("<f4")


def _linear(colors: np.ndarray) -> Float32[np.ndarray, "n 3"]:
    """Linear RGB of sRGB bytes; glTF wants vertex colours linear."""
    srgb = colors.astype(np.float64) / 255
    curved = ((np.maximum(srgb, 0.04045) + 0.055) / 1.055) ** 2.4
    return np.where(srgb <= 0.04045, srgb / 12.92, curved).astype("<f4")
