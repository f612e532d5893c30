"""What a predicted head may bring besides its mesh: pose, image points, neutral shape, albedo.

Beside `NAME.ply` (expressive as in the photo, millimetres, the system's own head frame: x right,
y up, z out of the face) may lie

- `NAME.view.json`: `{"rotation": 3 x 3 head to camera frame, "landmarks_px": {"ict68": [[u, v]]}}`,
  0-based photo px, the integer at the pixel's centre;
- `neutral/NAME.ply`: the same person without expression;
- `NAME.albedo.npz`: `albedo` (3, n, n), linear RGB over the UVs of the lifemask head, row 0 at
  v = 1.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from lifemask.assets import UserError
from lifemask.data.npz import read_npz
from lifemask.evaluation.meshes import MeshPredictions, Triangles

NEUTRAL = "neutral"


@dataclass(frozen=True)
class View:
    """How a predicted head stands in its photo.

    Attributes:
        rotation: (3, 3) head frame to camera frame; None if the system gives none.
        landmarks_px: image points (k, 2) by landmark set.
    """

    rotation: Float[ndarray, "3 3"] | None
    landmarks_px: dict[str, Float[ndarray, "k 2"]]


def read_view(predictions: MeshPredictions, name: str) -> View:
    """The view of a prediction; empty where there is no file.

    Raises:
        UserError: the file is there but not as described.
    """
    path = predictions.folder / f"{name}.view.json"
    if not path.is_file():
        return View(None, {})
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        rotation = content.get("rotation")
        rotation = None if rotation is None else np.array(rotation, dtype=np.float64)
        points = {
            key: np.array(rows, dtype=np.float64)[:, :2]
            for key, rows in content.get("landmarks_px", {}).items()
        }
    except (OSError, ValueError, TypeError, IndexError, AttributeError) as error:
        raise UserError(f"{path} is not a view: {error}") from error
    if rotation is not None and not _is_rotation(rotation):
        raise UserError(f"{path}: rotation is not a proper 3 x 3 rotation matrix")
    if not all(np.isfinite(p).all() for p in points.values()):
        raise UserError(f"{path} holds infinite or undefined points")
    return View(rotation, points)


def read_neutral(predictions: MeshPredictions, name: str) -> Triangles | None:
    """The neutral mesh of a prediction, or None."""
    return predictions.mesh(f"{NEUTRAL}/{name}")


def read_albedo(predictions: MeshPredictions, name: str) -> Float[ndarray, "3 n n"] | None:
    """The albedo over lifemask's UVs (3, n, n) float32, linear, or None.

    Raises:
        UserError: the file is there but not as described.
    """
    path = predictions.folder / f"{name}.albedo.npz"
    if not path.is_file():
        return None
    albedo = read_npz(path, ("albedo",))["albedo"].astype(np.float32)
    if albedo.ndim != 3 or albedo.shape[0] != 3 or albedo.shape[1] != albedo.shape[2]:
        raise UserError(f"{path}: albedo is {albedo.shape}, not (3, n, n)")
    if not np.isfinite(albedo).all():
        raise UserError(f"{path} holds infinite or undefined numbers")
    return albedo


def write_head(
    folder: Path,
    name: str,
    mesh: Triangles,
    *,
    landmarks_mm: dict[str, Float[ndarray, "k 3"]],
    view: View | None = None,
    neutral: Triangles | None = None,
    albedo: Float[ndarray, "3 n n"] | None = None,
) -> None:
    """Write a prediction; the mesh appears last and marks it complete."""
    files = {f"{name}.landmarks.json": _json_points(landmarks_mm)}
    if view is not None:
        rotation = None if view.rotation is None else view.rotation.tolist()
        files[f"{name}.view.json"] = {
            "rotation": rotation,
            "landmarks_px": _json_points(view.landmarks_px),
        }
    for file, content in files.items():
        path = folder / file
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f".{path.name}.part")
        part.write_text(json.dumps(content) + "\n", encoding="utf-8")
        part.replace(path)
    if albedo is not None:
        _write_albedo(folder / f"{name}.albedo.npz", albedo)
    if neutral is not None:
        write_triangles(folder / NEUTRAL / f"{name}.ply", neutral)
    write_triangles(folder / f"{name}.ply", mesh)


def write_triangles(path: Path, mesh: Triangles) -> None:
    """A PLY in one step; folders are made."""
    from lifemask.graphics.meshio import MeshPrimitive, MeshScene, write_ply

    vertices, faces = (np.asarray(part) for part in mesh)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = MeshPrimitive("mesh", faces.astype(np.int32))
    write_ply(MeshScene(vertices.astype(np.float32), (part,), name=path.stem), path)


def _write_albedo(path: Path, albedo: ndarray) -> None:
    part = path.with_name(f".{path.name}.part")
    with part.open("wb") as stream:
        np.savez_compressed(stream, allow_pickle=False, albedo=albedo.astype(np.float16))
    part.replace(path)


def _json_points(sets: dict[str, ndarray]) -> dict[str, Any]:
    return {key: np.round(np.asarray(rows, np.float64), 5).tolist() for key, rows in sets.items()}


def _is_rotation(matrix: ndarray) -> bool:
    if matrix.shape != (3, 3) or not np.isfinite(matrix).all():
        return False
    return bool(np.abs(matrix @ matrix.T - np.eye(3)).max() < 1e-3 and np.linalg.det(matrix) > 0)
