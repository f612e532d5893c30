import numpy as np
import pytest
import torch

from helpers import face_model_files as toy
from lifemask.assets import AssetError
from lifemask.facemodel import load_face_model
from lifemask.facemodel._cereal import read_blendshapes, read_eos_model
from lifemask.facemodel.convert import convert

pytest.importorskip("scipy")


def load(folder):
    return load_face_model("sfm", convert("sfm", [folder], folder / "out.model"))


@pytest.mark.parametrize(
    ("version", "expression"),
    [(1, "file"), (2, "pca"), (3, "blendshapes"), (4, "file"), (4, "blendshapes"), (4, "pca")],
)
def test_every_version_of_eos(tmp_path, version, expression):
    truth = toy.write_sfm(tmp_path, version, expression)
    model = load(tmp_path)
    assert np.abs(model.identity_basis.numpy() - truth["shape"]).max() < 1e-4
    if expression == "pca":
        assert model.expression_names == ("expression000", "expression001")
        assert model.expression_range == ((-3.0, 3.0),) * 2
    else:
        assert model.expression_names == ("anger", "happiness")
        assert model.expression_range == ((0.0, 1.0),) * 2
        assert np.abs(model.expression_basis[0].numpy() - truth["anger"]).max() < 1e-4


def test_origin_lies_inside_the_head(tmp_path):
    truth = toy.write_sfm(tmp_path)
    model = load(tmp_path)
    shift = model.mean.numpy() - truth["points"]
    assert np.abs(shift - shift[0]).max() < 1e-4 and np.abs(shift[0, :2]).max() < 1e-6
    assert model.mean[:, 2].min() < 0 < model.mean[:, 2].max()
    zero = model(torch.zeros(4), torch.zeros(2))
    assert torch.allclose(zero, model.mean)


def test_landmarks_regions_uvs_and_faces(tmp_path):
    truth = toy.write_sfm(tmp_path)
    model = load(tmp_path)
    points = model.landmarks(model.mean, "sfm50")
    assert points.shape == (50, 3)
    assert torch.equal(points[0], model.mean[truth["ids"][8]])  # the chin comes first
    assert torch.equal(points[1:6], model.mean[truth["ids"][17:22]])
    assert torch.equal(points[-1], model.mean[truth["ids"][67]])
    assert model.topology.regions["contour_left"].nonzero()[:, 0].tolist() == [12, 25, 38]
    uvs = model.topology.uvs
    assert torch.corrcoef(torch.stack((uvs[:, 1], model.mean[:, 1])))[0, 1] > 0.99  # v is up
    a, b, c = model.mean[model.topology.faces].unbind(1)
    assert (torch.linalg.cross(b - a, c - a)[:, 2] > 0).float().mean() > 0.9
    mirror = model.topology.mirror
    assert torch.equal(mirror[mirror], torch.arange(len(mirror)))
    flip = model.landmark_embeddings["sfm50"].mirror
    reflected = points[flip] * torch.tensor([-1.0, 1, 1])
    assert (reflected - points).norm(dim=1).max() < 1e-3


def test_damaged_files_are_refused_at_every_length(tmp_path):
    toy.write_sfm(tmp_path)
    data = (tmp_path / "sfm_shape_toy.bin").read_bytes()
    assert len(read_eos_model(data, "a").landmarks) == 1
    for cut in (0, 3, 4, 11, 100, len(data) // 2, len(data) - 1):
        with pytest.raises(AssetError, match="ends too early"):
            read_eos_model(data[:cut], "a")
    with pytest.raises(AssetError, match="too many"):
        read_eos_model(data + b"\0", "a")
    with pytest.raises(AssetError, match="unknown version"):
        read_eos_model(b"\x09" + data[1:], "a")
    with pytest.raises(AssetError, match="ends too early"):
        read_eos_model(data[:4] + b"\xff\xff\xff\x7f\xff\xff\xff\x7f" + data[12:], "a")
    with pytest.raises(AssetError, match="negative"):
        read_eos_model(data[:4] + b"\xff\xff\xff\xff" + data[8:], "a")
    with pytest.raises(AssetError):
        read_blendshapes(b"\xff" * 8, "b")


def test_two_models_or_none_are_refused(tmp_path):
    with pytest.raises(AssetError, match="found: none"):
        convert("sfm", [tmp_path], tmp_path / "x.npz")
    toy.write_sfm(tmp_path)
    (tmp_path / "sfm_shape_16759.bin").write_bytes(b"x")
    with pytest.raises(AssetError, match="one sfm_"):
        convert("sfm", [tmp_path], tmp_path / "x.npz")
    (tmp_path / "ibug_to_sfm.txt").write_text("9 = 33\n")
    (tmp_path / "sfm_shape_16759.bin").unlink()
    with pytest.raises(AssetError, match="lacks the landmarks 18, 19"):
        convert("sfm", [tmp_path], tmp_path / "x.npz")
