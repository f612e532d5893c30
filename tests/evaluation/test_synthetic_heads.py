"""The synthetic-head protocol: truth is perfect, and each fault is charged where it is."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from helpers.heads_set import write_heads

pytest.importorskip("igl")
pytest.importorskip("scipy")

from lifemask.assets import UserError  # noqa: E402
from lifemask.data.synthetic_heads import load_synthetic_heads, subset  # noqa: E402
from lifemask.evaluation._synthetic_report import value_of  # noqa: E402
from lifemask.evaluation.head_files import View, write_head  # noqa: E402
from lifemask.evaluation.meshes import load_mesh_predictions  # noqa: E402
from lifemask.evaluation.predict_meshes import mean_head, write_fitted_head  # noqa: E402
from lifemask.evaluation.synthetic_heads import score_synthetic_heads  # noqa: E402
from lifemask.graphics.camera import project, rotation_from_euler_deg  # noqa: E402

FACE = {"shape": "expressive", "region": "face", "align": "rigid", "correspond": "vertex"}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("heads")
    write_heads(root)
    return load_synthetic_heads(root)


def write_truth(data, folder, turn_deg=0.0, shift_px=0.0, gain=1.0, only=None, of=None):
    """The truth as a prediction, with known faults; `of` takes another image's head."""
    faces = data.model.topology.faces.numpy()
    turn = rotation_from_euler_deg(torch.tensor([0.0, turn_deg, 0.0])).double().numpy()
    for index, name in enumerate(data.names):
        if only is not None and index not in only:
            continue
        truth = data.truth(index if of is None else of[index])
        points = data.model.landmarks(truth.vertices_mm, "ict68")
        pixels = project(points, truth.camera)[:, :2].numpy() + [shift_px, 0.0]
        write_head(
            folder, name, (truth.vertices_mm.numpy(), faces),
            landmarks_mm={"ict68": points.numpy()},
            view=View(turn @ truth.camera.rotation.double().numpy(), {"ict68": pixels}),
            neutral=(truth.neutral_mm.numpy(), faces),
            albedo=truth.albedo.numpy() * gain,
        )  # fmt: skip
    return load_mesh_predictions(folder)


def test_the_truth_is_perfect(data, tmp_path):
    result = score_synthetic_heads(data, write_truth(data, tmp_path))
    errors = ("shape_mm", "rotation_error_deg", "landmark_error_px", "albedo_rmse")
    for number in result["numbers"]:
        if number["metric"] in errors:
            assert number["value"] == pytest.approx(0.0, abs=2e-3), number
    how = {"shape": "expressive", "align": "similarity"}
    assert value_of(result, "detail_r", **how) == pytest.approx(1.0, abs=1e-4)
    assert value_of(result, "detail_energy_ratio", **how) == pytest.approx(1.0, abs=1e-3)
    assert value_of(result, "normal_angle_deg", **how) < 0.05
    assert value_of(result, "relight_psnr_db", of="prediction") > 60
    assert value_of(result, "relight_psnr_db", of="photo as albedo") < 20
    assert result["misses"]["total"] == 0 and result["not_scored"] == []
    json.dumps(result, allow_nan=False)


def test_known_faults_give_known_numbers(data, tmp_path):
    found = write_truth(data, tmp_path, turn_deg=4.0, shift_px=3.0, gain=2.0)
    result = score_synthetic_heads(data, found)
    assert value_of(result, "rotation_error_deg", frame="own") == pytest.approx(4.0, abs=1e-3)
    assert value_of(result, "landmark_error_px", points=68) == pytest.approx(3.0, abs=1e-3)
    with_gain = value_of(result, "albedo_rmse", gain="one per image", texels="all")
    without = value_of(result, "albedo_rmse", gain="none", texels="all")
    assert with_gain == pytest.approx(0.0, abs=1e-3) and without > 0.05


def test_a_head_frame_turned_against_ours_is_undone_by_the_alignment(data, tmp_path):
    data = subset(data, 1)
    truth, faces = data.truth(0), data.model.topology.faces.numpy()
    turn = rotation_from_euler_deg(torch.tensor([10.0, 30.0, 0.0])).double().numpy()
    mesh = (truth.vertices_mm.double().numpy() @ turn.T, faces)
    rotation = truth.camera.rotation.double().numpy() @ turn.T
    write_head(tmp_path, data.names[0], mesh, landmarks_mm={}, view=View(rotation, {}))
    result = score_synthetic_heads(data, load_mesh_predictions(tmp_path))
    assert value_of(result, "rotation_error_deg", frame="own") > 20
    aligned = value_of(result, "rotation_error_deg", frame="aligned to the true shape")
    assert aligned == pytest.approx(0.0, abs=1e-2)
    reasons = {entry["metric"] for entry in result["not_scored"]}
    assert reasons == {"landmark_error_px", "albedo_rmse"}


def test_mean_face_misses_and_shuffled_heads(data, tmp_path):
    size = (data.header["image_size"],) * 2
    for name, box in zip(data.names, data.boxes, strict=True):
        head = mean_head(data.model, tuple(box), size)
        write_fitted_head(tmp_path / "mean", name, head, "photo", views=True)
    mean = score_synthetic_heads(data, load_mesh_predictions(tmp_path / "mean"))
    truth = score_synthetic_heads(data, write_truth(data, tmp_path / "t"))
    shuffled = score_synthetic_heads(data, write_truth(data, tmp_path / "s", of=(1, 2, 0)))
    some = score_synthetic_heads(data, write_truth(data, tmp_path / "some", only=(0, 1)))
    results = {"mean": mean, "truth": truth, "shuffled": shuffled, "some": some}
    error = {key: value_of(result, "shape_mm", **FACE) for key, result in results.items()}
    assert error["truth"] < 1e-3 < 0.5 < error["mean"] < error["shuffled"]
    assert some["misses"]["total"] == 1
    numbers = [n for n in mean["numbers"] if FACE.items() <= n["flags"].items()]
    assert error["some"] == pytest.approx(numbers[0]["per_image"][2] / 3, abs=1e-3)
    assert value_of(some, "relight_psnr_db", of="prediction") > 60


def test_a_mirrored_head_is_caught(data, tmp_path):
    data = subset(data, 1)
    truth, faces = data.truth(0), data.model.topology.faces.numpy()
    mirrored = truth.vertices_mm.numpy() * np.array([-1.0, 1.0, 1.0])
    write_head(tmp_path, data.names[0], (mirrored, faces), landmarks_mm={})
    result = score_synthetic_heads(data, load_mesh_predictions(tmp_path))
    assert value_of(result, "shape_mm", **FACE) > 10


def test_sets_of_another_model_or_of_nothing_are_refused(data, tmp_path):
    with pytest.raises(UserError, match="make them"):
        load_synthetic_heads(tmp_path)
    header = dict(data.header) | {"face_model_sha1": "0" * 12}
    (tmp_path / "header.json").write_text(json.dumps(header))
    with pytest.raises(UserError, match="another head model"):
        load_synthetic_heads(tmp_path)
    write_truth(data, tmp_path / "p", only=(0,))
    (tmp_path / "p" / f"{data.names[0]}.view.json").write_text('{"rotation": [[1]]}')
    with pytest.raises(UserError, match="rotation"):
        score_synthetic_heads(
            replace(data, names=data.names[:1]), load_mesh_predictions(tmp_path / "p")
        )
