"""Training 2DASL on dotted heads: both stages, exact resume, families, start, ablation."""

import json
import os
import signal
from argparse import Namespace
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from helpers import dasl_faces as toy
from lifemask.apps.cli import main
from lifemask.assets import UserError
from lifemask.data.augment import NO_AUGMENTATION
from lifemask.facemodel import load_face_model
from lifemask.methods.dasl import DaslConfig, create_dasl
from lifemask.nn.backbones import mobile_from_landmarker
from lifemask.training import dasl
from lifemask.training.ablate import ablate, create_plan, plan_cells
from lifemask.training.checkpoint import averaged_weights, read_state
from lifemask.training.dasl import TRAINABLE, create_network, plan_stages, run_training
from lifemask.training.dasl_data import DaslCorpus
from lifemask.training.dasl_evaluation import evaluate
from lifemask.training.dasl_recipes import DASL, smoke
from lifemask.training.recipes import OptimConfig
from lifemask.training.run import chosen_recipe, create_parser, train_command
from lifemask.training.start import shipped_weights
from lifemask.training.stop import Interrupted
from lifemask.training.trainable import loop_config

pytest.importorskip("lightning.fabric")
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]
CHECKPOINT = "checkpoint.safetensors"


@pytest.fixture(scope="module")
def mask():
    return toy.mask_model()


def toy_recipe(steps=3, **changes):
    """The smoke recipe, a checkpoint after every other step."""
    recipe = replace(smoke(), evaluate_every=0, save_every=2, threads=0, **changes)
    optim = replace(recipe.optim, steps=steps)
    return replace(recipe, optim=optim, optim2=optim)


def trained(model, run, recipe=None, start_from="", **loop):
    recipe = recipe or toy_recipe()
    config = loop_config(recipe, run, progress=False, **loop)
    torch.manual_seed(77)  # a run must not depend on what happened before it
    return run_training(recipe, toy.corpus_of(model), model, config, start_from)


def rows_of(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def parts_of(run):
    """Names of the loss's parts in the last line with losses."""
    return set([row for row in rows_of(run) if "loss" in row][-1])


def same_state(a, b):
    """Weights, averages and the optimiser's state are equal to the bit; dates may differ."""
    one, other = (load_file(run / CHECKPOINT) for run in (a, b))
    return one.keys() == other.keys() and all(torch.equal(other[k], v) for k, v in one.items())


@pytest.fixture(scope="module")
def whole(mask, tmp_path_factory):
    """A run of both stages that nothing interrupted."""
    run = tmp_path_factory.mktemp("whole")
    trained(mask, run)
    return run


def test_both_stages_run_in_one_command_and_the_critic_joins_in_the_second(mask, whole):
    for folder, stage in ((whole / "stage1", 1), (whole, 2)):
        state = read_state(folder / CHECKPOINT)
        assert (state["step"], state["stage"], state["licence"]) == (3, stage, "open")
        assert np.isfinite(state["metrics"]["renders-open"])
    assert parts_of(whole) - parts_of(whole / "stage1") == {"critic", "judge"}
    first, last = averaged_weights(whole / "stage1"), averaged_weights(whole)
    assert not torch.equal(first["regressor.weight"], last["regressor.weight"])
    for name in ("head.white_mean", "head.white_std"):
        assert torch.equal(first[name], last[name])
    labels = toy.faces_of(mask, 12).labels
    assert labels is not None
    measured = torch.tensor(labels.identity.mean(0))
    torch.testing.assert_close(last["head.white_mean"][9 : 9 + mask.identity_size], measured)


@pytest.mark.parametrize("steps_before", [2, 5])
def test_a_run_stopped_in_either_stage_ends_with_the_same_bytes(
    mask, whole, tmp_path, steps_before
):
    steps = []

    def count(_):
        steps.append(1)
        if len(steps) == steps_before:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Interrupted, match="same command goes on"):
        trained(mask, tmp_path, on_step=count)
    assert (tmp_path / CHECKPOINT).is_file() == (steps_before > 3)
    network = trained(mask, tmp_path, on_step=count)
    assert len(steps) == 6  # none was made twice
    for part in (".", "stage1"):
        assert same_state(whole / part, tmp_path / part)
    stored = averaged_weights(tmp_path)
    assert all(torch.equal(stored[k], v) for k, v in network.state_dict().items())


@pytest.mark.parametrize(
    ("call", "again"), [(5, [0, 1, 2]), pytest.param(6, [2], marks=pytest.mark.slow)]
)
def test_a_run_killed_between_checkpoints_repeats_the_lost_steps(
    mask, whole, tmp_path, monkeypatch, call, again
):
    original = dasl.step_loss
    steps = []

    def killed(network, criterion, batch, step):
        steps.append(step)
        if len(steps) == call:
            raise MemoryError
        return original(network, criterion, batch, step)

    monkeypatch.setattr(dasl, "step_loss", killed)
    with pytest.raises(MemoryError):
        trained(mask, tmp_path)
    trained(mask, tmp_path)
    assert steps[call:] == again
    assert same_state(whole, tmp_path)


def test_a_time_limit_ends_the_command_and_not_the_stage_alone(mask, whole, tmp_path):
    for steps in (1, 2):
        trained(mask, tmp_path, seconds=1e-9)
        assert read_state(tmp_path / "stage1" / CHECKPOINT)["step"] == steps
        assert not (tmp_path / CHECKPOINT).exists()
    trained(mask, tmp_path)
    assert same_state(whole, tmp_path)


def test_stages_by_themselves(mask, whole, tmp_path):
    trained(mask, tmp_path / "one", toy_recipe(stages="1"))
    assert read_state(tmp_path / "one" / CHECKPOINT)["stage"] == 1
    assert not (tmp_path / "one" / "stage1").exists()
    trained(mask, tmp_path / "two", toy_recipe(stages="2"), str(tmp_path / "one"))
    assert same_state(whole, tmp_path / "two")
    other = toy_recipe(stages="2", net=DaslConfig("tiny", 48, pose="affine12"))
    with pytest.raises(UserError, match="one holds another network: .* same net settings"):
        trained(mask, tmp_path / "b", other, str(tmp_path / "one"))
    with pytest.raises(UserError, match=r"no checkpoint\.safetensors: train it first"):
        trained(mask, tmp_path / "b", toy_recipe(stages="2"), str(tmp_path / "nothing"))
    trained(mask, tmp_path / "none", toy_recipe(stage2=False))
    assert same_state(tmp_path / "none", tmp_path / "one")


def test_stage_two_needs_a_start(tmp_path):
    words = ["--cache", "x", "--run", str(tmp_path / "r"), "--recipe", "smoke", "--set", "stages=2"]
    with pytest.raises(UserError, match="--start-from RUN of stage 1"):
        train_command(TRAINABLE, words)
    assert not (tmp_path / "r").exists()


def test_several_processes_train_one_stage_at_a_time(tmp_path):
    with pytest.raises(UserError, match=r"--set stages=1.*--set stages=2 --start-from"):
        plan_stages(toy_recipe(processes=2), tmp_path)
    (only,) = plan_stages(toy_recipe(processes=2, stages="1"), tmp_path)
    assert (only.number, only.folder) == (1, tmp_path)
    (only,) = plan_stages(toy_recipe(processes=2, stage2=False), tmp_path)
    assert (only.number, only.folder) == (1, tmp_path)
    assert plan_stages(DASL["paper"]("open"), tmp_path)[0].number == 1


def test_without_unlabelled_faces_stage_two_goes_on_with_renders(mask, tmp_path):
    recipe = toy_recipe(unlabelled=False)
    config = loop_config(recipe, tmp_path, progress=False)
    run_training(recipe, toy.corpus_of(mask, wild=0), mask, config)
    assert read_state(tmp_path / CHECKPOINT)["stage"] == 2
    assert parts_of(tmp_path) == parts_of(tmp_path / "stage1")
    with pytest.raises(UserError, match="stage 2 needs faces without labels"):
        run_training(
            toy_recipe(), toy.corpus_of(mask, wild=0), mask, replace(config, run=tmp_path / "b")
        )


@pytest.mark.parametrize("off", ["l2d", "l3d", "cyc", "critic", "coefficients", "reg"])
def test_a_term_that_is_off_is_absent(mask, tmp_path, off):
    recipe = toy_recipe(1, stages="2", start="")
    recipe = replace(recipe, loss=replace(recipe.loss, **{off: 0.0}))
    corpus = toy.corpus_of(mask, 6, 4)
    stage = plan_stages(recipe, tmp_path)[0]
    config = loop_config(recipe, tmp_path, progress=False)
    dasl.run_stage(stage, create_network(recipe, mask, corpus), corpus, mask, config)
    parts = {"l2d", "l3d", "cyc", "critic", "judge", "coefficients", "reg", "offset"}
    gone = {off, "judge"} if off == "critic" else {off}
    assert parts_of(tmp_path) & parts == parts - gone


def test_the_landmarkers_trunk_is_a_start_for_the_mobile_network():
    model = load_face_model()
    corpus = toy.corpus_of(model, 4, 0)
    recipe = DASL["cpu"]("open")
    backbone = create_network(recipe, model, corpus).backbone
    given = mobile_from_landmarker(shipped_weights("landmarker-open"), backbone)
    assert all(torch.equal(given[k], v) for k, v in backbone.state_dict().items())
    random = create_network(replace(recipe, start=""), model, corpus).backbone.state_dict()
    weights = [k for k, v in given.items() if v.ndim == 4]
    assert sum(torch.equal(random[k], given[k]) for k in weights) < len(weights) / 4
    with pytest.raises(UserError, match="start 'nowhere'; valid: landmarker, or nothing"):
        create_network(replace(recipe, start="nowhere"), model, corpus)


# ------------------------------------------------------------------------------- by command


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """A cache of dotted heads of our model, and prepared photos."""
    folder = tmp_path_factory.mktemp("data")
    model = load_face_model()
    toy.write_renders(folder / "cache", model)
    toy.write_prepared(folder / "prepared", model)
    return folder


MIXED = {"open": (), "research": ("--precision", "bf16-mixed")}
"""Options of both families; one runs as the recipes for GPUs do."""


def words_for(places, run, *rest):
    base = ["--recipe", "smoke", "--cache", places / "cache", "--prepared", places / "prepared"]
    return [str(word) for word in (*base, "--run", run, "--no-progress", *rest)]


@pytest.mark.parametrize("family", [pytest.param("open", marks=pytest.mark.slow), "research"])
def test_the_smoke_recipe_by_command(places, tmp_path, family):
    with pytest.raises(SystemExit) as end:
        words = words_for(places, tmp_path / "run", "--family", family, *MIXED[family])
        main(["train", "dasl", *words])
    assert not end.value.code
    state = read_state(tmp_path / "run" / CHECKPOINT)
    assert (state["step"], state["stage"], state["licence"]) == (5, 2, family)
    sets = {"open": {"renders-open"}, "research": {"renders-open", "aflw21", "ytf68"}}[family]
    for name in sets:
        for metric in (name, *(f"{name}_{way}" for way in ("none", "self", "oracle", "identity"))):
            assert np.isfinite(state["metrics"][metric])
    assert {name.split("_")[0] for name in state["metrics"]} == sets
    assert (tmp_path / "run" / "best.safetensors").is_file()


def test_every_recipe_makes_its_network(capsys):
    with pytest.raises(SystemExit):
        main(["train", "--list"])
    listed = capsys.readouterr().out
    model = load_face_model()
    sizes = {"smoke": 141, "cpu": 141, "gpu": 141, "paper": 141}
    for name, size in sizes.items():
        assert f"| dasl | {name} |" in listed
        for family in ("open", "research"):
            recipe = DASL[name](family)
            assert (recipe.name, recipe.family) == (name, family)
        network = create_dasl(recipe.net, model)
        assert network.head.size == size
        assert network.regressor.out_features == size
        stages = plan_stages(replace(recipe, processes=1, stages="both"), Path("r"))
        for stage in stages:
            loop = loop_config(stage.recipe, stage.folder)
            assert loop.optim.batch % recipe.processes == 0 and loop.select == "aflw21"
    assert list(DASL) == list(sizes)


def overrides_of(switches):
    return {override for switch in switches for override in switch.overrides}


def test_an_ablation_plans_every_switch(tmp_path):
    wanted = {
        "loss.coef=mse", "loss.coef=vertex", "loss.l2d=0", "loss.l3d=0", "loss.cyc=0",
        "loss.critic=0", "batches.input_map=off", "batches.input_map=oracle",
        "batches.input_map=self", "net.map=points", "unlabelled=false", "stage2=false",
    }  # fmt: skip
    assert wanted <= overrides_of(TRAINABLE.switches)
    for family in ("open", "research"):
        options = Namespace(
            recipe="cpu",
            family=family,
            fraction=0.1,
            seeds=2,
            switch=None,
            keep=False,
            out=tmp_path,
        )
        cells = plan_cells(create_plan("dasl", options, ["--cache", "x"]))
        assert len({cell.folder for cell in cells}) == len(cells)
        parser = create_parser(TRAINABLE)
        plain = ["--cache", "x", "--family", family]
        baseline = chosen_recipe(TRAINABLE, parser.parse_args(plain))
        for switch in TRAINABLE.switches:
            if family not in switch.families:
                continue
            words = [w for o in switch.overrides for w in ("--set", o)]
            assert chosen_recipe(TRAINABLE, parser.parse_args([*plain, *words])) != baseline
    assert wanted <= {o for cell in cells for o in cell.overrides}
    short = TRAINABLE.shorten(DASL["cpu"]("open"), 0.1)
    assert (short.optim.steps, short.optim2.steps) == (200, 100)
    assert TRAINABLE.last_steps(short) == 100
    assert TRAINABLE.last_steps(replace(short, stage2=False)) == 200
    assert TRAINABLE.last_steps(replace(short, stages="1")) == 200


def test_an_ablation_writes_its_table(places, tmp_path):
    options = Namespace(
        recipe="smoke", family="open", fraction=1.0, seeds=1, keep=False, out=tmp_path,
        switch=("cycle consistency",),
    )  # fmt: skip
    rest = ["--cache", str(places / "cache"), "--prepared", str(places / "prepared")]
    # stages of different length: the table must wait for the last one
    rest += ["--set", "optim.steps=3", "--set", "optim2.steps=2"]
    table = ablate(create_plan("dasl", options, rest))
    (part,) = table["parts"]
    assert part["failed"] == 0 and len(part["without"]) == len(part["baseline"]) == 1
    assert part["baseline"] != part["without"]
    assert "cycle consistency" in (tmp_path / "ablation.md").read_text()
    stored = json.loads((tmp_path / "baseline" / "seed-0" / "result.json").read_text())
    assert stored["metrics"]["renders-open"] == pytest.approx(part["baseline"][0])


# ------------------------------------------------------------------------------- any face model


@pytest.mark.parametrize("pose", ["affine12", pytest.param("rot6d", marks=pytest.mark.slow)])
def test_a_foreign_model_with_signed_expressions_learns(mask, tmp_path, pose):
    optim = OptimConfig(steps=60, batch=16, peak_rate=3e-3, warmup=5, ema=0.8, clip=1.0)
    recipe = replace(smoke(), optim=optim, stage2=False, net=DaslConfig("tiny", 48, pose=pose))
    recipe = replace(recipe, batches=replace(recipe.batches, augment=NO_AUGMENTATION), threads=0)
    faces = toy.faces_of(mask, 32)
    corpus = DaslCorpus([faces], {}, {"renders-open": faces})
    before = evaluate(create_network(recipe, mask, corpus), corpus.held_out, sources=("detector",))
    config = loop_config(recipe, tmp_path, progress=False, log_every=10, evaluate_every=0)
    network = run_training(recipe, corpus, mask, config)
    losses = [row["loss"] for row in rows_of(tmp_path) if "loss" in row]
    after = evaluate(network, corpus.held_out, sources=("detector",))
    assert losses[-1] < 0.75 * losses[0]
    assert after["renders-open"] < 0.75 * before["renders-open"]
    assert after["renders-open_angle_deg"] < 0.75 * before["renders-open_angle_deg"]
