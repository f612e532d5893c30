"""What tools/blender_check.py asks of a head; Blender itself is not needed."""

import runpy
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def tool():
    blender, maths = ModuleType("bpy"), ModuleType("mathutils")
    vars(maths)["Vector"] = tuple
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "bpy", blender)
        patch.setitem(sys.modules, "mathutils", maths)
        yield runpy.run_path(str(ROOT / "tools" / "blender_check.py"))


@pytest.fixture
def found(tool) -> dict:
    """What was found of the sample portrait's head in Blender 5.0.1."""
    return {
        "objects": ["MESH"],
        "height_m": 0.2527,
        "nose_m": [0.0, -0.1313, 0.0007],
        "shape_keys": sorted(tool["ARKIT"]),
        "moved": 52,
        "materials": {"skin": ["Base Color", "Normal", "Roughness"], "eyes": ["Base Color"]},
    }


def test_its_names_are_those_of_the_head_model_and_of_the_docs(tool):
    import re

    import lifemask

    names = lifemask.load_face_model().expression_names
    assert tool["ARKIT"] == set(names)
    page = (ROOT / "docs" / "formats.md").read_text(encoding="utf-8")
    block = re.search(r"<!-- arkit: begin -->(.+?)<!-- arkit: end -->", page, re.S)
    assert block is not None and block[1].replace("\n", " ").strip().split(", ") == list(names)


def test_a_whole_head_has_no_problem(tool, found):
    assert tool["judge"](found) == []


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        ("objects", ["ARMATURE", "MESH"], "one mesh without an armature"),
        ("objects", ["MESH", "MESH"], "one mesh"),
        ("height_m", 252.7, "252.7 m tall"),
        ("nose_m", [0.13, 0.0, 0.0], "does not look along -y"),
        ("shape_keys", ["jawOpen"], "1 shape keys"),
        ("moved", 51, "only 51 shape keys move"),
        ("materials", {"skin": ["Base Color", "Normal", "Roughness"], "eyes": []}, "colour"),
        ("materials", {"skin": ["Base Color"]}, "relief and roughness"),
    ],
)
def test_each_problem_is_told(tool, found, key, value, told):
    (problem,) = tool["judge"](found | {key: value})
    assert told in problem
