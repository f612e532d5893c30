"""NoW: 2,054 phone photos of 100 people with a 3D scan each; a test set, never trained on.

The official layout is read: `NoW_Dataset.zip` unpacks to `final_release_version/iphone_pictures`
and `.../detected_face`; `imagepathsvalidation.txt` (352 photos of 20 people) and
`imagepathstest.txt` list the photos as SUBJECT/CHALLENGE/IMAGE.jpg; the scans and their seven
picked points come in `scans/SUBJECT/*.obj` and `scans_lmks_onlypp/SUBJECT/*.pp`, for the
validation people only. The parts may lie side by side or inside one another. `detected_face` holds
pickled boxes and is not read: our detector finds the faces.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from lifemask.assets import UserError
from lifemask.data._scan_files import LandmarkedScan, one_file, read_picked_points, read_scan

DOWNLOAD_PAGE = "https://now.is.tue.mpg.de/download.php"
CHALLENGES = ("multiview_neutral", "multiview_expressions", "multiview_occlusions", "selfie")
Split = Literal["validation", "test"]

_LISTS: dict[Split, str] = {
    "validation": "imagepathsvalidation.txt",
    "test": "imagepathstest.txt",
}


@dataclass(frozen=True)
class Now:
    """The photos of one split, in the order of the official list.

    Attributes:
        split: "validation" has scans; those of "test" are kept by the organisers.
        names: n names SUBJECT/CHALLENGE/IMAGE without ending; predictions use them as paths.
        image_paths: n files; empty where the photos are not at hand (scoring does not need them).
        scans: folder of the scans, or None.
        landmarks: folder of their picked points, or None.
    """

    split: Split
    names: tuple[str, ...]
    image_paths: tuple[Path, ...]
    scans: Path | None
    landmarks: Path | None

    def __len__(self) -> int:
        """Number of photos."""
        return len(self.names)

    @property
    def subjects(self) -> tuple[str, ...]:
        """Person of each photo."""
        return tuple(name.split("/")[0] for name in self.names)

    @property
    def challenges(self) -> tuple[str, ...]:
        """Challenge of each photo, one of `CHALLENGES`."""
        return tuple(name.split("/")[1] for name in self.names)

    def scan(self, subject: str) -> LandmarkedScan:
        """Read the scan of a person.

        Raises:
            UserError: this split has no scans, or a file is missing or broken.
        """
        if self.scans is None or self.landmarks is None:
            raise UserError(
                f"no scans for the {self.split} split of NoW here: expected scans/ and"
                f" scans_lmks_onlypp/ from {DOWNLOAD_PAGE}. Test predictions are scored by the"
                " organisers only"
            )
        vertices, faces = read_scan(one_file(self.scans / subject, ".obj"))
        return LandmarkedScan(
            vertices, faces, read_picked_points(one_file(self.landmarks / subject, ".pp"), 7)
        )


def load_now(folder: str | Path, split: Split | None = None) -> Now:
    """Read the list of photos and find the parts of the data set.

    Args:
        folder: holds the official files, directly or in `NoW_Dataset` or `final_release_version`.
        split: None takes validation where its list is present, else test.

    Raises:
        UserError: no list of photos, a malformed line, or photos that are missing; the message
            names the download page.
    """
    places = _places(Path(folder))
    wanted: tuple[Split, ...] = (split,) if split else ("validation", "test")
    lists: list[tuple[Split, Path]] = [(s, place / _LISTS[s]) for s in wanted for place in places]
    found = next(((s, path) for s, path in lists if path.is_file()), None)
    if found is None:
        raise UserError(
            f"no NoW data in {folder}: expected {' or '.join(_LISTS[s] for s in wanted)}. Download"
            f" the data set from {DOWNLOAD_PAGE} (registration, research only) and unpack it there"
        )
    names, endings = _read_list(found[1])
    return Now(
        split=found[0],  # pyright: ignore[reportArgumentType]
        names=names,
        image_paths=_image_paths(_find(places, "iphone_pictures"), names, endings),
        scans=_find(places, "scans"),
        landmarks=_find(places, "scans_lmks_onlypp"),
    )


def _places(root: Path) -> list[Path]:
    """Where parts of the data set may lie."""
    inner = ("", "NoW_Dataset", "final_release_version", "NoW_Dataset/final_release_version")
    return [root / name for name in inner]


def _find(places: list[Path], name: str) -> Path | None:
    """The first folder of that name, also inside `val_scanslmksonlypp` and the like."""
    paths = (p for place in places for p in (place / name, place / _zip_folder(name) / name))
    return next((path for path in paths if path.is_dir()), None)


def _zip_folder(name: str) -> str:
    """Folder that the site's zip of a part is commonly unpacked to."""
    return f"val_{name.replace('_', '')}"


def _read_list(path: Path) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names and endings of the photos that a list names."""
    lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    names, endings = [], []
    for line in filter(None, lines):
        parts = line.replace("\\", "/").split("/")[-3:]
        if len(parts) != 3 or parts[1] not in CHALLENGES:
            raise UserError(f"{path}: {line!r} is not SUBJECT/CHALLENGE/IMAGE.jpg")
        image = Path(parts[2])
        names.append("/".join((parts[0], parts[1], image.stem)))
        endings.append(image.suffix)
    if not names or len(set(names)) != len(names):
        raise UserError(f"{path} is empty or names a photo twice")
    return tuple(names), tuple(endings)


def _image_paths(
    folder: Path | None, names: tuple[str, ...], endings: tuple[str, ...]
) -> tuple[Path, ...]:
    """Files of the photos; none where the pictures were not downloaded."""
    if folder is None:
        return ()
    paths = tuple(folder / (n + e) for n, e in zip(names, endings, strict=True))
    missing = [n for n, path in zip(names, paths, strict=True) if not path.is_file()]
    if missing:
        raise UserError(f"{folder} lacks {len(missing)} of {len(names)} photos, e.g. {missing[0]}")
    return paths


def face_disc(
    landmarks7_mm: Float[ndarray, "7 3"], factor: float = 0.7
) -> tuple[Float[ndarray, "3"], float]:
    """Centre (3,) and radius of the ball that NoW crops scans to, mm.

    The centre lies above the nose bottom, 0.3 of the way to the middle of the inner eye corners;
    the radius is `factor * (outer eye distance + nose length)` (NoW's evaluation code: 1.4 / 2).
    """
    bottom, bridge = landmarks7_mm[4], (landmarks7_mm[1] + landmarks7_mm[2]) / 2
    outer = np.linalg.norm(landmarks7_mm[0] - landmarks7_mm[3])
    nose = np.linalg.norm(bridge - bottom)
    return bottom + 0.3 * (bridge - bottom), float(factor * (outer + nose))
