"""AFLW crops of 120 px with 21 clicked points: real faces in the wild at all poses; research only.

Two layouts. *Packed*, for training and test: `crops-NN.tar` with `imageNNNNN.jpg` and `labels.npz`
(`names`, `points` (n, 21, 2) crop px, `visible`, `yaw_deg`). The crop is, up to some jitter, the
landmark square of 3DDFA. *Official*, for test: 3DDFA's `test.data/AFLW_GT_crop` (21,080 crops) with
`AFLW_GT_crop.list` and the arrays of its `test.configs`.

Traps: points that are not visible hold garbage; some yaws are wrong (to 168 degrees); AFLW repeats
pictures, so a split must keep near-duplicates together.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, UInt8
from numpy import ndarray

from lifemask.assets import UserError
from lifemask.data._aflw21_held_out import HELD_OUT_NAMES
from lifemask.data.base import (
    CropSet,
    JpegTars,
    group_duplicates,
    hold_out_last,
    read_jpegs,
    read_labels,
)

MAX_YAW_DEG = 110.0  # labels beyond are wrong
YAW_BINS_DEG = (30.0, 60.0)
YAW_WEIGHTS = (1.0, 1.4, 2.0)
HELD_OUT = 1000
CROP_PX = 120
DOWNLOAD_PAGE = "https://www.tugraz.at/institute/icg/research/team-bischof/lrs/downloads/aflw/"
DDFA_PAGE = "https://github.com/cleardusk/3DDFA"

_LIST = "AFLW_GT_crop.list"
_CONFIGS = {
    "pts21": "AFLW_GT_pts21.npy",
    "pts68": "AFLW_GT_pts68.npy",
    "boxes": "AFLW_GT_crop_roi_box.npy",
    "yaw": "AFLW_GT_crop_yaws.npy",
}


def load_aflw21(folder: str | Path, held_out: int = HELD_OUT) -> tuple[CropSet, CropSet]:
    """Training and held-out crops; pictures that repeat are on one side only.

    The dataset's yaw is positive for a face turned to image left; the result has lifemask's sign.

    Args:
        folder: the layout above.
        held_out: number of crops held out, the last ones after grouping near-duplicates.

    Returns:
        (training, held out), weighted by yaw 1 / 1.4 / 2 in |yaw| <= 30, <= 60, > 60 degrees.

    Raises:
        UserError: files are missing or broken.
    """
    root = Path(folder)
    labels = read_labels(root / "labels.npz")
    images = read_jpegs(sorted(root.glob("crops-*.tar")))
    missing = [name for name in labels["names"] if name not in images]
    if missing:
        raise UserError(f"{root} lacks {len(missing)} crops, e.g. {missing[0]}.jpg")
    stack = np.stack([images[name] for name in labels["names"]])
    held = hold_out_last(group_duplicates(stack), held_out)
    yaw = -labels["yaw_deg"].astype(np.float32)
    usable = (np.abs(yaw) <= MAX_YAW_DEG) & (labels["visible"].sum(1) >= 4)
    weight = np.array(YAW_WEIGHTS, np.float32)[np.digitize(np.abs(yaw), YAW_BINS_DEG)]
    full = CropSet(
        name="aflw21",
        convention="aflw21",
        images=(stack,),
        points=labels["points"].astype(np.float32),
        visible=labels["visible"],
        nominal_side_px=float(stack.shape[1]),
        yaw_deg=yaw,
        weight=weight,
    )
    return full.subset(np.nonzero(usable & ~held)[0]), full.subset(np.nonzero(usable & held)[0])


@dataclass(frozen=True)
class Aflw21Test:
    """Crops to test on; coordinates in crop px.

    Attributes:
        layout: which layout was read. The packed one is the 1,000 held-out crops of `load_aflw21`.
        names: n names such as "image00013".
        source: folder of the images, or the tar files.
        landmarks21: (n, 21, 2) crop px; garbage where not visible.
        visible21: (n, 21) whether such a point was clicked.
        bin_yaw_deg: (n,) in the data set's sign; bins use its absolute value.
        landmarks68: (n, 68, 2) crop px, the extended truth of 3DDFA, or None (packed).
    """

    layout: Literal["packed", "official"]
    names: tuple[str, ...]
    source: tuple[Path, ...]
    landmarks21: Float[ndarray, "n 21 2"]
    visible21: Bool[ndarray, "n 21"]
    bin_yaw_deg: Float[ndarray, "n"]
    landmarks68: Float[ndarray, "n 68 2"] | None

    def __len__(self) -> int:
        """Number of crops."""
        return len(self.names)

    @property
    def boxes(self) -> Float[ndarray, "n 4"]:
        """The whole crop as a box, edges in crop px, for every face."""
        return np.tile([-0.5, -0.5, CROP_PX - 0.5, CROP_PX - 0.5], (len(self), 1))

    def image(self, index: int) -> UInt8[ndarray, "120 120 3"]:
        """A crop (120, 120, 3), sRGB.

        Raises:
            UserError: it is missing.
        """
        if self.layout == "packed":
            return self._tars.read(self.names[index])
        from lifemask.faces.image import load_image

        return load_image(self.source[0] / f"{self.names[index]}.jpg")

    @cached_property
    def _tars(self) -> JpegTars:
        return JpegTars(self.source)


def load_aflw21_test(folder: str | Path) -> Aflw21Test:
    """The crops to test on, in either layout; images are read one at a time, when asked for.

    Raises:
        UserError: nothing that looks like the data set, or files that do not belong together.
    """
    root = Path(folder)
    if (root / "labels.npz").is_file():
        return _packed_test(root)
    for place in (root, root / "test.configs", root.parent / "test.configs"):
        if all((place / name).is_file() for name in _CONFIGS.values()):
            return _official_test(root, place)
    raise UserError(
        f"no AFLW crops in {root}: expected labels.npz with crops-NN.tar, or 3DDFA's test.data and"
        f" test.configs from {DDFA_PAGE}. AFLW itself is asked for at {DOWNLOAD_PAGE}"
    )


def _packed_test(root: Path) -> Aflw21Test:
    labels = read_labels(root / "labels.npz")
    yaw, visible = -labels["yaw_deg"].astype(np.float64), labels["visible"].astype(bool)
    usable = (np.abs(yaw) <= MAX_YAW_DEG) & (visible.sum(1) >= 4)
    chosen = np.nonzero(np.isin(labels["names"], sorted(HELD_OUT_NAMES)) & usable)[0]
    if len(chosen) == 0:
        raise UserError(f"{root / 'labels.npz'} has none of the held-out crops")
    return Aflw21Test(
        layout="packed",
        names=tuple(str(name) for name in labels["names"][chosen]),
        source=tuple(sorted(root.glob("crops-*.tar"))),
        landmarks21=labels["points"][chosen].astype(np.float64),
        visible21=visible[chosen],
        bin_yaw_deg=-yaw[chosen],
        landmarks68=None,
    )


def _official_test(root: Path, configs: Path) -> Aflw21Test:
    """3DDFA's arrays hold photo px of the original pictures; its boxes bring them to the crop."""
    arrays = {k: np.load(configs / v, allow_pickle=False) for k, v in _CONFIGS.items()}
    listed = next((p for p in (root / _LIST, configs / _LIST) if p.is_file()), None)
    if listed is None:
        raise UserError(f"{root} lacks {_LIST}, the order of the crops ({DDFA_PAGE})")
    names = tuple(Path(line).stem for line in listed.read_text(encoding="utf-8").split())
    sizes = {k: len(v) for k, v in arrays.items()} | {_LIST: len(names)}
    if len(set(sizes.values())) != 1:
        raise UserError(f"the files of AFLW_GT_crop in {configs} have different lengths: {sizes}")
    corner = arrays["boxes"][:, None, :2].astype(np.float64)
    scale = CROP_PX / (arrays["boxes"][:, None, 2:] - corner)
    photo21, photo68 = (arrays[k][:, :2].swapaxes(1, 2).astype(float) for k in ("pts21", "pts68"))
    return Aflw21Test(
        layout="official",
        names=names,
        source=(next((p for p in (root / "AFLW_GT_crop", root) if p.is_dir()), root),),
        landmarks21=(photo21 - corner) * scale,
        visible21=(photo21 != -1).all(axis=2),
        bin_yaw_deg=arrays["yaw"].reshape(-1).astype(np.float64),
        landmarks68=(photo68 - corner) * scale,
    )
