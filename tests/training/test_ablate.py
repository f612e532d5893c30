"""Ablations: verdicts by hand, and a whole one of a toy method, interrupted and taken up again."""

import json
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lifemask.assets import UserError
from lifemask.training.ablate import ablate, ablate_command, create_plan, plan_cells
from lifemask.training.ablation_table import spread, summary, verdict
from lifemask.training.trainable import Switch
from training import toy_method
from training.test_batches import wait_until

pytest.importorskip("lightning.fabric")
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]
METHOD = "training.toy_method:TOY"


@pytest.fixture(autouse=True)
def clean():
    toy_method.STEPS.clear()
    toy_method.BEFORE_STEP.clear()
    before = logging.getLogger("lifemask").level
    yield
    logging.getLogger("lifemask").setLevel(before)


class Options:
    recipe, family, fraction, seeds, switch, keep = "cpu", "open", 0.5, 3, None, False

    def __init__(self, out, **changes):
        self.out = out
        self.__dict__.update(changes)


def plan(out, *rest, **changes):
    return create_plan(METHOD, Options(out, **changes), ["--data", "x", *rest])


@pytest.mark.parametrize(
    ("baseline", "without", "highest", "wanted"),
    [
        ([1.0, 1.2, 1.1], [1.5, 1.5, 1.6], False, "helps"),
        ([1.0, 1.2, 1.1], [0.7, 0.8, 0.8], False, "hurts"),
        ([1.0, 1.2, 1.1], [1.5, 1.5, 1.6], True, "hurts"),
        ([1.0, 1.2, 1.1], [0.7, 0.8, 0.8], True, "helps"),
        ([1.0, 1.2, 1.1], [1.25, 1.3, 1.3], False, "no effect"),  # 0.183 against a range of 0.2
        ([1.0, 1.0, 1.0], [1.0, 2.0, 1.5], False, "no effect"),  # its own seeds spread as far
        ([1.0, 1.0, 1.0], [1.0, 1.0, 1.0], False, "no effect"),
        ([1.0], [9.0], False, "unknown"),
    ],
)
def test_a_difference_counts_beyond_the_spread_of_the_seeds(baseline, without, highest, wanted):
    assert verdict(baseline, without, highest) == wanted


def test_claims_hold_are_refuted_or_not_shown():
    values = {"up": 2.0, "down": 0.5, "same": 1.0}
    switches = [Switch(name, ("a=0",), metric="m") for name in values]
    switches.append(Switch("free", ("a=0",), "any", metric="m"))
    results = {("baseline", seed): {"metrics": {"m": 1.0}} for seed in range(3)}
    for seed in range(3):
        results |= {(name, seed): {"metrics": {"m": v}} for name, v in values.items()}
        results["free", seed] = {"error": "exploded"} if seed else {"metrics": {"m": 3.0}}
    table = summary(switches, range(3), results, "")
    claims = {part["part"]: part["claim"] for part in table["parts"]}
    assert claims == {"up": "holds", "down": "refuted", "same": "not shown", "free": "-"}
    assert table["parts"][3]["failed"] == 2 and table["parts"][3]["verdict"] == "unknown"
    assert "| 3, 2 failed | +2 (+200.0 %) | 0 | unknown | - |" in table["markdown"][-1]
    with pytest.raises(UserError, match="no metric 'n' for 'odd'; valid: m"):
        summary([Switch("odd", (), metric="n")], range(3), results, "")
    assert spread([1.0, 1.5], [2.0, 2.1]) == 0.5


def test_an_ablation_finds_what_helps_what_hurts_and_what_does_nothing(tmp_path):
    calls = []
    table = ablate(plan(tmp_path), progress=lambda *state: calls.append(state))
    found = {part["part"]: (part["verdict"], part["claim"]) for part in table["parts"]}
    assert found == {
        "constant": ("helps", "holds"),
        "label errors": ("hurts", "refuted"),
        "idle part": ("no effect", "not shown"),
    }
    assert calls[0] == (0, 12) and calls[-1] == (12, 12)
    assert len(toy_method.STEPS) == 12 * 40  # half of the schedule
    stored = json.loads((tmp_path / "ablation.json").read_text())
    assert stored["steps"] == 40 and stored["seeds"] == [0, 1, 2]
    for part in stored["parts"]:
        assert len(part["baseline"]) == len(part["without"]) == 3
    text = (tmp_path / "ablation.md").read_text()
    assert "| constant | `bias=0` | error |" in text and "| helps | holds |" in text
    assert not list(tmp_path.rglob("*.safetensors"))  # cells leave their numbers only
    result = json.loads((tmp_path / "constant" / "seed-1" / "result.json").read_text())
    assert "bias=0" in result["command"] and result["settings"]["seed"] == 1
    assert result["settings"]["processes"] == 1

    toy_method.STEPS.clear()
    again = ablate(plan(tmp_path))
    assert toy_method.STEPS == [] and again["parts"] == table["parts"]
    with pytest.raises(UserError, match="another optim.peak_rate.*new --out"):
        ablate(plan(tmp_path, "--rate", "0.2"))


def test_an_interrupted_ablation_goes_on_where_it_was(tmp_path):
    changes = {"seeds": 2, "switch": ["constant"]}
    whole = ablate(plan(tmp_path / "whole", **changes))
    toy_method.STEPS.clear()
    left = [89]  # steps before the interrupt: in the third of four cells

    def before(step):
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGINT)

    toy_method.BEFORE_STEP.append(before)
    with pytest.raises(SystemExit) as end:
        ablate(plan(tmp_path / "parts", **changes))
    assert end.value.code == 128 + signal.SIGINT
    toy_method.BEFORE_STEP.clear()
    parts = ablate(plan(tmp_path / "parts", **changes))
    assert len(toy_method.STEPS) == 4 * 40  # no step was made twice
    assert parts["parts"] == whole["parts"]


def test_a_part_that_explodes_is_counted_and_a_failing_baseline_ends_it(tmp_path):
    table = ablate(plan(tmp_path / "a", "--fail-with", "0", seeds=2, switch=["label errors"]))
    (part,) = table["parts"]
    assert part["failed"] == 2 and part["verdict"] == "unknown" and part["without"] == []
    with pytest.raises(UserError, match="baseline with seed 0 failed.*not finite"):
        ablate(plan(tmp_path / "b", "--fail-with=-1.5", seeds=2))


def test_plans_take_the_switches_of_the_family(tmp_path):
    cells = plan_cells(plan(tmp_path, family="research", switch=["research part"], seeds=1))
    assert [cell.part for cell in cells] == ["baseline", "research part"]
    assert cells[1].folder == tmp_path / "research-part" / "seed-0"
    with pytest.raises(UserError, match="no switch 'research part'; valid: 'constant'"):
        plan(tmp_path, switch=["research part"])


def test_the_command_lists_the_parts(capsys):
    ablate_command(METHOD, ["--list"])
    assert "label errors: poison=0 -> score worse (open, research)" in capsys.readouterr().out


def environment():
    root = str(Path(__file__).resolve().parents[1])
    return os.environ | {"PYTHONPATH": root, "OMP_NUM_THREADS": "1"}


@pytest.mark.slow
def test_cells_in_processes_give_the_same_table_and_end_with_their_parent(tmp_path):
    changes = {"seeds": 2, "switch": ["constant"]}
    here = ablate(plan(tmp_path / "here", **changes))
    words = ["--recipe", "cpu", "--fraction", "0.5", "--seeds", "2", "--switch", "constant"]
    words += ["--jobs", "2", "--data", "x", "--out", str(tmp_path / "there")]
    command = [sys.executable, "-m", "lifemask.training.ablate", METHOD, *words]
    process = subprocess.Popen(command, env=environment(), cwd=tmp_path)
    logs = tmp_path / "there" / "baseline" / "seed-0" / "log.txt"
    assert wait_until(logs.is_file, 120)
    time.sleep(1)
    process.terminate()
    assert process.wait(120) == 128 + signal.SIGTERM
    assert subprocess.run(command, env=environment(), cwd=tmp_path, check=True).returncode == 0
    there = json.loads((tmp_path / "there" / "ablation.json").read_text())
    assert there["parts"] == here["parts"]
