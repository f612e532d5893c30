"""The house rules that a machine can check: import order, lazy imports, no prints, docstrings."""

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "src" / "lifemask"
ORDER = (
    "types", "assets", "graphics", "facemodel", "nn", "losses", "faces", "methods",
    "record", "export", "head", "preview", "relighting", "pipeline_config", "pipeline_input",
    "pipeline", "api", "outputs", "video",
    "data", "evaluation", "training", "batch", "apps",
)  # fmt: skip
"""A module may import from those to its left and from its own folder, and nothing else."""

PRINTS = ("apps",)
MAX_LINES = 500
MODULES = sorted(PACKAGE.rglob("*.py"))
HEAVY = (
    "torch",
    "numba",
    "onnxruntime",
    "cv2",
    "skimage",
    "scipy",
    "PIL",
    "pygltflib",
    "lightning",
)


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def part_of(dotted: str) -> str:
    """Name of the top-level part of a module's dotted name: "lifemask.a.b" gives "a"."""
    return dotted.split(".")[1] if "." in dotted else ""


def dotted_name(path: Path) -> str:
    parts = ("lifemask", *path.relative_to(PACKAGE).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def is_type_checking(node: ast.AST) -> bool:
    if not isinstance(node, ast.If):
        return False
    test = node.test
    return getattr(test, "id", getattr(test, "attr", "")) == "TYPE_CHECKING"


def imports(node: ast.AST):
    """(line, dotted name) of every import of lifemask below a node, in functions too."""
    if is_type_checking(node):
        for child in node.orelse:  # pyright: ignore[reportAttributeAccessIssue]
            yield from imports(child)
        return
    if isinstance(node, ast.Import):
        yield from ((node.lineno, a.name) for a in node.names if a.name.startswith("lifemask"))
    elif isinstance(node, ast.ImportFrom):
        assert node.level == 0, f"line {node.lineno}: relative import"
        if node.module == "lifemask":
            yield from ((node.lineno, f"lifemask.{a.name}") for a in node.names)
        elif (node.module or "").startswith("lifemask."):
            yield node.lineno, str(node.module)
    for child in ast.iter_child_nodes(node):
        yield from imports(child)


def ids(path: Path) -> str:
    return str(path.relative_to(PACKAGE))


def test_every_part_has_a_place_in_the_order():
    parts = {part_of(dotted_name(path)) for path in MODULES} - {""}
    assert parts <= set(ORDER), f"not in ORDER: {sorted(parts - set(ORDER))}"


@pytest.mark.parametrize("path", MODULES, ids=ids)
def test_imports_go_one_way(path):
    own = part_of(dotted_name(path))
    if not own:
        return  # the package itself only loads on demand
    wrong = []
    for line, name in imports(tree_of(path)):
        other = part_of(name)
        if other in ORDER and ORDER.index(other) > ORDER.index(own):
            wrong.append(f"{path.relative_to(ROOT)}:{line} imports {name}")
    assert not wrong, "\n".join(wrong)


def test_methods_do_not_import_each_other():
    wrong = []
    for path in (PACKAGE / "methods").glob("*.py"):
        if path.stem.startswith("_"):
            continue  # parts of a method, and what methods share
        for line, name in imports(tree_of(path)):
            sibling = name.removeprefix("lifemask.methods.")
            public = sibling != name and not sibling.startswith(("_", "base"))
            if public and sibling != path.stem:
                wrong.append(f"{path.name}:{line} imports {name}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("path", MODULES, ids=ids)
def test_modules_say_what_they_hold_and_stay_small(path):
    doc = ast.get_docstring(tree_of(path))
    assert doc, "no module docstring"
    first = doc.split("\n\n")[0].replace("\n", " ")
    assert first.rstrip("`").endswith((".", ":", "!")), f"not a sentence: {first!r}"
    assert len(path.read_text(encoding="utf-8").splitlines()) <= MAX_LINES


def test_libraries_log_and_never_print():
    wrong = []
    for path in MODULES:
        if part_of(dotted_name(path)) in PRINTS:
            continue
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "print":
                wrong.append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert not wrong, "\n".join(wrong)


def test_no_pickles_and_no_paths_of_a_machine():
    banned = (
        "import pickle", "allow_pickle=True", "weights_only=False", "sys.path.", "strict=False)",
        *(f"/{folder}/" for folder in ("home", "root", "work")),
    )  # fmt: skip
    files = [
        *MODULES,
        *(p for d in ("tools", "benchmarks", "examples") for p in ROOT.glob(f"{d}/**/*.py")),
    ]
    wrong = []
    for path in files:
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            wrong += [f"{path.relative_to(ROOT)}:{number} {b}" for b in banned
                      if b in line and "zip(" not in line]  # fmt: skip
    assert not wrong, "\n".join(wrong)


def modules_after(code: str) -> set[str]:
    """Top-level modules that a fresh interpreter has loaded after running some code."""
    report = (
        f"{code}\nimport sys\nprint(' '.join(sorted({{m.split('.')[0] for m in sys.modules}})))"
    )
    run = subprocess.run(
        [sys.executable, "-c", report], capture_output=True, text=True, check=True, timeout=120
    )
    return set(run.stdout.split())


def test_import_lifemask_loads_nothing_heavy():
    loaded = modules_after("import lifemask; lifemask.__version__; dir(lifemask)")
    assert not loaded & set(HEAVY), sorted(loaded & set(HEAVY))


def test_help_loads_no_networks():
    code = (
        "import contextlib, io\nfrom lifemask.apps.cli import main\n"
        "with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):\n"
        "    main(['--help'])"
    )
    loaded = modules_after(code)
    assert not loaded & set(HEAVY), sorted(loaded & set(HEAVY))


def test_public_names_exist():
    code = "import lifemask\nfor name in lifemask.__all__: getattr(lifemask, name)"
    assert "cv2" not in modules_after(code), "OpenCV is no dependency at run time"
