"""Sets of labelled face crops in memory: the common form that training reads, and its splits."""

from __future__ import annotations

import io
import json
import os
import tarfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8
from numpy import ndarray

from lifemask.assets import UserError
from lifemask.data.sight import along_sight


@dataclass(frozen=True)
class CropSet:
    """Labelled square crops of one source; arrays may be memory maps.

    Attributes:
        name: of the source, e.g. "renders", "aflw21", "ytf68".
        convention: landmark set of `points`.
        images: one (m, s, s, 3) uint8 sRGB array per shard; all shards have the same s.
        points: (n, k, 2 or 3) image px, over all shards in order.
        visible: (n, k) whether a point is labelled (real crops) or seen (renders).
        nominal_side_px: side of the nominal crop, centred in the image, in image px.
        yaw_deg: (n,) in lifemask's sign, NaN where unknown.
        weight: (n,) relative frequency in training.
        person: (n,) whose face it is, by number; None where unknown.
        frame: (n,) number of the picture within a person's video clips, its tens the clip; crops
            of equal person and frame may show the same picture. None where there are no clips.
    """

    name: str
    convention: str
    images: tuple[UInt8[ndarray, "m s s 3"], ...]
    points: Float[ndarray, "n k d"]
    visible: Bool[ndarray, "n k"]
    nominal_side_px: float
    yaw_deg: Float[ndarray, "n"]
    weight: Float[ndarray, "n"]
    person: Int[ndarray, "n"] | None = None
    frame: Int[ndarray, "n"] | None = None

    def __len__(self) -> int:
        """Number of crops."""
        return len(self.points)

    def gather(self, ids: Int[ndarray, "b"]) -> UInt8[ndarray, "b s s 3"]:
        """Images (b, s, s, 3) of some crops."""
        starts = np.cumsum([0, *(len(shard) for shard in self.images)])
        shard = np.searchsorted(starts, ids, side="right") - 1
        return np.stack([self.images[s][i - starts[s]] for s, i in zip(shard, ids, strict=True)])

    def subset(self, ids: Int[ndarray, "m"]) -> CropSet:
        """A set of some of the crops, images copied into memory."""
        return CropSet(
            self.name,
            self.convention,
            (self.gather(ids),),
            self.points[ids],
            self.visible[ids],
            self.nominal_side_px,
            self.yaw_deg[ids],
            self.weight[ids],
            None if self.person is None else self.person[ids],
            None if self.frame is None else self.frame[ids],
        )


def save_crops(crops: CropSet, folder: Path) -> None:
    """Store a set so that `load_crops` can map it; several processes then share its memory.

    A set that was stored there stays whole for whoever has mapped it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    labels = {
        "name": np.array(crops.name),
        "convention": np.array(crops.convention),
        "points": crops.points,
        "visible": crops.visible,
        "nominal_side_px": np.array(crops.nominal_side_px),
        "yaw_deg": crops.yaw_deg,
        "weight": crops.weight,
    }
    labels |= {k: v for k in ("person", "frame") if (v := getattr(crops, k)) is not None}
    with _replacing(folder / "images.npy") as file:
        np.save(file, np.concatenate(crops.images))
    with _replacing(folder / "labels.npz") as file:
        np.savez(file, allow_pickle=False, **labels)


@contextmanager
def _replacing(path: Path) -> Iterator[IO[bytes]]:
    """A file to write that takes its place when it is complete."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with temporary.open("wb") as file:
            yield file
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def load_crops(folder: Path) -> CropSet:
    """A set that `save_crops` stored, images mapped.

    Raises:
        UserError: files are missing or broken.
    """
    arrays = read_labels(folder / "labels.npz")
    return CropSet(
        name=str(arrays["name"]),
        convention=str(arrays["convention"]),
        images=(np.load(folder / "images.npy", mmap_mode="r", allow_pickle=False),),
        points=arrays["points"],
        visible=arrays["visible"],
        nominal_side_px=float(arrays["nominal_side_px"]),
        yaw_deg=arrays["yaw_deg"],
        weight=arrays["weight"],
        person=arrays.get("person"),
        frame=arrays.get("frame"),
    )


def read_jpegs(tars: Iterable[Path]) -> dict[str, UInt8[ndarray, "h w 3"]]:
    """All JPEGs of some tar files as uint8 RGB by file name without suffix.

    Raises:
        UserError: a tar file that is missing or cannot be read.
    """
    from PIL import Image

    images: dict[str, ndarray] = {}
    for path in tars:
        try:
            with tarfile.open(path) as archive:
                for member in archive:
                    stream = archive.extractfile(member)
                    if stream is None or not member.name.endswith(".jpg"):
                        continue
                    with Image.open(io.BytesIO(stream.read())) as image:
                        images[Path(member.name).stem] = np.asarray(image.convert("RGB"))
        except (OSError, tarfile.TarError) as error:
            raise UserError(f"cannot read {path}: {error}. See docs/landmarker.md, Data") from error
    return images


class JpegTars:
    """The JPEGs of some tar files by file name without suffix; the tars are listed once."""

    def __init__(self, tars: Iterable[Path]) -> None:
        """List the members.

        Raises:
            UserError: a tar file that is missing or cannot be read.
        """
        self._place: dict[str, tuple[Path, int, int]] = {}
        for path in tars:
            try:
                with tarfile.open(path) as archive:
                    for member in archive:
                        if member.isfile() and member.name.endswith(".jpg"):
                            place = (path, member.offset_data, member.size)
                            self._place[Path(member.name).stem] = place
            except (OSError, tarfile.TarError) as error:
                raise UserError(f"cannot read {path}: {error}") from error

    def __contains__(self, name: str) -> bool:
        """Whether there is a picture of that name."""
        return name in self._place

    def read(self, name: str) -> UInt8[ndarray, "h w 3"]:
        """A picture (h, w, 3), RGB.

        Raises:
            UserError: there is none of that name.
        """
        from PIL import Image

        if name not in self._place:
            raise UserError(f"no {name}.jpg in the tar files")
        path, start, size = self._place[name]
        with path.open("rb") as stream:
            stream.seek(start)
            with Image.open(io.BytesIO(stream.read(size))) as image:
                return np.asarray(image.convert("RGB"))


def read_labels(path: Path) -> dict[str, ndarray]:
    """All arrays of a label file, each read once.

    Raises:
        UserError: the file is missing or broken.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {key: archive[key] for key in archive.files}
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {path}: {error}. See docs/landmarker.md, Data") from error


def read_cache_header(folder: Path, held_out: bool = False) -> dict[str, Any]:
    """`header.json` of a cache of renders.

    Args:
        folder: of the cache.
        held_out: to be scored, not trained on: people who are reserved for tests may be there.

    Raises:
        UserError: it is missing or broken, or the cache shows people who are reserved for tests
            and is not asked for as such.
    """
    from lifemask.data.synthetic import HELD_OUT_SEED

    try:
        header = json.loads((folder / "header.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{folder} is no cache of renders: {error}") from error
    if int(header.get("seed", 0)) >= HELD_OUT_SEED and not held_out:
        raise UserError(
            f"{folder} holds test people (seeds from {HELD_OUT_SEED}): train on another seed"
        )
    return header


def load_render_cache(folder: Path, shards: slice = slice(None)) -> CropSet:
    """The complete shards of a folder that `lifemask.data.synthetic` wrote; images are mapped.

    People are known if all the shards tell them. w of the points is nearness along the line of
    sight, see `data.sight`.

    Args:
        folder: holds `header.json`, `images-XXXX.npy` and `labels-XXXX.npz`.
        shards: which of the shards, in name order.

    Raises:
        UserError: no complete shard there, or people reserved for tests.
    """
    labels = sorted(folder.glob("labels-*.npz"))[shards]
    if not labels:
        raise UserError(
            f"no complete shard of renders in {folder}: run python -m lifemask.data.synthetic"
        )
    header = read_cache_header(folder)
    images, points, visible, rotation, person = [], [], [], [], []
    for path in labels:
        arrays = read_labels(path)
        name = path.name.replace("labels-", "images-").replace(".npz", ".npy")
        images.append(np.load(folder / name, mmap_mode="r", allow_pickle=False))
        points.append(along_sight(arrays))
        visible.append(arrays["visible"].astype(bool))
        rotation.append(arrays["rotation"])
        person += [arrays["person"]] if "person" in arrays else []
    matrices = np.concatenate(rotation)
    forward = matrices[:, :, 2]
    return CropSet(
        name="renders",
        convention=header["convention"],
        images=tuple(images),
        points=np.concatenate(points),
        visible=np.concatenate(visible),
        nominal_side_px=float(header["nominal_side_px"]),
        yaw_deg=np.degrees(np.arctan2(forward[:, 0], forward[:, 2])),
        weight=np.ones(len(matrices), np.float32),
        person=np.concatenate(person) if len(person) == len(labels) else None,
    )


def group_duplicates(
    images: UInt8[ndarray, "n s s 3"], threshold: float = 0.97, cells: int = 16
) -> Int[ndarray, "n"]:
    """Group number of each picture; near-duplicates and mirrored ones share a group.

    Two pictures are joined when their green, mean-free, `cells` x `cells` thumbnails correlate
    above the threshold; groups are the connected components.

    Args:
        images: (n, s, s, 3) uint8, s a multiple of `cells` or cut to one.
        threshold: correlation above which two pictures are the same.
        cells: side of the thumbnail.

    Returns:
        (n,) smallest index in each picture's group.
    """
    side = images.shape[1] // cells * cells
    step = side // cells
    thumbs = np.zeros((len(images), cells, cells), np.float32)
    for row in range(step):
        for column in range(step):
            thumbs += images[:, row:side:step, column:side:step, 1]
    flat, mirrored = (_unit_rows(t) for t in (thumbs, thumbs[:, :, ::-1]))
    parent = np.arange(len(images))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    for start in range(0, len(flat), 1024):
        block = flat[start : start + 1024]
        alike = np.maximum(block @ flat.T, block @ mirrored.T) > threshold
        for i, j in zip(*np.nonzero(alike), strict=True):
            a, b = root(start + int(i)), root(int(j))
            parent[max(a, b)] = min(a, b)
    return np.array([root(i) for i in range(len(parent))])


def hold_out_last(groups: Int[ndarray, "n"], count: int) -> Bool[ndarray, "n"]:
    """Mask of the held-out items: whole groups, from the last item backwards, at least `count`."""
    held = np.zeros(len(groups), bool)
    sizes = np.bincount(groups, minlength=len(groups))
    chosen: set[int] = set()
    total = 0
    for group in groups[::-1]:
        if total >= count:
            break
        if int(group) not in chosen:
            chosen.add(int(group))
            total += int(sizes[group])
    held[np.isin(groups, list(chosen))] = True
    return held


def _unit_rows(thumbs: ndarray) -> ndarray:
    rows = thumbs.reshape(len(thumbs), -1)
    rows = rows - rows.mean(1, keepdims=True)
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-6)
