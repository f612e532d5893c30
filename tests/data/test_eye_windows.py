"""Eyes of renders: cut where they are, as the eye at -x, with the truth of their mesh."""

import json

import numpy as np
import pytest
import torch

from helpers.small_generator import small_generator
from lifemask.assets import UserError
from lifemask.data import eye_windows
from lifemask.data.eye_windows import (
    EyeSettings,
    EyeWindows,
    eyes_of,
    load_eyes_cache,
    render_eyes,
    template_of,
    to_window,
    write_eyes,
)
from lifemask.data.synthetic import HELD_OUT_SEED, SyntheticConfig
from lifemask.facemodel import load_face_model
from lifemask.faces.eyes import LIDS, cut_eye, eye_places, lid_opening


@pytest.fixture(scope="module")
def generator():
    return small_generator(load_face_model("lifemask"), size=96, expand=0.8, lids=1.0, shard_size=8)


@pytest.fixture(scope="module")
def eyes(generator) -> EyeWindows:
    return render_eyes(generator, 0, 16)


def test_the_share_of_lids_is_drawn_anew_and_nothing_else(generator):
    plain = small_generator(load_face_model("lifemask"), size=96, expand=0.8, shard_size=8)
    names = generator.rig.model.expression_names
    lids = [k for k, n in enumerate(names) if n.startswith(("eyeBlink", "eyeSquint", "eyeWide"))]
    others = [k for k in range(len(names)) if k not in lids]
    indices = range(8)
    for one, other in zip(plain.scenes(indices), generator.scenes(indices), strict=True):
        np.testing.assert_array_equal(one[0].expression[others], other[0].expression[others])
        np.testing.assert_array_equal(one[0].gaze_deg, other[0].gaze_deg)
        assert not np.array_equal(one[0].expression[lids], other[0].expression[lids])
    with pytest.raises(UserError, match="lids is 1.5"):
        SyntheticConfig(lids=1.5)


def test_lids_are_drawn_from_open_to_shut():
    from lifemask.data._synthetic_sample import move_lids

    names = load_face_model("lifemask").expression_names
    blink = [names.index("eyeBlinkLeft"), names.index("eyeBlinkRight")]
    rng = np.random.default_rng(0)
    drawn = np.zeros((600, len(names)), np.float32)
    for row in drawn:
        move_lids(row, names, rng)
    assert drawn.min() >= 0 and drawn.max() <= 1
    levels = np.histogram(drawn[:, blink[0]], [0, 0.25, 0.5, 0.75, 0.9, 1.01])[0] / 600
    assert (levels[:3] > 0.12).all() and levels[-1] > 0.25
    apart = np.abs(drawn[:, blink[0]] - drawn[:, blink[1]])
    assert 0.03 < (apart > 0.2).mean() < 0.2 and np.median(apart) < 0.06
    stranger = np.ones(3, np.float32)
    move_lids(stranger, ("a", "b", "c"), rng)
    assert (stranger == 1).all()


def test_windows_hold_the_truth_of_the_mesh(generator, eyes):
    model = generator.rig.model
    assert len(eyes) >= 16 and eyes.windows.shape[1:] == (72, 96, 3)
    assert eyes.opening.min() < 0.1 < 0.2 < eyes.opening.max()
    (sample,) = generator.render([3], sets=("ict68",))
    vertices = model(torch.from_numpy(sample.identity), torch.from_numpy(sample.expression))
    expected = lid_opening(model.landmarks(vertices, "ict68"))
    rows = eyes_of(sample, template_of(generator))
    np.testing.assert_allclose([r["opening"] for r in rows], expected, atol=1e-3)
    assert rows[0]["gaze_deg"][1] == -sample.gaze_deg[0, 1]
    assert rows[1]["gaze_deg"][1] == sample.gaze_deg[1, 1]


def test_points_fall_where_the_window_shows_them(generator):
    """A dot painted on the photo at a lid's point is found at that point of the window."""
    (sample,) = generator.render([5], sets=("ict68",))
    points = torch.from_numpy(sample.landmarks["ict68"].image_px)
    for place, part in zip(eye_places(points, template_of(generator)), LIDS, strict=True):
        for corner in (0, 3):
            u, v = points[part][corner, :2].numpy()
            if not (6 < u < 89 and 6 < v < 89):
                continue
            grid = np.mgrid[:96, :96]
            dot = 255 * np.exp(-((grid[1] - u) ** 2 + (grid[0] - v) ** 2) / 6)
            image = np.repeat(dot.astype(np.uint8)[..., None], 3, 2)
            window = cut_eye(image, place, 1.5, 96)[..., 0].astype(float)
            x, y = to_window(np.array([[u, v]]), place, 1.5, 96)[0]
            if not (8 < x < 87 and 8 < y < 63):
                continue
            rows, columns = np.mgrid[:72, :96]
            total = window.sum()
            found = ((window * columns).sum() / total, (window * rows).sum() / total)
            np.testing.assert_allclose(found, (x, y), atol=0.7)


def test_the_outer_corner_comes_first_and_lies_left(eyes):
    ahead = np.abs(eyes.direction[:, 0]) < 0.5
    assert ahead.any()
    assert (eyes.lids[ahead, 0, 0] < eyes.lids[ahead, 3, 0]).all()


def test_a_cache_goes_on_and_keeps_to_its_run(tmp_path, generator, monkeypatch, eyes):
    made = []

    def fake(one, first, count):
        made.append(first)
        return EyeWindows(**{k: v[:4] for k, v in vars(eyes).items()})

    import lifemask.data.synthetic as synthetic

    monkeypatch.setattr(synthetic, "create_generator", lambda config, data: generator)
    monkeypatch.setattr(eye_windows, "render_eyes", fake)
    settings = EyeSettings(seed=4)
    write_eyes(tmp_path, tmp_path, settings, 1200, (0, 2))
    assert made == [0, 1000]
    write_eyes(tmp_path, tmp_path, settings, 1200)
    assert made == [0, 1000, 500], "what is there is not made again"
    assert len(load_eyes_cache(tmp_path)) == 12
    assert not list(tmp_path.glob("*.part"))
    with pytest.raises(UserError, match="another run"):
        write_eyes(tmp_path, tmp_path, EyeSettings(seed=5), 1200)


def test_held_out_eyes_are_not_trained_on(tmp_path, eyes):
    header = {"seed": HELD_OUT_SEED}
    (tmp_path / "eyes.json").write_text(json.dumps(header), encoding="utf-8")
    np.savez(tmp_path / "eyes-0000.npz", allow_pickle=False, **vars(eyes))
    with pytest.raises(UserError, match="held out"):
        load_eyes_cache(tmp_path)
    assert len(load_eyes_cache(tmp_path, held_out=True)) == len(eyes)
    with pytest.raises(UserError, match="holds no eyes"):
        load_eyes_cache(tmp_path / "nowhere")
