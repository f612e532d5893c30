"""MICC Florence 2D/3D: scans of 53 people and the videos from which their heads are rebuilt.

Official layout (https://www.micc.unifi.it/resources/datasets/florence-3d-faces/, on request):

    subject_01/Model/frontal1/obj/110920150452.obj    millimetres, y up, z towards the viewer
    subject_01/Model/frontal2/obj/...obj              a second scan; one subject lacks it
    subject_01/Video/Indoor-Cooperative.mjpg          also PTZ-Indoor.*, PTZ-Outdoor.*

Landmarks are not part of it. Read where they exist, in this order: `STEM.landmarks.json` beside
the mesh ({"ibug68" or "ibug51": [[x, y, z], ...]}); the hand-picked iBUG-68 points published with
GANFit (https://github.com/barisgecer/GANFit, folder MICC_landmarks), copied as
`MICC_landmarks/subject_01/Model/frontal1/obj/STEM.ljson` into the data folder or beside the mesh.
Without them the nose tip follows from `data._nose`.

A minimal copy is enough: `subject_01/ANY.obj`, one scan per subject folder.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy import ndarray

from lifemask.assets import UserError
from lifemask.data._nose import nose_tip
from lifemask.data._scan_files import checked_points, read_scan
from lifemask.facemodel.landmarks import convert

DOWNLOAD_PAGE = "https://www.micc.unifi.it/resources/datasets/florence-3d-faces/"
CONDITIONS = ("Indoor-Cooperative", "PTZ-Indoor", "PTZ-Outdoor")
SUBJECTS = 53
NOSE_TIP_51 = 30 - 17
_SCANS = ("Model/frontal1/obj", "Model/frontal2/obj", "Model/frontal1", "Model/frontal2", ".")
_MESHES = (".obj", ".ply")
_HEIGHT_MM = (80.0, 800.0)  # of a scan; anything else is another unit


@dataclass(frozen=True)
class MiccScan:
    """The truth of one person.

    Attributes:
        vertices_mm: (v, 3), the scan's frame.
        faces: (f, 3).
        nose_tip_mm: (3,).
        landmarks51_mm: (51, 3), iBUG-68 without the jaw, where they were picked.
    """

    vertices_mm: Float[ndarray, "v 3"]
    faces: Int[ndarray, "f 3"]
    nose_tip_mm: Float[ndarray, "3"]
    landmarks51_mm: Float[ndarray, "51 3"] | None


@dataclass(frozen=True)
class Micc:
    """The data set.

    Attributes:
        folder: its root.
        names: one per prediction, "subject_01/Indoor-Cooperative", or "subject_01" where the copy
            holds no videos. A system that works on frames averages the shapes of a video.
        scans: mesh file by subject.
        complete: whether all 53 subjects are there.
    """

    folder: Path
    names: tuple[str, ...]
    scans: dict[str, Path]
    complete: bool

    def __len__(self) -> int:
        """Number of predictions that are expected."""
        return len(self.names)

    @property
    def conditions(self) -> tuple[str, ...]:
        """Condition of each item; "scan" without videos."""
        return tuple(name.partition("/")[2] or "scan" for name in self.names)

    @property
    def image_paths(self) -> tuple[Path, ...]:
        """The video, or folder of frames, of each item; empty unless all are there."""
        found = (_video(self.folder / n.partition("/")[0], n.partition("/")[2]) for n in self.names)
        paths = tuple(path for path in found if path is not None)
        return paths if len(paths) == len(self.names) else ()

    def scan(self, name: str) -> MiccScan:
        """The truth of an item.

        Raises:
            UserError: the scan or its landmarks cannot be read, or are not in millimetres.
        """
        path = self.scans[name.partition("/")[0]]
        vertices, faces = read_scan(path)
        height = float(np.ptp(vertices[:, 1]))
        if not _HEIGHT_MM[0] < height < _HEIGHT_MM[1]:
            raise UserError(f"the scan {path} is {height:.3g} high; MICC's are in millimetres")
        points = _landmarks51(self.folder, path)
        tip = nose_tip(vertices, faces)[0] if points is None else points[NOSE_TIP_51]
        return MiccScan(vertices, faces, tip, points)


def load_micc(folder: str | Path) -> Micc:
    """List subjects, their frontal scans and their videos.

    Raises:
        UserError: no subject folder with a scan; the message names the download page.
    """
    folder = Path(folder)
    scans: dict[str, Path] = {}
    names: list[str] = []
    for person in sorted(folder.glob("subject_*")):
        mesh = _frontal_scan(person)
        if mesh is None:
            continue
        scans[person.name] = mesh
        videos = [c for c in CONDITIONS if _video(person, c) is not None]
        names += [f"{person.name}/{c}" for c in videos] or [person.name]
    if not scans:
        raise UserError(
            f"{folder} holds no subject_NN/Model/frontal1/obj/*.obj: request MICC Florence at"
            f" {DOWNLOAD_PAGE}"
        )
    return Micc(folder, tuple(names), scans, len(scans) == SUBJECTS)


def _frontal_scan(person: Path) -> Path | None:
    """The first frontal scan of a subject."""
    for place in _SCANS:
        meshes = [p for p in sorted((person / place).glob("*")) if p.suffix.lower() in _MESHES]
        if meshes:
            return meshes[0]
    return None


def _video(person: Path, condition: str) -> Path | None:
    """The video, or the folder of its frames; None where there is none."""
    if not condition:
        return None
    places = (person / "Video", person)
    found = (p for place in places for p in sorted(place.glob(f"{condition}*")))
    return next((p for p in found if p.suffix.lower() not in _MESHES), None)


def _landmarks51(folder: Path, mesh: Path) -> Float[ndarray, "51 3"] | None:
    """Picked points of a scan, or None."""
    own = mesh.with_name(f"{mesh.stem}.landmarks.json")
    if own.is_file():
        return _from_sets(own)
    relative = mesh.relative_to(folder).with_suffix(".ljson")
    for path in (mesh.with_suffix(".ljson"), folder / "MICC_landmarks" / relative):
        if path.is_file():
            return _from_menpo(path)
    return None


def _from_sets(path: Path) -> Float[ndarray, "51 3"]:
    content = _json(path)
    for name, count in (("ibug51", 51), ("ibug68", 68)):
        if isinstance(content, dict) and name in content:
            return _inner(_numbers(content[name], path), count, path)
    raise UserError(f"{path} holds neither 'ibug51' nor 'ibug68'")


def _from_menpo(path: Path) -> Float[ndarray, "51 3"]:
    """Points of menpo's LJSON, version 1 (`landmarks` at the top) or 2 (`groups`)."""
    content = _json(path)
    try:
        group = next(iter(content["groups"].values())) if "groups" in content else content
        points = group["landmarks"]["points"]
    except (KeyError, TypeError, AttributeError, StopIteration) as error:
        raise UserError(f"{path} is not a menpo landmark file: {error!r}") from error
    return _inner(_numbers(points, path), 68, path)


def _inner(points: ndarray, count: int, path: Path) -> Float[ndarray, "51 3"]:
    points = checked_points(points, count, path)
    if count == 51:
        return points
    return convert(torch.from_numpy(points), "ibug68", "ibug51").numpy()


def _numbers(rows: Any, path: Path) -> ndarray:
    try:
        return np.array(rows, dtype=np.float64)
    except (ValueError, TypeError) as error:
        raise UserError(f"{path} does not hold rows of three numbers: {error}") from error


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is not readable JSON: {error}") from error
