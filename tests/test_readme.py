"""What the README and the docs print is run, exists, and is true."""

import ast
import importlib
import json
import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
DOCS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


def command(name: str) -> str:
    """The one-line command that a comment in the README names."""
    return re.findall(rf"<!-- command: {name} -->\n```sh\n(.+)\n```\n", README)[0]


@pytest.fixture(scope="module")
def report():
    with pytest.MonkeyPatch.context() as patch:  # as for a program: its folder comes first
        patch.syspath_prepend(ROOT / "benchmarks")
        return runpy.run_path(str(ROOT / "benchmarks" / "report.py"))


@pytest.fixture
def astronaut() -> np.ndarray:
    from skimage import data

    return data.astronaut()


@pytest.mark.parametrize("document", DOCS, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_lead_somewhere(document):
    targets = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", document.read_text(encoding="utf-8"))
    missing = [t for t in targets if "://" not in t and not (document.parent / t).exists()]
    assert not missing


def test_the_two_commands_do_everything_from_a_bare_clone():
    for name, last in (("sample", "reconstruct --sample"), ("tests", "-m pytest")):
        line = command(name)
        assert line.startswith("python3 -m venv .venv && .venv/bin/pip install -c constraints.txt")
        assert last in line.split("&&")[-1]
    assert "'.[dev]'" in command("tests")


def test_ci_runs_the_tests_by_the_command_of_the_readme():
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    pattern = re.search(r"sed -n '(.+?)' README.md \| grep '(.+?)'", script)
    assert pattern is not None
    found = subprocess.run(
        f"sed -n '{pattern[1]}' README.md | grep '{pattern[2]}'",
        shell=True, cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert found.stdout.strip() == command("tests")
    subprocess.run(["bash", "-n", ".ci/run"], cwd=ROOT, check=True)


def test_commands_in_the_docs_exist_with_their_options():
    from typer.main import get_command

    from lifemask.apps.cli import app

    checked = 0
    for document in DOCS:
        for text in re.findall(r"`(lifemask [a-z][^`\n]*)`", document.read_text(encoding="utf-8")):
            words, command_ = shlex.split(text.replace("...", ""))[1:], get_command(app)
            while words and hasattr(command_, "commands"):
                table = command_.commands  # pyright: ignore[reportAttributeAccessIssue]
                assert words[0] in table, f"{document.name}: {text}"
                command_ = table[words.pop(0)]
            options = {o for p in command_.params for o in (*p.opts, *p.secondary_opts)}
            if command_.context_settings.get("ignore_unknown_options"):  # a trainer reads its own
                continue
            unknown = [w for w in words if w.startswith("-") and w not in options | {"--help"}]
            assert not unknown, f"{document.name}: {text}"
            checked += 1
    assert checked >= 5


def test_every_public_command_is_in_the_readme():
    from typer.main import get_command

    from lifemask.apps.cli import app

    names = get_command(app).commands  # pyright: ignore[reportAttributeAccessIssue]
    assert not [n for n in names if f"`lifemask {n}" not in README]


def test_the_tree_is_the_tree():
    block = re.search(r"```\nsrc/lifemask/\n(.+?)```", README, re.S)
    assert block is not None
    shown = set()
    for line in block[1].splitlines():
        if line.startswith("  "):
            names = re.match(r"  ((?:\S+ )+) ", line + "  ")
            assert names is not None, line
            shown |= {n.rstrip("/") for n in names[1].split()}
    package = ROOT / "src" / "lifemask"
    assert all((package / name).exists() for name in shown), shown
    folders = {p.name for p in package.iterdir() if (p / "__init__.py").is_file()}
    assert folders <= shown, folders - shown


def test_the_python_example_runs(tmp_path, monkeypatch, astronaut):
    (example,) = re.findall(r"```python\n(.+?)```", README, re.S)
    monkeypatch.chdir(tmp_path)
    Image.fromarray(astronaut).save("photo.jpg", quality=95)
    sky = np.linspace(0.1, 1.5, 16 * 32 * 3, dtype=np.float32).reshape(16, 32, 3)
    write_hdr(Path("studio.hdr"), sky)
    exec(compile(ast.parse(example), "README.md", "exec"), {})
    assert Path("head.glb").stat().st_size > 100_000
    assert picture(Path("relit.png")).shape == (512, 512)


def test_the_sample_command_writes_what_it_says(tmp_path):
    words = shlex.split(command("sample").split("&&")[-1])
    lifemask = Path(sys.executable).parent / "lifemask"
    run = subprocess.run(
        [str(lifemask), *words[1:-1], str(tmp_path / "out")], capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    (folder,) = (tmp_path / "out").iterdir()
    written = {p.name for p in folder.iterdir()}
    assert {"head.glb", "head.obj", "params.json", "preview.png"} <= written
    record = json.loads((folder / "params.json").read_text(encoding="utf-8"))
    assert record["weights"] == "open" and len(record["faces"]) == 1
    assert "open" in run.stdout + run.stderr  # the licence tag is told


def test_relight_example(tmp_path):
    run_example("relight.py", tmp_path / "relit.png")
    assert picture(tmp_path / "relit.png").shape[1] == 3 * 256


def test_blendshapes_example(tmp_path):
    run_example("blendshapes.py", tmp_path / "faces.png")
    assert picture(tmp_path / "faces.png").std() > 20  # something is drawn


def test_own_landmarks_example(tmp_path, capsys):
    import torch

    from lifemask import load_face_model

    model = load_face_model()
    head = model(torch.zeros(model.identity_size), torch.zeros(len(model.expression_names)))
    points = model.landmarks(head, "ict68")[:, :2] * torch.tensor([1.5, -1.5]) + 250
    file = tmp_path / "points.json"
    file.write_text(json.dumps(points.tolist()), encoding="utf-8")
    run_example("own_landmarks.py", file, tmp_path / "head.glb")
    out = capsys.readouterr().out
    yaw = re.search(r"yaw (-?[\d.]+)", out)
    assert yaw is not None and abs(float(yaw[1])) < 3
    assert (tmp_path / "head.glb").stat().st_size > 50_000


def picture(path: Path) -> np.ndarray:
    """A picture as grey values (h, w)."""
    with Image.open(path) as image:
        return np.asarray(image.convert("L"), dtype=float)


def run_example(name: str, *arguments: Path) -> None:
    """Run a program of examples/ in this process."""
    module = runpy.run_path(str(ROOT / "examples" / name))
    module["main"](*map(str, arguments))


def write_hdr(path: Path, image: np.ndarray) -> None:
    """A flat (uncompressed) Radiance picture."""
    mantissa, exponent = np.frexp(image.max(axis=-1))
    scale = mantissa * 256 / image.max(axis=-1)
    rgbe = np.concatenate([image * scale[..., None], (exponent + 128)[..., None]], axis=-1)
    head = f"#?RADIANCE\nFORMAT=32-bit_rle_rgbe\n\n-Y {image.shape[0]} +X {image.shape[1]}\n"
    path.write_bytes(head.encode() + rgbe.astype(np.uint8).tobytes())


def test_numbers_come_from_the_results(report):
    results = report["load_results"]()
    assert report["with_block"](README, report["readme_block"](results)) == README, (
        "the README's numbers are old: python benchmarks/report.py"
    )
    page = (ROOT / "benchmarks" / "RESULTS.md").read_text(encoding="utf-8")
    assert page == report["results_page"](results), "old: python benchmarks/report.py"


def test_results_say_where_they_come_from(report):
    for name, result in report["load_results"]().items():
        assert {"command", "commit"} <= result.keys(), name


def test_assets_page_is_current():
    assets = importlib.import_module("lifemask.assets")
    assert (ROOT / "ASSETS.md").read_text(encoding="utf-8") == assets.assets_markdown()


def test_versions_are_pinned_without_local_tags():
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][0-9A-Za-z.]*", pin) for pin in pins)
    pinned = {pin.split("==")[0].lower().replace("_", "-") for pin in pins}
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    groups = [project["dependencies"], *project["optional-dependencies"].values()]
    wanted = {re.split(r"[<>=\[ ;]", r)[0].lower() for group in groups for r in group}
    assert not wanted - pinned - {"lifemask"}
