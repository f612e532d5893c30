"""PLY, binary or ascii, with normals and vertex colours; millimetres."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from lifemask.graphics.meshio.scene import MeshFormatError, MeshPrimitive, MeshScene, write_atomic

_TYPES = {
    "char": "i1", "int8": "i1", "uchar": "u1", "uint8": "u1", "short": "i2", "int16": "i2",
    "ushort": "u2", "uint16": "u2", "int": "i4", "int32": "i4", "uint": "u4", "uint32": "u4",
    "float": "f4", "float32": "f4", "double": "f8", "float64": "f8",
}  # fmt: skip
_NAMES = {"f4": "float", "u1": "uchar"}
_MAX_ELEMENTS = 100_000_000


def write_ply(scene: MeshScene, path: str | Path, *, binary: bool = True) -> list[Path]:
    """Write positions, normals and vertex colours in the scene's order, and all its triangles.

    PLY has no materials, uvs per corner or blendshapes: they are left out.

    Args:
        scene: millimetres.
        path: the folder must exist.
        binary: little-endian, else ascii.

    Returns:
        The file written.
    """
    scene.check()
    columns: list[tuple[str, str, np.ndarray]] = []
    for names, rows, kind in (
        (("x", "y", "z"), scene.positions_mm, "f4"),
        (("nx", "ny", "nz"), scene.normals, "f4"),
        (("red", "green", "blue"), scene.colors, "u1"),
    ):
        if rows is not None:
            columns += [(name, kind, rows[:, k]) for k, name in enumerate(names)]
    vertices = np.empty(len(scene.positions_mm), dtype=[(n, "<" + t) for n, t, _ in columns])
    for name, _, values in columns:
        vertices[name] = values
    faces = np.empty(len(scene.faces), dtype=[("n", "u1"), ("ids", "<i4", 3)])
    faces["n"], faces["ids"] = 3, scene.faces
    header = _header(columns, len(vertices), len(faces), binary)
    body = vertices.tobytes() + faces.tobytes() if binary else _ascii(vertices, faces)
    write_atomic(path, header.encode() + body)
    return [Path(path)]


def _header(
    columns: list[tuple[str, str, np.ndarray]], vertices: int, faces: int, binary: bool
) -> str:
    lines = ["ply", f"format {'binary_little_endian' if binary else 'ascii'} 1.0"]
    lines += [
        "comment lifemask, millimetres, y up, z out of the face",
        f"element vertex {vertices}",
    ]
    lines += [f"property {_NAMES[kind]} {name}" for name, kind, _ in columns]
    lines += [f"element face {faces}", "property list uchar int vertex_indices", "end_header"]
    return "\n".join(lines) + "\n"


def _ascii(vertices: np.ndarray, faces: np.ndarray) -> bytes:
    lines = [" ".join(f"{value:.9g}" for value in row) for row in vertices.tolist()]
    lines += [f"3 {a} {b} {c}" for a, b, c in faces["ids"].tolist()]
    return ("\n".join(lines) + "\n").encode()


def read_ply(path: str | Path) -> MeshScene:
    """Read a PLY, ascii or binary of either byte order; polygons become fans of triangles.

    Raises:
        MeshFormatError: not a PLY, truncated, or without vertices and faces.
        OSError: the file cannot be read.
    """
    path = Path(path)
    data = path.read_bytes()
    try:
        file_format, elements, offset = _parse_header(data)
        tables = _read_elements(data, offset, file_format, elements)
        return _scene(tables, path.stem)
    except (ValueError, IndexError, KeyError, UnicodeDecodeError) as error:
        raise MeshFormatError(f"{path.name}: {error}") from error


_Property = tuple[str, str, str]
"""Name, dtype, and dtype of the count ("" for a scalar)."""
_Element = tuple[str, int, list[_Property]]


def _parse_header(data: bytes) -> tuple[str, list[_Element], int]:
    end = data.find(b"end_header")
    if not data.startswith(b"ply") or end < 0:
        raise ValueError("not a PLY file")
    file_format, elements = "", []
    for line in data[:end].decode("ascii").splitlines():
        words = line.split()
        if words[:1] == ["format"]:
            file_format = words[1]
        elif words[:1] == ["element"]:
            if not 0 <= int(words[2]) <= _MAX_ELEMENTS:
                raise ValueError(f"{words[2]} elements")
            elements.append((words[1], int(words[2]), []))
        elif words[:2] == ["property", "list"]:
            elements[-1][2].append((words[4], _TYPES[words[3]], _TYPES[words[2]]))
        elif words[:1] == ["property"]:
            elements[-1][2].append((words[2], _TYPES[words[1]], ""))
    if file_format not in ("ascii", "binary_little_endian", "binary_big_endian"):
        raise ValueError(f"unknown PLY format {file_format!r}")
    return file_format, elements, data.index(b"\n", end) + 1


_Columns = dict[str, np.ndarray | list[np.ndarray]]


def _read_elements(
    data: bytes, offset: int, file_format: str, elements: list[_Element]
) -> dict[str, _Columns]:
    if file_format == "ascii":
        return _read_ascii(data[offset:], elements)
    order = "<" if file_format == "binary_little_endian" else ">"
    tables: dict[str, _Columns] = {}
    for name, count, properties in elements:
        if all(not length for _, _, length in properties):
            dtype = np.dtype([(n, order + t) for n, t, _ in properties])
            rows = _take(data, offset, dtype, count)
            tables[name] = {n: rows[n] for n, _, _ in properties}
            offset += dtype.itemsize * count
        else:
            tables[name], offset = _read_lists(data, offset, count, properties, order)
    return tables


def _take(data: bytes, offset: int, dtype: np.dtype, count: int) -> np.ndarray:
    if offset + dtype.itemsize * count > len(data):
        raise ValueError("the file is truncated")
    return np.frombuffer(data, dtype, count, offset)


def _read_lists(
    data: bytes, offset: int, count: int, properties: list[_Property], order: str
) -> tuple[_Columns, int]:
    """Rows with lists: at once when all lists are triangles, else row by row."""
    fields: list[tuple[str, str] | tuple[str, str, int]] = []
    for name, kind, length in properties:
        fields += [("n " + name, order + length), (name, order + kind, 3)] if length else []
        fields += [] if length else [(name, order + kind)]
    dtype = np.dtype(fields)
    if offset + dtype.itemsize * count <= len(data):
        rows = np.frombuffer(data, dtype, count, offset)
        if all((rows["n " + name] == 3).all() for name, _, length in properties if length):
            return {name: rows[name] for name, _, _ in properties}, offset + rows.nbytes
    lists: dict[str, list[np.ndarray]] = {name: [] for name, _, _ in properties}
    for _ in range(count):
        for name, kind, length in properties:
            size = 1
            if length:
                size = int(_take(data, offset, np.dtype(order + length), 1)[0])
                offset += np.dtype(length).itemsize
            values = _take(data, offset, np.dtype(order + kind), size)
            offset += values.nbytes
            lists[name].append(values)
    return dict(lists), offset


def _read_ascii(body: bytes, elements: list[_Element]) -> dict[str, _Columns]:
    words = body.split()
    position, tables = 0, {}
    for name, count, properties in elements:
        if all(not length for _, _, length in properties):
            size = count * len(properties)
            rows = np.array(words[position : position + size], dtype=np.float64)
            if len(rows) < size:
                raise ValueError("the file is truncated")
            position += size
            rows = rows.reshape(count, len(properties))
            tables[name] = {n: rows[:, k].astype(t) for k, (n, t, _) in enumerate(properties)}
            continue
        lists: dict[str, list[np.ndarray]] = {n: [] for n, _, _ in properties}
        for _ in range(count):
            for column, kind, length in properties:
                size = int(words[position]) if length else 1
                position += bool(length)
                values = np.array(words[position : position + size], dtype=np.float64)
                if len(values) < size:
                    raise ValueError("the file is truncated")
                lists[column].append(values.astype(kind))
                position += size
        tables[name] = dict(lists)
    return tables


def _scene(tables: dict[str, _Columns], name: str) -> MeshScene:
    vertex = tables["vertex"]

    def stack(*names: str) -> np.ndarray | None:
        if not all(n in vertex for n in names):
            return None
        return np.stack([np.asarray(vertex[n]).reshape(-1) for n in names], axis=1)

    positions, normals, colors = stack("x", "y", "z"), stack("nx", "ny", "nz"), None
    if positions is None:
        raise ValueError("no vertex positions")
    for names in (("red", "green", "blue"), ("r", "g", "b")):
        colors = stack(*names) if colors is None else colors
    if colors is not None and colors.dtype.kind == "f":
        colors = (colors * 255).round().clip(0, 255)
    face = tables.get("face", {})
    lists = face.get("vertex_indices", face.get("vertex_index", []))
    if isinstance(lists, np.ndarray):
        faces = lists.astype(np.int32)
    else:
        fans = [(p[0], p[k], p[k + 1]) for p in lists for k in range(1, len(p) - 1)]
        faces = np.array(fans, dtype=np.int32).reshape(-1, 3)
    scene = MeshScene(
        positions_mm=positions.astype(np.float32),
        primitives=(MeshPrimitive("mesh", faces),),
        normals=None if normals is None else normals.astype(np.float32),
        colors=None if colors is None else colors.astype(np.uint8),
        name=name,
    )
    scene.check()
    return scene
