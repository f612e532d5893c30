"""`lifemask train`: settings, dry runs, signals, lists and curves, with a toy method."""

import json
import logging
import os
import signal

import pytest

from lifemask.apps.cli import main
from lifemask.assets import UserError
from lifemask.training import recipes
from lifemask.training.checkpoint import read_state
from lifemask.training.curves import curve_table, save_curves
from lifemask.training.recipes import RECIPES, OptimConfig
from lifemask.training.run import chosen_recipe, create_parser, duration, list_text
from lifemask.training.trainable import SIZES, load_trainable, loop_config, shorten_optim
from training import toy_method

pytest.importorskip("lightning.fabric")
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]


@pytest.fixture(autouse=True)
def toy_is_known(monkeypatch):
    monkeypatch.setitem(recipes.RECIPES, "toy", "training.toy_method:TOY")
    toy_method.STEPS.clear()
    toy_method.BEFORE_STEP.clear()
    before = logging.getLogger("lifemask").level
    yield
    logging.getLogger("lifemask").setLevel(before)


def command(*words) -> int:
    try:
        main([str(word) for word in words])
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def toy(run, *words) -> int:
    base = ("train", "toy", "--recipe", "smoke", "--data", "x", "--no-progress")
    return command(*base, "--set", "processes=1", "--run", run, *words)


def chosen(*words):
    options = create_parser(toy_method.TOY).parse_args(["--data", "x", *words])
    return chosen_recipe(toy_method.TOY, options)


def test_a_run_by_command_ends_with_curves_and_a_table(tmp_path, capsys):
    run = tmp_path / "first"
    assert toy(run, "--keep", 2) == 0
    assert len(list((run / "checkpoints").glob("*.safetensors"))) == 2
    state = json.loads((run / "checkpoint.json").read_text())
    assert state["step"] == 40 and state["metrics"]["error"] < 1
    assert (run / "best.safetensors").is_file()
    assert command("train", "curve", run) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0] == "| step | loss | error | score |" and out[-3].startswith("| 40 |")
    for name in ("loss.svg", "held_out.svg"):
        assert (run / name).read_text().startswith("<svg") and str(run / name) in out


def test_later_words_win_and_all_settings_can_be_set():
    recipe = chosen("--recipe", "cpu", "--fraction", "0.5", "--rate", "0.1", "--seed", "3")
    assert (recipe.optim.steps, recipe.optim.warmup, recipe.optim.ema) == (40, 1, 0.0)
    assert (recipe.optim.peak_rate, recipe.seed) == (0.1, 3)
    assert chosen("--steps", "7", "--set", "optim.steps=9").optim.steps == 9


def test_a_wrong_setting_is_one_line(tmp_path, capsys):
    assert toy(tmp_path / "r", "--set", "optim.step=3") == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "did you mean optim.steps" in error
    assert toy(tmp_path / "r", "--fraction", "2") == 2
    assert command("train", "toy", "--data", "x") == 2
    assert "--run" in capsys.readouterr().err
    assert not (tmp_path / "r").exists()


def test_dry_run_tells_settings_and_time_and_writes_nothing(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ("--recipe", "smoke", "--data", "x", "--processes", "1", "--dry-run")
    assert command("train", "toy", *words) == 0
    out = capsys.readouterr().out
    assert "optim.steps = 40\n" in out and "processes = 1\n" in out
    assert "40 steps of 64 at" in out and "20 steps measured" in out
    assert len(toy_method.STEPS) == 23 and list(tmp_path.iterdir()) == []


def test_a_stopped_command_says_how_to_go_on(tmp_path, caplog):
    toy_method.BEFORE_STEP.append(
        lambda step: os.kill(os.getpid(), signal.SIGTERM) if step == 4 else None
    )
    assert toy(tmp_path / "r") == 128 + signal.SIGTERM
    assert "stopped after step 5 of 40" in caplog.text and "same command" in caplog.text
    toy_method.BEFORE_STEP.clear()
    toy_method.STEPS.clear()
    assert toy(tmp_path / "r") == 0
    assert toy_method.STEPS == list(range(5, 40))
    assert read_state(tmp_path / "r" / "checkpoint.safetensors")["step"] == 40


def test_every_network_has_four_sizes_that_fit_the_loop(tmp_path):
    text = list_text()
    for name in RECIPES:
        trainable = load_trainable(name)
        assert set(trainable.recipes) <= set(SIZES)
        for size, make in trainable.recipes.items():
            assert f"| {name} | {size} |" in text
            config = loop_config(make("research"), tmp_path)
            assert config.optim.steps > 0 and config.run == tmp_path
            short = trainable.shorten(make("open"), 0.1)
            assert short.optim.steps == max(1, round(make("open").optim.steps * 0.1))


def test_every_switch_changes_a_setting():
    for name in ("landmarker", "parser"):
        trainable = load_trainable(name)
        for switch in trainable.switches:
            for family in switch.families:
                words = [w for o in switch.overrides for w in ("--set", o)]
                parser = create_parser(trainable)
                plain = ["--cache", "x", "--family", family]
                with_part = chosen_recipe(trainable, parser.parse_args(plain))
                without = chosen_recipe(trainable, parser.parse_args([*plain, *words]))
                assert with_part != without, switch.name


def test_unknown_networks_are_told():
    with pytest.raises(UserError, match="unknown network 'mind'; valid: landmarker, dasl, pgn"):
        load_trainable("mind")
    with pytest.raises(UserError, match="no module"):
        load_trainable("no_such_module:TOY")
    with pytest.raises(UserError, match="has no 'MISSING'"):
        load_trainable("training.toy_method:MISSING")
    with pytest.raises(UserError, match="is no Trainable"):
        load_trainable("training.toy_method:recipe")
    assert load_trainable("training.toy_method:TOY") is toy_method.TOY


def test_a_shorter_schedule_keeps_its_shape():
    short = shorten_optim(OptimConfig(steps=6000, warmup=150, ema=0.998), 0.1)
    assert (short.steps, short.warmup) == (600, 15)
    assert short.ema == pytest.approx(0.98)
    assert shorten_optim(OptimConfig(steps=6000), 1.0) == OptimConfig(steps=6000)


def write_rows(run, *rows):
    lines = [json.dumps(row) for row in rows]
    (run / "metrics.jsonl").write_text("\n".join(lines) + '\n{"step": 9, "cut o')


def test_curves_survive_gaps_and_cut_lines(tmp_path):
    write_rows(
        tmp_path,
        {"step": 1, "crops_per_s": 5.0, "waited": 0.1, "loss": 2.0, "prior": 0.0},
        {"step": 2, "crops_per_s": 5.0, "waited": 0.1, "loss": 1.0, "prior": -1.0},
        {"step": 2, "held_out/iou": 0.5, "held_out/iou/nose": 0.1},
        {"step": 4, "held_out/iou": float("nan"), "held_out/iou/nose": 0.2},
    )
    assert [p.name for p in save_curves(tmp_path)] == ["loss.svg", "held_out.svg"]
    assert curve_table(tmp_path).splitlines()[2:] == ["| 2 | 1 | 0.5 |", "| 4 | 1 | - |"]
    with pytest.raises(UserError, match="no folder of a training run"):
        save_curves(tmp_path / "nothing")


def test_durations_in_words():
    assert [duration(s) for s in (50, 700, 12_000)] == ["50 s", "12 min", "3 h 20 min"]
