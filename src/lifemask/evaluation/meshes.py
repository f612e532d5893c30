"""Mesh predictions: a folder with one mesh per item, of lifemask or of any other system."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray

from lifemask.assets import UserError
from lifemask.graphics.meshio import MeshFormatError, read_mesh

SUFFIXES = (".ply", ".obj", ".glb")
LANDMARKS_SUFFIX = ".landmarks.json"
META_NAME = "meta.json"
Triangles = tuple[Float[ndarray, "v 3"], Int[ndarray, "f 3"]]


@dataclass(frozen=True)
class MeshPredictions:
    """A folder of predicted meshes, read one at a time.

    `NAME.ply`, `.obj` or `.glb` is the mesh of item NAME: millimetres (a GLB, in metres by its
    standard, is converted), in the frame that the protocol asks for. A NAME may hold "/": then the
    file lies in a subfolder. `NAME.landmarks.json` beside it may hold points in the same frame,
    `{"set name": [[x, y, z], ...]}`. A missing mesh is a miss: the system returned no face.

    Attributes:
        folder: where the files lie.
        files: mesh file by item name.
        meta: free strings of the system, from `meta.json`: system, method, weights, versions.
    """

    folder: Path
    files: Mapping[str, Path]
    meta: Mapping[str, str] = field(default_factory=dict)

    def __len__(self) -> int:
        """Number of meshes in the folder."""
        return len(self.files)

    def mesh(self, name: str) -> Triangles | None:
        """Vertices (v, 3) float64 mm and faces (f, 3) int64; None for a miss.

        Raises:
            UserError: the file is there but is no mesh, or holds numbers that are not finite.
        """
        return read_triangles(self.files[name]) if name in self.files else None

    def landmarks(self, name: str, convention: str) -> Float[ndarray, "n 3"] | None:
        """The item's points (n, 3) mm of one landmark set; None if the system gave none.

        Raises:
            UserError: the file does not hold lists of three finite numbers.
        """
        path = self.folder / f"{name}{LANDMARKS_SUFFIX}"
        if not path.is_file():
            return None
        rows = _read_json(path).get(convention)
        if rows is None:
            return None
        return _points(rows, f"{path.name}, set {convention!r}")

    def sha256(self) -> str:
        """Digest of names and contents of all files that are read."""
        digest = hashlib.sha256()
        paths = [*self.files.values(), *self.folder.rglob(f"*{LANDMARKS_SUFFIX}")]
        for path in sorted(paths):
            digest.update(path.relative_to(self.folder).as_posix().encode() + b"\0")
            digest.update(hashlib.sha256(path.read_bytes()).digest())
        return digest.hexdigest()


def load_mesh_predictions(folder: str | Path) -> MeshPredictions:
    """List the meshes of a folder; they are read when asked for.

    Raises:
        UserError: no such folder, no mesh in it, one item in two formats, or a broken meta.json.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder: meshes are predicted as one file per item")
    files: dict[str, Path] = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() not in SUFFIXES or not path.is_file():
            continue
        name = path.relative_to(folder).with_suffix("").as_posix()
        if name in files:
            raise UserError(
                f"{folder} holds {name} twice: {files[name].name} and {path.name}; keep one"
            )
        files[name] = path
    if not files:
        raise UserError(f"{folder} holds no mesh ({', '.join(SUFFIXES)})")
    meta_path = folder / META_NAME
    meta = _read_json(meta_path) if meta_path.is_file() else {}
    return MeshPredictions(folder, files, {str(k): str(v) for k, v in meta.items()})


def check_names(predictions: MeshPredictions, names: Iterable[str]) -> None:
    """Refuse a folder that has nothing to do with the data set.

    Raises:
        UserError: the folder has a mesh for none of the items.
    """
    names = tuple(names)
    if not any(name in predictions.files for name in names):
        raise UserError(
            f"{predictions.folder} has a mesh for none of the {len(names)} items of the data set;"
            f" it names {next(iter(predictions.files))!r}, the data set {names[0]!r}"
        )


def read_triangles(path: str | Path) -> Triangles:
    """Vertices (v, 3) float64 mm and faces (f, 3) int64 of a mesh file.

    Raises:
        UserError: the file cannot be read, is no mesh, or holds numbers that are not finite.
    """
    path = Path(path)
    try:
        scene = read_mesh(path)
    except MeshFormatError as error:
        raise UserError(f"{path} is not a mesh: {error}") from error
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    vertices, faces = scene.positions_mm.astype(np.float64), scene.faces.astype(np.int64)
    if not np.isfinite(vertices).all():
        raise UserError(f"{path} holds infinite or undefined numbers; remove it to count a miss")
    if len(faces) == 0 or faces.min() < 0 or faces.max() >= len(vertices):
        raise UserError(f"{path} has no faces, or faces without vertices")
    return vertices, faces


def _points(rows: Any, what: str) -> ndarray:
    try:
        points = np.array(rows, dtype=np.float64)
    except (ValueError, TypeError) as error:
        raise UserError(f"{what}: {error}") from error
    if points.ndim != 2 or points.shape[1] != 3 or not np.isfinite(points).all():
        raise UserError(f"{what} is not a list of [x, y, z] with finite numbers")
    return points


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is not readable JSON: {error}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} must hold a JSON object")
    return content
