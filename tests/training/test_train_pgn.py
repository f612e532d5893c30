"""Training PGN on dotted heads: exact resume, families, starts, switches, by command."""

import json
import os
import signal
from argparse import Namespace
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from helpers import pgn_faces as toy
from helpers.pgn_terms import face
from lifemask.apps.cli import main
from lifemask.assets import UserError
from lifemask.facemodel import load_face_model
from lifemask.methods.pgn import PgnConfig, config_from_dict, create_pgn
from lifemask.training.ablate import create_plan, plan_cells
from lifemask.training.checkpoint import averaged_weights, read_state
from lifemask.training.pgn import TRAINABLE, create_network, run_training
from lifemask.training.pgn_recipes import PGN, smoke
from lifemask.training.recipes import Family
from lifemask.training.run import chosen_recipe, create_parser, train_command
from lifemask.training.stop import Interrupted
from lifemask.training.trainable import loop_config
from training.test_loop import launched

pytest.importorskip("lightning.fabric")
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]
CHECKPOINT = "checkpoint.safetensors"
PARTS = {"pgn3d", "landmarks", "param", "reg"}
MARKED = {"pgn2d", "offset"}
PAIRED = {"photometric", "flow", "semantic"}


def toy_recipe(steps=4, family: Family = "open", **changes):
    """The smoke recipe, a checkpoint after every other step."""
    recipe = replace(smoke(family), evaluate_every=0, save_every=2, threads=0)
    recipe = replace(recipe, optim=replace(recipe.optim, steps=steps))
    return replace(recipe, **changes)


def trained(run, recipe=None, start_from="", photos=False, **loop):
    recipe = recipe or toy_recipe()
    config = loop_config(recipe, run, progress=False, **loop)
    torch.manual_seed(77)  # a run must not depend on what happened before it
    return run_training(recipe, toy.corpus_of(face(), 3, photos), face(), config, start_from)


def parts_of(run):
    """Names of all parts of the loss that were written."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return {name for row in rows if "loss" in row for name in row}


def same_state(a, b):
    """Weights, averages and the optimiser's state are equal to the bit; dates may differ."""
    one, other = (load_file(run / CHECKPOINT) for run in (a, b))
    return one.keys() == other.keys() and all(torch.equal(other[k], v) for k, v in one.items())


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that nothing interrupted."""
    run = tmp_path_factory.mktemp("whole")
    trained(run)
    return run


def test_a_run_ends_with_metrics_and_all_that_names_the_network(whole):
    state = read_state(whole / CHECKPOINT)
    assert (state["step"], state["licence"]) == (4, "open")
    metrics = state["metrics"]
    for name in ("", "_map", "_shape_mm", "_two_mm", "_angle_deg", "_identity", "_ratio"):
        assert np.isfinite(metrics[f"renders-open{name}"])
    assert config_from_dict(state["recipe"]["net"]) == smoke().net
    assert parts_of(whole) >= PARTS | PAIRED
    assert not parts_of(whole) & {"pgn2d", "anchors"}
    weights = averaged_weights(whole)
    fresh = create_network(toy_recipe(), face()).state_dict()
    assert fresh.keys() == weights.keys()
    assert not torch.equal(weights["to_identity.2.weight"], fresh["to_identity.2.weight"])
    for table in ("mark_texels", "mark_weights", "inside", "mean_map"):
        assert torch.equal(weights[table], fresh[table])


@pytest.mark.parametrize("steps_before", [1, 3])
def test_a_stopped_run_ends_with_the_same_bytes(whole, tmp_path, steps_before):
    steps = []

    def count(_):
        steps.append(1)
        if len(steps) == steps_before:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Interrupted, match="same command goes on"):
        trained(tmp_path, on_step=count)
    network = trained(tmp_path, on_step=count)
    assert len(steps) == 4 and same_state(whole, tmp_path)
    stored = averaged_weights(tmp_path)
    assert all(torch.equal(stored[k], v) for k, v in network.state_dict().items())
    assert not network.training and not any(p.requires_grad for p in network.parameters())


def test_research_sees_photos_unless_told_not_to(tmp_path):
    corpus = {"family": "research", "select": "renders-open"}
    trained(tmp_path / "with", toy_recipe(2, **corpus), photos=True)
    assert parts_of(tmp_path / "with") >= PARTS | MARKED
    trained(tmp_path / "without", toy_recipe(2, unlabelled=False, **corpus), photos=True)
    assert "pgn2d" not in parts_of(tmp_path / "without")


@pytest.mark.parametrize("off", ["pgn3d", "landmarks", "param", "reg"])
def test_a_term_that_is_off_is_absent(tmp_path, off):
    recipe = toy_recipe(1)
    trained(tmp_path, replace(recipe, loss=replace(recipe.loss, **{off: 0.0})))
    assert parts_of(tmp_path) & PARTS == PARTS - {off}


def test_without_pairs_nothing_is_compared(tmp_path):
    recipe = toy_recipe(2)
    pairs = replace(recipe.batches, pairs=False)
    trained(tmp_path, replace(recipe, batches=pairs, loss=replace(recipe.loss, ramp=(0.0, 0.0))))
    assert not parts_of(tmp_path) & PAIRED


@pytest.mark.parametrize(
    "net",
    [
        {"pose": "regressed"},
        {"weights": "uniform", "points": 68},
        {"fusion": "none", "unposed": False},
        {"encoder": "mobile", "second_look": 4},
    ],
)
def test_every_kind_of_network_learns(tmp_path, net):
    recipe = toy_recipe(1, net=replace(smoke().net, **net))
    trained(tmp_path, recipe)
    metrics = read_state(tmp_path / CHECKPOINT)["metrics"]
    assert np.isfinite(metrics["renders-open"])
    assert ("anchors" in parts_of(tmp_path)) == ("encoder" in net)


def test_starting_from_a_run(whole, tmp_path):
    network = create_network(toy_recipe(), face(), str(whole))
    stored = averaged_weights(whole)
    assert all(torch.equal(stored[k], v) for k, v in network.state_dict().items())
    other = toy_recipe(net=PgnConfig("tiny", 48, map_size=32, widths=(16, 16), hidden=32))
    with pytest.raises(UserError, match="whole.* holds another network: .* same settings"):
        create_network(other, face(), str(whole))
    with pytest.raises(UserError, match=r"no checkpoint\.safetensors: train it first"):
        create_network(toy_recipe(), face(), str(tmp_path / "nothing"))
    with pytest.raises(UserError, match="start 'nowhere'; valid: landmarker, or nothing"):
        create_network(toy_recipe(start="nowhere"), face())
    mobile = replace(smoke().net, encoder="mobile")
    with pytest.raises(UserError, match="shipped landmarker does not fit .* 112 px"):
        create_network(toy_recipe(start="landmarker", net=mobile), face())


def test_the_start_is_the_seeds(tmp_path):
    first, again, other = (
        create_network(toy_recipe(seed=s), face()).to_identity[0].weight for s in (0, 0, 1)
    )
    assert torch.equal(first, again) and not torch.equal(first, other)


# ------------------------------------------------------------------------------- by command


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """A cache of dotted heads of our model, and prepared photos."""
    folder, model = tmp_path_factory.mktemp("data"), load_face_model()
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
    settings = ("--set", "optim.steps=4", "--set", "loss.most_pairs=1", *MIXED[family])
    with pytest.raises(SystemExit) as end:
        main(["train", "pgn", *words_for(places, tmp_path / "run", "--family", family, *settings)])
    assert not end.value.code
    state = read_state(tmp_path / "run" / CHECKPOINT)
    assert (state["step"], state["licence"]) == (4, family)
    assert state["recipe"]["loss"]["most_pairs"] == 1
    sets = {"open": {"renders-open"}, "research": {"renders-open", "aflw21", "ytf68"}}[family]
    assert {name.split("_")[0] for name in state["metrics"]} == sets
    assert all(np.isfinite(state["metrics"][name]) for name in sets)
    assert (tmp_path / "run" / "best.safetensors").is_file()
    assert parts_of(tmp_path / "run") >= PARTS | PAIRED


def test_wrong_words_are_one_clear_line(places, tmp_path):
    for words, told in (
        (("--set", "net.fusion=sum"), "fusion"),
        (("--set", "net.depth=3"), "depth"),
        (("--set", "loss.pairs.photometrc=0"), "photometrc"),
        (("--family", "research", "--prepared", str(tmp_path / "no")), "--data"),
        (("--start-from", str(tmp_path / "nothing")), "train it first"),
    ):
        with pytest.raises(UserError, match=told) as error:
            train_command(TRAINABLE, words_for(places, tmp_path / "run", *words))
        assert "\n" not in str(error.value)
    with pytest.raises(UserError, match="no cache of renders|no complete shard"):
        train_command(
            TRAINABLE, ["--recipe", "smoke", "--cache", str(tmp_path), "--run", str(tmp_path / "r")]
        )


def test_every_recipe_makes_its_network(capsys):
    with pytest.raises(SystemExit):
        main(["train", "--list"])
    listed = capsys.readouterr().out
    assert list(PGN) == ["smoke", "cpu", "gpu", "paper"]
    for name, recipe in PGN.items():
        assert f"| pgn | {name} |" in listed
        for family, select in (("open", "renders-open"), ("research", "aflw21")):
            made = recipe(family)
            assert (made.name, made.family, made.select) == (name, family, select)
            assert config_from_dict(json.loads(json.dumps(asdict(made.net)))) == made.net
        if name != "paper":  # the same network as gpu's
            net = create_pgn(made.net, face())
            assert net.config.size == made.net.size
    assert PGN["paper"]("open").net == PGN["gpu"]("open").net


def test_every_switch_is_a_setting_of_the_cpu_recipe(tmp_path):
    wanted = {
        "net.pose=regressed", "net.points=68", "net.weights=uniform", "net.fusion=mean",
        "net.fusion=max", "net.fusion=first", "net.fusion=none", "loss.pairs.photometric=0",
        "loss.pairs.flow=0", "loss.pairs.semantic=0", "unlabelled=false", "batches.pairs=false",
    }  # fmt: skip
    known = {override for switch in TRAINABLE.switches for override in switch.overrides}
    assert wanted <= known
    parser = create_parser(TRAINABLE)
    for family in ("open", "research"):
        options = Namespace(
            recipe="cpu", family=family, fraction=0.1, seeds=2, switch=None, keep=False,
            out=tmp_path,
        )  # fmt: skip
        cells = plan_cells(create_plan("pgn", options, ["--cache", "x"]))
        assert len({cell.folder for cell in cells}) == len(cells)
        plain = ["--cache", "x", "--family", family]
        baseline = chosen_recipe(TRAINABLE, parser.parse_args(plain))
        for switch in TRAINABLE.switches:
            if family not in switch.families:
                continue
            words = [w for o in switch.overrides for w in ("--set", o)]
            assert chosen_recipe(TRAINABLE, parser.parse_args([*plain, *words])) != baseline
    short = TRAINABLE.shorten(PGN["cpu"]("open"), 0.1)
    assert short.optim.steps == 450


def test_metrics_that_switches_are_judged_by_are_measured(places, tmp_path):
    """By a run of the research family; a name that nobody writes would fail after hours."""
    recipe = toy_recipe(1, family="research", select="renders-open")
    trained(tmp_path, recipe, photos=True)
    measured = set(read_state(tmp_path / CHECKPOINT)["metrics"])
    photos = {"aflw21", "ytf68_ratio", "ytf68"}
    named = {s.metric for s in TRAINABLE.switches if s.metric}
    assert named - photos <= measured


def train_as_one_of_two(folder: Path) -> None:
    """One process's part of a run on renders and photos, pairs included."""
    recipe = toy_recipe(4, "research", processes=2, select="renders-open")
    recipe = replace(recipe, loss=replace(recipe.loss, ramp=(0.0, 0.1)))
    result = trained(folder / "run", recipe, photos=True)
    sums = {k: float(v.double().sum()) for k, v in result.state_dict().items()}
    (folder / f"rank-{os.environ['LOCAL_RANK']}.json").write_text(json.dumps(sums))


@pytest.mark.slow
def test_two_processes_hold_the_same_network(tmp_path):
    """No step hangs or leaves a parameter out, whichever sources a process draws."""
    assert launched(tmp_path, target=train_as_one_of_two) == [0, 0]
    one, other = (json.loads((tmp_path / f"rank-{k}.json").read_text()) for k in range(2))
    learned = dict(create_pgn(toy_recipe().net, face()).named_parameters())
    assert learned.keys() <= one.keys()
    assert {k: one[k] for k in learned} == {k: other[k] for k in learned}
    assert parts_of(tmp_path / "run") >= PARTS | MARKED | PAIRED
