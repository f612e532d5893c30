"""Dense AFLW2000-3D on a small face model in the real files' form."""

import numpy as np
import pytest
from scipy.io import savemat
from scipy.spatial import ConvexHull

from helpers.aflw2000_files import COUNT, face_labels, write_official
from lifemask.assets import UserError
from lifemask.data.aflw2000 import load_aflw2000
from lifemask.evaluation.aflw2000 import score_aflw2000
from lifemask.evaluation.aflw2000_dense import (
    DenseCase,
    dense_errors,
    load_dense_basis,
    load_dense_predictions,
    reconstruction_distance,
)
from lifemask.evaluation.predictions import Predictions

VERTICES = 600


def write_basis(folder, seed=3):
    """A made-up Basel model in 3DDFA's two Matlab files."""
    rng = np.random.default_rng(seed)
    mean = rng.normal(0, 1, (VERTICES, 3))
    mean *= np.array([70e3, 90e3, 60e3]) / np.linalg.norm(mean, axis=1, keepdims=True)
    keypoints = rng.permutation(VERTICES)[:68]
    folder.mkdir(parents=True, exist_ok=True)
    column = mean.reshape(-1, 1)
    savemat(
        folder / "Model_Shape.mat",
        {
            "mu_shape": 0.9 * column,
            "w": rng.normal(0, 0.01, (3 * VERTICES, 199)),
            "sigma": rng.uniform(1e4, 1e5, (199, 1)),
            "keypoints": keypoints[None] + 1,
            "tri": ConvexHull(mean).simplices.T + 1,
        },
    )
    expression = rng.normal(0, 500, (3 * VERTICES, 29))
    savemat(folder / "Model_Exp.mat", {"mu_exp": 0.1 * column, "w_exp": expression,
                                       "sigma_exp": rng.uniform(0.5, 2, (29, 1))})  # fmt: skip
    return folder


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    """Data in the official layout whose sparse truth belongs to the dense one."""
    root = tmp_path_factory.mktemp("dense")
    basis = load_dense_basis(write_basis(root / "basis"))
    labels = face_labels()
    labels["pose_para"][:, 3:6] = [225, 220, -60]
    labels["pose_para"][:, 6] = 1.2e-3
    truth = np.stack(
        [
            basis.posed(
                labels["pose_para"][i].astype(np.float64),
                labels["shape_para"][i].astype(np.float64),
                labels["exp_para"][i].astype(np.float64),
            )
            for i in range(COUNT)
        ]
    )
    labels["pt3d_68"] = truth[:, basis.keypoints].transpose(0, 2, 1).astype(np.float32)
    write_official(root / "data", labels, configs=False)
    return load_aflw2000(root / "data"), basis, truth, root


def result_of(case, tmp_path, dense, names=None):
    data, basis, _, _ = case
    path = tmp_path / "dense.npz"
    np.savez(path, names=np.array(names or data.names), dense=dense)
    sparse = Predictions(data.names, np.ones(COUNT, bool), data.landmarks68, data.pose_deg)
    return score_aflw2000(data, sparse, dense=DenseCase(basis, load_dense_predictions(path)))


def value(result, metric, **flags):
    found = [
        n for n in result["dense"]["numbers"]
        if n["metric"] == metric and flags.items() <= n["flags"].items()
    ]  # fmt: skip
    assert len(found) == 1
    return found[0]["value"]


def test_posed_face_equals_the_published_formula(case):
    data, basis, truth, _ = case
    pose = data.fits.pose_para[4]
    phi, gamma, theta = pose[:3]
    c, s = np.cos, np.sin
    rx = np.array([[1, 0, 0], [0, c(phi), s(phi)], [0, -s(phi), c(phi)]])
    ry = np.array([[c(gamma), 0, -s(gamma)], [0, 1, 0], [s(gamma), 0, c(gamma)]])
    rz = np.array([[c(theta), s(theta), 0], [-s(theta), c(theta), 0], [0, 0, 1]])
    shape = basis.mean_um.reshape(-1)
    shape = shape + basis.shape.reshape(199, -1).T.astype(np.float64) @ data.fits.shape_para[4]
    shape = shape + basis.expression.reshape(29, -1).T.astype(np.float64) @ data.fits.exp_para[4]
    posed = pose[6] * (rx @ ry @ rz) @ shape.reshape(-1, 3).T + pose[3:6, None]
    posed[1] = 450 + 1 - posed[1]
    np.testing.assert_allclose(truth[4], posed.T, atol=1e-3)


def test_the_truth_scores_zero_and_a_shift_its_length(case, tmp_path):
    data, _, truth, _ = case
    for name, moved, flat, deep in (("same", 0, 0, 0), ("moved", [3, 4, 0], 5, 5),
                                    ("nearer", [0, 0, 9], 0, 0)):  # fmt: skip
        result = result_of(case, tmp_path, truth + moved)
        box = np.sqrt(np.ptp(data.landmarks68[..., :2], axis=1).prod(1))
        flags = {"pool": "images"}
        assert value(result, "dense_nme_percent", dims=2, **flags) == pytest.approx(
            (100 * flat / box).mean(), abs=2e-4
        ), name
        assert value(result, "dense_nme_percent", dims=3, **flags) == pytest.approx(
            (100 * deep / box).mean(), abs=2e-4
        ), name
        assert value(result, "dense_reconstruction_percent", **flags) == pytest.approx(0, abs=1e-3)
    assert result["dense"]["truth"]["misfit_68_px"]["largest"] < 1e-3


def test_a_turn_costs_nothing_after_icp_but_a_size_does(case):
    from scipy.spatial.transform import Rotation

    truth = case[2][0][::50]
    turn = Rotation.from_euler("xyz", [3, -4, 2], degrees=True).as_matrix()
    assert reconstruction_distance(truth @ turn.T + [8, 9, -70], truth) < 0.05
    spread = np.linalg.norm(truth - truth.mean(0), axis=1).mean()
    assert reconstruction_distance(1.02 * truth, truth) == pytest.approx(0.02 * spread, rel=0.02)


def test_a_mirrored_mesh_is_caught(case):
    _, _, truth, _ = case
    mirrored = truth[0] * [-1, 1, 1] + [450, 0, 0]
    flat, deep, rebuilt = dense_errors(mirrored, truth[0], case[0].landmarks68[0])
    assert min(flat, deep) > 20 and rebuilt > 10  # ICP turns, it does not reflect


def test_equals_a_naive_twin(case):
    data, _, truth, _ = case
    guess = truth[2] + np.random.default_rng(0).normal(0, 3, truth[2].shape)
    points = data.landmarks68[2]
    width = max(p[0] for p in points) - min(p[0] for p in points)
    height = max(p[1] for p in points) - min(p[1] for p in points)
    low_g, low_t = min(p[2] for p in guess), min(p[2] for p in truth[2])
    flat = deep = 0.0
    for p, q in zip(guess, truth[2], strict=True):
        square = (p[0] - q[0]) ** 2 + (p[1] - q[1]) ** 2
        flat += square**0.5
        deep += (square + ((p[2] - low_g) - (q[2] - low_t)) ** 2) ** 0.5
    side = (width * height) ** 0.5
    found = dense_errors(guess, truth[2], points)
    expected = 100 * flat / VERTICES / side, 100 * deep / VERTICES / side
    np.testing.assert_allclose(found[:2], expected)


def test_misses_are_counted_and_cost_the_centre_of_the_box(case, tmp_path):
    data, _, truth, _ = case
    result = result_of(case, tmp_path, truth[2:], data.names[2:])
    assert result["dense"]["misses"] == 2
    assert value(result, "dense_nme_percent", dims=2, pool="images") > 5


def test_a_folder_of_matlab_vertices_reads_as_the_array(case, tmp_path):
    data, basis, truth, _ = case
    for name, vertices in zip(data.names, truth, strict=True):
        savemat(tmp_path / f"{name}.mat", {"vertex": vertices.T})
    np.save(tmp_path / "other.npy", truth[0])
    predictions = load_dense_predictions(tmp_path)
    np.testing.assert_allclose(predictions.vertices(data.names[3]), truth[3])
    assert predictions.vertices("image99999") is None
    assert DenseCase(basis, predictions).score(data, np.arange(COUNT) // 3)["misses"] == 0


def test_what_does_not_fit_is_a_user_error(case, tmp_path):
    data, basis, truth, root = case
    with pytest.raises(UserError, match="compare vertex by vertex"):
        result_of(case, tmp_path, truth[:, :500])
    with pytest.raises(UserError, match=r"Model_Shape\.mat does not exist"):
        load_dense_basis(tmp_path)
    with pytest.raises(UserError, match="no .npy or .mat"):
        load_dense_predictions(root)
    other = load_dense_basis(write_basis(tmp_path / "other", seed=4))
    predictions = load_dense_predictions(tmp_path / "dense.npz")
    with pytest.raises(UserError, match="not the face model that AFLW2000-3D was fitted with"):
        wrong = DenseCase(other, predictions)
        np.savez(tmp_path / "dense.npz", names=np.array(data.names), dense=truth)
        DenseCase(wrong.basis, load_dense_predictions(tmp_path / "dense.npz")).score(
            data, np.zeros(COUNT, int)
        )


def test_a_converted_model_gives_the_same_truth(case, tmp_path):
    """A converted model has mm and coefficients divided by sigma; the labels have neither."""
    from lifemask.facemodel._container import write_model
    from lifemask.facemodel.bfm import read_2009

    data, basis, truth, root = case
    arrays, variant = read_2009([root / "basis"])
    assert variant == "3ddfa"
    again = load_dense_basis(write_model(arrays, {}, tmp_path / "bfm2009.npz"))
    np.testing.assert_array_equal(again.keypoints, basis.keypoints)
    fits = data.fits
    posed = again.posed(fits.pose_para[3], fits.shape_para[3], fits.exp_para[3])
    np.testing.assert_allclose(posed, truth[3], atol=1e-3)


def test_a_converted_model_without_scales_is_refused(case, tmp_path):
    from dataclasses import replace

    from lifemask.facemodel._container import write_model
    from lifemask.facemodel.bfm import read_2009

    arrays, _ = read_2009([case[3] / "basis"])
    path = write_model(replace(arrays, extra={}), {}, tmp_path / "other.npz")
    with pytest.raises(UserError, match="not the Basel model with 3DDFA's expressions"):
        load_dense_basis(path)
