"""Conversion as the user meets it: names, headers, errors, nothing half-written, and the fitter."""

import json

import numpy as np
import pytest
import torch

from helpers import face_model_files as toy
from lifemask import assets
from lifemask.apps.cli import main
from lifemask.assets import AssetError
from lifemask.facemodel import FACE_MODELS, load_face_model
from lifemask.facemodel._container import check, read_model
from lifemask.facemodel.convert import READERS, convert
from lifemask.graphics.camera import project
from lifemask.methods._fitting_surface import coefficient_prior
from lifemask.methods.fitting import FitConfig, fit_landmarks
from lifemask.types import Camera, Landmarks

pytest.importorskip("scipy")


def run(*arguments) -> int:
    try:
        main([str(a) for a in arguments])
    except SystemExit as end:
        return int(end.code or 0)
    return 0


@pytest.fixture
def models(tmp_path, monkeypatch):
    folder = tmp_path / "models"
    monkeypatch.setenv(assets.MODELS_ENV, str(folder))
    return folder


def test_every_model_is_known_everywhere():
    for name in READERS:
        assert name in FACE_MODELS
        asset = assets.external(name)
        assert asset.tag == "user" and asset.remedy.count(f"assets convert {name} --source") == 1
        assert asset.sources[0] in asset.remedy
    with pytest.raises(AssetError, match="unknown asset 'smpl'; known: centerface, ict"):
        assets.external("smpl")


@pytest.mark.parametrize("name", [*READERS, "ict"])
def test_an_absent_model_says_where_to_get_it(name, models):
    with pytest.raises(AssetError) as caught:
        load_face_model(name)
    text = str(caught.value)
    assert "\n" not in text and "https://" in text and str(models) in text
    assert f"lifemask assets convert {name} --source" in text


def test_command_writes_to_the_models_folder(tmp_path, models, capsys):
    toy.write_sfm(tmp_path)
    given = [tmp_path / n for n in ("sfm_shape_toy.bin", "ibug_to_sfm.txt")]
    assert run("assets", "convert", "sfm", "--source", *given) == 0
    assert str(models / "sfm.npz") in capsys.readouterr().out
    assert load_face_model("sfm").identity_size == 4
    assert load_face_model("sfm", models).name == "sfm"
    assert [p.name for p in models.iterdir()] == ["sfm.npz"]
    with np.load(models / "sfm.npz", allow_pickle=False) as file:
        header = json.loads(str(file["header"]))
    assert header["model"] == "sfm" and header["variant"] == "sfm_shape_toy"
    assert header["sources"] == {p.name: assets.sha256(p) for p in given}
    assert "research only" in header["licence"]
    assert header["mirror_residual_mm"]["max"] < 1e-3
    assert run("assets", "list") == 0
    text = capsys.readouterr().out
    for name in READERS:
        assert name in text
    assert "CC-BY-4.0" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("smpl", "--source", "x.pkl"), "cannot convert 'smpl'; known: ict, flame2020"),
        (("sfm", "--source", "nowhere"), "nowhere does not exist"),
        (("flame2020", "--source", "evil.pkl"), "nothing was executed"),
        (("bfm2009", "--source", "evil.pkl"), "no BFM 2009 among the files"),
        (("bfm2009", "--source", "bad.mat"), "is not a readable .mat file"),
        (("bfm2017", "--source", "bad.h5"), "is not a readable HDF5 file"),
        (("bfm2017", "--source", "empty.h5"), "is empty"),
        (("sfm", "--source", "sfm_bad.bin"), "no model of eos"),
        (("ict", "--source", "evil.pkl"), "from one folder"),
    ],
)
def test_bad_files_are_one_clear_line(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "evil.pkl").write_bytes(b"cos\nsystem\n(S'touch marker'\ntR.")
    (tmp_path / "bad.mat").write_bytes(b"MATLAB 5.0 MAT-file, but not really" + bytes(200))
    (tmp_path / "bad.h5").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100))
    (tmp_path / "empty.h5").write_bytes(b"")
    (tmp_path / "sfm_bad.bin").write_bytes(b"\x63" * 64)
    assert run("assets", "convert", *arguments, "-o", "out.npz") == 2
    error = capsys.readouterr().err
    assert message in error and error.startswith("error: ") and error.count("\n") == 1
    left = {p.name for p in tmp_path.iterdir()}
    assert left == {"evil.pkl", "bad.mat", "bad.h5", "empty.h5", "sfm_bad.bin"}


def test_damaged_npz_and_foreign_npz_are_refused(tmp_path, models):
    path = tmp_path / "sfm.npz"
    path.write_bytes(b"PK\x03\x04 not a zip")
    with pytest.raises(AssetError, match="is not a converted face model"):
        load_face_model("sfm", path)
    np.savez(path, header=np.array(json.dumps({"layout": "another"})))
    with pytest.raises(AssetError, match="is not a converted face model"):
        load_face_model("sfm", path)
    np.savez(path, header=np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(AssetError, match="is not a converted face model"):
        load_face_model("sfm", path)
    toy.write_sfm(tmp_path)
    with pytest.raises(AssetError, match="is no FLAME model"):
        load_face_model("flame2020", convert("sfm", [tmp_path / "sfm_shape_toy.bin"], path))


def test_arrays_that_do_not_fit_are_not_written(tmp_path):
    from dataclasses import replace

    from lifemask.facemodel import _container, sfm

    toy.write_sfm(tmp_path)
    arrays, _ = sfm.read_files([tmp_path])
    check(arrays)
    shifted = np.roll(arrays.mirror, 1)
    changes = {
        "mean": {"mean": arrays.mean * np.nan},
        "triangles": {"faces": arrays.faces + 1000},
        "mirror": {"mirror": shifted},
        "identity": {"identity": arrays.identity[:, 1:]},
        "finite": {"identity": np.full_like(arrays.identity, np.inf)},
        "ranges": {"expression_range": np.zeros((1, 2))},
        "regions": {"regions": {"face": np.zeros(3, bool)}},
    }
    for word, change in changes.items():
        with pytest.raises(AssetError, match=word):
            _container.write_model(replace(arrays, **change), {}, tmp_path / "x.npz")
    with pytest.raises(AssetError, match="cannot be written"):
        _container.write_model(arrays, {}, tmp_path / "no" / "x.npz")
    assert not (tmp_path / "x.npz").exists()


def test_round_trip_keeps_every_array(tmp_path):
    from lifemask.facemodel import _container, bfm

    toy.write_bfm2009(tmp_path)
    arrays, variant = bfm.read_2009([tmp_path])
    path = _container.write_model(arrays, {"model": "bfm2009"}, tmp_path / "bfm2009")
    assert path.name == "bfm2009.npz" and variant == "basel"
    again, header = read_model(path, "")
    assert header["model"] == "bfm2009"
    for key in ("mean", "identity", "expression", "uvs", "albedo_mean", "albedo_basis"):
        expected = np.asarray(getattr(arrays, key), np.float32)
        assert np.array_equal(getattr(again, key), expected), key
    for key in ("faces", "faces_uv", "face_part", "mirror"):
        assert np.array_equal(getattr(again, key), getattr(arrays, key)), key
    assert again.regions.keys() == arrays.regions.keys()
    assert all(np.array_equal(again.regions[k], arrays.regions[k]) for k in arrays.regions)


def test_the_prior_follows_the_expression_range(tmp_path):
    toy.write_flame(tmp_path)
    path = convert("flame2020", [tmp_path / "generic_model.pkl"], tmp_path / "out.model")
    model = load_face_model("flame2020", path)
    prior = coefficient_prior(model, 1.0, 3.0, 0.2, torch.zeros((), dtype=torch.float64))
    k = {name: 9 + i for i, name in enumerate(model.expression_names)}
    bounds = torch.stack((prior.lower, prior.upper), 1)
    jaw, eye, act = k["jawX_rad"], k["eyeLookLeftX_rad"], k["expression000"]
    assert bounds[act].tolist() == [-3, 3] and bounds[jaw].tolist() == [0, 0.6]
    assert bounds[eye].tolist() == [0, 0]  # landmarks on the skin do not see the eyes
    assert float(prior.precision[act, act]) == 1.0 and float(prior.linear[act]) == 0.0
    assert float(prior.linear[jaw]) == pytest.approx(3.0 / 0.6)  # exponential on [0, 0.6] rad
    assert float(prior.precision[k["jawY_rad"], k["jawY_rad"]]) == pytest.approx(1 / 0.05**2)


def camera() -> Camera:
    angle = torch.tensor(0.3)
    zero, one = torch.zeros(()), torch.ones(())
    rotation = torch.stack(
        (angle.cos(), zero, angle.sin(), zero, one, zero, -angle.sin(), zero, angle.cos())
    ).reshape(3, 3)
    place = torch.tensor([250.0, 240.0, 0.0])
    return Camera("orthographic", rotation, place, torch.tensor(1.5), torch.zeros(2))


@pytest.mark.parametrize(
    ("name", "convention"),
    [("bfm2009", "ibug68-3d-bfm"), ("bfm2017", "bfm15"), ("sfm", "sfm50"), ("flame2020", "ibug68")],
)
def test_the_fitter_takes_foreign_models_with_their_own_sizes(name, convention, tmp_path):
    writers = {"bfm2017": toy.write_bfm2017, "sfm": toy.write_sfm, "flame2020": toy.write_flame}
    if name == "bfm2009":
        truth = toy.write_bfm2009(tmp_path)
        toy.write_3ddfa(tmp_path, truth["points"], truth["faces"])
    else:
        writers[name](tmp_path)
    model = load_face_model(name, convert(name, [tmp_path], tmp_path / "out.model"))
    generator = torch.Generator().manual_seed(4)
    identity = torch.randn(model.identity_size, generator=generator).clamp(-1.5, 1.5)
    expression = torch.zeros(len(model.expression_names))
    expression[0] = 0.8
    if name == "flame2020":
        expression[3] = 0.25  # the jaw
    points = project(model.landmarks(model(identity, expression), convention), camera())
    landmarks = Landmarks(points, torch.full((len(points),), 0.3), convention)
    config = FitConfig(contour="fixed", sigma_floor=1e-4, iterations=30)
    geometry = fit_landmarks(landmarks, model, config)
    assert geometry.model == name and geometry.params is not None
    assert geometry.params.identity.shape == (model.identity_size,)
    assert geometry.params.expression.shape == (len(model.expression_names),)
    start = project(model.landmarks(model(identity * 0, expression * 0), convention), camera())
    plain = float((start - points)[:, :2].norm(dim=1).mean())
    assert geometry.residual_px < 0.25 * plain
    if name == "flame2020":
        assert abs(float(geometry.params.expression[3]) - 0.25) < 0.12
        eyes = [k for k, n in enumerate(model.expression_names) if n.startswith("eyeLook")]
        assert float(geometry.params.expression[eyes].abs().max()) == 0.0
