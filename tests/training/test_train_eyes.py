"""Training of the eye reader: it learns, its terms work, it resumes exactly, it is exported."""

import argparse
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from lifemask.assets import UserError
from lifemask.data.eye_windows import EyeWindows
from lifemask.nn.closeup_net import CloseupConfig, config_from_dict
from lifemask.nn.eye_net import EyeExport, EyeNet, eye_targets
from lifemask.nn.shipped import OnnxNetwork
from lifemask.training import eyes as training
from lifemask.training.eyes import (
    TRAINABLE,
    BatchMaker,
    EyeLoss,
    EyeLossConfig,
    evaluate,
    eye_scores,
    gaze_error_deg,
    run_training,
    smoke,
)
from lifemask.training.eyes_batches import (
    NO_EYE_AUGMENTATION,
    EyeAugmentConfig,
    behind_glass,
    in_shadow,
    make_batch,
    with_lashes,
)
from lifemask.training.eyes_export import main as export
from lifemask.training.trainable import load_trainable, loop_config

NET = CloseupConfig((8, 8, 16, 16), (1, 1, 1), 16, 16)


def toy_eyes(count=64, seed=0) -> EyeWindows:
    """A dark slit as high as the eye is open, moved sideways by the gaze."""
    rng = np.random.default_rng(seed)
    opening = rng.uniform(0.05, 0.4, count).astype(np.float32)
    gaze = np.stack([np.zeros(count), rng.uniform(-25, 25, count)], 1).astype(np.float32)
    windows = np.full((count, 72, 96, 3), 190, np.uint8)
    for k in range(count):
        half = max(1, round(float(opening[k]) * 30))
        column = 48 + round(float(gaze[k, 1]) * 0.5)
        windows[k, 36 - half : 36 + half, 26:70] = 250
        windows[k, 36 - half : 36 + half, column - 6 : column + 6] = 40
    lids = np.array([[26, 36], [40, 30], [56, 30], [70, 36], [56, 42], [40, 42]], np.float32)
    return EyeWindows(
        windows, opening, gaze, np.tile(np.float32([0, 0, 1]), (count, 1)),
        np.tile(lids, (count, 1, 1)), np.ones(count, np.float32),
    )  # fmt: skip


def toy_recipe(steps, **changes):
    recipe = replace(smoke(), augment=NO_EYE_AUGMENTATION, **changes)
    optim = replace(recipe.optim, steps=steps, batch=32, peak_rate=5e-3, warmup=5, ema=0.9)
    return replace(recipe, optim=optim, net=NET)


def train_toy(recipe, folder, count=64, **changes):
    config = replace(loop_config(recipe, folder), progress=False, evaluate_every=0, **changes)
    return run_training(recipe, toy_eyes(count), toy_eyes(24, 9), config)


def test_it_is_listed():
    assert load_trainable("eyes") is TRAINABLE
    for size, create in TRAINABLE.recipes.items():
        assert create("open").name == size


def test_it_learns_lids_and_gaze(tmp_path):
    before = evaluate(EyeNet(NET), toy_eyes(24, 9))
    loss = EyeLossConfig(gaze=2.0)
    network = train_toy(toy_recipe(250, loss=loss), tmp_path, 256)
    after = evaluate(network, toy_eyes(24, 9))
    assert after["opening"] < 0.3 * before["opening"]
    assert after["gaze_deg"] < 0.5 * after["gaze_still_deg"]


def test_an_interrupted_run_ends_the_same(tmp_path):
    whole = train_toy(toy_recipe(6), tmp_path / "a").state_dict()
    train_toy(toy_recipe(6), tmp_path / "b", stop_after=4, save_every=3)
    again = train_toy(toy_recipe(6), tmp_path / "b", save_every=3).state_dict()
    assert all(torch.equal(whole[k], again[k]) for k in whole)


def loss_parts(config, raw, targets):
    return EyeLoss(config)(raw, targets)


@pytest.mark.parametrize(("term", "column"), [("opening", 0), ("gaze", 2)])
def test_each_term_alone_lowers_its_own_error(term, column):
    generator = torch.Generator().manual_seed(0)
    raw = torch.randn(64, 6, generator=generator).requires_grad_()
    targets = eye_targets(torch.full((64,), 0.3), torch.full((64, 2), 12.0))
    config = EyeLossConfig(opening=float(term == "opening"), gaze=float(term == "gaze"))
    before = (raw[:, column] - targets[:, column]).abs().mean().item()
    optimiser = torch.optim.Adam([raw], 0.05)
    for _ in range(100):
        optimiser.zero_grad()
        loss_parts(config, raw, targets)[0].backward()
        optimiser.step()
    after = (raw[:, column] - targets[:, column]).abs().mean().item()
    other = 2 if column == 0 else 0
    untouched = (raw[:, other] - targets[:, other]).abs().mean().item()
    assert after < 0.3 * before and untouched > 0.5


@pytest.mark.parametrize("term", ["opening", "gaze", "doubt"])
def test_each_switch_changes_the_total(term):
    raw, targets = torch.randn(8, 6), torch.randn(8, 3)
    whole = loss_parts(EyeLossConfig(), raw, targets)[0]
    without = loss_parts(replace(EyeLossConfig(), **{term: 0.0}), raw, targets)[0]
    assert not torch.isclose(whole, without)


def test_the_likelihood_finds_the_doubt():
    """At its least the scale is the mean absolute error."""
    errors = torch.tensor([0.5, 1.5, 1.0, 3.0])
    raw = torch.zeros(4, 6)
    log_b = torch.zeros(1, requires_grad=True)
    optimiser = torch.optim.Adam([log_b], 0.05)
    targets = torch.stack((errors, torch.ones(4), torch.ones(4)), 1)
    for _ in range(300):
        optimiser.zero_grad()
        told = torch.cat((raw[:, :3], log_b.expand(4, 3)), 1)
        loss_parts(EyeLossConfig(gaze=0.0), told, targets)[0].backward()
        optimiser.step()
    assert log_b.exp().item() == pytest.approx(1.5, rel=0.02)


def test_the_gaze_of_shut_eyes_hardly_counts():
    raw = torch.zeros(2, 6)
    looks = torch.tensor([[0.0, 0.0], [0.0, 20.0]])
    shut = eye_targets(torch.tensor([0.3, 0.04]), looks)
    wide = eye_targets(torch.tensor([0.3, 0.3]), looks)
    config = EyeLossConfig(opening=0.0)
    assert loss_parts(config, raw, shut)[0] < 0.25 * loss_parts(config, raw, wide)[0]


def test_batches_are_a_function_of_the_step():
    maker = BatchMaker(toy_eyes(), replace(smoke(), augment=EyeAugmentConfig()))
    first, again, next_one = maker(3), maker(3), maker(4)
    assert torch.equal(first.crops, again.crops) and not torch.equal(first.crops, next_one.crops)
    assert first.crops.shape == (8, 3, 48, 64)
    assert 0 <= float(first.crops.min()) and float(first.crops.max()) <= 1
    torch.testing.assert_close(first.directions.norm(dim=1), torch.ones(8))


def test_without_augmentation_a_crop_is_the_middle_of_its_window():
    eyes = toy_eyes(4)
    batch = make_batch(eyes, np.arange(4), np.random.default_rng(0), NO_EYE_AUGMENTATION)
    middle = eyes.windows[:, 12:60, 16:80].transpose(0, 3, 1, 2) / 255
    np.testing.assert_allclose(batch.crops, middle, atol=2e-3)


@pytest.mark.parametrize(
    "name", [n for n in EyeAugmentConfig.__dataclass_fields__ if n not in ("view_deg",)]
)
def test_each_augmentation_changes_the_picture(name):
    strength = {"turn_deg": 20.0, "shift": 0.2, "scale": 0.3, "noise": 0.2}.get(name, 1.0)
    config = replace(NO_EYE_AUGMENTATION, **{name: strength})
    eyes = toy_eyes(8)
    eyes.windows[..., 2] //= 2  # so that grey is a change
    plain, changed = (
        make_batch(eyes, np.arange(8), np.random.default_rng(0), c).crops
        for c in (NO_EYE_AUGMENTATION, config)
    )
    assert float((plain - changed).abs().mean()) > 1e-3


def test_drawn_things_stay_in_the_window_wherever_the_lids_are():
    rng = np.random.default_rng(0)
    window = np.full((72, 96, 3), 128, np.uint8)
    for _ in range(200):
        lids = rng.uniform(-30, 130, (6, 2)).astype(np.float32)
        for made in (with_lashes(window, lids, 0.2, rng), in_shadow(window, lids, rng)):
            assert made.shape == window.shape and made.dtype == np.uint8
            assert made.max() <= 141, "nothing gets brighter than a tenth"
        assert behind_glass(window, rng).shape == window.shape


def test_scores_count_what_is_shut_and_what_is_open():
    eyes = toy_eyes(4)
    truth = np.array([0.05, 0.06, 0.3, 0.35], np.float32)
    eyes = replace(eyes, opening=truth, seen=np.array([1, 1, 1, 0.2], np.float32))
    found = np.zeros((4, 6))
    found[:, 0] = [0.05, 0.3, 0.3, 0.0]
    found[:, 1:3] = eyes.gaze_deg
    scores = eye_scores(found, eyes)
    assert scores["shut"] == 0.5 and scores["open"] == 1.0, "the hidden one does not count"
    assert scores["opening"] == pytest.approx(0.08, abs=1e-6)
    assert scores["gaze_deg"] < 1e-3
    assert gaze_error_deg(np.array([[0.0, 10.0]]), np.array([[0.0, -10.0]])) == pytest.approx(20)


def test_the_export_says_degrees_and_deviations():
    network = EyeNet(NET).eval()
    crops, ahead = torch.rand(3, 3, 48, 64), torch.tensor([[0.0, 0.0, 1.0]]).repeat(3, 1)
    raw, told = network(crops, ahead), EyeExport(network).eval()(crops, ahead)
    torch.testing.assert_close(told[:, 1:3], 10 * raw[:, 1:3])
    torch.testing.assert_close(told[:, 0], (0.25 + 0.1 * raw[:, 0]).relu())
    torch.testing.assert_close(told[:, 3], 0.1 * 2**0.5 * raw[:, 3].exp())


def test_brightness_and_contrast_do_not_matter():
    network = EyeNet(NET).eval()
    crops, ahead = torch.rand(2, 3, 48, 64), torch.tensor([[0.0, 0.0, 1.0]]).repeat(2, 1)
    dark = 0.1 + 0.5 * crops
    torch.testing.assert_close(network(crops, ahead), network(dark, ahead), atol=0.2, rtol=0.1)


def test_a_run_becomes_a_card_and_a_graph(tmp_path, monkeypatch):
    train_toy(toy_recipe(3), tmp_path / "run")
    folder = tmp_path / "weights"
    numbers = tmp_path / "m.json"
    numbers.write_text(json.dumps({"card": {"shut eyes called shut": "99 %"}}), encoding="utf-8")
    given = ["--run", str(tmp_path / "run"), "--name", "eyes-open", "--family", "open"]
    export([*given, "--folder", str(folder), "--metrics", str(numbers)])
    card = json.loads((folder / "eyes-open.json").read_text(encoding="utf-8"))
    assert card["licence"] == "Apache-2.0" and card["kind"] == "eyes"
    assert card["measured"] == {"shut eyes called shut": "99 %"}
    assert len(card["network"]["template_mm"]) == 13
    assert config_from_dict(card["network"]) == NET
    monkeypatch.setenv("LIFEMASK_WEIGHTS", str(folder))
    graph = OnnxNetwork("eyes-open.onnx", ("crops", "directions"))
    for count in (1, 2, 5):
        ahead = np.tile(np.float32([0, 0, 1]), (count, 1))
        assert graph(np.zeros((count, 3, 48, 64), np.float32), ahead).shape == (count, 6)


def test_a_graph_that_disagrees_is_refused(tmp_path, monkeypatch):
    from lifemask.training import _closeup_export
    from lifemask.training.eyes_export import KIND

    other = EyeNet(NET).eval()
    honest = _closeup_export.onnx_bytes
    monkeypatch.setattr(_closeup_export, "onnx_bytes", lambda kind, network: honest(kind, other))
    with pytest.raises(RuntimeError, match="away from torch's"):
        _closeup_export.export_closeup(KIND, EyeNet(NET).state_dict(), NET, tmp_path, "x", {})
    assert not list(tmp_path.iterdir()), "nothing half-written"


def test_photos_of_research_are_refused():
    options = argparse.Namespace(eyes=Path(), held_out=Path())
    recipe = replace(smoke(), family="research")
    with pytest.raises(UserError, match="--family open"):
        training.run(recipe, options, None)  # pyright: ignore[reportArgumentType]
