"""`params.json` is what `docs/params.schema.json` and `docs/params-schema.md` say."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fake_stages import EggLandmarker, one_face, textures
from lifemask.graphics.lighting import studio_light
from lifemask.head import Head
from lifemask.methods.fitting import FitConfig
from lifemask.pipeline import Pipeline, PipelineConfig
from lifemask.record import params_record, record_text
from lifemask.types import Appearance, MethodUse

DOCS = Path(__file__).resolve().parents[1] / "docs"
SCHEMA = json.loads((DOCS / "params.schema.json").read_text())
TYPES = {
    "object": dict,
    "array": list,
    "string": str,
    "number": (int, float),
    "integer": int,
    "null": type(None),
    "boolean": bool,
}


def errors(value: Any, schema: dict[str, Any], where: str = "$") -> list[str]:
    """Violations of the part of JSON Schema that the schema uses; unknown keywords fail."""
    found: list[str] = []
    for keyword, rule in schema.items():
        found += [f"{where}: {e}" for e in _check(value, keyword, rule, schema, where)]
    return found


def _check(value: Any, keyword: str, rule: Any, schema: dict[str, Any], where: str) -> list[str]:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if keyword in ("$schema", "$defs", "title"):
        return []
    if keyword == "$ref":
        return errors(value, SCHEMA["$defs"][rule.removeprefix("#/$defs/")], where)
    if keyword == "type":
        names = [rule] if isinstance(rule, str) else rule
        ok = any(
            isinstance(value, TYPES[n]) and isinstance(value, bool) == (n == "boolean")
            for n in names
        )
        return [] if ok else [f"is {type(value).__name__}, not {rule}"]
    if keyword == "const":
        return [] if value == rule else [f"is not {rule}"]
    if keyword == "enum":
        return [] if value in rule else [f"is not in {rule}"]
    if keyword == "oneOf":
        passing = sum(not errors(value, option) for option in rule)
        return [] if passing == 1 else [f"matches {passing} alternatives"]
    if keyword == "required":
        return [f"lacks {k}" for k in rule if isinstance(value, dict) and k not in value]
    if keyword == "properties":
        known = ((k, r) for k, r in rule.items() if isinstance(value, dict) and k in value)
        return [e for k, r in known for e in errors(value[k], r, f"{where}.{k}")]
    if keyword == "additionalProperties":
        extra = set(value) - set(schema.get("properties", {})) if isinstance(value, dict) else set()
        if rule is False:
            return [f"has {k}" for k in sorted(extra)]
        return [e for k in extra for e in errors(value[k], rule, f"{where}.{k}")]
    if keyword == "items":
        items = value if isinstance(value, list) else []
        return [e for i, v in enumerate(items) for e in errors(v, rule, f"{where}[{i}]")]
    if keyword in ("minItems", "maxItems"):
        excess = len(value) - rule if isinstance(value, list) else 0
        wrong = excess > 0 if keyword == "maxItems" else excess < 0
        return [f"has {len(value)} items"] if wrong else []
    if keyword in ("minimum", "maximum", "exclusiveMinimum"):
        ok = {
            "minimum": lambda: value >= rule,
            "maximum": lambda: value <= rule,
            "exclusiveMinimum": lambda: value > rule,
        }[keyword]
        return [] if not number or ok() else [f"{value} against {keyword} {rule}"]
    return [f"keyword {keyword} is not checked"]


def egg_head(**options) -> Head:
    landmarker = EggLandmarker()
    config = PipelineConfig(method="fit", refine=False, texture="none", **options)
    stages = {"detector": one_face, "landmarker": landmarker, "model": landmarker.model}
    (head,) = Pipeline(config, **stages)(np.full((200, 300, 3), 120, np.uint8))
    return head


@pytest.fixture(scope="module")
def head() -> Head:
    skin, cap = textures()
    appearance = Appearance(skin, studio_light("soft"), None, {"cap": cap})
    return replace(egg_head(), appearance=appearance, warnings=("a note",))


def parsed(*heads: Head) -> dict[str, Any]:
    text = record_text(params_record(heads, "photo.jpg", [["head.glb"]] * len(heads)))
    return json.loads(text)


def test_every_kind_of_result_is_valid(head):
    free = replace(
        head,
        model=None,
        appearance=None,
        geometry=replace(
            head.geometry, params=None, landmarks68_mm=None, model="", residual_px=float("nan")
        ),
    )
    pinhole = egg_head(fit=FitConfig(camera="pinhole"))
    for heads in ([head], [head, pinhole], [free], [pinhole]):
        assert errors(parsed(*heads), SCHEMA) == []


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("schema_version",), 2),
        (("weights",), "stolen"),
        (("image_size",), [300]),
        (("surprise",), 1),
        (("faces", 0, "score"), 1.5),
        (("faces", 0, "method", "name"), None),
        (("faces", 0, "method", "refined"), "yes"),
        (("faces", 0, "method", "weights"), "stolen"),
        (("faces", 0, "method", "options"), {"map": 3}),
        (("faces", 0, "person"), {"photos": ["a.jpg"]}),
        (("faces", 0, "person"), {"photos": [], "shared_identity": True}),
        (("faces", 0, "person"), {"photos": ["a.jpg"], "shared_identity": False}),
        (("faces", 0, "camera", "scale_px_per_mm"), -1),
        (("faces", 0, "camera", "model"), "pinhole"),
        (("faces", 0, "landmarks68_px"), [[1, 2]] * 67),
        (("faces", 0, "expression", "jawOpen"), "wide"),
        (("faces", 0, "light_sh"), [[1, 2, 3, 4]] * 9),
    ],
)
def test_the_schema_notices(head, path, value):
    record: Any = parsed(head)
    target = record
    for key in path[:-1]:
        target = target[key]
    target[path[-1]] = value
    assert errors(record, SCHEMA)


def test_the_method_is_recorded(head):
    (face,) = parsed(head)["faces"]
    assert face["method"] == {"name": "fit", "weights": "open", "refined": False, "options": {}}
    use = MethodUse("dasl", "research", True, {"map": "self"})
    (face,) = parsed(replace(head, method=use))["faces"]
    assert face["method"]["options"] == {"map": "self"} and face["method"]["refined"] is True
    assert errors(parsed(replace(head, method=use), replace(head, method=None)), SCHEMA) == []


def test_a_person_of_several_photos_is_recorded(head):
    (face,) = parsed(head)["faces"]
    assert face["person"] is None
    record = parsed(replace(head, person=("a.jpg", "")))
    assert record["faces"][0]["person"] == {"photos": ["a.jpg", ""], "shared_identity": True}
    assert errors(record, SCHEMA) == []
    del record["faces"][0]["person"]  # older files
    assert errors(record, SCHEMA) == []


def test_numbers_reproduce_the_landmarks(head):
    pinhole = egg_head(fit=FitConfig(camera="pinhole"))
    for face in parsed(head, pinhole)["faces"]:
        camera, points = face["camera"], np.array(face["landmarks68_mm"])
        turned = points @ np.array(camera["rotation"]).T
        if camera["model"] == "orthographic":
            uv = camera["scale_px_per_mm"] * turned[:, :2] * [1, -1] + camera["translation_px"]
        else:
            x, y, z = (turned + camera["translation_mm"]).T
            uv = camera["f_px"] * np.stack([x, -y], 1) / -z[:, None] + camera["center_px"]
        np.testing.assert_allclose(uv, face["landmarks68_px"], atol=5e-3)


def test_text_keeps_rows_of_numbers_on_a_line(head):
    text = record_text(params_record([head], "photo.jpg", [[]]))
    assert len(text.splitlines()) < 260
    assert "NaN" not in text
    assert np.allclose(json.loads(text)["faces"][0]["identity"], head.identity, atol=1e-4)


def test_the_page_names_every_key():
    page = (DOCS / "params-schema.md").read_text()
    face = SCHEMA["$defs"]["face"]["properties"]
    cameras = [o["properties"] for o in SCHEMA["$defs"]["camera"]["oneOf"]]
    method = SCHEMA["$defs"]["face"]["properties"]["method"]["properties"]
    person = face["person"]["properties"]
    for key in [*SCHEMA["properties"], *face, *method, *person, *cameras[0], *cameras[1]]:
        assert re.search(rf"`{key}`", page), key


def test_the_code_on_the_page_runs(head, tmp_path, monkeypatch):
    (tmp_path / "out/photo").mkdir(parents=True)
    text = record_text(params_record([head], "photo.jpg", [[]]))
    (tmp_path / "out/photo/params.json").write_text(text)
    monkeypatch.chdir(tmp_path)
    code = re.search(r"```python\n(.*?)```", (DOCS / "params-schema.md").read_text(), re.S)
    assert code is not None
    scope: dict[str, Any] = {}
    exec(code[1], scope)
    np.testing.assert_allclose(scope["uv"], scope["face"]["landmarks68_px"], atol=5e-3)
