"""Training the landmarker: smoke runs, overfitting, loss switches, exact resume, export."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from lifemask.assets import UserError
from lifemask.nn.landmark_net import ExportNet, LandmarkNet, LandmarkOutput, unit_from_crop_px
from lifemask.training.checkpoint import averaged_weights
from lifemask.training.export import fuse_norms, largest_difference
from lifemask.training.landmark_loss import LandmarkLoss, SourceBatch
from lifemask.training.landmarker import (
    BatchMaker,
    Corpus,
    evaluate,
    load_corpus,
    predict,
    run_training,
    with_fresh_parameters,
)
from lifemask.training.landmarker_export import export_landmarker, runtime_network
from lifemask.training.loop import learning_rate
from lifemask.training.recipes import LANDMARKER, LandmarkLossConfig, OptimConfig
from lifemask.training.start import shipped_weights
from lifemask.training.trainable import loop_config
from training import landmark_toy as toy

pytest.importorskip("lightning.fabric")
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]


def corpus(family: str = "open") -> Corpus:
    renders = toy.toy_renders(16)
    training = {"renders": [renders]}
    if family == "research":
        training |= {name: [toy.toy_real(name)] for name in ("aflw21", "ytf68")}
    held_out = {"renders-open": renders.subset(np.arange(4)), "aflw21": toy.toy_real("aflw21")}
    return Corpus(training, held_out)


def run(tmp_path: Path, steps: int, family="open", **changes) -> LandmarkNet:
    recipe = toy.toy_recipe(family)
    recipe = replace(recipe, optim=replace(recipe.optim, steps=5), threads=1)
    config = loop_config(recipe, tmp_path, progress=False, **changes)
    config = replace(config, optim=replace(config.optim, steps=5))
    if steps < 5:
        config = replace(config, save_every=steps)
    torch.manual_seed(123)  # a run must not depend on what happened before it
    return run_training(recipe, corpus(family), toy.toy_model(), config)


@pytest.mark.parametrize("family", ["open", "research"])
def test_smoke_run_writes_metrics_and_a_checkpoint(tmp_path, family):
    network = run(tmp_path, 5, family)
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert rows[-1]["step"] == 5 and np.isfinite(rows[-1]["held_out/renders-open"])
    weights = averaged_weights(tmp_path)
    for key, value in network.state_dict().items():
        torch.testing.assert_close(weights[key], value)


def test_a_killed_run_resumes_exactly(tmp_path, monkeypatch):
    whole = run(tmp_path / "whole", 5)
    import lifemask.training.landmarker as module

    calls = []
    original = module.step_loss

    def killed(network, criterion, batch, step):
        calls.append(step)
        if step == 3:
            raise KeyboardInterrupt
        return original(network, criterion, batch, step)

    monkeypatch.setattr(module, "step_loss", killed)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "parts", 2)
    monkeypatch.setattr(module, "step_loss", original)
    resumed = run(tmp_path / "parts", 2)
    assert calls == [0, 1, 2, 3]
    for key, value in whole.state_dict().items():
        torch.testing.assert_close(resumed.state_dict()[key], value, rtol=0, atol=0)


def test_a_checkpoint_of_another_network_is_refused(tmp_path):
    run(tmp_path, 5)
    recipe = toy.toy_recipe()
    recipe = replace(recipe, net=replace(recipe.net, hidden=32))
    config = loop_config(recipe, tmp_path, progress=False)
    with pytest.raises(UserError, match="another network"):
        run_training(recipe, corpus(), toy.toy_model(), config)


def test_overfits_eight_faces():
    torch.manual_seed(0)
    recipe = toy.toy_recipe()
    recipe = replace(recipe, augment=toy.PLAIN, optim=replace(recipe.optim, batch=8))
    faces = toy.toy_renders(8)
    network = LandmarkNet(recipe.net)
    loss = LandmarkLoss(toy.toy_model(), recipe.loss)
    optimizer = torch.optim.Adam(network.parameters(), 3e-3)
    pixels = torch.from_numpy(faces.gather(np.arange(8))[:, 8:120, 8:120] / np.float32(255))
    crops = pixels.permute(0, 3, 1, 2)
    points = torch.from_numpy(faces.points).clone()
    points[..., :2] -= 8
    target = SourceBatch(
        "renders", slice(0, 8), unit_from_crop_px(points, 112), torch.ones(8, 392, dtype=bool)
    )
    for step in range(150):
        for group in optimizer.param_groups:
            group["lr"] = 3e-3 * (1 - step / 150)
        optimizer.zero_grad()
        total, _ = loss(network(crops), [target], step)
        total.backward()
        optimizer.step()
    output = network(crops)  # with the batch's own statistics, as in training
    error_px = (output.points[..., :2] - target.points[..., :2]).norm(dim=-1).mean() * 56
    assert error_px < 1.0


def outputs(seed: int = 0) -> LandmarkOutput:
    generator = torch.Generator().manual_seed(seed)

    def random(*shape):
        return (torch.randn(*shape, generator=generator) * 0.2).requires_grad_()

    size = 9 + toy.IDENTITY + toy.EXPRESSION
    return LandmarkOutput(random(8, 392, 3), random(8, 392), random(8, 392, 2), random(8, size))


def targets() -> list[SourceBatch]:
    generator = torch.Generator().manual_seed(5)

    def batch(source, rows, n, d):
        points = torch.randn(rows.stop - rows.start, n, d, generator=generator) * 0.3
        return SourceBatch(source, rows, points, torch.ones(points.shape[:2], dtype=torch.bool))

    return [
        batch("renders", slice(0, 4), 392, 3),
        batch("aflw21", slice(4, 6), 21, 2),
        batch("ytf68", slice(6, 8), 68, 2),
    ]


TERMS = (
    "point",
    "nearness",
    "maps",
    "nll",
    "model",
    "consistency",
    "identity",
    "expression",
    "offset",
)


@pytest.mark.parametrize("term", TERMS)
def test_each_switch_changes_the_total(term):
    config = LandmarkLossConfig(nll_from=0)
    model, output = toy.toy_model(), outputs()
    full = LandmarkLoss(model, config)
    without = LandmarkLoss(model, replace(config, **{term: 0.0}))
    for loss in (full, without):
        for offset in loss.offsets.values():
            torch.nn.init.constant_(offset, 0.1)
    total, parts = full(output, targets(), 0)
    rest, _ = without(output, targets(), 0)
    torch.testing.assert_close(total - rest, parts[term], atol=1e-4, rtol=1e-4)
    assert parts[term] != 0


@pytest.mark.parametrize("term", ["point", "nearness", "maps", "model", "consistency"])
def test_each_term_alone_improves_what_it_guards(term):
    off = {name: 0.0 for name in TERMS}
    loss = LandmarkLoss(toy.toy_model(), LandmarkLossConfig(**{**off, term: 1.0}))
    output = outputs()
    aim = targets()[:1]

    def guarded() -> float:
        posed = loss.model(output.parameters).points
        wanted = aim[0].points
        chosen = {
            "point": (output.points[:4, :, :2], wanted[..., :2]),
            "nearness": (
                output.points[:4, :, 2],
                wanted[..., 2] - wanted[..., 2].mean(1, keepdim=True),
            ),
            "maps": (output.maps[:4], wanted[..., :2]),
            "model": (posed[:4, :, :2], wanted[..., :2]),
            "consistency": (posed, output.points),
        }[term]
        return float((chosen[0] - chosen[1]).square().mean().detach())

    before = guarded()
    optimizer = torch.optim.Adam(list(output), 0.01)
    for _ in range(40):
        optimizer.zero_grad()
        loss(output, aim, 0)[0].backward()
        optimizer.step()
    assert guarded() < 0.97 * before


def test_likelihood_joins_late_and_calibrates_the_uncertainty():
    off = {name: 0.0 for name in TERMS}
    loss = LandmarkLoss(toy.toy_model(), LandmarkLossConfig(**{**off, "nll": 1.0, "nll_from": 10}))
    output, aim = outputs(), targets()[:1]
    assert "nll" not in loss(output, aim, 9)[1]
    optimizer = torch.optim.Adam([output.log_b], 0.05)
    for _ in range(100):
        optimizer.zero_grad()
        loss(output, aim, 10)[0].backward()
        optimizer.step()
    wrong = (output.points[:4, :, :2] - aim[0].points[..., :2]).norm(dim=-1)
    torch.testing.assert_close(output.log_b[:4].exp(), wrong / 2, rtol=0.1, atol=0.02)


def test_hidden_and_loose_points_count_as_told():
    loss = LandmarkLoss(toy.toy_model(), LandmarkLossConfig())
    output = outputs()
    aflw, ytf = targets()[1:]
    aflw.visible[:, 3] = False
    weights = loss._weights(aflw, loss.model(output.parameters[4:6]))
    assert weights[0, 3] == 0 and weights[0, 12] == weights[0, 20] == pytest.approx(0.3)
    turned = output.parameters[6:8].detach().clone()
    turned[:, :6] = torch.tensor([[0.0] * 6, [-0.5, 0, -0.87, 0, 0, 0]])  # yaw 0 and 60 degrees
    weights = loss._weights(ytf, loss.model(turned))
    torch.testing.assert_close(weights[:, 0], torch.tensor([0.4, 0.0]))
    assert (weights[:, 17:] == 1).all()


def test_batches_depend_on_the_step_alone_and_follow_the_mix():
    recipe = replace(toy.toy_recipe("research"), optim=OptimConfig(steps=1, batch=20))
    make = BatchMaker(corpus("research").training, recipe)
    first, again, other = make(3), make(3), make(4)
    torch.testing.assert_close(first.crops, again.crops)
    assert not torch.equal(first.crops, other.crops)
    sizes = {t.source: len(t.points) for t in first.targets}
    assert sizes == {"renders": 9, "aflw21": 7, "ytf68": 4}
    assert make(3, 1, 2).crops.shape[0] == 10


def test_learning_rate_warms_up_and_falls():
    config = OptimConfig(steps=100, warmup=10, peak_rate=1.0, final_fraction=0.0)
    rates = [learning_rate(config, step) for step in range(101)]
    assert rates[0] == pytest.approx(0.1) and max(rates) == rates[9] == rates[10] == 1.0
    assert rates[100] == pytest.approx(0.0) and rates == sorted(rates[:10]) + rates[10:]


def test_open_family_refuses_research_renders(tmp_path):
    (tmp_path / "header.json").write_text(json.dumps({"licence": "research only"}))
    with pytest.raises(UserError, match="open family"):
        load_corpus(LANDMARKER["cpu"]("open"), None, [tmp_path])


def test_evaluation_is_zero_for_the_truth(monkeypatch):
    renders = toy.toy_renders(4)
    wanted = unit_from_crop_px(torch.from_numpy(renders.points), 112).numpy()
    import lifemask.training.landmarker as module

    monkeypatch.setattr(module, "predict", lambda network, crops: (wanted, wanted))
    metrics = evaluate(LandmarkNet(toy.toy_recipe().net), {"renders-open": renders})
    assert metrics["renders-open"] == metrics["renders-open_all"] == 0


def test_predictions_and_labels_share_the_crop():
    renders = toy.toy_renders(4)
    _, wanted = predict(LandmarkNet(toy.toy_recipe().net), renders)
    box = wanted[:, 68:136, :2]
    expected = (renders.points[:, 68:136, :2] + 0.5 - 64) / (renders.nominal_side_px / 2)
    np.testing.assert_allclose(box, expected, atol=1e-4)


def network_with_statistics() -> LandmarkNet:
    torch.manual_seed(0)
    network = LandmarkNet(toy.toy_recipe().net)
    network(torch.rand(16, 3, 112, 112))
    return network.eval()


def test_folded_norms_change_nothing():
    network = network_with_statistics()
    crops = torch.rand(2, 3, 112, 112)
    torch.testing.assert_close(
        fuse_norms(network)(crops).points, network(crops).points, atol=1e-4, rtol=1e-4
    )


def test_export_equals_torch_for_every_batch_size(tmp_path):
    pytest.importorskip("onnx")
    network = network_with_statistics()
    card = export_landmarker(
        network.state_dict(), network.config, tmp_path, "tiny", {"tag": "open"}
    )
    graph = (tmp_path / "tiny.onnx").read_bytes()
    runtime = runtime_network(network.state_dict(), network.config)
    runtime.load_state_dict({k: v.half().float() for k, v in runtime.state_dict().items()})
    size = runtime.config.size
    crops = {"crops": (3, size, size)}
    assert largest_difference(ExportNet(runtime), crops, graph, (1, 3, 4, 7)) < 0.01
    assert json.loads((tmp_path / "tiny.json").read_text()) == json.loads(json.dumps(card))
    assert set(card["sha256"]) == {"tiny.safetensors", "tiny.onnx"}


@pytest.mark.parametrize("name", LANDMARKER)
@pytest.mark.parametrize("family", ["open", "research"])
def test_recipes_are_complete(name, family):
    recipe = LANDMARKER[name](family)
    assert (recipe.name, recipe.family) == (name, family)
    assert sum(recipe.mix) == pytest.approx(1)
    assert (recipe.mix[1:] == (0, 0)) == (family == "open")
    assert recipe.optim.batch % max(recipe.processes, 1) == 0


def test_training_goes_on_from_shipped_weights_with_a_fresh_parameter_output():
    network = LandmarkNet(LANDMARKER["cpu"]("open").net)
    shipped = shipped_weights("landmarker-open")
    loaded = with_fresh_parameters(shipped, network)
    assert set(loaded) - set(shipped) == {"to_parameters.weight", "to_parameters.bias"}
    before = network.to_parameters.weight.clone()
    network.load_state_dict(loaded)
    assert torch.equal(network.to_parameters.weight, before)
    assert torch.equal(network.stem[0].weight, shipped["stem.0.weight"])
    with pytest.raises(UserError, match="missing"):
        shipped_weights("landmarker-nobody")
