"""AFLW2000-3D: 2,000 photos with fitted 68 3D landmarks; a test set, never trained or selected on.

Two layouts are read. *Official*: the unpacked `AFLW2000-3D.zip`, `imageNNNNN.jpg` beside
`imageNNNNN.mat`; the benchmark's own boxes and the re-annotated truth come from the `.npy` files
of the 3DDFA repository's `test.configs` folder when they lie in, or beside, the same folder.
*Packed*: `imageNNNNN.jpg` beside one `labels.npz`.

Traps: `pt3d_68` counts pixels from 1 (Matlab) and is compared as stored, as every published result
does; the re-annotated points count from 0 (on the photos at hand the two differ by 1.1 and 1.0 px).
Points of `pt2d` that were not clicked hold -1 and 452. `Pose_Para` has its own angle order and the
opposite sign of yaw. `Shape_Para` and the scale of `Pose_Para` are in the units of the Basel model
as 3DDFA distributes it: micrometres, coefficients not divided by their standard deviations.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from numpy import ndarray

from lifemask.assets import UserError
from lifemask.data.npz import read_npz
from lifemask.faces.crop import square_box
from lifemask.graphics.camera import euler_deg_from_rotation, rotation_from_euler_deg

DOWNLOAD_PAGE = "http://www.cbsr.ia.ac.cn/users/xiangyuzhu/projects/3DDFA/main.htm"

COMPLETE = 2000
"""Photos of the complete set."""
PHOTO_PX = 450
"""Width and height of every photo."""

_MAT_SHAPES: dict[str, tuple[int, ...]] = {
    "pt3d_68": (3, 68),
    "pt2d": (2, 21),
    "Pose_Para": (7,),
    "roi": (4,),
    "Shape_Para": (199,),
    "Exp_Para": (29,),
    "Tex_Para": (199,),
}
_NEEDED = ("pt3d_68", "pt2d", "Pose_Para")
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
        fits: the parameters of the fits as stored, see `Aflw2000Fits`.
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
    fits: Aflw2000Fits

    def __len__(self) -> int:
        """Number of photos."""
        return len(self.names)

    def image(self, index: int) -> UInt8[ndarray, "h w 3"]:
        """A photo (h, w, 3), sRGB."""
        from lifemask.faces.image import load_image

        return load_image(self.image_paths[index])

    def subset(self, ids: Int[ndarray, "m"]) -> Aflw2000:
        """Some of the photos, in the given order."""
        changed: dict[str, Any] = {
            "names": tuple(self.names[i] for i in ids),
            "image_paths": tuple(self.image_paths[i] for i in ids),
            "fits": self.fits.subset(ids),
        }
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, ndarray):
                changed[field.name] = value[ids]
        return replace(self, **changed)


@dataclass(frozen=True)
class Aflw2000Fits:
    """Parameters of the 3D fits, as stored; None where the layout lacks them.

    The fitted face is `f R V + t` with V = mean + shape basis Shape_Para + expression basis
    Exp_Para in micrometres, R of the first three numbers of Pose_Para, t the next three (px, y up
    from the bottom edge) and f the last (px per micrometre).

    Attributes:
        pose_para: (n, 7).
        shape_para: (n, 199), not divided by standard deviations.
        exp_para: (n, 29).
        tex_para: (n, 199), in the official layout only.
        roi: (n, 4) left, top, right, bottom of the photo in the original AFLW picture, px from 1.
    """

    pose_para: Float[ndarray, "n 7"]
    shape_para: Float[ndarray, "n 199"] | None
    exp_para: Float[ndarray, "n 29"] | None
    tex_para: Float[ndarray, "n 199"] | None
    roi: Float[ndarray, "n 4"] | None

    def subset(self, ids: Int[ndarray, "m"]) -> Aflw2000Fits:
        """The parameters of some of the photos."""
        changed: dict[str, Any] = {}
        for field in fields(self):
            value = getattr(self, field.name)
            changed[field.name] = None if value is None else value[ids]
        return Aflw2000Fits(**changed)


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
        "Shape_Para": stored.get("shape_para"),
        "Exp_Para": stored.get("exp_para"),
        "Tex_Para": stored.get("tex_para"),
        "roi": stored.get("roi"),
        "boxes": stored.get("crop_roi_box"),
        "reannotated": stored.get("reannotated_pts68"),
    }
    return _assemble("packed", folder, tuple(str(name) for name in stored["names"]), labels)


def _load_official(folder: Path) -> Aflw2000:
    paths = sorted(folder.glob("image*.mat"))
    records = [_read_mat(path) for path in paths]
    labels: dict[str, Any] = {
        key: np.stack([r[key] for r in records]) if all(key in r for r in records) else None
        for key in _MAT_SHAPES
    }
    labels["boxes"] = _companion(folder, _NPY_BOXES, len(paths))
    labels["reannotated"] = _companion(folder, _NPY_REANNOTATED, len(paths))
    return _assemble("official", folder, tuple(p.stem for p in paths), labels)


def _read_mat(path: Path) -> dict[str, ndarray]:
    """The label arrays of one photo by name; `loadmat` reads numbers only, never pickles."""
    from scipy.io import loadmat

    try:
        record = loadmat(str(path), variable_names=tuple(_MAT_SHAPES))
        missing = [key for key in _NEEDED if key not in record]
        if missing:
            raise ValueError(f"no {', '.join(missing)}")
        return {k: record[k].reshape(shape) for k, shape in _MAT_SHAPES.items() if k in record}
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
        fits=Aflw2000Fits(
            pose_para=pose_para,
            shape_para=_rows(labels["Shape_Para"], 199),
            exp_para=_rows(labels["Exp_Para"], 29),
            tex_para=_rows(labels["Tex_Para"], 199),
            roi=_rows(labels["roi"], 4),
        ),
    )


def _rows(values: ndarray | None, width: int) -> ndarray | None:
    """(n, width) float64 of whatever shape was stored."""
    return None if values is None else np.asarray(values, np.float64).reshape(-1, width)


def _points_last(points: ndarray) -> ndarray:
    """(n, 2 or 3, 68) as stored to (n, 68, 2)."""
    return np.swapaxes(points, 1, 2).astype(np.float64)[..., :2]
