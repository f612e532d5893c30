"""Training of the albedo prior: it learns, its terms work, it resumes exactly, it is exported."""

import argparse
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from lifemask import assets
from lifemask.assets import UserError
from lifemask.data._albedo_cache import MapBank
from lifemask.facemodel import load_face_model
from lifemask.methods._retexture_prior import DARKEST, LinearPrior, load_prior
from lifemask.nn.albedo_vae import VaeOutput
from lifemask.training import albedo_prior
from lifemask.training.albedo_pca import learn_basis, save_basis
from lifemask.training.albedo_prior import (
    TRAINABLE,
    AlbedoLoss,
    AlbedoLossConfig,
    BatchMaker,
    by_tone,
    evaluate,
    run_training,
    smoke,
)
from lifemask.training.albedo_prior_export import export, fitted, reconstruction_errors
from lifemask.training.trainable import load_trainable, loop_config

INSIDE = torch.ones(32, 32, dtype=torch.bool)


def toy_bank(count=24, seed=0) -> MapBank:
    """Plain faces of many tones with a dark bar that is there or not."""
    rng = np.random.default_rng(seed)
    tone = rng.uniform(60, 220, (count, 1, 1, 1)) * np.array([1, 0.8, 0.7])[:, None, None]
    maps = np.broadcast_to(tone, (count, 3, 32, 32)).copy()
    maps[rng.random(count) < 0.5, :, 4:7, 6:26] *= 0.4
    return MapBank(
        [maps.astype(np.uint8)[: count // 2], maps.astype(np.uint8)[count // 2 :]], count
    )


def toy_recipe(steps, **optim):
    recipe = smoke()
    return replace(recipe, optim=replace(recipe.optim, steps=steps, **optim))


def train_toy(recipe, folder, **changes):
    config = replace(loop_config(recipe, folder), progress=False, evaluate_every=0, **changes)
    return run_training(recipe, toy_bank(), toy_bank(8, 9), INSIDE, config)


def test_it_is_listed():
    assert load_trainable("albedo-prior") is TRAINABLE
    for size, create in TRAINABLE.recipes.items():
        assert create("open").name == size
    options = argparse.Namespace()
    with pytest.raises(UserError, match="--family open"):
        TRAINABLE.run(smoke("research"), options, None)  # pyright: ignore[reportArgumentType]


def test_a_small_prior_learns_the_toy_faces(tmp_path):
    recipe = toy_recipe(40, peak_rate=3e-3, ema=0.8)
    before = evaluate(train_toy(toy_recipe(1), tmp_path / "short"), toy_bank(8, 9), INSIDE)
    network = train_toy(recipe, tmp_path / "long")
    after = evaluate(network, toy_bank(8, 9), INSIDE)
    assert after["held-out"] < 0.6 * before["held-out"]
    assert 0 < after["codes/used"] <= 8


def test_an_interrupted_run_ends_with_the_same_weights(tmp_path):
    recipe = replace(toy_recipe(6), save_every=3)
    whole = train_toy(recipe, tmp_path / "whole").state_dict()

    def stop(done):
        if done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_toy(recipe, tmp_path / "cut", on_step=stop)
    again = train_toy(recipe, tmp_path / "cut").state_dict()
    for name, value in whole.items():
        torch.testing.assert_close(again[name], value, rtol=0, atol=0)


def test_batches_depend_on_the_step_alone_and_are_mirrored():
    bank = toy_bank()
    one = np.arange(3 * 32 * 32, dtype=np.uint8).reshape(1, 3, 32, 32)
    maker = BatchMaker(MapBank([one], 1), smoke())
    kinds = {bytes(m.numpy().tobytes()) for step in range(8) for m in maker(step, 0, 1).maps}
    assert kinds == {one.tobytes(), one[..., ::-1].tobytes()}
    first, again = (BatchMaker(bank, smoke())(3, 0, 1) for _ in range(2))
    assert torch.equal(first.maps, again.maps) and torch.equal(first.noise, again.noise)
    assert not torch.equal(first.noise, BatchMaker(bank, smoke())(4, 0, 1).noise)


@pytest.mark.parametrize("term", ["l1", "gradient", "kl"])
def test_each_term_improves_what_it_guards(term):
    """Adam on one term alone: level, edges, or the codes' distance from normal."""
    torch.manual_seed(0)
    weights = {"l1": 0.0, "gradient": 0.0, "kl": 0.0} | {term: 1.0}
    criterion = AlbedoLoss(AlbedoLossConfig(**weights), INSIDE)
    wanted = torch.rand(2, 3, 32, 32)
    free = [torch.rand(2, 3, 32, 32), torch.randn(2, 4) + 2, torch.randn(2, 4) + 1]
    free = [value.requires_grad_() for value in free]

    def measured():
        with torch.no_grad():
            off = free[0] - wanted
            codes = (free[1].square() + (free[2].exp() - 1).square()).mean()
            return {"l1": off.square().mean(), "gradient": off.diff(dim=-1).square().mean(),
                    "kl": codes}[term]  # fmt: skip

    start = measured()
    optimizer = torch.optim.Adam(free, 0.02)
    for _ in range(80):
        total, _ = criterion(VaeOutput(*free), wanted)
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
    assert measured() < 0.5 * start


def test_texels_outside_the_face_do_not_count():
    inside = INSIDE.clone()
    inside[20:] = False
    criterion = AlbedoLoss(AlbedoLossConfig(gradient=0), inside)
    wanted, codes = torch.rand(1, 3, 32, 32), torch.zeros(1, 4)
    found = wanted.clone()
    found[:, :, 20:] += 0.3
    assert criterion(VaeOutput(found, codes, codes), wanted)[0].item() == pytest.approx(0)


def test_errors_by_tone():
    tones = np.array([9, 200, 90, 20, 250, 100], np.uint8)
    maps = np.tile(tones[:, None, None, None], (1, 3, 40, 40))
    found = by_tone("e", np.array([1.0, 5, 3, 1, 5, 3]), maps)
    assert found == {"e": 3, "e/dark": 1, "e/medium": 3, "e/light": 5}


def test_the_linear_basis_gives_its_maps_back_and_is_normal():
    bank = toy_bank()
    basis = learn_basis(bank, 4, 32)
    prior = LinearPrior(basis["mean"], basis["basis"], "log", 32)
    errors = reconstruction_errors({"pca": fitted(prior, INSIDE)}, bank[np.arange(24)], INSIDE)
    assert errors["pca"]["srgb"] < 0.01 and set(errors["pca"]) >= {"linear/dark", "srgb/light"}
    log = torch.from_numpy(bank[np.arange(24)]).float() / 255
    log = ((log + 0.055) / 1.055).pow(2.4).clamp(min=DARKEST).log()
    spread = log.var(0, correction=0).sum()
    torch.testing.assert_close(basis["basis"].square().sum(), spread, rtol=0.02, atol=0)


def test_export_can_be_loaded(tmp_path, monkeypatch):
    run, folder = tmp_path / "run", tmp_path / "weights"
    network = train_toy(smoke(), run)
    save_basis(learn_basis(toy_bank(), 4, 16), run / albedo_prior.PCA_FILE)
    export(run, folder, {"albedo_vae": {"srgb": 0.123456}})
    card = json.loads((folder / "albedo_vae.json").read_text())
    assert card["tag"] == "open" and card["measured"] == {"srgb": 0.1235}
    model = load_face_model()
    monkeypatch.setenv(assets.WEIGHTS_ENV, str(folder))
    z = torch.randn(2, 8)
    vae = load_prior("vae", 32, model)
    torch.testing.assert_close(vae(z), network.decode(z), atol=0.01, rtol=0.05)
    pca = load_prior("pca", 32, model)
    assert pca.latent == 4 and pca(torch.zeros(1, 4)).shape == (1, 3, 32, 32)
    assert {v.dtype for v in load_file(folder / "albedo_vae.safetensors").values()} == {torch.half}
