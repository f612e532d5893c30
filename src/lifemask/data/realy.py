"""REALY: 100 LYHM head scans cut into four regions, with 85 key points; a test set.

Official layout (from the Headspace agreement): `REALY_scan_region/ID/` with `nose.obj`,
`mouth.obj`, `forehead.obj` and `cheek.obj`, `REALY_HIFI3D_keypoints/ID.obj` (85 vertices in order),
photos in `REALY_image/`, and the scale file of the benchmark's repository, `metrical_scale.txt` (mm
per unit of scan ID in line ID). Scans are stored in a normalised unit of about 9 mm. The photos'
names begin with the scan's number: `12.png`, or `12_3.png` for the third view.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray

from lifemask.assets import UserError
from lifemask.data._scan_files import checked_points, read_number_rows, read_scan

DOWNLOAD_PAGE = "https://www-users.york.ac.uk/~np7/research/Headspace/"
CODE_PAGE = "https://github.com/czh-98/REALY"
Region = Literal["nose", "mouth", "forehead", "cheek"]
REGIONS: tuple[Region, ...] = ("nose", "mouth", "forehead", "cheek")
KEYPOINTS = 85
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg")


@dataclass(frozen=True)
class RealyScan:
    """The regions of one scan, in the benchmark's own unit.

    Attributes:
        regions: vertices (v, 3) and faces (f, 3) by region.
        keypoints: (85, 3); the first 68 are iBUG's, the rest lie on the cheeks.
        mm_per_unit: factor to millimetres.
    """

    regions: dict[Region, tuple[Float[ndarray, "v 3"], Int[ndarray, "f 3"]]]
    keypoints: Float[ndarray, "85 3"]
    mm_per_unit: float


@dataclass(frozen=True)
class Realy:
    """The photos, and where the scans lie.

    Attributes:
        folder: the data set's root.
        names: n photos, "ID" or "ID_VIEW", or the scans' numbers where the photos are absent.
        image_paths: n files; empty where the photos are not at hand (scoring does not need them).
        mm_per_unit: by scan number.
    """

    folder: Path
    names: tuple[str, ...]
    image_paths: tuple[Path, ...]
    mm_per_unit: dict[int, float]

    def __len__(self) -> int:
        """Number of photos."""
        return len(self.names)

    @property
    def subjects(self) -> tuple[int, ...]:
        """Scan number of each photo."""
        return tuple(scan_number(name) for name in self.names)

    def scan(self, subject: int) -> RealyScan:
        """Read a scan's regions and key points.

        Raises:
            UserError: a missing or broken file.
        """
        place = self.folder / "REALY_scan_region" / str(subject)
        regions: dict[Region, tuple[ndarray, ndarray]] = {
            region: read_scan(place / f"{region}.obj") for region in REGIONS
        }
        path = self.folder / "REALY_HIFI3D_keypoints" / f"{subject}.obj"
        return RealyScan(regions, _read_vertices(path, KEYPOINTS), self.mm_per_unit[subject])


def load_realy(folder: str | Path) -> Realy:
    """Find the scans, their scales and the photos.

    Raises:
        UserError: something is absent; the message says what and where to get it.
    """
    root = Path(folder)
    place = root / "REALY_scan_region"
    numbers = sorted(int(p.name) for p in place.glob("*") if p.is_dir() and p.name.isdigit())
    scale = next((p for p in (root, root / "data") if (p / "metrical_scale.txt").is_file()), None)
    if not numbers or scale is None or not (root / "REALY_HIFI3D_keypoints").is_dir():
        raise UserError(
            f"no REALY data in {root}: expected REALY_scan_region/, REALY_HIFI3D_keypoints/ (from"
            f" {DOWNLOAD_PAGE}, after the Headspace agreement) and metrical_scale.txt (from"
            f" {CODE_PAGE}, data/)"
        )
    scales = read_number_rows(scale / "metrical_scale.txt").reshape(-1)
    if len(scales) < numbers[-1] or not (scales > 0).all():
        raise UserError(f"metrical_scale.txt has {len(scales)} scales, none for {numbers[-1]}")
    photos = _photos(root)
    strange = [n for n in photos if scan_number(n) not in numbers]
    if strange:
        raise UserError(f"photo {strange[0]} in {root} belongs to none of the {len(numbers)} scans")
    names = tuple(photos) or tuple(str(n) for n in numbers)
    return Realy(root, names, tuple(photos.values()), {n: float(scales[n - 1]) for n in numbers})


def scan_number(name: str) -> int:
    """The scan that a photo shows: the digits before "_".

    Raises:
        UserError: the name does not begin with a number.
    """
    head = name.rsplit("/", 1)[-1].split("_")[0]
    if not head.isdigit():
        raise UserError(f"{name!r} is not the name of a REALY photo: ID or ID_VIEW")
    return int(head)


def _photos(root: Path) -> dict[str, Path]:
    """Photos by name, in the order of scan and view; those in `REALY_image`, or its subfolders."""
    place = root / "REALY_image"
    files = [p for p in place.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES]
    files = [p for p in files if p.stem.replace("_", "").isdigit()]
    found: dict[str, Path] = {}
    for path in sorted(files, key=lambda p: [int(n) for n in p.stem.split("_") if n]):
        if path.stem in found:
            raise UserError(f"{place} holds {path.stem} twice; keep one version of the photos")
        found[path.stem] = path
    return found


def _read_vertices(path: Path, count: int) -> Float[ndarray, "n 3"]:
    """The `v` lines of an OBJ that need not have faces."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
        rows = [[float(w) for w in line.split()[1:4]] for line in lines if line.startswith("v ")]
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read the key points {path}: {error}") from error
    return checked_points(np.array(rows, dtype=np.float64), count, path)
