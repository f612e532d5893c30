"""`PipelineConfig.engine`: onnxruntime and torch agree for every network, and in the head."""

import numpy as np
import pytest

from lifemask.apps.cli import main
from lifemask.assets import AssetError, UserError, weights_folder
from lifemask.evaluation.engines import TOLERANCES, EngineCase, engine_differences
from lifemask.faces.landmarker import load_landmarker
from lifemask.methods.pgn import load_pgn
from lifemask.methods.rafare import load_rafare
from lifemask.methods.retexture import load_retexturer
from lifemask.nn.shipped import ENGINES
from lifemask.pipeline import Pipeline, PipelineConfig

SQUARE = (160.6, 63.4, 292.8, 195.6)
VERTEX_MM, PX, DEGREES, LEVELS = 0.05, 0.02, 0.01, 2.0
"""What heads by the two engines may differ by; levels of 255 of the texture, mean of the texels."""


def photo():
    return pytest.importorskip("skimage.data").astronaut()


@pytest.mark.parametrize("family", ["open", "research"])
def test_every_network_says_the_same_by_both_engines(family):
    found = list(engine_differences(EngineCase(photo(), SQUARE, family)))
    units = {(one.network, one.unit) for one in found}
    assert units == {(n, unit) for n, own in TOLERANCES.items() for unit in own}
    for one in found:
        assert one.value <= one.tolerance, one
    assert max(one.value for one in found) > 0  # not the same engine twice


def test_heads_by_both_engines_agree():
    heads = {}
    for engine in ENGINES:
        config = PipelineConfig(engine=engine, refine=False, max_head_px=256, threads=1)
        (heads[engine],) = Pipeline(config)(photo(), boxes=[(175.0, 65.0, 280.0, 200.0)])
    one, other = (heads[engine] for engine in ENGINES)
    apart = np.linalg.norm(one.vertices_mm - other.vertices_mm, axis=-1)
    assert float(apart.max()) < VERTEX_MM
    assert float(np.abs(one.landmarks68_px - other.landmarks68_px).max()) < PX
    for name, angle in one.pose_deg.items():
        assert abs(angle - other.pose_deg[name]) < DEGREES
    assert one.appearance is not None and other.appearance is not None
    change = (one.appearance.albedo - other.appearance.albedo).abs().mean()
    assert 255 * float(change) < LEVELS
    assert one.method is not None and "engine" not in one.method.options
    assert other.method is not None and other.method.options["engine"] == "torch"


def test_the_engine_reaches_every_stage(monkeypatch):
    asked = {}

    def loader(name):
        def load(*given, **options):
            asked[name] = "torch" in given or options.get("engine") == "torch"
            return name

        return load

    for place in (
        "lifemask.faces.landmarker.load_landmarker",
        "lifemask.faces.parsing.load_parser",
        "lifemask.pipeline.load_mouth",
        "lifemask.pipeline.load_eyes",
        "lifemask.methods.retexture.load_retexturer",
        "lifemask.methods.rafare.load_rafare",
        "lifemask.methods._rafare_stage.load_parser",
        "lifemask.methods.pgn.load_pgn",
        "lifemask.methods._dasl_stage.load_dasl",
    ):
        monkeypatch.setattr(place, loader(place))
    for method in ("pgn", "dasl", "rafare"):
        pipeline = Pipeline(PipelineConfig(engine="torch", method=method))
        assert pipeline.geometry_stage is not None
    names = ("landmarker", "mouth_reader", "eye_reader", "parser", "retexturer", "surface_finder")
    stages = [getattr(pipeline, name) for name in names]
    assert all(stages) and len(asked) == 9 and all(asked.values()), asked


def test_unknown_engines_are_refused():
    with pytest.raises(UserError, match="unknown engine 'jax'; valid: onnx, torch"):
        PipelineConfig(engine="jax")  # pyright: ignore[reportArgumentType]
    for load in (
        lambda: load_landmarker("open", "jax"),  # pyright: ignore[reportArgumentType]
        lambda: load_retexturer("open", None, None, "jax"),  # pyright: ignore
        lambda: load_rafare("open", None, 0, "jax"),  # pyright: ignore[reportArgumentType]
    ):
        with pytest.raises(ValueError, match="valid: onnx, torch"):
            load()


@pytest.mark.parametrize("command", [["reconstruct", "--sample"], ["fit", "photo.jpg"]])
def test_commands_refuse_unknown_engines_in_one_line(command, tmp_path, capsys):
    with pytest.raises(SystemExit) as caught:
        main([*command, "-o", str(tmp_path / "out"), "--engine", "jax"])
    assert caught.value.code == 2 and not (tmp_path / "out").exists()
    assert capsys.readouterr().err == "error: unknown engine 'jax'; valid: onnx, torch\n"


def test_a_missing_graph_names_the_other_engine(tmp_path, monkeypatch):
    for suffix in ("json", "safetensors"):
        source = weights_folder() / f"pgn-open.{suffix}"
        (tmp_path / source.name).symlink_to(source)
    monkeypatch.setenv("LIFEMASK_WEIGHTS", str(tmp_path))
    with pytest.raises(AssetError, match=r"pgn-open\.onnx is missing .*engine torch") as caught:
        load_pgn("open")
    assert "\n" not in str(caught.value)
    assert load_pgn("open", "torch").tag == "open"
