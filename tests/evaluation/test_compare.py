"""Comparing two systems, held-out YouTube faces, options of `score`."""

import json

import numpy as np
import pytest

from helpers.aflw2000_files import COUNT, face_labels, write_packed
from lifemask.apps.cli import main
from lifemask.assets import UserError
from lifemask.data.aflw2000 import load_aflw2000
from lifemask.data.ytf68 import load_ytf68_test
from lifemask.evaluation.compare import compare
from lifemask.evaluation.predictions import Predictions
from lifemask.evaluation.readers import PointOptions
from lifemask.evaluation.score import score
from lifemask.evaluation.ytf68 import people_ci95, score_ytf68


@pytest.fixture
def case(tmp_path):
    """Data, and predictions of two systems: the second is 1 px worse in u."""
    write_packed(tmp_path / "data", face_labels())
    data = load_aflw2000(tmp_path / "data")
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 2, (COUNT, 68, 1)) * [0, 1, 0]
    np.save(tmp_path / "a.npy", data.landmarks68 + noise)
    np.save(tmp_path / "b.npy", data.landmarks68 + noise + [4, 0, 0])
    return tmp_path, data


def test_the_difference_has_the_right_sign_size_and_interval(case):
    folder, _ = case
    result = compare("aflw2000", folder / "data", folder / "a.npy", folder / "b.npy")
    entries = {(e["metric"], e["pool"]): e for e in result["differences"]}
    assert {e["faces"] for e in result["differences"]} == {"all"}
    entry = entries["nme_68", "bins"]
    assert entry["difference"] == pytest.approx(entry["first"] - entry["second"], abs=2e-4)
    assert entry["difference"] < 0 and entry["ci95"][1] < 0 and entry["significant"]
    back = compare("aflw2000", folder / "data", folder / "b.npy", folder / "a.npy")
    assert back["differences"][0]["difference"] == pytest.approx(-entry["difference"])
    same = compare("aflw2000", folder / "data", folder / "a.npy", folder / "a.npy")
    assert not any(e["significant"] for e in same["differences"])
    assert result["misses"] == [0, 0] and entry["images"] == COUNT


def test_missed_faces_are_compared_apart(case):
    folder, data = case
    points = np.load(folder / "a.npy")
    points[[0, 7]] = np.nan
    np.save(folder / "c.npy", points)
    result = compare("aflw2000", folder / "data", folder / "c.npy", folder / "a.npy")
    kept = {e["faces"]: e for e in result["differences"][:2]}
    assert kept["all"]["difference"] > 5 and kept["all"]["images"] == COUNT
    assert kept["found by both"]["difference"] == 0
    assert kept["found by both"]["images"] == COUNT - 2 and result["misses"] == [2, 0]


def run(*arguments):
    with pytest.raises(SystemExit) as end:
        main(list(arguments))
    return end.value.code


def test_command_line_scores_and_compares_other_systems(case, capsys):
    folder, data = case
    np.save(folder / "one.npy", data.landmarks68 + [1, 1, 0])
    arguments = ["score", "aflw2000", "--data", str(folder / "data"), "--predictions"]
    assert run(*arguments, str(folder / "one.npy"), "--format", "array", "--one-based") == 0
    result = json.loads(capsys.readouterr().out)
    assert result["numbers"][0]["value"] == 0
    assert result["predictions"]["read_as"]["one_based"] is True
    assert "per_image" not in result
    assert run(*arguments, str(folder / "one.npy"), "--subset", "released-2dasl") == 2
    assert "complete set" in capsys.readouterr().err
    options = ["--data", str(folder / "data"), "--json", str(folder / "c.json")]
    assert run("compare", "aflw2000", str(folder / "a.npy"), str(folder / "b.npy"), *options) == 0
    assert "nme_68" in capsys.readouterr().out
    assert len(json.loads((folder / "c.json").read_text())["differences"]) == 6


def test_options_that_a_protocol_lacks_are_refused(tmp_path):
    write_ytf(tmp_path)
    np.save(tmp_path / "p.npy", np.zeros((2, 68, 2)) + 5)
    with pytest.raises(UserError, match="protocol 'ytf68' has no option 'subset'"):
        score("ytf68", tmp_path, tmp_path / "p.npy", options=PointOptions(subset="x"))
    with pytest.raises(UserError, match="need both"):
        options = PointOptions(dense=tmp_path)
        score("ytf68", tmp_path, tmp_path / "p.npy", options=options)


def write_ytf(folder):
    points = np.random.default_rng(0).uniform(40, 90, (4, 68, 2)).astype(np.float32)
    np.savez(
        folder / "labels.npz",
        names=np.array(["a_1.jpg", "a_2.jpg", "b_1.jpg", "c_1.jpg"]),
        points=points,
        person=np.array(["a", "a", "b", "c"]),
        validation=np.array([False, False, True, True]),
    )
    return points


def test_youtube_faces_scores_only_people_held_out(tmp_path):
    points = write_ytf(tmp_path)
    data = load_ytf68_test(tmp_path)
    assert data.names == ("b_1", "c_1") and data.person.tolist() == ["b", "c"]
    sides = np.ptp(points[2:], axis=1).max(1) * np.sqrt(2)
    np.testing.assert_allclose(data.boxes[:, 2] - data.boxes[:, 0], sides, rtol=1e-6)
    moved = np.concatenate([data.landmarks68 + [3, 4], np.zeros((2, 68, 1))], 2)
    guess = Predictions(data.names, np.ones(2, bool), moved, np.zeros((2, 3)))
    expected = (500 / np.sqrt(np.ptp(data.landmarks68, axis=1).prod(1))).mean()
    result = score_ytf68(data, guess)
    assert [n["value"] for n in result["numbers"]] == [pytest.approx(expected, abs=1e-3)] * 2
    assert result["people"] == 2


def test_the_interval_resamples_people_not_frames():
    rng = np.random.default_rng(0)
    person = np.repeat(np.arange(30), 20)
    values = rng.normal(0, 1, 30)[person] + 5
    low, high = people_ci95(values, person)
    assert low < values.mean() < high
    assert high - low == pytest.approx(2 * 1.96 * values.std() / 30**0.5, rel=0.15)


def test_nobody_held_out_is_a_user_error(tmp_path):
    write_ytf(tmp_path)
    with np.load(tmp_path / "labels.npz") as stored:
        arrays = {key: stored[key] for key in stored.files}
    np.savez(tmp_path / "labels.npz", **(arrays | {"validation": np.zeros(4, bool)}))
    with pytest.raises(UserError, match="marks nobody"):
        load_ytf68_test(tmp_path)
