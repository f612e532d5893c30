"""FaceWarehouse: 150 people in 20 expressions, fitted by one topology.

Official layout (http://kunzhou.net/zjugaps/facewarehouse/, on request):

    Tester_1/TrainingPose/pose_0.obj .. pose_19.obj    11,510 vertices, pose_0 is neutral
    Tester_1/TrainingPose/pose_0.png ..                the photos
    Tester_1/Blendshape/shape.bs                       neutral and 46 shapes, binary

Published errors are over 9 people and 20 expressions. Which nine is not public: put theirs, or
your own choice, into the folder, or name them in `subjects.txt`, one a line.

The unit of the meshes is not documented: it follows from the height of the first mesh, which is a
head: 150 to 400 mm.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, Float32, Int
from numpy import ndarray

from lifemask.assets import UserError
from lifemask.data._scan_files import read_scan

DOWNLOAD_PAGE = "http://kunzhou.net/zjugaps/facewarehouse/"
POSES = 20
PUBLISHED_SUBJECTS = 9
VERTICES = 11_510
INNER_EYE_CORNERS = (10821, 9376)
"""Vertex at the inner corner of the eye at image left, and at image right (vertex numbers from
https://github.com/eduardramon/hyperparams-free-3D-losses, data/facewarehouse)."""
NOSE_BASE, LIPS = 8935, 6168
"""Vertex under the nose, and between the lips (same source)."""
_UNITS_MM = {"mm": 1.0, "cm": 10.0, "dm": 100.0, "m": 1000.0}
_HEAD_MM = (150.0, 400.0)
_MAX_SHAPES, _MAX_VERTICES = 1000, 1_000_000


@dataclass(frozen=True)
class FaceWarehouse:
    """Some people, all their poses.

    Attributes:
        names: "Tester_1/pose_0" ...: what predictions are called.
        meshes: file by name.
        unit_mm: millimetres per unit of the files.
        complete: nine people with twenty poses each, the published count.
    """

    names: tuple[str, ...]
    meshes: dict[str, Path]
    unit_mm: float
    complete: bool

    def __len__(self) -> int:
        """Number of meshes."""
        return len(self.names)

    @property
    def subjects(self) -> tuple[str, ...]:
        """Person of each mesh."""
        return tuple(name.partition("/")[0] for name in self.names)

    def truth(self, name: str) -> tuple[Float[ndarray, "v 3"], Int[ndarray, "f 3"]]:
        """True vertices (v, 3) in mm, y up, z towards the viewer, and faces (f, 3).

        Raises:
            UserError: the file cannot be read.
        """
        vertices, faces = read_scan(self.meshes[name])
        return vertices * self.unit_mm, faces


def load_facewarehouse(folder: str | Path) -> FaceWarehouse:
    """List people and poses.

    Raises:
        UserError: no pose there, a person of `subjects.txt` is missing, or the first mesh has the
            height of no head in any unit.
    """
    folder = Path(folder)
    people = _people(folder)
    meshes: dict[str, Path] = {}
    for person in people:
        for pose in range(POSES):
            path = folder / person / "TrainingPose" / f"pose_{pose}.obj"
            if path.is_file():
                meshes[f"{person}/pose_{pose}"] = path
    if not meshes:
        raise UserError(
            f"{folder} holds no Tester_N/TrainingPose/pose_K.obj: request FaceWarehouse at"
            f" {DOWNLOAD_PAGE}"
        )
    unit = unit_in_mm(next(iter(meshes.values())))
    complete = len(people) == PUBLISHED_SUBJECTS and len(meshes) == PUBLISHED_SUBJECTS * POSES
    return FaceWarehouse(tuple(meshes), meshes, unit, complete)


def unit_in_mm(mesh: Path) -> float:
    """Millimetres per unit, so that the mesh is as high as a head.

    Raises:
        UserError: no unit does that.
    """
    height = float(np.ptp(read_scan(mesh)[0][:, 1]))
    for size in _UNITS_MM.values():
        if _HEAD_MM[0] <= height * size <= _HEAD_MM[1]:
            return size
    raise UserError(f"{mesh} is {height:.3g} high, a head in none of {', '.join(_UNITS_MM)}")


def read_blendshapes(path: str | Path) -> Float32[ndarray, "s v 3"]:
    """All shapes of a `shape.bs`: (1 + n, v, 3) vertices in the file's unit, the first neutral.

    Format: three int32 (n, v, number of polygons), then (1 + n) v float32 triples: whole
    positions, not offsets.

    Raises:
        UserError: not such a file; nothing is allocated on the word of a damaged header.
    """
    path = Path(path)
    try:
        data = path.read_bytes()
        shapes, vertices, _ = struct.unpack("<3i", data[:12])
    except (OSError, struct.error) as error:
        raise UserError(f"cannot read {path}: {error}") from error
    if not (0 <= shapes <= _MAX_SHAPES and 0 < vertices <= _MAX_VERTICES):
        raise UserError(
            f"{path} is not a FaceWarehouse shape.bs: {shapes} shapes, {vertices} points"
        )
    expected = 12 + (1 + shapes) * vertices * 12
    if len(data) != expected:
        raise UserError(f"{path} is {len(data)} bytes long, its header says {expected}")
    return np.frombuffer(data, "<f4", offset=12).reshape(1 + shapes, vertices, 3).copy()


def _people(folder: Path) -> list[str]:
    """Folders Tester_N by number, or those that `subjects.txt` names."""
    found = [p.name for p in folder.glob("Tester_*") if re.fullmatch(r"Tester_\d+", p.name)]
    found.sort(key=lambda name: int(name.removeprefix("Tester_")))
    listed = folder / "subjects.txt"
    if not listed.is_file():
        return found
    wanted = listed.read_text(encoding="utf-8").split()
    missing = [name for name in wanted if name not in found]
    if missing:
        raise UserError(f"{listed} names {', '.join(missing)}, which {folder} does not hold")
    return wanted
