"""Mouths of renders: cut where they are, with the truth of their mesh."""

import json

import numpy as np
import pytest
import torch

from helpers.small_generator import small_generator
from lifemask.assets import UserError
from lifemask.data import mouth_windows
from lifemask.data.mouth_windows import (
    COLUMNS,
    LEAST_SEEN,
    MouthWindows,
    load_mouths,
    mouth_of,
    render_mouths,
    template_of,
    write_mouths,
)
from lifemask.data.synthetic import HELD_OUT_SEED
from lifemask.facemodel import load_face_model
from lifemask.faces.mouth import mouth_opening


@pytest.fixture(scope="module")
def generator():
    return small_generator(load_face_model("lifemask"), size=96, expand=1.0, shard_size=8)


@pytest.fixture(scope="module")
def mouths(generator) -> MouthWindows:
    return render_mouths(generator, 0, 24)


def test_windows_hold_the_truth_of_the_mesh(generator, mouths):
    model = generator.rig.model
    assert mouths.windows.shape[1:] == (COLUMNS * 3 // 4, COLUMNS, 3)
    assert (mouths.seen >= LEAST_SEEN).all() and 8 <= len(mouths) <= 24
    assert mouths.opening.min() < 0.04 < 0.1 < mouths.opening.max()
    np.testing.assert_allclose(np.linalg.norm(mouths.direction, axis=1), 1, atol=1e-5)
    (sample,) = generator.render([3], sets=("ict68",))
    vertices = model(torch.from_numpy(sample.identity), torch.from_numpy(sample.expression))
    expected = mouth_opening(model.landmarks(vertices, "ict68"))
    row = mouth_of(sample, template_of(generator))
    assert row["opening"] == pytest.approx(float(expected), abs=1e-3)


def test_a_cache_goes_on_and_keeps_to_its_run(tmp_path, generator, monkeypatch, mouths):
    import lifemask.data.synthetic as synthetic

    made = []

    def fake(one, first, count):
        made.append((first, count))
        return MouthWindows(**{k: v[:4] for k, v in vars(mouths).items()})

    monkeypatch.setattr(synthetic, "create_generator", lambda config, data: generator)
    monkeypatch.setattr(mouth_windows, "render_mouths", fake)
    write_mouths(tmp_path, tmp_path, 4, 1200, (0, 2))
    assert made == [(0, 500), (1000, 200)]
    write_mouths(tmp_path, tmp_path, 4, 1200)
    assert made[2:] == [(500, 500)], "what is there is not made again"
    assert len(load_mouths(tmp_path)) == 12
    assert not list(tmp_path.glob("*.part"))
    with pytest.raises(UserError, match="another run"):
        write_mouths(tmp_path, tmp_path, 5, 1200)


def test_held_out_mouths_are_not_trained_on(tmp_path, mouths):
    header = {"seed": HELD_OUT_SEED}
    (tmp_path / "mouths.json").write_text(json.dumps(header), encoding="utf-8")
    np.savez(tmp_path / "mouths-0000.npz", allow_pickle=False, **vars(mouths))
    with pytest.raises(UserError, match="held out"):
        load_mouths(tmp_path)
    assert len(load_mouths(tmp_path, held_out=True)) == len(mouths)
    with pytest.raises(UserError, match="holds no mouths"):
        load_mouths(tmp_path / "nowhere")
