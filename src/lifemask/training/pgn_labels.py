"""True cameras of renders, and how a view of the crop changes them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy import ndarray

from lifemask.assets import UserError
from lifemask.data.augment import View
from lifemask.data.base import read_labels
from lifemask.data.sight import CAMERA_LABELS, toward_camera
from lifemask.methods._pgn_types import CropCamera


@dataclass(frozen=True)
class RenderCameras:
    """Cameras of n rendered images, in the px of the stored image.

    Attributes:
        rotation: (n, 3, 3) model frame to camera frame.
        translation_mm: (n, 3), 0 of an orthographic camera.
        zoom: (n,) focal length in px, or px per mm of an orthographic camera.
        pinhole: (n,).
        center_px: (n, 2).
        px_per_mm: (n,) at the model's origin.
        toward: (n, 3) unit vectors from the face to the camera, camera frame.
    """

    rotation: Float[ndarray, "n 3 3"]
    translation_mm: Float[ndarray, "n 3"]
    zoom: Float[ndarray, "n"]
    pinhole: Bool[ndarray, "n"]
    center_px: Float[ndarray, "n 2"]
    px_per_mm: Float[ndarray, "n"]
    toward: Float[ndarray, "n 3"]

    def __len__(self) -> int:
        """Number of images."""
        return len(self.zoom)

    def subset(self, ids: Int[ndarray, "m"]) -> RenderCameras:
        """Cameras of some of the images."""
        return RenderCameras(*(getattr(self, name)[ids] for name in self.__dataclass_fields__))

    def in_view(self, view: View, size: int) -> CropCamera:
        """Cameras of augmented crops of the same images.

        A mirrored image shows the mirrored head (`dasl_labels.labels_in_view`) to a mirrored
        camera.

        Args:
            view: from stored px to crop px.
            size: side of the crops in px.
        """
        side = np.where(view.flipped, -1.0, 1.0)
        rotation = self.rotation.astype(np.float64)
        rotation[:, 0, 1:] *= side[:, None]
        rotation[:, 1:, 0] *= side[:, None]
        translation = self.translation_mm * np.stack((side, side * side, side * side), 1)
        half = size / 2
        image = view.matrix.astype(np.float64) / half
        image[:, :, 0] *= side[:, None]
        center = (view.matrix @ self.center_px[..., None])[..., 0] + view.offset
        return CropCamera(
            _single(rotation),
            _single(translation),
            _single(self.zoom),
            torch.from_numpy(self.pinhole),
            _single(image),
            _single((center + 0.5) / half - 1),
            _single(self.px_per_mm * view.scale / half),
            _single(self.toward * np.stack((side, side * side, side * side), 1)),
        )


def render_cameras(folder: Path, shards: slice = slice(None)) -> RenderCameras:
    """Cameras of a cache of renders.

    Args:
        folder: what `data.synthetic` wrote.
        shards: which of the shards, in name order.

    Raises:
        UserError: files are missing or broken, or tell no cameras.
    """
    parts: dict[str, list[ndarray]] = {}
    for path in sorted(folder.glob("labels-*.npz"))[shards]:
        arrays = read_labels(path)
        if missing := [name for name in CAMERA_LABELS if name not in arrays]:
            raise UserError(f"{path} lacks {', '.join(missing)}: render the cache again")
        pinhole = ~arrays["orthographic"].astype(bool)
        row = {
            "rotation": arrays["rotation"],
            "translation_mm": np.where(pinhole[:, None], arrays["translation_mm"], 0.0),
            "zoom": np.where(pinhole, arrays["f_px"], arrays["scale_px_per_mm"]),
            "pinhole": pinhole,
            "center_px": arrays["center_px"],
            "px_per_mm": arrays["scale_px_per_mm"],
            "toward": toward_camera(arrays),
        }
        for name, values in row.items():
            parts.setdefault(name, []).append(values)
    return RenderCameras(**{name: np.concatenate(values) for name, values in parts.items()})


def _single(values: ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(values, np.float32))
