import numpy as np
import pytest
import torch

from lifemask.assets import AssetError
from lifemask.facemodel import ict, load_face_model
from lifemask.facemodel.linear import LinearFaceModel

SQUARE = """v -1 0 0
v 1 0 0
v 1 2 0
v -1 2 0
vt 0.1 0.1
vt 0.9 0.1
vt 1.9 0.9
vt 0.1 0.9
usemtl M_Face
f 1/1 2/2 3/3 4/4
"""


@pytest.fixture
def folder(tmp_path):
    def write(name: str, shift: float) -> None:
        lines = SQUARE.splitlines()
        lines[0] = f"v {-1 + shift} 0 0"
        (tmp_path / f"{name}.obj").write_text("\n".join(lines) + "\n")

    write("generic_neutral_mesh", 0.0)
    for i in range(3):
        write(f"identity{i:03d}", 0.5 + i)
    write("jawOpen", 0.25)
    write("browInnerUp_L", 0.1)
    write("browInnerUp_R", 0.2)
    write("cheekRaiser_L", 9.0)
    return tmp_path


def test_reads_an_obj_folder(folder):
    data = ict.read_folder(folder)
    assert data["mean"].shape == (4, 3)
    assert data["identity"].shape == (3, 4, 3)
    assert data["identity"][2, 0, 0] == pytest.approx(2.5)
    assert data["polygons"].tolist() == [[0, 1, 2, 3]]
    assert data["faces"].tolist() == [[0, 1, 2], [0, 2, 3]]
    assert sorted(data["expression_names"]) == [
        *("browInnerUp_L", "browInnerUp_R", "cheekRaiser_L", "jawOpen")
    ]


def test_npz_holds_the_same_as_the_folder(folder, tmp_path):
    ict.convert(folder, tmp_path / "ict.npz")
    assert not list(tmp_path.glob(".*part"))
    with np.load(tmp_path / "ict.npz", allow_pickle=False) as file:
        assert np.abs(file["identity"] - ict.read_folder(folder)["identity"]).max() < 1e-2


def test_arkit_names_merge_pairs_and_drop_extras():
    names = ("PupilDilate_L", "browInnerUp_L", "browInnerUp_R", "cheekRaiser_L", "eyeBlink_L")
    assert ict.arkit_names((*names, "jawOpen")) == ["browInnerUp", "eyeBlinkLeft", "jawOpen"]
    shapes = {"browInnerUp_L": np.ones((1, 3)), "browInnerUp_R": np.full((1, 3), 2.0)}
    assert ict.arkit_shape(shapes, "browInnerUp")[0, 0] == 3.0


@pytest.mark.parametrize("broken", ["empty", "no_shapes", "npz"])
def test_incomplete_files_are_named(folder, tmp_path, broken):
    target = tmp_path / "other"
    target.mkdir()
    if broken == "no_shapes":
        (target / "generic_neutral_mesh.obj").write_text(SQUARE)
    if broken == "npz":
        target = tmp_path / "bad.npz"
        np.savez(target, mean=np.zeros((3, 3)))
    with pytest.raises(AssetError, match="FaceXModel"):
        load_face_model("ict", target)


@pytest.mark.slow
def test_the_real_model(shared_data):
    model = load_face_model("ict", shared_data / "ict" / "ict.npz")
    assert isinstance(model, LinearFaceModel)
    assert model.identity_size == 100 and len(model.expression_names) == 51
    assert set(model.landmark_embeddings) == {"ict68", "ibug51", "aflw21", "map18"}
    assert torch.equal(
        model.landmarks(model.mean, "ibug51"), model.landmarks(model.mean, "ict68")[17:]
    )
    points = model.landmarks(model.mean, "ict68")
    mirrored = points[model.landmark_embeddings["ict68"].mirror] * torch.tensor([-1.0, 1.0, 1.0])
    assert (mirrored - points).abs().max() < 0.1
    mirror = model.topology.mirror
    assert torch.equal(mirror[mirror], torch.arange(len(mirror)))
