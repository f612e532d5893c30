"""Read glTF 2.0 binary files, ours and other people's, as one `MeshScene` in millimetres."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from lifemask.graphics.meshio.scene import (
    Material,
    MeshFormatError,
    MeshPrimitive,
    MeshScene,
    MorphTarget,
    decode_image,
    decode_normals,
    encode_normals,
)

_DTYPES = {5120: "<i1", 5121: "<u1", 5122: "<i2", 5123: "<u2", 5125: "<u4", 5126: "<f4"}
_WIDTHS = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4, "MAT2": 4, "MAT3": 9, "MAT4": 16}
_TRIANGLES, _STRIP, _FAN = 4, 5, 6
_SUPPORTED = {"KHR_materials_specular", "KHR_materials_ior", "KHR_mesh_quantization"}
_MAX_DEPTH = 64


def read_glb(path: str | Path) -> MeshScene:
    """Read all triangles of the default scene, node transforms applied, metres to millimetres.

    Base-colour, normal and roughness textures (of the first uvs; a metal texture as its mean),
    vertex colours, normals, uvs and morph targets come along; skins, cameras and animations do not
    (`glb_animation.read_animation` reads these).

    Raises:
        MeshFormatError: not a GLB, truncated, no triangles, or compressed by an extension.
        OSError: the file cannot be read.
    """
    path = Path(path)
    try:
        return decode_glb(path.read_bytes(), path.stem)
    except MeshFormatError as error:
        raise MeshFormatError(f"{path.name}: {error}") from error


def decode_glb(data: bytes, name: str = "mesh") -> MeshScene:
    """A scene from the bytes of a GLB file, see `read_glb`."""
    try:
        return _Reader(*_split(data)).scene(name)
    except MeshFormatError:
        raise
    except (KeyError, IndexError, TypeError, ValueError, struct.error) as error:
        raise MeshFormatError(f"damaged glTF: {error!r}") from error


def open_document(data: bytes) -> tuple[dict[str, Any], Callable[[int], np.ndarray]]:
    """The JSON of a GLB file, and what reads its accessors (n, width) by index.

    Raises:
        MeshFormatError: not a GLB, or truncated.
    """
    document, blob = _split(data)
    return document, _Reader(document, blob).accessor


def _split(data: bytes) -> tuple[dict[str, Any], bytes]:
    """The JSON and the binary chunk."""
    if len(data) < 20 or data[:4] != b"glTF":
        raise MeshFormatError("not a GLB file")
    version, length = struct.unpack_from("<II", data, 4)
    if version != 2:
        raise MeshFormatError(f"glTF version {version} is not supported, only 2")
    if length > len(data):
        raise MeshFormatError("the file is truncated")
    document, blob, offset = None, b"", 12
    while offset + 8 <= length:
        size, kind = struct.unpack_from("<I4s", data, offset)
        chunk = data[offset + 8 : offset + 8 + size]
        if kind == b"JSON":
            document = json.loads(chunk)
        elif kind == b"BIN\0":
            blob = chunk
        offset += 8 + size
    if not isinstance(document, dict):
        raise MeshFormatError("the file holds no JSON chunk")
    unknown = set(document.get("extensionsRequired", [])) - _SUPPORTED
    if unknown:
        raise MeshFormatError(f"needs unsupported extensions: {', '.join(sorted(unknown))}")
    return document, blob


class _Reader:
    """Walks the document and appends what it finds to shared vertex arrays."""

    def __init__(self, document: dict[str, Any], blob: bytes) -> None:
        self.document, self.blob = document, blob
        self.parts: list[dict[str, np.ndarray | None]] = []
        self.primitives: list[MeshPrimitive] = []
        self.targets: list[dict[str, tuple[np.ndarray, np.ndarray | None]]] = []
        self.weights: dict[str, float] = {}
        self.count = 0
        self.materials: dict[int, Material] = {}

    def scene(self, name: str) -> MeshScene:
        """Everything the default scene shows."""
        nodes = self.document.get("nodes", [])
        scenes = self.document.get("scenes")
        roots = scenes[self.document.get("scene", 0)].get("nodes", []) if scenes else []
        for root in roots if scenes else range(len(nodes)):
            self._visit(root, np.eye(4), 0)
        if not self.primitives:
            raise MeshFormatError("the file holds no triangles")
        positions = self._join("positions")
        assert positions is not None
        scene = MeshScene(
            positions_mm=positions,
            primitives=tuple(self.primitives),
            normals=self._join("normals"),
            uvs=self._join("uvs", fill=True),
            colors=self._join("colors"),
            morph_targets=self._morph_targets(),
            morph_weights=self.weights,
            name=name,
        )
        scene.check()
        return scene

    def _join(self, key: str, fill: bool = False) -> np.ndarray | None:
        """All parts' arrays under each other; None where one lacks it (or zeros with `fill`)."""
        found = [part[key] for part in self.parts]
        if all(rows is None for rows in found):
            return None
        rows = []
        for part, array in zip(self.parts, found, strict=True):
            if array is None and not fill:
                return None
            positions = part["positions"]
            assert positions is not None
            rows.append(np.zeros((len(positions), 2), np.float32) if array is None else array)
        return np.concatenate(rows)

    def _visit(self, index: int, parent: np.ndarray, depth: int) -> None:
        if depth > _MAX_DEPTH:
            raise MeshFormatError("the node tree is too deep or runs in a circle")
        node = self.document["nodes"][index]
        world = parent @ _local_transform(node)
        if "mesh" in node:
            self._add_mesh(self.document["meshes"][node["mesh"]], world, node)
        for child in node.get("children", []):
            self._visit(child, world, depth + 1)

    def _add_mesh(self, mesh: dict[str, Any], world: np.ndarray, node: dict[str, Any]) -> None:
        names = (mesh.get("extras") or {}).get("targetNames", [])
        weights = node.get("weights", mesh.get("weights", []))
        for number, primitive in enumerate(mesh["primitives"]):
            if primitive.get("mode", _TRIANGLES) < _TRIANGLES:
                continue
            self._add_primitive(primitive, mesh.get("name", "mesh"), number, world, names)
        self.weights.update(zip(names, (float(w) for w in weights), strict=False))

    def _add_primitive(
        self, entry: dict[str, Any], mesh: str, number: int, world: np.ndarray, names: list[str]
    ) -> None:
        attributes = entry["attributes"]
        linear = world[:3, :3]
        raw = self.accessor(attributes["POSITION"]).astype(np.float64)
        positions = (raw @ linear.T + world[:3, 3]) * 1000
        uvs = self._optional(attributes, "TEXCOORD_0")
        normals, colors = (
            self._optional(attributes, "NORMAL"),
            self._optional(attributes, "COLOR_0"),
        )
        to_normal = np.linalg.inv(linear)
        faces = _triangles(entry, len(raw), self)
        if np.linalg.det(linear) < 0:
            faces = faces[:, ::-1]
        material = self.material(entry.get("material"))
        name = material.name if material is not None else f"{mesh}.{number}"
        if any(p.name == name for p in self.primitives):
            name = f"{name}.{len(self.primitives)}"
        ids = (faces + self.count).astype(np.int32)
        self.primitives.append(
            MeshPrimitive(name, ids, None if uvs is None else ids.copy(), material)
        )
        self.parts.append(
            {
                "positions": positions.astype(np.float32),
                "normals": None if normals is None else _unit(normals @ to_normal),
                "uvs": None if uvs is None else (uvs * [1, -1] + [0, 1]).astype(np.float32),
                "colors": None if colors is None else _srgb_bytes(colors[:, :3]),
            }
        )
        self.targets.append(self._targets(entry, names, linear))
        self.count += len(raw)

    def _targets(
        self, entry: dict[str, Any], names: list[str], linear: np.ndarray
    ) -> dict[str, tuple[np.ndarray, np.ndarray | None]]:
        result = {}
        for index, target in enumerate(entry.get("targets") or []):
            name = names[index] if index < len(names) else f"target_{index}"
            moved = self.accessor(target["POSITION"]) @ linear.T * 1000
            turned = self._optional(target, "NORMAL")
            result[name] = (moved, None if turned is None else turned @ np.linalg.inv(linear))
        return result

    def _morph_targets(self) -> dict[str, MorphTarget]:
        """Targets by name over all vertices; a part without the target stays still."""
        result = {}
        for name in dict.fromkeys(n for part in self.targets for n in part):
            moved, turned = np.zeros((2, self.count, 3), np.float32)
            has_normals, start = False, 0
            for part, target in zip(self.parts, self.targets, strict=True):
                positions = part["positions"]
                assert positions is not None
                stop = start + len(positions)
                if name in target:
                    moved[start:stop] = target[name][0]
                    if (normals := target[name][1]) is not None:
                        turned[start:stop], has_normals = normals, True
                start = stop
            result[name] = MorphTarget(moved, turned if has_normals else None)
        return result

    def _optional(self, attributes: dict[str, int], name: str) -> np.ndarray | None:
        return self.accessor(attributes[name]).astype(np.float64) if name in attributes else None

    def accessor(self, index: int) -> np.ndarray:
        """Rows (n, width) of an accessor, normalised integers as floats."""
        entry = self.document["accessors"][index]
        dtype, width = np.dtype(_DTYPES[entry["componentType"]]), _WIDTHS[entry["type"]]
        count = int(entry["count"])
        rows = np.zeros((count, width), dtype)
        if "bufferView" in entry:
            rows = self._rows(entry["bufferView"], entry.get("byteOffset", 0), dtype, count, width)
        if "sparse" in entry:
            sparse, size = entry["sparse"], entry["sparse"]["count"]
            at, values = sparse["indices"], sparse["values"]
            kind = np.dtype(_DTYPES[at["componentType"]])
            ids = self._rows(at["bufferView"], at.get("byteOffset", 0), kind, size, 1)[:, 0]
            rows = rows.copy()
            rows[ids] = self._rows(
                values["bufferView"], values.get("byteOffset", 0), dtype, size, width
            )
        if entry.get("normalized") and dtype.kind in "iu":
            return np.maximum(rows / np.iinfo(dtype).max, -1.0)
        return rows

    def _rows(self, view: int, offset: int, dtype: np.dtype, count: int, width: int) -> np.ndarray:
        entry = self.document["bufferViews"][view]
        if self.document["buffers"][entry["buffer"]].get("uri"):
            raise MeshFormatError("data in a file beside the GLB are not supported")
        start = entry.get("byteOffset", 0) + offset
        stride = entry.get("byteStride") or dtype.itemsize * width
        end = start + stride * (count - 1) + dtype.itemsize * width if count else start
        if end > len(self.blob) or offset < 0 or start < 0:
            raise MeshFormatError("an accessor reaches beyond the buffer")
        return np.ndarray((count, width), dtype, self.blob, start, (stride, dtype.itemsize))

    def material(self, index: int | None) -> Material | None:
        """A material with its textures."""
        if index is None:
            return None
        if index not in self.materials:
            entry = self.document["materials"][index]
            pbr = entry.get("pbrMetallicRoughness", {})
            red, green, blue = pbr.get("baseColorFactor", [1, 1, 1, 1])[:3]
            packed = self._texture(pbr.get("metallicRoughnessTexture"))
            metal = 1.0 if packed is None else float(packed[..., 2].mean()) / 255
            self.materials[index] = Material(
                name=entry.get("name", f"material_{index}"),
                texture=self._texture(pbr.get("baseColorTexture")),
                color=(float(red), float(green), float(blue)),
                roughness=float(pbr.get("roughnessFactor", 1.0)),
                metallic=float(pbr.get("metallicFactor", 1.0)) * metal,
                double_sided=bool(entry.get("doubleSided", False)),
                normal_texture=self._normals(entry.get("normalTexture")),
                roughness_texture=None if packed is None else packed[..., 1].copy(),
            )
        return self.materials[index]

    def _normals(self, info: dict[str, Any] | None) -> np.ndarray | None:
        """A normal texture with its scale applied."""
        pixels = self._texture(info)
        scale = 1.0 if info is None else float(info.get("scale", 1.0))
        if pixels is None or scale == 1.0:
            return pixels
        normals = decode_normals(pixels) * np.array([scale, scale, 1.0], np.float32)
        return encode_normals(normals / np.linalg.norm(normals, axis=2, keepdims=True))

    def _texture(self, info: dict[str, Any] | None) -> np.ndarray | None:
        """The pixels that a texture info names; None for those on other uvs than the first."""
        if info is None or info.get("texCoord", 0) != 0:
            return None
        index = info["index"]
        source = self.document["textures"][index].get("source")
        image = {} if source is None else self.document["images"][source]
        if "bufferView" not in image:
            return None
        view = self.document["bufferViews"][image["bufferView"]]
        start = view.get("byteOffset", 0)
        return decode_image(self.blob[start : start + view["byteLength"]])


def _triangles(entry: dict[str, Any], vertices: int, reader: _Reader) -> np.ndarray:
    """(f, 3) corners of a primitive's triangles, strips and fans unrolled."""
    if "indices" in entry:
        ids = reader.accessor(entry["indices"])[:, 0].astype(np.int64)
    else:
        ids = np.arange(vertices)
    mode = entry.get("mode", _TRIANGLES)
    if mode == _TRIANGLES:
        return ids[: len(ids) // 3 * 3].reshape(-1, 3)
    if mode == _FAN:
        return np.stack([np.full(len(ids) - 2, ids[0]), ids[1:-1], ids[2:]], axis=1)
    strip = np.stack([ids[:-2], ids[1:-1], ids[2:]], axis=1)
    strip[1::2] = strip[1::2, [1, 0, 2]]
    return strip


def _local_transform(node: dict[str, Any]) -> np.ndarray:
    """(4, 4) matrix of a node (glTF stores columns first)."""
    if "matrix" in node:
        return np.array(node["matrix"], dtype=np.float64).reshape(4, 4).T
    x, y, z, w = node.get("rotation") or (0.0, 0.0, 0.0, 1.0)
    rotation = np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )
    matrix = np.eye(4)
    matrix[:3, :3] = rotation * np.array(node.get("scale") or (1.0, 1.0, 1.0))
    matrix[:3, 3] = node.get("translation") or (0.0, 0.0, 0.0)
    return matrix


def _unit(rows: np.ndarray) -> np.ndarray:
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    return (rows / np.maximum(length, 1e-12)).astype(np.float32)


def _srgb_bytes(linear: np.ndarray) -> np.ndarray:
    """SRGB bytes of linear RGB in [0, 1]."""
    curved = 1.055 * np.maximum(linear, 0.0031308) ** (1 / 2.4) - 0.055
    srgb = np.where(linear <= 0.0031308, linear * 12.92, curved)
    return (srgb * 255).round().clip(0, 255).astype(np.uint8)
