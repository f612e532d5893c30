"""The prediction file: what any system writes once and `score` reads many times."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float
from numpy import ndarray

from lifemask.assets import UserError
from lifemask.data.npz import read_npz


@dataclass(frozen=True)
class Predictions:
    """Predictions of one system on one data set.

    Attributes:
        names: n image names without ending.
        found: (n,) False where the system returned no face; the other rows' values are ignored.
        landmarks68: (n, 68, 3) photo px, 0-based with the integer at the pixel's centre, u right,
            v down, w larger = nearer (any origin). For AFLW2000-3D the convention is
            "ibug68-3d-bfm". NaN in w means a system without depth.
        pose_deg: (n, 3) pitch, yaw, roll as `docs/conventions.md` defines them; NaN if unknown.
        meta: free strings: system, method, weights, box, versions.
    """

    names: tuple[str, ...]
    found: Bool[ndarray, "n"]
    landmarks68: Float[ndarray, "n 68 3"]
    pose_deg: Float[ndarray, "n 3"]
    meta: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check shapes.

        Raises:
            ValueError: the arrays disagree about the number of images or have wrong shapes.
        """
        n = len(self.names)
        shapes = (self.found.shape, self.landmarks68.shape, self.pose_deg.shape)
        if shapes != ((n,), (n, 68, 3), (n, 3)):
            raise ValueError(
                f"for {n} names expected shapes ({n},), ({n}, 68, 3), ({n}, 3); got {shapes}"
            )


def save_predictions(path: str | Path, predictions: Predictions) -> None:
    """Write an npz (float32, no pickles); a reader never sees half a file."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    with part.open("wb") as stream:
        np.savez_compressed(
            stream,
            names=np.array(predictions.names, dtype=np.str_),
            found=predictions.found.astype(bool),
            landmarks68=predictions.landmarks68.astype(np.float32),
            pose_deg=predictions.pose_deg.astype(np.float32),
            meta=np.array(json.dumps(dict(predictions.meta), sort_keys=True)),
        )
    part.replace(path)


def load_predictions(path: str | Path) -> Predictions:
    """Read a prediction file, of lifemask or of any other system.

    `pose_deg` and `meta` may be absent; `landmarks68` may have two coordinates.

    Raises:
        UserError: no such file, not an npz, a missing array or a wrong shape.
    """
    arrays = read_npz(path, ("names", "found", "landmarks68"))
    try:
        names = tuple(str(name) for name in arrays["names"])
        points = np.asarray(arrays["landmarks68"], dtype=np.float64)
        if points.shape[-1] == 2:
            points = np.concatenate([points, np.full_like(points[..., :1], np.nan)], axis=-1)
        pose = np.asarray(arrays.get("pose_deg", np.full((len(names), 3), np.nan)), np.float64)
        meta = json.loads(str(arrays["meta"])) if "meta" in arrays else {}
        return Predictions(names, arrays["found"].astype(bool), points, pose, meta)
    except (ValueError, TypeError, IndexError) as error:
        raise UserError(f"{path} is not a prediction file: {error}") from error


def matched(predictions: Predictions, names: tuple[str, ...]) -> Predictions:
    """The predictions in the order of `names`; an image the file does not mention is a miss.

    Raises:
        UserError: the file mentions none of the images, or one of them twice.
    """
    row = {name: i for i, name in enumerate(predictions.names)}
    if len(row) != len(predictions.names):
        raise UserError("the prediction file names an image twice")
    rows = np.array([row.get(name, -1) for name in names])
    if (rows < 0).all():
        raise UserError(
            f"the prediction file has none of the {len(names)} images of the data set; it names"
            f" {predictions.names[:1]}, the data set {names[:1]}"
        )
    known = rows >= 0
    return Predictions(
        names,
        predictions.found[rows] & known,
        np.where(known[:, None, None], predictions.landmarks68[rows], np.nan),
        np.where(known[:, None], predictions.pose_deg[rows], np.nan),
        predictions.meta,
    )
