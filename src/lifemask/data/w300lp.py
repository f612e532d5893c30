"""300W-LP: 122,450 photos turned to large poses, with 68 points and 3D fits; for training.

Zhu et al., "Face alignment across large poses: a 3D solution", CVPR 2016. The official layout is
read as `300W-LP.zip` unpacks: folders AFW, HELEN, IBUG, LFPW and the mirrored AFW_Flip ... with
`NAME.jpg` (450 x 450) beside `NAME.mat`, and `landmarks/AFW/NAME_pts.mat` ... for the photos that
are not mirrored. Research only: networks trained on it inherit that.

Traps: coordinates count pixels from 1 (Matlab), as in AFLW2000-3D, and are left as stored;
`Pose_Para` is AFLW2000-3D's (`data.aflw2000`). `pt2d` are the 2D points of the 300-W mark-up, whose
jaw follows the visible rim; `pts_3d` are the photo positions of the fit's points, whose jaw lies on
the 3D contour ("ibug68-3d-bfm", what AFLW2000-3D scores). Mirrored photos have no file in
`landmarks`: their points are those of the photo they mirror, mirrored and renumbered. Names such as
`AFW_1051618982_1_0` end in the number of the pose: photos that differ only there show one picture,
so split by `sources`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from numpy import ndarray

from lifemask.assets import UserError
from lifemask.data.aflw2000 import DOWNLOAD_PAGE, pose_deg_from_pose_para
from lifemask.data.base import CropSet
from lifemask.facemodel.landmarks import FLIP_68
from lifemask.faces.crop import crop_square, photo_to_crop, square_box

SUBSETS = ("AFW", "HELEN", "IBUG", "LFPW")
PHOTO_PX = 450
EXPAND = 1.25  # side of the stored crop in units of the nominal crop, as for renders
_MAT_SHAPES: dict[str, tuple[int, ...]] = {
    "pt2d": (2, 68),
    "Pose_Para": (7,),
    "Shape_Para": (199,),
    "Exp_Para": (29,),
    "roi": (4,),
}


@dataclass(frozen=True)
class W300LpLabels:
    """Labels of one photo.

    Attributes:
        landmarks68: (68, 2) photo px from 1, the 300-W mark-up ("ict68" in our conventions).
        landmarks68_bfm: (68, 2) photo px from 1, projected points of the fit ("ibug68-3d-bfm");
            None where the copy of the data has no `landmarks` folder.
        pose_deg: (3,) pitch, yaw, roll in lifemask's convention.
        pose_para: (7,) as stored.
        shape_para: (199,) as stored.
        exp_para: (29,) as stored.
        roi: (4,) left, top, right, bottom in the original picture, px from 1.
    """

    landmarks68: Float[ndarray, "68 2"]
    landmarks68_bfm: Float[ndarray, "68 2"] | None
    pose_deg: Float[ndarray, "3"]
    pose_para: Float[ndarray, "7"]
    shape_para: Float[ndarray, "199"]
    exp_para: Float[ndarray, "29"]
    roi: Float[ndarray, "4"]


@dataclass(frozen=True)
class W300Lp:
    """The photos in name order; images and labels are read one at a time.

    Attributes:
        root: the folder that holds AFW, HELEN, ...
        names: n such as "HELEN_Flip/HELEN_100032540_1_0".
        sources: n names of the picture a photo was made from, mirrored or turned: equal sources
            must stay on one side of a split.
    """

    root: Path
    names: tuple[str, ...]
    sources: tuple[str, ...]

    def __len__(self) -> int:
        """Number of photos."""
        return len(self.names)

    def image(self, index: int) -> UInt8[ndarray, "h w 3"]:
        """A photo (450, 450, 3), sRGB."""
        from lifemask.faces.image import load_image

        return load_image(self.root / f"{self.names[index]}.jpg")

    def labels(self, index: int) -> W300LpLabels:
        """The labels of a photo.

        Raises:
            UserError: a label file is missing or broken.
        """
        subset, stem = self.names[index].split("/")
        record = _read_mat(self.root / subset / f"{stem}.mat", _MAT_SHAPES)
        pose = record["Pose_Para"]
        return W300LpLabels(
            landmarks68=record["pt2d"].T,
            landmarks68_bfm=self._projected(subset, stem),
            pose_deg=pose_deg_from_pose_para(pose),
            pose_para=pose,
            shape_para=record["Shape_Para"],
            exp_para=record["Exp_Para"],
            roi=record["roi"],
        )

    def _projected(self, subset: str, stem: str) -> ndarray | None:
        """Points of the fit in the photo; for a mirrored photo those of its partner, mirrored."""
        landmarks = self.root / "landmarks"
        if not landmarks.is_dir():
            return None
        own = landmarks / subset / f"{stem}_pts.mat"
        partner = landmarks / subset.removesuffix("_Flip") / f"{stem}_pts.mat"
        mirrored = subset.endswith("_Flip") and not own.is_file()
        points = _read_mat(partner if mirrored else own, {"pts_3d": (68, 2)})["pts_3d"]
        return mirror68(points) if mirrored else points


def mirror68(points68: Float[ndarray, "68 2"], width: int = PHOTO_PX) -> Float[ndarray, "68 2"]:
    """Points (68, 2) of the mirrored photo, counted from 1: u to width + 1 - u, renumbered."""
    return np.stack([width + 1 - points68[:, 0], points68[:, 1]], axis=1)[list(FLIP_68)]


def load_w300lp(folder: str | Path, *, mirrored: bool = True) -> W300Lp:
    """List the photos of 300W-LP.

    Args:
        folder: holds AFW, HELEN, IBUG, LFPW, or a folder `300W_LP` that does.
        mirrored: also list the `_Flip` folders.

    Raises:
        UserError: nothing that looks like the data set, or photos without labels; the message says
            where to get the data.
    """
    root = Path(folder)
    roots = (root, root / "300W_LP", root / "300W-LP")
    found = next((r for r in roots if any((r / s).is_dir() for s in SUBSETS)), None)
    if found is None:
        raise UserError(
            f"no 300W-LP data in {root}: expected the folders {', '.join(SUBSETS)}. Download"
            f" 300W-LP.zip from {DOWNLOAD_PAGE}, unpack it and pass the folder that holds them."
        )
    names = []
    for subset in SUBSETS:
        for place in (subset, f"{subset}_Flip") if mirrored else (subset,):
            names += _listed(found / place)
    if not names:
        raise UserError(f"the folders {', '.join(SUBSETS)} of {found} hold no photos")
    return W300Lp(found, tuple(names), tuple(_source(name) for name in names))


def crops_w300lp(data: W300Lp, ids: Int[ndarray, "m"], size: int = 128) -> CropSet:
    """Training crops of some photos: 3DDFA's landmark squares with a margin of a quarter.

    Points are those of the fit ("ibug68-3d-bfm"), brought to pixels counted from 0.

    Args:
        data: the listed photos.
        ids: which of them.
        size: side of the stored crops in px.

    Raises:
        UserError: a file is missing or broken, or the copy has no `landmarks` folder.
    """
    images = np.empty((len(ids), size, size, 3), np.uint8)
    points = np.empty((len(ids), 68, 2), np.float32)
    yaw = np.empty(len(ids), np.float32)
    for row, index in enumerate(ids):
        labels = data.labels(int(index))
        if labels.landmarks68_bfm is None:
            raise UserError(f"{data.root} has no folder landmarks, which 300W-LP.zip contains")
        marks = torch.from_numpy(labels.landmarks68_bfm - 1.0)
        center, side = square_box(marks)
        crop = crop_square(data.image(int(index)), center, side * EXPAND, size)
        images[row] = (crop.image * 255).round().byte().permute(1, 2, 0).numpy()
        points[row] = photo_to_crop(marks, crop).numpy()
        yaw[row] = labels.pose_deg[1]
    return CropSet(
        name="w300lp",
        convention="ibug68-3d-bfm",
        images=(images,),
        points=points,
        visible=np.ones(points.shape[:2], bool),
        nominal_side_px=size / EXPAND,
        yaw_deg=yaw,
        weight=np.ones(len(ids), np.float32),
    )


def _listed(folder: Path) -> list[str]:
    """Names of the photos of one folder, each of which must have labels."""
    photos = sorted(path.stem for path in folder.glob("*.jpg"))
    lacking = sorted(set(photos) - {path.stem for path in folder.glob("*.mat")})
    if lacking:
        raise UserError(f"{folder} lacks {len(lacking)} label files, e.g. {lacking[0]}.mat")
    return [f"{folder.name}/{stem}" for stem in photos]


def _source(name: str) -> str:
    """The picture behind "AFW_Flip/AFW_1051618982_1_12": "AFW/AFW_1051618982_1"."""
    subset, stem = name.split("/")
    return f"{subset.removesuffix('_Flip')}/{stem.rsplit('_', 1)[0]}"


def _read_mat(path: Path, shapes: dict[str, tuple[int, ...]]) -> dict[str, ndarray]:
    """Arrays of a label file by name, float64; `loadmat` reads numbers only, never pickles."""
    from scipy.io import loadmat

    try:
        record = loadmat(str(path), variable_names=tuple(shapes))
        return {k: record[k].reshape(shape).astype(np.float64) for k, shape in shapes.items()}
    except Exception as error:  # scipy raises many kinds on a broken file
        raise UserError(f"{path} is not a label file of 300W-LP: {error!r}") from error
