"""Reading what scan data sets share: a scan's triangles and its few picked points."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray

from lifemask.assets import UserError
from lifemask.graphics.meshio import MeshFormatError, read_mesh

_VERTEX = re.compile(r"^v[ \t]+([^#\n]*)", re.MULTILINE)
_FACE = re.compile(r"^f[ \t]+([^#\n]*)", re.MULTILINE)
_CORNER_REST = re.compile(r"/\S*")
_POINT = re.compile(r"<point\b[^>]*>")
_ATTRIBUTE = re.compile(r"""\b([xyz])\s*=\s*["']([^"']*)["']""")


@dataclass(frozen=True)
class LandmarkedScan:
    """The scan of one person, with the seven points that mesh benchmarks align by.

    Attributes:
        vertices_mm: (v, 3) mm.
        faces: (f, 3).
        landmarks7_mm: (7, 3) mm: outer and inner corner of the person's right eye, inner and outer
            corner of the left eye, nose bottom, right and left mouth corner.
    """

    vertices_mm: Float[ndarray, "v 3"]
    faces: Int[ndarray, "f 3"]
    landmarks7_mm: Float[ndarray, "7 3"]


def read_scan(path: Path) -> tuple[Float[ndarray, "v 3"], Int[ndarray, "f 3"]]:
    """Vertices (v, 3) float64 in the file's unit (a GLB: mm) and faces (f, 3) int64.

    Raises:
        UserError: the file cannot be read, is no mesh, or holds numbers that are not finite.
    """
    try:
        plain = _plain_obj(path) if path.suffix.lower() == ".obj" else None
        if plain is not None:
            return plain
        scene = read_mesh(path)
    except MeshFormatError as error:
        raise UserError(f"{path} is not a scan: {error}") from error
    except OSError as error:
        raise UserError(f"cannot read the scan {path}: {error.strerror or error}") from error
    vertices = scene.positions_mm.astype(np.float64)
    if not np.isfinite(vertices).all():
        raise UserError(f"the scan {path} holds infinite or undefined numbers")
    return vertices, scene.faces.astype(np.int64)


def _plain_obj(path: Path) -> tuple[ndarray, ndarray] | None:
    """The triangles of an OBJ without quads or relative ids, many times faster than `read_mesh`.

    None where the file is not that plain: then the full reader decides.
    """
    text = path.read_text(encoding="utf-8", errors="replace")
    corner_rows = [_CORNER_REST.sub("", row).split() for row in _FACE.findall(text)]
    vertex_rows = [row.split()[:3] for row in _VERTEX.findall(text)]
    try:
        faces = np.array(corner_rows, dtype=np.int64) - 1
        vertices = np.array(vertex_rows, dtype=np.float64)
    except ValueError:
        return None
    if faces.ndim != 2 or faces.shape[1] != 3 or vertices.ndim != 2 or vertices.shape[1] != 3:
        return None
    if faces.min() < 0 or faces.max() >= len(vertices) or not np.isfinite(vertices).all():
        return None
    return vertices, faces


def read_picked_points(path: Path, count: int) -> Float[ndarray, "n 3"]:
    """Points (count, 3) of a MeshLab PickedPoints file (`.pp`), in file order.

    Raises:
        UserError: the file cannot be read or holds another number of points.
    """
    try:
        found = [dict(_ATTRIBUTE.findall(tag)) for tag in _POINT.findall(_text(path))]
        points = np.array([[float(point[axis]) for axis in "xyz"] for point in found])
    except (KeyError, ValueError) as error:
        raise UserError(f"{path} is not a file of picked points: {error!r}") from error
    return checked_points(points, count, path)


def read_number_rows(path: Path) -> Float[ndarray, "n c"]:
    """Rows of numbers divided by blanks or commas, empty lines left out, as (n, c).

    Raises:
        UserError: the file cannot be read, a word is no number, or rows differ in length.
    """
    rows = [line.replace(",", " ").split() for line in _text(path).splitlines()]
    try:
        return np.array([[float(word) for word in row] for row in rows if row], dtype=np.float64)
    except ValueError as error:
        raise UserError(f"{path} does not hold rows of numbers: {error}") from error


def checked_points(points: ndarray, count: int, path: Path) -> Float[ndarray, "n 3"]:
    """The points, if they are (count, 3) and finite.

    Raises:
        UserError: they are not.
    """
    if points.shape != (count, 3) or not np.isfinite(points).all():
        raise UserError(f"{path} must hold {count} finite points x y z; it holds {points.shape}")
    return points


def one_file(folder: Path, suffix: str) -> Path:
    """The only file of that ending in a folder.

    Raises:
        UserError: there is none, or more than one.
    """
    found = sorted(folder.glob(f"*{suffix}")) if folder.is_dir() else []
    if len(found) != 1:
        raise UserError(f"{folder} must hold one {suffix} file; it holds {len(found)}")
    return found[0]


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
