"""Normals of the back in training: rebuilt once, moved with the pair, learnt, exported."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from fake_pairs import create_noise, noise_pair
from fake_renders import make_data
from helpers.rafare_pairs import ball_pairs
from lifemask.assets import UserError
from lifemask.data._pairs_run import run_pairs
from lifemask.data.pairs import PairsConfig
from lifemask.training import rafare_back
from lifemask.training.overrides import with_overrides
from lifemask.training.rafare import create_network, evaluate, run_training
from lifemask.training.rafare_batches import Move, PairArrays, RafareBatchMaker, load_corpus
from lifemask.training.rafare_recipes import RafareRecipe, recipes
from lifemask.training.trainable import loop_config

TURN = torch.tensor([-1, -1, 1], dtype=torch.int8)[:, None, None]


def back_pairs(count: int = 6, seed: int = 0) -> PairArrays:
    """Balls, and the normals of their back turned to the viewer."""
    pairs = ball_pairs(count, seed=seed)
    return replace(pairs, normals=pairs.normals * TURN)


def recipe_of(steps: int) -> RafareRecipe:
    recipe = with_overrides(recipes("normals")["smoke"]("open"), ["net.back=true"])
    return replace(recipe, optim=replace(recipe.optim, steps=steps, warmup=5))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of pairs of noise."""
    config = PairsConfig(seed=1, size=16, grid=24, shard_size=4)
    run_pairs(config, tmp_path / "pairs", 6, make_data(tmp_path / "data"), create=create_noise)
    return tmp_path / "pairs"


@pytest.fixture
def rebuilt(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The numbers of the pairs whose back is rebuilt; in the place of heads, noise."""
    asked: list[int] = []

    def true_back(pair, data=None):
        asked.append(pair.person)
        return noise_pair(9, pair.person).depth, noise_pair(9, pair.person).normals

    monkeypatch.setattr(rafare_back, "true_back", true_back)
    return asked


def load(folder: Path, **given) -> PairArrays:
    return load_corpus([folder], 16, back=True, **given)


def digests(folder: Path) -> dict[str, str]:
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.iterdir())}


def test_backs_are_rebuilt_once_and_the_shards_stay(folder: Path, rebuilt: list[int]):
    before = digests(folder)
    some = load(folder, limit=4)
    assert rebuilt == [0, 1, 2, 3]
    whole = load(folder)
    assert rebuilt == [0, 1, 2, 3, 4, 5], "what was kept is not made again"
    again = load(folder)
    assert len(rebuilt) == 6 and torch.equal(again.normals, whole.normals)
    assert torch.equal(some.normals, whole.normals[:4])
    wanted = np.stack([noise_pair(9, k).normals for k in range(6)]).transpose(0, 3, 1, 2)
    np.testing.assert_allclose(whole.normals.numpy() / 127, wanted, atol=0.5 / 127 + 1e-6)
    front = load_corpus([folder], 16)
    assert torch.equal(front.image, whole.image) and not torch.equal(front.normals, whole.normals)
    after = digests(folder)
    assert after.pop(rafare_back.FILE) and after == before


def test_what_is_kept_of_other_pairs_or_damaged_is_made_again(folder: Path, rebuilt: list[int]):
    whole = load(folder)
    path = folder / rafare_back.FILE
    np.savez(path, key=np.array("of others"), normals=np.zeros((6, 3, 16, 16), np.int8))
    assert torch.equal(load(folder).normals, whole.normals) and len(rebuilt) == 12
    path.write_bytes(path.read_bytes()[:100])
    assert torch.equal(load(folder).normals, whole.normals) and len(rebuilt) == 18


def test_pairs_of_another_head_model_are_refused(folder: Path, rebuilt: list[int]):
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["settings"]["face_model_sha1"] = "0" * 12
    path.write_text(json.dumps(manifest))
    with pytest.raises(UserError, match="another head model .* make the pairs again"):
        load(folder)
    assert not rebuilt


def test_a_mirrored_pair_has_mirrored_normals_of_the_back():
    pairs = back_pairs(2)
    turn = torch.tensor([-1.0, 1.0, 1.0])[:, None, None]
    given = (pairs.image[1] / 255, pairs.region[1], pairs.normals[1] / 127,
             pairs.guide_depth[1].float(), pairs.guide_normals[1] / 127)  # fmt: skip
    seen = Move(-1.0).pictures(*given)
    torch.testing.assert_close(seen.normals, pairs.normals[1].flip(-1) / 127 * turn)
    batch = RafareBatchMaker(pairs, "normals", 1).row(1, np.random.default_rng(0))
    view, known = batch.view, batch.known > 0
    toy = view.guide_normals * TURN
    torch.testing.assert_close(batch.normals * known, toy * known, atol=0.02, rtol=0)


def test_the_smoke_recipe_learns_backs_it_has_not_seen(tmp_path: Path):
    pytest.importorskip("lightning.fabric")
    recipe, held = recipe_of(120), back_pairs(4, seed=9)
    torch.manual_seed(recipe.seed)
    before = evaluate(create_network(recipe.net, "normals"), held, "normals", 4)["error"]
    config = loop_config(recipe, tmp_path, progress=False)
    network = run_training(recipe, back_pairs(), held, config)
    assert evaluate(network, held, "normals", 4)["error"] < 0.3 * before


def test_four_runs_become_weights_with_a_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("lightning.fabric")
    from lifemask.methods.rafare import RafarePredictConfig, load_rafare
    from lifemask.nn.sdf import View
    from lifemask.training import rafare_export
    from lifemask.training.checkpoint import averaged_weights

    runs = {part: tmp_path / part for part in ("base", "fine", "normals", "normals_back")}
    for part, run in runs.items():
        recipe = recipe_of(2)
        if part != "normals_back":
            recipe = recipes(part)["smoke"]("open")  # pyright: ignore[reportArgumentType]
            recipe = replace(recipe, optim=replace(recipe.optim, steps=2))
        config = loop_config(recipe, run, progress=False)
        run_training(recipe, back_pairs(2), back_pairs(2, seed=3), config)
    weights = tmp_path / "weights"
    given = [f"--{part.replace('_', '-')}={folder}" for part, folder in runs.items()]
    given += ["--name=rafare-trial", "--family=open", f"--folder={weights}", "--commit=none"]
    rafare_export.main([*given, "--field", '{"grid": 24, "carve": "both"}'])
    card = json.loads((weights / "rafare-trial.json").read_text())
    assert card["network"]["normals_back"]["back"] is True
    assert card["steps"] == dict.fromkeys(runs, 2)
    monkeypatch.setenv("LIFEMASK_WEIGHTS", str(weights))
    asked = RafarePredictConfig(weights="rafare-trial", back=True)
    torch_one, onnx_one = (load_rafare("open", asked, engine=e) for e in ("torch", "onnx"))
    own = averaged_weights(runs["normals_back"])
    assert torch_one.network.normals_back is not None
    for name, value in torch_one.network.normals_back.state_dict().items():
        assert torch.equal(value, own[name].half().float())
    view = View(*(torch.rand(1, c, 32, 32) for c in (4, 1, 3, 1)))
    said = [one.networks.look(view, "normals") for one in (torch_one, onnx_one)]
    backs = [answers.normals_back for answers in said]
    assert backs[0] is not None and backs[1] is not None
    torch.testing.assert_close(backs[0], backs[1], atol=2e-3, rtol=0)
    assert said[0].normals is not None and not torch.allclose(said[0].normals, backs[0], atol=0.1)
    for one in (torch_one, onnx_one):
        assert one.networks.look(view, "fine").normals_back is None
    with pytest.raises(UserError, match="trained 'normals_back', not 'normals'"):
        rafare_export.join_runs(runs | {"normals": runs["normals_back"]})
    with pytest.raises(UserError, match="trained 'normals', not 'normals_back'"):
        rafare_export.join_runs(runs | {"normals_back": runs["normals"]})
