import numpy as np
import pytest
import torch

from helpers import face_model_files as toy
from lifemask.assets import AssetError
from lifemask.facemodel import load_face_model
from lifemask.facemodel._readers import json_of
from lifemask.facemodel.convert import convert
from lifemask.facemodel.linear import LinearFaceModel

pytest.importorskip("scipy")


def converted(model: str, folder, *names: str) -> LinearFaceModel:
    sources = [folder / name for name in names] if names else [folder]
    loaded = load_face_model(model, convert(model, sources, folder / "out" / f"{model}.npz"))
    assert isinstance(loaded, LinearFaceModel)
    return loaded


@pytest.fixture(scope="module")
def basel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bfm2009")
    (folder / "out").mkdir()
    return folder, toy.write_bfm2009(folder)


@pytest.fixture(scope="module")
def tdfa(basel, tmp_path_factory):
    folder, truth = basel
    other = tmp_path_factory.mktemp("3ddfa")
    (other / "out").mkdir()
    (other / "01_MorphableModel.mat").write_bytes((folder / "01_MorphableModel.mat").read_bytes())
    return converted_pair(other, truth)


def converted_pair(folder, truth):
    extra = toy.write_3ddfa(folder, truth["points"], truth["faces"])
    return converted("bfm2009", folder), extra


def test_the_original_alone_is_in_mm_with_unit_sigmas(basel):
    folder, truth = basel
    model = converted("bfm2009", folder, "01_MorphableModel.mat")
    assert model.identity_size == 4 and model.expression_names == ()
    assert np.abs(model.mean.numpy() - truth["points"]).max() < 1e-3
    assert np.abs(model.identity_basis.numpy() - truth["shape"]).max() < 1e-3
    none = torch.zeros(2, 0)
    assert torch.allclose(model(torch.zeros(2, 4), none)[1], model.mean)
    assert np.allclose(model.albedo(torch.zeros(3)).detach(), 0.5, atol=1e-6)
    change = model.albedo(torch.eye(3)) - model.albedo(torch.zeros(3))
    assert np.abs(change.numpy() * 255 - truth["colours"]).max() < 1e-3
    regions = model.topology.regions
    assert regions["nose"][0] and regions["eyes"][1] and not regions["nose"][1]


def test_triangles_are_turned_outwards(basel):
    folder, truth = basel
    model = converted("bfm2009", folder, "01_MorphableModel.mat")
    assert np.array_equal(np.sort(model.topology.faces.numpy()), np.sort(truth["faces"]))
    a, b, c = model.mean[model.topology.faces].unbind(1)
    normal = torch.linalg.cross(b - a, c - a)
    assert (normal[:, 2] > 0).float().mean() > 0.9


def test_3ddfa_variant(tdfa, basel):
    model, extra = tdfa
    truth = basel[1]
    trim = extra["trim"]
    mean = truth["points"][trim] + extra["offset"]
    assert np.abs(model.mean.numpy() - mean).max() < 1e-3
    assert np.abs(model.expression_basis.numpy() - extra["expression"]).max() < 1e-3
    assert np.abs(model.identity_basis.numpy() - truth["shape"][:, trim]).max() < 1e-3
    assert model.expression_range == ((-3.0, 3.0),) * 2
    points = model.landmarks(model.mean, "ibug68-3d-bfm")
    expected = mean[toy.landmark_vertices(truth["points"][trim])]
    assert np.abs(points.numpy() - expected).max() < 1e-3
    assert set(model.landmark_embeddings) == {"ibug68-3d-bfm", "ibug51", "aflw21", "map18"}
    assert points[30, 2] == model.mean[:, 2].max()


def test_derived_landmarks_lie_on_the_surface_near_their_definition(tdfa):
    model = tdfa[0]
    whole = model.landmarks(model.mean, "ibug68-3d-bfm")
    eye = model.landmarks(model.mean, "aflw21")[7]
    assert (eye - whole[36:42].mean(0)).norm() < 6
    assert torch.equal(model.landmarks(model.mean, "ibug51"), whole[17:])
    for name, entry in model.landmark_embeddings.items():
        assert torch.allclose(entry.barycentric.sum(1), torch.ones(1), atol=1e-5), name
        assert (entry.barycentric > -1e-5).all()
        flip = entry.mirror
        assert torch.equal(flip[flip], torch.arange(len(flip)))


def test_mirror_is_an_involution_that_reflects(tdfa):
    model = tdfa[0]
    mirror = model.topology.mirror
    assert torch.equal(mirror[mirror], torch.arange(len(mirror)))
    reflected = model.mean * torch.tensor([-1.0, 1, 1])
    inner = torch.tensor(toy.landmark_vertices(model.mean.numpy()))
    assert (reflected[inner] - model.mean[mirror[inner]]).norm(dim=1).max() < 2.0


def test_deep3d_variant_keeps_its_front_vertices(basel, tmp_path):
    (tmp_path / "out").mkdir()
    folder, truth = basel
    (tmp_path / "01_MorphableModel.mat").write_bytes(
        (folder / "01_MorphableModel.mat").read_bytes()
    )
    extra = toy.write_deep3d(tmp_path, truth["points"], truth["faces"])
    model = converted("bfm2009", tmp_path)
    rows = extra["rows"]
    assert np.abs(model.mean.numpy() - truth["points"][rows]).max() < 1e-3  # no mean expression
    assert np.abs(model.expression_basis.numpy() - extra["expression"][:, extra["front"]]).max() < (
        1e-3
    )
    assert np.array_equal(model.topology.regions["skin"].numpy(), extra["skin"] > 0)
    assert model.topology.regions["front"].sum() == 9
    assert "ibug68" in model.landmark_embeddings
    assert "ibug68-3d-bfm" not in model.landmark_embeddings


def test_deep3d_ready_made_file(tmp_path):
    from scipy.io import savemat

    points, faces = toy.face_mask()
    shape, act = toy.modes(3, points, 1), toy.modes(2, points, 2)
    flat = {"meanshape": points.reshape(1, -1) / 100, "tri": faces + 1.0}
    flat |= {"idBase": shape.reshape(3, -1).T / 100, "exBase": act.reshape(2, -1).T / 100}
    flat |= {"meantex": np.full((1, points.size), 51.0), "texBase": np.ones((points.size, 2))}
    flat |= {"keypoints": toy.landmark_vertices(points)[None] + 1.0, "skinmask": np.ones((1, 143))}
    savemat(tmp_path / "BFM_model_front.mat", flat)
    (tmp_path / "out").mkdir()
    model = converted("bfm2009", tmp_path)
    assert np.abs(model.mean.numpy() - points).max() < 1e-4
    assert np.abs(model.identity_basis.numpy() - shape).max() < 1e-4
    assert np.abs(model.expression_basis.numpy() - act).max() < 1e-4
    assert np.allclose(model.albedo(torch.ones(2)).numpy(), 51 / 255 + 2 / 255, atol=1e-6)


def test_matlab_7_3_is_read_like_version_5(basel, tmp_path):
    h5py = pytest.importorskip("h5py")
    from scipy.io import loadmat

    folder, truth = basel
    path = tmp_path / "01_MorphableModel.mat"
    with h5py.File(path, "w", userblock_size=512) as file:
        for key, value in loadmat(folder / path.name).items():
            if isinstance(value, np.ndarray):
                file[key] = value.T  # Matlab's order
    header = b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(512)
    path.write_bytes(header + path.read_bytes()[512:])
    (tmp_path / "out").mkdir()
    model = converted("bfm2009", tmp_path)
    assert np.abs(model.identity_basis.numpy() - truth["shape"]).max() < 1e-3
    assert model.topology.regions["nose"][0]


@pytest.mark.parametrize(
    "stored",
    [
        np.array(b'[{"id": 1}]', dtype=object),
        np.array(b'[{"id": 1}]'),
        np.array(['[{"id": 1}]']),
        np.frombuffer(b'[{"id": 1}]\0', np.int8),
    ],
    ids=["variable", "fixed", "text", "bytes"],
)
def test_json_in_every_way_hdf5_stores_text(stored):
    assert json_of(stored, "landmarks") == [{"id": 1}]
    with pytest.raises(AssetError, match="is not JSON"):
        json_of(np.frombuffer(b"{", np.int8), "landmarks")


def test_the_struct_of_face3d_is_the_3ddfa_variant(tmp_path):
    from scipy.io import savemat

    points, faces = toy.face_mask()
    shape, act = toy.modes(3, points, 1), toy.modes(2, points, 2)
    flat = {"shapeMU": points.reshape(-1, 1) * 1000, "expMU": np.full((points.size, 1), 250.0)}
    for name, rows in (("shape", shape), ("exp", act)):
        flat[f"{name}PC"], sigma = toy.orthonormal(rows)
        flat[f"{name}EV"] = sigma[:, None] * 1000
    flat |= {"tri": faces.T + 1.0, "kpt_ind": toy.landmark_vertices(points)[None] + 1.0}
    savemat(tmp_path / "BFM.mat", {"model": flat})
    (tmp_path / "out").mkdir()
    model = converted("bfm2009", tmp_path)
    assert np.abs(model.mean.numpy() - points - 0.25).max() < 1e-4
    assert np.abs(model.identity_basis.numpy() - shape).max() < 1e-4
    assert np.abs(model.expression_basis.numpy() - act).max() < 1e-4
    assert "ibug68-3d-bfm" in model.landmark_embeddings


def test_expressions_without_their_vertex_list_are_refused(basel, tmp_path):
    folder, truth = basel
    (tmp_path / "01_MorphableModel.mat").write_bytes(
        (folder / "01_MorphableModel.mat").read_bytes()
    )
    toy.write_3ddfa(tmp_path, truth["points"], truth["faces"])
    (tmp_path / "model_info.mat").unlink()
    with pytest.raises(AssetError, match="trimIndex"):
        convert("bfm2009", [tmp_path], tmp_path / "x.npz")
    (tmp_path / "Exp_Pca.bin").write_bytes(b"\x02\0\0\0" + b"\0" * 11)
    with pytest.raises(AssetError, match=r"std_exp\.txt"):
        convert("bfm2009", [tmp_path], tmp_path / "x.npz")
    (tmp_path / "std_exp.txt").write_text("1 2")
    with pytest.raises(AssetError, match="damaged"):
        convert("bfm2009", [tmp_path], tmp_path / "x.npz")
    assert not (tmp_path / "x.npz").exists()


@pytest.fixture(scope="module")
def basel2017(tmp_path_factory):
    pytest.importorskip("h5py")
    folder = tmp_path_factory.mktemp("bfm2017")
    (folder / "out").mkdir()
    return toy.write_bfm2017(folder), converted("bfm2017", folder)


def test_data_sets_in_other_files_are_refused(tmp_path):
    h5py = pytest.importorskip("h5py")
    (tmp_path / "secret").write_bytes(bytes(64))
    with h5py.File(tmp_path / "model.h5", "w") as file:
        store = [(str(tmp_path / "secret"), 0, 64)]
        file.create_dataset("shape/model/mean", (16,), "f4", external=store)
    with pytest.raises(AssetError, match="lies in another file: refused"):
        convert("bfm2017", [tmp_path / "model.h5"], tmp_path / "x.npz")


def test_2017_is_read_from_statismo_hdf5(basel2017):
    truth, model = basel2017
    assert np.abs(model.mean.numpy() - truth["points"] - 0.5).max() < 1e-4
    assert np.abs(model.identity_basis.numpy() - truth["shape"]).max() < 1e-4
    assert np.abs(model.expression_basis.numpy() - truth["expression"]).max() < 1e-4
    points = model.landmarks(model.mean, "bfm15")
    assert points.shape == (15, 3)
    assert points[1, 2] == model.mean[:, 2].max()  # the nose tip
    assert points[0, 1] < points[9, 1] < points[1, 1] < points[5, 1]  # chin, mouth, nose, eye
    assert points[5, 0] < 0 < points[8, 0]  # "right" is the subject's, at image left


@pytest.mark.parametrize("name", ["3ddfa", "2017"])
def test_model_properties(name, tdfa, basel2017):
    model = tdfa[0] if name == "3ddfa" else basel2017[1]
    i, e = model.identity_size, len(model.expression_names)
    a, b = torch.randn(3, 2, i), torch.randn(3, 2, e)
    together = model(a, b)
    assert torch.allclose(together[2, 1], model(a[2, 1], b[2, 1]), atol=1e-4)
    assert torch.allclose(model(torch.zeros(i), torch.zeros(e)), model.mean)
    linear = model(2 * a, 2 * b) - model.mean
    assert torch.allclose(linear, 2 * (together - model.mean), atol=1e-3)
    assert not model.state_dict()
    double = model.double()
    c = torch.randn(i, dtype=torch.float64, requires_grad=True)
    d = torch.randn(e, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, y: double(x, y)[::29], (c, d))
    model.float()


def test_unwrap_covers_the_texture_without_seams(basel2017):
    topology = basel2017[1].topology
    assert topology.uvs.min() >= 0 and topology.uvs.max() <= 1
    corners = topology.uvs[topology.faces_uv]
    assert float((corners[..., 0].amax(1) - corners[..., 0].amin(1)).max()) < 0.5
    mean = basel2017[1].mean
    order = torch.argsort(mean[:, 1])
    v = topology.uvs[: len(mean), 1]
    assert (v[order].diff() >= -1e-6).all()  # v grows with y
