"""Training of the mouth reader: it learns, its switches work, it resumes, it is exported."""

import argparse
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from lifemask.assets import UserError
from lifemask.data.mouth_windows import COLUMNS, MouthWindows
from lifemask.nn.closeup_net import CloseupConfig, config_from_dict
from lifemask.nn.mouth_net import MouthExport, MouthNet, mouth_targets
from lifemask.nn.shipped import OnnxNetwork
from lifemask.training import mouth as training
from lifemask.training.mouth import (
    NO_MOUTH_AUGMENTATION,
    TRAINABLE,
    BatchMaker,
    MouthAugmentConfig,
    MouthLoss,
    MouthLossConfig,
    chances,
    evaluate,
    make_batch,
    mouth_scores,
    run_training,
    smoke,
)
from lifemask.training.mouth_export import main as export
from lifemask.training.trainable import load_trainable, loop_config

NET = CloseupConfig((8, 8, 16, 16), (1, 1, 1), 16, 16)
ROWS = COLUMNS * 3 // 4


def toy_mouths(count=64, seed=0) -> MouthWindows:
    """Red lips with a dark gap as high as the mouth is open."""
    rng = np.random.default_rng(seed)
    opening = rng.uniform(0.0, 0.5, count).astype(np.float32)
    windows = np.full((count, ROWS, COLUMNS, 3), (200, 160, 140), np.uint8)
    for k in range(count):
        half = float(opening[k]) * 25
        windows[k, round(45 - half) : round(57 + half), 40:96] = (180, 80, 80)
        windows[k, round(51 - half) : round(51 + half), 44:92] = (40, 20, 20)
    ahead = np.tile(np.float32([0.6, 0, 0.8]), (count, 1))
    return MouthWindows(windows, opening, ahead, np.ones(count, np.float32))


def toy_recipe(steps, **changes):
    recipe = replace(smoke(), augment=NO_MOUTH_AUGMENTATION, **changes)
    optim = replace(recipe.optim, steps=steps, batch=32, peak_rate=5e-3, warmup=5, ema=0.9)
    return replace(recipe, optim=optim, net=NET)


def train_toy(recipe, folder, count=64, **changes):
    config = replace(loop_config(recipe, folder), progress=False, evaluate_every=0, **changes)
    return run_training(recipe, toy_mouths(count), toy_mouths(24, 9), config)


def test_it_is_listed():
    assert load_trainable("mouth") is TRAINABLE
    for size, create in TRAINABLE.recipes.items():
        assert create("open").name == size


def test_it_learns_how_far_lips_are_apart(tmp_path):
    before = evaluate(MouthNet(NET), toy_mouths(24, 9))
    after = evaluate(train_toy(toy_recipe(150), tmp_path, 256), toy_mouths(24, 9))
    assert after["opening"] < 0.3 * before["opening"] and after["correlation"] > 0.95


def test_an_interrupted_run_ends_the_same(tmp_path):
    whole = train_toy(toy_recipe(6), tmp_path / "a").state_dict()
    train_toy(toy_recipe(6), tmp_path / "b", stop_after=4, save_every=3)
    again = train_toy(toy_recipe(6), tmp_path / "b", save_every=3).state_dict()
    assert all(torch.equal(whole[k], again[k]) for k in whole)


def test_the_likelihood_finds_the_doubt_and_can_be_without():
    """At its least the scale is the mean absolute error."""
    errors = torch.tensor([0.5, 1.5, 1.0, 3.0])[:, None]
    log_b = torch.zeros(1, requires_grad=True)
    optimiser = torch.optim.Adam([log_b], 0.05)
    for _ in range(300):
        optimiser.zero_grad()
        raw = torch.cat((torch.zeros(4, 1), log_b.expand(4, 1)), 1)
        MouthLoss(MouthLossConfig())(raw, errors)[0].backward()
        optimiser.step()
    assert log_b.exp().item() == pytest.approx(1.5, rel=0.02)
    raw = torch.cat((torch.zeros(4, 1), torch.full((4, 1), 0.7)), 1)
    plain, parts = MouthLoss(MouthLossConfig(doubt=0.0))(raw, errors)
    assert plain.item() == pytest.approx(1.5) == parts["error"].item()


def test_rare_openings_are_drawn_more_often():
    opening = np.array([0.01] * 98 + [0.2, 0.6])
    as_they_are, evenly = chances(opening, 0.0), chances(opening, 1.0)
    np.testing.assert_allclose(as_they_are, 0.01)
    assert evenly[:98].sum() == pytest.approx(1 / 3) == evenly[99]
    assert as_they_are[99] < chances(opening, 0.5)[99] < evenly[99]
    few = replace(toy_mouths(50), opening=np.float32([0.01] * 49 + [0.6]))
    recipe = replace(toy_recipe(3), optim=replace(toy_recipe(3).optim, batch=200))
    shares = [
        float((BatchMaker(few, replace(recipe, even=e))(0).targets > 1).float().mean())
        for e in (0.0, 1.0)
    ]
    assert shares[0] < 0.1 and 0.4 < shares[1] < 0.6


def test_batches_are_a_function_of_the_step():
    maker = BatchMaker(toy_mouths(), replace(smoke(), augment=MouthAugmentConfig()))
    first, again, next_one = maker(3), maker(3), maker(4)
    assert torch.equal(first.crops, again.crops) and not torch.equal(first.crops, next_one.crops)
    assert first.crops.shape == (8, 3, 72, 96)
    assert 0 <= float(first.crops.min()) and float(first.crops.max()) <= 1
    torch.testing.assert_close(first.directions.norm(dim=1), torch.ones(8))


def test_without_augmentation_a_crop_is_the_middle_of_its_window():
    mouths = toy_mouths(4)
    batch = make_batch(mouths, np.arange(4), np.random.default_rng(0), NO_MOUTH_AUGMENTATION)
    # 1.4 crops wide in 136 px: one px of the crop is 1.012 px of the window
    middle = mouths.windows[:, ROWS // 2, COLUMNS // 2] / 255
    np.testing.assert_allclose(batch.crops[:, :, 36, 48], middle, atol=2e-2)
    torch.testing.assert_close(batch.targets[:, 0], (torch.from_numpy(mouths.opening) - 0.1) / 0.1)


def test_mirrored_crops_are_seen_from_the_other_side():
    mouths = toy_mouths(8)
    mouths.windows[:, :, :60] //= 2
    config = replace(NO_MOUTH_AUGMENTATION, mirror=1.0)
    plain, mirrored = (
        make_batch(mouths, np.arange(8), np.random.default_rng(0), c)
        for c in (NO_MOUTH_AUGMENTATION, config)
    )
    torch.testing.assert_close(mirrored.crops, plain.crops.flip(-1))
    torch.testing.assert_close(
        mirrored.directions, plain.directions * torch.tensor([-1.0, 1.0, 1.0])
    )
    assert torch.equal(mirrored.targets, plain.targets)


@pytest.mark.parametrize(
    "name", [n for n in MouthAugmentConfig.__dataclass_fields__ if n != "view_deg"]
)
def test_each_augmentation_changes_the_picture(name):
    strength = {"turn_deg": 20.0, "shift": 0.2, "scale": 0.3, "noise": 0.2}.get(name, 1.0)
    config = replace(NO_MOUTH_AUGMENTATION, **{name: strength})
    mouths = toy_mouths(8)
    mouths.windows[:, :, :60] //= 2  # so that a mirror image is a change
    plain, changed = (
        make_batch(mouths, np.arange(8), np.random.default_rng(0), c).crops
        for c in (NO_MOUTH_AUGMENTATION, config)
    )
    assert float((plain - changed).abs().mean()) > 1e-3


def test_scores_count_what_is_shut_and_what_is_parted():
    truth = np.array([0.01, 0.02, 0.06, 0.2, 0.4])
    scores = mouth_scores(np.array([0.02, 0.09, 0.06, 0.2, 0.03]), truth)
    assert scores["shut"] == 0.5 and scores["parted"] == 0.5
    assert scores["opening"] == pytest.approx((0.01 + 0.07 + 0.37) / 5)
    still = mouth_scores(np.full(3, 0.1), np.array([0.2, 0.3, 0.4]))
    assert np.isnan(still["shut"]) and np.isnan(still["correlation"])
    hidden = replace(toy_mouths(4), seen=np.float32([0, 0, 0, 0.2]))
    assert np.isnan(evaluate(MouthNet(NET), hidden)["opening"]), "what is out of view is not asked"


def test_the_export_says_openings_and_deviations():
    network = MouthNet(NET).eval()
    crops, ahead = torch.rand(3, 3, 72, 96), torch.tensor([[0.0, 0.0, 1.0]]).repeat(3, 1)
    raw, told = network(crops, ahead), MouthExport(network).eval()(crops, ahead)
    torch.testing.assert_close(told[:, 0], (0.1 + 0.1 * raw[:, 0]).relu())
    torch.testing.assert_close(told[:, 1], 0.1 * 2**0.5 * raw[:, 1].exp())
    torch.testing.assert_close(
        mouth_targets(torch.tensor([0.1, 0.3]))[:, 0], torch.tensor([0, 2.0])
    )


def test_a_run_becomes_a_card_and_a_graph(tmp_path, monkeypatch):
    train_toy(toy_recipe(3), tmp_path / "run")
    folder = tmp_path / "weights"
    numbers = tmp_path / "m.json"
    numbers.write_text(json.dumps({"card": {"shut mouths called shut": "9 %"}}), encoding="utf-8")
    given = ["--run", str(tmp_path / "run"), "--name", "mouth-open", "--family", "open"]
    export([*given, "--folder", str(folder), "--metrics", str(numbers)])
    card = json.loads((folder / "mouth-open.json").read_text(encoding="utf-8"))
    assert card["licence"] == "Apache-2.0" and card["kind"] == "mouth"
    assert card["measured"] == {"shut mouths called shut": "9 %"}
    assert config_from_dict(card["network"]) == NET
    monkeypatch.setenv("LIFEMASK_WEIGHTS", str(folder))
    graph = OnnxNetwork("mouth-open.onnx", ("crops", "directions"))
    for count in (1, 3):
        ahead = np.tile(np.float32([0, 0, 1]), (count, 1))
        assert graph(np.zeros((count, 3, 72, 96), np.float32), ahead).shape == (count, 2)


def test_photos_of_research_are_refused():
    options = argparse.Namespace(mouths=Path(), held_out=Path())
    recipe = replace(smoke(), family="research")
    with pytest.raises(UserError, match="--family open"):
        training.run(recipe, options, loop_config(recipe, Path()))
