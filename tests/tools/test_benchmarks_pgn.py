"""The arithmetic of PGN's benchmarks: groups of photos, truths, bootstraps, tables."""

import importlib
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import roma
import torch

from lifemask.facemodel import load_face_model
from lifemask.graphics.camera import pinhole_camera, project
from lifemask.types import Camera

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def bench():
    """The benchmark's modules by name."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        names = ("parts", "cases", "limits", "identity", "uncertainty", "pose")
        modules = {name: importlib.import_module(f"pgn_{name}") for name in names}
        modules["report"] = importlib.import_module("report_pgn")
        yield SimpleNamespace(**modules)


@pytest.fixture(scope="module")
def model():
    return load_face_model()


def known(bench, model, cameras, seed=0):
    """Heads with random coefficients seen by these cameras."""
    count, random = len(cameras), torch.Generator().manual_seed(seed)
    identity = torch.randn(count, model.identity_size, generator=random)
    expression = torch.rand(count, len(model.expression_names), generator=random) * 0.1
    still = bench.cases.orthographic(
        torch.stack([c.rotation for c in cameras]), torch.ones(count), torch.full((count, 2), 64.0)
    )
    truth = bench.cases.Answers(identity, expression, still)
    box = bench.cases.central_square(128, 100.0)
    person = np.arange(count) // 2
    return bench.cases.Cases("set", lambda k: None, box, person, truth, cameras, model, 128)


def flat_camera(turn):
    place = torch.tensor([64.0, 64.0, 0.0])
    return Camera("orthographic", turn, place, torch.tensor(1.0), torch.zeros(2))


def turns(count, seed=1):
    random = torch.Generator().manual_seed(seed)
    return roma.rotvec_to_rotmat(0.3 * torch.randn(count, 3, generator=random))


def test_groups_of_views_hold_each_view_equally_often(bench):
    person = np.repeat([4, 7, 9], 5)
    for size in (1, 2, 4):
        rows, group, whose = bench.identity.view_groups(person, size, 5)
        assert len(rows) == 15 * size and (np.bincount(rows) == size).all()
        assert (np.bincount(group) == size).all() and len(whose) == 15
        for number in range(15):
            own = rows[group == number]
            assert (person[own] == whose[number]).all() and len(set(own)) == size
    rows, group, whose = bench.identity.view_groups(person, 5, 5)
    assert len(whose) == 3 and sorted(rows) == list(range(15))


def test_groups_of_frames_are_disjoint_and_mix_clips(bench):
    person = np.repeat([1, 2], 9)
    frame = np.tile([10, 11, 11, 12, 20, 21, 22, 30, 31], 2)  # one picture twice
    group = bench.identity.clip_groups(person, frame, 2, 8)
    used = group >= 0
    assert used.sum() == 16 and (np.bincount(group[used]) == 2).all()
    for number in range(8):
        own = np.nonzero(group == number)[0]
        assert len(set(person[own])) == 1 and len(set(frame[own])) == 2
    clips = [len(set(frame[group == number] // 10)) for number in range(8)]
    assert np.mean(clips) > 1.7  # by chance it would be 1.7; dealt out: nearly always two
    assert (bench.identity.clip_groups(person, frame, 2, 9) == -1).all()  # eight pictures each
    alone = bench.identity.clip_groups(person, None, 4, 8)
    assert (np.bincount(alone[alone >= 0]) == 4).all()


def test_the_mean_of_groups_is_the_mean(bench):
    single = torch.arange(12.0).view(6, 2)
    found = bench.identity.averaged(single)(np.array([0, 2, 5, 1]), np.array([0, 0, 1, 1]))
    assert torch.equal(found, torch.stack((single[[0, 2]].mean(0), single[[5, 1]].mean(0))))


def test_resampled_ratios_bracket_the_ratio(bench):
    rng = np.random.default_rng(3)
    person = np.repeat(np.arange(40), 4)
    codes = rng.normal(size=(40, 8))[person] + 0.5 * rng.normal(size=(160, 8))
    value = bench.identity.identity_ratio(codes, person)
    low, high = np.percentile(bench.identity.ratio_draws(codes, person), (2.5, 97.5))
    assert low < value < high and low < 4 < high


def test_an_identity_error_is_the_distance_of_faces_after_a_rigid_motion(bench, model):
    true = torch.zeros(3, model.identity_size)
    found = true.clone()
    found[1, 0] = found[2, 0] = 1.0
    errors = bench.parts.neutral_errors_mm(model, found, true)
    assert errors[0] == pytest.approx(0, abs=1e-4) and errors[1] == errors[2] > 0.1
    face = model.topology.regions["face"]
    mode = model.identity_basis[0][face].norm(dim=1).mean()
    assert errors[1] <= float(mode) + 1e-3


def test_rigid_distance_ignores_motion_but_not_size(bench):
    points = torch.randn(1, 50, 3, generator=torch.Generator().manual_seed(0)).double()
    moved = points @ turns(1)[0].double().T + 3
    assert bench.parts.rigid_distance(points, moved).max() < 1e-6
    grown = bench.parts.rigid_distance(points, 1.1 * moved)
    centred = (points - points.mean(1, keepdim=True)).norm(dim=-1)
    torch.testing.assert_close(grown, 0.1 * centred)


def test_intervals_count_people_not_pictures(bench):
    values = np.random.default_rng(0).normal(size=200)
    alone = bench.parts.interval(np.repeat(values, 5))
    people = bench.parts.interval(np.repeat(values, 5), np.repeat(np.arange(200), 5))
    width = [one["ci95"][1] - one["ci95"][0] for one in (alone, people)]
    assert width[1] == pytest.approx(5**0.5 * width[0], rel=0.15)
    assert people["units"] == 200 and people["images"] == 1000
    assert people["mean"] == alone["mean"] == pytest.approx(values.mean(), abs=1e-3)


def test_batches_keep_people_together(bench):
    person = np.repeat(np.arange(60), 5)
    parts = bench.parts.batches_of_people(person)
    assert np.array_equal(np.concatenate(parts), np.arange(300))
    assert not set.intersection(*(set(person[rows]) for rows in parts))
    assert max(map(len, parts)) < 2 * bench.parts.BATCH


def test_the_turn_to_the_line_of_sight_is_the_smallest(bench):
    direction = torch.tensor([[0.0, 0.0, -5.0], [1.0, 0.0, -1.0], [0.2, -0.5, -1.0]])
    turn = bench.cases.turn_to_sight(direction)
    ahead = torch.tensor([0.0, 0.0, -1.0])
    unit = direction / direction.norm(dim=1, keepdim=True)
    torch.testing.assert_close(turn @ ahead, unit, atol=1e-6, rtol=0)
    angle = bench.parts.angle_deg(turn, torch.eye(3).expand(3, 3, 3))
    np.testing.assert_allclose(angle, np.degrees(np.arccos(-unit[:, 2].numpy())), atol=1e-3)
    assert angle[0] == 0 and angle[1] == pytest.approx(45, abs=1e-4)


def test_a_far_camera_sees_off_its_axis_what_the_turned_rotation_shows(bench, model):
    """Seen from afar, a head off the axis looks like one turned by the line of sight."""
    rotation = turns(1)[0]
    place = torch.tensor([4000.0, -2000.0, -20000.0])
    camera = pinhole_camera(rotation, place, 20000.0, torch.tensor([64.0, 64.0]))
    cases = known(bench, model, [camera])
    shape = model.landmarks(model(cases.truth.identity, cases.truth.expression), "ict68")[0]
    seen = project(shape, camera)[:, :2]
    exact, frontal = [
        project(shape, flat_camera(r))[:, :2] for r in (cases.rotation_seen[0], rotation)
    ]

    def apart(points):
        a, b = (x - x.mean(0) for x in (points, seen))
        scale = (a * b).sum() / (a * a).sum()
        return (scale * a - b).norm(dim=1).mean() / b.norm(dim=1).mean()

    assert apart(exact) < 0.035 and apart(frontal) > 2 * apart(exact)


def test_all_true_parts_leave_no_error_under_orthographic_cameras(bench, model):
    cases = known(bench, model, [flat_camera(r) for r in turns(4)])
    wrong = bench.cases.Answers(
        torch.zeros_like(cases.truth.identity),
        torch.zeros_like(cases.truth.expression),
        bench.cases.orthographic(
            torch.eye(3).expand(4, 3, 3), torch.ones(4), torch.full((4, 2), 64.0)
        ),
    )
    found = bench.limits.bottleneck(cases, wrong)
    assert set(bench.limits.PARTS) <= set(found)
    assert found["all true"]["nme_68"]["mean"] == pytest.approx(0, abs=1e-3)
    assert found["all true"]["landmarks_mm"]["mean"] == pytest.approx(0, abs=1e-3)
    start = found["as predicted"]
    assert found["true pose"]["nme_68"]["mean"] < 0.6 * start["nme_68"]["mean"]
    assert found["true pose"]["shape_mm"] == start["shape_mm"]
    assert found["true shape"]["shape_mm"]["mean"] == pytest.approx(0, abs=1e-3)
    change = found["true pose - as predicted"]["nme_68"]["mean"]
    expected = found["true pose"]["nme_68"]["mean"] - start["nme_68"]["mean"]
    assert change == pytest.approx(expected, abs=2e-3)


def test_landmark_errors_are_analytic(bench):
    true = torch.zeros(1, 68, 3)
    true[0, 1, :2] = torch.tensor([20.0, 5.0])
    moved = true + torch.tensor([3.0, 4.0, 7.0])  # the origin of w is free
    errors = bench.limits.landmark_errors(moved, true, torch.tensor([2.0]))
    assert errors["landmarks_px"][0] == pytest.approx(5)
    assert errors["nme_68"][0] == pytest.approx(50)
    assert errors["landmarks_mm"][0] == pytest.approx(2.5)


def test_rank_correlation(bench):
    rng = np.random.default_rng(0)
    a = rng.normal(size=500)
    assert bench.uncertainty.spearman(a, np.exp(a)) == pytest.approx(1)
    assert bench.uncertainty.spearman(a, -(a**3)) == pytest.approx(-1)
    assert abs(bench.uncertainty.spearman(a, rng.normal(size=500))) < 0.15
    assert list(bench.uncertainty.ranks(np.array([5.0, 1.0, 5.0, 9.0]))) == [1.5, 0, 1.5, 3]


def test_a_doubt_that_is_the_error_is_told_from_one_that_is_not(bench):
    rng = np.random.default_rng(1)
    error = rng.gamma(2, size=(12, 40))
    said = {"itself": error * 3, "nothing": rng.gamma(2, size=error.shape)}
    found = bench.uncertainty.rank_correlations(
        bench.uncertainty.Doubts(error, said), np.arange(12) // 3
    )
    assert found["itself"]["pooled"] == found["itself"]["within_image"] == 1
    assert found["itself"]["ci95"] == [1, 1] and found["itself"]["of_image_means"] == 1
    low, high = found["nothing"]["ci95"]
    assert low < 0.1 and high > -0.1 and abs(found["nothing"]["pooled"]) < 0.15


def test_labels_of_a_square_become_cameras_of_the_picture(bench, model):
    from lifemask.methods._coefficients import project_points
    from lifemask.methods._targets import HeadLabels

    box = (10.0, 20.0, 110.0, 120.0)
    random = torch.Generator().manual_seed(0)
    none = torch.zeros(2, 1)
    shift = 0.1 * torch.randn(2, 2, generator=random)
    labels = HeadLabels(turns(2), torch.tensor([1.0, 1.2]), shift, none, none)
    points_mm = 50 * torch.randn(2, 7, 3, generator=random)
    matrix = labels.scale[:, None, None] * labels.rotation
    in_square = project_points(points_mm / 100, matrix, shift)
    in_picture = project(points_mm, bench.cases.camera_of_labels(labels, box))
    expected = in_square * 50 + torch.tensor([60.0, 70.0, 0.0])
    torch.testing.assert_close(in_picture, expected, atol=1e-4, rtol=0)


def measured(bench):
    """A result as `benchmarks/pgn.py` writes it, all values alike."""
    cell = {"mean": 1.5, "ci95": [1.0, 2.0], "images": 10, "units": 5}
    row = dict.fromkeys(("nme_68", "nme_51", "landmarks_px", "landmarks_mm", "shape_mm"), cell)
    pose = {"rotation_deg": cell, "camera_deg": cell, "landmarks_px": cell}
    pose |= {"rotation_deg_median": 1.0}
    parts = dict.fromkeys(bench.limits.PARTS, row)
    parts |= {f"{part} - as predicted": row for part in bench.limits.PARTS}
    heads = {
        "pictures": 10,
        "people": 5,
        "bottleneck": {"pgn": parts, "fit": parts},
        "pose": {"pgn": pose, "fit": pose},
        "differences": {"pgn - fit": {"rotation_deg": cell, "nme_68": cell}},
        "solved": {"solved, equal weights": pose, "weights of the map - equal": cell},
        "cameras": {"true shape": {"0-3": dict.fromkeys(bench.report.CAMERAS, cell)}},
        "meshes": {"model": row, "map": row, "map - model": row},
        "photos": {"pgn": {"1": cell, "2": cell, "2 - 1": cell}, "mean face": cell},
        "uncertainty": {
            "target": 0.4,
            "vertices": 3,
            "e^beta": {
                "pooled": 0.5, "ci95": [0.4, 0.6], "of_image_means": 0.3, "within_image": 0.2
            },
        },
    }  # fmt: skip
    ratio = {"pgn": {"1": cell, "2": cell, "2 - 1": cell, "people": 5}}
    photos = {"meshes": {k: {"nme": cell} for k in ("model", "map", "map - model")}}
    sets = {"synthetic heads": heads, "ytf68": photos | {"ratio": ratio}}
    return {"benchmark": "pgn", "family": "open", "sets": sets}


def test_tables_show_what_was_measured(bench):
    text = "\n".join(bench.report.pgn_sections({"pgn-open": measured(bench)}))
    assert "| as predicted | 1.50 / 1.50 / 1.50 / 1.50 | 1.50 / 1.50 / 1.50 / 1.50 |" in text
    assert "| pgn - fit | +1.50 (+1.00 to +2.00) | +1.50 (+1.00 to +2.00) |" in text
    assert "| e^beta | 0.50 (0.40-0.60) | 0.20 | 0.30 |" in text
    assert "| pgn | 1.50 | 1.50 | +1.50 (+1.00 to +2.00) |" in text
    assert "| ytf68 | pgn | 5 | 1.50 (1.00-2.00) | 1.50 (1.00-2.00) | - |" in text
    widths = {}
    for line in text.splitlines():  # every table is rectangular
        if line.startswith("|"):
            widths.setdefault(line.count("|"), []).append(line)
        else:
            assert len(widths) <= 1, widths
            widths = {}
    assert bench.report.pgn_sections({}) == []


def test_rows_of_the_fit_that_is_gone_are_not_listed(bench):
    result = measured(bench)
    expected = bench.report.pgn_sections({"pgn-open": result})
    heads, photos = result["sets"].values()
    heads["solved"]["after the fit"] = heads["pose"]["pgn"]
    heads["photos"]["pgn, with the fit"] = heads["photos"]["pgn"]
    photos["ratio"]["pgn, with the fit"] = photos["ratio"]["pgn"]
    assert bench.report.pgn_sections({"pgn-open": result}) == expected
    timed = {"faces": 64, "ms": 0.1, "processor_ms": 0.1, "target_ms": None}
    solvers = [timed | {"solver": name} for name in ("pose, perspective", "fit of the head")]
    speed = {"benchmark": "pgn speed", "one_face": [], "solvers": solvers}
    speed |= {"load_average": {"before": 0, "after": 0}}
    text = "\n".join(bench.report.pgn_sections({"pgn_nets": speed}))
    assert "| pose, perspective |" in text and "fit" not in text


def test_stored_results_can_be_shown(bench):
    for path in (BENCHMARKS / "results").glob("pgn*.json"):
        stored = json.loads(path.read_text(encoding="utf-8"))
        assert bench.report.pgn_sections({path.stem: stored}), path.name


@pytest.mark.parametrize("flip", [False, True])
def test_what_was_seen_once_gives_the_predictors_heads(bench, model, flip):
    """Benchmarks solve again what the network said once; that is what the predictor answers."""
    from lifemask.methods.pgn import (
        ExportNet,
        PgnConfig,
        PgnPredictConfig,
        PgnPredictor,
        create_pgn,
    )
    from lifemask.nn.shipped import TorchNetwork

    torch.manual_seed(2)
    config = PgnConfig("tiny", 48, map_size=32, widths=(16, 16, 16), hidden=32)
    net = create_pgn(config, model)
    with torch.no_grad():  # heads that differ from photo to photo
        net.to_identity[-1].weight.mul_(30)
    predictor = PgnPredictor(TorchNetwork(ExportNet(net)), net, model, "open")
    crops, person = torch.rand(5, 3, 48, 48), torch.tensor([0, 0, 1, 2, 2])
    seen = bench.parts.see(predictor, crops, flip)
    found = predictor.predict_crops(crops, person, PgnPredictConfig(flip=flip)).labels
    again = bench.parts.heads_of(net, seen, person)
    assert found.identity.std(0).max() > 0.01
    for one, two in (
        (found.identity, again.identity),
        (found.expression, again.expression),
        (found.rotation, again.pose.rotation),
    ):
        torch.testing.assert_close(one, two, atol=1e-4, rtol=1e-4)
    shift = bench.pose.about_origin(net.head, again.pose)[2]
    torch.testing.assert_close(found.shift, shift, atol=1e-4, rtol=1e-4)
