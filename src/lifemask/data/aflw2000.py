"""AFLW2000-3D: 2,000 photos with fitted 68 3D landmarks; a test set, never trained or selected on.

Two layouts are read. *Official*: the unpacked `AFLW2000-3D.zip`, `imageNNNNN.jpg` beside
`imageNNNNN.mat`; the benchmark's own boxes and the re-annotated truth come from the `.npy` files
of the 3DDFA repository's `test.configs` folder when they lie in, or beside, the same folder.
*Packed*: `imageNNNNN.jpg` beside one `labels.npz`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy import ndarray

from lifemask.assets import UserError
from lifemask.data.npz import read_npz
from lifemask.faces.crop import square_box
from lifemask.graphics.camera import euler_deg_from_rotation, rotation_from_euler_deg

DOWNLOAD_PAGE = "http://www.cbsr.ia.ac.cn/users/xiangyuzhu/projects/3DDFA/main.htm"

_MAT_KEYS = ("pt3d_68", "pt2d", "Pose_Para")
_NPY_BOXES = "AFLW2000-3D_crop.roi_box.npy"
_NPY_REANNOTATED = "AFLW2000-3D-Reannotated.pts68.npy"


@dataclass(frozen=True)
class Aflw2000:
    """The labels of AFLW2000-3D, in name order; photos are read one by one from `image_paths`.

    Landmark coordinates are the numbers stored in the files, as every published result uses them.

    Attributes:
        layout: which of the two layouts was read.
        names: n names such as "image00002", sorted.
        image_paths: n files.
        landmarks68: (n, 68, 3) photo px, iBUG-68 order, jaw on the 3D contour of a BFM fit
            ("ibug68-3d-bfm"); u right, v down, w larger = nearer with an arbitrary origin.
        landmarks21: (n, 21, 2) photo px, the points clicked for AFLW; garbage where not visible.
        visible21: (n, 21) whether such a point was clicked.
        bin_yaw_deg: (n,) yaw of the fit in the *dataset's* sign (positive = turned to image left);
            the benchmark's bins use its absolute value.
        pose_deg: (n, 3) pitch, yaw, roll in lifemask's convention (`docs/conventions.md`).
        boxes: (n, 4) x0, y0, x1, y1 of the square crop in photo px, edges (pixel i covers
            [i - 0.5, i + 0.5]).
        boxes_are_official: False when the boxes had to be made from the landmarks by 3DDFA's rule.
        reannotated68: (n, 68, 2) photo px, or None where the layout lacks them.
    """

    layout: Literal["official", "packed"]
    names: tuple[str, ...]
    image_paths: tuple[Path, ...]
    landmarks68: Float[ndarray, "n 68 3"]
    landmarks21: Float[ndarray, "n 21 2"]
    visible21: Bool[ndarray, "n 21"]
    bin_yaw_deg: Float[ndarray, "n"]
    pose_deg: Float[ndarray, "n 3"]
    boxes: Float[ndarray, "n 4"]
    boxes_are_official: bool
    reannotated68: Float[ndarray, "n 68 2"] | None

    def __len__(self) -> int:
        """Number of photos."""
        return len(self.names)


def load_aflw2000(folder: str | Path) -> Aflw2000:
    """Read the labels of AFLW2000-3D in either layout.

    Args:
        folder: holds `labels.npz`, or `image*.mat`, or a folder `AFLW2000` that does.

    Raises:
        UserError: nothing that looks like the data set, a broken file or a missing photo; the
            message says which and where to get the data.
    """
    root = Path(folder)
    for candidate in (root, root / "AFLW2000", root / "aflw2000_dev"):
        if (candidate / "labels.npz").is_file():
            return _load_packed(candidate)
        if any(candidate.glob("image*.mat")):
            return _load_official(candidate)
    raise UserError(
        f"no AFLW2000-3D data in {root}: expected image00002.jpg with image00002.mat (or a"
        f" labels.npz). Download AFLW2000-3D.zip from {DOWNLOAD_PAGE}, unpack it and pass the"
        " folder that holds the images."
    )


def pose_deg_from_pose_para(pose_para: Float[ndarray, "*b 7"]) -> Float[ndarray, "*b 3"]:
    """Pitch, yaw, roll (*b, 3) in degrees, lifemask's convention, from the dataset's `Pose_Para`.

    `Pose_Para` begins with pitch, yaw, roll in radians, composed as
    `R = Rx(-pitch) Ry(-yaw) Rz(-roll)` (the `RotationMatrix` of 3DDFA's Matlab code, x right,
    y up, z to the viewer): the order "XYZ" of `graphics.camera`, and a positive yaw is a face
    turned to image *left*.
    """
    theirs = np.degrees(np.asarray(pose_para, dtype=np.float64)[..., :3]) * [1.0, -1.0, 1.0]
    rotation = rotation_from_euler_deg(torch.from_numpy(theirs), "XYZ")
    return euler_deg_from_rotation(rotation).numpy()


def crop_boxes(landmarks68: Float[ndarray, "n 68 c"]) -> Float[ndarray, "n 4"]:
    """Square boxes (n, 4) by 3DDFA's rule, for photos without the benchmark's own box.

    The square of `faces.crop.square_box`, corners rounded to whole pixels, returned as edges.
    """
    squares = [square_box(torch.from_numpy(points)) for points in landmarks68]
    center = np.array([center for center, _ in squares])
    half = np.array([[side / 2] for _, side in squares])
    return _edges(np.round(np.concatenate([center - half, center + half], axis=1)))


def _edges(slices: ndarray) -> ndarray:
    """Half-open pixel slices (sx, sy, ex, ey), as in `image[sy:ey, sx:ex]`, to box edges."""
    return np.asarray(slices, dtype=np.float64) - 0.5


def _load_packed(folder: Path) -> Aflw2000:
    stored = read_npz(folder / "labels.npz", ("names", "pt3d_68", "pt2d_21", "pose_para"))
    labels = {
        "pt3d_68": stored["pt3d_68"],
        "pt2d": stored["pt2d_21"],
        "Pose_Para": stored["pose_para"],
        "boxes": stored.get("crop_roi_box"),
        "reannotated": stored.get("reannotated_pts68"),
    }
    return _assemble("packed", folder, tuple(str(name) for name in stored["names"]), labels)


def _load_official(folder: Path) -> Aflw2000:
    paths = sorted(folder.glob("image*.mat"))
    records = [_read_mat(path) for path in paths]
    labels: dict[str, Any] = {key: np.stack([r[key] for r in records]) for key in _MAT_KEYS}
    labels["boxes"] = _companion(folder, _NPY_BOXES, len(paths))
    labels["reannotated"] = _companion(folder, _NPY_REANNOTATED, len(paths))
    return _assemble("official", folder, tuple(p.stem for p in paths), labels)


def _read_mat(path: Path) -> dict[str, ndarray]:
    """The three label arrays of one photo; `loadmat` reads numbers only, never pickles."""
    from scipy.io import loadmat

    try:
        record = loadmat(str(path), variable_names=_MAT_KEYS)
        return {
            "pt3d_68": record["pt3d_68"].reshape(3, 68),
            "pt2d": record["pt2d"].reshape(2, 21),
            "Pose_Para": record["Pose_Para"].reshape(7),
        }
    except Exception as error:  # scipy raises many kinds on a broken file
        raise UserError(f"{path} is not an AFLW2000-3D label file: {error}") from error


def _companion(folder: Path, name: str, count: int) -> ndarray | None:
    """An array of 3DDFA's `test.configs` with one row per photo, or None where it is absent."""
    for place in (folder, folder / "test.configs", folder.parent, folder.parent / "test.configs"):
        if (place / name).is_file():
            array = np.load(place / name, allow_pickle=False)
            if len(array) != count:
                raise UserError(
                    f"{place / name} has {len(array)} rows but {folder} has {count} label files;"
                    " it belongs to the complete set of 2,000 photos"
                )
            return array
    return None


def _assemble(
    layout: Literal["official", "packed"],
    folder: Path,
    names: tuple[str, ...],
    labels: Mapping[str, Any],
) -> Aflw2000:
    images = tuple(folder / f"{name}.jpg" for name in names)
    missing = [path.name for path in images if not path.is_file()]
    if missing:
        raise UserError(f"{folder} lacks {len(missing)} of {len(images)} photos, e.g. {missing[0]}")
    points68 = np.swapaxes(labels["pt3d_68"], 1, 2).astype(np.float64)
    points21 = np.swapaxes(labels["pt2d"], 1, 2).astype(np.float64)
    pose_para = np.asarray(labels["Pose_Para"], dtype=np.float64).reshape(-1, 7)
    again, boxes = labels["reannotated"], labels["boxes"]
    return Aflw2000(
        layout=layout,
        names=names,
        image_paths=images,
        landmarks68=points68,
        landmarks21=points21,
        visible21=(points21 >= 0).all(axis=2),
        bin_yaw_deg=np.degrees(pose_para[:, 1]),
        pose_deg=pose_deg_from_pose_para(pose_para),
        boxes=crop_boxes(points68) if boxes is None else _edges(boxes),
        boxes_are_official=boxes is not None,
        reannotated68=None if again is None else _points_last(again),
    )


def _points_last(points: ndarray) -> ndarray:
    """(n, 2 or 3, 68) as stored to (n, 68, 2)."""
    return np.swapaxes(points, 1, 2).astype(np.float64)[..., :2]
