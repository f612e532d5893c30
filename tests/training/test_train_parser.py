"""Training of the parser: it learns, resumes exactly, keeps families apart, and is exported."""

import json
from dataclasses import replace

import numpy as np
import onnxruntime
import pytest
import torch
from safetensors.torch import load_file

from lifemask.assets import UserError, sha256
from lifemask.data.region_augment import NO_REGION_AUGMENTATION
from lifemask.data.regions import GLASSES, RegionSet, split_glasses
from lifemask.faces.parsing import load_parser
from lifemask.nn.unet import UNet
from lifemask.training.checkpoint import averaged_weights, read_state
from lifemask.training.parser import (
    BatchMaker,
    Corpus,
    evaluate,
    initial_weights,
    load_corpus,
    predict,
    run_training,
)
from lifemask.training.parser_export import export_parser
from lifemask.training.parser_export import main as export_main
from lifemask.training.parser_recipes import PARSER, smoke
from lifemask.training.parser_trainable import TRAINABLE
from lifemask.training.recipes import OptimConfig
from lifemask.training.run import chosen_recipe, create_parser, train_command
from lifemask.training.trainable import loop_config
from lifemask.types import REGION_NAMES

SIZE = 40


def toy_pictures(count=12, seed=0) -> RegionSet:
    """Heads as discs with two eyes and a mouth in colours of their own, on noise.

    Every other head has a green bar of glasses over its forehead, which is skin.
    """
    rng = np.random.default_rng(seed)
    v, u = np.mgrid[:SIZE, :SIZE]
    palette = np.array(
        [[0, 0, 0]] + [[200, 40, 60], [30, 60, 220], [0, 0, 0], [210, 170, 140]] + [[0, 0, 0]] * 4
    )
    regions = np.full((count, SIZE, SIZE), 8, np.uint8)
    worn = np.zeros(regions.shape, bool)
    for i in range(count):
        cu, cv = rng.uniform(16, 24, 2)
        regions[i][(u - cu) ** 2 + (v - cv) ** 2 < 144] = 4
        for side in (-5, 5):
            regions[i][(u - cu - side) ** 2 + (v - cv + 4) ** 2 < 6] = 2
        regions[i][(abs(u - cu) < 5) & (abs(v - cv - 6) < 2)] = 1
        worn[i] = (i % 2 == 0) & (regions[i] == 4) & (abs(v - cv + 8) < 2)
    noise = rng.integers(0, 60, (count, SIZE, SIZE, 3))
    colours = np.where(worn[..., None], [40, 190, 60], palette[regions])
    images = np.clip(colours + noise, 0, 255).astype(np.uint8)
    labels = regions + GLASSES * worn.astype(np.uint8)
    return RegionSet("toy", (images,), (labels,), SIZE / 1.25, glasses=True)


def toy_corpus() -> Corpus:
    return Corpus({"renders": [toy_pictures()]}, {"toy": toy_pictures(4, seed=9)})


def toy_recipe(steps=5, **changes):
    recipe = replace(smoke(), **changes)
    return replace(recipe, optim=replace(recipe.optim, steps=steps))


def config_for(recipe, run, **changes):
    return replace(loop_config(recipe, run), progress=False, **changes)


def test_a_small_parser_learns_the_toy_regions(tmp_path):
    optim = OptimConfig(steps=120, batch=8, peak_rate=1e-2, warmup=5, ema=0.9)
    recipe = replace(smoke(), optim=optim, render_augment=NO_REGION_AUGMENTATION)
    network = run_training(recipe, toy_corpus(), config_for(recipe, tmp_path))
    after = evaluate(network, toy_corpus().held_out)
    assert after["toy"] > 0.65
    assert after["toy"] == pytest.approx(
        np.mean([v for k, v in after.items() if k.startswith("toy/") and k != "toy/glasses"])
    )
    assert {k.removeprefix("toy/") for k in after} - {"toy"} == {
        "lips", "eyes", "skin", "background", "glasses",
    }  # fmt: skip
    assert after["toy/glasses"] > 0.25
    for without in (replace(recipe.loss, glasses=0.0), replace(recipe.loss, lovasz=1.0)):
        changed = replace(recipe, loss=without)
        config = config_for(changed, tmp_path / str(without.glasses))
        found = evaluate(run_training(changed, toy_corpus(), config), toy_corpus().held_out)
        assert (found["toy/glasses"] > 0.25) == (without.glasses > 0)


def test_a_network_without_glasses_learns_the_same_regions_and_tells_none(tmp_path):
    recipe = toy_recipe(2, evaluate_every=0)
    recipe = replace(recipe, net=replace(recipe.net, glasses=False))
    network = run_training(recipe, toy_corpus(), config_for(recipe, tmp_path))
    assert "toy/glasses" not in evaluate(network, toy_corpus().held_out)
    found, wanted = predict(network, toy_pictures(2))
    assert not split_glasses(found)[1].any() and split_glasses(wanted)[1].any()


def test_weights_without_glasses_start_a_network_that_tells_them(tmp_path):
    plain = toy_recipe(2, evaluate_every=0, net=replace(smoke().net, glasses=False))
    run_training(plain, toy_corpus(), config_for(plain, tmp_path / "plain"))
    recipe = toy_recipe(2)
    before, after = UNet(plain.net).eval(), UNet(recipe.net).eval()
    before.load_state_dict(initial_weights(str(tmp_path / "plain"), plain))
    after.load_state_dict(initial_weights(str(tmp_path / "plain"), recipe))
    crops = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(after(crops)[:, :9], before(crops))
        worn = after(crops)[:, 9]
        assert worn.std() > 0 and (worn < -1).all()


def test_a_run_that_is_cut_short_ends_like_one_that_is_not(tmp_path):
    recipe = toy_recipe(6, save_every=3, evaluate_every=0)
    whole = run_training(recipe, toy_corpus(), config_for(recipe, tmp_path / "whole"))
    cut = config_for(recipe, tmp_path / "cut", seconds=1e-9)
    run_training(recipe, toy_corpus(), cut)  # one step
    resumed = run_training(recipe, toy_corpus(), config_for(recipe, tmp_path / "cut"))
    assert read_state(tmp_path / "cut" / "checkpoint.safetensors")["step"] == 6
    for name, value in whole.state_dict().items():
        torch.testing.assert_close(resumed.state_dict()[name], value, atol=0, rtol=0)


def test_a_run_with_muon_that_is_cut_short_ends_like_one_that_is_not(tmp_path):
    recipe = toy_recipe(4, save_every=2, evaluate_every=0)
    recipe = replace(recipe, optim=replace(recipe.optim, optimizer="muon"))
    whole = run_training(recipe, toy_corpus(), config_for(recipe, tmp_path / "whole"))
    run_training(recipe, toy_corpus(), config_for(recipe, tmp_path / "cut", seconds=1e-9))
    resumed = run_training(recipe, toy_corpus(), config_for(recipe, tmp_path / "cut"))
    for name, value in whole.state_dict().items():
        torch.testing.assert_close(resumed.state_dict()[name], value, atol=0, rtol=0)
    plain = replace(recipe, optim=replace(recipe.optim, optimizer="adamw"))
    other = run_training(plain, toy_corpus(), config_for(plain, tmp_path / "adamw"))
    assert not torch.equal(other.head.weight, whole.head.weight)
    unknown = replace(recipe, optim=replace(recipe.optim, optimizer="sgd"))
    with pytest.raises(UserError, match="unknown optimizer 'sgd'; valid: adamw, muon"):
        run_training(unknown, toy_corpus(), config_for(unknown, tmp_path / "sgd"))


def test_a_run_starts_from_another_one_at_its_size_or_half(tmp_path):
    recipe = toy_recipe(2, evaluate_every=0, net=replace(smoke().net, widths=(8, 8, 8)))
    half = replace(recipe, net=replace(recipe.net, size=16, widths=(8, 8)))
    for name, one in (("same", recipe), ("half", half)):
        run_training(one, toy_corpus(), config_for(one, tmp_path / name))
    same = initial_weights(str(tmp_path / "same"), recipe)
    grown = initial_weights(str(tmp_path / "half"), recipe)
    assert same.keys() == grown.keys()
    run_training(recipe, toy_corpus(), config_for(recipe, tmp_path / "new"), grown)
    assert read_state(tmp_path / "new" / "checkpoint.safetensors")["step"] == 2
    wide = replace(recipe, net=replace(recipe.net, widths=(12, 8, 16)))
    more = initial_weights(str(tmp_path / "same"), wide)
    assert more["down.0.0.0.weight"].shape[0] == 12
    run_training(wide, toy_corpus(), config_for(wide, tmp_path / "wide"), more)
    other = replace(recipe, net=replace(recipe.net, widths=(5, 7, 9)))
    with pytest.raises(UserError, match="cannot start from .*more channels"):
        initial_weights(str(tmp_path / "same"), other)


def test_batches_repeat_and_mix_their_sources():
    corpus = {"renders": [toy_pictures(3), toy_pictures(9, 1)], "portraits": [toy_pictures(2, 2)]}
    recipe = replace(toy_recipe(), portraits=0.25, family="research")
    recipe = replace(recipe, optim=replace(recipe.optim, batch=8))
    maker = BatchMaker(corpus, recipe)
    first, again, other = maker(3), maker(3), maker(4)
    assert torch.equal(first.crops, again.crops) and torch.equal(first.regions, again.regions)
    assert not torch.equal(first.crops, other.crops)
    assert first.crops.shape == (8, 3, 32, 32) and first.regions.dtype == torch.uint8
    # The share of portraits: without renders' augmentation they are the last quarter.
    plain = replace(recipe, augment=NO_REGION_AUGMENTATION)  # renders keep theirs
    crops = BatchMaker(corpus, plain)(0).crops
    wanted = predict_inputs(toy_pictures(2, 2), 32)
    near = (crops[:, None] - wanted[None]).abs().flatten(2).mean(-1).amin(1)
    assert (near < 1e-3).tolist() == [False] * 6 + [True] * 2
    assert len(maker(0, 1, 2).crops) == 4


def predict_inputs(pictures, size):
    from lifemask.data.region_augment import draw_batch

    ids = np.arange(len(pictures))
    crops, _ = draw_batch(np.random.default_rng(0), pictures, ids, NO_REGION_AUGMENTATION, size)
    return torch.from_numpy(crops).permute(0, 3, 1, 2)


def test_prediction_is_of_the_nominal_view_in_the_sets_order():
    network = UNet(smoke().net).eval()
    pictures = toy_pictures(5)
    found, wanted = predict(network, pictures, count=3, batch=2)
    assert found.shape == wanted.shape == (3, 32, 32)
    with torch.no_grad():
        scores = network(predict_inputs(pictures, 32)[:3])
    classes, worn = split_glasses(found)
    assert np.array_equal(classes, scores[:, :9].argmax(1).numpy())
    assert np.array_equal(worn, (scores[:, 9] > 0).numpy()) and worn.any()


def write_cache(folder, licence, told=True):
    pictures = toy_pictures(6)
    folder.mkdir()
    shards = []
    for n in range(2):
        entry = {"images": f"images-{n}.npy", "regions": f"regions-{n}.npy"}
        np.save(folder / entry["images"], pictures.images[0][n * 3 : n * 3 + 3])
        np.save(folder / entry["regions"], pictures.regions[0][n * 3 : n * 3 + 3])
        shards.append(entry)
    header = {"licence": licence, "nominal_side_px": SIZE / 1.25, "shards": shards}
    header |= {"region_flags": {"glasses": GLASSES}} if told else {}
    (folder / "header.json").write_text(json.dumps(header))
    return folder


def test_open_refuses_research_renders_and_research_needs_portraits(tmp_path):
    free, bound = write_cache(tmp_path / "a", "open"), write_cache(tmp_path / "b", "research only")
    with pytest.raises(UserError, match="open family may not train on it"):
        load_corpus(replace(smoke(), held_out_renders=1), [free, bound])
    with pytest.raises(UserError, match="--portraits"):
        load_corpus(smoke("research"), [free, bound])
    corpus = load_corpus(
        replace(smoke("research"), portraits=0.0, held_out_renders=1), [free, bound]
    )
    assert [len(s) for s in corpus.training["renders"]] == [3, 3]
    assert {k: len(v) for k, v in corpus.held_out.items()} == {
        "renders-open": 3, "renders-research": 3,
    }  # fmt: skip
    twice = load_corpus(replace(smoke(), held_out_renders=1), [free, free])
    assert len(twice.held_out["renders-open"]) == 6
    held, kept = corpus.held_out["renders-open"], corpus.training["renders"][0]
    assert not np.array_equal(held.images[0], kept.images[0])


def test_renders_that_do_not_tell_glasses_are_refused_unless_they_are_not_asked_for(tmp_path):
    old = write_cache(tmp_path / "old", "open", told=False)
    recipe = replace(smoke(), held_out_renders=1)
    with pytest.raises(UserError, match="do not tell glasses: make them anew"):
        load_corpus(recipe, [old])
    assert load_corpus(replace(recipe, net=replace(recipe.net, glasses=False)), [old])


def test_the_command_trains_and_its_export_runs_alike_in_both_engines(tmp_path, monkeypatch):
    cache, run, weights = write_cache(tmp_path / "a", "open"), tmp_path / "run", tmp_path / "w"
    words = ["--recipe", "smoke", "--cache", str(cache), "--run", str(run), "--steps", "3"]
    train_command(TRAINABLE, [*words, "--no-progress"])
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert any("held_out/renders-open" in line for line in lines)
    metrics = tmp_path / "parsing.json"
    score = {"images": 7, "numbers": [{"value": 0.875}]}
    worn = {"iou": 0.6, "pictures with": 12}
    sets = {"renders-open": score | {"glasses": worn}, "few": score | {"glasses": None}}
    metrics.write_text(json.dumps({"sets": sets}))
    names = ["--name", "parser-open", "--family", "open", "--recipe", "lifemask train parser"]
    where = ["--run", str(run), "--folder", str(weights), "--metrics", str(metrics)]
    export_main([*names, *where, "--commit", "abc"])
    card = json.loads((weights / "parser-open.json").read_text())
    assert card["measured"] == {
        "mean IoU, renders-open": "87.5 % (7)", "mean IoU, few": "87.5 % (7)",
        "IoU of glasses, renders-open": "60.0 % (12 pictures with)",
    }  # fmt: skip
    assert card["classes"] == list(REGION_NAMES) and card["glasses"] and card["crops_seen"] == 12
    assert all(sha256(weights / file) == digest for file, digest in card["sha256"].items())
    monkeypatch.setenv("LIFEMASK_WEIGHTS", str(weights))
    crops = torch.rand(5, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    onnx, torch_engine = load_parser("open"), load_parser("open", "torch")
    for count in (1, 2, 5):
        found, expected = (p.predict_crops(crops[:count]) for p in (onnx, torch_engine))
        assert found.shape == (count, 10, 32, 32)
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


def test_the_mean_of_runs_is_exported_and_open_weights_have_open_parents(tmp_path):
    corpus, where = toy_corpus(), ["--folder", str(tmp_path / "w"), "--commit", "abc"]
    for name, family, seed in (("a", "open", 1), ("b", "research", 2)):
        recipe = replace(toy_recipe(2, evaluate_every=0), family=family, seed=seed)
        run_training(recipe, corpus, config_for(recipe, tmp_path / name))
    words = ["--run", str(tmp_path / "a"), "--mean-with", str(tmp_path / "b"), *where]
    with pytest.raises(UserError, match="cannot be called open"):
        export_main([*words, "--name", "parser-open", "--family", "open"])
    export_main([*words, "--name", "parser-research", "--family", "research"])
    found = load_file(tmp_path / "w" / "parser-research.safetensors")["head.weight"].float()
    first, second = (averaged_weights(tmp_path / n)["head.weight"] for n in "ab")
    torch.testing.assert_close(found, (first + second) / 2, atol=1e-3, rtol=1e-3)
    assert not torch.equal(first, second)


def test_a_graph_that_disagrees_is_not_written(tmp_path, monkeypatch):
    network = UNet(smoke().net)
    other = UNet(smoke().net)
    from lifemask.training import parser_export

    graph = parser_export.onnx_bytes(other)
    onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    monkeypatch.setattr(parser_export, "onnx_bytes", lambda _: graph)
    with pytest.raises(RuntimeError, match="away from torch"):
        export_parser(network.state_dict(), smoke().net, tmp_path, "x", {})
    assert list(tmp_path.iterdir()) == []


def test_recipes_come_in_four_sizes_and_the_command_line_changes_them():
    assert list(PARSER) == ["smoke", "cpu", "gpu", "paper"]
    for make in PARSER.values():
        assert make("open").portraits == 0 and make("research").portraits == 0.2
    assert PARSER["gpu"]("open").net.size == 256 and PARSER["gpu"]("open").net.merge == "cat"
    words = ["--recipe", "cpu", "--cache", "c", "--run", "r", "--seed", "4", "--steps", "7"]
    words += ["--rate", "1e-4", "--precision", "bf16-mixed"]
    recipe = chosen_recipe(TRAINABLE, create_parser(TRAINABLE).parse_args(words))
    assert (recipe.seed, recipe.optim.steps, recipe.optim.peak_rate) == (4, 7, 1e-4)
    assert recipe.precision == "bf16-mixed" and recipe.loss.stride == 2
