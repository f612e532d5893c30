"""What our landmarker finds on stored crops: the noisy landmarks that enter 2DASL's input map."""

from __future__ import annotations

import hashlib
import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy import ndarray
from torch import Tensor

from lifemask.assets import weights_path
from lifemask.data.augment import View, warp
from lifemask.data.base import CropSet
from lifemask.data.npz import read_npz
from lifemask.facemodel import load_face_model
from lifemask.facemodel.landmarks import convert
from lifemask.faces.landmarker import CONVENTION, load_landmarker
from lifemask.graphics.pose import procrustes_camera
from lifemask.nn.landmark_map import facing, map18_normals
from lifemask.training.crop_sources import nominal_view
from lifemask.training.recipes import Family

logger = logging.getLogger(__name__)
SCORED = "ibug68-3d-bfm"
BATCH = 64
FORMAT_VERSION = 1
_FIELDS = ("points", "drawn", "points68")


class CropLandmarker(Protocol):
    """The part of `faces.landmarker.Landmarker` that is used."""

    size: int

    def predict_crops(self, crops: Float[Tensor, "b 3 s s"]) -> Float[Tensor, "b n 4"]:
        """(u, v, w, sigma) in crop px."""
        ...


@dataclass(frozen=True)
class DetectedMaps:
    """Landmarks that a detector finds; stored-image px.

    Attributes:
        points: (n, 18, 2) Map-18.
        drawn: (n, 18) the head's surface faces the camera there.
        points68: (n, 68, 2) "ibug68-3d-bfm".
    """

    points: Float[ndarray, "n 18 2"]
    drawn: Bool[ndarray, "n 18"]
    points68: Float[ndarray, "n 68 2"]

    def __len__(self) -> int:
        """Number of faces."""
        return len(self.points)

    def subset(self, ids: Int[ndarray, "m"] | slice) -> DetectedMaps:
        """Landmarks of some of the faces."""
        return DetectedMaps(*(getattr(self, name)[ids] for name in _FIELDS))


def detected_maps(crops: CropSet, family: Family, prepared: Path | None = None) -> DetectedMaps:
    """Landmarks of all crops of a set by the family's shipped landmarker.

    About 3 ms per crop on one core, so the result is kept in `prepared` under a name that changes
    with the landmarker's weights, the pictures and their labels.

    Args:
        crops: any set of crops.
        family: whose landmarker looks.
        prepared: folder of results; None keeps nothing.

    Raises:
        AssetError: the landmarker's weights are missing or damaged.
        UserError: a stored result cannot be read.
    """
    place = None if prepared is None else prepared / f"detected-{_key(crops, family)}.npz"
    if place is not None and place.is_file():
        arrays = read_npz(place, _FIELDS)
        return DetectedMaps(*(arrays[name] for name in _FIELDS))
    threads = torch.get_num_threads()
    maps = run_landmarker(crops, load_landmarker(family, threads=threads))
    if place is not None:
        _store(place, maps)
    return maps


def run_landmarker(crops: CropSet, landmarker: CropLandmarker) -> DetectedMaps:
    """Landmarks of the nominal crops of a set, brought back to stored-image px."""
    parts = []
    with _bar() as bar:
        task = bar.add_task(f"landmarks of {crops.name}", total=len(crops))
        for start in range(0, len(crops), BATCH):
            ids = np.arange(start, min(start + BATCH, len(crops)))
            parts.append(_find(crops, ids, landmarker))
            bar.advance(task, len(ids))
    return DetectedMaps(*(np.concatenate([getattr(p, name) for p in parts]) for name in _FIELDS))


def _find(crops: CropSet, ids: ndarray, landmarker: CropLandmarker) -> DetectedMaps:
    images = crops.gather(ids)
    size = landmarker.size
    view = nominal_view(crops, len(ids), size)
    pixels = torch.from_numpy(warp(images, view, size) / np.float32(255)).permute(0, 3, 1, 2)
    found = landmarker.predict_crops(pixels.contiguous())[..., :3].float()
    points68 = convert(found, CONVENTION, SCORED)[..., :2]
    points18 = convert(points68, SCORED, "map18")
    return DetectedMaps(
        _stored_px(points18, view), _facing_camera(found).numpy(), _stored_px(points68, view)
    )


def _facing_camera(points: Float[Tensor, "b n 3"]) -> Bool[Tensor, "b 18"]:
    """Which Map-18 points of heads, given by their 392 points, face the camera."""
    model = load_face_model()
    with torch.no_grad():
        mean = model.landmarks(
            model(torch.zeros(model.identity_size), torch.zeros(len(model.expression_names))),
            CONVENTION,
        )
        rotation = procrustes_camera(mean.expand_as(points), points).rotation
        return facing(rotation, map18_normals(model, SCORED))


def _stored_px(points: Tensor, view: View) -> ndarray:
    """Crop px back to stored-image px."""
    inverse = np.linalg.inv(view.matrix)
    moved = (points.numpy() - view.offset[:, None]) @ inverse.swapaxes(1, 2)
    return moved.astype(np.float32)


def _key(crops: CropSet, family: Family) -> str:
    """Family, set, count, and a hash of the weights and of what the crops show."""
    digest = hashlib.sha1(weights_path(f"landmarker-{family}.onnx").read_bytes())
    digest.update(f"{FORMAT_VERSION} {crops.convention} {crops.nominal_side_px}".encode())
    digest.update(np.ascontiguousarray(crops.points).tobytes())
    some = np.linspace(0, len(crops) - 1, min(len(crops), 16)).astype(int)
    digest.update(crops.gather(some).tobytes())
    return f"{family}-{crops.name}-{len(crops)}-{digest.hexdigest()[:12]}"


def _store(place: Path, maps: DetectedMaps) -> None:
    """Write a file so that it is either absent or complete."""
    place.parent.mkdir(parents=True, exist_ok=True)
    temporary = place.with_name(f".{os.getpid()}-{place.name}")
    with temporary.open("wb") as file:
        np.savez(file, allow_pickle=False, **{name: getattr(maps, name) for name in _FIELDS})
    temporary.replace(place)


def _bar() -> Any:
    from rich.console import Console
    from rich.progress import MofNCompleteColumn, Progress, TimeRemainingColumn

    columns = (*Progress.get_default_columns()[:2], MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=Console(stderr=True))
