"""Stirling/ESRC 3D faces in the FG2018 challenge: 2,000 photos of 135 people, scans as truth.

Layout: the challenge's photos in folders `HQ` (656, taken in a studio) and `LQ` (1,344, from
video), at any depth; the database's neutral scans as `F_3D_N/*.obj` and `M_3D_N/*.obj`; and the
challenge's seven points per scan, `annotations/F_3D_N/F1001_N.lnd` (lines "number x y z"), from
github.com/patrikhuber/fg2018-competition. A photo belongs to the person whose code (F or M and four
digits) its name, or else its folder, begins with; of several neutral scans of a person the one
without a suffix is taken. How the photos are named was not verified on the data.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from jaxtyping import Float
from numpy import ndarray

from lifemask.assets import UserError
from lifemask.data._scan_files import LandmarkedScan, checked_points, read_number_rows, read_scan

DOWNLOAD_PAGE = "https://pics.stir.ac.uk/ESRC/"
ANNOTATIONS_PAGE = "https://github.com/patrikhuber/fg2018-competition"
QUALITIES = ("HQ", "LQ")
SCAN_FOLDERS = ("F_3D_N", "M_3D_N")
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp")

_PERSON = re.compile(r"^([fm]\d{4})", re.IGNORECASE)


@dataclass(frozen=True)
class Stirling:
    """The photos, and the files of the scans they belong to.

    Attributes:
        names: n photos as paths without ending, relative to the folder: "HQ/F1001_01".
        image_paths: n files.
        qualities: n, "HQ" or "LQ".
        people: n, codes such as "f1001".
        scan_files: mesh and landmark file by person.
    """

    names: tuple[str, ...]
    image_paths: tuple[Path, ...]
    qualities: tuple[str, ...]
    people: tuple[str, ...]
    scan_files: dict[str, tuple[Path, Path]]

    def __len__(self) -> int:
        """Number of photos."""
        return len(self.names)

    def scan(self, person: str) -> LandmarkedScan:
        """Read a person's scan.

        Raises:
            UserError: a broken file.
        """
        mesh, points = self.scan_files[person]
        return LandmarkedScan(*read_scan(mesh), read_lnd(points))


def load_stirling(folder: str | Path) -> Stirling:
    """List the photos and match them with scans.

    Raises:
        UserError: photos, scans or annotations are absent, or a photo's person has no scan; the
            message names the page to get them from.
    """
    root = Path(folder)
    photos = [(q, p) for q in QUALITIES for p in _photos(root, q)]
    scans = _scans(root)
    if not photos or not scans:
        raise UserError(
            f"no Stirling/ESRC challenge data in {root}: expected photos under HQ/ and LQ/, scans"
            f" in F_3D_N/ and M_3D_N/ (both from {DOWNLOAD_PAGE}, on request) and annotations/"
            f" from {ANNOTATIONS_PAGE}; found {len(photos)} photos and {len(scans)} scans with"
            " annotations"
        )
    people = tuple(_person(path) for _, path in photos)
    lost = sorted({p for p in people if p not in scans})
    if lost:
        raise UserError(f"{root} has no annotated neutral scan of {', '.join(lost[:5])}")
    names = tuple(p.relative_to(root).with_suffix("").as_posix() for _, p in photos)
    return Stirling(names, tuple(p for _, p in photos), tuple(q for q, _ in photos), people, scans)


def read_lnd(path: Path) -> Float[ndarray, "7 3"]:
    """The seven points (7, 3) of a `.lnd` file: number, x, y, z per line (or x, y, z alone).

    Raises:
        UserError: not such a file.
    """
    rows = read_number_rows(path)
    if rows.ndim == 2 and rows.shape[1] == 4:
        order = rows[:, 0].argsort()
        if rows[order, 0].tolist() != list(range(1, len(rows) + 1)):
            raise UserError(f"{path}: points must be numbered from 1")
        rows = rows[order, 1:]
    return checked_points(rows, 7, path)


def _photos(root: Path, quality: str) -> list[Path]:
    """Pictures below the folders of that name, in name order."""
    places = [p for p in sorted(root.rglob(quality)) if p.is_dir()]
    files = {f for place in places for f in place.rglob("*")}
    return sorted(f for f in files if f.suffix.lower() in IMAGE_SUFFIXES)


def _scans(root: Path) -> dict[str, tuple[Path, Path]]:
    """Mesh and annotation of each person who has both; the plainest name wins."""
    annotations = {p.stem.lower(): p for p in root.rglob("*.lnd")}
    meshes = [p for name in SCAN_FOLDERS for d in root.rglob(name) for p in d.glob("*.obj")]
    found: dict[str, tuple[Path, Path]] = {}
    for mesh in sorted(meshes, key=lambda p: (len(p.stem), p.stem.lower())):
        match = _PERSON.match(mesh.stem)
        points = annotations.get(mesh.stem.lower())
        if match and points is not None:
            found.setdefault(match[1].lower(), (mesh, points))
    return found


def _person(path: Path) -> str:
    """Code of the person in a photo, from its name or the nearest folder that begins with one."""
    for part in (path.stem, *(parent.name for parent in path.parents)):
        match = _PERSON.match(part)
        if match:
            return match[1].lower()
    raise UserError(f"{path}: neither the name nor a folder begins with a person's code (F1001)")
