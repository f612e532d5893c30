"""Training RAFaRe's networks on balls: they learn, resume exactly, and can be switched."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch

from helpers.rafare_pairs import ball_pairs
from lifemask.assets import AssetError, UserError
from lifemask.methods._rafare_loss import Part
from lifemask.training.checkpoint import averaged_weights
from lifemask.training.overrides import with_overrides
from lifemask.training.rafare import SWITCHES, create_network, evaluate, run_training
from lifemask.training.rafare_batches import _check
from lifemask.training.rafare_recipes import RafareRecipe, recipes
from lifemask.training.trainable import SIZES, load_trainable, loop_config

pytest.importorskip("lightning.fabric")
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]
PARTS: tuple[Part, ...] = ("base", "fine", "normals")


def longer(part: Part, steps: int) -> RafareRecipe:
    """The smoke recipe with more steps and without changes of colour, which the toy has none of."""
    recipe = recipes(part)["smoke"]("open")
    return replace(recipe, optim=replace(recipe.optim, steps=steps, warmup=5))


@pytest.mark.parametrize(("part", "share"), [("base", 0.75), ("fine", 0.6), ("normals", 0.3)])
def test_networks_learn_balls_they_have_not_seen(part: Part, share: float, tmp_path: Path):
    recipe = longer(part, 120)
    held = ball_pairs(4, seed=9)
    torch.manual_seed(recipe.seed)
    before = evaluate(create_network(recipe.net, part), held, part, 4)["error"]
    config = loop_config(recipe, tmp_path, progress=False)
    network = run_training(recipe, ball_pairs(), held, config)
    assert evaluate(network, held, part, 4)["error"] < share * before


@pytest.mark.parametrize("part", PARTS)
def test_mixed_precision_learns_like_single(part: Part, tmp_path: Path):
    recipe, held = longer(part, 30), ball_pairs(4, seed=9)
    found = []
    for precision in ("32-true", "bf16-mixed"):
        config = loop_config(recipe, tmp_path / precision, progress=False, precision=precision)
        network = run_training(recipe, ball_pairs(), held, config)
        found.append(evaluate(network, held, part, 4)["error"])
    assert found[1] == pytest.approx(found[0], rel=0.15) and found[0] != found[1]


def test_a_stopped_run_ends_with_the_same_bytes(tmp_path: Path):
    recipe = longer("base", 8)
    for name, stop in (("whole", 0), ("stopped", 0)):
        config = loop_config(recipe, tmp_path / name, progress=False, save_every=4)
        if name == "stopped":
            config = replace(config, seconds=1e-6)
            run_training(recipe, ball_pairs(), ball_pairs(2, seed=3), config)
            config = replace(config, seconds=0.0)
        run_training(recipe, ball_pairs(), ball_pairs(2, seed=3), replace(config, stop_after=stop))
    whole, stopped = (averaged_weights(tmp_path / name) for name in ("whole", "stopped"))
    assert all(torch.equal(whole[k], stopped[k]) for k in whole)


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("size", SIZES)
def test_every_recipe_builds_its_network(part: Part, size: str):
    for family in ("open", "research"):
        recipe = recipes(part)[size](family)
        assert recipe.name == size and recipe.part == part and recipe.family == family
        with torch.device("meta"):
            create_network(recipe.net, part)
    assert load_trainable(f"rafare-{part}").recipes.keys() == set(SIZES)


@pytest.mark.parametrize("part", PARTS)
def test_every_switch_changes_the_recipe(part: Part):
    recipe = recipes(part)["cpu"]("open")
    for switch in SWITCHES[part]:
        changed = with_overrides(recipe, switch.overrides)
        assert asdict(changed) != asdict(recipe), switch.name


def test_pairs_of_the_wrong_kind_are_refused(tmp_path: Path):
    good = {"size": 32, "licence": "open", "held_out": False}
    _check(tmp_path, good, 32, "open", False)
    for change, family, held_out, told in (
        ({"size": 64}, "open", False, "64 px"),
        ({"licence": "research only"}, "open", False, "open family"),
        ({"held_out": True}, "open", False, "held out"),
        ({}, "open", True, "for training"),
    ):
        with pytest.raises(UserError, match=told):
            _check(tmp_path, good | change, 32, family, held_out)
    _check(tmp_path, good | {"licence": "research only"}, 32, "research", False)


def test_three_runs_become_weights_that_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    import json

    from lifemask.methods.rafare import RafarePredictConfig, load_rafare
    from lifemask.training import rafare_export

    runs = {}
    for part in PARTS:
        recipe = longer(part, 2)
        runs[part] = tmp_path / part
        config = loop_config(recipe, runs[part], progress=False)
        run_training(recipe, ball_pairs(2), ball_pairs(2, seed=3), config)
    weights = tmp_path / "weights"
    given = [f"--{part}={folder}" for part, folder in runs.items()]
    given += ["--name=rafare-trial", "--family=open", f"--folder={weights}", "--commit=none"]
    rafare_export.main([*given, "--field", '{"grid": 24, "carve": "both"}'])
    card = json.loads((weights / "rafare-trial.json").read_text())
    assert card["steps"] == dict.fromkeys(PARTS, 2) and card["pairs_seen"]["base"] == 4
    monkeypatch.setenv("LIFEMASK_WEIGHTS", str(weights))
    graphs = {"rafare-trial.onnx", "rafare-trial.base.onnx", "rafare-trial.fine.onnx"}
    assert set(card["sha256"]) == graphs | {"rafare-trial.safetensors"}
    trial = RafarePredictConfig(weights="rafare-trial")
    found = load_rafare("open", trial, engine="torch").network
    assert found.config.field.grid == 24 and found.config.base.size == 32
    own = averaged_weights(runs["fine"])
    for name, value in found.fine.state_dict().items():
        assert torch.equal(value, own[name].half().float())
    assert load_rafare("open", trial).networks.config == found.config
    (weights / "rafare-trial.fine.onnx").unlink()
    with pytest.raises(AssetError, match=r"rafare-trial\.fine\.onnx is missing .*engine torch"):
        load_rafare("open", trial)
    with pytest.raises(UserError, match="trained 'fine', not 'base'"):
        rafare_export.join_runs(runs | {"base": runs["fine"]})


def test_kappa_is_what_a_surface_lacks_of_bumps(monkeypatch: pytest.MonkeyPatch):
    """A predictor whose surface lies below the truth by a known share of its bump map."""
    from types import SimpleNamespace

    import numpy as np

    from lifemask.methods._rafare_carve import bump_map, fit_kappa
    from lifemask.training import rafare_kappa

    size = 32
    steps = torch.linspace(-1, 1, size)
    y, x = torch.meshgrid(steps, steps, indexing="ij")
    slopes = torch.stack((torch.sin(6 * x), torch.sin(5 * y), torch.full_like(x, 3.0)))
    normals = torch.nn.functional.normalize(slopes, dim=0)
    region = np.full((size, size), 4, np.uint8)
    bump = bump_map(normals.permute(1, 2, 0), torch.ones(size, size, dtype=torch.bool))
    truth = np.zeros((size, size), np.float32)
    facing = normals.permute(1, 2, 0).numpy()
    pair = SimpleNamespace(
        image=np.zeros((size, size, 3), np.uint8), region=region, depth=truth, normals=facing,
        guide_depth=truth, guide_normals=facing,
    )  # fmt: skip
    low = -0.004 * bump / facing[..., 2]
    monkeypatch.setattr(rafare_kappa, "front_depth", lambda surface, size: low.numpy())
    networks = SimpleNamespace(
        look=lambda view, level: SimpleNamespace(normals=normals.permute(1, 2, 0)),
        config=SimpleNamespace(field=SimpleNamespace(kernel=7)),
    )
    predictor = SimpleNamespace(surface=lambda *given: None, networks=networks)
    found = fit_kappa(rafare_kappa.residuals(predictor, [pair]))  # pyright: ignore
    assert abs(found - 0.004) < 4e-4
