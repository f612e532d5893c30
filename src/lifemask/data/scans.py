"""A folder of head scans with photos or renders of them: lifemask's own test on real shapes.

    scans.json     {"scans": [{"name", "file", "mm_per_unit", "landmarks7", "notes"}],
                    "photos": [{"name", "file", "scan"}]}

`file` is relative to the folder. A scan may be .glb, .obj or .ply in any unit and pose;
`mm_per_unit` multiplies the numbers in its file (a GLB's metres are not believed: many files lie),
`landmarks7` are seven points on it, in the file's unit: outer and inner corner of the person's
right eye, inner and outer corner of the left eye, nose bottom, right and left mouth corner.
`benchmarks/scans.py` makes such a folder from LeePerrySmith.glb (CC-BY 3.0, Infinite-Realities).
Scans are for tests only: nothing is trained, selected or tuned on them.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray

from lifemask.assets import UserError
from lifemask.data._scan_files import checked_points, read_scan

INDEX = "scans.json"
_GLB_MM = 1000.0  # `read_scan` takes a GLB's unit for a metre


@dataclass(frozen=True)
class HeadScan:
    """One scan in mm.

    Attributes:
        name: of the scan.
        vertices_mm: (v, 3), in the file's pose.
        faces: (f, 3).
        landmarks7_mm: (7, 3), same frame.
    """

    name: str
    vertices_mm: Float[ndarray, "v 3"]
    faces: Int[ndarray, "f 3"]
    landmarks7_mm: Float[ndarray, "7 3"]


@dataclass(frozen=True)
class Scans:
    """Photos and the scans they show.

    Attributes:
        folder: where the files lie.
        names: n photos.
        image_paths: n files.
        shown: n, name of the scan that each photo shows.
        entries: what `scans.json` says about each scan, by name.
    """

    folder: Path
    names: tuple[str, ...]
    image_paths: tuple[Path, ...]
    shown: tuple[str, ...]
    entries: dict[str, dict[str, Any]]

    def __len__(self) -> int:
        """Number of photos."""
        return len(self.names)

    def scan(self, name: str) -> HeadScan:
        """Read a scan.

        Raises:
            UserError: a missing or broken file.
        """
        entry = self.entries[name]
        path = self.folder / entry["file"]
        vertices, faces = read_scan(path)
        unit = float(entry["mm_per_unit"])
        in_file = vertices / (_GLB_MM if path.suffix.lower() == ".glb" else 1.0)
        points = checked_points(np.array(entry["landmarks7"], np.float64), 7, self.folder / INDEX)
        return HeadScan(name, in_file * unit, faces, points * unit)


def load_scans(folder: str | Path) -> Scans:
    """Read a folder's `scans.json` and check that its files exist.

    Raises:
        UserError: no such file, one that does not fit the description, or missing files.
    """
    root = Path(folder)
    path = root / INDEX
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        scans = {str(s["name"]): s for s in content["scans"]}
        photos = [(str(p["name"]), root / p["file"], str(p["scan"])) for p in content["photos"]]
    except FileNotFoundError:
        raise UserError(
            f"no {INDEX} in {root}; see lifemask.data.scans for its form, or make one:"
            " python benchmarks/scans.py --data SCANS --keep FOLDER"
        ) from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is not a list of scans and photos: {error!r}") from error
    _check(path, scans, photos)
    names, files, shown = zip(*photos, strict=True) if photos else ((), (), ())
    return Scans(root, tuple(names), tuple(files), tuple(shown), scans)


def _check(
    path: Path, scans: dict[str, dict[str, Any]], photos: list[tuple[str, Path, str]]
) -> None:
    """Refuse an index whose parts do not fit together."""
    for name, entry in scans.items():
        missing = {"file", "mm_per_unit", "landmarks7"} - set(entry)
        if missing:
            raise UserError(f"{path}: scan {name!r} lacks {', '.join(sorted(missing))}")
        if not (path.parent / entry["file"]).is_file():
            raise UserError(f"{path.parent / entry['file']} does not exist")
    if not photos or len({name for name, _, _ in photos}) != len(photos):
        raise UserError(f"{path} names no photo, or one twice")
    for name, file, scan in photos:
        if scan not in scans:
            raise UserError(f"{path}: photo {name!r} shows {scan!r}, which is not among the scans")
        if not file.is_file():
            raise UserError(f"{file} does not exist")
