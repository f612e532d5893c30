"""Faces prepared for the re-renderable texture: shards of plain npy files, and their header.

A *head* is a face in one pose; it has one or more pictures that differ in light alone. Per shard
there is a file for each of `FIELDS` and `labels-NNNN.npz`, which appears last: a cache can be read
while it is written.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy import ndarray
from torch import Tensor

from lifemask.assets import UserError
from lifemask.data.npz import read_npz

FORMAT = "lifemask-retexture"
VERSION = 1
COMMAND = "python -m lifemask.training.retexture_data OUT --data DATA"
FIELDS = (
    "photo", "light", "points", "places", "visible", "mask", "normals", "albedo", "truth",
)  # fmt: skip
LABELS = ("person", "tone", "yaw_deg")
_STEPS = 8000
"""Steps of a stored map or image coordinate per unit."""


@dataclass(frozen=True)
class HeadRecord:
    """One head; maps have n texels a side, pictures n px.

    Attributes:
        photo: (k, 3, n, n) uint8 sRGB.
        light: (k, 9, 3) float32 radiance coefficients times exposure, camera frame; 0 if unknown.
        points: (2, n, n) where in the picture each texel lies, as `functional.grid_sample` takes
            it (x right, y down, [-1, 1]).
        places: (n, n, 2) where in the map each pixel looks, `OUTSIDE` where nowhere.
        visible: (n, n) in [0, 1], how far the picture shows the texel's skin.
        mask: (n, n) in [0, 1], pixels that show the map's skin and nothing before it.
        normals: (3, n, n) unit, camera frame.
        albedo: (3, n, n) true albedo, sRGB-coded in [0, 1]; 0 if unknown.
        truth: (n, n) in [0, 1], how far the albedo is known.
        person: number of the person in the run.
        tone: luminance of the cheeks' linear albedo; NaN if unknown.
        yaw_deg: of the head.
    """

    photo: ndarray
    light: Float[ndarray, "k 9 3"]
    points: Float[Tensor, "2 n n"]
    places: Float[Tensor, "n n 2"]
    visible: Float[Tensor, "n n"]
    mask: Float[Tensor, "n n"]
    normals: Float[Tensor, "3 n n"]
    albedo: Float[Tensor, "3 n n"]
    truth: Float[Tensor, "n n"]
    person: int
    tone: float
    yaw_deg: float

    def coded(self) -> dict[str, ndarray]:
        """The fields in the small types that are stored."""
        return {
            "photo": self.photo,
            "light": self.light.astype(np.float32),
            "points": _steps(self.points),
            "places": _steps(self.places),
            "normals": (self.normals * 127).round().to(torch.int8).numpy(),
            **{name: _bytes(getattr(self, name)) for name in
               ("visible", "mask", "albedo", "truth")},
        }  # fmt: skip


def decoded(field: str, stored: ndarray) -> Tensor:
    """A stored field as float32, in the units of `HeadRecord`; photos in [0, 1]."""
    values = torch.from_numpy(np.array(stored, np.float32))
    if field in ("points", "places"):
        return values / _STEPS
    if field == "normals":
        return torch.nn.functional.normalize(values, dim=-3)
    return values if field == "light" else values / 255


def _steps(values: Tensor) -> ndarray:
    return (values.clamp(-4, 4) * _STEPS).round().to(torch.int16).numpy()


def _bytes(values: Tensor) -> ndarray:
    return (values.clamp(0, 1) * 255).round().to(torch.uint8).numpy()


@dataclass(frozen=True)
class RetextureCache:
    """A cache of heads; what is not asked for stays on disk.

    Attributes:
        folder: where it lies.
        header: what `header.json` says.
        shards: numbers of the shards that are read.
        arrays: fields of each shard, memory-mapped.
        labels: (n,) arrays by the names in `LABELS`.
        starts: (m + 1,) number of each shard's first head, then n.
    """

    folder: Path
    header: dict[str, Any]
    shards: tuple[int, ...]
    arrays: tuple[dict[str, ndarray], ...]
    labels: dict[str, ndarray]
    starts: Int[ndarray, "m"]

    def __len__(self) -> int:
        """Number of heads."""
        return int(self.starts[-1])

    def __reduce__(self) -> tuple[Any, ...]:
        """Other processes map the same files."""
        return open_cache, (self.folder, self.shards)

    @property
    def size(self) -> int:
        """Side of maps and pictures."""
        return int(self.header["size"])

    @property
    def lights(self) -> int:
        """Pictures of each head."""
        return int(self.header["lights"])

    @property
    def source(self) -> str:
        """What the pictures are: "renders" or "photos"."""
        return str(self.header["source"])

    def field(self, name: str, head: int, picture: int | None = None) -> Tensor:
        """A field of a head, decoded; `photo` and `light` have a row per picture.

        Args:
            name: one of `FIELDS`.
            head: number in the cache.
            picture: reads one row of `photo` or `light`; None reads all.
        """
        shard = int(np.searchsorted(self.starts, head, side="right")) - 1
        rows = self.arrays[shard][name][head - int(self.starts[shard])]
        return decoded(name, rows if picture is None else rows[picture])


def open_cache(folder: str | Path, shards: Sequence[int] | None = None) -> RetextureCache:
    """The complete shards of a cache, or some of them.

    Raises:
        UserError: no such cache, one of another version, or none of its shards is complete.
    """
    root = Path(folder)
    header = read_header(root)
    if shards is None:
        shards = sorted(int(p.stem.removeprefix("labels-")) for p in root.glob("labels-*.npz"))
    if not shards:
        raise UserError(f"{root} holds no complete shard yet; wait for, or run again: {COMMAND}")
    labels = [read_npz(root / f"labels-{k:04d}.npz", LABELS) for k in shards]
    try:
        arrays = tuple(
            {name: np.load(root / f"{name}-{k:04d}.npy", mmap_mode="r") for name in FIELDS}
            for k in shards
        )
    except (OSError, ValueError) as error:
        raise UserError(f"{root} is damaged ({error}); make it again: {COMMAND}") from error
    counts = [len(one["person"]) for one in labels]
    return RetextureCache(
        root, header, tuple(shards), arrays,
        {name: np.concatenate([one[name] for one in labels]) for name in LABELS},
        np.concatenate(([0], np.cumsum(counts))),
    )  # fmt: skip


def read_header(folder: Path) -> dict[str, Any]:
    """What `header.json` of a cache says.

    Raises:
        UserError: no such cache, or one of another format or version.
    """
    try:
        header = json.loads((folder / "header.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"no retexture cache in {folder}; make one: {COMMAND}") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{folder / 'header.json'} is not readable JSON: {error}") from error
    if header.get("format") != FORMAT or header.get("version") != VERSION:
        raise UserError(f"{folder} is not {FORMAT} version {VERSION}; make it again: {COMMAND}")
    return header


def start_cache(folder: Path, settings: dict[str, Any]) -> None:
    """Create a cache, or check that the one in the folder is of the same settings.

    Raises:
        UserError: it is of others.
    """
    wanted = {"format": FORMAT, "version": VERSION, **settings}
    path = folder / "header.json"
    if path.exists():
        stored = read_header(folder)
        wrong = [f"{k}: {stored.get(k)!r}" for k, v in wanted.items() if stored.get(k) != v]
        if wrong:
            raise UserError(f"{folder} holds another run ({', '.join(wrong)}); use a new folder")
        return
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(wanted, indent=1).encode()
    _replace(path, lambda file: file.write(text))


def has_shard(folder: Path, shard: int) -> bool:
    """Whether a shard is complete."""
    return (folder / f"labels-{shard:04d}.npz").is_file()


def write_shard(folder: Path, shard: int, heads: Sequence[HeadRecord]) -> None:
    """Store a shard; its labels appear last and mark it complete."""
    coded = [head.coded() for head in heads]
    for name in FIELDS:
        stack = np.stack([one[name] for one in coded])
        _replace(folder / f"{name}-{shard:04d}.npy", lambda file, a=stack: np.save(file, a))
    labels = {name: np.array([getattr(head, name) for head in heads]) for name in LABELS}
    path = folder / f"labels-{shard:04d}.npz"
    _replace(path, lambda file: np.savez(file, allow_pickle=False, **labels))


def _replace(path: Path, write: Callable[[IO[bytes]], Any]) -> None:
    """Write a file so that it is either absent or complete."""
    temporary = path.with_name(f".{os.getpid()}-{path.name}")
    with temporary.open("wb") as file:
        write(file)
    temporary.replace(path)
