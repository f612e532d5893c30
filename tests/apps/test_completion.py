"""The shell completes commands, options and the words they take."""

import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from lifemask.apps import completion

LIFEMASK = Path(sys.executable).parent / "lifemask"


def completed(line: str) -> list[str]:
    """What bash would show after a line."""
    words = line.split(" ")
    environment = os.environ | {
        "_LIFEMASK_COMPLETE": "complete_bash",
        "COMP_WORDS": line,
        "COMP_CWORD": str(len(words) - 1),
    }
    done = subprocess.run([LIFEMASK], env=environment, capture_output=True, text=True, check=True)
    return done.stdout.split()


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("lifemask doc", ["doctor"]),
        ("lifemask assets v", ["verify"]),
        ("lifemask reconstruct --method ", ["fit", "dasl", "pgn", "rafare"]),
        ("lifemask reconstruct --weights re", ["research"]),
        ("lifemask fit --texture re", ["retexture"]),
        ("lifemask relight --light lo", ["low-sun"]),
        ("lifemask reconstruct --formats glb,p", ["glb,ply", "glb,png"]),
        ("lifemask score aflw", ["aflw2000", "aflw21"]),
        ("lifemask train pa", ["parser"]),
        ("lifemask doctor --device cu", ["cuda"]),
    ],
)
def test_bash_completes(line, words):
    assert completed(line) == words


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_of_each_shell_is_shown(shell):
    environment = os.environ | {"_LIFEMASK_COMPLETE": f"source_{shell}"}
    done = subprocess.run([LIFEMASK], env=environment, capture_output=True, text=True, check=True)
    assert "_LIFEMASK_COMPLETE" in done.stdout and "lifemask" in done.stdout


def test_completion_loads_nothing_heavy():
    code = (
        "import sys\nfrom lifemask.apps.cli import app\n"
        "from typer.main import get_command\n"
        "group = get_command(app)\n"
        "for name in list(group.commands): group.get_command(None, name)\n"
        "print([m for m in ('torch', 'numpy', 'PIL', 'rich.console') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "torch" not in done.stdout and "numpy" not in done.stdout and "PIL" not in done.stdout


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ("lifemask.graphics.panoramas:PANORAMAS", completion.LIGHTS),
        ("lifemask.evaluation.predict:DATASETS", completion.POINT_SETS),
        ("lifemask.evaluation.predict_meshes:MESH_DATASETS", completion.MESH_SETS),
        ("lifemask.evaluation.score:PROTOCOLS", completion.PROTOCOLS),
        ("lifemask.training.recipes:RECIPES", completion.NETWORKS),
        ("lifemask.outputs:FORMATS", completion.FORMATS),
    ],
)
def test_words_are_those_of_the_tables(table, words):
    module, name = table.split(":")
    assert sorted(words) == sorted(getattr(import_module(module), name))


def test_help_lists_every_method_texture_and_detail():
    from typer.main import get_command

    from lifemask.apps.cli import app
    from lifemask.pipeline_config import DETAILS, METHODS, TEXTURES

    command = get_command(app).commands["reconstruct"]  # pyright: ignore
    metavars = {p.name: p.metavar or "" for p in command.params}
    for name, valid in (("method", METHODS), ("texture", TEXTURES), ("detail", DETAILS)):
        assert set(completion.words_of("reconstruct", name, metavars[name])) == set(valid)


def test_free_values_have_no_words():
    assert completion.words_of("relight", "out", "FILE") == ()
    assert completion.words_of("pairs", "photos", "renders|aflw21|DIR") == ("renders", "aflw21")
