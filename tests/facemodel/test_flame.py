import pickle
import sys
from types import ModuleType

import numpy as np
import pytest
import torch

from helpers import face_model_files as toy
from lifemask.assets import AssetError
from lifemask.facemodel import load_face_model
from lifemask.facemodel.convert import convert
from lifemask.facemodel.flame import FlameModel

pytest.importorskip("scipy")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("flame")
    return folder, toy.write_flame(folder)


@pytest.fixture(scope="module")
def model(files) -> FlameModel:
    folder, _ = files
    path = convert("flame2020", [folder], folder / "out.model")
    loaded = load_face_model("flame2020", path)
    assert isinstance(loaded, FlameModel)
    return loaded


def test_the_toy_file_is_a_real_pickle_of_python_2(files, monkeypatch):
    folder, arrays = files
    package, module = ModuleType("chumpy"), ModuleType("chumpy.ch")
    module.Ch = type("Ch", (), {"__module__": "chumpy.ch"})
    monkeypatch.setitem(sys.modules, "chumpy", package)
    monkeypatch.setitem(sys.modules, "chumpy.ch", module)
    with pytest.warns(DeprecationWarning):  # scipy.sparse.csc has moved
        content = pickle.loads((folder / "generic_model.pkl").read_bytes(), encoding="latin1")
    assert np.array_equal(content["shapedirs"].x, arrays["shapedirs"])
    assert np.array_equal(content["J_regressor"].toarray(), arrays["J_regressor"])
    assert content["kintree_table"].dtype == np.uint32


def test_metres_become_mm_and_three_quarters_are_identity(model, files):
    arrays = files[1]
    assert np.abs(model.mean.numpy() - arrays["v_template"] * 1000).max() < 1e-3
    assert model.identity_size == 9 and len(model.expression_basis) == 3
    everything = torch.cat((model.identity_basis, model.expression_basis)).numpy()
    assert np.abs(everything - arrays["shapedirs"].transpose(2, 0, 1) * 1000).max() < 1e-3
    assert model.expression_names[2:5] == ("expression002", "jawX_rad", "jawY_rad")
    assert len(model.expression_names) == len(model.expression_range) == 3 + 9
    assert model.parents == (-1, 0, 1, 1, 1)
    assert not model.state_dict()


def naive(arrays, identity, expression, pose) -> np.ndarray:
    """FLAME vertex by vertex with 4 x 4 matrices in numpy; mm."""
    from scipy.spatial.transform import Rotation

    shaped = arrays["v_template"].copy()
    coefficients = np.concatenate((identity, expression))
    for k, value in enumerate(coefficients):
        shaped += value * arrays["shapedirs"][:, :, k]
    joints = arrays["J_regressor"] @ shaped
    turns = [Rotation.from_rotvec(v).as_matrix() for v in pose]
    feature = np.concatenate([(r - np.eye(3)).reshape(-1) for r in turns[1:]])
    corrected = shaped + arrays["posedirs"] @ feature
    world = []
    for k, parent in enumerate((-1, 0, 1, 1, 1)):
        local = np.eye(4)
        local[:3, :3] = turns[k]
        local[:3, 3] = joints[k] - (joints[parent] if parent >= 0 else 0)
        world.append(local if parent < 0 else world[parent] @ local)
    out = np.empty_like(shaped)
    for v, point in enumerate(corrected):
        blend = np.zeros((4, 4))
        for k in range(5):
            back = np.eye(4)
            back[:3, 3] = -joints[k]
            blend += arrays["weights"][v, k] * world[k] @ back
        out[v] = (blend @ np.append(point, 1))[:3]
    return out * 1000


def test_equals_the_naive_twin(model, files):
    rng = np.random.default_rng(0)
    identity, expression = rng.normal(size=9), rng.normal(size=3)
    pose = rng.normal(0, 0.3, (5, 3))
    pose[0] = 0
    expected = naive(files[1], identity, expression, pose)
    vector = torch.tensor(np.concatenate((expression, pose[2], pose[3], pose[4])))
    double = model.double()
    got = double.posed(torch.tensor(identity), vector, torch.tensor(pose[1]))
    assert np.abs(got.numpy() - expected).max() < 1e-3
    model.float()


def test_zero_pose_is_the_linear_model(model):
    a, b = torch.randn(9), torch.randn(3)
    linear = model.mean + torch.einsum("i,ivc->vc", a, model.identity_basis)
    linear = linear + torch.einsum("e,evc->vc", b, model.expression_basis)
    assert torch.allclose(model(a, b), linear, atol=1e-4)
    assert torch.allclose(model(torch.zeros(9), torch.zeros(12)), model.mean, atol=1e-4)


def test_jaw_opens_downwards_and_neck_turns_the_head(model):
    expression = torch.zeros(12)
    expression[model.expression_names.index("jawX_rad")] = 0.4
    correctives, model.pose_basis = model.pose_basis, torch.zeros_like(model.pose_basis)
    rest = model.landmarks(model.mean, "ibug68")
    opened = model.landmarks(model(torch.zeros(9), expression), "ibug68") - rest
    yaw = torch.tensor([0.0, 0.5, 0.0])
    turned = model.landmarks(model.posed(torch.zeros(9), torch.zeros(12), yaw), "ibug68")
    model.pose_basis = correctives
    assert opened[8, 1] < -15  # the chin
    assert opened[17:27].norm(dim=1).max() < 0.5  # the brows
    assert turned[30, 0] > 20  # the nose tip: yaw is positive towards image right


def test_an_eye_turns_about_its_own_middle(model):
    expression = torch.zeros(12)
    expression[model.expression_names.index("eyeLookLeftY_rad")] = np.pi / 2
    left = model.topology.regions["left_eyeball"].nonzero()[:, 0]
    moved = model(torch.zeros(9), expression)
    assert torch.allclose(moved[left].mean(0), model.mean[left].mean(0), atol=1e-2)
    front = left[4]  # the vertex at +z goes to +x
    assert torch.allclose(moved[front] - moved[left].mean(0), torch.tensor([12.0, 0, 0]), atol=0.02)
    right = model.topology.regions["right_eyeball"]
    assert torch.allclose(moved[right], model.mean[right], atol=1e-3)


def test_batches_and_broadcasting(model):
    a, b = torch.randn(2, 3, 9), torch.randn(2, 3, 12) * 0.2
    together = model(a, b)
    assert together.shape == (2, 3, len(model.mean), 3)
    assert torch.allclose(together[1, 2], model(a[1, 2], b[1, 2]), atol=1e-3)
    assert torch.allclose(model(a[0, 0], b)[1, 1], model(a[0, 0], b[1, 1]), atol=1e-3)
    assert torch.allclose(model(a, b[0, 0])[1, 1], model(a[1, 1], b[0, 0]), atol=1e-3)
    short = model(a[0, 0, :2], b[0, 0, :5])
    padded = torch.cat((b[0, 0, :5], torch.zeros(7)))
    assert torch.allclose(short, model(torch.cat((a[0, 0, :2], torch.zeros(7))), padded), atol=1e-3)
    with pytest.raises(ValueError, match="13 expression coefficients, the model has 12"):
        model(a, torch.zeros(13))
    with pytest.raises(ValueError, match="10 identity coefficients, the model has 9"):
        model(torch.zeros(10), b)


@pytest.mark.parametrize("still", [True, False])
def test_gradients_also_at_rest(model, still):
    double = model.double()
    a = torch.randn(9, dtype=torch.float64, requires_grad=True)
    b = torch.randn(12, dtype=torch.float64) * (0 if still else 0.3)
    b.requires_grad_()
    neck = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda *p: double.posed(*p)[[70, 139, 145]] / 100, (a, b, neck))
    model.float()


def test_landmarks(model, files):
    ids = files[1]["ids"]
    assert set(model.landmark_embeddings) == {
        *("ibug68", "ibug51", "aflw21", "map18", "mediapipe105")
    }
    whole = model.landmarks(model.mean, "ibug68")
    assert torch.allclose(whole, model.mean[ids], atol=1e-4)
    assert torch.allclose(model.landmarks(model.mean, "ibug51"), whole[17:], atol=1e-4)
    faces = torch.tensor(files[1]["f"].astype(np.int64))
    middle = model.mean[faces[:105]].mean(1)
    assert torch.allclose(model.landmarks(model.mean, "mediapipe105"), middle, atol=1e-4)


def test_the_contour_follows_the_yaw(model):
    jaw = model.landmarks(model.mean, "ibug68")[:17]
    for yaw, shift in ((0.0, 0), (-5.2, 5), (-80.0, 39), (1.0, 40), (39.0, 78), (80.0, 78)):
        rolled = torch.roll(jaw, shift, 0)
        assert torch.allclose(model.contour(model.mean, yaw), rolled, atol=1e-4), yaw


def test_topology(model):
    topology = model.topology
    assert torch.equal(topology.mirror[topology.mirror], torch.arange(len(model.mean)))
    eyes = topology.regions["eyeballs"]
    assert int(eyes.sum()) == 12
    part = torch.tensor([topology.part_names.index("eyes")])
    assert torch.equal(topology.face_part == part, eyes[topology.faces].all(1))
    left = topology.regions["left_eyeball"]
    assert torch.equal(topology.regions["right_eyeball"], left[topology.mirror])
    assert topology.regions["face"].sum() == toy.ROWS * toy.COLUMNS


def test_uvs_of_the_template_and_no_jaw(tmp_path):
    arrays = toy.write_flame(tmp_path, "flame2023_no_jaw.pkl")
    faces = arrays["f"].astype(np.int64)
    uvs = toy.write_obj(tmp_path / "head_template_mesh.obj", arrays["v_template"], faces)
    for name in ("landmark_embedding.npy", "FLAME_masks.pkl"):
        (tmp_path / name).unlink()
    path = convert("flame2023", [tmp_path], tmp_path / "out.model")
    model = load_face_model("flame2023", path)
    assert np.allclose(model.topology.uvs.numpy(), uvs, atol=1e-6)
    assert np.array_equal(model.topology.faces_uv.reshape(-1).numpy(), np.arange(len(uvs)))
    assert not any(name.startswith("jaw") for name in model.expression_names)
    assert len(model.expression_names) == 3 + 6
    assert model.topology.part_names == ("skin", "eyes")
    assert int(model.topology.face_part.sum()) == 16  # by connected pieces, without the masks
    whole = model.landmarks(model.landmarks.__self__.mean, "ibug68")  # static 51 and the contour
    assert np.allclose(whole, arrays["v_template"][arrays["ids"]] * 1000, atol=1e-3)


def test_what_is_missing_is_named(files, tmp_path):
    folder, arrays = files
    with pytest.raises(AssetError, match="one FLAME model pickle is needed, found: none"):
        convert("flame2020", [folder / "FLAME_masks.pkl"], tmp_path / "x.npz")
    (tmp_path / "a.pkl").write_bytes(toy.python2_pickle({"v_template": arrays["v_template"]}))
    with pytest.raises(AssetError, match="lacks shapedirs, posedirs"):
        convert("flame2020", [tmp_path / "a.pkl"], tmp_path / "x.npz")
    wrong = {k: arrays[k] for k in arrays if k != "ids"} | {"weights": arrays["weights"][:, :4]}
    (tmp_path / "a.pkl").write_bytes(toy.python2_pickle(wrong))
    with pytest.raises(AssetError, match="weights has shape"):
        convert("flame2020", [tmp_path / "a.pkl"], tmp_path / "x.npz")
    assert not (tmp_path / "x.npz").exists()
