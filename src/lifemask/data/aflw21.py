"""AFLW crops of 120 px with 21 clicked points: real faces in the wild at all poses; research only.

Layout: `crops-NN.tar` with `imageNNNNN.jpg` and `labels.npz` (`names`, `points` (n, 21, 2) crop px,
`visible`, `yaw_deg`). The crop is, up to some jitter, the landmark square of 3DDFA.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from lifemask.assets import UserError
from lifemask.data.base import CropSet, group_duplicates, hold_out_last, read_jpegs, read_labels

MAX_YAW_DEG = 110.0  # labels beyond are wrong
YAW_BINS_DEG = (30.0, 60.0)
YAW_WEIGHTS = (1.0, 1.4, 2.0)
HELD_OUT = 1000


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
