"""What PGN trains on: several frames of rendered people, single photos, frames of real people.

Renders know everything. AFLW-21 gives single photos with 21 points, YouTube Faces several frames
of a person with 68 automatic points (both research only). A set is split by person.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy import ndarray

from lifemask.assets import UserError
from lifemask.data.base import CropSet, load_render_cache
from lifemask.facemodel.base import FaceModel
from lifemask.training.crop_sources import REAL_SETS, real_crops, renders_tag
from lifemask.training.dasl_data import FaceSet
from lifemask.training.dasl_labels import pose_labels
from lifemask.training.pgn_labels import RenderCameras, render_cameras
from lifemask.training.recipes import Family

MOST_ASPECT = 1.15  # of a frame, against the head model: stretched ones break the camera


@dataclass(frozen=True)
class PgnFaces:
    """Faces of one source.

    Attributes:
        faces: crops, with coefficients if they are renders.
        cameras: of renders, else None.
        yaw_deg: (n,) of the head; NaN where unknown.
        usable: (n,) may stand in a pair: not a stretched frame.
    """

    faces: FaceSet
    cameras: RenderCameras | None
    yaw_deg: Float[ndarray, "n"]
    usable: Bool[ndarray, "n"]

    def __len__(self) -> int:
        """Number of faces."""
        return len(self.faces)

    @property
    def crops(self) -> CropSet:
        """Pictures and landmarks."""
        return self.faces.crops

    def subset(self, ids: Int[ndarray, "m"]) -> PgnFaces:
        """Some of the faces, images copied into memory."""
        cameras = None if self.cameras is None else self.cameras.subset(ids)
        return PgnFaces(self.faces.subset(ids), cameras, self.yaw_deg[ids], self.usable[ids])


@dataclass(frozen=True)
class PgnCorpus:
    """Everything that a family may see.

    Attributes:
        labelled: renders, drawn in proportion to size.
        photos: "aflw21" and "ytf68" of the research family.
        held_out: "renders-open", "renders-research", "aflw21", "ytf68".
    """

    labelled: list[PgnFaces]
    photos: dict[str, PgnFaces]
    held_out: dict[str, PgnFaces]


def load_pgn_corpus(
    family: Family,
    data: Path | None,
    caches: list[Path],
    prepared: Path | None,
    held_out_renders: int,
    model: FaceModel,
) -> PgnCorpus:
    """Everything that a family may see; no person is in two of its parts.

    Args:
        family: "open" or "research".
        data: folder with `aflw21` and `ytf68`; needed by "research" unless they are prepared.
        caches: folders of renders; those with several frames per person give pairs.
        prepared: folder where decoded real crops are kept.
        held_out_renders: number of each cache's first shards that are not trained on.
        model: the head model that was rendered.

    Raises:
        UserError: data are missing, or renders that the family may not train on.
    """
    tags = [renders_tag(folder, family) for folder in caches]
    labelled: list[PgnFaces] = []
    held: dict[str, PgnFaces] = {}
    for folder, tag in zip(caches, tags, strict=True):
        held[f"renders-{tag}"] = load_renders(folder, model, slice(0, max(held_out_renders, 1)))
        labelled.append(load_renders(folder, model, slice(held_out_renders, None)))
    photos: dict[str, PgnFaces] = {}
    if family == "research":
        for name in REAL_SETS:
            training, kept = real_crops(name, data, prepared)
            photos[name], held[name] = load_photos(training, model), load_photos(kept, model)
    return PgnCorpus(labelled, photos, held)


def load_renders(folder: Path, model: FaceModel, shards: slice) -> PgnFaces:
    """Renders with coefficients and cameras.

    Raises:
        UserError: no such cache, or renders of another head model.
    """
    crops = load_render_cache(folder, shards)
    faces = FaceSet(crops, pose_labels(folder, model, shards))
    every = np.ones(len(crops), bool)
    return PgnFaces(faces, render_cameras(folder, shards), crops.yaw_deg, every)


def load_photos(crops: CropSet, model: FaceModel) -> PgnFaces:
    """Photos of which landmarks are known; sets of 68 points get yaw and aspect from them."""
    if crops.convention == "aflw21":
        return PgnFaces(FaceSet(crops), None, crops.yaw_deg, np.zeros(len(crops), bool))
    yaw, aspect = yaw_and_aspect(crops, model)
    return PgnFaces(FaceSet(crops), None, yaw, aspect <= MOST_ASPECT)


def yaw_and_aspect(
    crops: CropSet, model: FaceModel
) -> tuple[Float[ndarray, "n"], Float[ndarray, "n"]]:
    """Yaw in degrees and width over height (or its inverse, >= 1) of the picture, by 68 points.

    The best affine map of the mean face's inner points onto the marks tells both: under a scaled
    orthographic camera its two rows are as long as each other.

    Raises:
        UserError: marks of another kind.
    """
    known = ("ict68", "ibug68-3d-bfm", "ibug68")
    name = next((n for n in (crops.convention, *known) if n in model.landmark_embeddings), "")
    if crops.points.shape[1] != 68 or not name:
        raise UserError(f"{crops.name} has no 68 points: its frames cannot be paired")
    with torch.no_grad():
        mean = model(torch.zeros(model.identity_size), torch.zeros(len(model.expression_names)))
        inner = model.landmarks(mean, name)[17:]
    system = torch.cat((inner, torch.ones_like(inner[:, :1])), 1).double()
    marks = torch.from_numpy(np.ascontiguousarray(crops.points[:, 17:, :2], np.float64))
    rows = (torch.linalg.pinv(system) @ marks)[:, :3].transpose(1, 2)  # (n, 2, 3)
    length = rows.norm(dim=2)
    ratio = length[:, 0] / length[:, 1].clamp_min(1e-9)
    across = rows[:, 0] / length[:, :1]  # the rotation's first row: (cos, 0, sin) of the yaw
    yaw = torch.rad2deg(torch.atan2(across[:, 2], across[:, 0].clamp_min(1e-6)))
    return yaw.numpy(), torch.maximum(ratio, 1 / ratio).numpy()
