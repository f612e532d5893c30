"""AFLW2000-3D, dense: the whole fitted face as truth, vertex by vertex of 3DDFA's Basel model.

The truth is rebuilt from the stored parameters: `f R V + t`, v = 451 - y (photos of 450 px, pixels
from 1), 53,215 vertices. It needs the user's Basel model in 3DDFA's distribution. Three numbers, as
the code released with 2DASL computes them: NME over all vertices in 2D and 3D (smallest w removed
from both, the sparse truth's 68-point box), and the "reconstruction" error of every 50th vertex
after ICP without scale, over the root of the dense truth's box.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy import ndarray

from lifemask.assets import UserError
from lifemask.data.aflw2000 import PHOTO_PX, Aflw2000, pose_deg_from_pose_para
from lifemask.data.npz import read_npz
from lifemask.evaluation import metrics
from lifemask.evaluation.align import align_depth
from lifemask.facemodel._container import read_model
from lifemask.graphics.camera import rotation_from_euler_deg

EVERY = 50  # vertices of the reconstruction error
ICP_TOLERANCE_PX2 = 0.01  # change of the mean squared distance at which the released code stops
MAX_MISFIT_PX = 1.0  # of the rebuilt 68 points against those stored
MODEL_PAGE = "http://www.cbsr.ia.ac.cn/users/xiangyuzhu/projects/3DDFA/main.htm"
_ICP_STEPS = 200


@dataclass(frozen=True)
class DenseBasis:
    """The Basel model in the units of the stored parameters.

    Attributes:
        mean_um: (v, 3) micrometres, mean identity plus mean expression.
        shape: (199, v, 3) micrometres per unit of Shape_Para.
        expression: (29, v, 3) micrometres per unit of Exp_Para.
        keypoints: (68,) vertices of the 68 points.
    """

    mean_um: Float[ndarray, "v 3"]
    shape: Float[ndarray, "k v 3"]
    expression: Float[ndarray, "e v 3"]
    keypoints: Int[ndarray, "68"]

    def posed(
        self,
        pose_para: Float[ndarray, "7"],
        shape_para: Float[ndarray, "k"],
        exp_para: Float[ndarray, "e"],
    ) -> Float[ndarray, "v 3"]:
        """The fitted face in the photo, (v, 3): u, v in px as the label files count, w in px."""
        vertices = self.mean_um + _combined(shape_para, self.shape)
        vertices += _combined(exp_para, self.expression)
        pose = torch.from_numpy(pose_deg_from_pose_para(np.asarray(pose_para, np.float64)))
        rotation = rotation_from_euler_deg(pose).numpy()
        posed = pose_para[6] * vertices @ rotation.T + pose_para[3:6]
        posed[:, 1] = PHOTO_PX + 1 - posed[:, 1]
        return posed


def _combined(coefficients: ndarray, basis: ndarray) -> ndarray:
    """Weighted sum (v, 3) of a basis, in the basis's own precision: no copy of it is made."""
    return np.tensordot(coefficients.astype(basis.dtype), basis, 1)


@dataclass(frozen=True)
class DensePredictions:
    """Vertices of one system, read one image at a time.

    Attributes:
        rows: row of the array by image name.
        stored: (n, v, 3) array, or None when every image is a file of its own.
        files: file by image name.
    """

    rows: Mapping[str, int]
    stored: ndarray | None
    files: Mapping[str, Path]

    def vertices(self, name: str) -> Float[ndarray, "v 3"] | None:
        """Vertices (v, 3) of an image in photo px; None for a miss.

        Raises:
            UserError: a file that does not hold vertices.
        """
        if self.stored is not None:
            return _vertices_last(self.stored[self.rows[name]]) if name in self.rows else None
        return _read_vertices(self.files[name]) if name in self.files else None


@dataclass(frozen=True)
class DenseCase:
    """What the dense numbers need besides the labels."""

    basis: DenseBasis
    predictions: DensePredictions

    def score(self, data: Aflw2000, bins: Int[ndarray, "n"]) -> dict[str, Any]:
        """The dense numbers, see the module.

        Returns:
            "numbers" with flags, "misses", "truth": vertices and how far the rebuilt 68 points lie
            from the stored ones.

        Raises:
            UserError: the data lack the parameters, the basis is not that of the labels, or a
                prediction has another number of vertices.
        """
        fits = data.fits
        if fits.shape_para is None or fits.exp_para is None:
            raise UserError("this copy of AFLW2000-3D has no Shape_Para and Exp_Para")
        errors = np.full((3, len(data)), np.nan)
        misfit, missed = np.zeros(len(data)), 0
        for row, name in enumerate(data.names):
            truth = self.basis.posed(fits.pose_para[row], fits.shape_para[row], fits.exp_para[row])
            points = data.landmarks68[row]
            rebuilt = truth[self.basis.keypoints, :2]
            misfit[row] = np.linalg.norm(rebuilt - points[:, :2], axis=1).mean()
            guess = self.predictions.vertices(name)
            missed += guess is None
            errors[:, row] = dense_errors(_or_miss(guess, truth, points, name), truth, points)
        _check_truth(misfit)
        return _dense_result(errors, bins, missed, misfit, len(self.basis.mean_um))


def dense_errors(
    guess: Float[ndarray, "v 3"], truth: Float[ndarray, "v 3"], points68: Float[ndarray, "68 c"]
) -> tuple[float, float, float]:
    """2D NME, 3D NME and reconstruction error of one image, in percent.

    Args:
        guess: (v, 3) photo px.
        truth: (v, 3) photo px.
        points68: (68, 2 or 3) true sparse points, whose box normalises the NME.
    """
    box = float(metrics.nme_normaliser_px(points68))
    flat = np.linalg.norm(guess[:, :2] - truth[:, :2], axis=1).mean()
    deep = np.linalg.norm(align_depth(guess, "min") - align_depth(truth, "min"), axis=1).mean()
    width, height = np.ptp(truth[:, :2], axis=0)
    rebuilt = reconstruction_distance(guess[::EVERY], truth[::EVERY])
    return 100 * flat / box, 100 * deep / box, 100 * rebuilt / math.sqrt(width * height)


def reconstruction_distance(guess: Float[ndarray, "n 3"], truth: Float[ndarray, "n 3"]) -> float:
    """Mean distance of corresponding points after ICP without scale, as the released code does it.

    Both sets are centred on their means; every true point is paired with the *nearest* predicted
    point, which turns the prediction; until the mean squared distance changes by at most 0.01
    px^2. The distance at the end is between points of equal number.
    """
    from scipy.spatial import KDTree

    guess, truth = guess - guess.mean(axis=0), truth - truth.mean(axis=0)
    before = math.inf
    for _ in range(_ICP_STEPS):
        distance, nearest = KDTree(guess).query(truth)
        error = float((distance**2).mean())
        if abs(before - error) <= ICP_TOLERANCE_PX2:
            break
        before = error
        u, _, vt = np.linalg.svd(guess[nearest].T @ truth)
        sign = np.sign(np.linalg.det(u @ vt))
        guess = guess @ (u * [1.0, 1.0, sign]) @ vt
    return float(np.linalg.norm(guess - truth, axis=1).mean())


def load_dense_basis(path: str | Path) -> DenseBasis:
    """The Basel model as 3DDFA ships it.

    Args:
        path: an npz of `lifemask assets convert bfm2009` from 3DDFA's files, or a folder with
            `Model_Shape.mat` and `Model_Exp.mat` (or `Model_Expression.mat`) themselves.

    Raises:
        UserError: a file is missing or holds something else; the message says where to get them.
    """
    path = Path(path)
    return _converted_basis(path) if path.is_file() else _matlab_basis(path)


def _converted_basis(path: Path) -> DenseBasis:
    """From a converted model: mm and coefficients divided by sigma become what the labels use."""
    remedy = f"convert 3DDFA's files with lifemask assets convert bfm2009 ({MODEL_PAGE})"
    arrays, _ = read_model(path, remedy)
    sigma = [arrays.extra.get(f"{kind}_sigma") for kind in ("identity", "expression")]
    if sigma[0] is None or sigma[1] is None or "ibug68-3d-bfm" not in arrays.landmarks:
        raise UserError(
            f"{path} is not the Basel model with 3DDFA's expressions and key points: {remedy}"
        )
    points = arrays.landmarks["ibug68-3d-bfm"]
    um = 1000.0
    return DenseBasis(
        arrays.mean.astype(np.float64) * um,
        arrays.identity * (um / sigma[0]).astype(np.float32)[:, None, None],
        arrays.expression * (um / sigma[1]).astype(np.float32)[:, None, None],
        points.corners[np.arange(68), points.weights.argmax(axis=1)].astype(np.int64),
    )


def _matlab_basis(folder: Path) -> DenseBasis:
    from scipy.io import loadmat

    parts: dict[str, ndarray] = {}
    for names in (("Model_Shape.mat",), ("Model_Exp.mat", "Model_Expression.mat")):
        found = next((folder / name for name in names if (folder / name).is_file()), None)
        if found is None:
            raise UserError(
                f"{folder / names[0]} does not exist: the dense truth needs the Basel model as"
                f" 3DDFA ships it ({MODEL_PAGE}): its two .mat files, or the npz of lifemask"
                " assets convert bfm2009"
            )
        try:
            parts |= {k: np.asarray(v) for k, v in loadmat(str(found)).items() if k[:2] != "__"}
        except Exception as error:  # scipy raises many kinds on a broken file
            raise UserError(f"{found} is not a Matlab file: {error}") from error
    if "w_shape" in parts:  # the name in some copies
        parts.setdefault("w", parts["w_shape"])
    lacking = [k for k in ("mu_shape", "w", "mu_exp", "w_exp", "keypoints") if k not in parts]
    if lacking:
        raise UserError(f"the files in {folder} lack {', '.join(lacking)}")
    mean = (parts["mu_shape"].reshape(-1) + parts["mu_exp"].reshape(-1)).astype(np.float64)
    return DenseBasis(
        mean.reshape(-1, 3),
        parts["w"].T.reshape(parts["w"].shape[1], -1, 3).astype(np.float32),
        parts["w_exp"].T.reshape(parts["w_exp"].shape[1], -1, 3).astype(np.float32),
        parts["keypoints"].reshape(-1).astype(np.int64) - 1,
    )


def load_dense_predictions(path: str | Path) -> DensePredictions:
    """Dense predictions: an npz with `names` and `dense` (n, v, 3), or a folder.

    A folder holds `NAME.npy` or `NAME.mat` per image, (v, 3) or (3, v); a `.mat` has one array
    `vertex`, as 2DASL's and 3DDFA's scripts write it. An image without a file is a miss.

    Raises:
        UserError: nothing there that fits.
    """
    path = Path(path)
    if path.is_dir():
        files = {p.stem: p for p in sorted(path.iterdir()) if p.suffix in (".npy", ".mat")}
        if not files:
            raise UserError(f"{path} holds no .npy or .mat files of vertices")
        return DensePredictions({}, None, files)
    arrays = read_npz(path, ("names", "dense"))
    dense = arrays["dense"]
    if dense.ndim != 3 or len(dense) != len(arrays["names"]):
        raise UserError(f"{path}: dense must be (n, vertices, 3), not {dense.shape}")
    found = np.asarray(arrays.get("found", np.ones(len(dense), bool)), bool)
    rows = {str(name): row for row, name in enumerate(arrays["names"]) if found[row]}
    return DensePredictions(rows, dense, {})


def _read_vertices(path: Path) -> ndarray:
    try:
        if path.suffix == ".mat":
            from scipy.io import loadmat

            return _vertices_last(loadmat(str(path), variable_names=("vertex",))["vertex"])
        return _vertices_last(np.load(path, allow_pickle=False))
    except UserError:
        raise
    except Exception as error:  # scipy and numpy raise many kinds on broken files
        raise UserError(f"{path} does not hold vertices: {error!r}") from error


def _vertices_last(vertices: ndarray) -> ndarray:
    """(v, 3) float64 of (v, 3) or (3, v)."""
    if vertices.ndim == 2 and vertices.shape[0] == 3 and vertices.shape[1] != 3:
        vertices = vertices.T
    if vertices.ndim != 2 or vertices.shape[1] != 3:
        raise UserError(f"vertices must be (v, 3) or (3, v), not {vertices.shape}")
    return np.asarray(vertices, dtype=np.float64)


def _or_miss(guess: ndarray | None, truth: ndarray, points: ndarray, name: str) -> ndarray:
    """The prediction, or for a miss all vertices at the centre of the true box, w flat."""
    if guess is None:
        low, high = points[:, :2].min(axis=0), points[:, :2].max(axis=0)
        return np.tile([*((low + high) / 2), 0.0], (len(truth), 1))
    if guess.shape != truth.shape:
        raise UserError(
            f"{name} has {len(guess)} vertices and the truth {len(truth)}: dense errors compare"
            " vertex by vertex, so both must have the Basel model's vertices in its order"
        )
    return guess


def _check_truth(misfit: ndarray) -> None:
    median = float(np.median(misfit))
    if median > MAX_MISFIT_PX:
        raise UserError(
            f"the rebuilt 68 points lie {median:.1f} px (median) from the stored ones: this is not"
            " the face model that AFLW2000-3D was fitted with (3DDFA's Basel model, 53,215"
            " vertices, coefficients not divided by sigma)"
        )


def _dense_result(
    errors: ndarray, bins: ndarray, missed: int, misfit: ndarray, vertices: int
) -> dict[str, Any]:
    kinds: tuple[tuple[str, dict[str, Any]], ...] = (
        ("dense_nme_percent", {"dims": 2, "normaliser": "68-point box"}),
        ("dense_nme_percent", {"dims": 3, "z_align": "min", "normaliser": "68-point box"}),
        (
            "dense_reconstruction_percent",
            {"dims": 3, "every": EVERY, "icp": "rotation, no scale", "normaliser": "dense box"},
        ),
    )
    numbers = []
    for (metric, flags), values in zip(kinds, errors, strict=True):
        for pool in ("images", "bins"):
            entry: dict[str, Any] = {"metric": metric}
            entry["flags"] = flags | {"vertices": vertices, "pool": pool, "misses": missed}
            numbers.append(entry | metrics.summary(values, bins, pool))
    return {
        "numbers": numbers,
        "misses": missed,
        "truth": {
            "vertices": vertices,
            "misfit_68_px": {
                "median": metrics.rounded(float(np.median(misfit))),
                "largest": metrics.rounded(float(misfit.max())),
            },
        },
    }
