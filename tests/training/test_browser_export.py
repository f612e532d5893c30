"""The browser's network: what its outputs mean, what 8 bits cost, and what is shipped."""

import json

import numpy as np
import pytest
import torch

from lifemask.assets import weights_path
from lifemask.evaluation.engines import BATCHES, EngineCase
from lifemask.facemodel import load_face_model
from lifemask.faces.crop import square_box
from lifemask.graphics.camera import euler_deg_from_rotation, project, rotation_from_euler_deg
from lifemask.methods._crops import crop_camera
from lifemask.methods.dasl import load_dasl
from lifemask.training.browser_export import (
    LARGEST_BYTES,
    BrowserOutput,
    browser_net,
    eight_bits,
    pose_deg,
)

SQUARE = (160.6, 63.4, 292.8, 195.6)
CROP_PX, DEGREES, EXPRESSION, VERTEX_MM = 0.6, 0.6, 0.03, 0.6
"""What 8 bits may cost on a photo: largest of points, angles, activations and vertices."""


@pytest.fixture(scope="module")
def crops():
    return EngineCase(pytest.importorskip("skimage.data").astronaut(), SQUARE).crops(112)


def shipped(crops) -> BrowserOutput:
    import onnxruntime

    file = str(weights_path("browser-open.onnx"))
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    assert [one.name for one in session.get_outputs()] == list(BrowserOutput._fields)
    return BrowserOutput(*map(torch.from_numpy, session.run(None, {"crops": crops.numpy()})))


def test_the_shipped_file_is_small_and_names_the_expressions():
    path = weights_path("browser-open.onnx")
    assert path.stat().st_size <= LARGEST_BYTES
    card = json.loads(path.with_suffix(".json").read_text())
    assert tuple(card["expressions"]) == load_face_model().expression_names
    assert card["sources"] == [f"dasl-open.safetensors, {card_digest('dasl-open')}"], (
        "made from other weights: run lifemask.training.browser_export again"
    )


def card_digest(name: str) -> str:
    card = json.loads(weights_path(name).with_suffix(".json").read_text())
    return card["sha256"][f"{name}.safetensors"][:16]


@pytest.mark.parametrize("count", BATCHES)
def test_8_bits_say_what_2dasl_says(crops, count):
    said, source = shipped(crops[:count]), load_dasl("open", "torch")
    wanted, model = source.predict_crops(crops[:count]), source.model
    angles = euler_deg_from_rotation(wanted.rotation)
    assert float((said.pose_deg - angles).abs().max()) < DEGREES
    expression = wanted.expression.clamp(0, 1)
    assert float((said.expression - expression).abs().max()) < EXPRESSION
    heads = model(said.identity, said.expression), model(wanted.identity, expression)
    assert float((heads[0] - heads[1]).norm(dim=-1).max()) < VERTEX_MM
    for row, vertices in enumerate(heads[1].detach()):
        camera = crop_camera(wanted, row, 112)
        points = project(model.landmarks(vertices, "ict68"), camera)
        found = (said.landmarks68[row, :, :2] + 1) * 56 - 0.5
        assert float((found - points[:, :2]).norm(dim=-1).max()) < CROP_PX
        center, side = square_box(project(model.landmarks(vertices, "ibug68-3d-bfm"), camera))
        square = (said.square[row] * 56).tolist()
        assert square[2] == pytest.approx(side, abs=1)
        assert [v + 55.5 for v in square[:2]] == pytest.approx(center, abs=CROP_PX)


def test_outputs_without_rounding_are_those_of_2dasl(crops):
    source = load_dasl("open", "torch")
    with torch.no_grad():
        said = BrowserOutput(*browser_net("open")(crops))
    wanted = source.predict_crops(crops)
    torch.testing.assert_close(said.rotation, wanted.rotation, atol=1e-5, rtol=0)
    torch.testing.assert_close(said.scale, wanted.scale, atol=1e-5, rtol=0)
    torch.testing.assert_close(said.shift, wanted.shift, atol=1e-5, rtol=0)
    torch.testing.assert_close(said.identity, wanted.identity, atol=1e-4, rtol=0)


def test_angles_are_those_of_the_conventions():
    angles = torch.rand(50, 3) * 160 - 80
    found = pose_deg(rotation_from_euler_deg(angles))
    torch.testing.assert_close(found, angles, atol=1e-3, rtol=0)


@pytest.mark.parametrize("axis", [0, 1])
def test_eight_bits_are_half_a_step_away_at_most(axis):
    values = np.random.default_rng(0).normal(size=(6, 5, 3)).astype(np.float32)
    values[(slice(None),) * axis + (2,)] = 0  # a dead channel
    whole, scales = eight_bits(values, axis)
    assert whole.dtype == np.int8 and scales.size == values.shape[axis]
    assert (np.abs(whole * scales - values) <= scales / 2 + 1e-7).all()
    assert int(np.abs(whole).max()) == 127
