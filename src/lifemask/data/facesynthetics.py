"""FaceSynthetics (Wood et al., ICCV 2021): rendered portraits with segmentation; research only.

Official layout, in a folder or in the zip as downloaded, any folders around it:

    000000.png  000000_seg.png  000000_ldmks.txt  (512 x 512, classes 0-18 and 255, 70 lines "u v")

The sample of 100 as a tar, `000000.jpg`, `000000_seg.png` and all points in `landmarks70.npz`
(`pts` (n, 70, 2)), is read as well. The points are iBUG-68 and the two pupils, 0-based px. "Right"
in the official class names is the viewer's right.
"""

from __future__ import annotations

import io
import re
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from numpy import ndarray

from lifemask.assets import UserError
from lifemask.data.regions import GLASSES, IGNORE, SQUARE_EXPAND, RegionSet
from lifemask.faces.crop import crop_square, square_box

DOWNLOAD = "https://github.com/microsoft/FaceSynthetics"
CLASSES = (
    "background", "skin", "nose", "right_eye", "left_eye", "right_brow", "left_brow", "right_ear",
    "left_ear", "mouth_interior", "top_lip", "bottom_lip", "neck", "hair", "beard", "clothing",
    "glasses", "headwear", "facewear",
)  # fmt: skip
TO_REGION = (8, 4, 0, 2, 2, 3, 3, 6, 6, 5, 1, 1, 6, 7, 4, 8, 4, 7, 8)  # by official class id
GLASSES_CLASS = CLASSES.index("glasses")
SIZE = 384
EXPAND = 1.6  # side of the stored picture in landmark squares: room to turn and shift the view
HELD_OUT = 10
SPLIT_SEED = 0

Opener = Callable[[str], bytes]


def load_facesynthetics(
    path: str | Path, held_out: int = HELD_OUT, limit: int | None = None
) -> tuple[RegionSet, RegionSet]:
    """Training and held-out portraits, cut about the landmark square and mapped to our classes.

    Args:
        path: folder, zip or tar as above.
        held_out: the last pictures of a shuffle with a fixed seed are kept apart.
        limit: read only the first so many pictures.

    Returns:
        (training, held out): pictures of `SIZE` px that show `EXPAND` landmark squares; pixels
        beyond the portrait, and those without an official label, are `IGNORE`.

    Raises:
        UserError: nothing there, a file is missing or broken, or a label that is no class.
    """
    with _opened(Path(path)) as (names, read):
        stems = sorted({m[1] for n in names if (m := re.fullmatch(r"(?:.*/)?(\d{6})_seg\.png", n))})
        if not stems:
            raise UserError(f"no 000000_seg.png in {path}; FaceSynthetics: {DOWNLOAD}")
        reader = _Reader(names, read, str(path))
        parts = [reader.item(stem) for stem in stems[:limit]]
    images, regions = (np.stack(column) for column in zip(*parts, strict=True))
    full = RegionSet("facesynthetics", (images,), (regions,), SIZE * SQUARE_EXPAND / EXPAND, True)
    order = np.random.default_rng(SPLIT_SEED).permutation(len(full))
    cut = len(full) - held_out
    if cut < 1:
        raise UserError(f"{path} has {len(full)} portraits, too few to hold out {held_out}")
    return full.subset(order[:cut]), full.subset(order[cut:])


def read_portraits(
    path: str | Path, limit: int | None = None
) -> Iterator[tuple[str, UInt8[ndarray, "h w 3"], Float[ndarray, "70 2"]]]:
    """Name, picture and points (iBUG-68 and the pupils, 0-based px) of each portrait.

    Raises:
        UserError: nothing there, or a file is missing or broken.
    """
    with _opened(Path(path)) as (names, read):
        stems = sorted({m[1] for n in names if (m := re.fullmatch(r"(?:.*/)?(\d{6})_seg\.png", n))})
        if not stems:
            raise UserError(f"no 000000_seg.png in {path}; FaceSynthetics: {DOWNLOAD}")
        reader = _Reader(names, read, str(path))
        for stem in stems[:limit]:
            yield stem, reader.picture(stem), reader.points(stem)


def regions_from_classes(classes: UInt8[ndarray, "h w"]) -> UInt8[ndarray, "h w"]:
    """Our region ids (h, w), glasses flagged, from the official class ids; 255 stays `IGNORE`.

    The official class shows frames and dark glass; what lies behind clear glass is labelled.

    Raises:
        UserError: an id that is neither a class nor 255.
    """
    table = np.full(256, 254, np.uint8)
    table[: len(TO_REGION)] = TO_REGION
    table[GLASSES_CLASS] |= GLASSES
    table[255] = IGNORE
    regions = table[classes]
    if (regions == 254).any():
        raise UserError(
            f"{sorted(set(classes[regions == 254].tolist()))} are no FaceSynthetics ids"
        )
    return regions


def cut_portrait(
    image: UInt8[ndarray, "h w 3"],
    regions: UInt8[ndarray, "h w"],
    points: Float[ndarray, "k 2"],
    size: int = SIZE,
) -> tuple[UInt8[ndarray, "s s 3"], UInt8[ndarray, "s s"]]:
    """The square of `EXPAND` landmark squares: picture (antialiased) and regions (nearest)."""
    center, side = square_box(torch.from_numpy(points[:68]))
    crop = crop_square(image, center, side * EXPAND, size)
    pixels = (crop.image * 255).round().byte().permute(1, 2, 0).numpy()
    steps = (np.arange(size) + 0.5) * crop.side_px / size - crop.side_px / 2
    u, v = (np.round(c + steps).astype(int) for c in center)
    height, width = regions.shape
    inside = ((v >= 0) & (v < height))[:, None] & ((u >= 0) & (u < width))
    cut = regions[np.clip(v, 0, height - 1)[:, None], np.clip(u, 0, width - 1)]
    return pixels, np.where(inside, cut, np.uint8(IGNORE))


class _Reader:
    """Portraits of an opened archive or folder."""

    def __init__(self, names: list[str], read: Opener, where: str) -> None:
        self._by_file = {Path(name).name: name for name in names}
        self._read = read
        self._where = where
        self._points: ndarray | None = None
        if "landmarks70.npz" in self._by_file:
            with np.load(io.BytesIO(self._bytes("landmarks70.npz")), allow_pickle=False) as file:
                self._points = file["pts"].astype(np.float32)

    def item(self, stem: str) -> tuple[ndarray, ndarray]:
        """Picture and region map of one portrait."""
        image = self.picture(stem)
        regions = regions_from_classes(self._picture(f"{stem}_seg.png", "L"))
        if image.shape[:2] != regions.shape:
            raise UserError(f"{stem} in {self._where}: picture and segmentation differ in size")
        return cut_portrait(image, regions, self.points(stem))

    def picture(self, stem: str) -> ndarray:
        """(h, w, 3) uint8."""
        suffix = ".png" if f"{stem}.png" in self._by_file else ".jpg"
        return self._picture(f"{stem}{suffix}", "RGB")

    def points(self, stem: str) -> ndarray:
        """(70, 2) px."""
        if f"{stem}_ldmks.txt" not in self._by_file and self._points is not None:
            return self._points[int(stem)]
        text = self._bytes(f"{stem}_ldmks.txt").decode("ascii", "replace")
        try:
            points = np.array(text.split(), np.float32).reshape(-1, 2)
        except ValueError:
            points = np.zeros((0, 2), np.float32)
        if len(points) != 70 or not np.isfinite(points).all():
            raise UserError(f"{stem}_ldmks.txt in {self._where} does not hold 70 points")
        return points

    def _picture(self, file: str, mode: str) -> ndarray:
        from PIL import Image

        try:
            with Image.open(io.BytesIO(self._bytes(file))) as picture:
                if mode == "L" and picture.mode not in ("L", "P"):
                    raise UserError(f"{file} in {self._where} is {picture.mode}, not class ids")
                return np.asarray(picture if mode == "L" else picture.convert(mode))
        except OSError as error:
            raise UserError(f"cannot read {file} in {self._where}: {error}") from error

    def _bytes(self, file: str) -> bytes:
        if file not in self._by_file:
            raise UserError(f"{self._where} lacks {file}; FaceSynthetics: {DOWNLOAD}")
        return self._read(self._by_file[file])


@contextmanager
def _opened(path: Path) -> Iterator[tuple[list[str], Opener]]:
    """Names of all files and a function that reads one of them."""
    if path.is_dir():
        names = [p.relative_to(path).as_posix() for p in path.rglob("*") if p.is_file()]
        yield names, lambda name: (path / name).read_bytes()
        return
    if not path.is_file():
        raise UserError(f"{path} does not exist; FaceSynthetics: {DOWNLOAD}")
    try:
        if tarfile.is_tarfile(path):  # first: a tar that ends with an .npz looks like a zip too
            with tarfile.open(path) as archive:
                yield archive.getnames(), lambda name: _member(archive, name)
        else:
            with zipfile.ZipFile(path) as archive:
                yield archive.namelist(), archive.read
    except (zipfile.BadZipFile, tarfile.TarError) as error:
        raise UserError(f"cannot read {path}: {error}; FaceSynthetics: {DOWNLOAD}") from error


def _member(archive: tarfile.TarFile, name: str) -> bytes:
    stream = archive.extractfile(name)
    assert stream is not None  # names with six digits and a suffix are files
    return stream.read()
