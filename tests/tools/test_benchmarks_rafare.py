"""The benchmark of detailed surfaces: its systems, its targets, its command, its tables."""

import importlib
import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

pytest.importorskip("igl")
pytest.importorskip("scipy")

from helpers.rafare_fronts import (  # noqa: E402
    HALF_MM,
    SIZE,
    ball,
    crop_of,
    relief,
    sheet,
    smooth_relief,
    wrinkles,
)
from lifemask.assets import UserError  # noqa: E402
from lifemask.methods._rafare_field import Surface  # noqa: E402

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def bench():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        names = {"rafare": "run", "rafare_systems": "systems", "report_rafare": "report",
                 "rafare_data": "data"}  # fmt: skip
        yield SimpleNamespace(**{short: importlib.import_module(n) for n, short in names.items()})


def pair(number):
    depth, normals, region = crop_of(relief)
    guide = np.where(np.isnan(depth), np.nan, crop_of(ball)[0]) / HALF_MM
    image = np.full((SIZE, SIZE, 3), number, np.uint8)
    return SimpleNamespace(
        image=image, region=region, depth=(depth / HALF_MM).astype(np.float32),
        normals=normals.astype(np.float32), guide_depth=guide.astype(np.float32),
        guide_normals=normals.astype(np.float32), rotation=np.eye(3), scale=SIZE / 2 / HALF_MM,
        person=number,
    )  # fmt: skip


class Set(list):
    """Pairs with a header."""

    header = {"settings": {"size": SIZE}, "held_out": True}


class Predictor:
    """Finer levels have more of the wrinkles, if the image is the pair's own."""

    size = SIZE

    def __init__(self, gain=1.0, guide=True):
        self.gain, self.config, self.asked = gain, SimpleNamespace(guide=guide), []

    def surface(self, image, region, guide=None, level=None, *, blind=False, **changes):
        number = int(image.mean())
        self.asked.append((number, guide is not None, level, blind, changes))
        if number == 99:
            raise UserError("no face")
        share = {"base": 0.2, "fine": 0.5, "normals": 0.9, None: 0.9}[level] * self.gain
        share *= 0.3 if blind else 1.0
        rng = np.random.default_rng(number)
        phase, share = rng.normal(0, 0.2, 2), share + rng.normal(0, 0.02)
        vertices, faces = sheet(
            lambda x, y: (
                smooth_relief(x, y)
                + share * wrinkles(x, y)
                + 0.2 * np.sin(x / 3 + phase[0] + 2 * number) * np.sin(y / 3 + phase[1])
            ),
            step=3.0,
        )
        points = torch.from_numpy(vertices / HALF_MM).float()
        return Surface(points, torch.from_numpy(faces), torch.zeros_like(points))


@pytest.fixture
def fakes(bench, monkeypatch):
    nets = {"": Predictor(), "pairs": Predictor(), "renders": Predictor(0.3)}
    monkeypatch.setattr(bench.run, "load_pairs", lambda folder: Set(pair(k) for k in range(4)))
    monkeypatch.setattr(bench.run, "load_predictor", lambda asked: nets[asked.net])
    monkeypatch.setattr(bench.run, "piece_count", lambda predictor, pair: 1 + int(pair.person == 2))
    return nets


def test_the_command_writes_scores_differences_and_targets(bench, fakes, tmp_path, capsys):
    out = tmp_path / "rafare-open.json"
    words = ["--pairs", tmp_path, "--heads", 3, "--no-pipeline", "--json", out]
    bench.run.main([str(word) for word in words])
    result = json.loads(out.read_text())
    assert result["benchmark"] == "rafare" and result["heads"] == 3 and result["nets"] == ["open"]
    assert result["pairs"] == {"settings": {"size": SIZE}, "count": 4}
    assert result["command"].startswith("python benchmarks/rafare.py --pairs PAIRS --heads 3")
    assert result["pieces"] == {"heads": 3, "mean": 1.0, "most": 1, "each": [1, 1, 1]}
    r = {n: own["z"]["detail_r"]["mean"] for n, own in result["systems"].items()}
    assert r["base"] < r["base+fine"] < r["base+fine+norm"]
    assert r["fine sees nothing"] < r["base+fine"]
    met = {row["target"]: row["met"] for row in result["targets"]}
    assert met["detail_r: base+fine - base > 0"]
    assert met["detail_r: base+fine+norm - base+fine > 0"]
    assert met["detail_r: base+fine - fine sees nothing > 0"]
    assert met["cd_mm: base+fine+norm - guide < 0"]
    assert "base - base+fine+norm" not in result["differences"]["z"]
    shown = capsys.readouterr().out
    assert "base+fine+integrate" in shown and "met" in shown
    lines = "\n".join(bench.report.rafare_sections({"rafare-open": result}))
    assert "## Detailed surfaces, `rafare-open`" in lines
    assert "| guide |" in lines and "base+fine - base" in lines and "yes" in lines


def test_pairs_for_training_are_refused(bench, fakes, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(Set, "header", {"settings": {}, "held_out": False})
    with pytest.raises(SystemExit, match="--seed 900000000"):
        bench.run.main(["--pairs", str(tmp_path), "--json", str(tmp_path / "x.json")])
    assert not (tmp_path / "x.json").exists()


def test_controls_get_another_image_and_another_head(bench):
    pairs, predictor = [pair(k) for k in range(3)], Predictor()
    systems = bench.systems.create_systems(pairs, {"a": predictor}, None)
    own = [systems["base+fine+norm"](k)[0] for k in range(3)]
    assert np.array_equal(systems["other head"](2)[0], own[1])
    assert np.array_equal(systems["other head"](0)[0], own[2])
    predictor.asked.clear()
    systems["other image"](2)
    systems["fine sees nothing"](1)
    systems["base+fine+integrate"](0)
    assert predictor.asked == [
        (1, True, "normals", False, {}), (1, True, "fine", True, {}),
        (0, True, "normals", False, {"carve": "integrate"}),
    ]  # fmt: skip
    blind = Predictor(guide=False)
    bench.systems.surface_of(blind, pairs[0], level="base")
    assert not blind.asked[0][1]
    assert bench.systems.surface_of(predictor, pair(99), level="base") is None


def test_other_nets_are_compared_on_the_same_pairs(bench, fakes, tmp_path):
    out = tmp_path / "out.json"
    words = ["--pairs", tmp_path, "--heads", 3, "--no-pipeline", "--pieces", 0]
    words += ["--net", "pairs", "--net", "renders", "--json", out]
    bench.run.main([str(word) for word in words])
    result = json.loads(out.read_text())
    assert result["nets"] == ["pairs", "renders"] and result["pieces"] is None
    assert {"renders: base", "renders: base+fine+norm"} < set(result["systems"])
    gap = result["differences"]["z"]["base+fine+norm - renders: base+fine+norm"]["detail_r"]
    assert gap["mean"] > 0 and gap["significant"]
    assert "base - renders: base" in result["differences"]["z"]
    assert any("renders" in row["target"] and row["met"] for row in result["targets"])


def test_time_memory_and_distance_of_three_ways(bench, fakes, monkeypatch, tmp_path, capsys):
    speed = importlib.import_module("rafare_speed")
    monkeypatch.setattr(speed, "load_pairs", bench.run.load_pairs)
    monkeypatch.setattr(speed, "load_predictor", bench.run.load_predictor)

    def in_process(words, env, **_):
        assert env["OMP_NUM_THREADS"] in ("1", "2")
        before = torch.get_num_threads()
        speed.main(words[2:])
        torch.set_num_threads(before)
        return SimpleNamespace(stdout=capsys.readouterr().out)

    monkeypatch.setattr(speed, "subprocess", SimpleNamespace(run=in_process))
    out = tmp_path / "rafare-speed.json"
    speed.main(["--pairs", str(tmp_path), "--heads", "2", "--json", str(out)])
    found = json.loads(out.read_text())
    assert list(found["ways"]) == ["full", "every voxel", "every second"] and found["heads"] == 2
    assert list(found["ways"]["full"]) == ["2"] and list(found["ways"]["every voxel"]) == ["1", "2"]
    assert len(found["ways"]["every second"]["1"]["seconds"]) == 2
    assert found["apart_voxels"]["every second"]["most"] < 1e-4  # the fake knows one surface
    changes = [asked[-1] for asked in fakes[""].asked]
    assert {"evaluate": "full"} in changes and {"every": 2} in changes
    met = {row["target"]: row["met"] for row in found["targets"]}
    assert len(met) == 6 and met["every second: voxels from full <= 0.1"]
    lines = "\n".join(bench.report.rafare_sections({"rafare-speed": found}))
    assert "192 voxels a side" in lines and "| every second |" in lines
    with pytest.raises(SystemExit, match="--json"):
        speed.main(["--pairs", str(tmp_path)])


def test_pairs_are_spread_and_decoded_when_asked_for(bench):
    assert bench.run.picked(range(10), 4) == [0, 3, 6, 9]
    assert bench.run.picked(range(3), 9) == [0, 1, 2]
    read = []

    class Lazy(list):
        def __getitem__(self, k):
            read.append(k)
            return super().__getitem__(k)

    part = bench.run.Part(Lazy(range(100, 110)), [0, 4, 8])
    assert len(part) == 3 and read == []
    assert [part[0], part[1], part[0], part[-1]] == [100, 104, 100, 108]
    assert read == [0, 4, 8]
    assert list(part) == [100, 104, 108]


def test_the_guide_is_its_depth(bench):
    vertices, faces = bench.systems.depth_mesh(pair(0), pair(0).guide_depth)
    np.testing.assert_allclose(np.linalg.norm(vertices, axis=1), 90.0, rtol=1e-5)
    assert len(faces) > 1000
    assert bench.systems.depth_mesh(pair(0), np.full((SIZE, SIZE), np.nan)) is None
    truth = bench.systems.create_systems([pair(0)], {"a": Predictor()}, None)["truth"](0)
    np.testing.assert_allclose(truth[0][:, 2], relief(*truth[0].T[:2]), atol=1e-4)


def test_heads_of_the_pipeline_lie_on_the_crop(bench, monkeypatch):
    from lifemask.evaluation.predict_meshes import mean_head
    from lifemask.facemodel import load_face_model
    from lifemask.graphics.camera import project

    model, asked = load_face_model(), []

    class Pipeline:
        def __init__(self, method):
            self.model, self.method = model, method

        def reconstruct_face(self, image, box):
            asked.append((self.method, box))
            head = mean_head(model, box, image.shape[:2])
            moved = head.geometry.vertices_mm + 5.0
            return replace(head, geometry=replace(head.geometry, vertices_mm=moved))

    photos = bench.systems.Photos([pair(0)], "open")
    monkeypatch.setattr(photos, "_pipeline", Pipeline)
    carried, mean, fine = photos.carried(0), photos.mean_head(0), photos.detailed(0)
    (_, box), *_ = asked
    assert [method for method, _ in asked] == ["rafare", "pgn"]
    assert box[2] - box[0] == pytest.approx(SIZE / 1.2)
    assert (box[0] + box[2]) / 2 == pytest.approx(SIZE / 2 - 0.5)
    geometry = mean_head(model, box, (SIZE, SIZE)).geometry
    u, v, _ = project(geometry.vertices_mm, geometry.camera).double().numpy().T
    step = 2 * HALF_MM / SIZE
    np.testing.assert_allclose(mean[0][:, 0], (u + 0.5) * step - HALF_MM, atol=1e-3)
    np.testing.assert_allclose(mean[0][:, 1], HALF_MM - (v + 0.5) * step, atol=1e-3)
    size = float(geometry.camera.scale) * step
    np.testing.assert_allclose(carried[0] - mean[0], 5.0 * size, atol=1e-3)
    assert len(fine[1]) > len(carried[1])
    assert photos.surface(0) is None  # this pipeline found none


def test_the_surface_that_is_carried_lies_where_its_head_does(bench, monkeypatch):
    """A surface that is the head itself is the head's mesh on the crop."""
    from lifemask.evaluation.predict_meshes import mean_head
    from lifemask.facemodel import load_face_model
    from lifemask.graphics.camera import project
    from lifemask.types import FreeSurface

    middle, half = SIZE / 2 - 0.5, SIZE / 2.4
    box = (middle - half, middle - half, middle + half, middle + half)
    head = mean_head(load_face_model(), box, (SIZE, SIZE)).geometry
    px = project(head.vertices_mm.float(), head.camera)
    photos = bench.systems.Photos([pair(0)], "open")
    own = replace(head, surface=FreeSurface(px, head.faces))
    monkeypatch.setattr(photos, "geometry", lambda method, number: own)
    points, faces = photos.surface(0)
    expected, of_head = photos.carried(0)
    np.testing.assert_allclose(points, expected, atol=1e-6)
    assert np.array_equal(faces, of_head)


def test_pieces_are_counted_before_they_are_dropped(bench, monkeypatch):
    """Two balls in the field of the base: two pieces."""

    def field(points):
        far = [(points - points.new_tensor(c)).norm(dim=-1) - r
               for c, r in (((0.0, 0, 0), 0.3), ((0.1, 0.1, 0.7), 0.1))]  # fmt: skip
        return torch.minimum(*far)

    from lifemask.methods._rafare_field import FieldConfig

    networks = SimpleNamespace(
        config=SimpleNamespace(field=FieldConfig(box=0)),
        look=lambda view, level: SimpleNamespace(base=field),
    )
    predictor = SimpleNamespace(networks=networks, config=SimpleNamespace(guide=True))
    whole = pair(0)
    whole.region = np.full_like(whole.region, 4)
    assert bench.systems.piece_count(predictor, whole, 48) == 2


def test_scans_compare_the_surface_with_mean_head_and_fitter(bench):
    scans = importlib.import_module("scans")

    def result(values):
        by_photo = {f"p{k}": v for k, v in enumerate(values)}
        number = {"metric": "chamfer_mm", "flags": {"align": "icp similarity"}}
        return {"numbers": [number | {"by_photo": by_photo}]}

    found = scans.compared(
        {
            "mean head": result([2.0, 2.2, 2.1]), "fit open": result([1.5, None, 1.6]),
            "rafare (surface) open": result([1.0, 1.1, 1.2]),
        }
    )  # fmt: skip
    gap = found["rafare (surface) open - mean head"]
    assert gap["mean"] == pytest.approx(-1.0) and gap["significant"] and gap["photos"] == 3
    assert found["rafare (surface) open - fit open"]["photos"] == 2
    assert len(found) == 2
    stored = {"scans": {"protocol": "scans", "differences": found}}
    lines = "\n".join(bench.report.rafare_sections(stored))
    assert "rafare (surface) open - mean head" in lines and "-1.000" in lines
    assert bench.report.rafare_sections({"scans": {"protocol": "scans"}}) == []


def kinds_of_pairs(folder, names):
    for name in names:
        (folder / name).mkdir(parents=True)
        settings = dict.fromkeys(("mode", "heads", "blend", "photos"), name)
        header = {"format": "lifemask-pairs", "version": 1, "settings": settings, "count": 7}
        (folder / name / "manifest.json").write_text(json.dumps(header))


def test_every_kind_of_pairs_sees_as_many_and_is_judged_alike(bench, tmp_path, monkeypatch):
    kinds_of_pairs(tmp_path / "sets", ("ict", "pairs"))
    (tmp_path / "work").mkdir()
    loaded, trained = [], []

    def load(folders, size, family, held_out=False, limit=None):
        loaded.append((Path(folders[0]).name, limit))
        return [folders[0]] * (limit or 0)

    def learn(recipe, pairs, held_out, work):
        trained.append((recipe.part, recipe.seed, recipe.optim.steps))
        return {name: 10.0 * len(trained) for name in held_out}

    monkeypatch.setattr(bench.data, "load_corpus", load)
    monkeypatch.setattr(bench.data, "errors", learn)
    options = SimpleNamespace(
        sets=tmp_path / "sets", held_out=["a=A", "b=B"], steps=60, seeds=2, limit=5, judged=3,
        work=tmp_path / "work",
    )  # fmt: skip
    found = bench.data.run(options)
    assert [entry for entry in loaded if entry[0] in ("ict", "pairs")] == [("ict", 5), ("pairs", 5)]
    assert trained == [(p, s, 60) for _ in "12" for p in ("base", "fine") for s in (0, 1)]
    assert found["kinds"]["ict"]["base"]["b"] == {"mean": 15.0, "seeds": [10.0, 20.0]}
    assert bench.data.run(options) == found and len(trained) == 8, "what is done is not done again"
    table = "\n".join(bench.report.rafare_sections({"rafare-data": found | {"command": "C"}}))
    assert "| ict | 15.00 (10.00-20.00) | 15.00 (10.00-20.00) | 35.000 (30.000-40.000) |" in table


def test_one_kind_of_pairs_is_nothing_to_compare(bench, tmp_path):
    kinds_of_pairs(tmp_path, ("pairs",))
    with pytest.raises(UserError, match="fewer than two"):
        bench.data.run(SimpleNamespace(sets=tmp_path))
