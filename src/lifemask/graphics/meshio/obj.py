"""Wavefront OBJ with MTL and PNG: vertices in the model's order, quads kept, millimetres."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from lifemask.graphics.meshio.scene import (
    Material,
    MeshFormatError,
    MeshPrimitive,
    MeshScene,
    decode_image,
    encode_image,
    polygon_uvs,
    write_atomic,
)


def write_obj(scene: MeshScene, path: str | Path) -> list[Path]:
    """Write NAME.obj, and where there are materials NAME.mtl and NAME_MATERIAL.png beside it.

    Normal and roughness textures are NAME_MATERIAL_normal.png and NAME_MATERIAL_roughness.png,
    named by `norm` and `map_Pr`, the format's fields for physically based materials.

    One `v` line per vertex in the scene's order (with its colour as three floats where there are
    any), one `vt` per uv, one `vn` per vertex. OBJ has no blendshapes.

    Args:
        scene: millimetres; v up, as in OBJ.
        path: ends in .obj; the folder must exist.

    Returns:
        The files written.
    """
    scene.check()
    path = Path(path)
    written = []
    lines = ["# lifemask, millimetres, y up, z out of the face"]
    materials = _materials(scene)
    if materials:
        written += _write_materials(materials, path)
        lines.append(f"mtllib {path.stem}.mtl")
    lines += _vertex_lines(scene)
    for primitive in scene.primitives:
        lines += [f"g {primitive.name}"]
        if primitive.material is not None:
            lines.append(f"usemtl {primitive.material.name}")
        lines += _face_lines(primitive, scene.normals is not None)
    write_atomic(path, ("\n".join(lines) + "\n").encode())
    return [path, *written]


def _materials(scene: MeshScene) -> dict[str, Material]:
    return {p.material.name: p.material for p in scene.primitives if p.material is not None}


def _write_materials(materials: dict[str, Material], path: Path) -> list[Path]:
    lines, written = [], []
    for name, material in materials.items():
        color = " ".join(f"{c:.6g}" for c in material.color)
        lines += [f"newmtl {name}", f"Kd {color}", "Ks 0 0 0", "illum 1"]
        lines += [f"Pr {material.roughness:.6g}", f"Pm {material.metallic:.6g}"]
        maps = (
            ("map_Kd", "", material.texture),
            ("norm", "_normal", material.normal_texture),
            ("map_Pr", "_roughness", material.roughness_texture),
        )
        for keyword, ending, pixels in maps:
            if pixels is not None:
                image = path.with_name(f"{path.stem}_{name}{ending}.png")
                write_atomic(image, encode_image(pixels, "png"))
                lines.append(f"{keyword} {image.name}")
                written.append(image)
        lines.append("")
    write_atomic(path.with_suffix(".mtl"), "\n".join(lines).encode())
    return [path.with_suffix(".mtl"), *written]


def _vertex_lines(scene: MeshScene) -> list[str]:
    rows = scene.positions_mm
    if scene.colors is not None:
        colors = scene.colors / 255.0
        lines = [
            f"v {x:.9g} {y:.9g} {z:.9g} {r:.6f} {g:.6f} {b:.6f}"
            for (x, y, z), (r, g, b) in zip(rows.tolist(), colors.tolist(), strict=True)
        ]
    else:
        lines = [f"v {x:.9g} {y:.9g} {z:.9g}" for x, y, z in rows.tolist()]
    if scene.uvs is not None:
        lines += [f"vt {u:.9g} {v:.9g}" for u, v in scene.uvs.tolist()]
    if scene.normals is not None:
        lines += [f"vn {x:.9g} {y:.9g} {z:.9g}" for x, y, z in scene.normals.tolist()]
    return lines


def _face_lines(primitive: MeshPrimitive, with_normals: bool) -> list[str]:
    corners, uvs = primitive.faces, primitive.faces_uv
    if primitive.polygons is not None:
        corners = primitive.polygons
        if uvs is not None:
            uvs = polygon_uvs(corners, primitive.faces, uvs)

    def corner(v: int, t: int) -> str:
        uv = "" if uvs is None else str(t + 1)
        if with_normals:
            return f"{v + 1}/{uv}/{v + 1}"
        return f"{v + 1}/{uv}" if uv else f"{v + 1}"

    uv_rows = (corners if uvs is None else uvs).tolist()
    return [
        "f " + " ".join(corner(v, t) for v, t in zip(row, uv_row, strict=True) if v >= 0)
        for row, uv_row in zip(corners.tolist(), uv_rows, strict=True)
    ]


def read_obj(path: str | Path) -> MeshScene:
    """Read an OBJ as it stands: positions in the file's unit, taken as millimetres.

    Quads stay in `polygons` (and are cut into triangles in `faces`), larger polygons become fans.
    Normals are averaged per vertex where corners disagree. Materials and textures are read where
    they exist; a missing MTL or picture is no error.

    Raises:
        MeshFormatError: no faces, or a line that cannot be understood (its number is named).
        OSError: the file cannot be read.
    """
    path = Path(path)
    state = _ObjState()
    text = path.read_text(encoding="utf-8", errors="replace").replace("\\\n", " ")
    for number, line in enumerate(text.splitlines(), start=1):
        try:
            state.take(line, path)
        except (ValueError, IndexError) as error:
            raise MeshFormatError(f"{path.name}, line {number}: {error}") from error
    return state.scene(path)


class _ObjState:
    """What the lines up to here have said."""

    def __init__(self) -> None:
        self.positions: list[list[float]] = []
        self.colors: list[list[float]] = []
        self.uvs: list[list[float]] = []
        self.normals: list[list[float]] = []
        self.materials: dict[str, Material] = {}
        self.groups: dict[tuple[str, str], list[list[tuple[int, int, int]]]] = {}
        self.group, self.material = "mesh", ""

    def take(self, line: str, path: Path) -> None:
        """Read one line."""
        words = line.split("#", 1)[0].split()
        if not words:
            return
        keyword, rest = words[0], words[1:]
        if keyword == "v":
            self.positions.append([float(w) for w in rest[:3]])
            if len(rest) >= 6:
                self.colors.append([float(w) for w in rest[3:6]])
        elif keyword == "vt":
            self.uvs.append([float(w) for w in rest[:2]])
        elif keyword == "vn":
            self.normals.append([float(w) for w in rest[:3]])
        elif keyword == "f":
            polygon = [self._corner(word) for word in rest]
            if len(polygon) < 3:
                raise ValueError("a face needs three corners")
            self.groups.setdefault((self.group, self.material), []).append(polygon)
        elif keyword in ("g", "o"):
            self.group = " ".join(rest) or "mesh"
        elif keyword == "usemtl":
            self.material = " ".join(rest)
        elif keyword == "mtllib":
            self.materials.update(_read_mtl(path.with_name(" ".join(rest))))

    def _corner(self, word: str) -> tuple[int, int, int]:
        counts = (len(self.positions), len(self.uvs), len(self.normals))
        ids = []
        for text, count in zip((word.split("/") + ["", ""])[:3], counts, strict=True):
            value = int(text) if text else 0
            value = value - 1 if value > 0 else (count + value if value < 0 else -1)
            if not -1 <= value < count or (value < 0 and text):
                raise ValueError(f"index {text} is out of range")
            ids.append(value)
        if ids[0] < 0:
            raise ValueError(f"a corner {word!r} without a vertex")
        return ids[0], ids[1], ids[2]

    def scene(self, path: Path) -> MeshScene:
        """All of it as a scene."""
        if not self.groups:
            raise MeshFormatError(f"{path.name} holds no faces")
        positions = np.array(self.positions, dtype=np.float32)
        colored = len(self.colors) == len(self.positions)
        colors = np.round(np.array(self.colors) * 255).clip(0, 255).astype(np.uint8)
        return MeshScene(
            positions_mm=positions,
            primitives=tuple(self._primitive(*key) for key in self.groups),
            normals=self._vertex_normals(),
            uvs=np.array(self.uvs, dtype=np.float32) if self.uvs else None,
            colors=colors if colored else None,
            name=path.stem,
        )

    def _primitive(self, group: str, material: str) -> MeshPrimitive:
        polygons = self.groups[group, material]
        corners = [(p[0], p[k], p[k + 1]) for p in polygons for k in range(1, len(p) - 1)]
        table = np.array(corners, dtype=np.int32)
        quads = None
        if any(len(p) == 4 for p in polygons) and all(len(p) <= 4 for p in polygons):
            quads = np.array([[c[0] for c in p] + [-1] * (4 - len(p)) for p in polygons], np.int32)
        has_uv = bool((table[..., 1] >= 0).all())
        found = self.materials.get(material)
        if found is None and material:
            found = Material(name=material)
        same_group = [m for g, m in self.groups if g == group]
        name = group if len(same_group) == 1 else f"{group}.{material or 'none'}"
        faces_uv = table[..., 1].copy() if has_uv else None
        return MeshPrimitive(name, table[..., 0].copy(), faces_uv, found, quads)

    def _vertex_normals(self) -> np.ndarray | None:
        polygons = [p for group in self.groups.values() for p in group]
        pairs = np.array([(c[0], c[2]) for p in polygons for c in p], dtype=np.int64)
        if not self.normals or (pairs[:, 1] < 0).any():
            return None
        total = np.zeros((len(self.positions), 3))
        np.add.at(total, pairs[:, 0], np.array(self.normals)[pairs[:, 1]])
        length = np.linalg.norm(total, axis=1, keepdims=True)
        return (total / np.maximum(length, 1e-12)).astype(np.float32)


def _read_mtl(path: Path) -> dict[str, Material]:
    """Materials by name; empty when the file is missing."""
    if not path.is_file():
        return {}
    fields: dict[str, dict[str, str]] = {}
    current: dict[str, str] = {}
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        keyword, _, rest = line.strip().partition(" ")
        if keyword == "newmtl":
            current = fields.setdefault(rest.strip(), {})
        elif keyword:
            current[keyword] = rest.strip()
    return {name: _material(name, entry, path) for name, entry in fields.items()}


def _material(name: str, entry: dict[str, str], path: Path) -> Material:
    try:
        red, green, blue = (float(w) for w in entry.get("Kd", "1 1 1").split()[:3])
        roughness, metallic = float(entry.get("Pr", "0.6")), float(entry.get("Pm", "0"))
    except ValueError as error:
        raise MeshFormatError(f"{path.name}, material {name}: {error}") from error
    grey = _picture(entry, "map_Pr", path)
    return Material(
        name,
        _picture(entry, "map_Kd", path),
        (red, green, blue),
        roughness,
        metallic,
        normal_texture=_picture(entry, "norm", path),
        roughness_texture=None if grey is None else grey[..., 1].copy(),
    )


def _picture(entry: dict[str, str], keyword: str, path: Path) -> np.ndarray | None:
    """The pixels of the picture that a field names; None where there is none."""
    image = path.with_name(entry.get(keyword, "").split(" ")[-1] or "-")
    return decode_image(image.read_bytes()) if image.is_file() else None
